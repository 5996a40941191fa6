from functools import partial
from math import pi

import pytest
import torch

from vae_lab.noise import Dropout, Gaussian, Masking, Noise, SaltAndPepper, rotate_and_shift, seed_device

NOISES = [Dropout(0.3), SaltAndPepper(0.3), Gaussian(0.5), Masking(0.5)]
ZERO_NOISES = [Dropout(0), SaltAndPepper(0), Gaussian(0), Masking(0)]


@pytest.fixture
def images() -> torch.Tensor:
    torch.manual_seed(0)
    return 0.1 + 0.8 * torch.rand(500, 3, 10, 14)


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_noise_changes_images_and_keeps_their_range(noise: Noise, images: torch.Tensor) -> None:
    before = images.clone()
    noisy = noise(images)
    assert torch.equal(images, before)  # the target is the same tensor
    assert noisy.shape == images.shape
    assert noisy.dtype == images.dtype
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert not torch.equal(noisy, images)
    assert not torch.equal(noisy[0] - images[0], noisy[1] - images[1])
    assert noise(images.double()).dtype == torch.float64


@pytest.mark.parametrize("noise", [*NOISES, *ZERO_NOISES], ids=lambda noise: type(noise).__name__)
def test_noise_depends_only_on_seed(noise: Noise, images: torch.Tensor) -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        results.append(noise(images))
    assert torch.equal(*results)


@pytest.mark.parametrize("noise", ZERO_NOISES, ids=lambda noise: type(noise).__name__)
def test_zero_amount_changes_nothing(noise: Noise, images: torch.Tensor) -> None:
    assert torch.equal(noise(images), images)


def test_dropout_zeroes_values_with_probability_p(images: torch.Tensor) -> None:
    noisy = Dropout(0.3)(images)
    zero = noisy == 0
    assert torch.equal(noisy[~zero], images[~zero])  # not scaled up, unlike torch.nn.Dropout
    assert zero.float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert not torch.equal(zero[:, 0], zero[:, 1])  # each channel independently
    assert not Dropout(1)(images).any()


def test_salt_and_pepper_sets_pixels_to_black_or_white(images: torch.Tensor) -> None:
    noisy = SaltAndPepper(0.3)(images)
    black, white = (noisy == 0).all(1), (noisy == 1).all(1)  # in all channels
    untouched = (noisy == images).all(1)
    assert (black | white | untouched).all()
    assert black.float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert white.float().mean().item() == pytest.approx(0.15, abs=0.01)
    everything = SaltAndPepper(1)(images)
    assert set(everything.unique().tolist()) == {0.0, 1.0}


def test_gaussian_noise_has_standard_deviation_and_is_clipped() -> None:
    grey = torch.full((200, 1, 10, 10), 0.5)
    assert (Gaussian(0.05)(grey) - grey).std().item() == pytest.approx(0.05, rel=0.02)
    noisy = Gaussian(10.0)(grey)
    assert (noisy == 0).float().mean().item() == pytest.approx(0.48, abs=0.02)
    assert (noisy == 1).float().mean().item() == pytest.approx(0.48, abs=0.02)


@pytest.mark.parametrize(("side", "pixels"), [(0.5, 5), (0.3, 3), (1.0, 10)])
def test_masking_covers_one_square_anywhere(side: float, pixels: int, images: torch.Tensor) -> None:
    noisy = Masking(side)(images)
    zero = (noisy == 0).all(1)  # (N, H, W)
    assert torch.equal(noisy[~zero.unsqueeze(1).expand_as(noisy)], images[~zero.unsqueeze(1).expand_as(noisy)])
    rows, columns = zero.any(2), zero.any(1)
    assert (rows.sum(1) == pixels).all()
    assert (columns.sum(1) == pixels).all()
    assert (zero.sum((1, 2)) == pixels**2).all()
    assert {row.int().argmax().item() for row in rows} == set(range(10 - pixels + 1))
    assert {column.int().argmax().item() for column in columns} == set(range(14 - pixels + 1))


def test_small_mask_covers_at_least_one_pixel(images: torch.Tensor) -> None:
    assert (Masking(0.01)(images) == 0).all(1).sum((1, 2)).tolist() == [1] * len(images)


@pytest.mark.parametrize(
    "make",
    [
        *(partial(Dropout, p=bad) for bad in (-0.1, 1.1)),
        partial(SaltAndPepper, amount=1.1),
        partial(Masking, side=1.1),
        *(partial(Gaussian, std=bad) for bad in (-1, float("inf"))),
    ],
)
def test_amount_out_of_range_is_rejected(make: partial) -> None:
    with pytest.raises(ValueError, match=rf"{make.func.__name__}.__init__\n{next(iter(make.keywords))}\n"):
        make()


# ---- augmentation ----


def test_shift_moves_each_image_by_whole_pixels() -> None:
    torch.manual_seed(0)
    images = torch.randint(256, (400, 3, 9, 12), dtype=torch.uint8)
    moved = rotate_and_shift(images, degrees=0, pixels=2)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    seen = set()
    for image, result in zip(padded, moved, strict=True):
        places = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(image[:, top : top + 9, left : left + 12], result)
        ]
        assert len(places) == 1
        seen |= set(places)
    assert len(seen) == 25


def test_rotation_is_about_centre_and_keeps_distances() -> None:
    height, width = 61, 101  # not square, so that a rotation in units of the sides is detected
    images = torch.zeros(300, 1, height, width, dtype=torch.uint8)
    images[:, 0, 29:32, 69:72] = 255  # a dot, 20 pixels to the right of the centre
    images[:, 0, 30, 50] = 100
    torch.manual_seed(0)
    rotated = rotate_and_shift(images, degrees=15, pixels=0)[:, 0].double()
    assert (rotated[:, 30, 50] - 100).abs().max() <= 1
    rotated[:, 25:36, 45:56] = 0
    rows, columns = torch.arange(height) - 30.0, torch.arange(width) - 50.0
    weight = rotated.sum((1, 2))
    y, x = (rotated.sum(2) @ rows.double()) / weight, (rotated.sum(1) @ columns.double()) / weight
    radius, angle = (x**2 + y**2).sqrt(), torch.atan2(y, x) * 180 / pi
    assert (radius - 20).abs().max() < 0.2
    assert angle.abs().max() < 15.3
    assert angle.min() < -13
    assert angle.max() > 13
    assert abs(angle.mean().item()) < 2


def test_shift_after_rotation_is_along_axes() -> None:
    images = torch.zeros(300, 1, 41, 41, dtype=torch.uint8)
    images[:, 0, 19:22, 19:22] = 255  # at the centre, which a rotation does not move
    torch.manual_seed(0)
    moved = rotate_and_shift(images, degrees=90, pixels=3)[:, 0].double()
    place = torch.arange(41.0).double() - 20
    weight = moved.sum((1, 2))
    for offset in ((moved.sum(2) @ place) / weight, (moved.sum(1) @ place) / weight):
        assert (offset - offset.round()).abs().max() < 0.05
        assert set(offset.round().int().tolist()) == set(range(-3, 4))


def test_step_seeds_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)  # needs no GPU
    seed_device(7, torch.device("cuda"))
    assert seeds == [7]
    assert torch.initial_seed() == 7
    seed_device(8, torch.device("cpu"))
    assert seeds == [7]
