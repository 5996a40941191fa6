"""The yardstick: VAEs trained by a bare PyTorch loop, with nothing of vae_lab and no torch.distributions in it."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Prepare = Callable[[Tensor], tuple[Tensor, Tensor]]  # from bytes (B, 1, 28, 28) to what is seen and what is scored


class MLP(nn.Module):
    """784-500-500-2·20 and mirrored, with ReLU."""

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
    """Make a pixel 1 where it is brighter than one half."""
    x = (image > 127).float()
    return x, x


def dynamic(image: Tensor) -> tuple[Tensor, Tensor]:
    """Make a pixel 1 with its grey value as the probability."""
    x = torch.bernoulli(image.float() / 255)
    return x, x


def salt_and_pepper(image: Tensor) -> tuple[Tensor, Tensor]:
    """Do as `threshold`, and show the encoder each pixel as black or white with probability 0.2."""
    x = (image > 127).float()
    noise = torch.rand_like(x)
    return torch.where(noise < 0.2, (noise < 0.1).float(), x), x


class Bare:
    """A model, its optimizer and its images, trained one epoch at a time.

    Args:
        model: holds `encoder` and `decoder`.
        images: bytes (N, 1, 28, 28), in memory.
        batch_size: images of a step.
        batches: steps of an epoch; None for all images.
        prepare: makes what is seen and scored of a batch.
        bf16: whether the networks run under autocast to bfloat16.
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
        self.mark: Callable[[str], None] = lambda _: None  # called when a part of a step begins
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def train(self) -> float:
        """Train for one epoch; returns its seconds."""
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
        loss.item()  # whatever was queued on a device has been done
        return time.perf_counter() - started

    @torch.no_grad()
    def evaluate(self, images: Tensor) -> dict[str, float]:
        """Return the means of `elbo`, `log_likelihood`, `kl` and `mse` over images, and the `seconds` that it takes."""
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
        """Return mean and log-variance of z, and the logits for a sample of it."""
        with torch.autocast(seen.device.type, torch.bfloat16, enabled=self.bf16):
            mean, log_variance = self.model.encoder(seen).float().chunk(2, 1)
        return mean, log_variance, self.decode(mean + (log_variance / 2).exp() * torch.randn_like(mean))

    def decode(self, z: Tensor) -> Tensor:
        """Return the logits of the pixels."""
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model.decoder(z).float()
