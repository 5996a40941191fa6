"""Posterior heads, which turn the output of an encoder into the distribution q(z|x) over latents (D,).

`parameter_shape` returns the shape of the parameters that a head needs for an event shape. The head maps parameters
(..., *parameter_shape) to a distribution with batch shape (...) and that event shape.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints
from torch.distributions import Normal as NormalDistribution
from torch.nn import functional

from vae_lab.checks import checked
from vae_lab.model import Head

MAX_LOG_SCALE = 10.0  # bound on log σ, which prevents overflow in densities and in the KL


def softplus_scale(raw_scale: Tensor, min_scale: float) -> Tensor:
    """Return σ = min_scale + softplus(ρ), at most e^10. It keeps a gradient near `min_scale`, unlike clamping."""
    return (min_scale + functional.softplus(raw_scale)).clamp(max=math.exp(MAX_LOG_SCALE))


class Normal(Head):
    """Gaussian posterior with diagonal covariance, as in the original VAE (Kingma & Welling, arXiv 1312.6114).

    The parameters are the mean, followed by log σ² for `log_variance` or by ρ for `softplus`, where
    σ = 1e-6 + softplus(ρ). The bounds are e^-10 ≤ σ ≤ e^10 and 1e-6 ≤ σ ≤ e^10, respectively.

    Args:
        scale: parametrisation of σ, `log_variance` or `softplus`.

    >>> q = Normal()(torch.tensor([[1.0, 2.0, 0.0, math.log(9.0)]]))  # two means, two log-variances
    >>> q.mean, q.stddev
    (tensor([[1., 2.]]), tensor([[1., 3.]]))
    """

    @checked
    def __init__(self, scale: Literal["log_variance", "softplus"] = "log_variance") -> None:
        super().__init__()
        self.softplus = scale == "softplus"

    def parameter_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2 * event_shape[0],)

    def forward(self, parameters: Tensor) -> Distribution:
        """Return q(z|x) with batch shape (...) and event shape (D,) from parameters (..., 2·D)."""
        mean, spread = parameters.chunk(2, dim=-1)
        if self.softplus:
            scale = softplus_scale(spread, 1e-6)
        else:
            scale = (spread / 2).clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp()
        return Independent(NormalDistribution(mean, scale, validate_args=False), 1, validate_args=False)


class Point(Head):
    """Point posterior, which makes the model an autoencoder."""

    has_density = False
    center_name = "code"

    def forward(self, parameters: Tensor) -> Distribution:
        return PointMass(parameters)


class PointMass(Distribution):
    """Distribution with all its mass at `location` (..., D); it can be sampled but has no density."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"location": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, location: Tensor) -> None:
        self.location = location
        super().__init__(location.shape[:-1], location.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.location

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        return self.location.expand(self._extended_shape(torch.Size(sample_shape)))
