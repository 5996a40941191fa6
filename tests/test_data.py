import os
from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import needs_mnist, write_cifar10, write_mnist
from vae_lab.data import CIFAR10, MNIST, Digits, ImageData
from vae_lab.data.batches import Batches, Plan, Stream, seeds
from vae_lab.data.images import Images, bernoulli
from vae_lab.errors import ConfigError, DataError
from vae_lab.noise import Dropout


class Fake(ImageData):
    """600 training images and 50 test images with random grey values."""

    def __init__(self, **options: object) -> None:
        super().__init__(**{"shape": (1, 4, 4), "classes": 10, "batch_size": 64, **options})

    def read(self, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        size = 600 if train else 50
        source = torch.Generator().manual_seed(int(train))
        images = torch.randint(256, (size, 1, 4, 4), dtype=torch.uint8, generator=source)
        return images, torch.arange(size) % 10


def fake(**options: object) -> Fake:
    data = Fake(**options)
    data.setup()
    return data


def all_images(images: Images) -> object:
    return images[Plan(torch.arange(len(images)), 0)]


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


# ---- splits ----


@pytest.mark.parametrize(("val_fraction", "size"), [(0.1, 60), (0, 0), (0.0, 0), (7, 7), (0.5, 300)])
def test_validation_split_is_taken_from_training_images(val_fraction: float, size: int) -> None:
    data = fake(val_fraction=val_fraction)
    assert (len(data.train), len(data.val), len(data.test)) == (600 - size, size, 50)
    assert rows(data.train.image) | rows(data.val.image) == rows(data.read(train=True)[0])
    assert torch.equal(data.test.image, data.read(train=False)[0])
    assert len(data.val_dataloader()) == (1 if size else 0)


def test_split_depends_on_seed() -> None:
    first, again, other = fake(seed=1), fake(seed=1), fake(seed=2)
    assert torch.equal(first.val.image, again.val.image)
    assert not torch.equal(first.val.image, other.val.image)
    assert torch.equal(first.test.image, other.test.image)


def test_labels_stay_with_their_images() -> None:
    data = fake()
    known = {image.numpy().tobytes(): label.item() for image, label in zip(*data.read(train=True), strict=True)}
    assert all(
        known[image.numpy().tobytes()] == label for image, label in zip(data.train.image, data.train.label, strict=True)
    )


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"batch_size": 541}, "data.batch_size=541"),
        ({"val_fraction": 600}, "600"),
        ({"val_fraction": 0.0001}, "data.val_fraction=0.0001: selects none of 600 images"),
    ],
)
def test_impossible_split_or_batch_size_is_rejected(options: dict, pattern: str) -> None:
    with pytest.raises(ConfigError, match=pattern):
        fake(**options)


# ---- order ----


def test_epoch_contains_every_image_once_in_its_own_order() -> None:
    batches = Batches(100, 30, seed=1, shuffle=True)
    orders = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        plans = list(batches)
        assert [len(plan.indices) for plan in plans] == [30, 30, 30, 10]
        assert len(plans) == len(batches)
        orders.append(torch.cat([plan.indices for plan in plans]))
        assert torch.equal(orders[-1].sort().values, torch.arange(100))
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])


@pytest.mark.parametrize(("size", "sizes"), [(9, [4, 5]), (8, [4, 4]), (10, [4, 4, 2]), (1, [1]), (4, [4])])
def test_trailing_training_batch_of_one_image_joins_previous_batch(size: int, sizes: list[int]) -> None:
    batches = Batches(size, 4, seed=1, shuffle=True)
    assert [len(plan.indices) for plan in batches] == sizes
    assert len(batches) == len(sizes)
    plain = Batches(size, 4, seed=1, shuffle=False)
    assert len(list(plain)) == len(plain) == -(-size // 4)
    assert len(list(Batches(3, 1, seed=1, shuffle=True))) == 3


def test_streams_have_distinct_seeds() -> None:
    places = [(), (0,), (0, 0), (0, 0, 0), (1,), (1, 0), (0, 1)]
    assert len({seeds(1, stream, *place)[0] for stream in Stream for place in places}) == len(Stream) * len(places)


def test_steps_have_distinct_seeds() -> None:
    seeds = []
    for shuffle in (True, False):
        for seed in (0, 1):
            for rank in (0, 1):
                for epoch in range(3 if shuffle else 1):
                    batches = Batches(100, 10, seed, shuffle, epoch=epoch, rank=rank, world_size=2)
                    seeds += [plan.seed for plan in batches]
    assert len(set(seeds)) == len(seeds)


def test_evaluation_batches_are_the_same_in_every_epoch() -> None:
    first, later = (list(Batches(100, 30, 1, shuffle=False, epoch=epoch)) for epoch in (0, 7))
    assert all(torch.equal(a.indices, b.indices) and a.seed == b.seed for a, b in zip(first, later, strict=True))


@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_see_disjoint_images(shuffle: bool) -> None:
    parts = [list(Batches(103, 20, 1, shuffle, rank=rank, world_size=4)) for rank in range(4)]
    assert len({len(part) for part in parts}) == 1
    seen = torch.cat([plan.indices for part in parts for plan in part]).tolist()
    assert len(set(seen)) == len(seen) == (100 if shuffle else 103)


# ---- pixels ----


def test_threshold_binarization_splits_at_one_half() -> None:
    data = fake(binarize="threshold")
    raw = all_images(data.train)
    assert torch.equal(data.batch(raw, training=True).target, (raw.image / 255 > 0.5).float())


def test_grey_values_are_kept_without_binarization() -> None:
    data = fake(binarize="none")
    raw = all_images(data.train)
    batch = data.batch(raw, training=True)
    assert torch.equal(batch.target, raw.image / 255)
    assert torch.equal(batch.input, batch.target)


@pytest.mark.parametrize("binarize", ["threshold", "dynamic", "static"])
def test_input_can_stay_grey(binarize: str) -> None:
    data = fake(binarize=binarize, binarize_input=False)
    raw = all_images(data.train)
    batch = data.batch(raw, training=True)
    assert torch.equal(batch.input, raw.image / 255)
    assert set(batch.target.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(
        fake(binarize="static").batch(all_images(fake(binarize="static").train), True).input.unique(),
        torch.tensor([0.0, 1.0]),
    )


def test_dynamic_binarization_is_redrawn_only_in_training() -> None:
    data = fake(binarize="dynamic")
    train, test = all_images(data.train), all_images(data.test)
    assert not torch.equal(data.batch(train, True).target, data.batch(train, True).target)
    assert torch.equal(data.batch(test, False).target, data.batch(test, False).target)
    other = fake(binarize="dynamic", seed=7)
    assert torch.equal(data.batch(test, False).target, other.batch(all_images(other.test), False).target)


def test_static_binarization_is_drawn_once_for_each_image() -> None:
    known: dict[bytes, bytes] = {}
    for seed in (0, 7):
        data = fake(binarize="static", seed=seed)
        for split in (data.train, data.val):
            raw = all_images(split)
            target = data.batch(raw, training=True).target
            assert torch.equal(target, data.batch(raw, training=True).target)
            for image, drawn in zip(raw.image, target, strict=True):
                assert known.setdefault(image.numpy().tobytes(), drawn.numpy().tobytes()) == drawn.numpy().tobytes()


def test_pixel_is_drawn_with_its_grey_value_as_probability() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    torch.manual_seed(0)
    frequency = bernoulli(levels.expand(20_000, 256)).double().mean(0)
    expected = torch.arange(256).double() / 255
    error = (expected * (1 - expected) / 20_000).sqrt()
    assert ((frequency - expected).abs() <= 5 * error).all()  # exact at 0 and 255


def test_noise_changes_only_input_in_training() -> None:
    class Invert(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1 - x

    data = fake(noise=Invert())
    raw = all_images(data.train)
    training, evaluation = data.batch(raw, True), data.batch(raw, False)
    assert torch.equal(training.input, 1 - raw.image / 255)
    assert torch.equal(training.target, evaluation.target)
    assert torch.equal(evaluation.input, evaluation.target)


def test_noise_buffers_get_precision_of_batch() -> None:
    class Tinted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("tint", torch.full((1, 4, 4), 0.5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.tint[0])  # rejects tensors of different dtypes

    data = fake(noise=Tinted())
    assert data.batch(all_images(data.train), True, torch.float64).input.dtype == torch.float64


def test_noise_with_eval_changes_input_in_evaluation() -> None:
    data = fake(noise=Dropout(0.5, eval=True))
    batch = data.batch(all_images(data.test), training=False)
    assert not torch.equal(batch.input, batch.target)
    assert torch.equal(batch.target, all_images(data.test).image / 255)


@pytest.mark.parametrize("binarize", ["none", "threshold", "dynamic"])
def test_augmentation_moves_input_with_target_and_only_in_training(binarize: str) -> None:
    data, still = (
        fake(binarize=binarize, shape=(1, 4, 4), **options) for options in ({"shift": 1, "rotation": 15}, {})
    )
    raw = all_images(data.train)
    batch = data.batch(raw, training=True)
    assert torch.equal(batch.input, batch.target)
    assert not torch.equal(batch.target, data.batch(raw, training=True).target)
    raw = all_images(data.val)
    assert torch.equal(
        data.batch(raw, training=False).target, still.batch(all_images(still.val), training=False).target
    )


def test_augmentation_precedes_binarization() -> None:
    data = fake(binarize="threshold", rotation=45)
    assert set(data.batch(all_images(data.train), training=True).target.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"binarize": "static", "shift": 1}, "binarize=static.*dynamic"),
        ({"binarize": "static", "rotation": 5}, "binarize=static.*dynamic"),
        ({"shift": 4}, "shift=4: must be less than 4"),
    ],
)
def test_invalid_augmentation_is_rejected(options: dict, pattern: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        Fake(**options)


def test_pixels_have_requested_precision() -> None:
    data = fake()
    batch = data.batch(all_images(data.train), True, torch.float64)
    assert batch.input.dtype == batch.target.dtype == torch.float64


# ---- data sets ----


def test_digits_match_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    data = Digits(shape=(1, 8, 8), classes=10, seed=3)
    data.setup()
    assert (len(data.train) + len(data.val), len(data.test)) == (1438, 359)
    stored = torch.cat([data.train.image, data.val.image, data.test.image])
    known = torch.from_numpy(load_digits().images)
    assert stored.shape == (1797, 1, 8, 8)
    assert torch.equal((stored.double() * 16 / 255).ceil().sum(), known.sum())
    assert data.train.image.max() == 255


@pytest.mark.parametrize(("kind", "shape"), [(MNIST, (1, 28, 28)), (CIFAR10, (3, 32, 32))])
def test_missing_data_suggest_alternative_and_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[ImageData], shape: tuple[int, ...]
) -> None:
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    data = kind(root=tmp_path / "nowhere", shape=shape, classes=10)
    with pytest.raises(DataError, match=rf"^data\.root=.*nowhere: {kind.__name__} .*data=digits"):
        data.prepare_data()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "nowhere").mkdir()  # an existing directory is kept
    with pytest.raises(DataError):
        data.prepare_data()
    assert [path.name for path in tmp_path.rglob("*")] == ["nowhere"]


class Subclass(MNIST):
    pass


@pytest.mark.parametrize("kind", [MNIST, Subclass])
def test_existing_mnist_is_not_downloaded(tmp_path: Path, kind: type[MNIST]) -> None:
    write_mnist(tmp_path, images=300)
    data = kind(root=tmp_path, shape=(1, 28, 28), classes=10)
    data.prepare_data()
    data.setup()
    assert (len(data.train), len(data.val), len(data.test)) == (270, 30, 300)
    assert data.train.image.shape[1:] == (1, 28, 28)


def test_wrong_image_shape_is_rejected(tmp_path: Path) -> None:
    write_mnist(tmp_path, images=300)
    with pytest.raises(ConfigError, match=r"data\.shape=\[1, 9, 9\]: must be \[1, 28, 28\]"):
        MNIST(root=tmp_path, shape=(1, 9, 9), classes=10).setup()


def test_truncated_mnist_is_reported_as_corrupt(tmp_path: Path) -> None:
    write_mnist(tmp_path, images=300)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    data = MNIST(root=tmp_path, shape=(1, 28, 28), classes=10)
    with pytest.raises(DataError, match="corrupt"):
        data.setup()


def test_cifar10_is_read_if_checksums_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_cifar10(tmp_path, monkeypatch, images=20)
    data = CIFAR10(root=tmp_path, shape=(3, 32, 32), classes=10, batch_size=10)
    data.prepare_data()
    data.setup()
    assert (len(data.train), len(data.val), len(data.test)) == (90, 10, 20)
    assert rows(data.train.image) | rows(data.val.image) == rows(images["train"])
    assert torch.equal(data.test.image, images["test"])
    assert data.test.label.tolist() == [number % 10 for number in range(20)]
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    content = bytearray(batch.read_bytes())
    content[500] ^= 1
    batch.write_bytes(content)
    with pytest.raises(DataError, match="corrupt"):
        data.read(train=True)


@needs_mnist
def test_real_mnist_is_complete() -> None:
    data = MNIST(root=os.environ.get("VAE_LAB_DATA", "data"), shape=(1, 28, 28), classes=10)
    data.prepare_data()
    data.setup()
    assert (len(data.train), len(data.val), len(data.test)) == (54_000, 6_000, 10_000)
    assert data.test.label.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    mean = (data.train.image.double().sum() + data.val.image.double().sum()) / 60_000 / 784 / 255
    assert abs(mean.item() - 0.1306604762738429) < 1e-12


@pytest.mark.parametrize("binarize", ["none", "static"])
def test_batch_is_indexed_on_device_of_images(binarize: str) -> None:
    data = Digits(binarize=binarize, shape=(1, 8, 8))
    data.setup()
    plan = Plan(torch.tensor([3, 1]), seed=7)
    here, elsewhere = data.train[plan], data.train.to(torch.device("meta"))[plan]
    assert torch.equal(here.image, data.train.image[[3, 1]])
    assert (here.binary is None) == (elsewhere.binary is None) == (binarize == "none")
    assert here.seed == elsewhere.seed == 7
    for value, meta_value in zip(vars(here).values(), vars(elsewhere).values(), strict=True):
        if isinstance(value, torch.Tensor):
            assert meta_value.device.type == "meta"
            assert (meta_value.shape, meta_value.dtype) == (value.shape, value.dtype)


def test_all_tensors_of_batch_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda values: values + 1)  # the original needs a GPU
    for binary in (None, torch.zeros(2, 1, 3, 3)):
        pinned = Images(torch.zeros(2, 1, 3, 3), torch.zeros(2), binary, seed=7).pin_memory()
        assert (pinned.image == 1).all()
        assert (pinned.label == 1).all()
        assert pinned.binary is None if binary is None else (pinned.binary == 1).all()
        assert pinned.seed == 7


@pytest.mark.parametrize("train", [True, False])
def test_label_outside_classes_is_rejected(train: bool) -> None:
    class Odd(Digits):
        def read(self, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
            images, labels = super().read(train)
            return images, labels + 5 * (train == self.odd)

    data = Odd(shape=(1, 8, 8), classes=10)
    data.odd = train
    with pytest.raises(ConfigError, match=r"data\.classes=10: must be at least 15"):
        data.setup()


def test_classes_without_names_are_named_by_number() -> None:
    data = Fake(classes=None)
    assert data.class_names == []
    data.setup()
    assert data.class_names == [str(number) for number in range(10)]
