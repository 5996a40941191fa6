import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from vae_lab import latents


def test_quantiles_are_standard_normal() -> None:
    values = latents.quantiles(20)
    probability = torch.distributions.Normal(0, 1).cdf(values.double())
    torch.testing.assert_close(probability, torch.linspace(0.011, 0.99, 20, dtype=torch.float64), rtol=0, atol=1e-6)


def test_plane_increases_rightwards_and_upwards_and_is_zero_elsewhere() -> None:
    values = torch.tensor([-1.0, 0.0, 2.0])
    grid = latents.plane(values, latent_dim=5, dimensions=(3, 1))
    assert grid.shape == (3, 3, 5)
    assert grid[0, :, 3].tolist() == grid[2, :, 3].tolist() == [-1, 0, 2]
    assert grid[:, 0, 1].tolist() == grid[:, 2, 1].tolist() == [2, 0, -1]
    assert not grid[..., [0, 2, 4]].any()


def test_sweep_changes_one_dimension_per_row() -> None:
    start, values = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-5.0, 5.0])
    swept = latents.sweep(start, values, [2, 0])
    assert swept.tolist() == [[[1, 2, -5], [1, 2, 5]], [[-5, 2, 3], [5, 2, 3]]]


def test_linear_path_has_equal_steps_and_both_ends() -> None:
    first, last = torch.randn(7), torch.randn(7)
    path = latents.linear(first, last, 5)
    assert torch.equal(path[0], first)
    assert torch.equal(path[-1], last)
    steps = path.diff(dim=0)
    torch.testing.assert_close(steps, steps[:1].expand(4, 7))


def test_spherical_path_has_equal_angles_and_both_ends(double: None) -> None:
    first, last = torch.randn(6), 3 * torch.randn(6)
    path = latents.spherical(first, last, 9)
    torch.testing.assert_close(path[0], first)
    torch.testing.assert_close(path[-1], last)
    same_length = latents.spherical(first / first.norm(), last / last.norm(), 9)
    torch.testing.assert_close(same_length.norm(dim=1), torch.ones(9))
    angles = torch.arccos((same_length[1:] * same_length[:-1]).sum(1))
    torch.testing.assert_close(angles, angles[:1].expand(8))


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_spherical_path_between_collinear_points_is_linear(factor: float) -> None:
    first = torch.tensor([1.0, 2.0])
    path = latents.spherical(first, factor * first, 4)
    torch.testing.assert_close(path, latents.linear(first, factor * first, 4))


def test_principal_axes_equal_scikit_learn() -> None:
    points = torch.randn(200, 5) @ torch.randn(5, 5) + torch.randn(5)
    axes, expected = latents.principal_axes(points), PCA(2).fit(points.numpy())
    np.testing.assert_allclose(axes.explained, expected.explained_variance_ratio_, rtol=1e-4)
    for direction, component in zip(axes.directions.T.numpy(), expected.components_, strict=True):
        sign = np.sign(component[np.abs(component).argmax()])  # the largest entry of `direction` is positive
        np.testing.assert_allclose(direction, sign * component, atol=1e-4)


def test_class_gaussian_averages_means_and_variances() -> None:
    mean, std, label = torch.randn(30, 4), torch.rand(30, 4), torch.arange(30) % 3
    found = latents.class_gaussians(mean, std, label, [2, 0])
    for row, each in enumerate((2, 0)):
        chosen = (label == each).numpy()
        np.testing.assert_allclose(found.mean[row], mean.numpy()[chosen].mean(0), rtol=1e-5)
        np.testing.assert_allclose(found.std[row] ** 2, (std.numpy()[chosen] ** 2).mean(0), rtol=1e-5)
    with pytest.raises(ValueError, match="belongs to class 5"):
        latents.class_gaussians(mean, std, label, [5])
