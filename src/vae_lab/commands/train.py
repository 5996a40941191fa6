"""Train one model."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from vae_lab.cli.text import relative, table
from vae_lab.commands import report
from vae_lab.data import ImageData
from vae_lab.errors import ConfigError, one_line
from vae_lab.figures import Figure
from vae_lab.runs import Run, build_data, build_each, build_module, changes, directory, load
from vae_lab.runs.build import blame, validates
from vae_lab.runs.trainer import build_trainer
from vae_lab.training import checkpoints, compiled, loggers
from vae_lab.training.clock import Clock
from vae_lab.training.figures import DrawFigures
from vae_lab.training.module import VAEModule
from vae_lab.view import View
from vae_lab.workarounds import lightning

log = logging.getLogger(__name__)


def run(config: DictConfig, path: Path, overrides: Sequence[str]) -> Run:
    """Train a model in the run directory `path`, test its best checkpoint and write the results.

    If the directory already contains a run with the same configuration, the run is loaded if it has completed, and
    resumed if it was interrupted.
    """
    config = changes.settled(config, path, overrides)
    completed = not directory.is_new(path) and directory.read_json(path / "metrics.json")
    if completed and not changes.differences(path, config):
        page = path / "report.html" if (path / "report.html").exists() else page_of(path)
        log.info("%s: already completed%s", relative(path), f"; open {relative(page)}" if page else "")
        return load(path)
    with lightning.quiet(), lightning.environment():
        # build everything that can raise a ConfigError, then read the data, and only then write files
        pl.seed_everything(config.seed, workers=True, verbose=False)
        module, data = build_module(config), build_data(config)
        monitor = module.best_metric if validates(config) else None
        callbacks, view, clock = build_each(config, "callbacks"), View(module.vae, data, epoch=0), Clock()
        figures = {name: callbacks.pop(name) for name, each in [*callbacks.items()] if isinstance(each, Figure)}
        left_out = leave_out(figures, view)
        writers = checkpoints.writers(path / "checkpoints", monitor, config.checkpoint_every)
        # Clock comes after DrawFigures, so that it does not time the figures for the previous epoch
        own = [DrawFigures([*figures.values()]), clock, *writers]
        trainer = build_trainer(config, path, [*callbacks.values(), *own])
        if trainer.world_size > 1 and not HydraConfig.initialized():
            raise ConfigError(
                f"trainer.devices={config.trainer.devices}: multiple processes are supported only from the command "
                "line; use python -m vae_lab.train"
            )
        last = path / "checkpoints" / "last.ckpt"
        if resuming := last.exists():
            trained = checkpoints.restore(module, last)["epoch"] + 1
            if trained > config.trainer.max_epochs:
                raise ConfigError(
                    f"trainer.max_epochs={config.trainer.max_epochs}: must be at least {trained}, the number of "
                    "epochs trained so far"
                )
        data.prepare_data()
        data.setup()
        for name, figure in figures.items():
            with blame(f"callbacks.{name}"):
                figure.check(view)
        if not resuming:
            start_from_data(module, data)
        made_with = directory.provenance()
        directory.create(path, config, overrides, {**made_with, "model": module.vae.name, "center": view.center})

        info, settings = rank_zero_only(log.info), OmegaConf.to_container(config, resolve=True)
        with (
            directory.recorded(path),
            blame("trainer", only_lightning=True),
            loggers.in_use(trainer.loggers, settings),
        ):
            weights, images = sum(weight.numel() for weight in module.parameters()), len(data.train or ())
            info(f"{weights:,} parameters, {images:,} training images, on {trainer.strategy.root_device}")
            if left_out:
                rank_zero_only(log.warning)(f"skipped figures: {left_out}")
            with compiled.compiling() if config.compile else nullcontext():
                trainer.fit(module, data, ckpt_path=last if resuming else None, weights_only=True)
            if not resuming and trainer.global_step == 0:
                info("no training steps were taken")
                trainer.save_checkpoint(last)

            checkpoint = checkpoints.find(path / "checkpoints", "last" if monitor is None else "best")
            checkpoints.restore(module, checkpoint)
            trainer.validate(module, data, verbose=False)
            trainer.test(module, data, verbose=False)
            tested = {name: value for name, value in module.numbers.items() if name.startswith("test/")}
            for logger in trainer.loggers:
                logger.log_metrics(tested, step=trainer.global_step)
            metrics = {
                **module.numbers,
                "checkpoint": checkpoint.name,
                "checkpoint_epoch": module.epoch,
                "epochs": trainer.current_epoch,
                "steps": trainer.global_step,
                "seconds": clock.totals["seconds"],
                "images_per_second": clock.totals["images"] / (clock.totals["step_seconds"] or 1),
                **made_with,
            }
            with directory.writable(path):  # metrics.json marks the run as completed
                rank_zero_only(directory.write_json)(path / "metrics.json", metrics)
            info(table(module.numbers))
            page = page_of(path) if trainer.is_global_zero else None
            info(f"results: {relative(path)}" + (f"; open {relative(page)}" if page else ""))
    return Run(path, config, module.eval(), data, metrics)


def start_from_data(module: VAEModule, data: ImageData) -> None:
    """Call `init_from_data` on each submodule that defines it, with the training batches of the first epoch."""
    for submodule in module.modules():
        if hook := getattr(submodule, "init_from_data", None):
            weight = next(module.parameters())
            with blame("model"), torch.no_grad(), torch.random.fork_rng(devices=[]):
                hook(data.training_batches(weight.device, weight.dtype))


def page_of(path: Path) -> Path | None:
    """Write the report of a completed run and return the report's path; on failure, log a warning and return None."""
    try:
        return report.write(path)
    except Exception as error:
        log.warning("cannot write report.html: %s: %s", type(error).__name__, one_line(error))
        return None


def leave_out(figures: dict[str, Figure], view: View) -> str:
    """Remove the optional figures that do not fit the model, and return their names with the reasons.

    Raises:
        ConfigError: if a figure that is not optional does not fit the model.
    """
    left_out = []
    for name, figure in list(figures.items()):
        if reason := figure.refuses(view):
            if not figure.optional:
                raise ConfigError(f"callbacks.{name}: {reason}")
            if not figure.quiet:
                left_out.append(f"{name} ({reason})")
            del figures[name]
    return ", ".join(left_out)
