"""Likelihood heads: from a decoder's output to the distribution p(x|z) over images (C, H, W).

Each states in `support` the values that it is a likelihood of; data with other values are refused at start.
All constants are in `log_prob`, so that values compare across models.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent, Normal, constraints


class Bernoulli(nn.Module):
    """Binary pixels: log p(x|z) = Σ x log π + (1 - x) log(1 - π), from logits, so finite at any logit.

    >>> p = Bernoulli()(torch.zeros(1, 1, 2, 2))  # four pixels, each 1 with probability one half
    >>> p.log_prob(torch.ones(1, 1, 2, 2)).exp()
    tensor([0.0625])
    """

    support = constraints.boolean

    def parameter_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the image shape: one logit for each pixel."""
        return event_shape

    def forward(self, parameters: Tensor) -> Distribution:
        """Return p with batch shape (...) and event shape (C, H, W) from logits (..., C, H, W)."""
        return Independent(BernoulliDistribution(logits=parameters, validate_args=False), 3, validate_args=False)


class Gaussian(nn.Module):
    """Real pixels with one fixed σ: log p(x|z) = -Σ [(x - μ)²/(2σ²) + log σ + ½ log 2π].

    Args:
        scale: σ in units of the pixel values, which lie in [0, 1]; σ = 1 makes it half the squared error.
        mean: `sigmoid` keeps the mean inside [0, 1], where images are; `identity` leaves it free.

    Raises:
        ValueError: for a scale that is not above 0, or another `mean`.

    >>> p = Gaussian(scale=0.5, mean="identity")(torch.zeros(1, 1, 1, 1))
    >>> torch.exp(p.log_prob(torch.zeros(1, 1, 1, 1)))  # 1 / (0.5 √(2π))
    tensor([0.7979])
    """

    support = constraints.real

    def __init__(self, scale: float = 1.0, mean: Literal["sigmoid", "identity"] = "sigmoid") -> None:
        super().__init__()
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale={scale} must be a finite number above 0")
        if mean not in ("sigmoid", "identity"):
            raise ValueError(f"mean={mean} must be sigmoid or identity")
        self.scale = scale
        self.sigmoid = mean == "sigmoid"

    def parameter_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the image shape: one mean for each pixel."""
        return event_shape

    def forward(self, parameters: Tensor) -> Distribution:
        """Return p with batch shape (...) and event shape (C, H, W) from parameters (..., C, H, W)."""
        mean = torch.sigmoid(parameters) if self.sigmoid else parameters
        return Independent(Normal(mean, self.scale, validate_args=False), 3, validate_args=False)
