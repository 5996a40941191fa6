"""Figures of the latent space itself: where images lie in it, and what passes through it."""

from typing import Annotated, ClassVar

import torch
from matplotlib.figure import Figure as Drawn
from pydantic import Field, PositiveInt

from vae_lab import latents
from vae_lab.figures import charts
from vae_lab.figures.figure import Figure, Grid
from vae_lab.figures.grids import latent_bars
from vae_lab.figures.page import Title
from vae_lab.view import View


class LatentMap(Figure):
    """Posterior means of test images by class: as they are for two latents, else on their first two principal axes.

    Around the origin stand the circles of a N(0, I) prior at 1, 2 and 3 σ, which principal axes leave circles.

    Args:
        n: number of test images, at least 3.
    """

    look_for: ClassVar[str] = (
        "Are classes apart? Where there is a prior, they nearly fill its circles together: a heap at the "
        "origin is a posterior that tells nothing, and samples hardly reach what lies far outside."
    )
    name: str = "latent_map"
    n: Annotated[int, Field(ge=3)] = 5000

    def refuses(self, view: View) -> str | None:
        return None if view.latent_dim > 1 else "needs two latent dimensions, and latent_dim is 1"

    def figure(self, view: View) -> Drawn:
        codes = view.codes(self.n)
        standard = view.has_density and view.has_standard_prior
        if view.latent_dim == 2:
            places, names = codes.mean, ("z0", "z1")
        else:
            axes = latents.principal_axes(codes.mean)
            places = codes.mean @ axes.directions  # not centred: the origin stays the prior's
            first, second = (f"{100 * part:.0f} % of the variance" for part in axes.explained.tolist())
            names = (f"principal axis 1, {first}", f"principal axis 2, {second}")
        caption = f"{view.where.capitalize()} of {len(places):,} test images; names at the median of each class."
        if standard:
            caption += " Dashed: 1, 2 and 3 σ of the prior."
        title = Title("Latent space", view.name, caption)
        return charts.points(places, codes.label, view.class_names, title, names, circles=standard)


class Tsne(Figure):
    """t-SNE of the posterior means of test images (van der Maaten & Hinton 2008), by scikit-learn.

    Args:
        n: number of test images, at least 3.
        perplexity: about how many neighbours a point keeps, at least 1.
        iterations: of the gradient descent, at least 250.
    """

    look_for: ClassVar[str] = (
        "Which classes are clusters, and which touch? Distances between clusters, and their sizes, mean nothing here."
    )
    name: str = "tsne"
    n: Annotated[int, Field(ge=3)] = 3000
    perplexity: Annotated[float, Field(ge=1)] = 30.0
    iterations: Annotated[int, Field(ge=250)] = 1000

    def figure(self, view: View) -> Drawn:
        from sklearn.manifold import TSNE

        codes = view.codes(self.n)
        perplexity = min(self.perplexity, (len(codes.label) - 1) / 3)  # few images have few neighbours
        start = "pca" if view.latent_dim > 1 else "random"
        method = TSNE(perplexity=perplexity, init=start, max_iter=self.iterations, random_state=self.seed)
        places = torch.from_numpy(method.fit_transform(codes.mean.numpy()))
        caption = (
            f"t-SNE of the {view.where} of {len(places):,} test images: perplexity {perplexity:g}, {start} start, "
            f"{self.iterations} iterations, seed {self.seed}. Who is whose neighbour means something; sizes and "
            "distances of groups mean little."
        )
        title = Title("Latent space by t-SNE", view.name, caption)
        return charts.points(places, codes.label, view.class_names, title)


class LatentBars(Grid):
    """Test images, the center and σ of their posterior as bars, and their reconstruction from the center.

    Args:
        n: number of images, of each class in turn.
    """

    look_for: ClassVar[str] = (
        "Bars away from 0 carry the image. Where there is a prior, a bar at 0 with σ = 1 is the prior itself, and "
        "carries nothing."
    )
    name: str = "latent_bars"
    n: PositiveInt = 5

    def figure(self, view: View) -> Drawn:
        indices = view.chosen(self.n)
        batch = view.batch(indices)
        codes, images = view.encode(batch), batch.input.float().cpu()
        caption = f"Test images. Shown is the mean {view.mean} at the {view.center}."
        title = Title("Through the latent space", view.name, caption)
        back = view.decode(codes.mean, codes.context)
        return latent_bars(images, codes.mean, codes.std, back, view.center, title, self.scale)
