"""A research framework for variational autoencoders, configured from the command line."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae_lab.likelihoods import Bernoulli, CrossEntropy, Gaussian, GaussianLearned, GaussianShared
    from vae_lab.model import VAE, BaseVAE, Batch, Conditional, Draw, Head, Parts
    from vae_lab.networks import MLP, ConvDecoder, ConvEncoder
    from vae_lab.objectives import Elbo, Reconstruction
    from vae_lab.posteriors import Normal, Point
    from vae_lab.priors import StandardNormal

__version__ = "0.1.0"
__all__ = [
    "MLP",
    "VAE",
    "BaseVAE",
    "Batch",
    "Bernoulli",
    "Conditional",
    "ConvDecoder",
    "ConvEncoder",
    "CrossEntropy",
    "Draw",
    "Elbo",
    "Gaussian",
    "GaussianLearned",
    "GaussianShared",
    "Head",
    "Normal",
    "Parts",
    "Point",
    "Reconstruction",
    "StandardNormal",
]


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `--help` does not import torch."""
    if name in __all__:
        for module in ("model", "networks", "likelihoods", "posteriors", "priors", "objectives"):
            found = getattr(import_module(f"vae_lab.{module}"), name, None)
            if getattr(found, "__module__", None) == f"vae_lab.{module}":
                return found
    raise AttributeError(f"module 'vae_lab' has no attribute '{name}'")
