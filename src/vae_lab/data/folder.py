"""Images from a directory, in common formats with 8 bits per channel."""

import logging
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Gt, Lt
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor
from tqdm import tqdm

from vae_lab.checks import checked
from vae_lab.data.batches import split_off_test
from vae_lab.data.images import ImageData, ImageShape, Root
from vae_lab.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp"}

log = logging.getLogger(__name__)


class Folder(ImageData):
    """The images in `<root>/train/<class>/` and `<root>/test/<class>/` and their subdirectories.

    Images are converted to greyscale or RGB and resized to `shape` without preserving their aspect ratio. Transparency,
    EXIF orientation and files whose suffix is not in `SUFFIXES` are ignored. Without a `test` directory, a fraction of
    the training images, chosen by a permutation that does not depend on the seed, becomes the test split.

    Args:
        root: directory that contains `train` and, optionally, `test`.
        shape: shape of the images after resizing, (1, H, W) for greyscale or (3, H, W) for colour.
        classes: expected number of classes; None to accept two or more.
        test_fraction: fraction of the training images that becomes the test split if there is no `test` directory.
        skip_unreadable: whether to log a warning and skip files that cannot be read, instead of raising an error.
        options: keyword arguments for `ImageData`.

    Raises:
        ValueError: if the number of channels in `shape` is neither 1 nor 3.
    """

    @checked
    def __init__(
        self,
        *,
        root: Root,
        shape: ImageShape,
        classes: PositiveInt | None = None,
        test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.1,
        skip_unreadable: bool = False,
        **options: Any,
    ) -> None:
        if shape[0] not in (1, 3):
            raise ValueError(f"shape={list(shape)}: must start with 1 (greyscale) or 3 (colour)")
        super().__init__(shape=shape, classes=classes, **options)
        self.root = Path(root).expanduser()
        self.test_fraction = test_fraction
        self.skip_unreadable = skip_unreadable

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, *shape) and labels (N,), with classes numbered in alphabetical order."""
        files, labels = self.files(train)
        images = torch.empty(len(files), *self.shape, dtype=torch.uint8)
        kept, unreadable = torch.ones(len(files), dtype=torch.bool), []
        split = "training" if train else "test"
        # disable=None: show a progress bar only in a terminal
        for place, file in enumerate(tqdm(files, f"reading {split} images", disable=None, leave=False)):
            try:
                images[place] = self.load(file)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                kept[place] = False
                unreadable.append(f"{file.relative_to(self.root)} ({str(error).partition(chr(10))[0]})")
        if not unreadable:
            return images, labels
        names = ", ".join(unreadable[:3]) + (f" and {len(unreadable) - 3} more" if len(unreadable) > 3 else "")
        found = f"{self.root}: {len(unreadable)} of {len(files)} {split} images cannot be read: {names}"
        if not self.skip_unreadable or not kept.any():
            hint = "" if self.skip_unreadable else "; remove the unreadable images or set data.skip_unreadable=true"
            raise DataError(f"{found}{hint}")
        log.warning("%s; skipped", found)
        return images[kept], labels[kept]

    def files(self, train: bool) -> tuple[list[Path], Tensor]:
        """Return the files in a split and their labels (N,)."""
        names = folders(self.root / "train")
        if not names:
            raise DataError(f"data.root={self.root}: expected directories train/<class> that contain images")
        if len(names) == 1 and self.classes is None:
            raise DataError(
                f"{self.root / 'train'}: contains only one class, {names[0]}; set data.classes=1 if this is intended"
            )
        if self.classes not in (None, len(names)):
            raise DataError(
                f"data.classes={self.classes}: must be {len(names)}, the number of classes in {self.root / 'train'}"
            )
        self.classes, self.names = len(names), names
        has_test = (self.root / "test").is_dir()
        split = self.root / ("test" if has_test and not train else "train")
        files, labels = [], []
        for name in folders(split):
            if name not in names:
                raise DataError(f"{split / name}: not a class in {self.root / 'train'}")
            images = sorted(path for path in (split / name).rglob("*") if is_image(path.relative_to(split)))
            if not images:
                raise DataError(f"{split / name}: contains no images; expected suffixes {', '.join(sorted(SUFFIXES))}")
            files += images
            labels += [names.index(name)] * len(images)
        if not files:
            raise DataError(f"{split}: contains no directories that contain images")
        if has_test:
            return files, torch.tensor(labels)
        part = split_off_test(len(files), self.test_fraction, train)
        return [files[place] for place in part.tolist()], torch.tensor(labels)[part]

    def load(self, path: Path) -> Tensor:
        channels, height, width = self.shape
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError("its channels have more than 8 bits")
            pixels = image.convert("L" if channels == 1 else "RGB")
        if pixels.size != (width, height):
            pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(pixels)).view(height, width, channels).permute(2, 0, 1)


def is_image(path: Path) -> bool:
    """Return whether a file has an image suffix and is neither hidden nor in a hidden directory."""
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def folders(path: Path) -> list[str]:
    return sorted(each.name for each in path.glob("[!.]*") if each.is_dir())
