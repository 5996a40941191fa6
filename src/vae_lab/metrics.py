"""Metrics: sums over images that stay on the device, divided by counts when they are read."""

from collections.abc import Callable

import torch
from torch import Tensor


class Sums:
    """Adds up named terms per image; `means` divides by the number of images, so ragged batches change nothing.

    Every `add` has the same terms; one read costs one transfer from the device.

    >>> sums = Sums()
    >>> _ = sums.add({"kl": torch.tensor([1.0, 2.0])})
    >>> _ = sums.add({"kl": torch.tensor([6.0])})
    >>> sums.means()
    {'kl': 3.0}
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.sums: Tensor | None = None  # (terms,)
        self.count = 0

    def add(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add terms of shape (B,) each, and return them without their gradients."""
        values = torch.stack(list(terms.values())).detach()  # (terms, B)
        precise = torch.float32 if values.device.type == "mps" else torch.float64
        total = values.sum(1, dtype=precise)
        assert self.sums is None or self.names == tuple(terms), "the same terms in every step"
        self.names = tuple(terms)
        self.sums = total if self.sums is None else self.sums + total
        self.count += values.shape[1]
        return dict(zip(self.names, values, strict=True))

    def means(self, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, float]:
        """Return the mean of each term over all images, and start anew; empty when nothing was added.

        Args:
            reduce: adds a tensor up over the processes of a distributed run.
        """
        if self.sums is None:
            return {}
        *sums, count = reduce(torch.cat([self.sums, self.sums.new_tensor([self.count])])).tolist()
        names, self.names, self.sums, self.count = self.names, (), None, 0
        return {name: total / count for name, total in zip(names, sums, strict=True)}


def squared_error(mean: Tensor, target: Tensor) -> Tensor:
    """Return the squared error of each image (B,), averaged over channels and pixels, from (B, C, H, W) each."""
    return (mean - target).square().flatten(1).mean(1)
