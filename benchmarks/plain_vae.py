"""A VAE as one would write it in plain PyTorch, nothing of vae_lab in it: what our numbers and speed are held to.

784-500-500-2·20 (ReLU) and mirrored, binary pixels (x > 0.5), KL in closed form, Adam 1e-3, batch 128; 54,000 images
train, 6,000 are left aside, 10,000 test. Prints the test ELBO in nats per image and the seconds of each epoch.

    python benchmarks/plain_vae.py --root data --epochs 10
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.datasets import MNIST

LATENT = 20


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    """Return two hidden layers of 500."""
    return nn.Sequential(nn.Linear(inputs, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, outputs))


def terms(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p(x|z) and KL, each summed over a batch of binary images (B, 784)."""
    mean, log_variance = encoder(x).chunk(2, 1)
    z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
    log_likelihood = -functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
    return log_likelihood, kl


def run(root: str, epochs: int, seed: int = 0, batch_size: int = 128) -> dict[str, float]:
    """Train and test; returns `test/elbo`, `test/log_likelihood`, `test/kl` and the median `seconds` of an epoch."""
    torch.manual_seed(seed)
    images = MNIST(root, train=True).data.flatten(1)
    images = images[torch.randperm(len(images))[:54_000]]
    test = MNIST(root, train=False).data.flatten(1)
    encoder, decoder = mlp(784, 2 * LATENT), mlp(LATENT, 784)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3, fused=True)
    seconds = []
    for _ in range(epochs):
        started = time.perf_counter()
        for index in torch.randperm(len(images)).split(batch_size):
            x = (images[index] > 127).float()
            log_likelihood, kl = terms(encoder, decoder, x)
            loss = (kl - log_likelihood) / len(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds.append(time.perf_counter() - started)
    with torch.no_grad():
        totals = [terms(encoder, decoder, (part > 127).float()) for part in test.split(1000)]
    log_likelihood, kl = (sum(each).item() / len(test) for each in zip(*totals, strict=True))
    return {
        "test/elbo": log_likelihood - kl,
        "test/log_likelihood": log_likelihood,
        "test/kl": kl,
        "seconds": statistics.median(seconds),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a VAE in plain PyTorch")
    parser.add_argument("--root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, value in run(options.root, options.epochs, options.seed).items():
        print(f"{name:20} {value:12.6g}")
