"""The baseline: VAEs trained with a bare PyTorch loop that uses neither vae_lab nor torch.distributions."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Prepare = Callable[[Tensor], tuple[Tensor, Tensor]]  # from uint8 images (B, 1, 28, 28) to input and target


class MLP(nn.Module):
    """A 784-500-500-2·20 encoder and a mirrored decoder, with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(),
            *(nn.Linear(784, 500), nn.ReLU()),
            *(nn.Linear(500, 500), nn.ReLU()),
            nn.Linear(500, 40),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(20, 500), nn.ReLU()),
            *(nn.Linear(500, 500), nn.ReLU()),
            *(nn.Linear(500, 784), nn.Unflatten(1, (1, 28, 28))),
        )


class Conv(nn.Module):
    """The networks of `encoder=conv_pooled decoder=conv_pooled`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 1, 1), nn.LeakyReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(16)),
            *(nn.Conv2d(16, 32, 3, 1, 1), nn.LeakyReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(32)),
            *(nn.Conv2d(32, 16, 3, 1, 1), nn.Dropout(0.2), nn.Flatten()),
            *(nn.Linear(784, 512), nn.LeakyReLU(), nn.Dropout(0.2)),
            *(nn.Linear(512, 256), nn.LeakyReLU(), nn.Dropout(0.2), nn.BatchNorm1d(256)),
            nn.Linear(256, 40),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(20, 256), nn.LeakyReLU()),
            *(nn.Linear(256, 512), nn.LeakyReLU()),
            *(nn.Linear(512, 784), nn.LeakyReLU(), nn.Unflatten(1, (16, 7, 7))),
            *(nn.ConvTranspose2d(16, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.LeakyReLU()),
            *(nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.LeakyReLU()),
            nn.ConvTranspose2d(16, 1, 3, 1, 1),
        )


def threshold(image: Tensor) -> tuple[Tensor, Tensor]:
    """Set pixels brighter than one half to 1 and all others to 0."""
    x = (image > 127).float()
    return x, x


def dynamic(image: Tensor) -> tuple[Tensor, Tensor]:
    """Set each pixel to 1 with a probability equal to its grey level."""
    x = torch.bernoulli(image.float() / 255)
    return x, x


def salt_and_pepper(image: Tensor) -> tuple[Tensor, Tensor]:
    """Binarize as in `threshold`, and set each input pixel to black or white with probability 0.2."""
    x = (image > 127).float()
    noise = torch.rand_like(x)
    return torch.where(noise < 0.2, (noise < 0.1).float(), x), x


class Bare:
    """A model with its optimizer and training images, trained one epoch at a time.

    Args:
        model: module with the attributes `encoder` and `decoder`.
        images: images (N, 1, 28, 28), uint8, in memory.
        batch_size: number of images per step.
        batches: number of steps per epoch; None for all images.
        prepare: function that returns the input and target for a batch of images.
        bf16: whether the networks run in bfloat16 with autocast.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        batch_size: int = 128,
        batches: int | None = None,
        prepare: Prepare = threshold,
        bf16: bool = False,
    ) -> None:
        self.model, self.images, self.batch_size, self.batches = model, images, batch_size, batches
        self.prepare, self.bf16 = prepare, bf16
        self.mark: Callable[[str], None] = lambda _: None  # called at the start of each phase of a step
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def train(self) -> float:
        """Train for one epoch and return its duration in seconds."""
        self.model.train()
        started = time.perf_counter()
        order = torch.randperm(len(self.images), device=self.images.device)
        for index in order.split(self.batch_size)[: self.batches]:
            self.mark("batch")
            seen, x = self.prepare(self.images[index])
            self.mark("forward")
            mean, log_variance, logits = self.forward(seen)
            log_likelihood = -functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
            loss = (kl - log_likelihood) / len(x)
            self.mark("backward")
            self.optimizer.zero_grad()
            loss.backward()
            self.mark("optimizer")
            self.optimizer.step()
            self.mark("rest")
        loss.item()  # waits until the device has completed all queued work
        return time.perf_counter() - started

    @torch.no_grad()
    def evaluate(self, images: Tensor) -> dict[str, float]:
        """Return the means of `elbo`, `log_likelihood`, `kl` and `mse` over the images, and the `seconds` taken."""
        self.model.eval()
        started = time.perf_counter()
        sums = torch.zeros(4, dtype=torch.float64, device=images.device)
        for part in images.split(self.batch_size):
            x, _ = threshold(part)
            mean, log_variance, logits = self.forward(x)
            log_likelihood = -functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
            mse = (self.decode(mean).sigmoid() - x).square().mean((1, 2, 3))
            sums += torch.stack([log_likelihood - kl, log_likelihood, kl, mse]).sum(1, dtype=torch.float64)
        means = dict(zip(("elbo", "log_likelihood", "kl", "mse"), (sums / len(images)).tolist(), strict=True))
        return {**means, "seconds": time.perf_counter() - started}

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean and log-variance of z, and the logits for a sample of z."""
        with torch.autocast(seen.device.type, torch.bfloat16, enabled=self.bf16):
            mean, log_variance = self.model.encoder(seen).float().chunk(2, 1)
        return mean, log_variance, self.decode(mean + (log_variance / 2).exp() * torch.randn_like(mean))

    def decode(self, z: Tensor) -> Tensor:
        """Return the logits of the pixels."""
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model.decoder(z).float()
