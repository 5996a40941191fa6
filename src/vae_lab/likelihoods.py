"""Likelihood heads: from a decoder's output to the distribution p(x|z) over images (C, H, W).

Each states in `support` the values that it is a likelihood of; data with other values are refused at start.
All constants are in `log_prob`, so that values compare across models; one that has none to have says so by
`normalised = False`.
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
    """Binary pixels: log p(x|z) = Σ x log π + (1 - x) log(1 - π), from logits, so finite at any logit.

    >>> p = Bernoulli()(torch.zeros(1, 1, 2, 2))  # four pixels, each 1 with probability one half
    >>> p.log_prob(torch.ones(1, 1, 2, 2)).exp()
    tensor([0.0625])
    """

    support: constraints.Constraint | None = constraints.boolean

    def forward(self, parameters: Tensor) -> Distribution:
        return BernoulliPixels(BernoulliDistribution(logits=parameters, validate_args=False), 3, validate_args=False)


class BernoulliPixels(Independent[BernoulliDistribution]):
    """The distribution of an image, with a density that takes two passes over the pixels less than torch's."""

    def log_prob(self, value: Tensor) -> Tensor:
        logits, value = torch.broadcast_tensors(self.base_dist.logits, value)
        entropy = functional.binary_cross_entropy_with_logits(logits, value, reduction="none")
        return -entropy.flatten(-self.reinterpreted_batch_ndims).sum(-1)


class CrossEntropy(Bernoulli):
    """Grey pixels scored as if they were probabilities: Σ x log π + (1 - x) log(1 - π) for x in [0, 1].

    That is no density: over [0, 1] it does not integrate to 1, and the constant that would make it one depends on π.
    Its values are no log-likelihoods and give no bound of log p(x); they are reported as `…_unnormalised`.

    >>> p = CrossEntropy()(torch.zeros(1, 1, 1, 1))
    >>> p.log_prob(torch.full((1, 1, 1, 1), 0.3)).exp()  # one half, whatever the pixel
    tensor([0.5000])
    """

    support = constraints.unit_interval
    normalised = False


class RealPixels(Head):
    """What the Gaussians share: the way from the decoder's output to the mean.

    Args:
        mean: `sigmoid` keeps the mean inside [0, 1], where images are; `identity` leaves it free.
    """

    support = constraints.real

    def __init__(self, mean: Mean) -> None:
        super().__init__()
        self.mean = nn.Sigmoid() if mean == "sigmoid" else nn.Identity()

    def normal(self, raw_mean: Tensor, scale: float | Tensor) -> Distribution:
        return Independent(Normal(self.mean(raw_mean), scale, validate_args=False), 3, validate_args=False)


class Gaussian(RealPixels):
    """Real pixels with one fixed σ: log p(x|z) = -Σ [(x - μ)²/(2σ²) + log σ + ½ log 2π].

    Args:
        scale: σ in units of the pixel values, which lie in [0, 1]; σ = 1 makes it half the squared error.
        mean: `sigmoid` keeps the mean inside [0, 1], where images are; `identity` leaves it free.

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
    """Real pixels with one σ, learned and the same for all pixels and images (Rybkin et al., arXiv 2006.13202).

    σ = `min_scale` + softplus(ρ), at most e^10; ρ is a parameter of the head.

    Args:
        scale: σ at the start of the training, in units of the pixel values, which lie in [0, 1].
        min_scale: what σ stays above; pixels that are always the same would draw it to 0, where densities are infinite.
        mean: `sigmoid` keeps the mean inside [0, 1], where images are; `identity` leaves it free.

    Raises:
        ValueError: for a scale that is not above `min_scale`.

    >>> p = GaussianShared(scale=0.5)(torch.zeros(1, 1, 1, 2))
    >>> p.stddev.flatten().tolist()
    [0.5, 0.5]
    """

    @checked
    def __init__(self, scale: PositiveFloat = 0.5, min_scale: PositiveFloat = 0.01, mean: Mean = "sigmoid") -> None:
        super().__init__(mean)
        self.min_scale = min_scale
        if not min_scale < scale < math.exp(MAX_LOG_SCALE):
            raise ValueError(f"scale={scale} must be above min_scale={min_scale} and below e^{MAX_LOG_SCALE:g}")
        spread = scale - min_scale
        self.raw_scale = nn.Parameter(torch.tensor(spread + math.log(-math.expm1(-spread))))  # softplus⁻¹

    def forward(self, parameters: Tensor) -> Distribution:
        return self.normal(parameters, softplus_scale(self.raw_scale.to(parameters.dtype), self.min_scale))


class GaussianLearned(RealPixels):
    """Real pixels with a mean and a σ for each pixel of each image, both from the decoder.

    σ = `min_scale` + softplus(ρ), at most e^10; the decoder gives the means' channels, then the ρs'.

    Args:
        min_scale: what σ stays above, in units of the pixel values, which lie in [0, 1]; pixels that are always the
            same would draw it to 0, where densities are infinite.
        mean: `sigmoid` keeps the mean inside [0, 1], where images are; `identity` leaves it free.

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
