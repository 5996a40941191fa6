"""Images in memory as uint8: splits, binarization, augmentation and batches."""

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

Root = Annotated[str, MinLen(1)] | Path  # a directory
ImageShape = Annotated[Sequence[PositiveInt], Len(3, 3)]  # (C, H, W)


@dataclass(eq=False)  # not frozen: with 64-true, Lightning sets the fields of a batch
class Images(Dataset["Images"]):
    """The images in a split or a step. Indexing a split with a plan returns the images for a step.

    Attributes:
        image: greyscale or colour values from 0 to 255 (N, C, H, W), uint8.
        label: class of each image (N,), int64.
        binary: binary pixels (N, C, H, W), uint8, if they are sampled only once; otherwise None.
        seed: seed for the random numbers in a step; not used for a split.
    """

    image: Tensor
    label: Tensor
    binary: Tensor | None = None
    seed: int = 0

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, plan: Plan) -> "Images":
        """Return the images for one step."""
        return self.part(*plan)

    def part(self, indices: Tensor, seed: int = 0) -> "Images":
        """Return a copy of the images with the given indices (M,)."""
        indices = indices.to(self.image.device)
        # faster than indexing with brackets, which copies pixel by pixel
        return replace(self.each(lambda values: values.index_select(0, indices)), seed=seed)

    def to(self, device: torch.device) -> "Images":
        """Return the images on a device; copying from pinned memory to a GPU is asynchronous."""
        return self.each(lambda values: values.to(device, non_blocking=device.type == "cuda"))

    def pin_memory(self) -> "Images":
        """Return the images in pinned memory, as torch's DataLoader requires."""
        return self.each(Tensor.pin_memory)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Images":
        """Return the images with `change` applied to each tensor."""
        binary = None if self.binary is None else change(self.binary)
        return replace(self, image=change(self.image), label=change(self.label), binary=binary)


class InMemory:
    """Iterates over batches of images in memory, without the overhead of torch's DataLoader.

    Args:
        images: images on the training device.
        sampler: yields the plan for each step.
    """

    def __init__(self, images: Images, sampler: Batches) -> None:
        self.images = images
        self.sampler, self.batch_sampler = sampler, None  # attributes in which Lightning looks for `set_epoch`

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Images]:
        return map(self.images.__getitem__, self.sampler)


Loader = InMemory | DataLoader[Images]


class ImageData(LightningDataModule, ABC):
    """Base class for data sets. It reads images into memory, splits and binarizes them, and creates batches.

    Args:
        shape: shape of one image (C, H, W).
        classes: number of classes; None to determine it from the labels.
        batch_size: number of images per batch and process.
        val_fraction: size of the validation split: a fraction of the training images, 0 ≤ f < 1, or a number of
            images ≥ 2.
        binarize: `none` keeps greyscale values; `threshold` sets a pixel to 1 if x > 0.5, else to 0; `dynamic` sets a
            pixel to 1 with probability x, sampled anew at each training step, but only once, with a fixed seed,
            for validation and testing; `static` samples all pixels only once.
        binarize_input: whether the encoder's input is binarized too, if the target is.
        noise: module that corrupts the encoder's input (B, C, H, W), only during training, unless its
            `in_evaluation` attribute is true. The target is never corrupted.
        rotation: maximum angle, in degrees, by which training images are randomly rotated in either direction.
        shift: maximum distance, in pixels, by which training images are randomly shifted along each axis.
        num_workers: number of processes that load batches from images in CPU memory. With 0, which is fastest, the
            images are stored on the device.
        seed: seed for the validation split, the order of the images and the random numbers of each step.

    Raises:
        ValueError: if `shift` is not less than the shorter side of the image, or static binarization is combined with
            augmentation.
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
            raise ValueError("binarize=static: cannot be combined with rotation or shift; use binarize=dynamic")
        if shift >= min(shape[-2:]):
            raise ValueError(
                f"shift={shift}: must be less than {min(shape[-2:])}, the shorter side of the image, in pixels"
            )
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
        self.names: Sequence[str] | None = None  # names of the classes, if any; set when the images are read
        self.train: Images | None = None
        self.val: Images | None = None
        self.test: Images | None = None

    @property
    def test_label(self) -> Tensor:
        """Class of each test image (N,); the images are read on first use.

        Raises:
            DataError: if the images are missing or corrupt.
        """
        return self._test().label

    def test_batch(self, indices: Tensor, device: torch.device, dtype: torch.dtype) -> Batch:
        """Return the test images with the given indices (M,), with the binarization and noise used for testing."""
        return self.batch(self._test().part(indices).to(device), False, dtype)

    def test_batches(self, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Tensor, Batch]]:
        """Yield the indices and images for each test step in a single process; noise, if any, is that of the step."""
        for plan in Batches(len(self._test()), self.batch_size, self.seed, shuffle=False):
            seed_device(plan.seed, device)
            yield plan.indices, self.test_batch(plan.indices, device, dtype)

    def training_batches(self, device: torch.device, dtype: torch.dtype) -> Iterator[Batch]:
        """Yield the training batches of the first epoch."""
        assert self.train is not None, "call setup() first"
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
        """Names of the classes, by default their numbers; empty if the number of classes is not yet known."""
        count = self.classes
        if self.names is None and count is None and self.test is not None:
            count = int(self.test.label.max()) + 1
        return list(self.names) if self.names is not None else [str(number) for number in range(count or 0)]

    @abstractmethod
    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return the uint8 images (N, C, H, W) and int64 labels (N,) of the training or test split.

        Raises:
            DataError: if the images are missing or corrupt.
        """

    def setup(self, stage: str | None = None) -> None:
        """Read and split the images on the first call.

        Raises:
            DataError: if the images are missing or corrupt.
            ConfigError: if the images do not have the shape `shape`, if a label is not less than `classes`, or if
                there are too few images for the batch size or the splits.
        """
        if self.train is not None:
            return
        whole = self._load(train=True)
        size, shape = len(whole), whole.image.shape[1:]
        if shape != self.shape:
            raise ConfigError(f"data.shape={list(self.shape)}: must be {list(shape)}, the shape of the images")
        val_size = int(self.val_fraction if self.val_fraction >= 1 else round(self.val_fraction * size))
        if val_size >= size:
            raise ConfigError(
                f"data.val_fraction={self.val_fraction}: must leave at least one of the {size} images for training"
            )
        if self.val_fraction and not val_size:
            raise ConfigError(
                f"data.val_fraction={self.val_fraction}: selects none of {size} images; use a larger value, or "
                "0 for no validation"
            )
        if self.batch_size > size - val_size:
            raise ConfigError(
                f"data.batch_size={self.batch_size}: must be at most {size - val_size}, the size of the training split"
            )
        order = torch.randperm(size, generator=generator(Stream.SPLIT, self.seed))
        self.val = whole.part(order[:val_size])
        if self.binarize == "dynamic":  # training samples new pixels at each step
            whole.binary = None
        self.train = whole.part(order[val_size:])
        self.test = self._load(train=False)

    def _load(self, train: bool) -> Images:
        """Return the training or test split, with binary pixels if they are sampled only once.

        Raises:
            ConfigError: if a label is not less than `classes`.
        """
        images, labels = self.read(train)
        if self.classes is not None and int(labels.max()) >= self.classes:
            raise ConfigError(
                f"data.classes={self.classes}: must be at least {int(labels.max()) + 1}, the number of classes"
            )
        drawn = self.binarize in ("dynamic", "static")
        return Images(images, labels, bernoulli(images, generator(Stream.BINARIZATION, train)) if drawn else None)

    def train_dataloader(self) -> Loader:
        """Return the training batches, in a new random order in each epoch."""
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> list[Loader]:
        """Return the validation batches, or an empty list if `val_fraction` is 0."""
        return [self._loader(self.val, shuffle=False)] if self.val is not None and len(self.val) else []

    def test_dataloader(self) -> Loader:
        """Return the test batches, which contain every image exactly once, regardless of the number of processes."""
        return self._loader(self.test, shuffle=False)

    def _loader(self, images: Images | None, shuffle: bool) -> Loader:
        assert images is not None, "call setup() first"
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
                    f"data.num_workers=0: {len(images):,} images do not fit in the memory of device {device}; use "
                    "data.num_workers=2"
                ) from error
        return DataLoader(
            images,
            batch_size=None,  # the sampler yields plans of whole batches
            sampler=sampler,
            num_workers=self.num_workers,
            pin_memory=device.type == "cuda",
        )

    def transfer_batch_to_device(self, batch: Images, device: torch.device, dataloader_idx: int) -> Images:
        """Move a batch to the device, ten times as fast as Lightning's method, which searches nested structures."""
        return batch.to(device)

    def on_after_batch_transfer(self, batch: Images, dataloader_idx: int) -> Batch:
        """Convert a batch to floating point on its device, and set the random seed for the step."""
        assert self.trainer is not None
        seed_device(batch.seed, batch.image.device)
        dtype = torch.float64 if self.trainer.precision == "64-true" else torch.float32
        return self.batch(batch, self.trainer.training, dtype)

    def batch(self, images: Images, training: bool, dtype: torch.dtype = torch.float32) -> Batch:
        """On their device, augment, convert, binarize and corrupt the images for one step.

        Args:
            images: the images for one step.
            training: whether to apply augmentation and noise, and to resample the pixels if `binarize` is `dynamic`.
            dtype: type of the pixel values.
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
        return Batch(self.noise.to(seen)(seen), target, label)  # user-defined noise may contain tensors


def bernoulli(image: Tensor, source: torch.Generator | None = None) -> Tensor:
    """Return uint8 pixels, each of which is 1 with probability image/255 and 0 otherwise.

    The probability is exact: a pixel is 1 if r < image for a random integer r from 0 to 254.
    """
    noise = torch.randint(255, image.shape, dtype=torch.uint8, device=image.device, generator=source)
    return (noise < image).to(torch.uint8)
