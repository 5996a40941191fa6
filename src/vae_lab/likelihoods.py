"""Likelihood heads, which turn the output of a decoder into the distribution p(x|z) over images (C, H, W).

The `support` of a likelihood declares the pixel values that it accepts; data with other values are rejected before
training. `log_prob` includes all constants, so that values from different models are comparable. An unnormalised
likelihood sets `normalised = False`.
"""

import math
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent, Normal, constraints
from torch.nn import functional

from vae_lab.checks import checked
from vae_lab.model import Head
from vae_lab.posteriors import MAX_LOG_SCALE, softplus_scale

Mean = Literal["sigmoid", "identity"]


class Bernoulli(Head):
    """Likelihood for binary pixels: log p(x|z) = Σ x log π + (1 - x) log(1 - π).

    It is computed from logits and is finite for every logit.

    >>> p = Bernoulli()(torch.zeros(1, 1, 2, 2))  # four pixels, each 1 with probability one half
    >>> p.log_prob(torch.ones(1, 1, 2, 2)).exp()
    tensor([0.0625])
    """

    support: constraints.Constraint | None = constraints.boolean

    def forward(self, parameters: Tensor) -> Distribution:
        return BernoulliPixels(BernoulliDistribution(logits=parameters, validate_args=False), 3, validate_args=False)


class BernoulliPixels(Independent[BernoulliDistribution]):
    """Independent Bernoulli pixels whose `log_prob` makes two fewer passes over the pixels than torch's."""

    def log_prob(self, value: Tensor) -> Tensor:
        logits, value = torch.broadcast_tensors(self.base_dist.logits, value)
        entropy = functional.binary_cross_entropy_with_logits(logits, value, reduction="none")
        return -entropy.flatten(-self.reinterpreted_batch_ndims).sum(-1)


class CrossEntropy(Bernoulli):
    """Binary cross-entropy for greyscale pixels: Σ x log π + (1 - x) log(1 - π) for x in [0, 1].

    It is not a density: it does not integrate to 1 over [0, 1], and the missing constant depends on π. Its values are
    therefore not log-likelihoods and do not bound log p(x); they are reported as `…_unnormalised`.

    >>> p = CrossEntropy()(torch.zeros(1, 1, 1, 1))
    >>> p.log_prob(torch.full((1, 1, 1, 1), 0.3)).exp()  # one half for every pixel value
    tensor([0.5000])
    """

    support = constraints.unit_interval
    normalised = False


class RealPixels(Head):
    """Base class for the Gaussian likelihoods. It computes the mean from the decoder output.

    Args:
        mean: `sigmoid` restricts the mean to [0, 1], the range of the pixel values; `identity` leaves it unrestricted.
    """

    support = constraints.real

    def __init__(self, mean: Mean) -> None:
        super().__init__()
        self.mean = nn.Sigmoid() if mean == "sigmoid" else nn.Identity()

    def normal(self, raw_mean: Tensor, scale: float | Tensor) -> Distribution:
        return Independent(Normal(self.mean(raw_mean), scale, validate_args=False), 3, validate_args=False)


class Gaussian(RealPixels):
    """Likelihood for real-valued pixels with a fixed σ: log p(x|z) = -Σ [(x - μ)²/(2σ²) + log σ + ½ log 2π].

    Args:
        scale: σ in the same units as the pixel values, which are in [0, 1]. For σ = 1, -log p(x|z) is half the
            squared error plus a constant.
        mean: `sigmoid` restricts the mean to [0, 1], the range of the pixel values; `identity` leaves it unrestricted.

    >>> p = Gaussian(scale=0.5, mean="identity")(torch.zeros(1, 1, 1, 1))
    >>> torch.exp(p.log_prob(torch.zeros(1, 1, 1, 1)))  # 1 / (0.5 √(2π))
    tensor([0.7979])
    """

    @checked
    def __init__(self, scale: PositiveFloat = 1.0, mean: Mean = "sigmoid") -> None:
        super().__init__(mean)
        self.scale = scale

    def forward(self, parameters: Tensor) -> Distribution:
        return self.normal(parameters, self.scale)


class GaussianShared(RealPixels):
    """Likelihood for real-valued pixels with one learned σ for all pixels and images (Rybkin et al., arXiv 2006.13202).

    σ = `min_scale` + softplus(ρ), limited to e^10, where ρ is a parameter of the head.

    Args:
        scale: initial σ, in the same units as the pixel values, which are in [0, 1].
        min_scale: lower bound on σ. Without it, constant pixels would drive σ to 0 and the density to infinity.
        mean: `sigmoid` restricts the mean to [0, 1], the range of the pixel values; `identity` leaves it unrestricted.

    Raises:
        ValueError: unless `scale` is greater than `min_scale` and less than e^10.

    >>> p = GaussianShared(scale=0.5)(torch.zeros(1, 1, 1, 2))
    >>> p.stddev.flatten().tolist()
    [0.5, 0.5]
    """

    @checked
    def __init__(self, scale: PositiveFloat = 0.5, min_scale: PositiveFloat = 0.01, mean: Mean = "sigmoid") -> None:
        super().__init__(mean)
        self.min_scale = min_scale
        if not min_scale < scale < math.exp(MAX_LOG_SCALE):
            raise ValueError(
                f"scale={scale}: must be greater than min_scale={min_scale} and less than e^{MAX_LOG_SCALE:g}"
            )
        spread = scale - min_scale
        self.raw_scale = nn.Parameter(torch.tensor(spread + math.log(-math.expm1(-spread))))  # softplus⁻¹

    def forward(self, parameters: Tensor) -> Distribution:
        return self.normal(parameters, softplus_scale(self.raw_scale.to(parameters.dtype), self.min_scale))


class GaussianLearned(RealPixels):
    """Likelihood for real-valued pixels, whose mean and σ the decoder computes for each pixel of each image.

    σ = `min_scale` + softplus(ρ), limited to e^10. The decoder returns the channels of the mean, then those of ρ.

    Args:
        min_scale: lower bound on σ, in the same units as the pixel values, which are in [0, 1]. Without it, constant
            pixels would drive σ to 0 and the density to infinity.
        mean: `sigmoid` restricts the mean to [0, 1], the range of the pixel values; `identity` leaves it unrestricted.

    >>> p = GaussianLearned(min_scale=0.1)(torch.tensor([0.0, 1.0]).view(1, 2, 1, 1))  # mean, then ρ
    >>> p.mean.item(), round(p.stddev.item(), 4)  # 0.1 + softplus(1)
    (0.5, 1.4133)
    """

    @checked
    def __init__(self, min_scale: PositiveFloat = 0.01, mean: Mean = "sigmoid") -> None:
        super().__init__(mean)
        self.min_scale = min_scale

    def parameter_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        channels, *size = event_shape
        return (2 * channels, *size)

    def forward(self, parameters: Tensor) -> Distribution:
        raw_mean, raw_scale = parameters.chunk(2, dim=-3)
        return self.normal(raw_mean, softplus_scale(raw_scale, self.min_scale))
