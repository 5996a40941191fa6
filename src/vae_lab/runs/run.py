"""A run as an object."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

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
    """A training and what came of it.

    Attributes:
        path: the directory that holds everything about it.
        config: its whole configuration, resolved.
        module: the model with the weights of the best checkpoint.
        data: the data, read on the first call of `data.setup()`.
        metrics: the final numbers, as in `metrics.json`; empty where the training has not ended.
    """

    path: Path
    config: DictConfig
    module: VAEModule
    data: ImageData
    metrics: dict[str, Any]

    def view(self) -> View:
        """Return the model and its data as figures see them: `figures.Samples(n=16).draw(run.view())`."""
        return View(self.module.vae, self.data, self.module.epoch, partial(read_history, self.path))


def load(path: str | Path, checkpoint: str = "best", device: str = "cpu", data: Mapping[str, Any] | None = None) -> Run:
    """Return a run from its directory, wherever that was moved, with the weights on a device.

    Args:
        path: the run's directory.
        checkpoint: `best` (which is `last` where nothing was validated), `last`, or one that was kept by
            `checkpoint_every`, such as `epoch-0010`.
        device: such as `cpu` or `cuda`; `auto` is a GPU where there is one.
        data: what is to differ in the run's data, such as `{"root": …}`, or other data as a whole.

    Raises:
        DataError: where the directory is no run, or its checkpoint is missing or damaged.
        ConfigError: where there is no such device, or the data do not fit the model.
    """
    path = Path(path)
    config = with_data(stored_config(path), data or {})
    check_values(config, Config)
    module = build_module(config).to(find_device(device)).eval()
    checkpoints.restore(module, checkpoints.find(path / "checkpoints", checkpoint))
    return Run(path, config, module, build_data(config), read_json(path / "metrics.json"))


def with_data(config: DictConfig, data: Mapping[str, Any]) -> DictConfig:
    """Return a run's configuration with other data of the same shape, or some of its data's values changed."""
    if "_target_" not in data:
        if unknown := set(data) - set(config.data):
            keys = ", ".join(sorted(config.data))
            raise ConfigError(f"data.{min(unknown)} is no key of the run's data: there are {keys}")
        data = {**config.data, **data}
    if data.get("shape") != config.data.shape:
        raise ConfigError(f"data.shape={data.get('shape')} must be {config.data.shape}, as the run's images are")
    return DictConfig({**config, "data": data})


def find_device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        raise ConfigError(f"device={name} is not there: take auto or cpu") from error
    if device.type == "meta":
        raise ConfigError(f"device={name} computes nothing: take auto or cpu")
    return device
