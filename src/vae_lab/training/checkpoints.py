"""How a checkpoint is written and read: tensors and plain values, never code."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from vae_lab.errors import DataError
from vae_lab.files import replacing
from vae_lab.workarounds.lightning import QuickStateKey


def writers(folder: Path, monitor: str | None, every: int | None = None) -> list[ModelCheckpoint]:
    """Return the callbacks that keep `last.ckpt`, `best.ckpt` where a metric can tell, and others where asked for.

    Args:
        folder: of the checkpoints.
        monitor: `val/elbo`, of which more is better, or `val/mse`, of which less is; None without validation.
        every: epochs from one `epoch-0010.ckpt` to the next; None for none.
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
    """Writes a checkpoint to the disk at once, and gives it its name when it is whole.

    Lightning's own makes it in memory and copies that, which takes two to four times as long.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path) or storage_options is not None:  # remote paths are handled by Lightning
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # given an open file, torch raises an OSError where the disk is full
        with replacing(Path(path)) as beside, beside.open("wb") as file:
            torch.save(checkpoint, file)


class Movable(QuickStateKey, ModelCheckpoint):
    """Keeps checkpoints in a folder, and still knows the best after the run's directory was moved."""

    def __init__(self, folder: Path, filename: str, **options: Any) -> None:
        super().__init__(folder, filename, enable_version_counter=False, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = {name: here(state_dict[name]) for name in ("best_model_path", "kth_best_model_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


class Numbered(Movable):
    """Keeps the checkpoints of epochs under their numbers; the first epoch is 1."""

    def format_checkpoint_name(self, metrics: dict[str, Any], *names: Any, **more: Any) -> str:
        return super().format_checkpoint_name({**metrics, "epoch": metrics["epoch"] + 1}, *names, **more)


def find(folder: Path, name: str = "best") -> Path:
    """Return the path of the checkpoint `name`, or of `last` where there is no `best`.

    Raises:
        DataError: where there is none.
    """
    for stem in (name, "last") if name == "best" else (name,):
        path = folder / f"{stem}.ckpt"
        if path.exists():
            return path
    raise DataError(f"{folder} holds no checkpoint {name}.ckpt")


def restore(module: LightningModule, path: Path) -> dict[str, Any]:
    """Load a checkpoint's weights into a module, on its device and in their precision; returns the whole checkpoint.

    Raises:
        DataError: where the checkpoint is damaged, holds more than tensors and plain values, or another model.
    """
    checkpoint = read(path)
    try:
        weights = checkpoint["state_dict"]
        precision = next((weight.dtype for weight in weights.values() if weight.is_floating_point()), None)
        module.to(dtype=precision)
        module.load_state_dict(weights)
        module.on_load_checkpoint(checkpoint)
    except (RuntimeError, KeyError) as error:
        raise DataError(f"checkpoint {path} is of another model: {str(error).splitlines()[-1].strip()}") from error
    return checkpoint


def read(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content on the CPU, without running any code from it."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise DataError(f"checkpoint {path} holds more than tensors and plain values, or is damaged") from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(f"checkpoint {path} is damaged: {type(error).__name__}") from error
