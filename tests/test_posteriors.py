import pytest
import torch

from vae_lab.posteriors import MAX_LOG_SCALE, Normal, Point


def test_normal_reads_mean_and_log_variance(double: None) -> None:
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    q = Normal()(torch.cat([mean, log_variance], -1))
    assert q.batch_shape == (5,)
    assert q.event_shape == (3,)
    assert torch.equal(q.mean, mean)
    torch.testing.assert_close(q.variance, log_variance.exp(), rtol=1e-12, atol=0)


def test_softplus_scale_is_greater_than_zero(double: None) -> None:
    q = Normal("softplus")(torch.tensor([[0.0, 0.0, -1e4, 3.0]]))
    torch.testing.assert_close(q.stddev, torch.tensor([[1e-6, 1e-6 + 3.0485873515737421]]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", ["log_variance", "softplus"])
@pytest.mark.parametrize("extreme", [-1e8, 1e8])
def test_scales_are_bounded_and_gradients_finite(scale: str, extreme: float) -> None:
    parameters = torch.tensor([[0.5, extreme]], requires_grad=True)
    q = Normal(scale)(parameters)
    assert 0 < q.stddev.item() <= 1.001 * torch.e**MAX_LOG_SCALE
    (q.log_prob(torch.zeros(1, 1)) + q.rsample().square().sum()).sum().backward()
    assert parameters.grad is not None
    assert parameters.grad.isfinite().all()


def test_leading_axes_are_batch_axes() -> None:
    assert Normal()(torch.zeros(4, 5, 6)).batch_shape == (4, 5)
    assert Point()(torch.zeros(4, 5, 6)).batch_shape == (4, 5)


def test_point_has_samples_but_no_density() -> None:
    location = torch.randn(5, 3, requires_grad=True)
    q = Point()(location)
    assert torch.equal(q.mean, location)
    assert torch.equal(q.rsample((2,)), torch.stack([location, location]))
    with pytest.raises(NotImplementedError):
        q.log_prob(location)


def test_unknown_scale_is_rejected() -> None:
    with pytest.raises(ValueError, match="scale"):
        Normal(scale="variance")
