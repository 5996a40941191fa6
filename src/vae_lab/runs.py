"""A run's directory: create it, find out what it holds, and make objects of its configuration."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, NamedTuple

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import MISSING, DictConfig, OmegaConf
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from pytorch_lightning.utilities import rank_zero_only
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from yaml import YAMLError

from vae_lab import checkpoints
from vae_lab.callbacks import Drawing
from vae_lab.checks import checked, in_one_line
from vae_lab.config import Config, binarization, check, check_values, part
from vae_lab.data import Downloaded, ImageData, ImageShape
from vae_lab.errors import ConfigError, DataError
from vae_lab.files import replacing
from vae_lab.model import VAE, Batch, Conditional, Head
from vae_lab.module import VAEModule
from vae_lab.objectives import Compiled
from vae_lab.workarounds import onednn

# when a run goes on
MAY_CHANGE = ("trainer.", "logger.", "print_every", "checkpoint_every", "data.root", "data.num_workers")

RENAMED = {  # what the `_target_` of a stored configuration is called by now
    "torch.optim.lr_scheduler.MultiStepLR": "vae_lab.schedulers.Step",
    "torch.optim.lr_scheduler.CosineAnnealingLR": "vae_lab.schedulers.Cosine",
}

OF_AN_END = ("metrics.json", "class_mse.csv", "report.html")  # what a run that goes on has no more


@dataclass(frozen=True)
class Run:
    """A training and what came of it.

    Attributes:
        path: the directory that holds everything about it.
        config: its whole configuration, resolved.
        module: the model with the weights of the best checkpoint.
        data: the data, read on the first call of `data.setup()`.
        metrics: the final numbers, as in `metrics.json`; empty where the training has not ended.
    """

    path: Path
    config: DictConfig
    module: VAEModule
    data: ImageData
    metrics: dict[str, Any]


@rank_zero_only
def create(path: Path, config: DictConfig, overrides: Sequence[str], provenance: Mapping[str, Any]) -> None:
    """Write what a run begins with: its resolved configuration, what was said on the command line, and versions."""
    with writable(path):
        for folder in (path / ".hydra", path / "checkpoints"):
            folder.mkdir(parents=True, exist_ok=True)
        if is_new(path):
            (path / ".hydra" / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
            OmegaConf.save(OmegaConf.create(list(overrides)), path / ".hydra" / "overrides.yaml")
            OmegaConf.save(config, path / ".hydra" / "config.yaml")
        for name in OF_AN_END:
            (path / name).unlink(missing_ok=True)
        OmegaConf.save(config, path / "config.yaml", resolve=True)


@rank_zero_only
def finish(path: Path, metrics: dict[str, Any]) -> None:
    """Write the final numbers, which also say that the run has ended."""
    with writable(path), replacing(path / "metrics.json") as beside:
        beside.write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def is_new(path: Path) -> bool:
    """Tell whether a directory holds no run yet."""
    return not (path / "config.yaml").exists()


def load(path: str | Path, checkpoint: str = "best", device: str = "cpu", data: Mapping[str, Any] | None = None) -> Run:
    """Return a run from its directory, wherever that was moved, with the weights on a device.

    Args:
        path: the run's directory.
        checkpoint: `best` (which is `last` where nothing was validated), `last`, or one that was kept by
            `checkpoint_every`, such as `epoch-0010`.
        device: such as `cpu` or `cuda`; `auto` is a GPU where there is one.
        data: what is to differ in the run's data, such as `{"root": …}`, or other data as a whole.

    Raises:
        DataError: where the directory is no run, or its checkpoint is missing or damaged.
        ConfigError: where there is no such device, or the data do not fit the model.
    """
    path = Path(path)
    config = with_data(stored_config(path), data or {})
    check_values(config, Config)
    module = build_module(config).to(find_device(device)).eval()
    checkpoints.restore(module, checkpoints.find(path / "checkpoints", checkpoint))
    return Run(path, config, module, build_data(config), stored_metrics(path))


def with_data(config: DictConfig, data: Mapping[str, Any]) -> DictConfig:
    """Return a run's configuration with other data of the same shape, or some of its data's values changed.

    Raises:
        ConfigError: for another shape, or a key that the data do not have.
    """
    unknown = sorted(set(data) - set(config.data))
    if "_target_" not in data and unknown:
        raise ConfigError(f"data.{unknown[0]} is no key of the run's data: there are {', '.join(sorted(config.data))}")
    changed = data if "_target_" in data else {**config.data, **data}
    if changed.get("shape") != config.data.shape:
        raise ConfigError(f"data.shape={changed.get('shape')} must be {config.data.shape}, as the run's images are")
    return DictConfig({**config, "data": changed})


def find_device(name: str) -> torch.device:
    """Return a device by its name; `auto` is a GPU where there is one.

    Raises:
        ConfigError: where there is none of that name.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        raise ConfigError(f"device={name} is not there: take auto or cpu") from error
    if device.type == "meta":
        raise ConfigError(f"device={name} computes nothing: take auto or cpu")
    return device


def stored_config(path: Path) -> DictConfig:
    """Return the configuration that a run was made with.

    Raises:
        DataError: where the directory is no run.
    """
    if is_new(path):
        raise DataError(f"{path} is no run: it holds no config.yaml")
    config = read_yaml(path / "config.yaml")
    optional = {field.name: field.default for field in fields(Config) if field.default is not MISSING}
    if not isinstance(config, DictConfig) or not Config.__dataclass_fields__.keys() - optional.keys() <= set(config):
        raise DataError(f"{path / 'config.yaml'} is damaged")
    return DictConfig(OmegaConf.merge(optional, config))


def stored_overrides(path: Path) -> list[str]:
    """Return what was said on the command line of a run, without what belongs to its directory alone.

    Raises:
        DataError: where the list is damaged.
    """
    file = path / ".hydra" / "overrides.yaml"
    given = OmegaConf.to_container(read_yaml(file)) if file.exists() else []
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise DataError(f"{file} is damaged: it must hold a list of words")
    return [each for each in given if not each.startswith("hydra.") or each.startswith("hydra.searchpath=")]


def read_yaml(file: Path) -> Any:
    """Return what a YAML holds, with the names that parts have by now.

    Raises:
        DataError: where it is damaged, or cannot be read.
    """
    try:
        return OmegaConf.create(renamed(OmegaConf.to_container(OmegaConf.load(file))))
    except (OSError, YAMLError, ValueError) as error:  # the last is that of bytes that are no text
        raise DataError(f"{file} is damaged: {' '.join(str(error).split())}") from error


def renamed(node: Any) -> Any:
    """Return nested dictionaries and lists with every `_target_` as it is called by now."""
    if isinstance(node, dict):
        return {key: RENAMED.get(each, each) if key == "_target_" else renamed(each) for key, each in node.items()}
    return [renamed(each) for each in node] if isinstance(node, list) else node


def stored_metrics(path: Path) -> dict[str, Any]:
    """Return the final numbers of a run, empty where it has not ended.

    Raises:
        DataError: where the file is damaged.
    """
    return stored_json(path / "metrics.json")


def stored_provenance(path: Path) -> dict[str, Any]:
    """Return what a run was begun with: versions of the packages and of the source; empty where that is not known.

    Raises:
        DataError: where the file is damaged.
    """
    return stored_json(path / ".hydra" / "provenance.json")


def stored_json(file: Path) -> dict[str, Any]:
    """Return what a file holds by name, nothing where there is none.

    Raises:
        DataError: where it is damaged.
    """
    try:
        found = json.loads(file.read_text()) if file.exists() else {}
    except ValueError as error:
        raise DataError(f"{file} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{file} is damaged: it must hold names and values")
    return found


def resumed_config(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration of the run `config.resume` itself, with what the command line changes of its training.

    Raises:
        ConfigError: where the command line changes anything but `MAY_CHANGE`: the run would be another one.
        DataError: where the directory is no run.
    """
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


class Change(NamedTuple):
    """A key that two configurations have different values of, None where one of them has no such key."""

    key: str
    old: Any
    new: Any


def changes(old: DictConfig, new: DictConfig) -> list[Change]:
    """Return what differs between two configurations, in the order of the second; figures and their options do not."""
    before, after = (dict(flat(without_figures(each))) for each in (old, new))
    try:
        data = part(new, "data")
    except ConfigError:  # a part of the user's own, which is not here
        data = None
    same = isinstance(data, type) and issubclass(data, Downloaded)  # the same images wherever they lie
    keys = [key for key in {**after, **before} if not (same and key == "data.root")]
    return [Change(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


def differences(path: Path, config: DictConfig) -> list[str]:
    """Return what makes a configuration that of another run than a directory holds, one line a key."""
    ignored = ("print_every", "checkpoint_every", "logger")
    found = [change for change in changes(stored_config(path), config) if not change.key.startswith(ignored)]
    return [f"{key} was {old}, is {new}" for key, old, new in sorted(found)]


def without_figures(config: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain values, without the figures, which change nothing in a training."""
    values = plain(config)
    callbacks = {name: each for name, each in values.pop("callbacks").items() if not is_figure(each)}
    return {**values, **({"callbacks": callbacks} if callbacks else {})}


def plain(config: DictConfig) -> Any:
    """Return a configuration as plain dictionaries and lists, with what it refers to in place."""
    return OmegaConf.to_container(config, resolve=True)


def is_figure(callback: Any) -> bool:
    """Tell whether a callback's configuration is that of a figure, or of nothing."""
    return callback is None or figure_class(callback) is not None


def figure_class(callback: Any) -> type[Drawing] | None:
    """Return the class of the figure that a callback's configuration describes; None where it is no figure."""
    if not isinstance(callback, Mapping | DictConfig):
        return None
    try:
        found = resolve_name(str(callback.get("_target_")))
    except (ImportError, AttributeError, ValueError):  # which is for whoever builds it to say
        return None
    return found if isinstance(found, type) and issubclass(found, Drawing) else None


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of nested dictionaries, and their values."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn an error of the file system into one line."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


def build_module(config: DictConfig) -> VAEModule:
    """Return the module that a configuration describes, with fresh weights.

    Raises:
        ConfigError: where a part refuses its values; names the group.
    """
    part(config, "data")  # or it has no shape either
    with blame("data"):
        image, latent = image_shape(shape=plain(config.data).get("shape")), (config.latent_dim,)
    posterior, likelihood, prior = (build(config, group) for group in ("posterior", "likelihood", "prior"))
    for group, head in {"posterior": posterior, "likelihood": likelihood}.items():
        if not isinstance(head, Head):
            raise ConfigError(f"{group}._target_={config[group]._target_}: must be a vae_lab.model.Head")
    with blame("encoder"):
        encoder = Conditional(build(config, "encoder"), posterior, image, latent)
    with blame("decoder"):
        decoder = Conditional(build(config, "decoder"), likelihood, latent, image)
    objective = build(config, "objective")
    if config.compile and isinstance(objective, nn.Module):
        raise ConfigError(f"compile=true takes no objective with weights of its own, as {type(objective).__name__} has")
    vae = VAE(encoder, decoder, prior)
    onednn.use(vae)
    module = VAEModule(
        vae,
        objective,
        build(config, "optimizer"),
        build(config, "scheduler") if config.scheduler else None,
    )
    # what would be refused in the training is refused here: by the optimizer, and by parts that do not fit together
    with blame("optimizer"):
        check_optimizer(**plain(config.optimizer))
        module.optimizer(module.parameters())
    with blame("scheduler"):
        module.configure_optimizers()
    with blame("model"), torch.no_grad():
        pixels = torch.zeros(2, *image)
        module.eval().evaluate(Batch(pixels, pixels, torch.zeros(2)))
    if config.data.batch_size == 1 and any(isinstance(layer, _BatchNorm) for layer in module.modules()):
        raise ConfigError("data.batch_size=1 leaves a batch norm nothing to norm over: use 2 or more, or another norm")
    with blame("trainer"):
        check_trainer(**plain(config.trainer))
    check(config, module)
    if config.compile:
        module.objective = Compiled(objective)
    return module.train()


@checked
def image_shape(shape: ImageShape) -> tuple[int, ...]:
    """Return the shape of the images (C, H, W), which the model needs before there are data."""
    return tuple(shape)


@checked
def check_optimizer(lr: PositiveFloat = 1.0, weight_decay: NonNegativeFloat = 0.0, **others: Any) -> None:
    """Refuse what optimizers of torch take and what trains nothing, such as a rate of 0."""


@checked
def check_trainer(
    max_epochs: NonNegativeInt,
    precision: Literal["32-true", "64-true", "16-mixed", "bf16-mixed"] | None = None,
    accumulate_grad_batches: PositiveInt = 1,
    check_val_every_n_epoch: PositiveInt | None = 1,
    detect_anomaly: bool = False,
    **others: Any,
) -> None:
    """Refuse what Lightning's Trainer takes and what does not work here.

    Heads and sums need 32 bits, and grey values more than bfloat16 has.
    """


def build_data(config: DictConfig) -> ImageData:
    """Return the data that a configuration describes, not read yet."""
    return build(config, "data", binarize=binarization(config), noise=build(config, "noise"))


def build(config: DictConfig, group: str, **more: Any) -> Any:
    """Return what a group describes: an object, or a call that waits for its arguments.

    Raises:
        ConfigError: where the group's class refuses a value.
    """
    if OmegaConf.is_dict(config[group]):
        part(config, group)
    with blame(group):
        return instantiate(config[group], **more, _convert_="all")


def build_each(config: DictConfig, group: str) -> dict[str, Any]:
    """Return the objects that a group describes by name, without those that are null.

    Raises:
        ConfigError: where there is no class, or it refuses a value.
    """
    built = {}
    for name, described in config[group].items():
        if described is None:
            continue
        if not OmegaConf.is_dict(described) or "_target_" not in described:
            raise ConfigError(f"{group}.{name}: missing `_target_`; --help lists the available components")
        with blame(f"{group}.{name}"):  # one by one: Hydra would make a plain dictionary of a dataclass in another
            built[name] = instantiate(described, _convert_="all")
    return built


@contextmanager
def blame(group: str) -> Iterator[None]:
    """Name the group of the configuration, and the value where that is known, that a part refuses.

    Raises:
        ConfigError: in place of what the part, Hydra, torch or Lightning raise.
    """
    try:
        yield
    except (
        InstantiationException,
        MisconfigurationException,
        ValueError,
        TypeError,
        RuntimeError,
        ImportError,
    ) as error:
        cause = (isinstance(error, InstantiationException) and error.__cause__) or error
        if isinstance(cause, ValidationError):
            raise ConfigError(f"{group}.{in_one_line(cause)}") from error
        raise ConfigError(f"{group}: {' '.join(str(cause).split())}") from error
