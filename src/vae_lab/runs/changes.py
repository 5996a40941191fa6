"""What differs between two configurations, and what of it may change on resume."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import MISSING, DictConfig, OmegaConf

from vae_lab.cli.schema import Config, check_values
from vae_lab.cli.text import relative
from vae_lab.data import Downloaded
from vae_lab.errors import ConfigError
from vae_lab.figures import Figure
from vae_lab.runs.build import class_of, plain
from vae_lab.runs.directory import is_new, stored_config

MAY_CHANGE = ("trainer.", "logger.", "print_every", "checkpoint_every", "data.root", "data.num_workers")  # on resume


SAME = {  # classes of ours that stand in the place of torch's, which earlier runs have
    "torch.optim.lr_scheduler.MultiStepLR": "vae_lab.training.schedulers.Step",
    "torch.optim.lr_scheduler.CosineAnnealingLR": "vae_lab.training.schedulers.Cosine",
}


def settled(config: DictConfig, path: Path, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration that a training in the directory `path` has: on resume, the stored one with the changes.

    Raises:
        ConfigError: where the directory holds a run with different settings, or a change is not possible on resume.
        DataError: where there is nothing to resume, or it is damaged.
    """
    if resumes := config.resume is not None:
        if path.resolve() != Path(config.resume).resolve():
            raise ConfigError(f"resume={config.resume} goes on in that directory: leave out hydra.run.dir and sweeps")
        config = resumed_config(config, overrides)
        check_values(config, Config)
    if config.data.get("root") and isinstance(config.data.root, str):
        config.data.root = str(Path(config.data.root).expanduser().absolute())  # for whoever loads it from elsewhere
    if not resumes and not is_new(path) and (found := differences(path, config)):
        raise ConfigError(
            f"{relative(path)} holds a run of other settings ({found[0]}): "
            f"give another name or hydra.run.dir, or go on with it by resume={relative(path)}"
        )
    return config


def resumed_config(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return the stored configuration of the run `config.resume`, with the changes of the command line."""
    stored = stored_config(Path(config.resume))
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key == "resume" or key.startswith("hydra."):
            continue
        figure = key.startswith("callbacks.") and is_figure(OmegaConf.select(stored, ".".join(key.split(".")[:2])))
        if not (figure or key.startswith(MAY_CHANGE)) or key == "trainer.precision":
            raise ConfigError(
                f"{key} cannot change with resume={config.resume}: only {', '.join(MAY_CHANGE)} and options of the "
                "run's figures can, not the precision"
            )
        if OmegaConf.select(stored, key, default=MISSING) == MISSING:
            raise ConfigError(f"{key} is no key of the run in {config.resume}")
        OmegaConf.update(stored, key, override.value())
    return stored


def changes(old: DictConfig, new: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Return the keys that differ, in the order of the second configuration, each with both values; None is no value.

    Figures and their options do not differ.
    """
    before, after = (dict(flat(without_figures(each))) for each in (old, new))
    for values in (before, after):
        key = "scheduler._target_"
        values |= {key: SAME.get(values[key], values[key])} if key in values else {}
    if class_of(new.data, Downloaded):  # the same images wherever they lie
        after["data.root"] = before["data.root"] = None
    pairs = {key: (before.get(key), after.get(key)) for key in {**after, **before}}
    return {key: (was, now) for key, (was, now) in pairs.items() if was != now}


def differences(path: Path, config: DictConfig) -> list[str]:
    """Return what makes a configuration that of another run than a directory holds, one line a key."""
    ignored = ("print_every", "checkpoint_every", "logger")
    found = changes(stored_config(path), config).items()
    return [f"{key} was {old}, is {new}" for key, (old, new) in sorted(found) if not key.startswith(ignored)]


def without_figures(config: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain values, without the figures, which change nothing in a training."""
    values = plain(config)
    callbacks = {name: each for name, each in values.pop("callbacks").items() if not is_figure(each)}
    return {**values, **({"callbacks": callbacks} if callbacks else {})}


def is_figure(callback: Any) -> bool:
    """Tell whether a callback's configuration is that of a figure, or of nothing."""
    return callback is None or class_of(callback, Figure) is not None


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of nested dictionaries, and their values."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
