"""The typed roots of the configurations, and the one check of what only the whole can know."""

import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Lt, MinLen
from omegaconf import MISSING, DictConfig, OmegaConf

from vae_lab.errors import ConfigError

if TYPE_CHECKING:  # heavy, and not for --help
    from vae_lab.module import VAEModule

# OmegaConf reads these as int and str; `check_values` holds values to the rest
Count = Annotated[int, Gt(0)]
Seed = Annotated[int, Ge(0), Lt(2**32)]
Text = Annotated[str, MinLen(1)]


@dataclass
class Config:
    """Types of the root's own values; each group is a part from the folder of the same name in `conf/`."""

    name: str = MISSING
    latent_dim: Count = MISSING
    seed: Seed = MISSING
    print_every: Count = MISSING
    compile: bool = False
    checkpoint_every: Count | None = None
    resume: Text | None = None
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

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name, re.ASCII):
            raise ValueError(f"name={self.name}: must be letters, digits, . _ and -")


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

    seed: Seed | None = None


class Format(StrEnum):
    """How `generate` writes samples."""

    npz = "npz"
    png = "png"


@dataclass
class Generate(Finished):
    """Types of the root's own values of `generate`."""

    figure: Any = None
    labels: Annotated[list[Any], MinLen(1)] | None = None
    n: Count | None = None
    scale: Count | None = None
    seed: Seed | None = None
    format: Format | None = None
    animate: bool = False
    figures: dict[str, Any] = field(default_factory=dict)


def check_values(config: DictConfig, root: type) -> None:
    """Check that every value is there, and the root's own values by the types of their fields.

    Raises:
        ConfigError: for the first that does not fit; one line with the key, the value and what is allowed.
    """
    from pydantic import ValidationError
    from pydantic.dataclasses import dataclass as validated

    from vae_lab.checks import in_one_line

    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{missing[0]} has no value: give it as {missing[0]}=…")
    values: Any = OmegaConf.to_container(config, resolve=True)
    try:
        validated(root, config={"strict": True})(**values)
    except ValidationError as error:
        raise ConfigError(in_one_line(error)) from error


def check(config: DictConfig, module: "VAEModule") -> None:
    """Check how parts go together that know their own values alone, before any data are read.

    Raises:
        ConfigError: for the first combination that cannot work; one line with the key, the value and what would fit.
    """
    from torch.distributions import constraints

    posterior, likelihood = module.vae.encoder.head, module.vae.decoder.head
    if getattr(module.objective, "needs_density", False) and not posterior.has_density:
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
    name, binarize, shape = config.likelihood._target_, config.data.binarize, list(config.data.shape)
    if likelihood.support is None:
        raise ConfigError(f"likelihood._target_={name} must state the `support` of its pixels")
    binary_only = likelihood.support is constraints.boolean
    grey_only = likelihood.support is constraints.unit_interval and not likelihood.normalised
    if grey_only and binarize not in ("auto", "none"):
        raise ConfigError(
            f"data.binarize={binarize} gives binary pixels, and {name} is for grey ones: use likelihood=bernoulli, or "
            "data.binarize=none"
        )
    if binary_only and binarize == "none":
        raise ConfigError(
            f"data.binarize=none gives grey values, and {name} is a likelihood of 0 and 1 alone: use "
            "data.binarize=auto, threshold, dynamic or static, or likelihood=gaussian"
        )
    if binary_only and shape[0] != 1:
        raise ConfigError(
            f"{name} is a likelihood of binary pixels, and data of shape {shape} have colours: use "
            "likelihood=gaussian, gaussian_shared or gaussian_learned"
        )


def binarization(config: DictConfig) -> str:
    """Return what `data.binarize` stands for: `auto` is `threshold` for a likelihood of 0 and 1 alone, else `none`."""
    from torch.distributions import constraints

    if config.data.binarize != "auto":
        return config.data.binarize
    return "threshold" if part(config, "likelihood").support is constraints.boolean else "none"


def validates(config: DictConfig) -> bool:
    """Tell whether there is a validation in the training."""
    return bool(config.data.val_fraction) and config.trainer.limit_val_batches != 0


def part(config: DictConfig, group: str) -> Any:
    """Return the class that a group names as its `_target_`.

    Raises:
        ConfigError: where it names none, or there is no such thing.
    """
    target = config[group].get("_target_")
    if target is None:
        raise ConfigError(f"{group}: missing `_target_`; --help lists the available components")
    try:
        return resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{group}._target_={target} cannot be imported: {error}") from error
