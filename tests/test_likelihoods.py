from itertools import product
from math import log, pi

import pytest
import torch

from vae_lab.likelihoods import Bernoulli, Gaussian


def test_bernoulli_sums_to_one_over_all_images(double: None) -> None:
    p = Bernoulli()(3 * torch.randn(1, 2, 3))
    images = torch.tensor(list(product([0.0, 1.0], repeat=6))).unflatten(1, (1, 2, 3))
    torch.testing.assert_close(p.log_prob(images).exp().sum(), torch.tensor(1.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
@pytest.mark.parametrize("pixel", [0.0, 1.0])
def test_bernoulli_is_finite_at_extreme_logits(logit: float, pixel: float) -> None:
    logits = torch.full((1, 1, 1), logit, requires_grad=True)
    log_prob = Bernoulli()(logits).log_prob(torch.full((1, 1, 1), pixel))
    log_prob.backward()
    assert log_prob.item() == (0.0 if (logit > 0) == (pixel > 0) else -1e4)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_gaussian_has_every_constant(double: None, scale: float) -> None:
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


@pytest.mark.parametrize("head", [Bernoulli(), Gaussian(), Gaussian(mean="identity")])
def test_leading_axes_are_free_and_images_are_events(head: Bernoulli | Gaussian) -> None:
    p = head(torch.zeros(7, 5, *head.parameter_shape((1, 2, 3))))
    assert p.batch_shape == (7, 5)
    assert p.event_shape == (1, 2, 3)


@pytest.mark.parametrize("options", [{"scale": 0}, {"scale": -1}, {"scale": float("inf")}, {"mean": "tanh"}])
def test_gaussian_refuses_what_cannot_work(options: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        Gaussian(**options)
