"""Figures of numbers: how they change over the epochs, and how they differ between classes."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from matplotlib.figure import Figure
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from vae_lab import figures, loggers
from vae_lab.callbacks.drawing import Drawing, Grid
from vae_lab.figures import Title
from vae_lab.files import replacing
from vae_lab.metrics import ClassMeans, class_means, squared_error
from vae_lab.module import VAEModule
from vae_lab.view import View

KL_FILE = "kl_per_dimension.csv"
MOST_SHOWN = 25  # classes that there is room for images of


@dataclass(eq=False, kw_only=True)
class Curves(Drawing):
    """Loss, ELBO, log-likelihood, KL, squared error and the KL of each latent dimension over the epochs.

    Keeps `kl_per_dimension.csv` in the run's directory: a row an epoch, `train/0`, …, `val/0`, …, in nats.
    """

    look_for: ClassVar[str] = (
        "The curves should level off. Validation that turns away from training is overfitting; dropout and noise "
        "make the training the worse one. Where there is a KL, it rises as latents come into use, and one that "
        "falls to 0 is a posterior that has collapsed."
    )
    name: str = "curves"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the KL of the epoch before, and draw."""
        self.note(trainer, pl_module)
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the KL of the last epoch, and draw."""
        self.note(trainer, pl_module)
        super().on_train_end(trainer, pl_module)

    def note(self, trainer: Trainer, module: LightningModule) -> None:
        """Add a row to `kl_per_dimension.csv` where the KL of each dimension is known."""
        assert isinstance(module, VAEModule)
        if not module.vectors:
            return
        found = {
            f"{name.partition('/')[0]}/{number}": value
            for name, values in module.vectors.items()
            if name.endswith("/kl_per_dimension")
            for number, value in enumerate(values)
        }
        with self.forgiven(module.epoch):
            file = loggers.Curves(Path(trainer.default_root_dir) / KL_FILE)  # which writes on rank 0 alone
            file.log_metrics({"epoch": module.epoch, **found}, step=trainer.global_step)

    def figure(self, view: View) -> Figure:
        """Return a panel for each number.

        Raises:
            ValueError: where no epoch has been written down.
            DataError: where the numbers are damaged.
        """
        assert view.path is not None, "curves are those of a run"
        rows = [
            {name: float(value) for name, value in row.items() if value}
            for row in loggers.read_curves(view.path / "metrics.csv")
        ]
        if not rows:
            raise ValueError(f"{view.path} holds no metrics.csv of an epoch")
        kl = read_kl(view.path / KL_FILE, [int(row["epoch"]) for row in rows])
        whole = replace(view, epoch=int(rows[-1]["epoch"]))  # of the run, whatever the checkpoint
        bound = "ELBO, log-likelihood and KL at β = 1, whatever the loss." if view.has_density else ""
        return figures.curves(rows, kl, Title("Curves", whole.name, f"Per image. {bound}"))


def read_kl(path: Path, epochs: list[int]) -> dict[str, Tensor]:
    """Return the KL of each dimension (epochs, D) in training and validation, NaN for an epoch without."""
    found = {int(row["epoch"]): row for row in loggers.read_curves(path)}
    kl = {}
    for stage, words in (("train", "training"), ("val", "validation")):
        names = sorted({name for row in found.values() for name in row if name.startswith(f"{stage}/")}, key=number)
        values = [[float(found.get(epoch, {}).get(name) or "nan") for name in names] for epoch in epochs]
        if names and not torch.tensor(values).isnan().all():
            kl[words] = torch.tensor(values)
    return kl


def number(name: str) -> int:
    """Return which dimension a column is of."""
    return int(name.partition("/")[2])


class ClassReport(NamedTuple):
    """The squared error of every test image (N,) and its class (N,), and the mean of each class."""

    error: Tensor
    label: Tensor
    classes: ClassMeans


@dataclass(eq=False, kw_only=True)
class ClassMse(Grid):
    """Squared error of the mean reconstruction by class over the whole test split, and each class's extremes.

    It is drawn after the test as well, of the tested weights, and then written as `class_mse.csv`: class, name, images,
    mse. One process goes over all images whatever their number, and so it is the same for one or several. Above 25
    classes there is no room for images.

    Args:
        examples: how many of the best and of the worst images of each class are shown.
    """

    look_for: ClassVar[str] = (
        "Which classes are hard? The worst images tell whether what fails is rare, or mislabelled."
    )
    name: str = "class_mse"
    examples: int = 1

    def is_due(self, epoch: int, last: bool) -> bool:
        """Tell whether it is drawn after an epoch; the last is nothing special, because the test comes after it."""
        return super().is_due(epoch, last=False)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table of the weights that were tested, and draw."""
        assert isinstance(pl_module, VAEModule)
        self.save(trainer, pl_module)

    def deliver(self, view: View, trainer: Trainer) -> None:
        """Draw, in the precision of the test; after one, write the table first."""
        with trainer.precision_plugin.forward_context():
            report = self.report(view)
            if trainer.testing and view.path is not None:
                write_table(view.path / "class_mse.csv", report.classes, view.class_names)
            figure = self.picture(view, report)
        self.keep(figure, view, trainer)

    def report(self, view: View) -> ClassReport:
        """Return the errors of all test images, in the order of the split."""
        errors = []
        with view.undisturbed(self.seed):
            for plan in view.plans():
                batch = view.planned(plan)
                reconstruction = view.vae.reconstruct(view.vae.encode(batch.input))
                errors.append(squared_error(reconstruction.mean, batch.target).cpu())
        error, label = torch.cat(errors), view.test.label.cpu()
        return ClassReport(error, label, class_means(error, label, len(view.class_names)))

    def figure(self, view: View) -> Figure:
        """Return the bars over the best and the worst images of each class."""
        return self.picture(view, self.report(view))

    def picture(self, view: View, report: ClassReport) -> Figure:
        """Return the bars of a report over the best and the worst images of each class."""
        mse, images = report.classes
        names = view.class_names
        caption = (
            f"Mean squared error per pixel of the reconstruction E[x|z] at the posterior's mean, {int(images.sum()):,} "
            f"test images; over all images it is {float(report.error.double().mean()):.4f}."
        )
        many = len(names) > MOST_SHOWN
        examples = None if many else self.extremes(view, report)
        return figures.class_mse(mse, images, names, examples, Title("Error by class", view.name, caption), self.scale)

    def extremes(self, view: View, report: ClassReport) -> figures.Panel:
        """Return the images of each class with the least and the greatest error, and their reconstructions."""
        wanted: dict[int, list[int]] = {}  # of each class: its best from the first on, its worst from the last on
        for each in report.label.unique().tolist():
            places = (report.label == each).nonzero().flatten()
            ranked = places[report.error[places].argsort(stable=True)].tolist()
            few = min(self.examples, len(ranked))
            worst = ranked[: -few - 1 : -1]
            wanted[each] = [*ranked[:few], *ranked[few - 1 : few] * (self.examples - few)]
            wanted[each] += [*worst, *worst[-1:] * (self.examples - few)]
        with view.undisturbed(self.seed):
            shown = self.pairs(view, {place for places in wanted.values() for place in places})
        blank = torch.full((2, *view.data.shape), float("nan"))
        columns = [
            torch.cat([shown[place] for place in wanted[each]] if each in wanted else [blank] * (2 * self.examples))
            for each in range(len(view.class_names))
        ]
        rows = [words for kind in ("best", "worst") for _ in range(self.examples) for words in (kind, "reconstructed")]
        return figures.Panel(torch.stack(columns, 1), rows=rows)

    def pairs(self, view: View, places: set[int]) -> dict[int, Tensor]:
        """Return the target and the reconstruction (2, C, H, W) of test images, with the noise that the report saw."""
        found = {}
        for plan in view.plans():
            here = [row for row, place in enumerate(plan.indices.tolist()) if place in places]
            if not here:
                continue
            batch = view.planned(plan)
            mean = view.vae.reconstruct(view.vae.encode(batch.input)).mean
            for row in here:
                found[int(plan.indices[row])] = torch.stack([batch.target[row], mean[row]]).float().cpu()
        return found


def write_table(path: Path, means: ClassMeans, names: list[str]) -> None:
    """Write `class_mse.csv`: class, name, images, mse; a class without images has no mse."""
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "name", "images", "mse"])
        for each, (mse, images) in enumerate(zip(*(column.tolist() for column in means), strict=True)):
            writer.writerow([each, names[each], images, mse if images else ""])
