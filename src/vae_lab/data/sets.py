"""The data sets that are known by name."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae_lab.checks import checked
from vae_lab.data.batches import split_off_test
from vae_lab.data.images import ImageData, Root
from vae_lab.errors import DataError


class Downloaded(ImageData):
    """A data set of torchvision's: downloaded once, by its checksum.

    Args:
        root: folder that holds `folder`; what is missing there is downloaded to it.
        options: those of `ImageData`.
    """

    # a subclass for another data set states both
    source: str  # name of the class in torchvision.datasets
    folder: str  # below the root

    @checked
    def __init__(self, *, root: Root, **options: Any) -> None:
        super().__init__(**options)
        self.root = Path(root).expanduser()

    def open(self, train: bool, download: bool) -> Any:
        """Return torchvision's object for the training or the test split."""
        from torchvision import datasets

        return getattr(datasets, self.source)(str(self.root), train=train, download=download)

    def prepare_data(self) -> None:
        """Download what is missing.

        Raises:
            DataError: where it is missing and cannot be downloaded, or is damaged.
        """
        if self.train is not None:
            return
        folders = [self.root / self.folder, *(self.root / self.folder).parents]
        new = [folder for folder in folders if not folder.exists()]
        try:
            self.opened(train=False, download=True)
        except DataError:
            with suppress(OSError):  # what came in part is kept
                for folder in new:
                    if folder.exists():
                        folder.rmdir()
            raise

    def opened(self, train: bool, download: bool = False) -> Any:
        """Return what `open` does.

        Raises:
            DataError: where it is missing and cannot be downloaded, or is damaged.
        """
        try:
            return self.open(train, download)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(":") or type(error).__name__
            raise DataError(
                f"{type(self).__name__} is not in data.root={self.root}, or damaged, and cannot be downloaded "
                f"({reason}); set data.root to a folder that holds {self.folder}, "
                "or take data=digits, which needs no download"
            ) from error


class MNIST(Downloaded):
    """The 60,000 + 10,000 handwritten digits (28×28, grey) of LeCun, Cortes and Burges."""

    source = "MNIST"
    folder = "MNIST/raw"

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, 1, 28, 28) and labels (N,)."""
        images = self.opened(train)
        return images.data.unsqueeze(1), images.targets


class CIFAR10(Downloaded):
    """The 50,000 + 10,000 photographs (32×32, colour) of ten kinds of things, by Krizhevsky."""

    source = "CIFAR10"
    folder = "cifar-10-batches-py"

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, 3, 32, 32) and labels (N,)."""
        images = self.opened(train)
        self.names = images.classes
        return torch.from_numpy(images.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(images.targets)


class Digits(ImageData):
    """The 1,797 handwritten digits (8×8, 17 grey levels) that come with scikit-learn, no download.

    It has no test split of its own: a fifth is taken by a permutation that is the same for every seed.
    """

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, 1, 8, 8) and labels (N,)."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images.astype(np.int64) * 255 // 16).to(torch.uint8).unsqueeze(1)
        labels = torch.from_numpy(digits.target.astype(np.int64))
        part = split_off_test(len(labels), 0.2, train)
        return images[part], labels[part]
