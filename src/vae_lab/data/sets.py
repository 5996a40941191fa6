"""Built-in data sets."""

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
    """Base class for torchvision data sets, which are downloaded if missing and verified by checksum.

    Subclasses define `source` and `folder`.

    Args:
        root: directory that contains `folder`; missing files are downloaded to it.
        options: keyword arguments for `ImageData`.
    """

    source: str  # class in torchvision.datasets
    folder: str  # directory below the root

    @checked
    def __init__(self, *, root: Root, **options: Any) -> None:
        super().__init__(**options)
        self.root = Path(root).expanduser()

    def open(self, train: bool, download: bool) -> Any:
        """Return the torchvision data set for the training or test split."""
        from torchvision import datasets

        return getattr(datasets, self.source)(str(self.root), train=train, download=download)

    def prepare_data(self) -> None:
        """Download missing files.

        Raises:
            DataError: if the data are missing and cannot be downloaded, or are corrupt.
        """
        if self.train is not None:
            return
        folders = [self.root / self.folder, *(self.root / self.folder).parents]
        new = [folder for folder in folders if not folder.exists()]
        try:
            self.opened(train=False, download=True)
        except DataError:
            with suppress(OSError):  # keep partially downloaded files
                for folder in new:
                    if folder.exists():
                        folder.rmdir()
            raise

    def opened(self, train: bool, download: bool = False) -> Any:
        """Call `open` and convert its errors to a DataError.

        Raises:
            DataError: if the data are missing and cannot be downloaded, or are corrupt.
        """
        try:
            return self.open(train, download)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(":") or type(error).__name__
            raise DataError(
                f"data.root={self.root}: {type(self).__name__} is missing or corrupt and cannot be downloaded "
                f"({reason}); set data.root to a directory that contains {self.folder}, or use data=digits, which "
                "needs no download"
            ) from error


class MNIST(Downloaded):
    """MNIST by LeCun, Cortes and Burges: 60,000 + 10,000 handwritten digits (28×28, greyscale)."""

    source = "MNIST"
    folder = "MNIST/raw"

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, 1, 28, 28) and labels (N,)."""
        images = self.opened(train)
        return images.data.unsqueeze(1), images.targets


class CIFAR10(Downloaded):
    """CIFAR-10 by Krizhevsky: 50,000 + 10,000 photographs in ten classes (32×32, colour)."""

    source = "CIFAR10"
    folder = "cifar-10-batches-py"

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, 3, 32, 32) and labels (N,)."""
        images = self.opened(train)
        self.names = images.classes
        return torch.from_numpy(images.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(images.targets)


class Digits(ImageData):
    """The 1,797 handwritten digits (8×8, 17 grey levels) included in scikit-learn; no download is needed.

    A fifth of the images, chosen by a permutation that does not depend on the seed, form the test split.
    """

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, 1, 8, 8) and labels (N,)."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images.astype(np.int64) * 255 // 16).to(torch.uint8).unsqueeze(1)
        labels = torch.from_numpy(digits.target.astype(np.int64))
        part = split_off_test(len(labels), 0.2, train)
        return images[part], labels[part]
