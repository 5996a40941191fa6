"""Figures that contain images: reconstructions, samples and paths through the latent space."""

from collections.abc import Sequence
from math import ceil
from typing import Annotated, ClassVar, Self

import torch
from matplotlib.figure import Figure as Drawn
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from vae_lab import latents
from vae_lab.figures.figure import Grid, Labels
from vae_lab.figures.grids import Panel, grids
from vae_lab.figures.page import Title
from vae_lab.latents import QUANTILES
from vae_lab.metrics import squared_error
from vae_lab.view import View

Side = Annotated[int, Field(ge=1, le=100)]  # images per side of a square figure
Pair = Annotated[Labels, Field(min_length=2, max_length=2)]
CONTEXT = "The context c for each class is that of its first test image."


class OfClasses(Grid):
    """Base class for figures that show each class of a conditional model.

    Args:
        labels: classes to show for a conditional model; None for all. The context of a class is that of its first test
            image.
    """

    labels: Labels | None = None

    def options(self, view: View) -> set[str]:
        return super().options(view) - (set() if view.is_conditional else {"labels"})

    def refuses(self, view: View) -> str | None:
        if self.labels is None or view.is_conditional:
            return None
        return f"labels={list(self.labels)}: requires a conditional model"

    def classes(self, view: View) -> list[int]:
        """Return the numbers of the classes to show, or an empty list if the model is not conditional."""
        if not view.is_conditional:
            return []
        return view.label.unique().tolist() if self.labels is None else view.numbers(self.labels)


class Reconstructions(Grid):
    """Test images, each with its reconstruction E[x|z] at the posterior mean and one sample x ~ p(x|z) with z ~ q(z|x).

    The input of the encoder is also shown if it differs from the target.

    Args:
        n: number of images, taken from each class in turn.
        columns: number of images in each row.
        labels: classes to show; None for all.
    """

    look_for: ClassVar[str] = (
        "The mean should be a slightly blurred copy of the target; missing details are not encoded in z. If the sample "
        "is noisier than the target, the likelihood's σ is too large, or its assumption of independent pixels does not "
        "fit the data."
    )
    name: str = "reconstructions"
    n: PositiveInt = 20
    columns: PositiveInt = 10
    labels: Labels | None = None

    def figure(self, view: View) -> Drawn:
        indices = view.chosen(self.n, None if self.labels is None else view.numbers(self.labels))
        batch = view.batch(indices)
        context = view.vae.context(batch)
        q = view.vae.encode(batch.input, context)
        rows = {"target": batch.target.float().cpu()}
        if not torch.equal(batch.input, batch.target):
            rows["input"] = batch.input.float().cpu()
        rows["mean"] = view.decode(view.vae.center(q), context)
        z = view.vae.draw(batch).z[0][0] if view.is_hierarchy else q.sample()
        rows["sample"] = view.decode(z, context, sampled=True)
        names, panels = view.names(indices), []
        for start in range(0, len(indices), self.columns):
            block = slice(start, start + self.columns)
            panels.append(Panel(torch.stack([images[block] for images in rows.values()]), "", [*rows], names[block]))
        drawn = "the same z" if not view.has_density else "z drawn from the posterior"
        caption = (
            f"Test images. The mean is {view.mean} at the {view.center}. The sample is one x drawn from the "
            f"likelihood, with {drawn}."
        )
        return grids(panels, Title("Reconstructions", view.name, caption), self.scale)


class Denoising(Grid):
    """Test images, the same images with the training noise applied, and the mean reconstructions of the noisy images.

    Args:
        n: number of images, taken from each class in turn.
    """

    quiet: ClassVar[bool] = True
    look_for: ClassVar[str] = (
        "The reconstructions should match the targets, with a much lower MSE than the noisy inputs."
    )
    name: str = "denoising"
    n: PositiveInt = 10

    def refuses(self, view: View) -> str | None:
        noise = view.data.noise
        return "requires noise, such as noise=salt_and_pepper" if type(noise) is nn.Identity else None

    def figure(self, view: View) -> Drawn:
        indices = view.chosen(self.n)
        batch = view.batch(indices)
        noisy = batch.input
        if not getattr(view.data.noise, "in_evaluation", False):
            noisy = view.data.noise.to(noisy)(noisy)
        codes = view.encode(batch._replace(input=noisy))
        restored = view.decode(codes.mean, codes.context)
        target, noisy = batch.target.float().cpu(), noisy.float().cpu()
        before, after = (float(squared_error(images, target).mean()) for images in (noisy, restored))
        rows = ["target", f"noisy input, MSE {before:.4f}", f"reconstruction, MSE {after:.4f}"]
        panel = Panel(torch.stack([target, noisy, restored]), "", rows, view.names(indices))
        kind = type(view.data.noise).__name__
        caption = (
            f"Test images. The noise is {kind}. The reconstruction is {view.mean} at the {view.center}. The MSE is the "
            f"mean over these {len(indices)} images."
        )
        return grids([panel], Title("Denoising", view.name, caption), self.scale)


class Samples(OfClasses):
    """Images decoded from z ~ p(z): the means of p(x|z), next to samples x ~ p(x|z) for the same z.

    For a conditional model, each class has its own rows.

    Args:
        n: number of images, at most 10,000, arranged in a square. For a conditional model, they are divided equally
            among the classes, with at least one image each.
    """

    look_for: ClassVar[str] = (
        "The samples should look like the data and be equally varied. If they are worse than the reconstructions, the "
        "prior covers regions in which no image is encoded."
    )
    name: str = "samples"
    n: Annotated[int, Field(ge=1, le=10_000)] = 64

    def refuses(self, view: View) -> str | None:
        return super().refuses(view) if view.has_density else "an autoencoder has no prior"

    def figure(self, view: View) -> Drawn:
        classes = self.classes(view)
        kinds = max(1, len(classes))
        each = max(1, self.n // kinds)
        context = view.context([number for number in classes for _ in range(each)])
        z = view.prior_sample(kinds * each, context)
        columns = min(each, ceil(self.n**0.5))
        mean, sample = (
            torch.cat([square(part, columns) for part in images.split(each)])
            for images in (view.decode(z, context), view.decode(z, context, sampled=True))
        )
        further = [""] * (ceil(each / columns) - 1)
        rows = [words for number in classes for words in (view.class_names[number], *further)]
        density = "p(x|z, c)" if classes else "p(x|z)"
        panels = [Panel(mean, f"mean {view.mean}", rows), Panel(sample, f"sample x ~ {density}")]
        caption = f"Each class has its own rows, with z ~ p(z|c). {CONTEXT}" if classes else ""
        return grids(panels, Title("Samples from the prior", view.name, caption), self.scale, across=2)


class Manifold(OfClasses):
    """Images decoded from a grid over two latent dimensions, with the others at 0 (arXiv 1312.6114, Figure 4).

    For a conditional model, each class has its own grid, with half as many steps in each direction.

    Args:
        n: number of steps in each direction, at most 100.
        reach: limit of an evenly spaced grid from -reach to reach; None for a grid of quantiles of N(0, 1).
        quantiles: probabilities of the first and last quantiles.
        dimensions: the two latent dimensions.
    """

    look_for: ClassVar[str] = (
        "The images should change smoothly across the grid, and every class should have its own region. With more than "
        "two latent dimensions, the figure shows only one of many planes."
    )
    name: str = "manifold"
    n: Side = 20
    reach: PositiveFloat | None = None
    quantiles: Annotated[Sequence[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=2, max_length=2)] = QUANTILES
    dimensions: Annotated[Sequence[NonNegativeInt], Field(min_length=2, max_length=2)] = (0, 1)

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.quantiles[0] >= self.quantiles[1]:
            raise ValueError(f"quantiles={list(self.quantiles)}: must be in ascending order")
        if self.dimensions[0] == self.dimensions[1]:
            raise ValueError(f"dimensions={list(self.dimensions)}: must be two different dimensions")
        return self

    def refuses(self, view: View) -> str | None:
        if max(self.dimensions) >= view.latent_dim:
            return f"requires latent dimensions {list(self.dimensions)}, but latent_dim={view.latent_dim}"
        if self.reach is None and view.is_hierarchy:
            return "z₁ of a hierarchical VAE has no standard normal prior; set reach"
        return super().refuses(view)

    def figure(self, view: View) -> Drawn:
        classes = self.classes(view)
        steps = ceil(self.n / 2) if classes else self.n
        if self.reach is None:
            values, spacing = latents.quantiles(steps, *self.quantiles), "at evenly spaced quantiles of N(0, 1)"
        else:
            values, spacing = torch.linspace(-self.reach, self.reach, steps), "in equal steps"
        across, up = self.dimensions
        others = " The other dimensions are 0." if view.latent_dim > 2 else ""
        caption = (
            f"z{across} increases from left to right and z{up} from bottom to top, from {float(values[0]):.2f} to "
            f"{float(values[-1]):.2f} {spacing}.{others} Each image is {view.mean}."
        )
        z = latents.plane(values, view.latent_dim, self.dimensions)
        panels = [Panel(view.decode(z, view.context([number])), view.class_names[number]) for number in classes]
        what = "Manifold" if view.latent_dim == 2 else f"Sweep over z{across} and z{up}"
        caption += f" {CONTEXT}" if classes else ""
        title = Title(what, view.name, caption)
        return grids(panels or [Panel(view.decode(z))], title, self.scale, gap=0, across=ceil(len(classes) ** 0.5) or 1)


class Interpolation(Grid):
    """Interpolations between two test images, along a straight line and along a great circle in the latent space.

    Args:
        labels: classes of the two images; None for the first and last classes.
        steps: number of images on each path, including the endpoints; at least 2.
    """

    look_for: ClassVar[str] = (
        "Every step should look like a real image. If the path is only a cross-fade between the two images, the "
        "decoder has learned nothing about the region between them."
    )
    name: str = "interpolation"
    labels: Pair | None = None
    steps: Annotated[int, Field(ge=2)] = 12

    def figure(self, view: View) -> Drawn:
        (first, last), images, names, context = ends(view, self.labels)
        paths = {"linear": latents.linear(first, last, self.steps)}
        circle = latents.spherical(first, last, self.steps)
        if not torch.equal(circle, paths["linear"]):  # equal if there is only one dimension
            paths["spherical"] = circle
        z, rows = torch.stack([*paths.values()]), [*paths]  # (2, steps, D)
        if context is not None and len(context) > 1:  # each path is drawn with the context of each endpoint
            z, rows = z.repeat(2, 1, 1), [f"{path}, c of {name}" for name in names for path in paths]
            context = context.repeat_interleave(len(paths) * self.steps, 0)
        decoded = view.decode(z, context)  # (rows, steps, C, H, W)
        left, right = (image.expand(len(rows), 1, *image.shape) for image in images)
        framed = torch.cat([left, decoded, right], 1)
        columns = ["image", *[f"{step / (self.steps - 1):.2f}" for step in range(self.steps)], "image"]
        panel = Panel(framed, "", rows, columns)
        caption = (
            f"The outer columns are two test images. The others are {view.mean} on paths between their {view.where}."
        )
        caption += " Each row uses the context c of one of the two images." if len(rows) > len(paths) else ""
        return grids([panel], Title(f"Interpolation from {names[0]} to {names[1]}", view.name, caption), self.scale)


class Transition(Grid):
    """Linear interpolation between two test images in many small steps, shown as a square of images.

    Args:
        labels: classes of the two images; None for the first and last classes.
        n: number of rows and columns, at most 100.
    """

    look_for: ClassVar[str] = (
        "Where does one class end and the other begin? As in the interpolation figure, every step should look like a "
        "real image."
    )
    name: str = "transition"
    labels: Pair | None = None
    n: Side = 15

    def figure(self, view: View) -> Drawn:
        (first, last), _, names, context = ends(view, self.labels)
        z = latents.linear(first, last, self.n**2).view(self.n, self.n, -1)
        caption = f"The images are {view.mean} at equal steps on the line between the {view.where} of two test images."
        if context is not None and len(context) > 1:
            context = context[(2 * torch.arange(self.n**2) >= self.n**2).long()]
            caption += " The first half uses the context c of the first image, and the second half that of the second."
        what = f"Transition from {names[0]} to {names[1]} in {self.n**2} steps"
        return grids([Panel(view.decode(z, context))], Title(what, view.name, caption), self.scale)


class Traversals(Grid):
    """Traversals of each latent dimension from -reach to reach, with the others fixed at their values for a test image.

    The dimensions are sorted by activity: the mean KL(q‖p(z)) over test images or, if the KL is not available, as with
    an autoencoder, the variance of the posterior means.

    Args:
        n: maximum number of dimensions; None for all.
        steps: number of images for each dimension.
        reach: bound on the traversed values, in standard deviations of a standard normal prior.
        label: class of the test image; None for the first class.
        images: number of test images from which the activity is computed.
    """

    look_for: ClassVar[str] = (
        "A row that does not change indicates an unused latent dimension, whose KL or variance is close to 0. Ideally, "
        "each of the other rows changes one property of the image."
    )
    name: str = "traversals"
    n: PositiveInt | None = 20
    steps: PositiveInt = 11
    reach: PositiveFloat = 3.0
    label: int | str | None = None
    images: PositiveInt = 1000

    def check(self, view: View) -> None:
        view.numbers([] if self.label is None else [self.label])

    def figure(self, view: View) -> Drawn:
        codes = view.codes(self.images)
        activity, unit = (codes.mean.var(0), "variance") if codes.kl is None else (codes.kl.mean(0), "KL")
        order = activity.argsort(descending=True)[: self.n].tolist()
        label = None if self.label is None else view.numbers([self.label])
        start = view.encode(view.batch(view.chosen(1, label)))
        values = torch.linspace(-self.reach, self.reach, self.steps)
        rows = [f"z{dimension}, {unit} {float(activity[dimension]):.2f}" for dimension in order]
        columns = [f"{value:.1f}" for value in values.round(decimals=3).add(0.0).tolist()]
        panel = Panel(view.decode(latents.sweep(start.mean[0], values, order), start.context), "", rows, columns)
        shown = f"{len(order)} of {view.latent_dim}" if len(order) < view.latent_dim else "all"
        measured = "mean KL in nats" if unit == "KL" else f"variance of the {view.where}"
        estimated = ", estimated from one sample per image" if unit == "KL" and view.is_hierarchy else ""
        caption = (
            f"Each row varies one latent dimension and keeps the others at the {view.center} of a test image. The rows "
            f"show {shown} dimensions, sorted and labelled by the {measured} over {len(codes.label):,} test "
            f"images{estimated}. Each image is {view.mean}."
        )
        return grids([panel], Title("Traversals", view.name, caption), self.scale)


class ClassSamples(Grid):
    """For each class, images decoded from samples of a Gaussian with the class's average posterior mean and variance.

    Args:
        labels: classes to show; None for all.
        n: number of images for each class.
        images: number of test images from which the Gaussians are computed.
    """

    look_for: ClassVar[str] = (
        "All images in a row should belong to its class. They vary less than the class, because the Gaussian has the "
        "average posterior variance, which does not include the variance of the posterior means."
    )
    name: str = "class_samples"
    labels: Labels | None = None
    n: PositiveInt = 10
    images: PositiveInt = 5000

    def refuses(self, view: View) -> str | None:
        if not view.has_density:
            return "the posterior of an autoencoder has no variance"
        return None if view.has_std else "the variance of the posterior has no closed form"

    def sample(self, view: View, n: int) -> tuple[Tensor, list[int]]:
        """Return latents (C, n, D) sampled from the Gaussian for each class, and the class numbers."""
        codes = view.codes(self.images)
        assert codes.std is not None
        classes = codes.label.unique().tolist() if self.labels is None else view.numbers(self.labels)
        mean, std = latents.class_gaussians(codes.mean, codes.std, codes.label, classes)
        return mean.unsqueeze(1) + std.unsqueeze(1) * torch.randn(len(classes), n, mean.shape[1]), classes

    def figure(self, view: View) -> Drawn:
        z, classes = self.sample(view, self.n)
        rows = [view.class_names[each] for each in classes]
        caption = (
            f"In each row, z is drawn from the Gaussian for one class. Its mean and variance are the averages of the "
            f"{view.where} and posterior variances of the class among {min(self.images, len(view.label)):,} test "
            f"images. Each image is {view.mean}.{' ' + CONTEXT if view.is_conditional else ''}"
        )
        context = view.context([number for number in classes for _ in range(self.n)])
        images = view.decode(z, context)
        return grids([Panel(images, "", rows)], Title("Samples for each class", view.name, caption), self.scale)


class Transfer(Grid):
    """Test images, encoded and then decoded with the context of every class, to show what the model encodes in z.

    Args:
        labels: classes to show; None for all classes, or the first 20 if there are more.
    """

    quiet: ClassVar[bool] = True
    look_for: ClassVar[str] = (
        "Each column should show one class, and each row one style, such as slant or thickness. If a row keeps the "
        "class of its test image, z encodes the class and the decoder ignores the context."
    )
    name: str = "transfer"
    labels: Labels | None = None

    def refuses(self, view: View) -> str | None:
        return None if view.is_conditional else "requires a conditional model"

    def figure(self, view: View) -> Drawn:
        classes = view.label.unique().tolist()[:20] if self.labels is None else view.numbers(self.labels)
        batch = view.batch(torch.cat([view.chosen(1, [each]) for each in classes]))
        names, count = [view.class_names[each] for each in classes], len(classes)
        z = view.encode(batch).mean.unsqueeze(1).expand(-1, count, -1)
        images = view.decode(z, view.context(classes * count))
        panel = Panel(torch.cat([batch.target.float().cpu().unsqueeze(1), images], 1), "", names, ["image", *names])
        caption = (
            f"Each row shows a test image, followed by {view.mean} at its {view.center} with the context of each "
            f"class. {CONTEXT}"
        )
        return grids([panel], Title("Transfer", view.name, caption), self.scale)


def ends(view: View, labels: Labels | None) -> tuple[Tensor, Tensor, list[str], Tensor | None]:
    """Return the latents (2, D), images (2, C, H, W), class names and contexts (2, ...) for the endpoints of a path.

    The endpoints are test images of two classes. Two equal contexts are returned as a single context (1, ...). The
    context is None for an unconditional model.

    Raises:
        ValueError: if a class does not exist or has too few test images.
    """
    present = view.label.unique().tolist()
    first, last = [present[0], present[-1]] if labels is None else view.numbers(labels)
    indices = view.chosen(2, [first]) if first == last else torch.cat([view.chosen(1, [k]) for k in (first, last)])
    if len(indices) < 2:
        raise ValueError(f"the test split has only one image of class {view.class_names[first]}; two are required")
    batch = view.batch(indices)
    codes = view.encode(batch)
    context = codes.context
    if context is not None and torch.equal(context[0], context[1]):
        context = context[:1]
    return codes.mean, batch.target.float().cpu(), view.names(indices), context


def square(images: Tensor, columns: int | None = None) -> Tensor:
    """Arrange images (N, C, H, W) in `columns` columns, by default as a square, and pad with NaN: (R, S, C, H, W)."""
    columns = columns or ceil(len(images) ** 0.5)
    rows = ceil(len(images) / columns)
    blank = images.new_full((rows * columns - len(images), *images.shape[1:]), float("nan"))
    return torch.cat([images, blank]).view(rows, columns, *images.shape[1:])
