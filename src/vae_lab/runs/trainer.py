"""Construction of Lightning's Trainer."""

import sys
from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.plugins.io import CheckpointIO

from vae_lab.runs.build import blame, build, build_each
from vae_lab.training import checkpoints, loggers
from vae_lab.workarounds import lightning


def build_trainer(config: DictConfig, path: Path, callbacks: list[Callback]) -> Trainer:
    """Return the Trainer with the given callbacks, the built-in loggers and those from the configuration."""
    bar = sys.stdout.isatty() if config.trainer.enable_progress_bar is None else config.trainer.enable_progress_bar
    with blame("trainer.plugins"):
        plugins = instantiate(config.trainer.plugins, _convert_="all") if config.trainer.get("plugins") else []
    plugins = plugins if isinstance(plugins, list) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(checkpoints.Files())
    lines = [] if bar else [loggers.Lines(config.print_every, config.trainer.max_epochs)]
    more = []
    for name, logger in build_each(config, "logger").items():
        with blame(f"logger.{name}"):  # a partial logger gets the run directory
            more.append(logger(save_dir=str(path)) if isinstance(logger, partial) else logger)
    trainer = build(config, "trainer", _partial_=True)  # instantiate() would convert dataclasses to dictionaries
    with blame("trainer"):
        return trainer(
            default_root_dir=str(path),
            callbacks=[*callbacks, TQDMProgressBar(refresh_rate=20)] if bar else callbacks,
            logger=[loggers.Curves(path / "metrics.csv"), *lines, *more],
            enable_progress_bar=bar,
            plugins=plugins,
            **({} if config.trainer.get("profiler") else {"profiler": lightning.profiler()}),
        )
