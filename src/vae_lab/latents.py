"""Grids, sweeps, interpolations, principal axes and class Gaussians in the latent space, all represented as tensors."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

QUANTILES = (0.011, 0.99)  # probabilities of the first and last steps in the `Manifold` figure


class Gaussians(NamedTuple):
    """Diagonal Gaussians for C classes: means and standard deviations (C, D)."""

    mean: Tensor
    std: Tensor


class Axes(NamedTuple):
    """Principal axes of points: orthonormal directions (D, K) and the fractions of the variance they explain (K,)."""

    directions: Tensor
    explained: Tensor


def quantiles(steps: int, lowest: float = QUANTILES[0], highest: float = QUANTILES[1]) -> Tensor:
    """Return the quantiles (steps,) of a standard normal at evenly spaced probabilities from `lowest` to `highest`.

    >>> quantiles(3, 0.1587, 0.8413).round(decimals=2).tolist()
    [-1.0, 0.0, 1.0]
    """
    return torch.special.ndtri(torch.linspace(lowest, highest, steps, dtype=torch.float64)).float()


def plane(values: Tensor, latent_dim: int, dimensions: Sequence[int] = (0, 1)) -> Tensor:
    """Return a grid of latents (N, N, D) in which two dimensions vary over `values` (N,) and the others are 0.

    The first dimension increases from left to right, and the second from bottom to top.

    >>> plane(torch.tensor([-1.0, 1.0]), 2).tolist()
    [[[-1.0, 1.0], [1.0, 1.0]], [[-1.0, -1.0], [1.0, -1.0]]]
    """
    across, up = dimensions
    grid = values.new_zeros(len(values), len(values), latent_dim)
    grid[..., across] = values
    grid[..., up] = values.flip(0).unsqueeze(1)
    return grid


def sweep(start: Tensor, values: Tensor, dimensions: Sequence[int]) -> Tensor:
    """Return latents (K, N, D). In row k, dimension `dimensions[k]` of `start` (D,) takes the `values` (N,) in turn."""
    swept = start.repeat(len(dimensions), len(values), 1)
    for row, dimension in enumerate(dimensions):
        swept[row, :, dimension] = values
    return swept


def linear(first: Tensor, last: Tensor, steps: int) -> Tensor:
    """Return evenly spaced points (steps, D) on the straight line between two points (D,), endpoints included."""
    part = torch.linspace(0, 1, steps, dtype=first.dtype, device=first.device).unsqueeze(1)
    return (1 - part) * first + part * last


def spherical(first: Tensor, last: Tensor, steps: int) -> Tensor:
    """Return points (steps, D) on the great circle between two points (D,), endpoints included.

    The path is sin((1 - t)ω)/sin ω · first + sin(tω)/sin ω · last (White, arXiv 1609.04468), where ω is the angle
    between the points. If both points are equally far from the origin, so is the whole path, whereas the straight line
    passes closer to the origin, where a Gaussian prior has few samples. If both points lie on the same line through the
    origin, the path is the straight line between them.

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
    """Return the `count` directions in which the points (N, D) vary most.

    The sign of each direction is chosen so that the component with the largest absolute value is positive. This makes
    figures from different epochs comparable.
    """
    centred = points.double() - points.double().mean(0)
    _, scale, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:count].T  # (D, K)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    variance = scale.square()
    explained = variance[:count] / variance.sum().clamp_min(torch.finfo(variance.dtype).tiny)
    return Axes((directions * largest.sign()).to(points.dtype), explained.to(points.dtype))


def class_gaussians(mean: Tensor, std: Tensor, label: Tensor, classes: Sequence[int]) -> Gaussians:
    """Return a Gaussian for each class, computed from posterior means and standard deviations (N, D).

    The mean and variance of each Gaussian are the averages of the posterior means and variances in its class.

    Raises:
        ValueError: if a class has no images.
    """
    means, stds = [], []
    for each in classes:
        chosen = label == each
        if not chosen.any():
            raise ValueError(f"none of the {len(label)} encoded images belongs to class {each}")
        means.append(mean[chosen].mean(0))
        stds.append(std[chosen].square().mean(0).sqrt())
    return Gaussians(torch.stack(means), torch.stack(stds))
