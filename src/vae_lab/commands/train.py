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
    """Train what a configuration describes in the directory `path`, test the best checkpoint, write down the numbers.

    A run that has ended there is loaded, one that was cut short is resumed.
    """
    config = changes.settled(config, path, overrides)
    ended = not directory.is_new(path) and directory.read_json(path / "metrics.json")
    if ended and not changes.differences(path, config):
        page = path / "report.html" if (path / "report.html").exists() else page_of(path)
        log.info("%s has ended before: nothing to train%s", relative(path), f": open {relative(page)}" if page else "")
        return load(path)
    with lightning.quiet(), lightning.environment():
        # whatever can be refused is built before data are read, and data are read before anything is written
        pl.seed_everything(config.seed, workers=True, verbose=False)
        module, data = build_module(config), build_data(config)
        monitor = module.best_metric if validates(config) else None
        callbacks, view, clock = build_each(config, "callbacks"), View(module.vae, data, epoch=0), Clock()
        figures = {name: callbacks.pop(name) for name, each in [*callbacks.items()] if isinstance(each, Figure)}
        left_out = leave_out(figures, view)
        writers = checkpoints.writers(path / "checkpoints", monitor, config.checkpoint_every)
        # the clock starts when the figures of the epoch before are drawn
        own = [DrawFigures([*figures.values()]), clock, *writers]
        trainer = build_trainer(config, path, [*callbacks.values(), *own])
        if trainer.world_size > 1 and not HydraConfig.initialized():
            raise ConfigError("trainer.devices: several processes need the command line, python -m vae_lab.train")
        last = path / "checkpoints" / "last.ckpt"
        if begun := last.exists():
            trained = checkpoints.restore(module, last)["epoch"] + 1
            if trained > config.trainer.max_epochs:
                raise ConfigError(
                    f"trainer.max_epochs={config.trainer.max_epochs} is less than the {trained} trained so far"
                )
        data.prepare_data()
        data.setup()
        for name, figure in figures.items():
            with blame(f"callbacks.{name}"):
                figure.check(view)
        if not begun:
            start_from_data(module, data)
        made_with = directory.provenance()
        directory.create(path, config, overrides, {**made_with, "model": module.vae.name, "center": view.center})

        say, settings = rank_zero_only(log.info), OmegaConf.to_container(config, resolve=True)
        with (
            directory.recorded(path),
            blame("trainer", only_lightning=True),
            loggers.in_use(trainer.loggers, settings),
        ):
            weights, images = sum(weight.numel() for weight in module.parameters()), len(data.train or ())
            say(f"{weights:,} parameters, {images:,} training images, on {trainer.strategy.root_device}")
            if left_out:
                rank_zero_only(log.warning)(f"figures left out: {left_out}")
            with compiled.compiling() if config.compile else nullcontext():
                trainer.fit(module, data, ckpt_path=last if begun else None, weights_only=True)
            if not begun and trainer.global_step == 0:
                say("nothing was trained")
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
            with directory.writable(path):  # the file says that the run has ended
                rank_zero_only(directory.write_json)(path / "metrics.json", metrics)
            say(table(module.numbers))
            page = page_of(path) if trainer.is_global_zero else None
            say(f"results are in {relative(path)}" + (f": open {relative(page)}" if page else ""))
    return Run(path, config, module.eval(), data, metrics)


def start_from_data(module: VAEModule, data: ImageData) -> None:
    """Let the parts that have a method `init_from_data` set their parameters from the training's batches."""
    for part in module.modules():
        if hook := getattr(part, "init_from_data", None):
            weight = next(module.parameters())
            with blame("model"), torch.no_grad(), torch.random.fork_rng(devices=[]):
                hook(data.training_batches(weight.device, weight.dtype))


def page_of(path: Path) -> Path | None:
    """Write the page of a finished run, and return it; where that fails, log the reason."""
    try:
        return report.write(path)
    except Exception as error:
        log.warning("report.html failed: %s: %s", type(error).__name__, one_line(error))
        return None


def leave_out(figures: dict[str, Figure], view: View) -> str:
    """Remove the optional figures that do not fit a model; return which, and why."""
    left_out = []
    for name, figure in list(figures.items()):
        if reason := figure.refuses(view):
            if not figure.optional:
                raise ConfigError(f"callbacks.{name}: {reason}")
            if not figure.quiet:
                left_out.append(f"{name} ({reason})")
            del figures[name]
    return ", ".join(left_out)
