"""Data: images in memory as uint8, dealt in a seeded order; a batch becomes numbers on the device."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from vae_lab.errors import ConfigError, DataError
from vae_lab.model import Batch


class Stream(IntEnum):
    """What a random stream is for; different uses never share one."""

    SPLIT = 1  # (seed)
    TRAINING = 2  # order: (seed, epoch); step: (seed, epoch, step, rank)
    EVALUATION = 3  # (seed, step, rank)
    BINARIZATION = 4  # (training or test): the same pixels whatever the seed
    DIGITS_TEST = 5  # (): the same images whatever the seed


class Plan(NamedTuple):
    """Which images make one step (B,), and the seed of all that is random in it."""

    indices: Tensor
    seed: int


class Raw(NamedTuple):
    """Images of one step as they lie in memory: grey and, where drawn once, binary (B, C, H, W); labels (B,)."""

    image: Tensor
    label: Tensor
    binary: Tensor | None
    seed: int


@dataclass(frozen=True)
class Images(Dataset[Raw]):
    """A split in memory, indexed by many images at once.

    Attributes:
        image: grey or colour values 0 … 255 (N, C, H, W), uint8.
        label: class of each image (N,), int64.
        binary: the pixels 0 or 1 where they are drawn once (N, C, H, W), uint8; else None.
    """

    image: Tensor
    label: Tensor
    binary: Tensor | None = None

    def __len__(self) -> int:
        return len(self.label)

    def part(self, indices: Tensor) -> "Images":
        """Return a copy of the images at some indices (M,)."""
        return Images(self.image[indices], self.label[indices], None if self.binary is None else self.binary[indices])

    def __getitem__(self, plan: Plan) -> Raw:
        """Return the images of one step."""
        images = self.part(plan.indices)
        return Raw(images.image, images.label, images.binary, plan.seed)


class Batches(Sampler[Plan]):
    """Plans the steps of an epoch: the order is a function of (seed, epoch), each step's randomness of its place in it.

    Of several processes each gets its part of the order. Shuffled, the few images that would leave the processes with
    different numbers of steps are left out of the epoch; in plain order, as for a test, none is. Shuffled, a rest of
    one image joins the step before: alone it has no variance for a batch norm.

    Args:
        size: number of images.
        batch_size: images of a step, for each process.
        seed: of the order and of the steps.
        shuffle: whether the order is random and new in each epoch, or plain and the same, with the same seeds, in all.
        epoch: where to begin; Lightning calls `set_epoch` from then on.
        rank: which process this is.
        world_size: how many there are.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        *,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.size, self.batch_size, self.seed, self.shuffle = size, batch_size, seed, shuffle
        self.epoch, self.rank, self.world_size = epoch, rank, world_size

    def set_epoch(self, epoch: int) -> None:
        """Take the order of another epoch from the next iteration on."""
        self.epoch = epoch

    @property
    def share(self) -> slice:
        """This process's part of an order."""
        whole = self.size - self.size % self.world_size if self.shuffle else self.size
        return slice(self.rank, whole, self.world_size)

    def __len__(self) -> int:
        steps, rest = divmod(len(range(self.size)[self.share]), self.batch_size)
        return steps + (rest > 1 or (rest == 1 and not (self.shuffle and steps)))

    def __iter__(self) -> Iterator[Plan]:
        if self.shuffle:
            stream, place = Stream.TRAINING, [self.seed, self.epoch]
            order = torch.randperm(self.size, generator=generator(stream, *place))
        else:
            stream, place = Stream.EVALUATION, [self.seed]
            order = torch.arange(self.size)
        batches = list(order[self.share].split(self.batch_size))
        if len(batches) > len(self):
            batches[-2:] = [torch.cat(batches[-2:])]
        for step, indices in enumerate(batches):
            yield Plan(indices, mix(stream, *place, step, self.rank))


class ImageData(LightningDataModule, ABC):
    """Images in memory, split, binarized and made into batches.

    Args:
        shape: of one image (C, H, W).
        classes: number of classes.
        batch_size: images of a batch, for each process.
        val_fraction: part of the training split that validates, 0 ≤ f < 1, or a number of images, at least 2.
        binarize: `none` keeps the grey values; `threshold` is x > 0.5; `dynamic` draws x as the probability of a 1,
            anew in training and once, with a fixed seed, for validation and test; `static` draws once everywhere.
        binarize_input: whether the encoder sees the binary pixels, too, or the grey ones.
        noise: corrupts the encoder's input in training (B, C, H, W); the target stays as it is.
        num_workers: processes that fetch batches; 0 is the fastest for images in memory.
        seed: of the validation split, the order and the noise.

    Raises:
        ValueError: for another `binarize`.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int],
        classes: int,
        batch_size: int = 128,
        val_fraction: float = 0.1,
        binarize: Literal["none", "threshold", "dynamic", "static"] = "none",
        binarize_input: bool = True,
        noise: nn.Module | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if binarize not in ("none", "threshold", "dynamic", "static"):
            raise ValueError(f"binarize={binarize} must be none, threshold, dynamic or static")
        self.shape = tuple(shape)
        self.classes = classes
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.binarize = binarize
        self.binarize_input = binarize_input
        self.noise = noise or nn.Identity()
        self.num_workers = num_workers
        self.seed = seed
        self.train: Images | None = None
        self.val: Images | None = None
        self.test: Images | None = None

    @abstractmethod
    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W), uint8, and labels (N,), int64, of the training or the test split.

        Raises:
            DataError: where they are missing or damaged.
        """

    def setup(self, stage: str | None = None) -> None:
        """Read the images and split them, once; the stages share them.

        Raises:
            DataError: where the images are missing or damaged.
            ConfigError: where they are of another shape, or the batch or the validation part is larger than there is.
        """
        if self.train is not None:
            return
        images, labels = self.read(train=True)
        size = len(labels)
        if images.shape[1:] != self.shape:
            raise ConfigError(f"data.shape={list(self.shape)} must be {list(images.shape[1:])}, as the images are")
        val_size = int(self.val_fraction if self.val_fraction >= 1 else round(self.val_fraction * size))
        if val_size >= size:
            raise ConfigError(f"data.val_fraction={self.val_fraction} leaves none of {size} training images")
        if self.batch_size > size - val_size:
            raise ConfigError(
                f"data.batch_size={self.batch_size} is more than the {size - val_size} images left for training"
            )
        binary = self._drawn_once(images, train=True)
        order = torch.randperm(size, generator=generator(Stream.SPLIT, self.seed))
        training, validation = order[val_size:], order[:val_size]
        kept = binary if self.binarize == "static" else None  # dynamic pixels are drawn as they are trained on
        self.train = Images(images, labels, kept).part(training)
        self.val = Images(images, labels, binary).part(validation)
        images, labels = self.read(train=False)
        self.test = Images(images, labels, self._drawn_once(images, train=False))

    def _drawn_once(self, images: Tensor, train: bool) -> Tensor | None:
        """Return the pixels 0 or 1 where they are drawn once, from (N, C, H, W); else None."""
        if self.binarize not in ("dynamic", "static"):
            return None
        return bernoulli(images, generator(Stream.BINARIZATION, train))

    def train_dataloader(self) -> DataLoader[Raw]:
        """Return the training batches, shuffled anew each epoch."""
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> list[DataLoader[Raw]]:
        """Return the validation batches, none when `val_fraction` is 0."""
        return [self._loader(self.val, shuffle=False)] if self.val is not None and len(self.val) else []

    def test_dataloader(self) -> DataLoader[Raw]:
        """Return the test batches: every image once, whatever the number of processes."""
        return self._loader(self.test, shuffle=False)

    def _loader(self, images: Images | None, shuffle: bool) -> DataLoader[Raw]:
        assert images is not None, "setup() comes first"
        where, on_gpu = {}, False
        if self.trainer is not None:
            on_gpu = self.trainer.strategy.root_device.type == "cuda"
            where = {
                "epoch": self.trainer.current_epoch,
                "rank": self.trainer.global_rank,
                "world_size": self.trainer.world_size,
            }
        return DataLoader(
            images,
            batch_size=None,  # the sampler plans whole batches, and each is one indexing call
            sampler=Batches(len(images), self.batch_size, self.seed, shuffle, **where),
            collate_fn=as_it_is,
            num_workers=self.num_workers,
            pin_memory=on_gpu,
        )

    def on_after_batch_transfer(self, batch: Raw, dataloader_idx: int) -> Batch:
        """Make numbers of a batch on its device, and seed all that is random in the step from here on."""
        assert self.trainer is not None
        seed_device(batch.seed, batch.image.device)
        dtype = torch.float64 if self.trainer.precision == "64-true" else torch.float32
        return self.batch(batch, self.trainer.training, dtype)

    def batch(self, raw: Raw, training: bool, dtype: torch.dtype = torch.float32) -> Batch:
        """Convert, binarize and corrupt the images of one step, on the device that they are on.

        Args:
            raw: images as `Images` gives them.
            training: whether noise is on and `dynamic` draws anew.
            dtype: of the pixel values.
        """
        image, label, binary, _ = raw
        if self.binarize == "none":
            target = image.to(dtype) / 255
        elif self.binarize == "threshold":
            target = (image > 127).to(dtype)
        elif self.binarize == "dynamic" and training:
            target = bernoulli(image).to(dtype)
        else:
            assert binary is not None
            target = binary.to(dtype)
        seen = target if self.binarize_input else image.to(dtype) / 255
        return Batch(self.noise(seen) if training else seen, target, label)


class MNIST(ImageData):
    """The 60,000 + 10,000 handwritten digits of LeCun, Cortes and Burges, through torchvision.

    Args:
        root: folder that holds `MNIST/raw`; what is missing there is downloaded to it.
        options: those of `ImageData`.
    """

    def __init__(self, *, root: str | Path, **options: Any) -> None:
        super().__init__(**options)
        self.root = Path(root).expanduser()

    def prepare_data(self) -> None:
        """Download what is missing.

        Raises:
            DataError: where it is missing and cannot be downloaded, or is damaged.
        """
        if self.train is not None:
            return
        folders = (self.root / "MNIST" / "raw", self.root / "MNIST", self.root)
        new = [folder for folder in folders if not folder.exists()]
        try:
            self._open(train=False, download=True)
        except DataError:
            with suppress(OSError):  # what came in part is kept
                for folder in new:
                    folder.rmdir()
            raise

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, 1, 28, 28) and labels (N,)."""
        images = self._open(train)
        return images.data.unsqueeze(1), images.targets

    def _open(self, train: bool, download: bool = False) -> Any:
        from torchvision import datasets

        try:
            return datasets.MNIST(str(self.root), train=train, download=download)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise DataError(
                f"MNIST is not in data.root={self.root}, or damaged, and cannot be downloaded ({first_line(error)}); "
                "set data.root to a folder that holds MNIST/raw, or take data=digits, which needs no download"
            ) from error


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
        order = torch.randperm(len(labels), generator=generator(Stream.DIGITS_TEST))
        test_size = len(labels) // 5
        part = order[test_size:] if train else order[:test_size]
        return images[part], labels[part]


def bernoulli(image: Tensor, source: torch.Generator | None = None) -> Tensor:
    """Return 1 with probability image/255 for each pixel, else 0, uint8, exactly: r < x for a random r in 0 … 254."""
    noise = torch.randint(255, image.shape, dtype=torch.uint8, device=image.device, generator=source)
    return (noise < image).to(torch.uint8)


def mix(stream: Stream, *numbers: int) -> int:
    """Return a 63-bit seed of its own for each stream and each list of numbers."""
    # the length, because SeedSequence takes a list and the same list with zeros behind it for one
    return int(np.random.SeedSequence((stream, len(numbers), *numbers)).generate_state(1, np.uint64)[0] >> 1)


def seed_device(seed: int, device: torch.device) -> None:
    """Seed the generators that a step on a device draws from.

    `torch.manual_seed` does so for every kind of device, and formats a stack trace for one that is not in use yet.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device.type).manual_seed(seed)


def generator(stream: Stream, *numbers: int) -> torch.Generator:
    """Return torch's generator on the CPU, seeded by `mix`."""
    return torch.Generator().manual_seed(mix(stream, *numbers))


def as_it_is(batch: Any) -> Any:
    """Collate nothing: what was fetched is a batch already."""
    return batch


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0].rstrip(":") or type(error).__name__
