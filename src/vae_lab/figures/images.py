"""Figures of images: reconstructions, and images of latents."""

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

Side = Annotated[int, Field(ge=1, le=100)]  # of a square of images: more cannot be shown
Pair = Annotated[Labels, Field(min_length=2, max_length=2)]
CONTEXT = "The context c of a class is that of its first test image."


class OfClasses(Grid):
    """Base of figures that show a conditional model class by class.

    Args:
        labels: of a conditional model the classes, None for all; each has the context of its first test image.
    """

    labels: Labels | None = None

    def options(self, view: View) -> set[str]:
        return super().options(view) - (set() if view.is_conditional else {"labels"})

    def refuses(self, view: View) -> str | None:
        if self.labels is None or view.is_conditional:
            return None
        return f"labels={list(self.labels)} chooses the context of a conditional model, and this one has none"

    def classes(self, view: View) -> list[int]:
        """Return the numbers of the classes to show; none for a model that is not conditional."""
        if not view.is_conditional:
            return []
        return view.label.unique().tolist() if self.labels is None else view.numbers(self.labels)


class Reconstructions(Grid):
    """Test images, their reconstruction E[x|z] at the posterior's center, and one x ~ p(x|z) with z ~ q(z|x).

    The encoder's input is shown as well where it is another image than the target.

    Args:
        n: number of images, of each class in turn.
        columns: images in a row.
        labels: classes to show, None for all.
    """

    look_for: ClassVar[str] = (
        "The mean should be the truth, a little blurred: what is missing, the latents did not keep. A sample that "
        "is noisier than the data says that the likelihood's σ is too large for them, or its pixels too "
        "independent."
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
        rows = {"truth": batch.target.float().cpu()}
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
            f"mean: {view.mean} at the {view.center}. sample: one x drawn from the likelihood, {drawn}. Test images."
        )
        return grids(panels, Title("Reconstructions", view.name, caption), self.scale)


class Denoising(Grid):
    """Test images, the same with the training's noise, and their mean reconstruction from that.

    Args:
        n: number of images, of each class in turn.
    """

    quiet: ClassVar[bool] = True
    look_for: ClassVar[str] = (
        "The restored images should be the original ones, and their MSE far below that of the noisy ones."
    )
    name: str = "denoising"
    n: PositiveInt = 10

    def refuses(self, view: View) -> str | None:
        noise = view.data.noise
        return "there is no noise: choose one, such as noise=salt_and_pepper" if type(noise) is nn.Identity else None

    def figure(self, view: View) -> Drawn:
        indices = view.chosen(self.n)
        batch = view.batch(indices)
        noisy = batch.input
        if not getattr(view.data.noise, "in_evaluation", False):
            noisy = view.data.noise.to(noisy)(noisy)
        codes = view.encode(batch._replace(input=noisy))
        restored = view.decode(codes.mean, codes.context)
        original, noisy = batch.target.float().cpu(), noisy.float().cpu()
        before, after = (float(squared_error(images, original).mean()) for images in (noisy, restored))
        rows = ["original", f"noisy, MSE {before:.4f}", f"restored, MSE {after:.4f}"]
        panel = Panel(torch.stack([original, noisy, restored]), "", rows, view.names(indices))
        kind = type(view.data.noise).__name__
        caption = (
            f"Test images with noise ({kind}) and their reconstruction {view.mean} at the {view.center}; MSE over "
            f"these {len(indices)} images."
        )
        return grids([panel], Title("Denoising", view.name, caption), self.scale)


class Samples(OfClasses):
    """Images of z from the prior: the mean of p(x|z), and beside it a sample of it, of the same z.

    Of a conditional model the classes are below one another.

    Args:
        n: number of images, laid out as a square, at most 10,000; of a conditional model as many of each class as fit
            in, and at least one.
    """

    look_for: ClassVar[str] = (
        "They should look like data, and be as varied. Worse than the reconstructions, they show places of the "
        "prior that no image is encoded to."
    )
    name: str = "samples"
    n: Annotated[int, Field(ge=1, le=10_000)] = 64

    def refuses(self, view: View) -> str | None:
        return super().refuses(view) if view.has_density else "an autoencoder has no prior to draw from"

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
        caption = f"By class, with z ~ p(z|c). {CONTEXT}" if classes else ""
        return grids(panels, Title("Samples, z from the prior", view.name, caption), self.scale, across=2)


class Manifold(OfClasses):
    """Images of a grid in two latent dimensions, the others 0: Figure 4 of Kingma & Welling (arXiv 1312.6114).

    Of a conditional model there is a grid for each class, with half as many steps.

    Args:
        n: steps in each direction, at most 100.
        reach: the grid goes from -reach to reach, evenly; None for quantiles of a standard normal.
        quantiles: the first and the last quantile.
        dimensions: which two.
    """

    look_for: ClassVar[str] = (
        "Neighbours should turn into one another without a jump, and every class should have a region. With more "
        "than two latents this is one plane of many."
    )
    name: str = "manifold"
    n: Side = 20
    reach: PositiveFloat | None = None
    quantiles: Annotated[Sequence[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=2, max_length=2)] = QUANTILES
    dimensions: Annotated[Sequence[NonNegativeInt], Field(min_length=2, max_length=2)] = (0, 1)

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.quantiles[0] >= self.quantiles[1]:
            raise ValueError(f"quantiles={list(self.quantiles)}: must be two, the smaller first")
        if self.dimensions[0] == self.dimensions[1]:
            raise ValueError(f"dimensions={list(self.dimensions)}: must be two different ones")
        return self

    def refuses(self, view: View) -> str | None:
        if max(self.dimensions) >= view.latent_dim:
            return f"needs latent dimensions {list(self.dimensions)}, and latent_dim is {view.latent_dim}"
        if self.reach is None and view.is_hierarchy:
            return "the first layer of a hierarchy has no standard normal prior: set its option reach"
        return super().refuses(view)

    def figure(self, view: View) -> Drawn:
        classes = self.classes(view)
        steps = ceil(self.n / 2) if classes else self.n
        if self.reach is None:
            values, where = latents.quantiles(steps, *self.quantiles), "at even quantiles of a standard normal"
        else:
            values, where = torch.linspace(-self.reach, self.reach, steps), "evenly"
        across, up = self.dimensions
        rest = ", the others 0" if view.latent_dim > 2 else ""
        caption = (
            f"z{across} from left to right, z{up} from bottom to top, each from {float(values[0]):.2f} to "
            f"{float(values[-1]):.2f} {where}{rest}. Shown is the mean {view.mean}."
        )
        z = latents.plane(values, view.latent_dim, self.dimensions)
        panels = [Panel(view.decode(z, view.context([number])), view.class_names[number]) for number in classes]
        what = "Manifold" if view.latent_dim == 2 else f"Sweep over z{across} and z{up}"
        caption += f" {CONTEXT}" if classes else ""
        title = Title(what, view.name, caption)
        return grids(panels or [Panel(view.decode(z))], title, self.scale, gap=0, across=ceil(len(classes) ** 0.5) or 1)


class Interpolation(Grid):
    """The way from one test image to another, along a line and along a great circle of the latent space.

    Args:
        labels: classes of the two, None for the first and the last.
        steps: images on the way, both ends included, at least 2.
    """

    look_for: ClassVar[str] = (
        "Every step should be an image of its own kind. Where the two only fade into each other, the decoder knows "
        "nothing better between them."
    )
    name: str = "interpolation"
    labels: Pair | None = None
    steps: Annotated[int, Field(ge=2)] = 12

    def figure(self, view: View) -> Drawn:
        (first, last), images, names, context = ends(view, self.labels)
        paths = {"linear": latents.linear(first, last, self.steps)}
        circle = latents.spherical(first, last, self.steps)
        if not torch.equal(circle, paths["linear"]):  # as it is in one dimension
            paths["spherical"] = circle
        z, rows = torch.stack([*paths.values()]), [*paths]  # (2, steps, D)
        if context is not None and len(context) > 1:  # each path with the context of either end
            z, rows = z.repeat(2, 1, 1), [f"{path}, as {name}" for name in names for path in paths]
            context = context.repeat_interleave(len(paths) * self.steps, 0)
        decoded = view.decode(z, context)  # (rows, steps, C, H, W)
        left, right = (image.expand(len(rows), 1, *image.shape) for image in images)
        framed = torch.cat([left, decoded, right], 1)
        columns = ["truth", *[f"{step / (self.steps - 1):.2f}" for step in range(self.steps)], "truth"]
        panel = Panel(framed, "", rows, columns)
        caption = f"Between the {view.where} of two test images. Shown is the mean {view.mean}."
        caption += " Each row has the context of one of them." if len(rows) > len(paths) else ""
        return grids([panel], Title(f"From {names[0]} to {names[1]}", view.name, caption), self.scale)


class Transition(Grid):
    """The way from one test image to another in many small steps, line by line.

    Args:
        labels: classes of the two, None for the first and the last.
        n: images in a line, and lines, at most 100.
    """

    look_for: ClassVar[str] = (
        "As in interpolation, more slowly: where does one class end and the other begin, and what is between?"
    )
    name: str = "transition"
    labels: Pair | None = None
    n: Side = 15

    def figure(self, view: View) -> Drawn:
        (first, last), _, names, context = ends(view, self.labels)
        z = latents.linear(first, last, self.n**2).view(self.n, self.n, -1)
        caption = f"In even steps along the line between their {view.where}, to be read line by line."
        if context is not None and len(context) > 1:
            context = context[(2 * torch.arange(self.n**2) >= self.n**2).long()]
            caption += " The first half has the context of the first image, the rest that of the last."
        what = f"From {names[0]} to {names[1]} in {self.n**2} steps"
        return grids([Panel(view.decode(z, context))], Title(what, view.name, caption), self.scale)


class Traversals(Grid):
    """Each latent dimension from -reach to reach, the others as a test image has them, the most active first.

    Active is what the posterior's KL to the prior is large in, on average over test images; where that is not known, as
    for an autoencoder, what varies most.

    Args:
        n: number of dimensions, fewer where there are not so many; None for all.
        steps: images of each.
        reach: where they begin and end, in units of a standard normal prior's σ.
        label: class of the test image, None for the first.
        images: number of test images that the activity is measured on.
    """

    look_for: ClassVar[str] = (
        "A row that does not change is a latent that is not used: its KL, or its variance, is near 0. A useful one "
        "changes one thing."
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
        of = f"{len(order)} of {view.latent_dim}" if len(order) < view.latent_dim else "all"
        measured = "in nats" if unit == "KL" else f"of the {view.where}"
        measured += ", estimated from one sample an image" if unit == "KL" and view.is_hierarchy else ""
        caption = (
            f"Each row sets one latent dimension ({of}, the most active first) and leaves the others as a test "
            f"image has them, at its {view.center}. Beside it: its {unit} {measured}, over {len(codes.label):,} "
            f"images. Shown is the mean {view.mean}."
        )
        return grids([panel], Title("Traversals", view.name, caption), self.scale)


class ClassSamples(Grid):
    """Images of z from each class's Gaussian: the mean of its images' posterior means, the mean of their variances.

    Args:
        labels: classes, None for all.
        n: images of each.
        images: number of test images that the Gaussians are taken from.
    """

    look_for: ClassVar[str] = (
        "Every row should stay in its class. The Gaussian has the posterior's variance, not the spread of the "
        "means, so a row varies less than the class does."
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
        """Return latents (C, n, D) from the Gaussian of each class, and the numbers of the classes."""
        codes = view.codes(self.images)
        assert codes.std is not None
        classes = codes.label.unique().tolist() if self.labels is None else view.numbers(self.labels)
        mean, std = latents.class_gaussians(codes.mean, codes.std, codes.label, classes)
        return mean.unsqueeze(1) + std.unsqueeze(1) * torch.randn(len(classes), n, mean.shape[1]), classes

    def figure(self, view: View) -> Drawn:
        z, classes = self.sample(view, self.n)
        rows = [view.class_names[each] for each in classes]
        caption = (
            f"z from each class's Gaussian: mean of the {view.where}, mean of the posterior variances of its images "
            f"among {min(self.images, len(view.label)):,} test images. Shown is the mean {view.mean}."
            f"{' ' + CONTEXT if view.is_conditional else ''}"
        )
        context = view.context([number for number in classes for _ in range(self.n)])
        images = view.decode(z, context)
        return grids([Panel(images, "", rows)], Title("Samples of each class", view.name, caption), self.scale)


class Transfer(Grid):
    """Test images, and the z of each with the context of every class: what a conditional model keeps in z.

    Args:
        labels: classes, None for all, or the first 20 of more.
    """

    quiet: ClassVar[bool] = True
    look_for: ClassVar[str] = (
        "Each column should be its class, and each row one style, such as slant and thickness. A row that stays the "
        "class of its image says that z holds the class, and the decoder ignores the context."
    )
    name: str = "transfer"
    labels: Labels | None = None

    def refuses(self, view: View) -> str | None:
        return None if view.is_conditional else "the model is not conditional: there is no context to change"

    def figure(self, view: View) -> Drawn:
        classes = view.label.unique().tolist()[:20] if self.labels is None else view.numbers(self.labels)
        batch = view.batch(torch.cat([view.chosen(1, [each]) for each in classes]))
        names, count = [view.class_names[each] for each in classes], len(classes)
        z = view.encode(batch).mean.unsqueeze(1).expand(-1, count, -1)
        images = view.decode(z, view.context(classes * count))
        panel = Panel(torch.cat([batch.target.float().cpu().unsqueeze(1), images], 1), "", names, ["truth", *names])
        caption = (
            f"Rows: a test image of each class, and its {view.center} with the context of each class. "
            f"{CONTEXT} Shown is the mean {view.mean}."
        )
        return grids([panel], Title("Transfer", view.name, caption), self.scale)


def ends(view: View, labels: Labels | None) -> tuple[Tensor, Tensor, list[str], Tensor | None]:
    """Return the latents (2, D), images (2, C, H, W), class names and contexts (2, ...) of test images of two classes.

    The contexts are one where both are equal, and None for a model that is not conditional.
    """
    present = view.label.unique().tolist()
    first, last = [present[0], present[-1]] if labels is None else view.numbers(labels)
    indices = view.chosen(2, [first]) if first == last else torch.cat([view.chosen(1, [k]) for k in (first, last)])
    if len(indices) < 2:
        raise ValueError(f"the test split has one image of {view.class_names[first]}, and two are needed")
    batch = view.batch(indices)
    codes = view.encode(batch)
    context = codes.context
    if context is not None and torch.equal(context[0], context[1]):
        context = context[:1]
    return codes.mean, batch.target.float().cpu(), view.names(indices), context


def square(images: Tensor, columns: int | None = None) -> Tensor:
    """Return images (N, C, H, W) as rows of a square, or of so many columns (R, S, C, H, W); the rest is white."""
    columns = columns or ceil(len(images) ** 0.5)
    rows = ceil(len(images) / columns)
    blank = images.new_full((rows * columns - len(images), *images.shape[1:]), float("nan"))
    return torch.cat([images, blank]).view(rows, columns, *images.shape[1:])
