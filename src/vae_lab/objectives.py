"""Objectives: callables that compute the loss in nats, and named terms (B,) or (B, D), from one draw."""

from functools import reduce
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from vae_lab.checks import STRICT
from vae_lab.model import BaseVAE, Batch, Draw

Terms = dict[str, Tensor]


@dataclass(frozen=True, config=STRICT)
class Elbo:
    """β-VAE objective: the loss is the mean of β · KL(q‖p) - E_q[log p(x|z)] over images (arXiv 1312.6114, 1606.05579).

    The term `elbo` is always computed at β = 1.

    Args:
        beta: weight β of the KL in the loss, at least 0.
        warmup_steps: number of optimizer steps over which β rises linearly from 0 to `beta`; 0 for no warm-up.
        kl: `analytic` uses the closed form of the KL if one exists; `sampled` uses log q(z|x) - log p(z).
        samples: number of samples of z from which the expectation is estimated.

    >>> [Elbo(beta=4.0, warmup_steps=100).beta_at(step) for step in (0, 50, 100, 1000)]
    [0.0, 2.0, 4.0, 4.0]
    """

    needs_density: ClassVar[bool] = True

    beta: NonNegativeFloat = 1.0
    warmup_steps: NonNegativeInt = 0
    kl: Literal["analytic", "sampled"] = "analytic"
    samples: PositiveInt = 1

    def __call__(self, vae: BaseVAE, batch: Batch, step: int) -> tuple[Tensor, Terms]:
        """Return the loss at optimizer step `step`, counted from 0, and the terms from `elbo_terms`."""
        terms = elbo_terms(vae.draw(batch, self.samples), self.kl == "analytic")
        loss = (self.beta_at(step) * terms["kl"] - terms["log_likelihood"]).mean()
        return loss, terms

    def beta_at(self, step: int) -> float:
        """Return β at an optimizer step, counted from 0."""
        if not self.warmup_steps:
            return self.beta
        return self.beta * (min(step, self.warmup_steps) / self.warmup_steps)  # torch 2.11 compiles min(1.0, …) to 0


@dataclass(frozen=True)
class Reconstruction:
    """Autoencoder objective: the loss is the mean of -log p(x|z) over images, without a KL term."""

    needs_density: ClassVar[bool] = False

    def __call__(self, vae: BaseVAE, batch: Batch, step: int) -> tuple[Tensor, Terms]:
        """Return the loss and the term `log_likelihood`."""
        log_likelihood = mean_of_samples(vae.draw(batch).log_likelihood)
        return -log_likelihood.mean(), {"log_likelihood": log_likelihood}


def elbo_terms(draw: Draw, analytic: bool = True) -> Terms:
    """Return `elbo`, `log_likelihood` and `kl` for each image (B,) at β = 1, in nats, averaged over the samples.

    With a closed-form KL, the terms include `kl_per_dimension` (B, D). For a hierarchical VAE, the KL is estimated from
    the samples, and the terms include `kl_layer1`, … for the stochastic layers and `kl_layer1_per_dimension` (B, D), …
    for the layers that factorise. A point posterior has no KL and no ELBO, so the only term is `log_likelihood`.

    Args:
        draw: one pass through the model.
        analytic: whether to use the closed form of the KL, if one exists, instead of an estimate from the samples.
    """
    log_likelihood = mean_of_samples(draw.log_likelihood)
    if analytic and draw.kl is not None:
        kl = draw.kl.sum(-1)
        return {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl, "kl_per_dimension": draw.kl}
    if isinstance(draw.z, tuple) and draw.prior is not None:
        layers = {f"kl_layer{number}": mean_of_samples(layer) for number, layer in enumerate(draw.layers(), start=1)}
        parts = {name: layer if layer.dim() == 1 else layer.sum(-1) for name, layer in layers.items()}
        dimensions = {f"{name}_per_dimension": layer for name, layer in layers.items() if layer.dim() > 1}
        kl = reduce(torch.add, parts.values())
        return {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl, **parts, **dimensions}
    if draw.log_posterior is not None and draw.log_prior is not None:
        kl = mean_of_samples(draw.log_posterior - draw.log_prior)
        return {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}
    return {"log_likelihood": log_likelihood}


def mean_of_samples(values: Tensor) -> Tensor:
    """Return the mean over the samples along the first axis; the values of a single sample are returned unchanged."""
    return values.squeeze(0) if len(values) == 1 else values.mean(0)
