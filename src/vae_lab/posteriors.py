"""Posterior heads: from an encoder's output to the distribution q(z|x) over the last axis.

A head says which parameter shape it needs for an event shape, and turns parameters (..., *parameter_shape)
into a distribution with batch shape (...) and that event shape.
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

MAX_LOG_SCALE = 10.0  # bounds log σ, so that no density and no KL overflows


def softplus_scale(raw_scale: Tensor, min_scale: float) -> Tensor:
    """Return σ = min_scale + softplus(ρ), at most e^10: its gradient does not vanish at the lower bound at once."""
    return (min_scale + functional.softplus(raw_scale)).clamp(max=math.exp(MAX_LOG_SCALE))


class Normal(Head):
    """Gaussian with diagonal covariance, the posterior of the VAE (Kingma & Welling, arXiv 1312.6114).

    The parameters are the mean and, beside it, either log σ² or, for `softplus`, the ρ of σ = 1e-6 + softplus(ρ).
    The first is bounded to e^-10 ≤ σ ≤ e^10, the second to 1e-6 ≤ σ ≤ e^10.

    Args:
        scale: `log_variance` or `softplus`.

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
        """Return q with batch shape (...) and event shape (D,) from parameters (..., 2·D)."""
        mean, spread = parameters.chunk(2, dim=-1)
        if self.softplus:
            scale = softplus_scale(spread, 1e-6)
        else:
            scale = (spread / 2).clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp()
        return Independent(NormalDistribution(mean, scale, validate_args=False), 1, validate_args=False)


class Point(Head):
    """A single point in place of a distribution: what makes an autoencoder of a VAE."""

    has_density = False
    center_name = "code"

    def forward(self, parameters: Tensor) -> Distribution:
        return PointMass(parameters)


class PointMass(Distribution):
    """All mass at `location` (..., D); it can be sampled, and has no density."""

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
