"""Schemas for the configurations: top-level keys and their types. This module is imported for `--help`."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt, MinLen
from omegaconf import MISSING, DictConfig, OmegaConf

from vae_lab.errors import ConfigError

# OmegaConf checks only the type; `check_values` also checks the constraints
Count = Annotated[int, Gt(0)]
Seed = Annotated[int, Ge(0), Lt(2**32)]


@dataclass
class Config:
    """Schema for `train`; each dictionary belongs to the config group of the same name."""

    name: str = MISSING
    latent_dim: Count = MISSING
    seed: Seed = MISSING
    print_every: Count = MISSING
    compile: bool = False
    checkpoint_every: Count | None = None
    resume: Annotated[str, MinLen(1)] | None = None
    data: dict[str, Any] = MISSING
    noise: dict[str, Any] = MISSING
    vae: dict[str, Any] = MISSING
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
            expected = "a name of letters, digits, '.', '_' and '-' that does not start with '.' or '-'"
            raise ValueError(f"name={self.name}: must be {expected}")


@dataclass
class Report:
    """Schema for `report`."""

    run: str = MISSING
    out: str | None = None


@dataclass
class Evaluate(Report):
    """Schema for `evaluate`."""

    checkpoint: str = "best"
    device: str = "auto"
    seed: Seed | None = None
    data: dict[str, Any] = field(default_factory=dict)


class Format(StrEnum):
    """File formats in which `generate` writes samples."""

    npz = "npz"
    png = "png"


@dataclass
class Generate(Evaluate):
    """Schema for `generate`."""

    figure: Any = None
    labels: Annotated[list[Any], MinLen(1)] | None = None
    n: Count | None = None
    scale: Count | None = None
    format: Format | None = None
    animate: bool = False
    figures: dict[str, Any] = field(default_factory=dict)


ROOTS: dict[str, type] = {"train": Config, "generate": Generate, "evaluate": Evaluate, "report": Report}


def check_values(config: DictConfig, root: type) -> None:
    """Check that no value is missing and that the top-level values satisfy the schema.

    Raises:
        ConfigError: if a value is missing or invalid.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{missing[0]}: missing; set {missing[0]}=…")
    values: Any = OmegaConf.to_container(config, resolve=True)

    from pydantic import ValidationError  # slow to import, and not needed for --help

    from vae_lab.checks import in_one_line

    try:
        strict(root)(**values)
    except ValidationError as error:
        raise ConfigError(in_one_line(error)) from error


@cache
def strict(root: type) -> type:
    """Return a subclass of a schema, in which pydantic checks the values."""
    from pydantic.dataclasses import dataclass as validated

    return validated(root, config={"strict": True})
