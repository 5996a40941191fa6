"""Writing and reading checkpoints, which contain tensors and plain values but no code."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from vae_lab.errors import DataError, did_you_mean
from vae_lab.files import replacing
from vae_lab.workarounds.lightning import QuickStateKey


def writers(folder: Path, monitor: str | None, every: int | None = None) -> list[ModelCheckpoint]:
    """Return the callbacks that write `last.ckpt`, `best.ckpt` and numbered checkpoints such as `epoch-0010.ckpt`.

    Args:
        folder: directory for the checkpoints.
        monitor: metric by which `best.ckpt` is selected: `val/mse` is minimised, any other is maximised; None for no
            `best.ckpt`.
        every: number of epochs between numbered checkpoints; None for no numbered checkpoints.
    """
    kept: list[ModelCheckpoint] = []
    if monitor is not None:
        kept.append(Movable(folder, "best", monitor=monitor, mode="min" if monitor == "val/mse" else "max"))
    if every is not None:
        kept.append(
            Numbered(
                folder,
                "epoch-{epoch:04d}",
                auto_insert_metric_name=False,
                every_n_epochs=every,
                save_top_k=-1,
                save_on_train_epoch_end=True,
            )
        )
    return [*kept, Movable(folder, "last", save_on_train_epoch_end=True)]


class Files(TorchCheckpointIO):
    """Writes each checkpoint to a temporary file, which is renamed once it is complete.

    Lightning instead builds the checkpoint in memory and copies it to disk, which takes two to four times as long.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path) or storage_options is not None:  # remote paths are handled by Lightning
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # given an open file, torch raises an OSError if the disk is full
        with replacing(Path(path)) as beside, beside.open("wb") as file:
            torch.save(checkpoint, file)


class Movable(QuickStateKey, ModelCheckpoint):
    """A ModelCheckpoint that still finds its checkpoints after the run directory has been moved."""

    def __init__(self, folder: Path, filename: str, **options: Any) -> None:
        super().__init__(folder, filename, enable_version_counter=False, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = {name: here(state_dict[name]) for name in ("best_model_path", "kth_best_model_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


class Numbered(Movable):
    """A ModelCheckpoint that numbers epochs from 1 in file names."""

    def format_checkpoint_name(self, metrics: dict[str, Any], *names: Any, **more: Any) -> str:
        return super().format_checkpoint_name({**metrics, "epoch": metrics["epoch"] + 1}, *names, **more)


def find(folder: Path, name: str = "best") -> Path:
    """Return the path of a checkpoint, falling back from `best` to `last` if the run has no best checkpoint.

    Raises:
        DataError: if the checkpoint does not exist.
    """
    for stem in (name, "last") if name == "best" else (name,):
        path = folder / f"{stem}.ckpt"
        if path.exists():
            return path
    names = sorted(path.stem for path in folder.glob("*.ckpt"))
    raise DataError(f"{folder / name}.ckpt: not found{did_you_mean(name, names)}")


def restore(module: LightningModule, path: Path) -> dict[str, Any]:
    """Load the weights of a checkpoint into a module and return the whole checkpoint.

    The module stays on its device and is converted to the precision of the checkpoint's weights.

    Raises:
        DataError: if the checkpoint is corrupt, belongs to a different model, or contains objects other
            than tensors and plain values.
    """
    checkpoint = read(path)
    try:
        weights = checkpoint["state_dict"]
        precision = next((weight.dtype for weight in weights.values() if weight.is_floating_point()), None)
        module.to(dtype=precision)
        module.load_state_dict(weights)
        module.on_load_checkpoint(checkpoint)
    except (RuntimeError, KeyError) as error:
        raise DataError(
            f"{path}: the checkpoint belongs to a different model: {str(error).splitlines()[-1].strip()}"
        ) from error
    return checkpoint


def read(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint, loaded onto the CPU without executing any code from it."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise DataError(f"{path}: corrupt, or contains objects other than tensors and plain values") from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(f"{path}: corrupt checkpoint ({type(error).__name__})") from error
