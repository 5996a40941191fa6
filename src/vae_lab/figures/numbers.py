"""Figures of numbers: how they change over the epochs, and how they differ between classes."""

from dataclasses import replace
from typing import ClassVar

import torch
from matplotlib.figure import Figure as Drawn
from pydantic import PositiveInt
from torch import Tensor

from vae_lab.figures import charts
from vae_lab.figures.figure import Figure, Grid
from vae_lab.figures.grids import Panel, class_mse
from vae_lab.figures.page import Title
from vae_lab.view import View

MOST_SHOWN = 25  # classes that there is room for images of


class Curves(Figure):
    """Loss, ELBO, log-likelihood, KL, squared error and the KL of each latent dimension over the epochs."""

    look_for: ClassVar[str] = (
        "The curves should level off. Validation that turns away from training is overfitting; dropout and noise "
        "make the training the worse one. Where there is a KL, it rises as latents come into use, and one that "
        "falls to 0 is a posterior that has collapsed."
    )
    name: str = "curves"

    def figure(self, view: View) -> Drawn:
        """Return a panel for each number.

        Raises:
            ValueError: where no epoch is known.
        """
        if view.history is None or not (history := view.history()).rows:
            raise ValueError("there are no numbers of an epoch")
        whole = replace(view, epoch=int(history.rows[-1]["epoch"]))  # of the run, whatever the checkpoint
        bound = "ELBO, log-likelihood and KL at β = 1, whatever the loss." if view.has_density else ""
        return charts.curves(history.rows, history.kl, Title("Curves", whole.name, f"Per image. {bound}"))


class ClassMse(Grid):
    """Squared error of the mean reconstruction by class over the whole test split, and each class's extremes.

    Above 25 classes there is no room for images.

    Args:
        examples: how many of the best and of the worst images of each class are shown.
    """

    look_for: ClassVar[str] = (
        "Which classes are hard? The worst images tell whether what fails is rare, or mislabelled."
    )
    after_test: ClassVar[bool] = True
    name: str = "class_mse"
    examples: PositiveInt = 1

    def figure(self, view: View) -> Drawn:
        mse, images = view.errors.classes
        names = view.class_names
        caption = (
            f"Mean squared error per pixel of the reconstruction {view.mean} at the {view.center}, "
            f"{int(images.sum()):,} test images; over all images it is {float(view.errors.error.double().mean()):.4f}."
        )
        examples = None if len(names) > MOST_SHOWN else self.extremes(view)
        return class_mse(mse, images, names, examples, Title("Error by class", view.name, caption), self.scale)

    def extremes(self, view: View) -> Panel:
        """Return the images of each class with the least and the greatest error, and their reconstructions."""
        error, label, _ = view.errors
        wanted: dict[int, list[int]] = {}  # of each class: its best from the first on, its worst from the last on
        for each in label.unique().tolist():
            places = (label == each).nonzero().flatten()
            ranked = places[error[places].argsort(stable=True)].tolist()
            few = min(self.examples, len(ranked))
            worst = ranked[: -few - 1 : -1]
            wanted[each] = [*ranked[:few], *ranked[few - 1 : few] * (self.examples - few)]
            wanted[each] += [*worst, *worst[-1:] * (self.examples - few)]
        shown = self.pairs(view, {place for places in wanted.values() for place in places})
        blank = torch.full((2, *view.data.shape), float("nan"))
        columns = [
            torch.cat([shown[place] for place in wanted[each]] if each in wanted else [blank] * (2 * self.examples))
            for each in range(len(view.class_names))
        ]
        rows = [words for kind in ("best", "worst") for _ in range(self.examples) for words in (kind, "reconstructed")]
        return Panel(torch.stack(columns, 1), rows=rows)

    def pairs(self, view: View, places: set[int]) -> dict[int, Tensor]:
        """Return the target and the reconstruction (2, C, H, W) of test images, with the noise that the test has."""
        found = {}
        for indices, batch in view.data.test_batches(view.device, view.dtype):
            here = [row for row, place in enumerate(indices.tolist()) if place in places]
            if here:
                mean = view.reconstruct(batch)
                for row in here:
                    found[int(indices[row])] = torch.stack([batch.target[row], mean[row]]).float().cpu()
        return found
