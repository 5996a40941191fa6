"""Priors: modules that return p(z) when called with `encode` and, in a conditional model, the context."""

from collections.abc import Callable

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vae_lab.checks import checked


class StandardNormal(nn.Module):
    """Standard normal prior p(z) = N(0, I) with `latent_dim` dimensions."""

    loc: Tensor
    scale: Tensor

    @checked
    def __init__(self, latent_dim: PositiveInt) -> None:
        super().__init__()
        # buffers follow the module's device and dtype; these are constant, so checkpoints do not contain them
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self, encode: Callable[[Tensor], Distribution], context: Tensor | None = None) -> Distribution:
        return Independent(Normal(self.loc, self.scale, validate_args=False), 1, validate_args=False)
