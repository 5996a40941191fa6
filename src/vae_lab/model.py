"""Models: the conditional distributions q(z|x) and p(x|z), the VAE that combines them with a prior, and `Draw`.

Objectives, figures and commands use only the methods and attributes of `BaseVAE`.
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
    """A batch of images with pixel values in [0, 1], or in {0, 1} if binarized.

    Attributes:
        input: the images that the encoder sees (B, C, H, W); they may be noisy, or greyscale if only the target is
            binarized.
        target: the images that the likelihood scores (B, C, H, W).
        label: class of each image (B,), int64; None if the data have no classes.
    """

    input: Tensor
    target: Tensor
    label: Tensor | None = None


def computed_once(compute: Callable[["Draw"], Tensor | None]) -> Any:
    """Return a cached property for `Draw`, evaluated in the grad mode in which the draw was created.

    `functools.cached_property` does not work with torch.compile on Python 3.11, and torch's `lazy_property` enables
    gradients.
    """
    name = f"_{compute.__name__}"

    def value(draw: "Draw") -> Tensor | None:
        if not hasattr(draw, name):
            with torch.set_grad_enabled(draw.has_gradients):
                setattr(draw, name, compute(draw))
        return getattr(draw, name)

    return property(value, doc=compute.__doc__)


if TYPE_CHECKING:  # type checkers treat `once` as a property
    once = property
else:
    once = computed_once


@dataclass(eq=False, kw_only=True)
class Draw:
    """The result of one pass through a model, with K samples for each image. Objectives compute the loss from a draw.

    In a hierarchical VAE, `z`, `q`, `prior` and `scored` are tuples with one entry for each stochastic layer.
    Log-probabilities are in nats.

    Args:
        z: samples from q (K, B, D).
        q: posterior q(z|x) with batch shape (B,).
        p: likelihood p(x|z) with batch shape (K, B).
        log_likelihood: log p(x|z) (K, B).
        prior: p(z); None for a point posterior, which has no density.
        scored: the posterior that `log_posterior` evaluates: q, or q with detached parameters.
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
        """log p(z) (K, B), summed over the stochastic layers; None for a point posterior."""
        return None if self.prior is None else log_prob(self.prior, self.z)

    @once
    def log_posterior(self) -> Tensor | None:
        """log q(z|x) (K, B), summed over the stochastic layers; None for a point posterior."""
        return None if self.prior is None else log_prob(self.scored or self.q, self.z)

    @once
    def kl(self) -> Tensor | None:
        """KL(q‖p(z)) for each latent dimension (B, D); None if it has no closed form or the VAE is hierarchical."""
        if isinstance(self.q, Distribution) and isinstance(self.prior, Distribution):
            return kl_per_dimension(self.q, self.prior)
        return None

    def layers(self) -> Iterator[Tensor]:
        """Yield log q - log p for each stochastic layer, evaluated at its samples.

        The shape is (K, B, D) if both distributions factorise over the D dimensions, and (K, B) otherwise. The
        expectation under q of the difference is the layer's contribution to the KL. A closed form for each layer would
        be wrong: in bottom-up inference, z₂ is drawn from q(z₂|z₁), and q(z₁|x) is not the distribution of z₁ given z₂.
        """
        assert self.prior is not None, "a point posterior has no density"
        for z, q, p in zip(*map(as_tuple, (self.z, self.scored or self.q, self.prior)), strict=True):
            check_size(q, p)
            if factorises(q) and factorises(p):
                yield q.base_dist.log_prob(z) - p.base_dist.log_prob(z)
            else:
                yield q.log_prob(z) - p.log_prob(z)


def log_prob(distribution: Distribution | tuple[Distribution, ...], z: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the log-probabilities (K, B) of samples, summed over the stochastic layers."""
    pairs = zip(as_tuple(distribution), as_tuple(z), strict=True)
    return reduce(torch.add, [each.log_prob(value) for each, value in pairs])


def as_tuple(layers: Any) -> tuple[Any, ...]:
    return layers if isinstance(layers, tuple) else (layers,)


class Head(nn.Module, ABC):
    """Base class for posterior and likelihood heads.

    A head maps parameters (..., *parameter_shape) to a distribution with batch shape (...).

    Attributes:
        support: the pixel values that a likelihood accepts; every likelihood must declare them.
        normalised: whether a likelihood integrates to one.
        has_density: whether a posterior has a density; without one, the model has no ELBO.
        center_name: singular noun for the result of `center`, used in captions; its plural is formed by adding -s.
    """

    support: constraints.Constraint | None = None
    normalised = True
    has_density = True
    center_name = "posterior mean"

    def parameter_shape(self, event_shape: Shape) -> Shape:
        """Return the shape of the parameters for one event; by default, there is one parameter for each value."""
        return event_shape

    @abstractmethod
    def forward(self, parameters: Tensor) -> Distribution:
        """Return the distribution with batch shape (...) for parameters (..., *parameter_shape)."""

    def center(self, q: Distribution) -> Tensor:
        """Return the latents (..., D) that represent a posterior in reconstructions and figures, by default its mean.

        Raises:
            NotImplementedError: if the mean has no closed form. Override `center` and `center_name` in this case.
        """
        return mean(q, self)


def mean(q: Distribution, owner: nn.Module) -> Tensor:
    """Return the mean of a posterior. If it has no closed form, raise an error that names the methods to override."""
    try:
        return q.mean
    except NotImplementedError as error:
        raise NotImplementedError(
            f"{type(owner).__name__}: the mean of {type(q).__name__} has no closed form; override `center` and "
            "`center_name` to define the latents that represent the posterior"
        ) from error


class Conditional(nn.Module):
    """A conditional distribution: a network and a head that maps the network's output to a distribution.

    If the input is a vector, the context is concatenated with it. If the input is an image, `network` is called with
    the additional argument `context_dim`, and the module that it returns takes the context (N, context_dim) as its
    second argument.

    Args:
        network: called with (in_shape, out_shape); returns a module that maps (N, *in_shape) to (N, *out_shape).
        head: module that maps the network's output to the distribution.
        in_shape: shape of the condition, without the context.
        event_shape: shape of the variable that the distribution describes.
        context_dim: size of the context; 0 for a distribution without a context.
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
            given: the condition.
            context: tensor (..., context_dim), or (B, context_dim) if the K samples in (K, B, *in_shape) share it.

        Raises:
            ValueError: if the context is missing or has the wrong shape.
        """
        leading = given.shape[: given.dim() - len(self.in_shape)]
        flat = given.reshape(-1, *self.in_shape)  # (N, *in_shape)
        if self.context_dim:
            expected = [*leading[-1:], self.context_dim]
            if context is None:
                raise ValueError(f"the context is missing; it must have shape {expected}")
            if [*context.shape] not in (expected, [*leading, self.context_dim]):
                raise ValueError(f"the context must have shape {expected}, but has shape {[*context.shape]}")
            c = context.to(given).expand(*leading, -1).reshape(len(flat), -1)  # (N, context_dim)
            found: Tensor = self.network(flat, c) if flat.dim() > 2 else self.network(torch.cat([flat, c], 1))
        else:
            found = self.network(flat)  # (N, *parameter_shape)
        return found.reshape(*leading, *found.shape[1:])

    def distribution(self, outputs: Tensor, detach: bool = False) -> Distribution:
        """Return the head's distribution, computed in float32 or higher precision, for the network's outputs.

        With `detach`, the outputs and the head's own weights are detached, even if the distribution does not use
        the weights until it is evaluated. The log-probability then has a gradient only with respect to its argument.
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
    """The components from which a model is built.

    Attributes:
        encoder: network for the encoder, called with (in_shape, out_shape).
        decoder: network for the decoder, called with (in_shape, out_shape).
        posterior: head for the encoder.
        likelihood: head for the decoder.
        prior: module that returns p(z); see `VAE`.
        image_shape: shape of an image, (C, H, W).
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
        """Return q(z|x), or q(z|x, c) for a context of size `context_dim`. All encoders share one head."""
        return Conditional(self.encoder, self.posterior, self.image_shape, (self.latent_dim,), context_dim)

    def make_decoder(self, context_dim: int = 0) -> Conditional:
        """Return p(x|z), or p(x|z, c) for a context of size `context_dim`. All decoders share one head."""
        return Conditional(self.decoder, self.likelihood, (self.latent_dim,), self.image_shape, context_dim)


class BaseVAE(nn.Module, ABC):
    """Base class for all models. It defines the interface that objectives, figures and commands use.

    A user-defined model derives from `VAE` or from this class. The latents z in `encode`, `decode` and `sample_prior`
    are those from which the image is generated; in a hierarchical VAE, they are the first stochastic layer, z₁. In a
    conditional model with context c (B, ...), q(z|x) means q(z|x, c), p(x|z) means p(x|z, c), and p(z) means p(z|c).

    Attributes:
        latent_dims: number of dimensions of each stochastic layer, starting with the layer closest to the image.
        has_density: whether the posterior has a density; without one, the model has no ELBO.
        normalised: whether p(x|z) integrates to one.
    """

    latent_dims: tuple[int, ...]
    has_density = True
    normalised = True

    @property
    def center_name(self) -> str:
        """Singular noun for the result of `center`, used in captions; its plural is formed by adding -s."""
        return "posterior mean"

    @property
    def latent_dim(self) -> int:
        """Number of dimensions, D, of the latents from which the image is generated."""
        return self.latent_dims[0]

    @property
    def name(self) -> str:
        """Short description of the model, used in titles."""
        return f"{type(self).__name__}, z = {self.latent_dim}"

    def context(self, batch: Batch) -> Tensor | None:
        """Return the context (B, ...) for a batch, or None if the model is not conditional."""
        return None

    @abstractmethod
    def draw(self, batch: Batch, samples: int = 1, detach: bool = False) -> Draw:
        """Draw latents from the posterior, `samples` for each image, and evaluate their densities; see `VAE.draw`."""

    @abstractmethod
    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        """Return q(z|x) with batch shape (...) for images (..., C, H, W).

        In a model with top-down inference, q(z|x) is conditioned on the mean of z₂.
        """

    @abstractmethod
    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        """Return p(x|z) with batch shape (...) for latents (..., D)."""

    @abstractmethod
    def sample_prior(self, count: int, context: Tensor | None = None) -> Tensor:
        """Return latents (count, D) sampled from the prior. A conditional model requires contexts (count, ...)."""

    def latent_prior(self, context: Tensor | None = None) -> Distribution | None:
        """Return p(z) as a distribution, or None if its density has no closed form, as for z₁ in a hierarchical VAE."""
        return None

    def center(self, q: Distribution) -> Tensor:
        """Return the latents (..., D) that represent a posterior returned by `encode`, by default its mean."""
        return mean(q, self)

    def reconstruct(self, q: Distribution, context: Tensor | None = None) -> Distribution:
        """Return p(x|z) with batch shape (B,) for z at the `center` of a posterior returned by `encode`."""
        return self.decode(self.center(q), context)


class VAE(BaseVAE):
    """VAE with encoder q(z|x), decoder p(x|z) and prior p(z) (Kingma & Welling, arXiv 1312.6114).

    Args:
        encoder: distribution q(z|x) of latents (D,) given images (C, H, W).
        decoder: distribution p(x|z) of images (C, H, W) given latents (D,).
        prior: module that returns p(z) with event shape (D,). It is called with `encode` and, in a conditional model,
            the context (B, ...).

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
            raise NotImplementedError(f"{type(self).__name__}: has several stochastic layers; override `sample_prior`")
        return p.sample() if p.batch_shape else p.sample(torch.Size([count]))

    def center(self, q: Distribution) -> Tensor:
        return self.encoder.head.center(q)

    def draw(self, batch: Batch, samples: int = 1, detach: bool = False) -> Draw:
        """Draw z from q(z|x), `samples` times for each image, and evaluate the densities. The encoder runs once.

        With `detach`, `log_posterior` has a gradient with respect to the samples, but not with respect to the posterior
        parameters. The sticking-the-landing estimator (arXiv 1703.09194) and doubly reparameterized gradients
        (arXiv 1810.04152) require this.
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
    """Return a VAE with one stochastic layer and no context (`vae=plain`)."""
    return VAE(parts.make_encoder(), parts.make_decoder(), parts.prior)


def in_words(likelihood: str, network: str, model: str, has_density: bool, latent_dim: int) -> str:
    """Return a description of a model, derived from class names: `Bernoulli MLP VAE, z = 2`."""
    kind = model if has_density or not model.endswith("VAE") else f"{model.removesuffix('VAE')}AE"
    return f"{likelihood} {network.removesuffix('Encoder')} {kind}, z = {latent_dim}"


def kl_per_dimension(q: Distribution, p: Distribution) -> Tensor | None:
    """Return KL(q‖p) for each dimension (B, D) in nats, or None if it does not factorise or has no known closed form.

    Raises:
        ValueError: if q and p have different sizes.
    """
    check_size(q, p)
    if not (factorises(q) and factorises(p)):
        return None
    try:
        return kl_divergence(q.base_dist, p.base_dist)
    except NotImplementedError:  # torch has no closed form for this pair
        return None


def check_size(q: Distribution, p: Distribution) -> None:
    """Raise an error if a posterior and a prior differ in size; torch might broadcast them silently."""
    if q.event_shape != p.event_shape:
        raise ValueError(f"the posterior has size {[*q.event_shape]}, but the prior has size {[*p.event_shape]}")


def factorises(distribution: Distribution) -> TypeGuard[Independent[Distribution]]:
    """Return whether a distribution is a product of distributions, one for each dimension."""
    return isinstance(distribution, Independent) and not distribution.base_dist.event_shape
