"""Images in memory as uint8, split and binarized; a batch becomes numbers on the device."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le, Len, MinLen
from pydantic import NonNegativeInt, PositiveInt
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vae_lab.checks import Fraction, checked
from vae_lab.data.batches import Batches, Plan, Stream, generator
from vae_lab.errors import ConfigError, DataError
from vae_lab.model import Batch
from vae_lab.noise import rotate_and_shift, seed_device

Root = Annotated[str, MinLen(1)] | Path  # of a folder
ImageShape = Annotated[Sequence[PositiveInt], Len(3, 3)]  # (C, H, W)


@dataclass(eq=False)  # not frozen: with 64-true, Lightning sets the fields of a batch
class Images(Dataset["Images"]):
    """Images as bytes: a split, which is indexed by many images at once, or the images of one step.

    Attributes:
        image: grey or colour values 0 … 255 (N, C, H, W), uint8.
        label: class of each image (N,), int64.
        binary: the pixels 0 or 1 where they are drawn once (N, C, H, W), uint8; else None.
        seed: of all that is random in a step; 0 and unused for a split.
    """

    image: Tensor
    label: Tensor
    binary: Tensor | None = None
    seed: int = 0

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, plan: Plan) -> "Images":
        """Return the images of one step."""
        return self.part(*plan)

    def part(self, indices: Tensor, seed: int = 0) -> "Images":
        """Return a copy of the images at some indices (M,)."""
        indices = indices.to(self.image.device)
        # copies whole images, which indexing by brackets does pixel by pixel
        return replace(self.each(lambda values: values.index_select(0, indices)), seed=seed)

    def to(self, device: torch.device) -> "Images":
        """Return the images on a device; the copy from pinned memory to a GPU is asynchronous."""
        return self.each(lambda values: values.to(device, non_blocking=device.type == "cuda"))

    def pin_memory(self) -> "Images":
        """Return the images in pinned memory; torch's DataLoader calls this."""
        return self.each(Tensor.pin_memory)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Images":
        """Return the images with `change` applied to each tensor."""
        binary = None if self.binary is None else change(self.binary)
        return replace(self, image=change(self.image), label=change(self.label), binary=binary)


class InMemory:
    """The batches of images in memory, one after another, without torch's DataLoader, which is made for processes.

    Args:
        images: on the device that trains.
        sampler: plans the steps.
    """

    def __init__(self, images: Images, sampler: Batches) -> None:
        self.images = images
        self.sampler, self.batch_sampler = sampler, None  # where Lightning looks for whom to tell the epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Images]:
        return map(self.images.__getitem__, self.sampler)


Loader = InMemory | DataLoader[Images]


class ImageData(LightningDataModule, ABC):
    """Images in memory, split, binarized and made into batches.

    Args:
        shape: of one image (C, H, W).
        classes: number of classes; None where reading will tell.
        batch_size: images of a batch, for each process.
        val_fraction: part of the training split that validates, 0 ≤ f < 1, or a number of images, at least 2.
        binarize: `none` keeps the grey values; `threshold` is x > 0.5; `dynamic` draws x as the probability of a 1,
            anew in training and once, with a fixed seed, for validation and test; `static` draws once everywhere.
        binarize_input: whether the encoder sees the binary pixels, too, or the grey ones.
        noise: corrupts the encoder's input (B, C, H, W), in training alone unless its `in_evaluation` is true; the
            target stays as it is.
        rotation: augmentation: degrees up to which a training image is turned to either side.
        shift: augmentation: pixels up to which a training image is moved in each direction.
        num_workers: processes that fetch batches, from images in the memory of the CPU; with 0, which is the fastest,
            the images lie on the device.
        seed: of the validation split, the order and the noise.

    Raises:
        ValueError: for augmentation that leaves nothing, or of pixels that are drawn once.
    """

    @checked
    def __init__(
        self,
        *,
        shape: ImageShape,
        classes: PositiveInt | None = None,
        batch_size: PositiveInt = 128,
        val_fraction: Fraction | Annotated[int, Ge(2)] = 0.1,
        binarize: Literal["none", "threshold", "dynamic", "static"] = "none",
        binarize_input: bool = True,
        noise: nn.Module | None = None,
        rotation: Annotated[float, Ge(0), Le(180)] = 0.0,
        shift: NonNegativeInt = 0,
        num_workers: NonNegativeInt = 0,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        if binarize == "static" and (rotation or shift):
            raise ValueError("binarize=static draws pixels once, which rotation and shift would move: take dynamic")
        if shift >= min(shape[-2:]):
            raise ValueError(f"shift={shift} must be less than the {min(shape[-2:])} pixels of the image")
        self.shape = tuple(shape)
        self.classes = classes
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.binarize = binarize
        self.binarize_input = binarize_input
        self.noise = noise or nn.Identity()
        self.rotation = rotation
        self.shift = shift
        self.num_workers = num_workers
        self.seed = seed
        self.names: Sequence[str] | None = None  # of the classes, where they have any; known once the images are read
        self.train: Images | None = None
        self.val: Images | None = None
        self.test: Images | None = None

    @property
    def test_label(self) -> Tensor:
        """Class of each test image (N,); reads the images where that is not done yet.

        Raises:
            DataError: where they are missing or damaged.
        """
        return self._test().label

    def test_batch(self, indices: Tensor, device: torch.device, dtype: torch.dtype) -> Batch:
        """Return test images at some indices (M,), binarized and noisy as the test has them."""
        return self.batch(self._test().part(indices).to(device), False, dtype)

    def test_batches(self, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Tensor, Batch]]:
        """Yield the indices and the images of each step of the test of one process, with the noise of that step."""
        for plan in Batches(len(self._test()), self.batch_size, self.seed, shuffle=False):
            seed_device(plan.seed, device)
            yield plan.indices, self.test_batch(plan.indices, device, dtype)

    def training_batches(self, device: torch.device, dtype: torch.dtype) -> Iterator[Batch]:
        """Yield the batches of the first epoch's training."""
        assert self.train is not None, "setup() comes first"
        for plan in Batches(len(self.train), self.batch_size, self.seed, shuffle=True):
            seed_device(plan.seed, device)
            yield self.batch(self.train[plan].to(device), True, dtype)

    def _test(self) -> Images:
        if self.test is None:
            self.prepare_data()
            self.setup()
        assert self.test is not None
        return self.test

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of their numbers, and these where they have none; empty where unknown."""
        count = self.classes
        if self.names is None and count is None and self.test is not None:
            count = int(self.test.label.max()) + 1
        return list(self.names) if self.names is not None else [str(number) for number in range(count or 0)]

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
        whole = self._load(train=True)
        size, shape = len(whole), whole.image.shape[1:]
        if shape != self.shape:
            raise ConfigError(f"data.shape={list(self.shape)} must be {list(shape)}, as the images are")
        val_size = int(self.val_fraction if self.val_fraction >= 1 else round(self.val_fraction * size))
        if val_size >= size:
            raise ConfigError(f"data.val_fraction={self.val_fraction} leaves none of {size} training images")
        if self.val_fraction and not val_size:
            raise ConfigError(
                f"data.val_fraction={self.val_fraction} of {size} images is none: give more, or 0 for none"
            )
        if self.batch_size > size - val_size:
            raise ConfigError(
                f"data.batch_size={self.batch_size} is more than the {size - val_size} images left for training"
            )
        order = torch.randperm(size, generator=generator(Stream.SPLIT, self.seed))
        self.val = whole.part(order[:val_size])
        if self.binarize == "dynamic":  # those to train on are drawn anew in each step
            whole.binary = None
        self.train = whole.part(order[val_size:])
        self.test = self._load(train=False)

    def _load(self, train: bool) -> Images:
        """Return the training or the test split, with the pixels 0 or 1 where they are drawn once.

        Raises:
            ConfigError: for a class that is none of `classes`.
        """
        images, labels = self.read(train)
        if self.classes is not None and int(labels.max()) >= self.classes:
            raise ConfigError(f"data.classes={self.classes} is too few: there is an image of class {int(labels.max())}")
        drawn = self.binarize in ("dynamic", "static")
        return Images(images, labels, bernoulli(images, generator(Stream.BINARIZATION, train)) if drawn else None)

    def train_dataloader(self) -> Loader:
        """Return the training batches, shuffled anew each epoch."""
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> list[Loader]:
        """Return the validation batches, none when `val_fraction` is 0."""
        return [self._loader(self.val, shuffle=False)] if self.val is not None and len(self.val) else []

    def test_dataloader(self) -> Loader:
        """Return the test batches: every image once, whatever the number of processes."""
        return self._loader(self.test, shuffle=False)

    def _loader(self, images: Images | None, shuffle: bool) -> Loader:
        assert images is not None, "setup() comes first"
        where, device = {}, torch.device("cpu")
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            where = {
                "epoch": self.trainer.current_epoch,
                "rank": self.trainer.global_rank,
                "world_size": self.trainer.world_size,
            }
        sampler = Batches(len(images), self.batch_size, self.seed, shuffle, **where)
        if not self.num_workers:
            try:
                return InMemory(images.to(device), sampler)
            except torch.OutOfMemoryError as error:
                raise DataError(
                    f"data.num_workers=0 keeps the images in the memory of {device}, where there is no room for "
                    f"{len(images):,}: take data.num_workers=2"
                ) from error
        return DataLoader(
            images,
            batch_size=None,  # the sampler plans whole batches, and each is one indexing call
            sampler=sampler,
            num_workers=self.num_workers,
            pin_memory=device.type == "cuda",
        )

    def transfer_batch_to_device(self, batch: Images, device: torch.device, dataloader_idx: int) -> Images:
        """Move a batch to the device: a tenth of what Lightning's search through any structure takes."""
        return batch.to(device)

    def on_after_batch_transfer(self, batch: Images, dataloader_idx: int) -> Batch:
        """Make numbers of a batch on its device, and seed all that is random in the step from here on."""
        assert self.trainer is not None
        seed_device(batch.seed, batch.image.device)
        dtype = torch.float64 if self.trainer.precision == "64-true" else torch.float32
        return self.batch(batch, self.trainer.training, dtype)

    def batch(self, images: Images, training: bool, dtype: torch.dtype = torch.float32) -> Batch:
        """Augment, convert, binarize and corrupt the images of one step, on the device that they are on.

        Args:
            images: of one step.
            training: whether augmentation and noise are on and `dynamic` draws anew.
            dtype: of the pixel values.
        """
        image, label, binary = images.image, images.label, images.binary
        if training and (self.rotation or self.shift):
            image = rotate_and_shift(image, self.rotation, self.shift)
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
        noisy = training or getattr(self.noise, "in_evaluation", False)
        if not noisy:
            return Batch(seen, target, label)
        return Batch(self.noise.to(seen)(seen), target, label)  # a user's noise may hold tensors


def bernoulli(image: Tensor, source: torch.Generator | None = None) -> Tensor:
    """Return 1 with probability image/255 for each pixel, else 0, uint8, exactly: r < x for a random r in 0 … 254."""
    noise = torch.randint(255, image.shape, dtype=torch.uint8, device=image.device, generator=source)
    return (noise < image).to(torch.uint8)
