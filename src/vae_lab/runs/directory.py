"""Reading and writing the files in a run directory."""

import json
import logging
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from yaml import YAMLError

from vae_lab import __version__
from vae_lab.cli.launch import write_traceback
from vae_lab.cli.schema import Config
from vae_lab.errors import DataError
from vae_lab.files import replacing

RENAMED = {  # module names in the files of earlier runs, and their replacements
    "vae_lab.callbacks.Clock": "vae_lab.training.clock.Clock",
    "vae_lab.callbacks.": "vae_lab.figures.",
    "vae_lab.checkpoints.": "vae_lab.training.checkpoints.",
    "vae_lab.loggers.": "vae_lab.training.loggers.",
    "vae_lab.schedulers.": "vae_lab.training.schedulers.",
}
SINCE = {"vae": {"_target_": "vae_lab.model.plain"}}  # defaults for keys that earlier runs do not have
DELETED_ON_RESUME = ("metrics.json", "class_mse.csv", "report.html")


@rank_zero_only
def create(path: Path, config: DictConfig, overrides: Sequence[str], provenance: Mapping[str, Any]) -> None:
    """Write the initial files of a run: its resolved configuration, overrides and versions."""
    with writable(path):
        for folder in (path / ".hydra", path / "checkpoints"):
            folder.mkdir(parents=True, exist_ok=True)
        if is_new(path):
            write_json(path / ".hydra" / "provenance.json", provenance)
            OmegaConf.save(OmegaConf.create(list(overrides)), path / ".hydra" / "overrides.yaml")
            OmegaConf.save(config, path / ".hydra" / "config.yaml")
        for name in DELETED_ON_RESUME:
            (path / name).unlink(missing_ok=True)
        OmegaConf.save(config, path / "config.yaml", resolve=True)


def is_new(path: Path) -> bool:
    return not (path / "config.yaml").exists()


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Convert an OSError to a one-line DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def recorded(path: Path) -> Iterator[None]:
    """Write log messages and tracebacks to `train.log`, and also print messages if logging is not configured."""
    root, package = logging.getLogger(), logging.getLogger("vae_lab")
    level, file = package.level, logging.FileHandler(path / "train.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handlers: list[logging.Handler] = [file] if root.handlers else [file, logging.StreamHandler(sys.stdout)]
    package.setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    except Exception as error:
        write_traceback(path / "train.log", error)
        raise
    finally:
        package.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def provenance() -> dict[str, Any]:
    """Return the git revision and the package versions with which the results are produced."""
    packages = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")
    return {
        "git/revision": revision(),
        "version/vae-lab": __version__,
        "version/python": platform.python_version(),
        **{f"version/{package}": metadata.version(package) for package in packages},
    }


def revision() -> str | None:
    """Return the git revision of the source code, plus `-dirty` if files have changed, or None outside a checkout."""
    source = Path(__file__).resolve().parents[1]
    if not (source.parents[1] / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def stored_config(path: Path) -> DictConfig:
    """Return the configuration of a run.

    Raises:
        DataError: if the directory is not a run directory, or its configuration is corrupt.
    """
    if is_new(path):
        raise DataError(f"{path / 'config.yaml'}: not found; expected a run directory")
    config = read_yaml(path / "config.yaml")
    optional = SINCE | {field.name: field.default for field in fields(Config) if field.default is not MISSING}
    if not isinstance(config, DictConfig) or not Config.__dataclass_fields__.keys() - optional.keys() <= set(config):
        raise DataError(f"{path / 'config.yaml'}: corrupt; expected the configuration of a run")
    return DictConfig(OmegaConf.merge(optional, config))


def stored_overrides(path: Path) -> list[str]:
    """Return the overrides of a run, except those of Hydra's own keys, such as `hydra.run.dir`."""
    file = path / ".hydra" / "overrides.yaml"
    given = OmegaConf.to_container(read_yaml(file)) if file.exists() else []
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise DataError(f"{file}: corrupt; expected a list of strings")
    return [each for each in given if not each.startswith("hydra.") or each.startswith("hydra.searchpath=")]


def read_yaml(file: Path) -> Any:
    """Return the contents of a YAML file in a run directory, with outdated class names updated."""
    try:
        text = file.read_text(encoding="utf-8")
        for old, new in RENAMED.items():
            text = text.replace(old, new)
        return OmegaConf.load(StringIO(text))
    except (OSError, YAMLError, ValueError) as error:  # ValueError: not UTF-8
        raise DataError(f"{file}: corrupt: {error}") from error


def read_json(file: Path) -> dict[str, Any]:
    """Return the contents of a JSON file, or an empty dictionary if the file does not exist.

    Raises:
        DataError: if the file is corrupt.
    """
    try:
        found = json.loads(file.read_text()) if file.exists() else {}
    except ValueError as error:
        raise DataError(f"{file}: corrupt: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{file}: corrupt; expected a mapping from names to values")
    return found


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    with replacing(file) as beside:
        beside.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
