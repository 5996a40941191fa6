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
    checkpoint_every: int | None = None
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


def is_between(least: float, most: float) -> Callable[[Any], bool]:
    """Return a test for numbers from `least` to `most`, both included."""
    return lambda value: is_number(value) and least <= value <= most


def is_inside(least: float, most: float) -> Callable[[Any], bool]:
    """Return a test for numbers between `least` and `most`, both left out."""
    return lambda value: is_number(value) and least < value < most


def all_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a test for lists of values that pass a test."""
    return lambda values: OmegaConf.is_list(values) and all(map(test, values))


def one_or_all_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a test for a value that passes a test, or a list of such."""
    return lambda value: all_of(test)(value) or test(value)


def or_null(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a test for null, or what passes a test."""
    return lambda value: value is None or test(value)


# What encoder and decoder are held to; those made of convolutions hold a network of linear layers, too.
NETWORK: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "hidden": ("a list of whole numbers of at least 1", all_of(whole(1))),
    "channels": (
        "null or a list of whole numbers of at least 1",
        or_null(lambda v: all_of(whole(1))(v) and len(v) > 0),
    ),
    **{
        name: ("a whole number of at least 1, or a list of one for each layer", one_or_all_of(whole(1)))
        for name in ("kernel", "stride", "pool")
    },
    "dropout": ("a number from 0 to below 1, or a list of one for each layer", one_or_all_of(is_fraction)),
    "activate_output": ("true or false", one_of(True, False)),
    "init": ("default, kaiming or xavier", one_of("default", "kaiming", "xavier")),
}

# What a key has to be, in words and as a test. A key that a part does not have is not looked at; what a part alone
# can know, such as the names of its layers, it checks itself when it is built.
RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("letters, digits, . _ and -", lambda v: re.fullmatch(r"\w[\w.-]*", v, re.ASCII) is not None),
    "latent_dim": ("a whole number of at least 1", whole(1)),
    "seed": ("a whole number from 0 to 4294967295", whole(0, 2**32 - 1)),
    "print_every": ("a whole number of at least 1", whole(1)),
    "checkpoint_every": ("null or a whole number of at least 1", or_null(whole(1))),
    "resume": ("null or the directory of a run", lambda v: v is None or v != ""),
    "data.shape": (
        "three whole numbers of at least 1: channels, height, width",
        lambda v: all_of(whole(1))(v) and len(v) == 3,
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
    "data.classes": ("null or a whole number of at least 1", or_null(whole(1))),
    "data.test_fraction": ("a number above 0 and below 1", is_inside(0, 1)),
    "data.skip_unreadable": ("true or false", one_of(True, False)),
    "data.rotation": ("a number of degrees from 0 to 180", is_between(0, 180)),
    "data.shift": ("a whole number of pixels, at least 0", whole(0)),
    "data.seed": ("a whole number of at least 0", whole(0)),
    "data.num_workers": ("a whole number of at least 0", whole(0)),
    **{f"noise.{amount}": ("a number from 0 to 1", is_between(0, 1)) for amount in ("p", "amount", "side")},
    "noise.std": ("a number of at least 0", is_between(0, math.inf)),
    "noise.eval": ("true or false", one_of(True, False)),
    **{
        f"{owner}.{name}": rule
        for owner in ("encoder", "encoder.linear", "decoder", "decoder.linear")
        for name, rule in NETWORK.items()
        if not owner.endswith("linear") or name in ("hidden", "dropout", "activate_output", "init")
    },
    "likelihood.scale": ("a number above 0", is_inside(0, math.inf)),
    "likelihood.min_scale": ("a number above 0", is_inside(0, math.inf)),
    "objective.beta": ("a number of at least 0", is_between(0, math.inf)),
    "objective.warmup_steps": ("a whole number of at least 0", whole(0)),
    "objective.samples": ("a whole number of at least 1", whole(1)),
    "optimizer.weight_decay": ("a number of at least 0", is_between(0, math.inf)),
    "optimizer.lr": ("a number above 0", is_inside(0, math.inf)),
    "scheduler.monitor": ("training or validation", one_of("training", "validation")),
    "scheduler.factor": ("a number above 0 and below 1", is_inside(0, 1)),
    "scheduler.gamma": ("a number above 0 and below 1", is_inside(0, 1)),
    "scheduler.patience": ("a whole number of at least 0", whole(0)),
    "scheduler.cooldown": ("a whole number of at least 0", whole(0)),
    "scheduler.step_size": ("a whole number of at least 1", whole(1)),
    "scheduler.T_max": ("a whole number of at least 0", whole(0)),
    **{
        f"scheduler.{name}": ("a number of at least 0", is_between(0, math.inf))
        for name in ("threshold", "min_lr", "eta_min")
    },
    "trainer.max_epochs": ("a whole number of at least 0", whole(0)),
    "trainer.accumulate_grad_batches": ("a whole number of at least 1", whole(1)),
    "trainer.check_val_every_n_epoch": ("null or a whole number of at least 1", or_null(whole(1))),
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
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{missing[0]} has no value: give it as {missing[0]}=…")
    for key, (allowed, holds) in RULES.items():
        group, _, name = key.rpartition(".")
        owner = OmegaConf.select(config, group) if group else config
        if not OmegaConf.is_dict(owner) or name not in owner or is_foreign(group, owner):
            continue
        value = owner.get(name)
        if not holds(value):
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
    scheduler = config.scheduler
    if scheduler.get("monitor") == "validation" and not validates(config):
        raise ConfigError(
            "scheduler.monitor=validation needs a validation, and data.val_fraction or trainer.limit_val_batches is 0"
        )
    if scheduler.get("T_max", math.inf) < config.trainer.max_epochs:
        raise ConfigError(
            f"trainer.max_epochs={config.trainer.max_epochs} is more than scheduler.T_max={scheduler.T_max}, where the "
            "cosine ends: the learning rate would rise again"
        )
    if not is_normalised(config) and config.data.binarize not in ("auto", "none"):
        raise ConfigError(
            f"data.binarize={config.data.binarize} gives binary pixels, and {config.likelihood._target_} is for grey "
            "ones: use likelihood=bernoulli, or data.binarize=none"
        )
    binary_only = takes_binary_only(config)
    if binary_only and config.data.binarize == "none":
        raise ConfigError(
            f"data.binarize=none gives grey values, and {config.likelihood._target_} is a likelihood of 0 and 1 alone: "
            "use data.binarize=auto, threshold, dynamic or static, or likelihood=gaussian"
        )
    if binary_only and config.data.shape[0] != 1:
        raise ConfigError(
            f"{config.likelihood._target_} is a likelihood of binary pixels, and data of shape "
            f"{list(config.data.shape)} have colours: use likelihood=gaussian, gaussian_shared or gaussian_learned"
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


def is_normalised(config: DictConfig) -> bool:
    """Tell whether the likelihood is one, with every constant."""
    return getattr(part(config, "likelihood"), "normalised", True)


def validates(config: DictConfig) -> bool:
    """Tell whether there is a validation in the training."""
    return bool(config.data.val_fraction) and config.trainer.limit_val_batches != 0


def is_foreign(group: str, owner: DictConfig) -> bool:
    """Tell whether a part is the user's own, which knows its values itself; data sets all share `ImageData`'s."""
    package = str(owner.get("_target_", "vae_lab")).partition(".")[0]
    return group != "data" and package not in ("vae_lab", "torch", "pytorch_lightning")


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
