"""Loggers: where the one row of numbers goes that the module gives for each epoch, and who is shown the figures."""

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
    """Takes the row of an epoch; numbers of no epoch, and the settings, are kept elsewhere."""

    name = version = ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "epoch" in metrics:
            self.add({**metrics, "epoch": int(metrics["epoch"])}, step)

    @abstractmethod
    def add(self, row: dict[str, Any], step: int | None) -> None:
        """Take the row of `row["epoch"]`."""


class Curves(_Rows):
    """Keeps `metrics.csv`: one row an epoch, whole after each; an epoch that is run again replaces its row.

    Args:
        path: of the file; rows of earlier epochs that are there already stay.
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
    """Prints every `every`-th epoch and the last as a line, for where there is no terminal to draw a bar on.

    Args:
        every: epochs from one line to the next.
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
    """Tell whether a number is one of an objective's own, or of a layer: `train/tc`, `val/kl_layer1`.

    Of the two stages that layers have it is validation.
    """
    stage, _, term = name.partition("/")
    usual = term.removesuffix("_unnormalised") in USUAL
    return stage in ("train", "val") and not usual and not (stage == "train" and KL_OF_LAYER.fullmatch(term))


@contextmanager
def in_use(loggers: Sequence[Logger], settings: Any) -> Iterator[None]:
    """Tell loggers the settings of a run, and end what has to be ended with it.

    Raises:
        ConfigError: where a logger cannot begin, such as wandb online without an account.
        DataError: where it cannot write.
    """
    with_wandb = any(isinstance(logger, WandbLogger) for logger in loggers)
    if with_wandb and open_wandb_run() is not None:
        raise ConfigError(
            "logger: wandb has a run open in this process, which ours would go on in: wandb.finish() first"
        )
    failed = 1
    try:
        for logger in loggers:
            try:
                logger.log_hyperparams(settings)
            except OSError as error:
                raise DataError(f"logger: {type(logger).__name__} cannot write: {error}") from error
            except Exception as error:  # each service has errors of its own
                raise ConfigError(f"logger: {type(logger).__name__} cannot begin: {error}") from error
        yield
        failed = 0
    finally:
        run = open_wandb_run()
        if with_wandb and run is not None:  # the next run of this process is another one of wandb's, too
            run.finish(exit_code=failed)


def open_wandb_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)


def read_curves(path: Path) -> list[dict[str, str]]:
    """Return the rows of a `metrics.csv` as they are written; none without a file."""
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            int(row["epoch"])
            _ = [float(value) for value in row.values() if value]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{path} is damaged: it must hold numbers, and those of an epoch in each row") from error
    return rows


def read_history(folder: Path) -> History:
    """Return the epochs of the run in a folder, from its `metrics.csv` and `kl_per_dimension.csv`."""
    rows = [{name: float(value) for name, value in row.items() if value} for row in read_curves(folder / "metrics.csv")]
    found = {int(row["epoch"]): row for row in read_curves(folder / KL_FILE)}
    columns: dict[tuple[str, str], list[str]] = {}  # of each layer and stage, in the order of the latents
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
    """Return the place of a column of `kl_per_dimension.csv`: length of the layer's name, it, stage, latent.

    The length puts layer10 behind layer2. `train/0` is of an only layer, which has no name, `train/layer1/0` of others.
    """
    stage, *layers, number = column.split("/")
    layer = "".join(layers)
    return len(layer), layer, stage, int(number)


def show(loggers: Sequence[Logger], name: str, file: Path, step: int) -> None:
    """Give a PNG to every logger that takes images, as `name`; one that fails is a line in the log."""
    for logger in loggers:
        try:
            if isinstance(logger, TensorBoardLogger):
                with Image.open(file) as image:
                    logger.experiment.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_artifact(logger.run_id, str(file), name)
            elif isinstance(logger, CometLogger):
                logger.experiment.log_image(str(file), name=name, step=step)
            elif hasattr(logger, "log_image"):  # wandb's, and others that are like it
                logger.log_image(key=name, images=[str(file)], step=step)
        except Exception as error:  # each service has errors of its own
            log.warning("%s did not take %s: %s", type(logger).__name__, name, one_line(error))
