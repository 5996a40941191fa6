"""Objectives work with user-defined models: VampPrior, flow posterior, two stochastic layers, importance weights."""

from functools import partial
from math import log

import pytest
import torch
from torch import Tensor, nn

from conftest import IMAGE, LATENT, make_batch, make_two_layers, make_vae
from vae_lab.model import Batch
from vae_lab.objectives import Elbo, Terms, elbo_terms
from vae_lab.training.module import VAEModule
from zoo.models import FactorVAE, FreeBits, InverseAutoregressive, VampPrior


class Iwae:
    """Importance-weighted bound (arXiv 1509.00519) with plain or doubly reparameterized gradients (1810.04152)."""

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


FLOW = partial(InverseAutoregressive, latent_dim=LATENT, given=8, steps=2, hidden=[8])
CASES = {
    "vamp prior": (lambda: make_vae(prior=VampPrior(5, IMAGE)), Elbo()),
    "doubly reparameterized": (make_vae, Iwae(5, doubly=True)),
    "doubly reparameterized, vamp prior": (lambda: make_vae(prior=VampPrior(5, IMAGE)), Iwae(5, doubly=True)),
    "flow posterior": (lambda: make_vae(FLOW()), Elbo()),
    "flow posterior, doubly reparameterized": (lambda: make_vae(FLOW()), Iwae(5, doubly=True)),
    "two layers": (make_two_layers, Elbo()),
    "two layers, iwae": (make_two_layers, Iwae(5, doubly=False)),
}


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_has_finite_nonzero_gradient(case: str) -> None:
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
        assert all(name.endswith("_per_dimension") for name, term in terms.items() if term.dim() != 1)
        for name, weight in module.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
            assert weight.grad.abs().sum() > 0, name
    layers = {"kl_layer1", "kl_layer2"} if case.startswith("two layers") else set()
    found = {name for name, term in module.evaluate(batch).items() if term.dim() == 1}
    assert found == {"elbo", "log_likelihood", "kl", "mse"} | layers


def test_every_parameter_is_registered_once() -> None:
    vae = make_vae(prior=VampPrior(5, IMAGE))
    names = [name for name, _ in vae.named_parameters(remove_duplicate=False)]
    assert len(names) == len(list(vae.parameters()))


def test_iwae_with_one_sample_equals_elbo_with_sampled_kl(double: None) -> None:
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


def test_doubly_reparameterized_decoder_gradient_equals_plain_gradient(double: None) -> None:
    vae, batch = make_vae(), make_batch()
    plain, doubly = (gradients(vae, batch, Iwae(5, doubly), seed=5) for doubly in (False, True))
    for name in plain:
        if name.startswith("decoder"):
            torch.testing.assert_close(doubly[name], plain[name], rtol=1e-10, atol=1e-14)


def test_doubly_reparameterized_encoder_gradient_agrees_in_expectation(double: None) -> None:
    torch.manual_seed(0)
    vae, one = make_vae(), make_batch(1)
    batch = Batch(*(each.expand(20_000, *each.shape[1:]) for each in one))  # copies of one image
    name, means = "encoder.network.3.bias", []
    for doubly in (False, True):
        runs = torch.stack([gradients(vae, batch, Iwae(5, doubly), seed)[name] for seed in range(8)])
        means.append((runs.mean(0), runs.std(0) / 8**0.5))
    (plain, plain_error), (other, other_error) = means
    assert ((plain - other).abs() < 5 * (plain_error.square() + other_error.square()).sqrt()).all()
    assert other_error.sum() < plain_error.sum()  # lower variance is the purpose of this estimator


def test_detached_flow_density_has_gradient_only_for_z(double: None) -> None:
    vae, batch = make_vae(FLOW()), make_batch()
    draw = vae.draw(batch, samples=2, detach=True)
    torch.testing.assert_close(draw.log_posterior, draw.q.log_prob(draw.z))
    z = draw.z.detach().requires_grad_()
    draw.scored.log_prob(z).sum().backward()
    assert z.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in vae.parameters())


def test_cached_density_of_flow_sample_equals_computed_density(double: None) -> None:
    vae, batch = make_vae(FLOW()), make_batch()
    q = vae.encode(batch.input)
    z = q.rsample((3,))
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-10, atol=1e-10)
    q.base.base_dist.scale = torch.zeros(())  # no noise
    torch.testing.assert_close(vae.center(q), q.transform.inv(q.base.rsample()))


def test_model_and_discriminator_terms_train_only_their_own_weights(double: None) -> None:
    vae, batch = make_vae(), make_batch()
    objective = FactorVAE(LATENT, gamma=3.0, hidden=[8], optimizer_options={})
    torch.manual_seed(1)
    _, terms = objective(vae, batch, 0)
    model_loss = (3.0 * terms["total_correlation"] - terms["elbo"]).mean()
    for weights, part in ((vae.parameters(), model_loss), (objective.parameters(), terms["discriminator"].mean())):
        weights = list(weights)
        torch.manual_seed(1)
        whole = torch.autograd.grad(objective(vae, batch, 0)[0], weights)
        own = torch.autograd.grad(part, weights, retain_graph=True)
        for one, other in zip(whole, own, strict=True):
            assert one.abs().sum() > 0
            torch.testing.assert_close(one, other)


def test_free_bits_with_zero_floor_equal_elbo(double: None) -> None:
    vae, batch = make_vae(), make_batch()
    losses = []
    for objective in (FreeBits(0.0), Elbo(), FreeBits(2.0)):
        torch.manual_seed(1)
        losses.append(objective(vae, batch, 0)[0])
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[2], losses[1] - vae.draw(batch).kl.mean(0).sum() + 2.0 * LATENT)
