"""Shared helpers and fixtures: small models and batches, image files, and commands in a separate process."""

import gc
import hashlib
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn
from torchvision.datasets import CIFAR10

import forked
from vae_lab.likelihoods import Bernoulli
from vae_lab.model import VAE, Batch, Conditional, Parts
from vae_lab.networks import MLP
from vae_lab.posteriors import Normal
from vae_lab.priors import StandardNormal
from vae_lab.runs import Run
from vae_lab.train import train

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each worker and for each process that it starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

IMAGE = (1, 4, 4)
LATENT = 3
ROOT = Path(__file__).resolve().parents[1]


class CountingIO(TorchCheckpointIO):
    """A user-defined checkpoint plugin that counts the checkpoints it writes."""

    saved = 0

    def save_checkpoint(self, *arguments: object, **options: object) -> None:
        CountingIO.saved += 1
        super().save_checkpoint(*arguments, **options)


needs_mnist = pytest.mark.skipif(
    not (Path(os.environ.get("VAE_LAB_DATA", "data")) / "MNIST" / "raw").is_dir(),
    reason="requires MNIST: set VAE_LAB_DATA to a directory that contains MNIST/raw",
)


def pytest_collection_finish() -> None:
    """Exempt everything imported so far from garbage collection, which would search it again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # bindings otherwise report leaks on exit


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark notebooks as slow because each starts a kernel and trains a model."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def double() -> Iterator[None]:
    """Set the default dtype to float64."""
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


def make_two_layers(likelihood: nn.Module | None = None, hidden: Sequence[int] = (8,)) -> VAE:
    """Return the hierarchical VAE of `zoo/` with 3 dimensions in z₁, next to the image, and 2 in z₂."""
    from zoo.models import TwoLayers

    network = partial(MLP, hidden=hidden, activation="Tanh")
    parts = Parts(network, network, Normal(), likelihood or Bernoulli(), StandardNormal(2), IMAGE, LATENT)
    return TwoLayers(parts, upper_dim=2, hidden=hidden)


def make_batch(size: int = 6, binary: bool = True) -> Batch:
    pixels = torch.rand(size, *IMAGE)
    if binary:
        pixels = pixels.round()
    return Batch(pixels, pixels, torch.arange(size) % 10)


def write_images(
    root: Path,
    classes: Sequence[str] = ("cat", "dog"),
    count: int = 30,
    size: tuple[int, int] = (20, 20),
    ending: str = "png",
) -> Path:
    """Write `count` random colour images of `size` (width, height) for each class, and return `root`."""
    random = np.random.default_rng(len(root.parts))
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = random.integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:04d}.{ending}")
    return root


def write_mnist(root: Path, images: int) -> Path:
    """Write MNIST files with `images` random images in each split, and return `root`."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in ("train", "t10k"):
        header = b"".join(number.to_bytes(4, "big") for number in (2051, images, 28, 28))
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + os.urandom(images * 784))
        header = b"".join(number.to_bytes(4, "big") for number in (2049, images))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(header + bytes(k % 10 for k in range(images)))
    return root


def write_cifar10(root: Path, patch: pytest.MonkeyPatch, images: int) -> dict[str, torch.Tensor]:
    """Write CIFAR10 files with `images` random images each, and patch the checksums in torchvision.

    Returns the images of `train` and `test` (N, 3, 32, 32).
    """
    folder, random = root / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir()
    written: dict[str, list[np.ndarray]] = {"train": [], "test": []}

    def write(name: str, content: dict) -> tuple[str, str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

    def write_batch(name: str, split: str) -> tuple[str, str]:
        pixels = random.integers(256, size=(images, 3072), dtype=np.uint8)
        written[split].append(pixels)
        return write(name, {"data": pixels, "labels": [number % 10 for number in range(images)]})

    patch.setattr(CIFAR10, "train_list", [write_batch(f"data_batch_{number}", "train") for number in range(1, 6)])
    patch.setattr(CIFAR10, "test_list", [write_batch("test_batch", "test")])
    name, checksum = write("batches.meta", {"label_names": list("abcdefghij")})
    patch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": checksum})
    return {split: torch.from_numpy(np.concatenate(parts)).view(-1, 3, 32, 32) for split, parts in written.items()}


@pytest.fixture
def command(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a command in an empty directory, without network access and without `VAE_LAB_DATA`.

    With environment variables that Python or a library may read on start-up, it starts a new process.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("VAE_LAB_DATA", "HYDRA_FULL_ERROR") and not name.startswith("WANDB_")
    }
    environment |= {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}

    def run(*arguments: str, module: str = "vae_lab.train", **more: str) -> subprocess.CompletedProcess[str]:
        if more.keys() <= {"HYDRA_FULL_ERROR", "HOME", "NETRC"}:
            output = tmp_path_factory.mktemp("output")
            return forked.run(module, arguments, tmp_path, environment | more, output, timeout=300)
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=tmp_path,
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train a small model on digits for two epochs, with noise and latent_dim=3; tests must not change the run."""
    path = tmp_path_factory.mktemp("digits") / "run"
    small = ["latent_dim=3", "encoder.hidden=[32]", "decoder.hidden=[32]", "trainer.max_epochs=2"]
    return train(["data=digits", "noise=salt_and_pepper", *small, "callbacks=curves", f"hydra.run.dir={path}"])


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the files of docs/extending.md and return the directory `mine`."""
    page = (ROOT / "docs" / "extending.md").read_text()
    files: dict[str, str] = {}
    for name, content in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", page, re.DOTALL):
        files[name] = files.get(name, "") + content
    listed = set(re.findall(r"^ {4}(mine/\S+)", page, re.MULTILINE))
    assert listed == files.keys()
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "mine"
