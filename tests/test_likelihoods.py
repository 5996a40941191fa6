from itertools import product
from math import exp, log, pi

import pytest
import torch

from conftest import make_batch, make_vae
from vae_lab.likelihoods import Bernoulli, CrossEntropy, Gaussian, GaussianLearned, GaussianShared
from vae_lab.objectives import Elbo
from vae_lab.training.module import VAEModule


def test_bernoulli_sums_to_one_over_all_images(double: None) -> None:
    p = Bernoulli()(3 * torch.randn(1, 2, 3))
    images = torch.tensor(list(product([0.0, 1.0], repeat=6))).unflatten(1, (1, 2, 3))
    torch.testing.assert_close(p.log_prob(images).exp().sum(), torch.tensor(1.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
@pytest.mark.parametrize("pixel", [0.0, 1.0])
@pytest.mark.parametrize("head", [Bernoulli(), CrossEntropy()])
def test_bernoulli_is_finite_at_extreme_logits(logit: float, pixel: float, head: Bernoulli) -> None:
    logits = torch.full((1, 1, 1), logit, requires_grad=True)
    log_prob = head(logits).log_prob(torch.full((1, 1, 1), pixel))
    log_prob.backward()
    assert log_prob.item() == (0.0 if (logit > 0) == (pixel > 0) else -1e4)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_gaussian_log_prob_includes_all_constants(double: None, scale: float) -> None:
    mean, x = torch.rand(4, 1, 2, 3), torch.rand(4, 1, 2, 3)
    p = Gaussian(scale, mean="identity")(mean)
    expected = -((x - mean) ** 2).sum((1, 2, 3)) / (2 * scale**2) - 6 * (log(scale) + 0.5 * log(2 * pi))
    torch.testing.assert_close(p.log_prob(x), expected, rtol=1e-12, atol=1e-12)


def test_gaussian_integrates_to_one(double: None) -> None:
    x = torch.linspace(-4, 5, 20_001)
    p = Gaussian(0.3)(torch.zeros(1, 1, 1))
    assert p.mean.item() == 0.5  # the sigmoid of 0
    density = p.log_prob(x[:, None, None, None]).exp()
    torch.testing.assert_close(torch.trapezoid(density, x), torch.tensor(1.0), rtol=0, atol=1e-10)


LEARNED = [GaussianLearned(0.1), GaussianShared(0.5, 0.1)]


@pytest.mark.parametrize("mean", ["identity", "sigmoid"])
@pytest.mark.parametrize("parameter", [-50.0, -1.0, 0.0, 0.7, 3.0])
def test_learned_gaussians_integrate_to_one(double: None, parameter: float, mean: str) -> None:
    """The scales range from the minimum to values larger than the range of the pixels."""
    learned, shared = GaussianLearned(0.05, mean=mean), GaussianShared(0.5, 0.05, mean=mean)
    with torch.no_grad():
        shared.raw_scale.fill_(parameter)
    p, q = learned(torch.tensor([0.3, parameter]).view(2, 1, 1)), shared(torch.full((1, 1, 1), 0.3))
    for each in (p, q):
        location, width = each.mean.item(), 12 * each.stddev.item()
        x = torch.linspace(location - width, location + width, 20_001)
        total = torch.trapezoid(each.log_prob(x[:, None, None, None]).exp(), x)
        torch.testing.assert_close(total, torch.tensor(1.0), rtol=0, atol=1e-9)
    assert p.stddev.item() == pytest.approx(q.stddev.item(), rel=1e-12)
    assert p.stddev.item() == pytest.approx(0.05 + log(1 + exp(parameter)), rel=1e-12)


def test_learned_gaussian_log_prob_includes_all_constants(double: None) -> None:
    """Two channels, so that swapped means and scales are detected."""
    mean, raw, x = torch.randn(4, 2, 2, 3), torch.randn(4, 2, 2, 3), torch.rand(4, 2, 2, 3)
    p = GaussianLearned(0.1)(torch.cat([mean, raw], 1))
    scale = 0.1 + (1 + raw.exp()).log()
    expected = -((x - mean.sigmoid()) ** 2 / (2 * scale**2) + scale.log() + 0.5 * log(2 * pi)).sum((1, 2, 3))
    torch.testing.assert_close(p.log_prob(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("raw", [-1e6, 1e6])
@pytest.mark.parametrize("pixel", [0.0, 1.0])
def test_learned_scales_are_bounded(raw: float, pixel: float) -> None:
    parameters = torch.tensor([raw, raw]).view(2, 1, 1).requires_grad_()
    p = GaussianLearned(0.01)(parameters)
    assert p.stddev.item() == pytest.approx(0.01 if raw < 0 else exp(10), rel=1e-6)
    p.log_prob(torch.full((1, 1, 1), pixel)).backward()
    assert parameters.grad is not None
    assert parameters.grad.isfinite().all()


def test_shared_scale_starts_at_option_and_learns_error() -> None:
    torch.manual_seed(0)
    head = GaussianShared(scale=0.3, mean="identity")
    x = 0.5 + 0.1 * torch.randn(500, 1, 4, 4)
    assert head(torch.full_like(x, 0.5)).stddev.mean().item() == pytest.approx(0.3, rel=1e-6)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (-head(torch.full_like(x, 0.5)).log_prob(x).mean()).backward()
        optimizer.step()
    error = (x - 0.5).square().mean().sqrt().item()  # the scale with maximum likelihood
    assert head(torch.full_like(x, 0.5)).stddev.mean().item() == pytest.approx(error, rel=1e-3)


def test_cross_entropy_equals_bernoulli_only_for_binary_pixels(double: None) -> None:
    logits = torch.randn(5, 1, 2, 3)
    binary = torch.rand(5, 1, 2, 3).round()
    assert torch.equal(CrossEntropy()(logits).log_prob(binary), Bernoulli()(logits).log_prob(binary))
    x = torch.linspace(0, 1, 2001)
    totals = [
        torch.trapezoid(CrossEntropy()(torch.full((1, 1, 1), logit)).log_prob(x[:, None, None, None]).exp(), x).item()
        for logit in (-2.0, 0.0, 2.0)
    ]
    assert totals[1] == pytest.approx(0.5)  # neither 1 nor the same for all logits
    assert totals[0] == pytest.approx(totals[2])
    assert abs(totals[0] - totals[1]) > 0.04


def test_metrics_of_unnormalised_likelihood_are_marked() -> None:
    batch = make_batch(binary=False)
    module = VAEModule(make_vae(likelihood=CrossEntropy()), Elbo())
    other_terms = {"kl", "kl_per_dimension", "mse"}
    assert module.evaluate(batch).keys() == {"elbo_unnormalised", "log_likelihood_unnormalised", *other_terms}
    normalised = VAEModule(make_vae(likelihood=Gaussian()), Elbo())
    assert normalised.evaluate(batch).keys() == {"elbo", "log_likelihood", *other_terms}


@pytest.mark.parametrize("head", [Bernoulli(), CrossEntropy(), Gaussian(), Gaussian(mean="identity"), *LEARNED])
def test_leading_axes_are_batch_axes_and_images_are_events(head: Bernoulli | Gaussian) -> None:
    p = head(torch.zeros(7, 5, *head.parameter_shape((1, 2, 3))))
    assert p.batch_shape == (7, 5)
    assert p.event_shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("head", "options"),
    [
        *((Gaussian, options) for options in ({"scale": 0}, {"scale": -1}, {"scale": float("inf")})),
        *((GaussianShared, options) for options in ({"scale": 0.01}, {"scale": 1e9}, {"min_scale": 0})),
        *((GaussianLearned, options) for options in ({"min_scale": 0}, {"min_scale": -0.1})),
        *((head, {"mean": "tanh"}) for head in (Gaussian, GaussianShared, GaussianLearned)),
    ],
)
def test_invalid_gaussian_option_is_rejected(head: type, options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        head(**options)
