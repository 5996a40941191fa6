"""Compose a configuration from overrides. This module is imported for `--help`, so it must not import torch."""

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vae_lab.cli.errors import explain
from vae_lab.cli.schema import ROOTS, Evaluate, check_values
from vae_lab.errors import ConfigError
from vae_lab.workarounds.hydra import share_config_store

PACKAGE = Path(__file__).resolve().parents[1]
# in a wheel or in a checkout
CONF = next(path for path in (PACKAGE / "conf", PACKAGE.parents[1] / "conf") if path.is_dir())


def run_dir(resume: str | None, parent: str) -> str:
    """Return the run directory to resume, or a new, unique one in `parent`."""
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S.%f")
    return resume or f"{parent}/{now}-{secrets.token_hex(2)}"


def fit_for_a_path(name: str) -> str:
    """Return a name with a hyphen in place of each run of characters that are unusual in the name of a file."""
    return re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII).strip("-.")


def literal(value: Any) -> str:
    """Return a value in Hydra's override syntax.

    >>> literal({"a": [1, None, True], "b": "x, y"})
    "{a: [1, null, true], b: 'x, y'}"
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(literal(each) for each in value) + "]"
    if not isinstance(value, str):
        return "null" if value is None else str(value).lower()
    plain = re.fullmatch(r"[A-Za-z_/][\w./-]*", value, re.ASCII)
    if plain and value.lower() not in ("null", "true", "false", "nan", "inf"):
        return value
    return QuotedString(value, Quote.single).with_quotes()


def job_dir(overrides: str) -> str:
    """Return the directory name for a job in a sweep: the overrides, without characters that need quoting.

    If characters are replaced or cut off, a checksum of the overrides keeps the name unique.
    """
    name = fit_for_a_path(overrides)[:110] or "defaults"
    return name if name == overrides else f"{name}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("run_dir", run_dir, use_cache=True, replace=True)
OmegaConf.register_new_resolver("job_dir", job_dir, replace=True)


for name, root in ROOTS.items():
    node = OmegaConf.structured(root)
    if issubclass(root, Evaluate):  # `data` and `figures` accept keys of the stored run, which has not been read yet
        for group in {"data", "figures"} & node.keys():
            node[group]._set_flag("struct", False)
    ConfigStore.instance().store(f"{name}_schema", node)
share_config_store()


def compose(name: str, overrides: Sequence[str]) -> tuple[DictConfig, Path]:
    """Return the configuration and the run directory that the command line would use.

    Args:
        name: the command, such as `train`.
        overrides: the overrides, as on the command line.

    Raises:
        ConfigError: if a component or key is unknown, or a value is missing, of the wrong type or out of range.
    """
    # only one Hydra instance can exist, so temporarily replace that of an enclosing job
    outer, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with hydra.initialize_config_dir(str(CONF), job_name=name, version_base="1.3"):
            config = hydra.compose(name, list(overrides), return_hydra_config=True)
        path = Path(config.hydra.run.dir).absolute()
        with open_dict(config):
            del config["hydra"]
        check_values(config, ROOTS[name])
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(explain(error, overrides)) from error
    finally:
        GlobalHydra.instance().hydra = outer  # initialize_config_dir has replaced the instance
    return config, path
