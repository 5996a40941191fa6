"""Loading a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from vae_lab.cli.errors import unknown_key
from vae_lab.cli.schema import Config, check_values
from vae_lab.data import ImageData
from vae_lab.errors import ConfigError
from vae_lab.runs.build import build_data, build_module
from vae_lab.runs.directory import read_json, stored_config
from vae_lab.training import checkpoints
from vae_lab.training.loggers import read_history
from vae_lab.training.module import VAEModule
from vae_lab.view import View


@dataclass(frozen=True)
class Run:
    """A training run and its results.

    Attributes:
        path: the run directory.
        config: the resolved configuration.
        module: the model, with the weights of a checkpoint.
        data: the data; `data.setup()` reads them.
        metrics: the contents of `metrics.json`; empty if the run has not completed.
    """

    path: Path
    config: DictConfig
    module: VAEModule
    data: ImageData
    metrics: dict[str, Any]

    def view(self) -> View:
        """Return the view from which figures are drawn, as in `figures.Samples(n=16).draw(run.view())`."""
        return View(self.module.vae, self.data, self.module.epoch, partial(read_history, self.path))


def load(path: str | Path, checkpoint: str = "best", device: str = "cpu", data: Mapping[str, Any] | None = None) -> Run:
    """Load a run from its directory, which may have been moved.

    Args:
        path: the run directory.
        checkpoint: `best` (meaning `last` if the run has no validation), `last`, or a numbered checkpoint such as
            `epoch-0010`.
        device: a device such as `cpu` or `cuda`; `auto` selects a GPU if one is available.
        data: data options to change, such as `{"root": …}`, or the configuration of different data.

    Raises:
        DataError: if the directory is not a run directory, or the checkpoint is missing or corrupt.
        ConfigError: if the device is not available, or the data do not fit the model.
    """
    path = Path(path)
    config = with_data(stored_config(path), data or {})
    check_values(config, Config)
    module = build_module(config).to(find_device(device)).eval()
    checkpoints.restore(module, checkpoints.find(path / "checkpoints", checkpoint))
    return Run(path, config, module, build_data(config), read_json(path / "metrics.json"))


def with_data(config: DictConfig, data: Mapping[str, Any]) -> DictConfig:
    """Return a run's configuration, changed to use different data of the same shape or different data options."""
    if "_target_" not in data:
        if unknown := set(data) - set(config.data):
            raise ConfigError(unknown_key(f"data.{min(unknown)}", config.data))
        data = {**config.data, **data}
    if data.get("shape") != config.data.shape:
        raise ConfigError(f"data.shape={data.get('shape')}: must be {config.data.shape}, the shape of the run's images")
    return DictConfig({**config, "data": data})


def find_device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        raise ConfigError(f"device={name}: not available on this machine; use device=auto or device=cpu") from error
    if device.type == "meta":
        raise ConfigError(f"device={name}: not supported; use device=auto or device=cpu")
    return device
