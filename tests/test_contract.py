"""What comes later, written here on the nouns alone: a VampPrior, doubly reparameterized gradients, two layers."""

from functools import partial
from math import log

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from conftest import IMAGE, make_batch, make_vae
from vae_lab.likelihoods import Bernoulli
from vae_lab.model import Batch, Conditional, Draw
from vae_lab.networks import MLP
from vae_lab.objectives import Elbo, Terms, elbo_terms
from vae_lab.posteriors import Normal
from vae_lab.priors import StandardNormal
from vae_lab.training.module import VAEModule


class VampPrior(nn.Module):
    """Mixture of the posteriors of learned inputs (arXiv 1705.07120)."""

    def __init__(self, components: int) -> None:
        super().__init__()
        self.inputs = nn.Parameter(torch.randn(components, *IMAGE))
        self.logits = nn.Parameter(torch.zeros(components))

    def forward(self, encode: callable) -> Distribution:
        return MixtureSameFamily(Categorical(logits=self.logits), encode(self.inputs.sigmoid()))


class Iwae:
    """Importance-weighted bound (arXiv 1509.00519), by plain or by doubly reparameterized gradients (1810.04152)."""

    def __init__(self, samples: int, doubly: bool) -> None:
        self.samples, self.doubly = samples, doubly

    def __call__(self, vae: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Terms]:
        draw = vae.draw(batch, self.samples, detach=self.doubly)
        weights = draw.log_likelihood + draw.log_prior - draw.log_posterior  # (K, B)
        bound = weights.logsumexp(0) - log(self.samples)
        terms = {**elbo_terms(draw), "iwae": bound}
        if not self.doubly:
            return -bound.mean(), terms
        normalized = weights.softmax(0).detach()
        draw.z.register_hook(lambda gradient: normalized.unsqueeze(-1) * gradient)
        return -(normalized * weights).sum(0).mean(), terms


class TwoLayers(nn.Module):
    """p(z₂) p(z₁|z₂) p(x|z₁) with q(z₁|x) q(z₂|z₁)."""

    normalised = True

    def __init__(self) -> None:
        super().__init__()
        network = partial(MLP, hidden=(8,), activation="Tanh")
        self.lower = Conditional(network, Normal(), IMAGE, (4,))
        self.upper = Conditional(network, Normal(), (4,), (2,))
        self.between = Conditional(network, Normal(), (2,), (4,))
        self.decoder = Conditional(network, Bernoulli(), (4,), IMAGE)
        self.prior = StandardNormal(2)

    def draw(self, batch: Batch, samples: int = 1, detach: bool = False) -> Draw:
        first = self.lower(batch.input)
        z1 = first.rsample((samples,))  # (K, B, 4)
        second = self.upper(z1)
        z2 = second.rsample()  # (K, B, 2)
        p = self.decoder(z1)
        return Draw(
            z=(z1, z2),
            q=(first, second),
            p=p,
            log_likelihood=p.log_prob(batch.target),
            prior=(self.between(z2), self.prior(self.lower)),
        )

    def reconstruct(self, q: tuple[Distribution, ...]) -> Distribution:
        return self.decoder(q[0].mean)


CASES = {
    "vamp prior": (lambda: make_vae(prior=VampPrior(5)), Elbo()),
    "doubly reparameterized": (make_vae, Iwae(5, doubly=True)),
    "doubly reparameterized, vamp prior": (lambda: make_vae(prior=VampPrior(5)), Iwae(5, doubly=True)),
    "two layers": (TwoLayers, Elbo()),
    "two layers, iwae": (TwoLayers, Iwae(5, doubly=False)),
}


@pytest.mark.parametrize("case", CASES)
def test_trains_with_finite_gradients_in_every_parameter(case: str) -> None:
    make, objective = CASES[case]
    torch.manual_seed(0)
    module = VAEModule(make(), objective)
    optimizer, batch = module.configure_optimizers(), make_batch()
    for step in range(4):
        optimizer.zero_grad()
        loss, terms = module.objective(module.vae, batch, step)
        loss.backward()
        optimizer.step()
        assert {len(term) for term in terms.values()} == {6}
        assert {name for name, term in terms.items() if term.dim() != 1} <= {"kl_per_dimension"}
        for name, weight in module.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
            assert weight.grad.abs().sum() > 0, name
    assert module.evaluate(batch).keys() - {"kl_per_dimension"} == {"elbo", "log_likelihood", "kl", "mse"}


def test_no_module_is_held_twice() -> None:
    vae = make_vae(prior=VampPrior(5))
    names = [name for name, _ in vae.named_parameters(remove_duplicate=False)]
    assert len(names) == len(list(vae.parameters()))


def test_iwae_of_one_sample_is_the_elbo_with_a_sampled_kl(double: None) -> None:
    vae, batch = make_vae(), make_batch()
    losses = []
    for objective in (Iwae(1, doubly=False), Elbo(kl="sampled")):
        torch.manual_seed(5)
        losses.append(objective(vae, batch, 0)[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-14, atol=0)


def gradients(vae: nn.Module, batch: Batch, objective: Iwae, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    vae.zero_grad()
    objective(vae, batch, 0)[0].backward()
    return {name: weight.grad.clone() for name, weight in vae.named_parameters()}


def test_doubly_reparameterized_gradient_of_the_decoder_is_the_plain_one(double: None) -> None:
    vae, batch = make_vae(), make_batch()
    plain, doubly = (gradients(vae, batch, Iwae(5, doubly), seed=5) for doubly in (False, True))
    for name in plain:
        if name.startswith("decoder"):
            torch.testing.assert_close(doubly[name], plain[name], rtol=1e-10, atol=1e-14)


def test_doubly_reparameterized_gradient_of_the_encoder_agrees_in_expectation(double: None) -> None:
    torch.manual_seed(0)
    vae, one = make_vae(), make_batch(1)
    batch = Batch(*(each.expand(20_000, *each.shape[1:]) for each in one))  # as many repetitions
    name, means = "encoder.network.3.bias", []
    for doubly in (False, True):
        runs = torch.stack([gradients(vae, batch, Iwae(5, doubly), seed)[name] for seed in range(8)])
        means.append((runs.mean(0), runs.std(0) / 8**0.5))
    (plain, plain_error), (other, other_error) = means
    assert ((plain - other).abs() < 5 * (plain_error.square() + other_error.square()).sqrt()).all()
    assert other_error.sum() < plain_error.sum()  # the reason for its being
