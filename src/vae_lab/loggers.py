"""Loggers: where the one row of numbers goes that the module gives for each epoch."""

import csv
import logging
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

log = logging.getLogger(__name__)


class _Plain(Logger):
    """A logger without a name, a version or hyper-parameters."""

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Keep nothing: the run's config.yaml has it all."""


class Curves(_Plain):
    """Keeps `metrics.csv`: one row an epoch, whole after each; an epoch that is run again replaces its row.

    Args:
        path: of the file; rows of earlier epochs that are there already stay.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add the row of `metrics["epoch"]`."""
        rows: list[dict[str, Any]] = [row for row in read_curves(self.path) if int(row["epoch"]) < metrics["epoch"]]
        rows.append({"epoch": metrics["epoch"], "step": step, **metrics})
        beside = self.path.with_suffix(".tmp")
        with beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, dict.fromkeys(name for row in rows for name in row))
            writer.writeheader()
            writer.writerows(rows)
        beside.replace(self.path)


class Lines(_Plain):
    """Prints every `every`-th epoch and the last as a line, for where there is no terminal to draw a bar on.

    Args:
        every: epochs from one line to the next.
        epochs: number of the last epoch.
    """

    def __init__(self, every: int, epochs: int) -> None:
        super().__init__()
        self.every = every
        self.epochs = epochs

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Print the row of `metrics["epoch"]`."""
        epoch = int(metrics["epoch"])
        if epoch % self.every == 0 or epoch in (1, self.epochs):
            shown = ("train/loss", "val/elbo", "val/log_likelihood", "val/kl", "val/mse", "train/seconds")
            numbers = "  ".join(f"{name} {metrics[name]:.5g}" for name in shown if name in metrics)
            log.info("epoch %*d/%d  %s", len(str(self.epochs)), epoch, self.epochs, numbers)


def read_curves(path: Path) -> list[dict[str, str]]:
    """Return the rows of a `metrics.csv` as they are written; none without a file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
