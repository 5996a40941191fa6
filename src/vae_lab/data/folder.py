"""Images from a folder, of the common formats with 8 bits a value."""

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
    """The images of `<root>/train/<class>/*` and `<root>/test/<class>/*`, at any depth below a class.

    They are made grey or RGB, and resized to `shape` whatever their proportions; transparency and a note of how the
    camera was held are passed over, and so are files without one of the `SUFFIXES`. Where there is no `test`, a part of
    the training images is the test, by a permutation that is the same for every seed.

    Args:
        root: folder that holds `train` and, where there is one, `test`.
        shape: of the images as they are trained on, (1, H, W) for grey, (3, H, W) for colour.
        classes: how many there must be; None for two or more.
        test_fraction: part of the training images that is the test where there is none.
        skip_unreadable: whether files that cannot be read are left out with a warning, or an error.
        options: those of `ImageData`.

    Raises:
        ValueError: for a shape of another number of channels.
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
            raise ValueError(f"shape={list(shape)} must begin with 1, for grey images, or 3, for colour")
        super().__init__(shape=shape, classes=classes, **options)
        self.root = Path(root).expanduser()
        self.test_fraction = test_fraction
        self.skip_unreadable = skip_unreadable

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, *shape) and labels (N,), the place of each class in the alphabet."""
        files, labels = self.files(train)
        images = torch.empty(len(files), *self.shape, dtype=torch.uint8)
        kept, unreadable = torch.ones(len(files), dtype=torch.bool), []
        split = "training" if train else "test"
        # disable=None: a bar where there is a terminal
        for place, file in enumerate(tqdm(files, f"reading {split} images", disable=None, leave=False)):
            try:
                images[place] = self.load(file)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                kept[place] = False
                unreadable.append(f"{file.relative_to(self.root)} ({str(error).partition(chr(10))[0]})")
        if not unreadable:
            return images, labels
        names = ", ".join(unreadable[:3]) + (f" and {len(unreadable) - 3} more" if len(unreadable) > 3 else "")
        said = f"{len(unreadable)} of {len(files)} {split} images in {self.root} cannot be read: {names}"
        if not self.skip_unreadable or not kept.any():
            raise DataError(f"{said}; remove them, or set data.skip_unreadable=true")
        log.warning("%s: left out", said)
        return images[kept], labels[kept]

    def files(self, train: bool) -> tuple[list[Path], Tensor]:
        """Return the files of a split and the class of each (N,)."""
        names = folders(self.root / "train")
        if not names:
            raise DataError(f"data.root={self.root} must hold train/<class>/<images>, and there is no such folder")
        if len(names) == 1 and self.classes is None:
            raise DataError(f"{self.root / 'train'} holds one class, {names[0]}: set data.classes=1 if it is meant so")
        if self.classes not in (None, len(names)):
            raise DataError(f"{self.root / 'train'} holds {len(names)} classes, and data.classes={self.classes}")
        self.classes, self.names = len(names), names
        has_test = (self.root / "test").is_dir()
        split = self.root / ("test" if has_test and not train else "train")
        files, labels = [], []
        for name in folders(split):
            if name not in names:
                raise DataError(f"{split / name} is a class that {self.root / 'train'} does not have")
            images = sorted(path for path in (split / name).rglob("*") if is_image(path.relative_to(split)))
            if not images:
                raise DataError(f"{split / name} holds no images ({', '.join(sorted(SUFFIXES))})")
            files += images
            labels += [names.index(name)] * len(images)
        if not files:
            raise DataError(f"{split} holds no folder of images")
        if has_test:
            return files, torch.tensor(labels)
        part = split_off_test(len(files), self.test_fraction, train)
        return [files[place] for place in part.tolist()], torch.tensor(labels)[part]

    def load(self, path: Path) -> Tensor:
        channels, height, width = self.shape
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError("has more than 8 bits a value")
            pixels = image.convert("L" if channels == 1 else "RGB")
        if pixels.size != (width, height):
            pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(pixels)).view(height, width, channels).permute(2, 0, 1)


def is_image(path: Path) -> bool:
    """Return whether a file is an image by its name, and neither it nor a folder above it is hidden."""
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def folders(path: Path) -> list[str]:
    return sorted(each.name for each in path.glob("[!.]*") if each.is_dir())
