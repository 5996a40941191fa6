"""What several test files share: small models and batches, and the command line as a user meets it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from vae_lab.likelihoods import Bernoulli
from vae_lab.model import VAE, Batch, Conditional
from vae_lab.networks import MLP
from vae_lab.posteriors import Normal
from vae_lab.priors import StandardNormal

IMAGE = (1, 4, 4)
LATENT = 3
ROOT = Path(__file__).resolve().parents[1]

needs_mnist = pytest.mark.skipif(
    not (Path(os.environ.get("VAE_LAB_DATA", "data")) / "MNIST" / "raw").is_dir(),
    reason="MNIST is not on this machine: point VAE_LAB_DATA at a folder that holds MNIST/raw",
)


@pytest.fixture
def double() -> Iterator[None]:
    """Compute in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_vae(
    posterior: nn.Module | None = None,
    likelihood: nn.Module | None = None,
    prior: nn.Module | None = None,
    hidden: tuple[int, ...] = (8,),
) -> VAE:
    network = partial(MLP, hidden=hidden, activation="Tanh")
    return VAE(
        Conditional(network, posterior or Normal(), IMAGE, (LATENT,)),
        Conditional(network, likelihood or Bernoulli(), (LATENT,), IMAGE),
        prior or StandardNormal(LATENT),
    )


def make_batch(size: int = 6, binary: bool = True) -> Batch:
    pixels = torch.rand(size, *IMAGE)
    if binary:
        pixels = pixels.round()
    return Batch(pixels, pixels, torch.arange(size) % 10)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m vae_lab.train` in an empty folder, with no network and no data to be found by chance."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("VAE_LAB_DATA", "HYDRA_FULL_ERROR")
    }
    environment |= {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}

    def run(*arguments: str, module: str = "vae_lab.train", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=tmp_path,
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
