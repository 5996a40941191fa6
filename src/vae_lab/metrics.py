"""Metrics: means for each class, and means over a split, which are computed from sums accumulated on the device."""

import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

USUAL = ("loss", "elbo", "log_likelihood", "kl", "mse", "seconds", "lr")  # metrics that any model may have
KL_OF_LAYER = re.compile(r"kl_layer\d+")  # KL of one stochastic layer of a hierarchical VAE


class Sums:
    """Sums of named terms over images. The means computed from them do not depend on the batch sizes.

    Every call to `add` must pass the same terms. `means` requires only one transfer from the device.

    >>> sums = Sums()
    >>> _ = sums.add({"kl": torch.tensor([1.0, 2.0]), "kl_per_dimension": torch.tensor([[1.0, 0.0], [0.0, 2.0]])})
    >>> _ = sums.add({"kl": torch.tensor([6.0]), "kl_per_dimension": torch.tensor([[5.0, 1.0]])})
    >>> sums.means()
    {'kl': 3.0, 'kl_per_dimension': [2.0, 1.0]}
    """

    def __init__(self) -> None:
        self.widths: dict[str, int] = {}  # D for a term (B, D), 0 for a term (B,)
        self.sums: Tensor | None = None  # (values,)
        self.count = 0

    def add(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add terms of shape (B,) or (B, D), and return them detached."""
        widths = {name: term.shape[1] if term.dim() > 1 else 0 for name, term in terms.items()}
        assert self.sums is None or self.widths == widths, "every step must return the same terms"
        values = torch.cat([term if term.dim() > 1 else term.unsqueeze(1) for term in terms.values()], 1).detach()
        precise = torch.float32 if values.device.type == "mps" else torch.float64
        total = values.sum(0, dtype=precise)  # (values,)
        self.widths = widths
        self.sums = total if self.sums is None else self.sums + total
        self.count += len(values)
        return {name: term.detach() for name, term in terms.items()}

    def means(self, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, float | list[float]]:
        """Return the mean of each term over all images and reset the sums. The result is empty if nothing was added.

        Args:
            reduce: function that sums a tensor over the processes of a distributed run.
        """
        if self.sums is None:
            return {}
        *sums, count = reduce(torch.cat([self.sums, self.sums.new_tensor([self.count])])).tolist()
        widths, self.widths, self.sums, self.count = self.widths, {}, None, 0
        values = iter([total / count for total in sums])
        return {name: [next(values) for _ in range(width)] if width else next(values) for name, width in widths.items()}


def squared_error(mean: Tensor, target: Tensor) -> Tensor:
    """Return the squared error (B,) between two tensors (B, C, H, W), averaged over channels and pixels."""
    return (mean - target).square().flatten(1).mean(1)


class ClassMeans(NamedTuple):
    """For each class (C,), the mean of a term (NaN if the class has no images) and the number of images."""

    mean: Tensor
    images: Tensor


def class_means(term: Tensor, label: Tensor, classes: int) -> ClassMeans:
    """Return the mean of a term (N,) for each class, computed in float64 and independent of the order of the images.

    >>> class_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), 3)
    ClassMeans(mean=tensor([2., nan, 5.], dtype=torch.float64), images=tensor([2, 0, 1]))
    """
    images = torch.bincount(label, minlength=classes)
    sums = torch.bincount(label, weights=term.double(), minlength=classes)
    return ClassMeans(sums / images, images)
