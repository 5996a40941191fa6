"""The typed root of the configuration, and the one check of values and combinations."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any, NamedTuple

from omegaconf import MISSING, DictConfig, OmegaConf

from vae_lab.errors import ConfigError


@dataclass
class Config:
    """Types of the root's own values; each group is a part from the folder of the same name in `conf/`."""

    name: str = MISSING
    latent_dim: int = MISSING
    seed: int = MISSING
    print_every: int = MISSING
    compile: bool = False
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


@dataclass
class Finished:
    """Types of the values that the commands on a finished run share."""

    run: str = MISSING
    checkpoint: str = "best"
    device: str = "auto"
    out: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    """Types of the root's own values of `report`."""

    run: str = MISSING
    out: str | None = None


@dataclass
class Evaluate(Finished):
    """Types of the root's own values of `evaluate`."""

    seed: int | None = None


@dataclass
class Generate(Finished):
    """Types of the root's own values of `generate`."""

    figure: Any = None
    labels: list[Any] | None = None
    n: int | None = None
    scale: int | None = None
    seed: int | None = None
    format: str | None = None
    animate: bool = False
    figures: dict[str, Any] = field(default_factory=dict)


class Rule(NamedTuple):
    """What a value has to be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number, and no truth value."""
    return type(value) in (int, float) and math.isfinite(value)


def whole(least: int, most: float = math.inf) -> Rule:
    """Return the rule for whole numbers from `least` to `most`."""
    words = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
    return Rule(f"a whole number {words}", lambda value: type(value) is int and least <= value <= most)


def one_of(*options: str | None) -> Rule:
    """Return the rule for one of a few words, None being null."""
    *first, last = ["null" if option is None else option for option in options]
    return Rule(
        f"{', '.join(first)} or {last}",
        lambda value: (value is None or isinstance(value, str)) and value in options,
    )


def or_null(rule: Rule) -> Rule:
    """Return the rule for null, or what another holds for."""
    return Rule(f"null or {rule.words}", lambda value: value is None or rule.holds(value))


def is_list_of(rule: Rule, value: Any) -> bool:
    """Tell whether a value is a list of values that a rule holds for."""
    return OmegaConf.is_list(value) and all(map(rule.holds, value))


def each_layer(rule: Rule) -> Rule:
    """Return the rule for a value that another holds for, or a list of such."""
    return Rule(
        f"{rule.words}, or a list of one for each layer",
        lambda value: rule.holds(value) or is_list_of(rule, value),
    )


AT_LEAST_0, AT_LEAST_1, SEED = whole(0), whole(1), whole(0, 2**32 - 1)
POSITIVE = Rule("a number above 0", lambda value: is_number(value) and value > 0)
NOT_NEGATIVE = Rule("a number of at least 0", lambda value: is_number(value) and value >= 0)
PROBABILITY = Rule("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1)
BELOW_1 = Rule("a number from 0 to below 1", lambda value: is_number(value) and 0 <= value < 1)
INSIDE_0_1 = Rule("a number above 0 and below 1", lambda value: is_number(value) and 0 < value < 1)
TRUE_OR_FALSE = Rule("true or false", lambda value: isinstance(value, bool))
WORD = Rule("a word", lambda value: isinstance(value, str))
LAYER = Rule("the name of a torch.nn layer or null", lambda value: value is None or isinstance(value, str))
COUNTS = Rule("a list of whole numbers of at least 1", lambda value: is_list_of(AT_LEAST_1, value))

# What encoder and decoder are held to; those made of convolutions hold a network of linear layers, too.
LINEAR = {
    "hidden": COUNTS,
    "dropout": each_layer(BELOW_1),
    "activation": each_layer(LAYER),
    "norm": each_layer(LAYER),
    "order": Rule("a list of words", lambda value: is_list_of(WORD, value)),
    "activate_output": TRUE_OR_FALSE,
    "init": one_of("default", "kaiming", "xavier"),
}
NETWORK = {
    **LINEAR,
    "channels": or_null(Rule(f"{COUNTS.words}, not empty", lambda value: COUNTS.holds(value) and len(value) > 0)),
    "kernel": each_layer(AT_LEAST_1),
    "stride": each_layer(AT_LEAST_1),
}

# The rule of each key. A key that a part does not have is not looked at; what a part alone can know, such as the names
# of its layers, it checks itself when it is built.
RULES: dict[str, Rule] = {
    "name": Rule("letters, digits, . _ and -", lambda value: re.fullmatch(r"\w[\w.-]*", value, re.ASCII) is not None),
    "latent_dim": AT_LEAST_1,
    "seed": SEED,
    "print_every": AT_LEAST_1,
    "checkpoint_every": or_null(AT_LEAST_1),
    "resume": Rule("null or the directory of a run", lambda value: value is None or value != ""),
    "data.shape": Rule(
        "three whole numbers of at least 1: channels, height, width",
        lambda value: COUNTS.holds(value) and len(value) == 3,
    ),
    "data.root": Rule("the path of a folder", lambda value: isinstance(value, str) and value != ""),
    "data.classes": or_null(AT_LEAST_1),
    "data.batch_size": AT_LEAST_1,
    "data.val_fraction": Rule(
        "a fraction from 0 to below 1, or a number of images, at least 2",
        lambda value: BELOW_1.holds(value) or whole(2).holds(value),
    ),
    "data.test_fraction": INSIDE_0_1,
    "data.skip_unreadable": TRUE_OR_FALSE,
    "data.binarize": one_of("auto", "none", "threshold", "dynamic", "static"),
    "data.binarize_input": TRUE_OR_FALSE,
    "data.rotation": Rule("a number of degrees from 0 to 180", lambda value: is_number(value) and 0 <= value <= 180),
    "data.shift": AT_LEAST_0,
    "data.seed": AT_LEAST_0,
    "data.num_workers": AT_LEAST_0,
    "noise.p": PROBABILITY,
    "noise.amount": PROBABILITY,
    "noise.side": PROBABILITY,
    "noise.std": NOT_NEGATIVE,
    "noise.eval": TRUE_OR_FALSE,
    **{f"{network}.{key}": rule for network in ("encoder", "decoder") for key, rule in NETWORK.items()},
    **{f"{network}.linear.{key}": rule for network in ("encoder", "decoder") for key, rule in LINEAR.items()},
    "encoder.pool": each_layer(AT_LEAST_1),
    "likelihood.scale": POSITIVE,
    "likelihood.min_scale": POSITIVE,
    "objective.beta": NOT_NEGATIVE,
    "objective.warmup_steps": AT_LEAST_0,
    "objective.samples": AT_LEAST_1,
    "optimizer.lr": POSITIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "scheduler.monitor": one_of("training", "validation"),
    "scheduler.factor": INSIDE_0_1,
    "scheduler.patience": AT_LEAST_0,
    "scheduler.threshold": NOT_NEGATIVE,
    "scheduler.cooldown": AT_LEAST_0,
    "scheduler.min_lr": NOT_NEGATIVE,
    "scheduler.milestones": COUNTS,
    "scheduler.gamma": POSITIVE,
    "scheduler.T_max": AT_LEAST_0,
    "scheduler.eta_min": NOT_NEGATIVE,
    "trainer.max_epochs": AT_LEAST_0,
    "trainer.accumulate_grad_batches": AT_LEAST_1,
    "trainer.check_val_every_n_epoch": or_null(AT_LEAST_1),
    # heads and sums need 32 bits, and grey values more than bfloat16 has
    "trainer.precision": one_of(None, "32-true", "64-true", "16-mixed", "bf16-mixed"),
}


# The same for `generate`; what a figure alone can know, it checks itself.
GENERATE_RULES: dict[str, Rule] = {
    "seed": or_null(SEED),
    "labels": or_null(Rule("a list of classes", lambda value: OmegaConf.is_list(value) and len(value) > 0)),
    "n": or_null(AT_LEAST_1),
    "scale": or_null(AT_LEAST_1),
    "format": one_of(None, "npz", "png"),
}


def check_values(config: DictConfig, rules: dict[str, Rule]) -> None:
    """Check that every value is there, and that every one that has a rule follows it.

    Raises:
        ConfigError: for the first that does not; one line with the key, the value and what is allowed.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{missing[0]} has no value: give it as {missing[0]}=…")
    for key, rule in rules.items():
        group, _, name = key.rpartition(".")
        owner = OmegaConf.select(config, group) if group else config
        if not OmegaConf.is_dict(owner) or name not in owner or is_foreign(config, group):
            continue
        if not rule.holds(owner.get(name)):
            raise ConfigError(f"{key}={owner.get(name)} must be {rule.words}")


def check(config: DictConfig) -> None:
    """Check every value that has a rule, then how the parts go together, before any data is read.

    Raises:
        ConfigError: for the first that cannot work; one line with the key, the value and what is allowed.
    """
    check_values(config, RULES)
    for group in ("data", "noise", "encoder", "decoder", "posterior", "likelihood", "prior", "objective", "optimizer"):
        part(config, group)
    check_training(config)
    check_pixels(config)


def check_training(config: DictConfig) -> None:
    """Check that objective, precision and scheduler go with the rest.

    Raises:
        ConfigError: for the first that does not.
    """
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


def check_pixels(config: DictConfig) -> None:
    """Check that the likelihood is one of the pixels that the data have.

    Raises:
        ConfigError: where it is not.
    """
    from torch.distributions import constraints

    binary_only = takes_binary_only(config)
    grey_only = support(config) is constraints.unit_interval and not is_normalised(config)
    if grey_only and config.data.binarize not in ("auto", "none"):
        raise ConfigError(
            f"data.binarize={config.data.binarize} gives binary pixels, and {config.likelihood._target_} is for grey "
            "ones: use likelihood=bernoulli, or data.binarize=none"
        )
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

    return support(config) is constraints.boolean


def support(config: DictConfig) -> Any:
    """Return which pixels the likelihood is one of.

    Raises:
        ConfigError: where it does not say so.
    """
    stated = getattr(part(config, "likelihood"), "support", None)
    if stated is None:
        raise ConfigError(f"likelihood._target_={config.likelihood._target_} must state the `support` of its pixels")
    return stated


def has_density(config: DictConfig) -> bool:
    """Tell whether the posterior has a density, and so an ELBO."""
    return getattr(part(config, "posterior"), "has_density", True)


def is_normalised(config: DictConfig) -> bool:
    """Tell whether the likelihood is one, with every constant."""
    return getattr(part(config, "likelihood"), "normalised", True)


def validates(config: DictConfig) -> bool:
    """Tell whether there is a validation in the training."""
    return bool(config.data.val_fraction) and config.trainer.limit_val_batches != 0


def is_foreign(config: DictConfig, group: str) -> bool:
    """Tell whether a part, or the one that it is a piece of, is the user's own and so knows its values itself.

    Data sets never are: they all share the options of `ImageData`.
    """
    if group in ("", "data"):
        return False
    targets = (str(OmegaConf.select(config, f"{each}._target_")) for each in {group, group.partition(".")[0]})
    return not all(target.startswith(("vae_lab.", "torch.", "pytorch_lightning.")) for target in targets)


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
