"""Latent space: grids, sweeps and paths through it, its principal axes, and the Gaussians of classes. Tensors alone."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

QUANTILES = (0.011, 0.99)  # of the first and the last step of a manifold


class Gaussians(NamedTuple):
    """A diagonal Gaussian for each of C classes: means and standard deviations (C, D)."""

    mean: Tensor
    std: Tensor


class Axes(NamedTuple):
    """Principal axes of a cloud of points: directions (D, K), orthonormal, and each one's part of the variance (K,)."""

    directions: Tensor
    explained: Tensor


def quantiles(steps: int, lowest: float = QUANTILES[0], highest: float = QUANTILES[1]) -> Tensor:
    """Return the values (steps,) of a standard normal at evenly spaced quantiles: denser where the prior is.

    >>> quantiles(3, 0.1587, 0.8413).round(decimals=2).tolist()
    [-1.0, 0.0, 1.0]
    """
    return torch.special.ndtri(torch.linspace(lowest, highest, steps, dtype=torch.float64)).float()


def plane(values: Tensor, latent_dim: int, dimensions: Sequence[int] = (0, 1)) -> Tensor:
    """Return a grid of latents (N, N, D) over two dimensions, the others 0, from the values (N,) of each.

    As on paper: the first dimension grows from left to right, the second from bottom to top.

    >>> plane(torch.tensor([-1.0, 1.0]), 2).tolist()
    [[[-1.0, 1.0], [1.0, 1.0]], [[-1.0, -1.0], [1.0, -1.0]]]
    """
    across, up = dimensions
    grid = values.new_zeros(len(values), len(values), latent_dim)
    grid[..., across] = values
    grid[..., up] = values.flip(0).unsqueeze(1)
    return grid


def sweep(start: Tensor, values: Tensor, dimensions: Sequence[int]) -> Tensor:
    """Return latents (K, N, D): row k is the point `start` (D,) with the k-th dimension set to each value of (N,)."""
    swept = start.repeat(len(dimensions), len(values), 1)
    for row, dimension in enumerate(dimensions):
        swept[row, :, dimension] = values
    return swept


def linear(first: Tensor, last: Tensor, steps: int) -> Tensor:
    """Return the points (steps, D) of the straight line between two points (D,), both included."""
    part = torch.linspace(0, 1, steps, dtype=first.dtype, device=first.device).unsqueeze(1)
    return (1 - part) * first + part * last


def spherical(first: Tensor, last: Tensor, steps: int) -> Tensor:
    """Return the points (steps, D) of the great circle between two points (D,), both included (White, 1609.04468).

    With the angle ω between them it is sin((1 - t)ω)/sin ω · first + sin(tω)/sin ω · last. It stays at the distance
    from the origin where a Gaussian prior has its mass. Points on one line through the origin have no such circle and
    are joined by the straight line.

    >>> spherical(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 3).norm(dim=1)
    tensor([1.0000, 1.0000, 1.0000])
    """
    cosine = torch.nn.functional.cosine_similarity(first.double(), last.double(), dim=0).clamp(-1, 1)
    angle = torch.arccos(cosine).to(first.dtype)
    if torch.sin(angle) < 1e-4 or not (first.any() and last.any()):
        return linear(first, last, steps)
    part = torch.linspace(0, 1, steps, dtype=first.dtype, device=first.device).unsqueeze(1)
    return (torch.sin((1 - part) * angle) * first + torch.sin(part * angle) * last) / torch.sin(angle)


def principal_axes(points: Tensor, count: int = 2) -> Axes:
    """Return the `count` directions in which points (N, D) vary most.

    A direction's sign is such that its largest component is positive, so that figures of different epochs compare.
    """
    centred = points.double() - points.double().mean(0)
    _, scale, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:count].T  # (D, K)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    variance = scale.square()
    explained = variance[:count] / variance.sum().clamp_min(torch.finfo(variance.dtype).tiny)
    return Axes((directions * largest.sign()).to(points.dtype), explained.to(points.dtype))


def class_gaussians(mean: Tensor, std: Tensor, label: Tensor, classes: Sequence[int]) -> Gaussians:
    """Return each class's Gaussian: the mean of its images' posterior means (N, D), and the mean of their variances.

    Raises:
        ValueError: for a class without an image.
    """
    means, stds = [], []
    for each in classes:
        chosen = label == each
        if not chosen.any():
            raise ValueError(f"class {each} has no image among these {len(label)}")
        means.append(mean[chosen].mean(0))
        stds.append(std[chosen].square().mean(0).sqrt())
    return Gaussians(torch.stack(means), torch.stack(stds))
