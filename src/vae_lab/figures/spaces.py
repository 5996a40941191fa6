"""Figures of the latent space."""

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
    """Posterior means of test images, coloured by class and, if latent_dim > 2, projected onto two principal axes.

    For an N(0, I) prior, dashed circles show its 1σ, 2σ and 3σ contours, which remain circles under the projection.

    Args:
        n: number of test images, at least 3.
    """

    look_for: ClassVar[str] = (
        "Are the classes separated? With a prior, the points should fill the circles. If all points are close to the "
        "origin, the posterior carries little information. Samples from the prior rarely reach points far outside the "
        "circles."
    )
    name: str = "latent_map"
    n: Annotated[int, Field(ge=3)] = 5000

    def refuses(self, view: View) -> str | None:
        return None if view.latent_dim > 1 else "requires at least two latent dimensions, but latent_dim=1"

    def figure(self, view: View) -> Drawn:
        codes = view.codes(self.n)
        standard = view.has_density and view.has_standard_prior
        if view.latent_dim == 2:
            places, names = codes.mean, ("z0", "z1")
        else:
            axes = latents.principal_axes(codes.mean)
            places = codes.mean @ axes.directions  # not centred, so that the origin remains the mean of the prior
            first, second = (f"{100 * part:.0f}% of the variance" for part in axes.explained.tolist())
            names = (f"principal axis 1, {first}", f"principal axis 2, {second}")
        caption = f"{view.where.capitalize()} of {len(places):,} test images. Each class is labelled at its median."
        if standard:
            caption += " The dashed circles are the prior's 1σ, 2σ and 3σ contours."
        title = Title("Latent space", view.name, caption)
        return charts.points(places, codes.label, view.class_names, title, names, circles=standard)


class Tsne(Figure):
    """scikit-learn's t-SNE (van der Maaten & Hinton, 2008) of the posterior means of test images.

    Args:
        n: number of test images, at least 3.
        perplexity: effective number of neighbours for each point, at least 1.
        iterations: number of gradient descent iterations, at least 250.
    """

    look_for: ClassVar[str] = (
        "Which classes form clusters, and which overlap? The sizes of clusters and the distances between them have no "
        "meaning."
    )
    name: str = "tsne"
    n: Annotated[int, Field(ge=3)] = 3000
    perplexity: Annotated[float, Field(ge=1)] = 30.0
    iterations: Annotated[int, Field(ge=250)] = 1000

    def figure(self, view: View) -> Drawn:
        from sklearn.manifold import TSNE

        codes = view.codes(self.n)
        perplexity = min(self.perplexity, (len(codes.label) - 1) / 3)  # must be less than the number of images
        start = "pca" if view.latent_dim > 1 else "random"
        method = TSNE(perplexity=perplexity, init=start, max_iter=self.iterations, random_state=self.seed)
        places = torch.from_numpy(method.fit_transform(codes.mean.numpy()))
        caption = (
            f"t-SNE of the {view.where} of {len(places):,} test images, with perplexity {perplexity:g}, "
            f"{start.replace('pca', 'PCA')} initialisation, {self.iterations} iterations and seed {self.seed}. Only "
            "neighbourhoods are meaningful, not the sizes of clusters or the distances between them."
        )
        title = Title("Latent space by t-SNE", view.name, caption)
        return charts.points(places, codes.label, view.class_names, title)


class LatentBars(Grid):
    """Test images, their posterior means and σ as bars, and their reconstructions at the posterior mean.

    Args:
        n: number of images, taken from each class in turn.
    """

    look_for: ClassVar[str] = (
        "Dimensions with bars away from 0 carry information about the image. With a prior, a bar at 0 with σ = 1 "
        "matches the prior and carries no information."
    )
    name: str = "latent_bars"
    n: PositiveInt = 5

    def figure(self, view: View) -> Drawn:
        indices = view.chosen(self.n)
        batch = view.batch(indices)
        codes, images = view.encode(batch), batch.input.float().cpu()
        caption = f"Test images. The reconstruction is {view.mean} at the {view.center}."
        title = Title("Posteriors and reconstructions", view.name, caption)
        back = view.decode(codes.mean, codes.context)
        return latent_bars(images, codes.mean, codes.std, back, view.center, title, self.scale)
