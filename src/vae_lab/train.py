"""Train one model: `python -m vae_lab.train model=bernoulli_mlp latent_dim=2`."""

import logging
import platform
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vae_lab import __version__, report
from vae_lab.commandline import compose, in_a_job, launch, relative, table, write_traceback
from vae_lab.config import Config, check_values, validates
from vae_lab.errors import ConfigError

if TYPE_CHECKING:  # heavy, and not for --help
    from pytorch_lightning import Callback, Trainer

    from vae_lab.module import VAEModule
    from vae_lab.runs import Run
    from vae_lab.view import View

log = logging.getLogger(__name__)


def train(overrides: Sequence[str] = ()) -> "Run":
    """Train as the command line does, and return the run: its metrics, module, data and path.

    Args:
        overrides: what would stand on the command line, such as `["model=ae_mlp", "latent_dim=2", "data=digits"]`.

    Raises:
        ConfigError: for a value, or a combination of values, that cannot work.
        DataError: where data, or a run to go on with, are missing or damaged.
        NonFiniteError: where the loss stops being a number.
    """
    config, path = compose("train", overrides)
    return run(config, path, overrides)


def run(config: DictConfig, path: Path, overrides: Sequence[str]) -> "Run":
    """Train what a configuration describes, in the directory `path`; a run that has ended there is loaded."""
    check_values(config, Config)

    from vae_lab import runs

    goes_on = config.resume is not None
    if goes_on:
        if path.resolve() != Path(config.resume).resolve():
            raise ConfigError(f"resume={config.resume} goes on in that directory: leave out hydra.run.dir and sweeps")
        config = runs.resumed_config(config, overrides)
        check_values(config, Config)
    if config.data.get("root") and isinstance(config.data.root, str):
        config.data.root = str(Path(config.data.root).expanduser().absolute())  # for whoever loads it from elsewhere
    if not runs.is_new(path):
        changed = runs.differences(path, config)
        if changed and not goes_on:
            raise ConfigError(
                f"{relative(path)} holds a run of other settings ({changed[0]}): "
                f"give another name or hydra.run.dir, or go on with it by resume={relative(path)}"
            )
        if not changed and runs.stored_metrics(path):
            page = path / "report.html" if (path / "report.html").exists() else page_of(path)
            log.info(
                "%s has ended before: nothing to train%s", relative(path), f": open {relative(page)}" if page else ""
            )
            return runs.load(path)
    from vae_lab.workarounds import lightning

    with lightning.quiet(), lightning.environment():
        return fit(config, path, overrides)


def fit(config: DictConfig, path: Path, overrides: Sequence[str]) -> "Run":
    """Build, train from the last checkpoint where there is one, test the best, and write down the numbers."""
    import pytorch_lightning as pl
    from pytorch_lightning.utilities import rank_zero_only

    from vae_lab import checkpoints, loggers, runs
    from vae_lab.callbacks import Clock, Drawing
    from vae_lab.view import View

    # everything that can be refused is built before data are read, and data are read before anything is written
    pl.seed_everything(config.seed, workers=True, verbose=False)
    module, data = runs.build_module(config), runs.build_data(config)
    clock, monitor = Clock(), what_is_best(config, module)
    writers = checkpoints.writers(path / "checkpoints", monitor, config.checkpoint_every)
    more, view = runs.build_each(config, "callbacks"), View(module.vae, data, epoch=0)
    left_out = leave_out(more, view)
    trainer = build_trainer(config, path, [*more.values(), clock, *writers])  # the clock starts when figures are drawn
    if trainer.world_size > 1 and not in_a_job():
        raise ConfigError("trainer.devices: several processes need the command line, python -m vae_lab.train")
    last = path / "checkpoints" / "last.ckpt"
    begun = last.exists()
    if begun:
        trained = checkpoints.restore(module, last)["epoch"] + 1
        if trained > config.trainer.max_epochs:
            raise ConfigError(
                f"trainer.max_epochs={config.trainer.max_epochs} is less than the {trained} trained so far"
            )
    data.prepare_data()
    data.setup()
    for name, callback in more.items():
        if isinstance(callback, Drawing):
            with runs.blame(f"callbacks.{name}"):
                callback.check(view)
    made_with = provenance()
    runs.create(path, config, overrides, made_with)

    say = rank_zero_only(log.info)
    settings = OmegaConf.to_container(config, resolve=True)
    with recorded(path), accepted(), loggers.in_use(trainer.loggers, settings):
        weights, images = sum(weight.numel() for weight in module.parameters()), len(data.train or ())
        say(f"{weights:,} parameters, {images:,} training images, on {trainer.strategy.root_device}")
        if left_out:
            rank_zero_only(log.warning)(f"figures left out: {left_out}")
        with compiling() if config.compile else nullcontext():
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
        runs.finish(path, metrics)
        say(table(module.numbers))
        page = page_of(path) if trainer.is_global_zero else None
        say(f"results are in {relative(path)}" + (f": open {relative(page)}" if page else ""))
    return runs.Run(path, config, module.eval(), data, metrics)


def page_of(path: Path) -> Path | None:
    """Write the page of a run that has ended, and return it; where that fails, say why and go on."""
    try:
        return report.write(path)
    except Exception as error:
        log.warning("report.html failed: %s: %s", type(error).__name__, " ".join(str(error).split()))
        return None


def what_is_best(config: DictConfig, module: "VAEModule") -> str | None:
    """Return the metric that tells the best checkpoint; None without validation, where the last is the best."""
    from vae_lab.module import UNNORMALISED

    if not validates(config):
        return None
    if not module.vae.encoder.has_density:
        return "val/mse"
    return "val/elbo" if module.normalised else f"val/elbo{UNNORMALISED}"


def build_trainer(config: DictConfig, path: Path, callbacks: list["Callback"]) -> "Trainer":
    """Return Lightning's Trainer with some callbacks, our loggers, and those that the configuration names."""
    from pytorch_lightning.callbacks import TQDMProgressBar
    from pytorch_lightning.plugins.io import CheckpointIO

    from vae_lab import checkpoints, loggers, runs
    from vae_lab.workarounds import lightning

    bar = config.trainer.enable_progress_bar
    if bar is None:
        bar = sys.stdout.isatty()
    bars = [TQDMProgressBar(refresh_rate=20)] if bar else []
    lines = [] if bar else [loggers.Lines(config.print_every, config.trainer.max_epochs)]
    more = runs.build_each(config, "logger").items()
    plugins = runs.build(config.trainer, "plugins") if config.trainer.get("plugins") else []
    plugins = plugins if isinstance(plugins, list) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(checkpoints.Files())
    trainer = runs.build(config, "trainer", _partial_=True)  # Hydra would make dictionaries of dataclasses
    with runs.blame("trainer"):
        return trainer(
            default_root_dir=str(path),
            callbacks=[*callbacks, *bars],
            logger=[
                loggers.Curves(path / "metrics.csv"),
                *lines,
                *(in_folder(name, each, path) for name, each in more),
            ],
            enable_progress_bar=bar,
            plugins=plugins,
            **({} if config.trainer.get("profiler") else {"profiler": lightning.profiler()}),
        )


def leave_out(callbacks: dict[str, "Callback"], view: "View") -> str:
    """Take figures that do not fit a model from the callbacks where they need not be drawn; return which, and why.

    Raises:
        ConfigError: for a figure that was asked for and does not fit.
    """
    from vae_lab.callbacks import Drawing

    left_out = []
    for name, callback in list(callbacks.items()):
        reason = callback.refuses(view) if isinstance(callback, Drawing) else None
        if reason is None:
            continue
        assert isinstance(callback, Drawing)
        if not callback.optional:
            raise ConfigError(f"callbacks.{name}: {reason}")
        if not callback.quiet:
            left_out.append(f"{name} ({reason})")
        del callbacks[name]
    return ", ".join(left_out)


def in_folder(name: str, logger: Any, path: Path) -> Any:
    """Return a logger; one that is still to be made is given the run's directory as its own."""
    from vae_lab import runs

    if not isinstance(logger, partial):
        return logger
    with runs.blame(f"logger.{name}"):
        return logger(save_dir=str(path))


@contextmanager
def recorded(path: Path) -> Iterator[None]:
    """Keep what is said, and what goes wrong, in the run's `train.log`; print it where nobody has set up logging."""
    root, ours = logging.getLogger(), logging.getLogger("vae_lab")
    level = ours.level
    file = logging.FileHandler(path / "train.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handlers: list[logging.Handler] = [file]
    if not root.handlers:
        handlers.append(logging.StreamHandler(sys.stdout))
    ours.setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    except Exception as error:
        write_traceback(path / "train.log", error)
        raise
    finally:
        ours.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


@contextmanager
def accepted() -> Iterator[None]:
    """Say in one line what Lightning itself refuses when the training has begun, such as a metric that there is not.

    Raises:
        ConfigError: in place of what Lightning raises; errors of anything that it calls stay as they are.
    """
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    try:
        yield
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if isinstance(error, MisconfigurationException) or "pytorch_lightning" in raised_in.parts:
            raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
        raise


@contextmanager
def compiling() -> Iterator[None]:
    """Say in one line why something cannot be compiled.

    Raises:
        ConfigError: where there is no compiler, or something that it does not know.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = str(getattr(error, "inner_exception", error)).strip().partition("\n")[0]
        raise ConfigError(f"compile=true does not work here: {reason}") from error


def provenance() -> dict[str, Any]:
    """Return what the numbers were made with: versions of the packages, and the revision of a checkout."""
    packages = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")
    return {
        "git/revision": revision(),
        "version/vae-lab": __version__,
        "version/python": platform.python_version(),
        **{f"version/{package}": metadata.version(package) for package in packages},
    }


def revision() -> str | None:
    """Return the git revision of the source, with `-dirty` where files have changed; None where it is no checkout."""
    source = Path(__file__).resolve().parent
    if not (source.parents[1] / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def main() -> None:
    """Run the command line."""
    launch(run, "train")


if __name__ == "__main__":
    main()
