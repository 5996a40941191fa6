"""Loggers for metrics and figures. `VAEModule` logs one row of metrics per epoch."""

import csv
import logging
import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning.loggers import CometLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from vae_lab.errors import ConfigError, DataError, one_line
from vae_lab.files import replacing
from vae_lab.metrics import KL_OF_LAYER, USUAL
from vae_lab.view import History

KL_FILE = "kl_per_dimension.csv"

log = logging.getLogger(__name__)


class _Rows(Logger):
    """Base class for loggers that log one row of metrics per epoch and ignore other metrics and hyperparameters."""

    name = version = ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "epoch" in metrics:
            self.add({**metrics, "epoch": int(metrics["epoch"])}, step)

    @abstractmethod
    def add(self, row: dict[str, Any], step: int | None) -> None:
        """Log the metrics for the epoch `row["epoch"]`."""


class Curves(_Rows):
    """Writes one row per epoch to a CSV file that is complete after each epoch.

    Args:
        path: the CSV file. If it exists, only its rows for epochs before the first new epoch are kept.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def add(self, row: dict[str, Any], step: int | None) -> None:
        rows: list[dict[str, Any]] = [each for each in read_curves(self.path) if int(each["epoch"]) < row["epoch"]]
        rows.append({"epoch": row["epoch"], "step": step, **row})
        with replacing(self.path) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, dict.fromkeys(chain.from_iterable(rows)))
            writer.writeheader()
            writer.writerows(rows)


class Lines(_Rows):
    """Prints the metrics of an epoch on one line, for output without a progress bar.

    Args:
        every: number of epochs between lines; the first and last epochs are always printed.
        epochs: number of the last epoch.
    """

    def __init__(self, every: int, epochs: int) -> None:
        super().__init__()
        self.every = every
        self.epochs = epochs

    def add(self, row: dict[str, Any], step: int | None) -> None:
        epoch = row["epoch"]
        if epoch % self.every == 0 or epoch in (1, self.epochs):
            shown = ("train/loss", "val/elbo", "val/log_likelihood", "val/kl", "val/mse")
            names = [name for start in shown for name in row if name.removesuffix("_unnormalised") == start]
            names += [name for name in row if is_special(name)]
            names += ["train/seconds"] if "train/seconds" in row else []
            numbers = "  ".join(f"{name} {row[name]:.5g}" for name in names)
            log.info("epoch %*d/%d  %s", len(str(self.epochs)), epoch, self.epochs, numbers)


def is_special(name: str) -> bool:
    """Return whether a metric is specific to an objective, such as `train/tc`, or to a layer, such as `val/kl_layer1`.

    Training values of a layer's KL are excluded.
    """
    stage, _, term = name.partition("/")
    usual = term.removesuffix("_unnormalised") in USUAL
    return stage in ("train", "val") and not usual and not (stage == "train" and KL_OF_LAYER.fullmatch(term))


@contextmanager
def in_use(loggers: Sequence[Logger], settings: Any) -> Iterator[None]:
    """Log the hyperparameters of a run and, on exit, finish its wandb run.

    Raises:
        ConfigError: if a logger cannot start, for example wandb in online mode without an account.
        DataError: if a logger cannot write.
    """
    with_wandb = any(isinstance(logger, WandbLogger) for logger in loggers)
    if with_wandb and open_wandb_run() is not None:
        raise ConfigError(
            "logger: a wandb run is already open in this process and would be continued; call wandb.finish() first"
        )
    failed = 1
    try:
        for logger in loggers:
            try:
                logger.log_hyperparams(settings)
            except OSError as error:
                raise DataError(f"logger: {type(logger).__name__} cannot write: {error}") from error
            except Exception as error:  # each service raises its own errors
                raise ConfigError(f"logger: {type(logger).__name__} cannot start: {error}") from error
        yield
        failed = 0
    finally:
        run = open_wandb_run()
        if with_wandb and run is not None:  # otherwise, a later run in this process would continue it
            run.finish(exit_code=failed)


def open_wandb_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)


def read_curves(path: Path) -> list[dict[str, str]]:
    """Return, as strings, the rows of a CSV file written by `Curves`, or an empty list if the file does not exist."""
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            int(row["epoch"])
            _ = [float(value) for value in row.values() if value]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: corrupt; expected one row of numbers per epoch") from error
    return rows


def read_history(folder: Path) -> History:
    """Return the history of a run from its `metrics.csv` and `kl_per_dimension.csv`."""
    rows = [{name: float(value) for name, value in row.items() if value} for row in read_curves(folder / "metrics.csv")]
    found = {int(row["epoch"]): row for row in read_curves(folder / KL_FILE)}
    columns: dict[tuple[str, str], list[str]] = {}  # for each layer and stage, ordered by latent dimension
    for name in sorted({name for row in found.values() for name in row if "/" in name}, key=place):
        _, layer, stage, _ = place(name)
        columns.setdefault((layer, stage), []).append(name)
    kl: dict[str, dict[str, Tensor]] = {}
    for (layer, stage), order in columns.items():
        table = [[float(found.get(int(row["epoch"]), {}).get(column) or "nan") for column in order] for row in rows]
        values = torch.tensor(table)
        if not values.isnan().all():
            kl.setdefault(layer, {})["training" if stage == "train" else "validation"] = values
    return History(rows, kl)


def place(column: str) -> tuple[int, str, str, int]:
    """Return the sort key of a column in `kl_per_dimension.csv`: length of layer name, layer name, split, dimension.

    Sorting by length puts layer10 after layer2. Column names are of the form `train/0` if there is one stochastic
    layer, and `train/layer1/0` otherwise.
    """
    stage, *layers, number = column.split("/")
    layer = "".join(layers)
    return len(layer), layer, stage, int(number)


def show(loggers: Sequence[Logger], name: str, file: Path, step: int) -> None:
    """Log a PNG to every logger that supports images, and log a warning if a logger fails."""
    for logger in loggers:
        try:
            if isinstance(logger, TensorBoardLogger):
                with Image.open(file) as image:
                    logger.experiment.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_artifact(logger.run_id, str(file), name)
            elif isinstance(logger, CometLogger):
                logger.experiment.log_image(str(file), name=name, step=step)
            elif hasattr(logger, "log_image"):  # WandbLogger and loggers with the same method
                logger.log_image(key=name, images=[str(file)], step=step)
        except Exception as error:  # each service raises its own errors
            log.warning("%s cannot log %s: %s", type(logger).__name__, name, one_line(error))
