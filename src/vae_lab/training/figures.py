"""A callback that draws figures during training."""

import csv
import logging
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from vae_lab.errors import one_line
from vae_lab.figures import ClassMse, Curves, Figure, save
from vae_lab.files import replacing
from vae_lab.metrics import ClassMeans
from vae_lab.training import loggers
from vae_lab.training.module import VAEModule
from vae_lab.view import View

log = logging.getLogger(__name__)


class DrawFigures(Callback):
    """Draws and logs the figures that are due, and saves them as `figures/<name>/epoch-0003.png` in the run directory.

    Figures are drawn after the checkpoint for the epoch has been written. If a figure fails, a warning is logged. With
    `Curves`, the KL for each latent dimension is also written to `kl_per_dimension.csv`. With `ClassMse`, the squared
    error for each class in the test split is also written to `class_mse.csv`.

    Args:
        figures: the figures to draw.
    """

    def __init__(self, figures: Sequence[Figure]) -> None:
        self.figures = figures

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, VAEModule)
        self.module, self.folder = pl_module, Path(trainer.default_root_dir)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the initial epoch. In a resumed run, its figures already exist unless drawing was interrupted."""
        self.begun = self.module.epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the figures for the previous epoch, now that its checkpoint has been written."""
        self.keep_kl(trainer)
        epoch = self.module.epoch
        due = [each for each in self.figures if epoch and each.is_due(epoch, last=False)]
        if epoch == self.begun:
            due = [each for each in due if not self.file(each).exists()]
        self.draw(trainer, due)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the figures for the last epoch."""
        self.keep_kl(trainer)
        self.draw(trainer, [each for each in self.figures if each.is_due(self.module.epoch, last=True)])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the figures for the tested weights."""
        self.draw(trainer, [each for each in self.figures if each.after_test])

    def draw(self, trainer: Trainer, figures: Sequence[Figure]) -> None:
        """Draw, save and log figures in the process with rank 0."""
        if not trainer.is_global_zero:
            return
        history = partial(loggers.read_history, self.folder)
        view = View(self.module.vae, trainer.datamodule, self.module.epoch, history)  # type: ignore[attr-defined]
        for each in figures:
            # figures drawn after testing use the same precision as testing
            precision = trainer.precision_plugin.forward_context() if each.after_test else nullcontext()
            with warned(each.name, view.epoch), precision:
                if trainer.testing and isinstance(each, ClassMse):
                    write_table(self.folder / "class_mse.csv", view.errors.classes, view.class_names)
                save(each.draw(view), self.file(each))
                loggers.show(trainer.loggers, f"figures/{each.name}", self.file(each), trainer.global_step)

    def file(self, figure: Figure) -> Path:
        """Return the path of a figure for the current epoch."""
        return self.folder / "figures" / figure.name / f"epoch-{self.module.epoch:04d}.png"

    def keep_kl(self, trainer: Trainer) -> None:
        """Add a row to `kl_per_dimension.csv` if the KL for each latent dimension is known."""
        if not self.module.vectors or not any(isinstance(each, Curves) for each in self.figures):
            return
        found = {  # train/0, or train/layer1/0 with several stochastic layers
            "/".join(filter(None, (stage, layer, str(number)))): value
            for name, values in self.module.vectors.items()
            for stage, layer in re.findall(r"^(\w+)/kl_?(layer\d+|)_per_dimension$", name)
            for number, value in enumerate(values)
        }
        with warned("curves", self.module.epoch):
            table = loggers.Curves(self.folder / loggers.KL_FILE)  # writes only on rank 0
            table.log_metrics({"epoch": self.module.epoch, **found}, step=trainer.global_step)


@contextmanager
def warned(name: str, epoch: int) -> Iterator[None]:
    """Log an error raised by a figure as a one-line warning."""
    try:
        yield
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"
        log.warning("figure %s for epoch %d failed: %s", name, epoch, one_line(reason))


def write_table(path: Path, means: ClassMeans, names: Sequence[str]) -> None:
    """Write `class_mse.csv` with columns class, name, images and mse, where mse is empty for classes without images."""
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(["class", "name", "images", "mse"])
        for each, (mse, images) in enumerate(zip(*(column.tolist() for column in means), strict=True)):
            writer.writerow([each, names[each], images, mse if images else ""])
