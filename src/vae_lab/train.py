"""Train one model: `python -m vae_lab.train model=bernoulli_mlp latent_dim=2`."""

import logging
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vae_lab import __version__
from vae_lab.commandline import compose, environment, in_a_job, launch, write_traceback
from vae_lab.config import check, has_density, is_normalised, validates
from vae_lab.errors import ConfigError

if TYPE_CHECKING:  # heavy, and not for --help
    from pytorch_lightning import Callback, Trainer

    from vae_lab.runs import Run

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
    check(config)

    from vae_lab import runs

    goes_on = config.resume is not None
    if goes_on:
        if path.resolve() != Path(config.resume).resolve():
            raise ConfigError(f"resume={config.resume} goes on in that directory: leave out hydra.run.dir and sweeps")
        config = runs.resumed_config(config, overrides)
        check(config)
    if "root" in config.data:
        config.data.root = str(Path(config.data.root).expanduser().absolute())  # for whoever loads it from elsewhere
    if not runs.is_new(path):
        changed = runs.differences(path, config)
        if changed and not goes_on:
            raise ConfigError(
                f"{relative(path)} holds a run of other settings ({changed[0]}): "
                f"give another name or hydra.run.dir, or go on with it by resume={relative(path)}"
            )
        if not changed and runs.stored_metrics(path):
            log.info("%s has ended before: nothing to train", relative(path))
            return runs.load(path)
    with quiet():
        return fit(config, path, overrides)


def fit(config: DictConfig, path: Path, overrides: Sequence[str]) -> "Run":
    """Build, train from the last checkpoint where there is one, test the best, and write down the numbers."""
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.utilities import rank_zero_only

    from vae_lab import checkpoints, loggers, runs
    from vae_lab.callbacks import Clock

    # everything that can be refused is built before data are read, and data are read before anything is written
    pl.seed_everything(config.seed, workers=True, verbose=False)
    module, data = runs.build_module(config), runs.build_data(config)
    clock, monitor = Clock(), what_is_best(config)
    writers = checkpoints.writers(path / "checkpoints", monitor, config.checkpoint_every)
    trainer = build_trainer(config, path, [clock, *writers])
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
    runs.create(path, config, overrides)

    say = rank_zero_only(log.info)
    settings = OmegaConf.to_container(config, resolve=True)
    kept = environment("WANDB_MODE", os.environ.get("WANDB_MODE"))  # Lightning sets it for the whole process
    # Lightning sets this, too: where there is no CUDA, every step of an optimizer would look for NVIDIA's library
    check = "PYTORCH_NVML_BASED_CUDA_CHECK"
    unasked = environment(check, os.environ.get(check) if torch.cuda.is_available() else None)
    with recorded(path), kept, unasked, loggers.in_use(trainer.loggers, settings):
        weights, images = sum(weight.numel() for weight in module.parameters()), len(data.train or ())
        say(f"{weights:,} parameters, {images:,} training images, on {trainer.strategy.root_device}")
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
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seconds": clock.totals["seconds"],
            "images_per_second": clock.totals["images"] / (clock.totals["step_seconds"] or 1),
            **provenance(),
        }
        runs.finish(path, metrics)
        say(table(module.numbers))
        say(f"results are in {relative(path)}")
    return runs.Run(path, config, module.eval(), data, metrics)


def what_is_best(config: DictConfig) -> str | None:
    """Return the metric that tells the best checkpoint; None without validation, where the last is the best."""
    from vae_lab.module import UNNORMALISED

    if not validates(config):
        return None
    if not has_density(config):
        return "val/mse"
    return "val/elbo" if is_normalised(config) else f"val/elbo{UNNORMALISED}"


def build_trainer(config: DictConfig, path: Path, callbacks: list["Callback"]) -> "Trainer":
    """Return Lightning's Trainer with our callbacks and loggers, then those that the configuration names."""
    from pytorch_lightning.callbacks import TQDMProgressBar
    from pytorch_lightning.plugins.io import CheckpointIO

    from vae_lab import checkpoints, loggers, runs
    from vae_lab.callbacks import NoProfiler

    bar = config.trainer.enable_progress_bar
    if bar is None:
        bar = sys.stdout.isatty()
    bars = [TQDMProgressBar(refresh_rate=20)] if bar else []
    lines = [] if bar else [loggers.Lines(config.print_every, config.trainer.max_epochs)]
    more = runs.build(config, "logger").items()
    plugins = runs.build(config.trainer, "plugins") if config.trainer.get("plugins") else []
    plugins = plugins if isinstance(plugins, list) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(checkpoints.Files())
    return runs.build(
        config,
        "trainer",
        default_root_dir=str(path),
        callbacks=[*callbacks, *bars, *runs.build(config, "callbacks").values()],
        logger=[loggers.Curves(path / "metrics.csv"), *lines, *(in_folder(name, each, path) for name, each in more)],
        enable_progress_bar=bar,
        plugins=plugins,
        **({} if config.trainer.get("profiler") else {"profiler": NoProfiler()}),
    )


def in_folder(name: str, logger: Any, path: Path) -> Any:
    """Return a logger; one that is still to be made is given the run's directory as its own."""
    from vae_lab import runs

    if not isinstance(logger, partial):
        return logger
    with runs.blame(f"logger.{name}"):
        return logger(save_dir=str(path))


def table(results: dict[str, float]) -> str:
    """Return `stage/name` numbers as a table of a row for each name and a column for each stage."""
    if not results:
        return "nothing was evaluated"
    stages, names = (list(dict.fromkeys(parts)) for parts in zip(*(key.split("/") for key in results), strict=True))
    width = max(len(name) for name in names) + 2
    rows = [" " * width + "".join(f"{stage:>12}" for stage in stages)]
    rows += [f"{name:{width}}" + "".join(f"{results[f'{stage}/{name}']:12.6g}" for stage in stages) for name in names]
    return "\n".join(rows)


def relative(path: Path) -> Path:
    """Return a path as seen from the working directory, where it lies below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


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


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Lightning says on every run and nobody can act on, and put back what it sets for the process."""
    import torch

    deterministic = torch.are_deterministic_algorithms_enabled()
    # the last is the compiler's, about a CUDA that is not used
    levels = {
        "pytorch_lightning": logging.WARNING,
        "pytorch_lightning.profilers": logging.INFO,  # somebody asked for it
        "torch.utils.cpp_extension": logging.ERROR,
    }
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    with warnings.catch_warnings():
        for said in (
            "does not have many workers",
            "smaller than the logging interval",
            "treespec",
            "is not empty",
            "sync_dist",
            "across ranks is zero",
            "could not find the monitored key",
            "Be aware that when using",
        ):
            warnings.filterwarnings("ignore", f".*{said}")
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)
            torch.use_deterministic_algorithms(deterministic)


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
