"""Build objects from a configuration, and check that components are compatible."""

import math
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from operator import getitem
from pathlib import Path
from traceback import extract_tb
from typing import Any, Literal

import torch
from hydra._internal.utils import _locate
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from torch import nn
from torch.distributions import constraints
from torch.nn.modules.batchnorm import _BatchNorm

from vae_lab.checks import checked, in_one_line
from vae_lab.data import ImageData
from vae_lab.data.images import ImageShape
from vae_lab.errors import ConfigError, did_you_mean, one_line
from vae_lab.model import BaseVAE, Batch, Head, Parts, as_tuple
from vae_lab.networks import Network, Shape
from vae_lab.training.compiled import Compiled
from vae_lab.training.module import VAEModule
from vae_lab.workarounds import onednn

# errors that components, Hydra and Lightning raise to reject values
REFUSALS = (InstantiationException, MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError)


def build_module(config: DictConfig) -> VAEModule:
    """Return the newly initialised module that a configuration describes.

    Raises:
        ConfigError: if a component rejects its options, or if components are incompatible.
    """
    part("data", config.data)  # before the shape, which is also missing if there is no component
    with blame("data"):
        image = image_shape(shape=plain(config.data).get("shape"))
    posterior, likelihood, prior = (build(config, group) for group in ("posterior", "likelihood", "prior"))
    for group, head in {"posterior": posterior, "likelihood": likelihood}.items():
        if not isinstance(head, Head):
            raise ConfigError(f"{group}._target_={config[group]._target_}: must derive from vae_lab.Head")
    encoder, decoder = (blamed(build(config, group), group) for group in ("encoder", "decoder"))
    # partial, because instantiate() would convert the dataclass Parts to a dictionary
    kind, make = part("vae", config.vae), build(config, "vae", _partial_=True)
    parts = Parts(encoder, decoder, posterior, likelihood, prior, image, config.latent_dim)
    other = isinstance(kind, type) and not issubclass(kind, BaseVAE)
    with blame("vae"):
        vae = None if other else make(parts)
    if not isinstance(vae, BaseVAE):
        raise ConfigError(f"vae._target_={config.vae._target_}: must derive from vae_lab.BaseVAE")
    objective = build(config, "objective")
    if config.compile and isinstance(objective, nn.Module):
        raise ConfigError(
            f"compile=true: not supported for objectives with weights, such as {type(objective).__name__}"
        )
    onednn.use(vae)
    optimizer = build(config, "optimizer")
    module = VAEModule(vae, objective, optimizer, build(config, "scheduler") if config.scheduler else None)
    # create the optimizer and run the model once here, so that errors appear before training
    by_torch = str(config.optimizer._target_).startswith("torch.")  # other optimizers may have different rules
    own = getattr(objective, "optimizer_options", None) or {}
    with blame("objective"):
        trained = module.trained()
    with blame("objective.optimizer_options"):
        if own and by_torch:
            check_optimizer(**own)
        if own:  # torch does not check the options of a parameter group
            module.optimizer(objective.parameters(), **own)
    with blame("optimizer"):
        if by_torch:
            check_optimizer(**plain(config.optimizer))
        module.optimizer(trained)
    with blame("scheduler"):
        module.configure_optimizers()
    with blame("model"), torch.no_grad():
        pixels = torch.zeros(2, *image)
        check_model(module.eval(), Batch(pixels, pixels, torch.zeros(2, dtype=torch.long)))
    if config.data.batch_size == 1 and any(isinstance(layer, _BatchNorm) for layer in module.modules()):
        raise ConfigError("data.batch_size=1: must be at least 2 for a model with batch norm")
    with blame("trainer"):
        if str(config.trainer._target_).startswith("pytorch_lightning."):
            check_trainer(**plain(config.trainer))
    check(config, module, likelihood)
    if config.compile:
        module.objective = Compiled(objective)
    return module.train()


@checked
def image_shape(shape: ImageShape) -> tuple[int, ...]:
    """Return the validated shape of the images (C, H, W), which the model needs before the data are read."""
    return tuple(shape)


@checked
def check_optimizer(lr: PositiveFloat = 1.0, weight_decay: NonNegativeFloat = 0.0, **others: Any) -> None:
    """Reject option values that torch accepts but that prevent training, such as a learning rate of 0."""


@checked
def check_trainer(
    max_epochs: NonNegativeInt,
    precision: Literal["32-true", "64-true", "16-mixed", "bf16-mixed"] | None = None,
    accumulate_grad_batches: PositiveInt = 1,
    check_val_every_n_epoch: PositiveInt | None = 1,
    **others: Any,
) -> None:
    """Reject options that Lightning accepts but that vae_lab does not support.

    Distributions and sums need 32 bits, and greyscale values need more precision than bfloat16 provides.
    """


def build_data(config: DictConfig) -> ImageData:
    """Return the data that a configuration describes; the images are read later."""
    return build(config, "data", binarize=binarization(config), noise=build(config, "noise"))


def build(config: DictConfig, *keys: str, **more: Any) -> Any:
    """Return the object or partial function described by the configuration at `keys`."""
    key, described = ".".join(keys), reduce(getitem, keys, config)
    part(key, described)
    with blame(key):
        return instantiate(described, **more, _convert_="all")


def build_each(config: DictConfig, group: str) -> dict[str, Any]:
    """Return the objects in a config group, keyed by name and without null entries."""
    # one by one, because instantiate() would convert nested dataclasses to dictionaries
    return {name: build(config, group, name) for name, each in config[group].items() if each is not None}


@contextmanager
def blame(group: str, only_lightning: bool = False) -> Iterator[None]:
    """Convert errors from components, Hydra, torch and Lightning to a one-line ConfigError that names the key.

    Args:
        group: key of the component in the configuration.
        only_lightning: whether to convert only errors that Lightning itself raises, not those from code that it calls.

    Raises:
        ConfigError: in place of an error that is converted; other errors are not changed.
    """
    try:
        yield
    except REFUSALS as error:
        folders = Path(extract_tb(error.__traceback__)[-1].filename).parts
        lightnings = isinstance(error, MisconfigurationException) or (
            isinstance(error, ValueError | RuntimeError)
            and ("pytorch_lightning" in folders or "lightning_fabric" in folders)
        )
        if only_lightning and not lightnings:
            raise
        cause = (isinstance(error, InstantiationException) and error.__cause__) or error
        reason = in_one_line(cause) if isinstance(cause, ValidationError) else one_line(cause) or type(cause).__name__
        # `activation=Foo: …` in the `encoder` component becomes `encoder.activation=Foo: …`
        names_option = group not in ("model", "labels") and re.match(r"\w+(\[\d+\])?=\S", reason)
        separator = "." if isinstance(cause, ValidationError) or names_option else ": "
        raise ConfigError(f"{group}{separator}{reason}") from error


def check_model(module: VAEModule, batch: Batch) -> None:
    """Check that the results of `draw` match the model's attributes, and that each term has one value per image.

    Raises:
        ValueError: if one of these checks fails.
    """
    draw, vae = module.vae.draw(batch), module.vae
    sizes = tuple(z.shape[-1] for z in as_tuple(draw.z))
    if sizes != vae.latent_dims:
        raise ValueError(f"`draw` returns layers with sizes {list(sizes)}, but latent_dims={list(vae.latent_dims)}")
    if vae.has_density != (draw.prior is not None):
        prior = "no prior" if vae.has_density else "a prior"
        raise ValueError(f"`draw` returns {prior}, but {type(vae).__name__}.has_density={vae.has_density}")
    if wrong := [name for name, term in module.evaluate(batch).items() if len(term) != len(batch.target)]:
        raise ValueError(f"{wrong[0]}: expected one value per image")


def blamed(network: Network, group: str) -> Network:
    """Return a network constructor that any model class can call and whose errors name the config group."""

    def make(in_shape: Shape, out_shape: Shape, **options: Any) -> nn.Module:
        with blame(group):
            return network(in_shape, out_shape, **options)

    return make


def check(config: DictConfig, module: VAEModule, likelihood: Head) -> None:
    """Check, before any data are read, that the components are compatible.

    Raises:
        ConfigError: if they are incompatible.
    """
    if getattr(module.objective, "needs_density", False) and not module.vae.has_density:
        raise ConfigError(
            f"objective._target_={config.objective._target_}: requires a posterior with a density, but "
            f"{config.posterior._target_} has none; use posterior=normal or objective=reconstruction"
        )
    mixed = str(config.trainer.get("precision")).endswith("-mixed")
    if mixed and config.trainer.get("gradient_clip_val") is not None and config.optimizer.get("fused"):
        raise ConfigError(
            "optimizer.fused=true: not supported if trainer.gradient_clip_val is set and trainer.precision is a mixed "
            "precision; set optimizer.fused=false"
        )
    scheduler = config.scheduler
    if scheduler.get("monitor") == "validation" and not validates(config):
        raise ConfigError(
            "scheduler.monitor=validation: requires validation; set data.val_fraction and "
            "trainer.limit_val_batches to values other than 0"
        )
    if scheduler.get("T_max", math.inf) < config.trainer.max_epochs:
        raise ConfigError(
            f"trainer.max_epochs={config.trainer.max_epochs}: must be at most scheduler.T_max={scheduler.T_max}, after "
            "which the learning rate would rise again"
        )
    name, binarize, shape = config.likelihood._target_, config.data.binarize, list(config.data.shape)
    if likelihood.support is None:
        raise ConfigError(f"likelihood._target_={name}: must define the class attribute `support`")
    binary_only = likelihood.support is constraints.boolean
    grey_only = likelihood.support is constraints.unit_interval and not likelihood.normalised
    if grey_only and binarize not in ("auto", "none"):
        raise ConfigError(
            f"data.binarize={binarize}: must be none, because {name} models greyscale pixels; use data.binarize=none "
            "or likelihood=bernoulli"
        )
    if binary_only and binarize == "none":
        raise ConfigError(
            f"data.binarize=none: not supported by {name}, which models binary pixels; use data.binarize=auto, "
            "threshold, dynamic or static, or likelihood=gaussian"
        )
    if binary_only and shape[0] != 1:
        raise ConfigError(
            f"data.shape={shape}: colour images are not supported by {name}, which models binary pixels; use "
            "likelihood=gaussian, gaussian_shared or gaussian_learned"
        )


def binarization(config: DictConfig) -> str:
    """Return `data.binarize`, resolving `auto` to `threshold` for a likelihood of binary pixels, or else to `none`."""
    if config.data.binarize != "auto":
        return config.data.binarize
    support = getattr(part("likelihood", config.likelihood), "support", None)
    return "threshold" if support is constraints.boolean else "none"


def validates(config: DictConfig) -> bool:
    return bool(config.data.val_fraction) and config.trainer.limit_val_batches != 0


def part(key: str, described: Any) -> Any:
    """Return the class or function named by the `_target_` of a configuration."""
    target = described.get("_target_") if isinstance(described, Mapping) else None
    if target is None:
        raise ConfigError(f"{key}: missing `_target_`; --help lists the available components")
    try:
        return _locate(str(target))  # hydra.utils.get_object would also log the error
    except Exception as error:  # importing a module can raise any error
        module, _, name = str(target).rpartition(".")
        if module in sys.modules and not hasattr(sys.modules[module], name):
            hint = did_you_mean(name, dir(sys.modules[module]))
            raise ConfigError(f"{key}._target_={target}: not found in {module}{hint}") from error
        cause = error.__cause__ or error  # without Hydra's text
        raise ConfigError(f"{key}._target_={target}: cannot be imported: {type(cause).__name__}: {cause}") from error


def class_of(described: Any, base: type = object) -> type[Any] | None:
    """Return the class named by a configuration, or None if it cannot be imported or is not a subclass of `base`."""
    try:
        found = part("", described)
    except ConfigError:
        return None
    return found if isinstance(found, type) and issubclass(found, base) else None


def plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True)
