"""Figures that show metrics over the epochs, and errors by class."""

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

MOST_SHOWN = 25  # maximum number of classes for which images are shown


class Curves(Figure):
    """Loss, ELBO, log-likelihood, KL (total and for each latent dimension) and squared error over the epochs."""

    look_for: ClassVar[str] = (
        "The curves should level off. If the validation curve gets worse while the training curve improves, the model "
        "overfits. With dropout or noise, training metrics can be worse than validation metrics. The KL rises as "
        "latent dimensions become active; if it falls to 0, the posterior has collapsed."
    )
    name: str = "curves"

    def figure(self, view: View) -> Drawn:
        """Return a figure with a panel for each metric.

        Raises:
            ValueError: if there are no metrics.
        """
        if view.history is None or not (history := view.history()).rows:
            raise ValueError("no epoch has been completed")
        # the last epoch of the run, regardless of the checkpoint
        whole = replace(view, epoch=int(history.rows[-1]["epoch"]))
        bound = " ELBO, log-likelihood and KL are at β = 1." if view.has_density else ""
        return charts.curves(
            history.rows, history.kl, Title("Curves", whole.name, f"All values are means over images.{bound}")
        )


class ClassMse(Grid):
    """Squared error of mean reconstructions by class over the test split, with the best and worst images.

    With more than 25 classes, the figure shows no images.

    Args:
        examples: number of best images and of worst images to show for each class.
    """

    look_for: ClassVar[str] = (
        "Which classes have a high error? The worst images show whether rare or mislabelled images are the cause."
    )
    after_test: ClassVar[bool] = True
    name: str = "class_mse"
    examples: PositiveInt = 1

    def figure(self, view: View) -> Drawn:
        mse, images = view.errors.classes
        names = view.class_names
        caption = (
            f"Mean squared error per pixel of the reconstruction {view.mean} at the {view.center}. "
            f"The mean over all {int(images.sum()):,} test images is {float(view.errors.error.double().mean()):.4f}."
        )
        examples = None if len(names) > MOST_SHOWN else self.extremes(view)
        return class_mse(mse, images, names, examples, Title("Error by class", view.name, caption), self.scale)

    def extremes(self, view: View) -> Panel:
        """Return the images with the smallest and largest errors in each class, and their reconstructions."""
        error, label, _ = view.errors
        wanted: dict[int, list[int]] = {}  # by class: best images, then worst images, most extreme first
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
        rows = [words for kind in ("best", "worst") for _ in range(self.examples) for words in (kind, "reconstruction")]
        return Panel(torch.stack(columns, 1), rows=rows)

    def pairs(self, view: View, places: set[int]) -> dict[int, Tensor]:
        """Return the target and reconstruction (2, C, H, W) of each test image in `places`, using the test noise."""
        found = {}
        for indices, batch in view.data.test_batches(view.device, view.dtype):
            here = [row for row, place in enumerate(indices.tolist()) if place in places]
            if here:
                mean = view.reconstruct(batch)
                for row in here:
                    found[int(indices[row])] = torch.stack([batch.target[row], mean[row]]).float().cpu()
        return found
