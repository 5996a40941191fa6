from collections.abc import Iterator
from dataclasses import replace
from math import log
from shutil import which

import pytest
import torch
from torch._dynamo.utils import counters

from conftest import LATENT, make_batch, make_two_layers, make_vae
from vae_lab import posteriors
from vae_lab.likelihoods import Gaussian
from vae_lab.model import VAE, Batch
from vae_lab.objectives import Elbo, Reconstruction, elbo_terms
from vae_lab.training.compiled import Compiled
from vae_lab.workarounds import onednn


@pytest.fixture
def at_the_mean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace samples of Gaussians by their means, so that results do not depend on the position in the batch."""
    monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda shape, **kind: torch.zeros(shape, **kind))
    return


def test_loss_is_negative_elbo_summed_over_pixels_and_dimensions(double: None) -> None:
    vae, batch = make_vae(), make_batch()
    torch.manual_seed(3)
    loss, terms = Elbo()(vae, batch, step=0)
    torch.manual_seed(3)
    draw = vae.draw(batch)
    logits = draw.p.base_dist.logits[0]
    log_likelihood = (batch.target * logits - torch.nn.functional.softplus(logits)).sum((1, 2, 3))
    mean, variance = draw.q.mean, draw.q.variance
    kl = 0.5 * (mean**2 + variance - 1 - variance.log()).sum(1)
    torch.testing.assert_close(terms["log_likelihood"], log_likelihood, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(terms["kl"], kl, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(terms["elbo"], log_likelihood - kl, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss, -(log_likelihood - kl).mean(), rtol=1e-12, atol=1e-12)


def test_beta_changes_loss_but_not_elbo(double: None) -> None:
    vae, batch = make_vae(), make_batch()
    torch.manual_seed(3)
    loss, terms = Elbo(beta=4.0)(vae, batch, step=0)
    torch.testing.assert_close(loss, (4 * terms["kl"] - terms["log_likelihood"]).mean())
    torch.testing.assert_close(terms["elbo"], terms["log_likelihood"] - terms["kl"])


def test_beta_rises_linearly_from_zero_in_warmup() -> None:
    objective = Elbo(beta=2.0, warmup_steps=10)
    assert [objective.beta_at(step) for step in (0, 5, 10, 1000)] == [0.0, 1.0, 2.0, 2.0]
    assert Elbo(beta=2.0).beta_at(0) == 2.0


def test_sampled_kl_is_mean_log_ratio(double: None) -> None:
    draw = make_vae().draw(make_batch(), samples=3)
    expected = (draw.log_posterior - draw.log_prior).mean(0)
    assert torch.equal(elbo_terms(draw, analytic=False)["kl"], expected)


def test_reconstruction_has_neither_elbo_nor_kl(double: None) -> None:
    vae, batch = make_vae(posteriors.Point(), Gaussian(0.5)), make_batch(binary=False)
    loss, terms = Reconstruction()(vae, batch, step=0)
    assert terms.keys() == {"log_likelihood"}
    squared = (vae.reconstruct(vae.encode(batch.input)).mean - batch.target).square().sum((1, 2, 3))
    constant = 16 * (log(0.5) + 0.5 * log(2 * torch.pi))
    torch.testing.assert_close(loss, (squared / (2 * 0.25)).mean() + constant, rtol=1e-12, atol=1e-12)


def test_hierarchical_draw_without_prior_has_neither_elbo_nor_kl() -> None:
    draw = replace(make_two_layers().draw(make_batch()), prior=None)
    assert elbo_terms(draw).keys() == {"log_likelihood"}


@pytest.mark.parametrize("objective", [Elbo(), Elbo(kl="sampled", samples=3), Elbo(beta=3), Reconstruction()])
def test_loss_per_image_does_not_depend_on_batch(double: None, at_the_mean: None, objective: Elbo) -> None:
    vae, batch = make_vae(), make_batch(6)

    def loss(images: Batch) -> torch.Tensor:
        return objective(vae, images, 0)[0]

    def select(index: torch.Tensor) -> Batch:
        return Batch(*(each[index] for each in batch))

    whole = loss(batch)
    torch.testing.assert_close(loss(select(torch.randperm(6))), whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(loss(select(torch.arange(6).repeat(3))), whole, rtol=1e-12, atol=0)
    batches = [select(index) for index in torch.arange(6).split(4)]
    split = sum(loss(images) * len(images.label) for images in batches) / 6
    torch.testing.assert_close(split, whole, rtol=1e-12, atol=0)


def test_kl_does_not_depend_on_order_of_latent_dimensions(double: None) -> None:
    vae, batch = make_vae(), make_batch()
    order = torch.randperm(LATENT)
    before = Elbo()(vae, batch, 0)[1]["kl"]
    output = vae.encoder.network[-2]  # gives the means, then the log-variances
    with torch.no_grad():
        rows = torch.cat([order, LATENT + order])
        output.weight.copy_(output.weight[rows])
        output.bias.copy_(output.bias[rows])
    torch.testing.assert_close(Elbo()(vae, batch, 0)[1]["kl"], before, rtol=1e-12, atol=0)


def linear_gaussian() -> VAE:
    """Return a VAE whose log p(x) has a closed form: p(x|z) = N(Wz + b, s²I), p(z) = N(0, I)."""
    return make_vae(likelihood=Gaussian(0.5, mean="identity"), hidden=())


def log_evidence(vae: VAE, x: torch.Tensor) -> torch.Tensor:
    weight, bias = vae.decoder.network[-2].weight, vae.decoder.network[-2].bias
    covariance = weight @ weight.T + 0.25 * torch.eye(len(bias))
    return torch.distributions.MultivariateNormal(bias, covariance).log_prob(x.flatten(1))


def log_weights(vae: VAE, batch: Batch, samples: int) -> torch.Tensor:
    draw = vae.draw(batch, samples)
    return draw.log_likelihood + draw.log_prior - draw.log_posterior


@torch.no_grad()
def test_bounds_are_ordered_below_log_evidence(double: None) -> None:
    torch.manual_seed(0)
    vae, batch = linear_gaussian(), make_batch(4, binary=False)
    weights = log_weights(vae, batch, 50 * 2000).unflatten(0, (2000, 50))  # (repeats, K, B)
    bounds = {
        k: (weights.unflatten(1, (-1, k)).logsumexp(2) - log(k)).flatten(0, 1)  # (repeats, B)
        for k in (1, 5, 50)
    }
    analytic = elbo_terms(vae.draw(batch, 20_000))["elbo"]
    means = {k: bound.mean(0) for k, bound in bounds.items()}
    errors = {k: bound.std(0) / len(bound) ** 0.5 for k, bound in bounds.items()}
    assert ((analytic - means[1]).abs() < 5 * errors[1] + 0.05).all()
    assert (means[1] < means[5]).all()
    assert (means[5] < means[50]).all()
    assert (means[50] < log_evidence(vae, batch.target) + 5 * errors[50]).all()


@torch.no_grad()
def test_one_sample_of_exact_posterior_gives_log_evidence(double: None) -> None:
    vae, batch = linear_gaussian(), make_batch(4, binary=False)
    weight, bias = vae.decoder.network[-2].weight, vae.decoder.network[-2].bias
    # the posterior factorises only if the columns are orthogonal
    weight.copy_(torch.linalg.qr(weight).Q * torch.tensor([0.5, 1.0, 2.0]))
    precision = 1 + weight.square().sum(0) / 0.25
    output = vae.encoder.network[-2]
    output.weight[:LATENT] = (weight / 0.25 / precision).T
    output.bias[:LATENT] = -output.weight[:LATENT] @ bias
    output.weight[LATENT:] = 0
    output.bias[LATENT:] = -precision.log()
    exact = log_evidence(vae, batch.target).expand(3, 4)
    torch.testing.assert_close(log_weights(vae, batch, 3), exact, rtol=0, atol=1e-10)


@torch.no_grad()
def test_one_sample_of_exact_two_layer_posterior_gives_log_evidence(double: None) -> None:
    """p(z₂) = N(0, I), p(z₁|z₂) = N(Az₂ + a, V), p(x|z₁) = N(Wz₁ + b, s²I), A, V and WᵀW diagonal."""
    vae, batch = make_two_layers(likelihood=Gaussian(0.5, mean="identity"), hidden=()), make_batch(4, binary=False)
    encoder, decoder, upper_encoder, upper_decoder = (
        conditional.network[-2] for conditional in (vae.encoder, vae.decoder, vae.upper_encoder, vae.upper_decoder)
    )
    slope, shift, variance = torch.eye(3, 2) * 0.8, torch.tensor([0.3, -0.2, 0.5]), torch.tensor([0.4, 0.9, 1.3])
    decoder.weight.copy_(torch.linalg.qr(decoder.weight).Q * torch.tensor([0.5, 1.0, 2.0]))
    marginal = (slope @ slope.T).diagonal() + variance  # variance of z₁
    precision = 1 / marginal + decoder.weight.square().sum(0) / 0.25
    weight = (decoder.weight / 0.25 / precision).T
    upper_precision = 1 + (slope.T / variance @ slope).diagonal()
    upper_weight = (slope.T / variance) / upper_precision.unsqueeze(1)
    for layer, of_mean, mean, spread in (
        (upper_decoder, slope, shift, variance),
        (encoder, weight, shift / marginal / precision - weight @ decoder.bias, 1 / precision),
        (upper_encoder, upper_weight, -upper_weight @ shift, 1 / upper_precision),
    ):
        layer.weight.copy_(torch.cat([of_mean, torch.zeros_like(of_mean)]))
        layer.bias.copy_(torch.cat([mean, spread.log()]))
    covariance = decoder.weight * marginal @ decoder.weight.T + 0.25 * torch.eye(16)
    p = torch.distributions.MultivariateNormal(decoder.weight @ shift + decoder.bias, covariance)
    exact = p.log_prob(batch.target.flatten(1))
    torch.testing.assert_close(log_weights(vae, batch, 3), exact.expand(3, 4), rtol=0, atol=1e-10)
    terms = elbo_terms(vae.draw(batch))
    torch.testing.assert_close(terms["elbo"], exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(terms["kl"], terms["kl_layer1"] + terms["kl_layer2"], rtol=0, atol=1e-12)
    for layer in ("kl_layer1", "kl_layer2"):
        torch.testing.assert_close(terms[layer], terms[f"{layer}_per_dimension"].sum(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{"beta": -1}, {"beta": float("nan")}, {"warmup_steps": -1}, {"kl": "exact"}, {"samples": 0}]
)
def test_invalid_elbo_option_is_rejected(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Elbo(**options)


@pytest.mark.slow
@pytest.mark.skipif(which("c++") is None, reason="needs a C++ compiler")
def test_compiled_objective_gives_same_values_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        monkeypatch.setattr(onednn, "FASTER", True)
        monkeypatch.setattr(onednn, "SMALLEST", 0)
    vae, objective = make_vae(), Elbo(beta=2.0, warmup_steps=5)
    onednn.use(vae)
    for _ in range(2):  # a second training in the same process
        compiled = Compiled(objective)
        counters.clear()
        for step, size in enumerate((6, 6, 6, 4, 6, 6)):  # the fourth size is not the compiled one
            results = []
            for each in (objective, compiled):
                torch.manual_seed(step)
                loss, terms = each(vae, make_batch(size), step)
                results.append([loss, *terms.values(), *torch.autograd.grad(loss, list(vae.parameters()))])
            for plain, fast in zip(*results, strict=True):
                torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
        assert counters["stats"]["unique_graphs"] > 0
        assert not counters["graph_break"]


def test_batch_of_other_size_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(torch, "compile", lambda *_, **__: lambda _, batch, *__: sizes.append(len(batch.target)))
    compiled = Compiled(Elbo())
    for size in (6, 4, 6):
        compiled(make_vae(), make_batch(size), 0)
    assert sizes == [6, 6]
