"""User-defined components: hierarchical VAEs, a prior, a posterior and objectives, each with a YAML file in `conf/`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily
from torch.distributions import Normal as NormalDistribution
from torch.func import functional_call
from torch.nn import functional
from zuko.distributions import NormalizingFlow
from zuko.flows import MaskedAutoregressiveTransform
from zuko.lazy import LazyComposedTransform

from vae_lab import MLP, VAE, BaseVAE, Batch, Conditional, Draw, Head, Normal, Parts
from vae_lab.checks import checked
from vae_lab.objectives import Terms, elbo_terms

Distribution.set_default_validate_args(__debug__)  # restore torch's default, which zuko disables


class TwoLayers(VAE):
    """p(z₂) p(z₁|z₂) p(x|z₁) with q(z₁|x) q(z₂|z₁), the two-layer model of the IWAE (arXiv 1509.00519).

    Args:
        parts: components; the prior is p(z₂), and `latent_dim` is the size of z₁.
        upper_dim: size of z₂.
        hidden: widths of the networks between z₁ and z₂.
    """

    @checked
    def __init__(self, parts: Parts, upper_dim: PositiveInt, hidden: Sequence[PositiveInt]) -> None:
        super().__init__(parts.make_encoder(), parts.make_decoder(), parts.prior)
        self.latent_dims = (lower, upper) = (parts.latent_dim, upper_dim)

        def network(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> MLP:
            return MLP(in_shape, out_shape, hidden, activation="Tanh")

        self.upper_encoder = Conditional(network, Normal(), (lower,), (upper,))
        self.upper_decoder = Conditional(network, Normal(), (upper,), (lower,))

    def draw(self, batch: Batch, samples: int = 1, detach: bool = False) -> Draw:
        if detach:
            raise NotImplementedError(
                "detach=true: not supported, because it would detach z₁ as well as the parameters of q(z₂|z₁)"
            )
        q1 = self.encoder(batch.input)
        z1 = q1.rsample(torch.Size([samples]))  # (K, B, D₁)
        q2 = self.upper_encoder(z1)
        z2 = q2.rsample()  # (K, B, D₂)
        p = self.decoder(z1)
        log_likelihood = p.log_prob(batch.target)
        prior = (self.upper_decoder(z2), self.prior(self.encode))
        return Draw(z=(z1, z2), q=(q1, q2), p=p, log_likelihood=log_likelihood, prior=prior)

    def sample_prior(self, count: int, context: Tensor | None = None) -> Tensor:
        return self.upper_decoder(self.prior(self.encode).sample(torch.Size([count]))).sample()


class TopDown(BaseVAE):
    """p(z₂) p(z₁|z₂) p(x|z₁) with q(z₂|x) q(z₁|x, z₂), top-down as in ladder VAEs (arXiv 1602.02282).

    Args:
        parts: components; the prior is p(z₂), and both posteriors use the encoder's network.
        upper_dim: size of z₂.
    """

    @checked
    def __init__(self, parts: Parts, upper_dim: PositiveInt) -> None:
        super().__init__()
        self.latent_dims = (lower, upper) = (parts.latent_dim, upper_dim)
        self.normalised = parts.likelihood.normalised
        self.q2 = Conditional(parts.encoder, parts.posterior, parts.image_shape, (upper,))
        self.q1 = Conditional(parts.encoder, parts.posterior, parts.image_shape, (lower,), context_dim=upper)
        self.p1 = Conditional(parts.decoder, Normal(), (upper,), (lower,))
        self.p2, self.image = parts.prior, parts.make_decoder()

    def draw(self, batch: Batch, samples: int = 1, detach: bool = False) -> Draw:
        q2 = self.q2(batch.input)
        z2 = q2.rsample(torch.Size([samples]))  # (K, B, D₂)
        q1 = self.q1(batch.input.expand(samples, *batch.input.shape), z2)
        z1 = q1.rsample()  # (K, B, D₁)
        p = self.image(z1)
        prior = (self.p1(z2), self.p2(self.encode))
        return Draw(z=(z1, z2), q=(q1, q2), p=p, log_likelihood=p.log_prob(batch.target), prior=prior)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        return self.q1(x, self.q2(x).mean)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        return self.image(z)

    def sample_prior(self, count: int, context: Tensor | None = None) -> Tensor:
        return self.p1(self.p2(self.encode).sample(torch.Size([count]))).sample()


class VampPrior(nn.Module):
    """Mixture of the posteriors of learned inputs, initialised with training images (arXiv 1705.07120).

    Args:
        components: number of inputs.
        shape: shape of an image (C, H, W).
    """

    @checked
    def __init__(self, components: PositiveInt, shape: Sequence[PositiveInt]) -> None:
        super().__init__()
        self.inputs = nn.Parameter(torch.rand(components, *shape))
        self.logits = nn.Parameter(torch.zeros(components))

    def init_from_data(self, batches: Iterator[Batch]) -> None:
        first = next(batches).input
        rest = [batch.input for batch in islice(batches, ceil(len(self.inputs) / len(first)) - 1)]
        images = torch.cat([first, *rest])
        if len(images) < len(self.inputs):
            raise ValueError(
                f"prior.components={len(self.inputs)}: must be at most {len(images)}, the number of training images"
            )
        self.inputs.copy_(images[: len(self.inputs)])

    def forward(self, encode: Callable[[Tensor], Distribution]) -> Distribution:
        return MixtureSameFamily(Categorical(logits=self.logits), encode(self.inputs.clamp(0, 1)))


class OwnSamples(NormalizingFlow):
    """Flow that caches the log-probability of its samples, which otherwise takes a pass for each latent dimension."""

    kept: tuple[Tensor | None, Tensor | None] = (None, None)

    def rsample(self, shape: Sequence[int] = ()) -> Tensor:
        self.kept = (z, _) = self.rsample_and_log_prob(shape)
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        return self.kept[1] if z is self.kept[0] else super().log_prob(z)


class InverseAutoregressive(Head):
    """Inverse autoregressive flow (arXiv 1606.04934) of a Gaussian, conditioned on the encoder's last hidden layer.

    Args:
        latent_dim: number of latent dimensions D.
        given: size of the encoder's output, which is its last hidden layer with `encoder.activate_output=true`.
        steps: number of steps of the flow; each reverses the order of the latent dimensions.
        hidden: widths of the network of each step.
    """

    center_name = "transformed base mean"

    @checked
    def __init__(
        self, latent_dim: PositiveInt, given: PositiveInt, steps: PositiveInt, hidden: Sequence[PositiveInt]
    ) -> None:
        super().__init__()
        self.given = given
        self.base = nn.Linear(given, 2 * latent_dim)
        forwards = torch.arange(latent_dim)
        orders = [forwards if step % 2 else forwards.flip(0) for step in range(steps)]
        flows = [
            MaskedAutoregressiveTransform(latent_dim, given, order=each, hidden_features=hidden) for each in orders
        ]
        self.flow = LazyComposedTransform(*(flow.inv for flow in flows))

    def parameter_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.given,)

    def forward(self, parameters: Tensor) -> Distribution:
        mean, raw_scale = self.base(parameters).chunk(2, dim=-1)
        base = NormalDistribution(mean, functional.softplus(raw_scale) + 1e-6, validate_args=False)
        return OwnSamples(self.flow(parameters), Independent(base, 1, validate_args=False))

    def center(self, q: Distribution) -> Tensor:
        return q.transform.inv(q.base.mean)


@dataclass(frozen=True)
class FreeBits:
    """ELBO with free bits: the loss has a lower bound on the KL of each dimension (arXiv 1606.04934, appendix C.8).

    Args:
        floor: lower bound of the KL of a latent dimension, averaged over the batch, in nats.
    """

    needs_density: ClassVar[bool] = True

    floor: NonNegativeFloat

    def __call__(self, vae: BaseVAE, batch: Batch, step: int) -> tuple[Tensor, Terms]:
        terms = elbo_terms(vae.draw(batch))
        kl = terms["kl_per_dimension"].mean(0).clamp_min(self.floor).sum()
        return kl - terms["log_likelihood"].mean(), {**terms, "kl_floored": kl.expand(len(batch.target))}


class FactorVAE(nn.Module):
    """ELBO - gamma · total correlation, which a discriminator estimates (arXiv 1802.05983).

    Model and discriminator are trained in one step. The model's loss has no gradient with respect to the weights of the
    discriminator, and vice versa.

    Args:
        latent_dim: number of latent dimensions D.
        gamma: weight of the total correlation.
        hidden: widths of the discriminator.
        optimizer_options: optimizer options for the discriminator's weights.
    """

    needs_density = True

    @checked
    def __init__(
        self, latent_dim: PositiveInt, gamma: NonNegativeFloat, hidden: Sequence[PositiveInt], optimizer_options: dict
    ) -> None:
        super().__init__()
        self.discriminator = MLP((latent_dim,), (2,), hidden, activation="LeakyReLU(0.2)")
        self.gamma = gamma
        self.optimizer_options = optimizer_options

    def forward(self, vae: BaseVAE, batch: Batch, step: int) -> tuple[Tensor, Terms]:
        draw = vae.draw(batch)
        terms, z = elbo_terms(draw), draw.z[0]
        weights = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        from_q, from_product = functional_call(self.discriminator, weights, (z,)).unbind(-1)
        tc = from_q - from_product  # (B,)
        shuffled = z.detach().gather(0, torch.rand_like(z).argsort(0))  # each latent dimension independently
        logits = self.discriminator(torch.cat([z.detach(), shuffled]))
        kind = torch.arange(2, device=z.device).repeat_interleave(len(z))
        error = functional.cross_entropy(logits, kind, reduction="none").view(2, -1).mean(0)  # (B,)
        loss = (self.gamma * tc - terms["elbo"] + error).mean()
        return loss, {**terms, "total_correlation": tc, "discriminator": error}
