"""The model: conditionals q(z|x) and p(x|z), the VAE that joins them with a prior, and what one pass gives.

Everything else uses a model through the methods and attributes of `BaseVAE` alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints, kl_divergence

from vae_lab.networks import Network, Shape


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

    def layers(self) -> Iterator[Tensor]:
        """Yield log q - log p of each layer at its samples: (K, B, D) where both factorise over D, else (K, B).

        Their mean over q is the layer's part of the KL. A closed form for each layer would not do: where z₂ is drawn
        from q(z₂|z₁), as in bottom-up inference, q(z₁|x) is not the distribution of z₁ given z₂.
        """
        assert self.prior is not None, "a point posterior has no density"
        for z, q, p in zip(*map(as_tuple, (self.z, self.scored or self.q, self.prior)), strict=True):
            check_size(q, p)
            if factorises(q) and factorises(p):
                yield q.base_dist.log_prob(z) - p.base_dist.log_prob(z)
            else:
                yield q.log_prob(z) - p.log_prob(z)


def log_prob(distribution: Distribution | tuple[Distribution, ...], z: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return log-probabilities (K, B) of samples, summed over the layers where there are several."""
    pairs = zip(as_tuple(distribution), as_tuple(z), strict=True)
    return reduce(torch.add, [each.log_prob(value) for each, value in pairs])


def as_tuple(layers: Any) -> tuple[Any, ...]:
    return layers if isinstance(layers, tuple) else (layers,)


class Head(nn.Module, ABC):
    """Turns parameters (..., *parameter_shape) into a distribution with batch shape (...): a posterior or a likelihood.

    Attributes:
        support: the pixel values that a likelihood is one of; each likelihood states it.
        normalised: whether a likelihood is one, with every constant.
        has_density: whether a posterior has a density, and the model an ELBO.
        center_name: what `center` returns, a singular noun for captions; the plural adds an s.
    """

    support: constraints.Constraint | None = None
    normalised = True
    has_density = True
    center_name = "posterior mean"

    def parameter_shape(self, event_shape: Shape) -> Shape:
        """Return the shape of the parameters of one event; unless overridden, one parameter for each value."""
        return event_shape

    @abstractmethod
    def forward(self, parameters: Tensor) -> Distribution:
        """Return the distribution with batch shape (...) for parameters (..., *parameter_shape)."""

    def center(self, q: Distribution) -> Tensor:
        """Return the latents (..., D) that stand for a posterior in reconstructions and figures: its mean.

        Raises:
            NotImplementedError: where the mean has no closed form; such a posterior overrides this and `center_name`.
        """
        return mean(q, self)


def mean(q: Distribution, owner: nn.Module) -> Tensor:
    """Return the mean of a posterior, or say what the class that gives it has to override."""
    try:
        return q.mean
    except NotImplementedError as error:
        raise NotImplementedError(
            f"{type(owner).__name__}: the mean of {type(q).__name__} has no closed form: override `center` and "
            "`center_name` to say which latents stand for the posterior"
        ) from error


class Conditional(nn.Module):
    """A distribution over one thing given another: a network, and the head that reads its output.

    Args:
        network: called with (in_shape, out_shape), gives a module from (N, *in_shape) to (N, *out_shape). A context is
            further features of a vector; with an image and a context, the network is called with `context_dim` as well,
            and its module with the context (N, context_dim).
        head: reads the network's output.
        in_shape: shape of what is conditioned on, without the context.
        event_shape: shape of what the distribution is over.
        context_dim: size of the context; 0 for a distribution that ignores it.
    """

    def __init__(self, network: Network, head: Head, in_shape: Shape, event_shape: Shape, context_dim: int = 0) -> None:
        super().__init__()
        self.in_shape = in_shape
        self.context_dim = context_dim
        out_shape = head.parameter_shape(event_shape)
        if context_dim and len(in_shape) > 1:
            self.network = network(in_shape, out_shape, context_dim=context_dim)
        else:
            self.network = network((in_shape[0] + context_dim, *in_shape[1:]), out_shape)
        self.head = head
        self.has_density, self.normalised = head.has_density, head.normalised

    def forward(self, given: Tensor, context: Tensor | None = None) -> Distribution:
        """Return the distribution with batch shape (...) given a tensor (..., *in_shape); see `outputs`."""
        return self.distribution(self.outputs(given, context))

    def outputs(self, given: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the network's outputs (..., *parameter_shape) for a tensor (..., *in_shape).

        Args:
            given: what is conditioned on.
            context: (..., context_dim), or (B, context_dim) for all K samples of (K, B, *in_shape).

        Raises:
            ValueError: for a context that is missing, or of another size.
        """
        leading = given.shape[: given.dim() - len(self.in_shape)]
        flat = given.reshape(-1, *self.in_shape)  # (N, *in_shape)
        if self.context_dim:
            expected = [*leading[-1:], self.context_dim]
            if context is None:
                raise ValueError(f"the context is missing; it must have shape {expected}")
            if [*context.shape] not in (expected, [*leading, self.context_dim]):
                raise ValueError(f"the context must have shape {expected}, and has {[*context.shape]}")
            c = context.to(given).expand(*leading, -1).reshape(len(flat), -1)  # (N, context_dim)
            found: Tensor = self.network(flat, c) if flat.dim() > 2 else self.network(torch.cat([flat, c], 1))
        else:
            found = self.network(flat)  # (N, *parameter_shape)
        return found.reshape(*leading, *found.shape[1:])

    def distribution(self, outputs: Tensor, detach: bool = False) -> Distribution:
        """Return the head's distribution for the network's outputs, computed in float32 or better.

        With `detach` it is the same distribution with the outputs and the head's own weights cut from the graph:
        its log-probability then has a gradient in its argument alone, even if the distribution reads the weights later.
        """
        kind = outputs.device.type
        with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext():
            outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
            if not detach:
                return self.head(outputs)
            weights = [*self.head.parameters(), *self.head.buffers()]
            head = deepcopy(self.head, {id(weight): weight.detach() for weight in weights}) if weights else self.head
            return head(outputs.detach())


@dataclass(frozen=True)
class Parts:
    """The components that a model class is built from.

    Attributes:
        encoder: the encoder's network, called with (in_shape, out_shape).
        decoder: the decoder's network, called with (in_shape, out_shape).
        posterior: head of the encoder.
        likelihood: head of the decoder.
        prior: module that returns p(z), see `VAE`.
        image_shape: (C, H, W).
        latent_dim: number of latent dimensions D.
    """

    encoder: Network
    decoder: Network
    posterior: Head
    likelihood: Head
    prior: nn.Module
    image_shape: Shape
    latent_dim: int

    def make_encoder(self, context_dim: int = 0) -> Conditional:
        """Return q(z|x), or q(z|x, c) with a context of some size; every call has the same head."""
        return Conditional(self.encoder, self.posterior, self.image_shape, (self.latent_dim,), context_dim)

    def make_decoder(self, context_dim: int = 0) -> Conditional:
        """Return p(x|z), or p(x|z, c) with a context of some size; every call has the same head."""
        return Conditional(self.decoder, self.likelihood, (self.latent_dim,), self.image_shape, context_dim)


class BaseVAE(nn.Module, ABC):
    """All that objectives, figures and commands use of a model. A model of your own derives from `VAE`, or from this.

    The latents z of `encode`, `decode` and `sample_prior` are those that the image is generated from: in a hierarchy
    the layer z₁ next to it. Where a model is conditional, a context c (B, ...) goes with the images, and q(z|x) is
    q(z|x, c), p(x|z) is p(x|z, c) and p(z) is p(z|c).

    Attributes:
        latent_dims: number of dimensions of each stochastic layer, that next to the image first.
        has_density: whether the posterior has a density, and the model an ELBO.
        normalised: whether log p(x|z) has every constant.
    """

    latent_dims: tuple[int, ...]
    has_density = True
    normalised = True

    @property
    def center_name(self) -> str:
        """What `center` returns, a singular noun for captions; the plural adds an s."""
        return "posterior mean"

    @property
    def latent_dim(self) -> int:
        """Number of dimensions D of the latents that the image is generated from."""
        return self.latent_dims[0]

    @property
    def name(self) -> str:
        """The model in a few words, for titles."""
        return f"{type(self).__name__}, z = {self.latent_dim}"

    def context(self, batch: Batch) -> Tensor | None:
        """Return the context (B, ...) of a batch; None for a model that is not conditional."""
        return None

    @abstractmethod
    def draw(self, batch: Batch, samples: int = 1, detach: bool = False) -> Draw:
        """Sample the latents of a batch `samples` times from the posterior, and score them; see `VAE.draw`."""

    @abstractmethod
    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        """Return q(z|x), batch shape (...), for images (..., C, H, W); of top-down inference, given the mean of z₂."""

    @abstractmethod
    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        """Return p(x|z), batch shape (...), for latents (..., D)."""

    @abstractmethod
    def sample_prior(self, count: int, context: Tensor | None = None) -> Tensor:
        """Return latents (count, D) from the prior, given contexts (count, ...) in a conditional model."""

    def latent_prior(self, context: Tensor | None = None) -> Distribution | None:
        """Return p(z) as a distribution; None where it has no density in closed form, as for z₁ of a hierarchy."""
        return None

    def center(self, q: Distribution) -> Tensor:
        """Return the latents (..., D) that stand for the posterior that `encode` returns: its mean."""
        return mean(q, self)

    def reconstruct(self, q: Distribution, context: Tensor | None = None) -> Distribution:
        """Return p(x|z) at the center of a posterior that `encode` returns, batch shape (B,)."""
        return self.decode(self.center(q), context)


class VAE(BaseVAE):
    """Encoder q(z|x), decoder p(x|z) and prior p(z) (Kingma & Welling, arXiv 1312.6114).

    Args:
        encoder: conditional from images (C, H, W) to latents (D,).
        decoder: conditional from latents (D,) to images (C, H, W).
        prior: module that is called with `encode`, and in a conditional model with the context (B, ...) as well; it
            returns p(z) with event shape (D,).

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
        self.latent_dims = decoder.in_shape
        self.has_density = encoder.has_density
        self.normalised = decoder.normalised

    @property
    def name(self) -> str:
        likelihood, network = type(self.decoder.head).__name__, type(self.encoder.network).__name__
        return in_words(likelihood, network, type(self).__name__, self.has_density, self.latent_dim)

    @property
    def center_name(self) -> str:
        return self.encoder.head.center_name

    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        return self.encoder(x, context)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        return self.decoder(z, context)

    def latent_prior(self, context: Tensor | None = None) -> Distribution | None:
        if len(self.latent_dims) > 1:
            return None
        return self.prior(self.encode) if context is None else self.prior(self.encode, context)

    def sample_prior(self, count: int, context: Tensor | None = None) -> Tensor:
        if context is not None:
            context = context.expand(count, *context.shape[1:])
        p = self.latent_prior(context)
        if p is None:
            raise NotImplementedError(f"{type(self).__name__} must override `sample_prior`: it has several layers")
        return p.sample() if p.batch_shape else p.sample(torch.Size([count]))

    def center(self, q: Distribution) -> Tensor:
        return self.encoder.head.center(q)

    def draw(self, batch: Batch, samples: int = 1, detach: bool = False) -> Draw:
        """Sample z from q(z|x) `samples` times and score it; the encoder runs once.

        With `detach` the samples keep their gradient and `log_posterior` has none in the posterior's parameters, as
        sticking the landing (arXiv 1703.09194) and doubly reparameterized gradients (arXiv 1810.04152) need it.
        """
        context = self.context(batch)
        outputs = self.encoder.outputs(batch.input, context)
        q = self.encoder.distribution(outputs)
        z = q.rsample(torch.Size([samples]))  # (K, B, D)
        p = self.decoder(z, context)
        return Draw(
            z=z,
            q=q,
            p=p,
            log_likelihood=p.log_prob(batch.target),
            prior=self.latent_prior(context) if self.has_density else None,
            scored=self.encoder.distribution(outputs, detach=True) if detach else q,
        )


def plain(parts: Parts) -> VAE:
    """Return the VAE of one stochastic layer and no context: what `vae=plain` names."""
    return VAE(parts.make_encoder(), parts.make_decoder(), parts.prior)


def in_words(likelihood: str, network: str, model: str, has_density: bool, latent_dim: int) -> str:
    """Return the name of a model for titles, from those of its classes: `Bernoulli MLP VAE, z = 2`."""
    kind = model if has_density or not model.endswith("VAE") else f"{model.removesuffix('VAE')}AE"
    return f"{likelihood} {network.removesuffix('Encoder')} {kind}, z = {latent_dim}"


def kl_per_dimension(q: Distribution, p: Distribution) -> Tensor | None:
    """Return KL(q‖p) of each dimension (B, D) in nats, or None where they do not factorise or torch lacks it.

    Raises:
        ValueError: where they are of different sizes.
    """
    check_size(q, p)
    if not (factorises(q) and factorises(p)):
        return None
    try:
        return kl_divergence(q.base_dist, p.base_dist)
    except NotImplementedError:  # torch's word for a pair that it has no closed form for
        return None


def check_size(q: Distribution, p: Distribution) -> None:
    """Refuse a posterior and a prior of different sizes, which torch may broadcast."""
    if q.event_shape != p.event_shape:
        raise ValueError(f"a posterior of size {[*q.event_shape]} has no KL to a prior of size {[*p.event_shape]}")


def factorises(distribution: Distribution) -> TypeGuard[Independent[Distribution]]:
    """Tell whether a distribution is a product over its dimensions."""
    return isinstance(distribution, Independent) and not distribution.base_dist.event_shape
