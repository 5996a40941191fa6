"""The typed root of the configuration, and the one check of values and combinations."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from vae_lab.errors import ConfigError


@dataclass
class Config:
    """Types of the root's own values; each group is a part from the folder of the same name in `conf/`."""

    name: str = MISSING
    latent_dim: int = MISSING
    seed: int = MISSING
    print_every: int = MISSING
    resume: str | None = None
    data: dict[str, Any] = MISSING
    noise: dict[str, Any] = MISSING
    encoder: dict[str, Any] = MISSING
    decoder: dict[str, Any] = MISSING
    posterior: dict[str, Any] = MISSING
    likelihood: dict[str, Any] = MISSING
    prior: dict[str, Any] = MISSING
    objective: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    scheduler: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    callbacks: dict[str, Any] = MISSING
    logger: dict[str, Any] = MISSING


def whole(least: int, most: float = math.inf) -> Callable[[Any], bool]:
    """Return a test for whole numbers from `least` to `most`."""
    return lambda value: type(value) is int and least <= value <= most


def one_of(*options: Any) -> Callable[[Any], bool]:
    """Return a test for one of a few values."""
    return lambda value: any(value is option or (value == option and isinstance(value, str)) for option in options)


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number, and no truth value."""
    return type(value) in (int, float) and math.isfinite(value)


def is_fraction(value: Any) -> bool:
    """Tell whether a value is a number from 0 to below 1."""
    return is_number(value) and 0 <= value < 1


def are_whole(values: Any) -> bool:
    """Tell whether a value is a list of whole numbers of at least 1."""
    return OmegaConf.is_list(values) and all(map(whole(1), values))


# What a key has to be, in words and as a test. A key that a part does not have is not looked at; what a part alone
# can know, such as the names of its layers, it checks itself when it is built.
RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("letters, digits, . _ and -", lambda v: re.fullmatch(r"\w[\w.-]*", v, re.ASCII) is not None),
    "latent_dim": ("a whole number of at least 1", whole(1)),
    "seed": ("a whole number from 0 to 4294967295", whole(0, 2**32 - 1)),
    "print_every": ("a whole number of at least 1", whole(1)),
    "resume": ("null or the directory of a run", lambda v: v is None or v != ""),
    "data.shape": (
        "three whole numbers of at least 1: channels, height, width",
        lambda v: are_whole(v) and len(v) == 3,
    ),
    "data.batch_size": ("a whole number of at least 1", whole(1)),
    "data.val_fraction": (
        "a fraction from 0 to below 1, or a number of images, at least 2",
        lambda v: is_fraction(v) or whole(2)(v),
    ),
    "data.binarize": (
        "auto, none, threshold, dynamic or static",
        one_of("auto", "none", "threshold", "dynamic", "static"),
    ),
    "data.binarize_input": ("true or false", one_of(True, False)),
    "data.seed": ("a whole number of at least 0", whole(0)),
    "data.num_workers": ("a whole number of at least 0", whole(0)),
    **{f"{network}.hidden": ("a list of whole numbers of at least 1", are_whole) for network in ("encoder", "decoder")},
    **{f"{network}.dropout": ("a number from 0 to below 1", is_fraction) for network in ("encoder", "decoder")},
    "likelihood.scale": ("a number above 0", lambda v: is_number(v) and v > 0),
    "objective.beta": ("a number of at least 0", lambda v: is_number(v) and v >= 0),
    "objective.warmup_steps": ("a whole number of at least 0", whole(0)),
    "objective.samples": ("a whole number of at least 1", whole(1)),
    "optimizer.weight_decay": ("a number of at least 0", lambda v: is_number(v) and v >= 0),
    "optimizer.lr": ("a number above 0", lambda v: is_number(v) and v > 0),
    "trainer.max_epochs": ("a whole number of at least 0", whole(0)),
    "trainer.accumulate_grad_batches": ("a whole number of at least 1", whole(1)),
    "trainer.check_val_every_n_epoch": ("null or a whole number of at least 1", lambda v: v is None or whole(1)(v)),
    # heads and sums need 32 bits, and grey values more than bfloat16 has
    "trainer.precision": (
        "null, 32-true, 64-true, 16-mixed or bf16-mixed",
        one_of(None, "32-true", "64-true", "16-mixed", "bf16-mixed"),
    ),
}


def check(config: DictConfig) -> None:
    """Check every value that has a rule, then how the parts go together, before any data is read.

    Raises:
        ConfigError: for the first that cannot work; one line with the key, the value and what is allowed.
    """
    for key, (allowed, holds) in RULES.items():
        group, _, name = key.rpartition(".")
        owner = config[group] if group else config
        value = owner.get(name)
        if name in owner and not holds(value):
            raise ConfigError(f"{key}={value} must be {allowed}")
    for group in ("data", "noise", "encoder", "decoder", "posterior", "likelihood", "prior", "objective", "optimizer"):
        part(config, group)
    needs_density = getattr(part(config, "objective"), "needs_density", False)
    if needs_density and not has_density(config):
        raise ConfigError(
            f"objective={config.objective._target_} needs a posterior with a density, and "
            f"{config.posterior._target_} has none: use posterior=normal, or objective=reconstruction"
        )
    mixed = str(config.trainer.get("precision")).endswith("-mixed")
    if mixed and config.trainer.get("gradient_clip_val") is not None and config.optimizer.get("fused"):
        raise ConfigError("trainer.gradient_clip_val with a mixed trainer.precision needs optimizer.fused=false")
    binary_only = takes_binary_only(config)
    if binary_only and config.data.binarize == "none":
        raise ConfigError(
            f"data.binarize=none gives grey values, and {config.likelihood._target_} is a likelihood of 0 and 1 alone: "
            "use data.binarize=auto, threshold, dynamic or static, or likelihood=gaussian"
        )
    if binary_only and config.data.shape[0] != 1:
        raise ConfigError(
            f"{config.likelihood._target_} is a likelihood of binary pixels, and data of shape "
            f"{list(config.data.shape)} have colours: use likelihood=gaussian"
        )


def binarization(config: DictConfig) -> str:
    """Return what `data.binarize` stands for: `auto` is `threshold` for a likelihood of 0 and 1 alone, else `none`."""
    if config.data.binarize != "auto":
        return config.data.binarize
    return "threshold" if takes_binary_only(config) else "none"


def takes_binary_only(config: DictConfig) -> bool:
    """Tell whether the likelihood's `support` is {0, 1}; any other takes every value from 0 to 1."""
    from torch.distributions import constraints

    support = getattr(part(config, "likelihood"), "support", None)
    if support is None:
        raise ConfigError(f"likelihood._target_={config.likelihood._target_} must state the `support` of its pixels")
    return support is constraints.boolean


def has_density(config: DictConfig) -> bool:
    """Tell whether the posterior has a density, and so an ELBO."""
    return getattr(part(config, "posterior"), "has_density", True)


def part(config: DictConfig, group: str) -> Any:
    """Return the class that a group names as its `_target_`.

    Raises:
        ConfigError: where it names none, or there is no such thing.
    """
    target = config[group].get("_target_")
    if target is None:
        raise ConfigError(f"{group} has no _target_, so it is no part: --help lists those there are")
    try:
        return resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{group}._target_={target} cannot be imported: {error}") from error
