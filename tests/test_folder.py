"""The data set `data=folder`."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_images
from vae_lab.data import Folder
from vae_lab.errors import DataError, VaeLabError
from vae_lab.train import train


def folder(root: Path, **options: object) -> Folder:
    data = Folder(**{"root": root, "shape": (3, 20, 20), "batch_size": 8, **options})
    data.setup()
    return data


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write thirty training images and ten test images for each of two classes."""
    write_images(tmp_path / "train")
    write_images(tmp_path / "test", count=10)
    return tmp_path


def test_images_and_labels_match_files(root: Path) -> None:
    data = folder(root, val_fraction=0.2)
    assert (len(data.train), len(data.val), len(data.test), data.classes) == (48, 12, 20, 2)
    for split, images, labels in (
        ("train", torch.cat([data.train.image, data.val.image]), torch.cat([data.train.label, data.val.label])),
        ("test", data.test.image, data.test.label),
    ):
        found = {image.numpy().tobytes(): label.item() for image, label in zip(images, labels, strict=True)}
        expected = {
            pixels(path).numpy().tobytes(): ["cat", "dog"].index(path.parent.name)
            for path in (root / split).glob("*/*.png")
        }
        assert found == expected


def test_images_are_resized_and_converted_to_grey_or_rgb(root: Path) -> None:
    (root / "train" / "cat" / "deep").mkdir()
    for name, mode, colour in (
        ("grey.PNG", "L", 200),
        ("palette.gif", "P", 7),
        ("alpha.webp", "RGBA", (1, 2, 3, 255)),
        ("two.bmp", "1", 1),
        ("deep/cmyk.jpeg", "CMYK", (0, 0, 0, 0)),
    ):
        Image.new(mode, (33, 7), colour).save(root / "train" / "cat" / name)
    for shape in ((3, 12, 16), (1, 5, 9)):
        data = folder(root, shape=shape, val_fraction=0)
        assert data.train.image.shape == (65, *shape)
    white = [image for image in folder(root, val_fraction=0).train.image if image.min() > 250]
    assert len(white) == 2  # the bitmap and the JPEG
    grey = [image for image in folder(root, val_fraction=0, shape=(1, 20, 20)).train.image if (image == 200).all()]
    assert len(grey) == 1


def test_missing_test_directory_splits_training_images(tmp_path: Path) -> None:
    write_images(tmp_path / "train")
    splits = []
    for seed in (0, 0, 1):
        data = folder(tmp_path, seed=seed, test_fraction=0.25, val_fraction=0.2)
        assert (len(data.train), len(data.val), len(data.test)) == (36, 9, 15)
        seen = [image.numpy().tobytes() for split in (data.train, data.val, data.test) for image in split.image]
        assert len(set(seen)) == 60
        splits.append((data.test.image, data.val.image))
    assert torch.equal(splits[0][0], splits[2][0])  # the test split does not depend on the seed
    assert torch.equal(splits[0][1], splits[1][1])
    assert not torch.equal(splits[0][1], splits[2][1])


def test_hidden_files_and_files_that_are_not_images_are_ignored(root: Path) -> None:
    for name in ("train/cat/notes.txt", "train/cat/._0000.png", "train/readme.png"):
        (root / name).write_text("no image")
    (root / "train" / ".hidden").mkdir()
    write_images(root / "train" / "cat", classes=[".thumbnails"])
    assert len(folder(root, val_fraction=0).train) == 60


def truncate(root: Path, *names: str) -> None:
    for name in names:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: len(content) // 2])


def test_unreadable_files_are_counted_and_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    truncate(root, "train/cat/0003.png", "train/dog/0001.png")
    (root / "train/dog/0002.png").write_text("<html>not found</html>")
    Image.new("I;16", (20, 20), 40_000).save(root / "train/cat/0007.png")
    with pytest.raises(
        DataError, match=r": 4 of 60 training images .*train/cat/0003\.png \(.*train/cat/0007\.png \(.*and 1 more"
    ):
        folder(root)
    caplog.set_level(logging.WARNING)
    data = folder(root, skip_unreadable=True, val_fraction=0)
    assert len(data.train) == len(data.train.label) == 56
    assert data.train.label.bincount().tolist() == [28, 28]
    assert "4 of 60 training images" in caplog.text
    assert "skipped" in caplog.text


def test_images_with_16_bits_per_channel_are_rejected(root: Path) -> None:
    Image.new("I;16", (20, 20), 40_000).save(root / "test/cat/0000.png")
    with pytest.raises(DataError, match=r"0000\.png \(its channels have more than 8 bits"):
        folder(root)


def test_split_without_readable_files_is_rejected(root: Path) -> None:
    truncate(root, *(str(path.relative_to(root)) for path in (root / "test").glob("*/*.png")))
    with pytest.raises(DataError, match=r"20 of 20 .* and 17 more$"):  # does not recommend skip_unreadable
        folder(root, skip_unreadable=True)


@pytest.mark.parametrize(
    ("folders", "options", "pattern"),
    [
        ([], {}, r"data\.root=.*: expected directories train/<class> that contain images"),
        (["train"], {}, r"data\.root=.*: expected directories train/<class> that contain images"),
        (["train/cat"], {}, r"train: contains only one class, cat; set data\.classes=1"),
        (["train/cat", "train/dog"], {}, r"train/cat: contains no images; expected suffixes \.bmp"),
        (["train/cat", "train/dog"], {"classes": 3}, r"data\.classes=3: must be 2, the number of classes"),
    ],
)
def test_invalid_directory_layout_is_rejected(tmp_path: Path, folders: list[str], options: dict, pattern: str) -> None:
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DataError, match=pattern):
        folder(tmp_path, **options)


def test_test_split_with_unknown_class_is_rejected(root: Path) -> None:
    write_images(root / "test", classes=["bird"])
    with pytest.raises(DataError, match=r"test/bird: not a class in .*train"):
        folder(root)


def test_empty_test_directory_is_rejected(tmp_path: Path) -> None:
    write_images(tmp_path / "train")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="test: contains no directories that contain images"):
        folder(tmp_path)


def test_single_class_is_accepted_if_configured(tmp_path: Path) -> None:
    write_images(tmp_path / "train", classes=["all"])
    assert folder(tmp_path, classes=1).classes == 1


def test_number_of_channels_must_be_one_or_three(root: Path) -> None:
    with pytest.raises(ValueError, match=r"shape=\[2, 20, 20\]: must start with 1.*or 3"):
        folder(root, shape=[2, 20, 20])


def test_images_do_not_depend_on_order_of_directory_entries(root: Path) -> None:
    before = folder(root)
    for path in sorted((root / "train").glob("*/*.png"), reverse=True):  # recreates the entries in another order
        path.rename(path.with_name("x")).rename(path)
    assert torch.equal(folder(root).train.image, before.train.image)


@pytest.mark.parametrize(
    ("make", "options", "code", "message"),
    [
        (lambda root: root, [], 3, "expected directories train/<class>"),
        (lambda root: (root / "train" / "cat").mkdir(parents=True), ["data.classes=1"], 3, "contains no images"),
        (lambda root: write_images(root / "train", ["cat"]), [], 3, "data.classes=1"),
        (lambda root: truncate(write_images(root / "train"), "cat/0001.png"), [], 3, "1 of 54 training images"),
        (lambda root: write_images(root / "train"), ["model=bernoulli_mlp"], 2, "colour images"),
        (
            lambda root: write_images(root / "train"),
            ["data.shape=[2,20,20]"],
            2,
            "data.shape=[2, 20, 20]: must start with 1",
        ),
        (lambda root: write_images(root / "train"), ["data.test_fraction=1"], 2, "data.test_fraction=1: must be"),
        (lambda root: write_images(root / "train"), ["data.shift=32"], 2, "data.shift=32: must be less"),
        (lambda root: write_images(root / "train"), ["noise=dropout", "noise.p=2"], 2, "noise.p=2: must be"),
    ],
)
def test_mistake_is_one_line_and_writes_nothing(
    tmp_path: Path, make: Callable[[Path], object], options: list[str], code: int, message: str
) -> None:
    make(tmp_path)
    fixed = ["data=folder", f"data.root={tmp_path}", "data.batch_size=8", f"hydra.run.dir={tmp_path / 'run'}"]
    with pytest.raises(VaeLabError) as error:
        train(["model=gaussian_conv", *fixed, *options])
    assert error.value.exit_code == code
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
