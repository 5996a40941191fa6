"""The model: conditionals q(z|x) and p(x|z), the VAE that joins them with a prior, and what one pass gives."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints, kl_divergence
from torch.func import functional_call

Shape = tuple[int, ...]


class Batch(NamedTuple):
    """Images of one step, ready for the model: pixel values in [0, 1], or in {0, 1} where binarized.

    Attributes:
        input: what the encoder sees, maybe noisy or grey (B, C, H, W).
        target: what the likelihood scores (B, C, H, W).
        label: class of each image (B,), int64; None where there are no classes.
    """

    input: Tensor
    target: Tensor
    label: Tensor | None = None


def computed_once(compute: Callable[["Draw"], Tensor | None]) -> Any:
    """Make a property of a draw that is computed when first used, in the gradient mode of the draw.

    Neither functools's nor torch's own does: torch.compile does not know the first on Python 3.11, and the second
    switches gradients on.
    """
    name = f"_{compute.__name__}"

    def value(draw: "Draw") -> Tensor | None:
        if not hasattr(draw, name):
            with torch.set_grad_enabled(draw.has_gradients):
                setattr(draw, name, compute(draw))
        return getattr(draw, name)

    return property(value, doc=compute.__doc__)


if TYPE_CHECKING:  # to a type checker it is a property
    once = property
else:
    once = computed_once


@dataclass(eq=False, kw_only=True)
class Draw:
    """One pass through the model with K samples: all that an objective sees. Logarithms are in nats.

    A model with several stochastic layers gives tuples, with one entry for each layer.

    Args:
        z: samples from q (K, B, D).
        q: posterior q(z|x), batch shape (B,).
        p: likelihood p(x|z), batch shape (K, B).
        log_likelihood: log p(x|z) (K, B).
        prior: p(z); None for a point posterior, which has no density.
        scored: the posterior that `log_posterior` is taken of: q, or q with its parameters cut from the graph.
    """

    z: Tensor | tuple[Tensor, ...]
    q: Distribution | tuple[Distribution, ...]
    p: Distribution
    log_likelihood: Tensor
    prior: Distribution | tuple[Distribution, ...] | None = None
    scored: Distribution | tuple[Distribution, ...] | None = None

    def __post_init__(self) -> None:
        self.has_gradients = torch.is_grad_enabled()

    @once
    def log_prior(self) -> Tensor | None:
        """log p(z) (K, B), summed over the layers; None for a point posterior."""
        return None if self.prior is None else log_prob(self.prior, self.z)

    @once
    def log_posterior(self) -> Tensor | None:
        """log q(z|x) (K, B), summed over the layers; None for a point posterior."""
        return None if self.prior is None else log_prob(self.scored or self.q, self.z)

    @once
    def kl(self) -> Tensor | None:
        """KL(q‖p(z)) of each dimension (B, D); None where it has no closed form, as for several layers."""
        if isinstance(self.q, Distribution) and isinstance(self.prior, Distribution):
            return kl_per_dimension(self.q, self.prior)
        return None


def log_prob(distribution: Distribution | tuple[Distribution, ...], z: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return log-probabilities (K, B) of samples, summed over the layers where there are several."""
    distributions = distribution if isinstance(distribution, tuple) else (distribution,)
    samples = z if isinstance(z, tuple) else (z,)
    return reduce(torch.add, [each.log_prob(value) for each, value in zip(distributions, samples, strict=True)])


class Head(nn.Module, ABC):
    """Turns parameters (..., *parameter_shape) into a distribution with batch shape (...): a posterior or a likelihood.

    Attributes:
        support: the pixel values that a likelihood is one of; each likelihood states it.
        normalised: whether a likelihood is one, with every constant.
        has_density: whether a posterior has a density, and the model an ELBO.
    """

    support: constraints.Constraint | None = None
    normalised = True
    has_density = True

    def parameter_shape(self, event_shape: Shape) -> Shape:
        """Return the shape of the parameters of one event; unless overridden, one parameter for each value."""
        return event_shape

    @abstractmethod
    def forward(self, parameters: Tensor) -> Distribution:
        """Return the distribution with batch shape (...) for parameters (..., *parameter_shape)."""


class Conditional(nn.Module):
    """A distribution over one thing given another: a network, and the head that reads its output.

    Args:
        network: called with (in_shape, out_shape), gives a module from (N, *in_shape) to (N, *out_shape).
        head: reads the network's output.
        in_shape: shape of what is conditioned on.
        event_shape: shape of what the distribution is over.
    """

    def __init__(
        self, network: Callable[[Shape, Shape], nn.Module], head: Head, in_shape: Shape, event_shape: Shape
    ) -> None:
        super().__init__()
        self.in_shape = in_shape
        self.network = network(in_shape, head.parameter_shape(event_shape))
        self.head = head
        self.has_density, self.normalised = head.has_density, head.normalised

    def forward(self, given: Tensor, detach: bool = False) -> Distribution:
        """Return the distribution with batch shape (...) given a tensor (..., *in_shape); see `distribution`."""
        return self.distribution(self.outputs(given), detach)

    def outputs(self, given: Tensor) -> Tensor:
        """Return the network's outputs (..., *parameter_shape) for a tensor (..., *in_shape)."""
        leading = given.shape[: given.dim() - len(self.in_shape)]
        flat: Tensor = self.network(given.reshape(-1, *self.in_shape))  # (N, *parameter_shape)
        return flat.reshape(*leading, *flat.shape[1:])

    def distribution(self, outputs: Tensor, detach: bool = False) -> Distribution:
        """Return the head's distribution for the network's outputs, computed in float32 or better.

        With `detach` it is the same distribution with the outputs and the head's own weights cut from the graph:
        its log-probability then has a gradient in its argument alone.
        """
        kind = outputs.device.type
        with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext():
            outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
            if not detach:
                return self.head(outputs)
            weights = {name: weight.detach() for name, weight in self.head.named_parameters()}
            return functional_call(self.head, weights, (outputs.detach(),))


class VAE(nn.Module):
    """Encoder q(z|x), decoder p(x|z) and prior p(z) (Kingma & Welling, arXiv 1312.6114).

    Args:
        encoder: conditional from images (C, H, W) to latents (D,).
        decoder: conditional from latents (D,) to images (C, H, W).
        prior: module that is called with `encode` and returns p(z) with event shape (D,).

    >>> from vae_lab import likelihoods, networks, posteriors, priors
    >>> encoder = Conditional(networks.MLP, posteriors.Normal(), in_shape=(1, 8, 8), event_shape=(2,))
    >>> decoder = Conditional(networks.MLP, likelihoods.Bernoulli(), in_shape=(2,), event_shape=(1, 8, 8))
    >>> vae = VAE(encoder, decoder, priors.StandardNormal(2))
    >>> x = torch.zeros(5, 1, 8, 8)
    >>> draw = vae.draw(Batch(x, x, torch.zeros(5)), samples=3)
    >>> draw.z.shape, draw.log_likelihood.shape, draw.kl.shape
    (torch.Size([3, 5, 2]), torch.Size([3, 5]), torch.Size([5, 2]))
    """

    def __init__(self, encoder: Conditional, decoder: Conditional, prior: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior
        self.normalised = decoder.normalised

    def encode(self, x: Tensor, detach: bool = False) -> Distribution:
        """Return q(z|x), batch shape (...), for images (..., C, H, W); `detach` as in `Conditional`."""
        return self.encoder(x, detach)

    def decode(self, z: Tensor) -> Distribution:
        """Return p(x|z), batch shape (...), for latents (..., D)."""
        return self.decoder(z)

    def reconstruct(self, q: Distribution | tuple[Distribution, ...]) -> Distribution:
        """Return p(x|z) at z = the posterior's mean, batch shape (B,)."""
        assert isinstance(q, Distribution), "one stochastic layer; a model of several says how it reconstructs"
        return self.decode(q.mean)

    def draw(self, batch: Batch, samples: int = 1, detach: bool = False) -> Draw:
        """Sample z from q(z|x) `samples` times and score it; the encoder runs once.

        With `detach` the samples keep their gradient and `log_posterior` has none in the posterior's parameters, as
        sticking the landing (arXiv 1703.09194) and doubly reparameterized gradients (arXiv 1810.04152) need it.
        """
        outputs = self.encoder.outputs(batch.input)
        q = self.encoder.distribution(outputs)
        z = q.rsample(torch.Size([samples]))  # (K, B, D)
        p = self.decoder(z)
        return Draw(
            z=z,
            q=q,
            p=p,
            log_likelihood=p.log_prob(batch.target),
            prior=self.prior(self.encode) if self.encoder.has_density else None,
            scored=self.encoder.distribution(outputs, detach=True) if detach else q,
        )


def in_words(likelihood: str, network: str, has_density: bool, latent_dim: int) -> str:
    """Return the name of a model for titles, from those of its classes: `Bernoulli MLP VAE, z = 2`."""
    return f"{likelihood} {network.removesuffix('Encoder')} {'VAE' if has_density else 'AE'}, z = {latent_dim}"


def kl_per_dimension(q: Distribution, p: Distribution) -> Tensor | None:
    """Return KL(q‖p) of each dimension (B, D) in nats, or None where they do not factorise or torch lacks it.

    Raises:
        ValueError: where they are of different sizes.
    """
    if q.event_shape != p.event_shape:
        raise ValueError(f"a posterior of size {[*q.event_shape]} has no KL to a prior of size {[*p.event_shape]}")
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    if q.base_dist.event_shape or p.base_dist.event_shape:
        return None
    try:
        return kl_divergence(q.base_dist, p.base_dist)
    except NotImplementedError:  # torch's word for a pair that it has no closed form for
        return None
