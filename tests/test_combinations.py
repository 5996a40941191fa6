"""Every preset trains on every kind of data with every noise, or an error names a component that fits."""

import os
import re
from pathlib import Path

import pytest
import torch

from conftest import needs_mnist, write_cifar10, write_images, write_mnist
from vae_lab import runs
from vae_lab.cli.compose import CONF, compose
from vae_lab.data import ImageData
from vae_lab.data.batches import Plan
from vae_lab.data.images import Images
from vae_lab.errors import ConfigError
from vae_lab.training.module import VAEModule

NETWORKS = [file.stem for file in sorted((CONF / "encoder").glob("[!_]*.yaml"))]
PRESETS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
MODELS = [name for name in PRESETS if re.fullmatch("(.*)_(mlp|conv)", name)]  # their networks accept every image size
NOISES = sorted(file.stem for file in (CONF / "noise").glob("[!_]*.yaml"))
GREY = {
    "mnist": ["data=mnist"],
    "digits": ["data=digits"],
    "grey folder": ["data=folder", "data.shape=[1,20,24]"],
}
COLOUR = {
    "cifar10": ["data=cifar10"],
    "colour folder": ["data=folder", "data.shape=[3,20,24]"],
}
TRAINS = [
    (model, kind) for kind in (*GREY, *COLOUR) for model in MODELS if kind in GREY or not model.startswith("bernoulli")
]
REFUSED = [("bernoulli_conv", "cifar10"), ("bernoulli_conv", "colour folder")]
REFUSED += [("bernoulli_mlp", "cifar10"), ("bernoulli_mlp", "colour folder")]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return the overrides that locate each kind of data."""
    root = tmp_path_factory.mktemp("sources")
    mnist = Path(os.environ.get("VAE_LAB_DATA", "data")).absolute()
    if not (mnist / "MNIST" / "raw").is_dir():
        mnist = write_mnist(root / "mnist", images=100)
    write_images(root / "images" / "train")
    write_images(root / "images" / "test", count=5)
    (root / "cifar10").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        write_cifar10(root / "cifar10", patch, images=20)
        yield {
            "mnist": [f"data.root={mnist}"],
            "digits": [],
            "cifar10": [f"data.root={root / 'cifar10'}"],
            "grey folder": [f"data.root={root / 'images'}"],
            "colour folder": [f"data.root={root / 'images'}"],
        }


@pytest.fixture(scope="module")
def splits() -> dict[str, Images]:
    """Return a cache for the training split of each kind of data."""
    return {}


def test_table_contains_all_presets_and_noises() -> None:
    likelihoods = ("bernoulli", "gaussian", "gaussian_learned", "ae")
    assert sorted(f"{likelihood}_{network}" for likelihood in likelihoods for network in ("mlp", "conv")) == MODELS
    published = set(PRESETS) - set(MODELS)
    assert len(published) == 8
    assert all(
        re.fullmatch(f"(bernoulli|gaussian|gaussian_learned)_({'|'.join(NETWORKS)})", name) for name in published
    )
    assert sorted(["none", "dropout", "salt_and_pepper", "salt_and_pepper_half", "gaussian", "masking"]) == NOISES
    assert len(TRAINS) == 3 * 8 + 2 * 6


def train_with(noise: str, model: str, kind: str, sources: dict, splits: dict) -> None:
    options = [f"model={model}", *(GREY | COLOUR)[kind], *sources[kind], "latent_dim=3", "data.batch_size=16"]
    config = compose("train", [*options, f"noise={noise}"])[0]
    data = runs.build_data(config)
    if kind not in splits:
        data.prepare_data()
        data.setup()
        splits[kind] = data.train
    train_three_steps(runs.build_module(config), data, splits[kind], noise)


@pytest.mark.parametrize(("model", "kind"), [each for each in TRAINS if each[1] in ("digits", "colour folder")])
def test_preset_trains_with_one_noise(model: str, kind: str, sources: dict, splits: dict) -> None:
    place = TRAINS.index((model, kind))  # consecutive for one kind, so that every noise occurs with both kinds
    train_with(NOISES[place % len(NOISES)], model, kind, sources, splits)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "kind"), TRAINS)
def test_preset_trains_with_every_noise(model: str, kind: str, sources: dict, splits: dict) -> None:
    for noise in NOISES:
        train_with(noise, model, kind, sources, splits)


@pytest.mark.parametrize("network", NETWORKS)
def test_network_trains(network: str) -> None:
    options = ["data=digits", "data.shape=[1,28,28]", "likelihood=gaussian_learned", "latent_dim=3"]
    config = compose("train", [f"encoder={network}", f"decoder={network}", *options])[0]
    images = Images(torch.randint(256, (48, 1, 28, 28), dtype=torch.uint8), torch.zeros(48))
    train_three_steps(runs.build_module(config), runs.build_data(config), images, "none")


def train_three_steps(module: VAEModule, data: ImageData, images: Images, noise: str) -> None:
    """Take three steps and assert that all values are finite and that every parameter has a gradient and changes."""
    torch.manual_seed(0)
    optimizer = module.configure_optimizers()
    before = {name: weight.clone() for name, weight in module.named_parameters()}
    for step in range(3):
        batch = data.batch(images[Plan(torch.arange(16 * step, 16 * step + 16), 0)], training=True)
        assert batch.input.shape == batch.target.shape == (16, *data.shape)
        for pixels in (batch.input, batch.target):
            assert pixels.min() >= 0
            assert pixels.max() <= 1
        assert torch.equal(batch.input, batch.target) == (noise == "none")
        loss, terms = module.objective(module.vae, batch, step)
        optimizer.zero_grad()
        loss.backward()
        assert loss.isfinite()
        assert all(term.isfinite().all() and len(term) == 16 for term in terms.values())
        for name, weight in module.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
            assert weight.grad.any(), name
        optimizer.step()
    assert not any(torch.equal(weight, before[name]) for name, weight in module.named_parameters())
    with torch.no_grad():
        assert all(term.isfinite().all() for term in module.eval().evaluate(batch).values())


@pytest.mark.parametrize(("model", "kind"), REFUSED)
def test_bernoulli_preset_rejects_colours(model: str, kind: str, sources: dict) -> None:
    with pytest.raises(ConfigError, match=r"colour images are .*; use likelihood=gaussian[^\n]*$"):
        runs.build_module(compose("train", [f"model={model}", *COLOUR[kind], *sources[kind]])[0])


@needs_mnist
def test_combinations_use_real_mnist_if_available(sources: dict, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert str(tmp_path_factory.getbasetemp()) not in sources["mnist"][0]
