"""Variational autoencoders, composed on the command line and right to the last constant."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in _PUBLIC, for type checkers and editors
    from vae_lab.likelihoods import Bernoulli, CrossEntropy, Gaussian, GaussianLearned, GaussianShared
    from vae_lab.model import VAE, Batch, Conditional, Draw
    from vae_lab.networks import MLP, ConvDecoder, ConvEncoder
    from vae_lab.objectives import Elbo, Reconstruction
    from vae_lab.posteriors import Normal, Point
    from vae_lab.priors import StandardNormal

__version__ = "0.1.0"

_PUBLIC = {
    "likelihoods": ("Bernoulli", "CrossEntropy", "Gaussian", "GaussianLearned", "GaussianShared"),
    "model": ("VAE", "Batch", "Conditional", "Draw"),
    "networks": ("MLP", "ConvDecoder", "ConvEncoder"),
    "objectives": ("Elbo", "Reconstruction"),
    "posteriors": ("Normal", "Point"),
    "priors": ("StandardNormal",),
}
__all__ = [name for names in _PUBLIC.values() for name in names]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Import a public name on first use: the command line must answer before torch is imported."""
    for module, names in _PUBLIC.items():
        if name in names:
            return getattr(import_module(f"vae_lab.{module}"), name)
    raise AttributeError(f"module 'vae_lab' has no attribute '{name}'")
