"""Differences between configurations, and the changes that are allowed on resume."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import MISSING, DictConfig, OmegaConf

from vae_lab.cli.errors import unknown_key
from vae_lab.cli.schema import Config, check_values
from vae_lab.cli.text import relative
from vae_lab.data import Downloaded
from vae_lab.errors import ConfigError
from vae_lab.figures import Figure
from vae_lab.runs.build import class_of, plain
from vae_lab.runs.directory import is_new, stored_config

# prefixes of the keys that can be changed on resume, and their names in messages
MAY_CHANGE = {"trainer.": "trainer.* (except trainer.precision)", "logger.": "logger.*"}
MAY_CHANGE |= {key: key for key in ("print_every", "checkpoint_every", "data.root", "data.num_workers")}

SAME = {  # equivalent torch classes in the configurations of earlier runs
    "torch.optim.lr_scheduler.MultiStepLR": "vae_lab.training.schedulers.Step",
    "torch.optim.lr_scheduler.CosineAnnealingLR": "vae_lab.training.schedulers.Cosine",
}


def settled(config: DictConfig, path: Path, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration for a run in `path`: on resume, the stored configuration with the overrides applied.

    Raises:
        ConfigError: if the directory contains a run with a different configuration, or an override changes a key that
            cannot be changed on resume.
        DataError: if the run to resume is missing or corrupt.
    """
    if resumes := config.resume is not None:
        if path.resolve() != Path(config.resume).resolve():
            raise ConfigError(f"resume={config.resume}: cannot be combined with hydra.run.dir or a sweep")
        config = resumed_config(config, overrides)
        check_values(config, Config)
    if config.data.get("root") and isinstance(config.data.root, str):
        config.data.root = str(Path(config.data.root).expanduser().absolute())  # valid in any working directory
    if not resumes and not is_new(path) and (found := differences(path, config)):
        raise ConfigError(
            f"{relative(path)}: contains a run with a different configuration ({found[0]}); "
            f"choose a different name or hydra.run.dir, or continue the run with resume={relative(path)}"
        )
    return config


def resumed_config(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return the stored configuration of the run given by `config.resume`, with the overrides applied."""
    stored = stored_config(Path(config.resume))
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key == "resume" or key.startswith("hydra."):
            continue
        figure = key.startswith("callbacks.") and is_figure(OmegaConf.select(stored, ".".join(key.split(".")[:2])))
        if not (figure or key.startswith(tuple(MAY_CHANGE))) or key == "trainer.precision":
            allowed = ", ".join(MAY_CHANGE.values())
            raise ConfigError(f"{key}: cannot be changed on resume; only {allowed} and figure options can be changed")
        if OmegaConf.select(stored, key, default=MISSING) == MISSING:
            parent = key.rpartition(".")[0]
            siblings = OmegaConf.select(stored, parent) if parent else stored
            raise ConfigError(unknown_key(key, siblings if isinstance(siblings, DictConfig) else ()))
        OmegaConf.update(stored, key, override.value())
    return stored


def changes(old: DictConfig, new: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Return the keys that differ, in the order of the new configuration, with old and new values (None if missing).

    Figures and their options are ignored.
    """
    before, after = (dict(flat(without_figures(each))) for each in (old, new))
    for values in (before, after):
        key = "scheduler._target_"
        values |= {key: SAME.get(values[key], values[key])} if key in values else {}
    if class_of(new.data, Downloaded):  # the images are the same in any directory
        after["data.root"] = before["data.root"] = None
    pairs = {key: (before.get(key), after.get(key)) for key in {**after, **before}}
    return {key: (was, now) for key, (was, now) in pairs.items() if was != now}


def differences(path: Path, config: DictConfig) -> list[str]:
    """Return the differences between a configuration and that of the run in the directory `path`, one line per key."""
    ignored = ("print_every", "checkpoint_every", "logger")
    found = changes(stored_config(path), config).items()
    return [f"{key} was {old}, is now {new}" for key, (old, new) in sorted(found) if not key.startswith(ignored)]


def without_figures(config: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain values, without figures, because these do not affect training."""
    values = plain(config)
    callbacks = {name: each for name, each in values.pop("callbacks").items() if not is_figure(each)}
    return {**values, **({"callbacks": callbacks} if callbacks else {})}


def is_figure(callback: Any) -> bool:
    """Return whether the configuration of a callback is null or describes a figure."""
    return callback is None or class_of(callback, Figure) is not None


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full key and the value of each entry in a nested dictionary."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
