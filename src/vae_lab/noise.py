"""Noise for the encoder's input, and data augmentation. Both run on the device that holds the images.

Every class maps pixel values (B, C, H, W) in [0, 1] to values in [0, 1]. No noise is added to the likelihood's target.
"""

from math import radians

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional

from vae_lab.checks import Probability, checked


class Noise(nn.Module):
    """Base class for noise modules.

    Args:
        eval: whether to add the noise during validation and testing as well as during training.
    """

    @checked
    def __init__(self, eval: bool = False) -> None:
        super().__init__()
        self.in_evaluation = eval  # `nn.Module.eval` is a method


class Dropout(Noise):
    """Sets each value to 0 with probability `p`, without rescaling the others.

    Args:
        p: probability that a value becomes 0, 0 ≤ p ≤ 1.
    """

    @checked
    def __init__(self, p: Probability = 0.5, eval: bool = False) -> None:
        super().__init__(eval)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) >= self.p)


class SaltAndPepper(Noise):
    """Sets randomly selected pixels to black or white, with equal probability, in all channels.

    Args:
        amount: probability that a pixel is replaced, 0 ≤ amount ≤ 1.
    """

    @checked
    def __init__(self, amount: Probability = 0.2, eval: bool = False) -> None:
        super().__init__(eval)
        self.amount = amount

    def forward(self, x: Tensor) -> Tensor:
        draw = torch.rand_like(x[:, :1])  # (B, 1, H, W)
        return torch.where(draw < self.amount, (draw < self.amount / 2).to(x.dtype), x)


class Gaussian(Noise):
    """Adds Gaussian noise to each value and clips the result to [0, 1].

    Args:
        std: standard deviation, at least 0.
    """

    @checked
    def __init__(self, std: NonNegativeFloat = 0.2, eval: bool = False) -> None:
        super().__init__(eval)
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.std * torch.randn_like(x)).clamp(0, 1)


class Masking(Noise):
    """Sets a square at a random position in each image to 0.

    Args:
        side: side length of the square, as a fraction of the image's shorter side, 0 ≤ side ≤ 1. A square with
            side > 0 covers at least one pixel.
    """

    @checked
    def __init__(self, side: Probability = 0.5, eval: bool = False) -> None:
        super().__init__(eval)
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        side = round(self.side * min(x.shape[-2:])) or int(self.side > 0)

        def covered(length: int) -> Tensor:
            start = torch.randint(length - side + 1, (len(x), 1), device=x.device)
            place = torch.arange(length, device=x.device)
            return (place >= start) & (place < start + side)  # (B, length)

        rows, columns = covered(x.shape[-2]), covered(x.shape[-1])
        return x.masked_fill((rows[:, :, None] & columns[:, None, :]).unsqueeze(1), 0)


def rotate_and_shift(images: Tensor, degrees: float, pixels: int) -> Tensor:
    """Return the images, randomly rotated about their centres and randomly shifted; exposed pixels are black.

    Args:
        images: values from 0 to 255 (B, C, H, W), uint8.
        degrees: maximum angle; the angle is drawn uniformly from [-degrees, degrees].
        pixels: maximum shift along each axis; the shifts are integers drawn uniformly from [-pixels, pixels].
    """
    count, (height, width), device = len(images), images.shape[-2:], images.device
    angle = radians(degrees) * (2 * torch.rand(count, device=device, dtype=torch.float32) - 1)
    shift = torch.randint(-pixels, pixels + 1, (count, 2, 1), device=device).float()  # right and down
    cos, sin = angle.cos(), angle.sin()
    # affine map from output to input coordinates, in units of half the width and height
    turn = torch.stack([cos, sin * height / width, -sin * width / height, cos], -1).unflatten(-1, (2, 2))
    move = -turn @ (2 * shift / torch.tensor([[width], [height]], device=device))  # (B, 2, 1)
    grid = functional.affine_grid(torch.cat([turn, move], -1), list(images.shape), align_corners=False)
    return functional.grid_sample(images.float(), grid, align_corners=False).round().to(torch.uint8)


def seed_device(seed: int, device: torch.device) -> None:
    """Seed the random number generators of the CPU and of `device`.

    `torch.manual_seed` would seed every type of device and build a stack trace for each type that is not in use.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device.type).manual_seed(seed)
