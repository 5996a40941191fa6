"""Experiments: agreement with their references, precedence of overrides, and the commands of docs/experiments.md."""

import importlib.util
import io
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from conftest import ROOT, write_images
from vae_lab import runs
from vae_lab.cli.compose import CONF, compose
from vae_lab.generate import generate
from vae_lab.train import train

NAMES = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
PAGE = (ROOT / "docs" / "experiments.md").read_text()
BLOCKS = re.findall(r"## (\w+)\n\n```bash\n(.*?)```", PAGE, re.DOTALL)
FIGURES = sorted((ROOT / "docs" / "gallery").glob("*"))

CONV, POOLED, MLP, EXPLAINED, COLOUR = (
    ["conv_mnist", "normal_softplus"],
    ["conv_pooled", "normal"],
    ["mlp_elu_tanh", "normal_softplus"],
    ["mlp_512", "normal"],
    ["conv_cifar10", "normal_softplus"],
)
# networks and posterior, likelihood, latent_dim, batch size, learning rate, epochs
REFERENCE = {
    "bernoulli_2d": (CONV, "bernoulli", 2, 64, 1e-4, 50),
    "bernoulli_10d": (CONV, "bernoulli", 10, 64, 1e-4, 30),
    "gaussian_mnist": (CONV, "gaussian_learned", 10, 64, 1e-4, 30),
    "gaussian_cifar10": (COLOUR, "gaussian_learned", 128, 64, 1e-4, 50),
    "reproduce": (MLP, "bernoulli", 20, 128, 1e-3, 60),
    "denoising": (MLP, "bernoulli", 20, 128, 1e-3, 40),
    "manifold": (MLP, "bernoulli", 2, 128, 1e-3, 60),
    "conv_tsne": (POOLED, "bernoulli", 20, 50, 1e-3, 100),
    "explained": (EXPLAINED, "bernoulli", 20, 64, 1e-3, 20),
}


def composed(*overrides: str) -> DictConfig:
    return compose("train", overrides)[0]


def short_training(name: str, folder: Path) -> list[str]:
    """Return overrides for one short epoch on digits or, for the CIFAR10 networks, on random 32×32 images."""
    short = ["trainer.max_epochs=1", "trainer.limit_train_batches=2"]
    if name != "gaussian_cifar10":
        return ["data=digits", *short]
    if not (folder / "images").exists():
        for split in ("train", "test"):
            write_images(folder / "images" / split, count=12, size=(32, 32))
    return ["data=folder", f"data.root={folder / 'images'}", "data.batch_size=8", *short]


@pytest.mark.parametrize("name", NAMES)
def test_experiment_matches_reference(name: str) -> None:
    config = composed(f"experiment={name}")
    OmegaConf.resolve(config)
    runs.build_module(config)
    runs.build_data(config)
    (network, posterior), likelihood, latents, batch, rate, epochs = REFERENCE[name]
    parts = [f"encoder={network}", f"decoder={network}", f"posterior={posterior}", f"likelihood={likelihood}"]
    expected = composed(*parts, f"latent_dim={latents}", "optimizer=adam")
    for group in ("encoder", "decoder", "posterior", "likelihood", "prior", "objective"):
        assert config[group] == expected[group]
    assert (config.latent_dim, config.data.batch_size, config.optimizer.lr) == (latents, batch, rate)
    assert config.optimizer._target_ == "torch.optim.Adam"
    assert (config.trainer.max_epochs, config.name) == (epochs, name)
    assert config.data._target_.endswith("CIFAR10" if "cifar10" in name else "MNIST")


@pytest.mark.slow
def test_further_options_match_references() -> None:
    first = composed("experiment=bernoulli_2d")
    assert first.scheduler.monitor == "training"
    assert {1, 10, 30, 50} <= set(first.callbacks.reconstructions.epochs)
    assert {1, 10, 20, 30} <= set(composed("experiment=bernoulli_10d").callbacks.reconstructions.epochs)
    plane = composed("experiment=manifold").callbacks
    assert (plane.manifold.n, plane.manifold.reach, plane.latent_map.n) == (20, 2.0, 5000)
    assert composed("experiment=denoising").noise.amount == 0.5
    pooled = composed("experiment=conv_tsne")
    assert (pooled.checkpoint_every, pooled.callbacks.tsne.n, pooled.callbacks.transition.n) == (10, 3000, 15)
    assert pooled.callbacks.reconstructions.every_n_epochs == 10
    explained = composed("experiment=explained")
    assert not explained.data.binarize_input
    assert list(explained.callbacks.manifold.quantiles) == [0.011, 0.99]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", ["gaussian_mlp", "ae_conv"])
def test_overrides_take_precedence_over_experiment(name: str, model: str) -> None:
    overrides = ["data=digits", f"model={model}", "latent_dim=3", "callbacks=none", "scheduler=none", "noise=gaussian"]
    config = composed(f"experiment={name}", *overrides)
    expected = composed(*overrides)
    for group in ("encoder", "decoder", "posterior", "likelihood", "prior", "objective", "noise"):
        assert config[group] == expected[group]
    assert (config.latent_dim, dict(config.callbacks), dict(config.scheduler)) == (3, {}, {})
    runs.build_module(config)
    runs.build_data(config)


def test_page_has_section_and_row_for_every_experiment() -> None:
    assert sorted(name for name, _ in BLOCKS) == NAMES
    rows = {re.split(r"[ ,|]+", line)[1] for line in PAGE.splitlines() if line.startswith("| ")}
    assert set(NAMES) <= rows
    assert "@@" not in PAGE


@pytest.mark.parametrize(
    "line", [line for _, lines in BLOCKS for line in lines.splitlines() if "vae_lab.train" in line]
)
def test_command_of_page_composes_and_builds(line: str) -> None:
    config = composed(*[each for each in shlex.split(line)[3:] if each != "-m"])
    runs.build_module(config)
    runs.build_data(config)
    figures = [each for each in config.callbacks.values() if each.get("epochs") and "callbacks." in line]
    assert all(max(each.epochs) <= config.trainer.max_epochs for each in figures)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "lines"), BLOCKS)
def test_commands_of_section_draw_its_figures(
    name: str,
    lines: str,
    command: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in lines.splitlines():
        python, dash, module, *arguments = shlex.split(line)
        assert (python, dash) == ("python", "-m")
        if module == "vae_lab.generate":
            generate([each for each in arguments if not each.startswith("data")])
            continue
        assert (module, f"experiment={name}" in arguments) == ("vae_lab.train", True)
        arguments = [each for each in arguments if not each.startswith("data.root=")]
        short = short_training(name, tmp_path)
        if "-m" in arguments:
            added = [each.partition("=")[0] for each in (*short, "callbacks=none")]  # not in the names of the jobs
            names = f"hydra.job.config.override_dirname.exclude_keys=[{','.join(added)}]"
            done = command(*arguments, *short, "callbacks=none", names)
            assert done.returncode == 0, done.stderr
        else:
            train([*arguments, *short])
    drawn = {f"{file.parent.name}_{file.stem}" for file in tmp_path.glob("outputs/gallery/*/*.png")}
    (section,) = re.findall(rf"## {name}\n(.*?)(?=\n## |\Z)", PAGE, re.DOTALL)
    assert drawn == set(re.findall(r"\(gallery/(\w+)\.webp\)", section))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian_mnist", "gaussian_cifar10"])
def test_sweep_trains_both_decoders(
    name: str, command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = command("-m", f"experiment={name}", *short_training(name, tmp_path), "callbacks=none")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob(f"outputs/{name}/*/report.html"))) == 2
    stored = [runs.directory.stored_config(file.parent) for file in tmp_path.glob(f"outputs/{name}/*/metrics.json")]
    assert {config.likelihood._target_.rpartition(".")[2] for config in stored} == {"Gaussian", "GaussianLearned"}


def test_gallery_is_small_and_contains_figures_of_pages() -> None:
    assert all(file.stat().st_size <= 150_000 for file in FIGURES)
    assert sum(file.stat().st_size for file in FIGURES) <= 2_000_000
    shown = set(re.findall(r"gallery/(\w+\.webp)", PAGE + (ROOT / "README.md").read_text()))
    assert {file.name for file in FIGURES} == shown
    for file in FIGURES:
        with Image.open(file) as figure:
            assert min(figure.size) > 100


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "docs" / "gallery.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_figures_are_compressed_or_rejected(gallery: ModuleType) -> None:
    random = np.random.default_rng(0)
    plain, wild, wilder = (
        Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)) for side in (50, 300, 1000)
    )
    for figure in (plain, wild):
        with Image.open(io.BytesIO(gallery.small(figure))) as made:
            assert made.size == figure.size
        assert len(gallery.small(figure)) <= 150_000
    with pytest.raises(ValueError, match="use a smaller scale"):
        gallery.small(wilder)


def test_figures_are_placed_side_by_side(gallery: ModuleType) -> None:
    row = gallery.beside([Image.new("L", (10, 20), 0), Image.new("RGB", (30, 30), (255, 0, 0))], height=40)
    assert row.size == (20 + 40, 40)
    assert [row.getpixel((x, 20)) for x in (10, 40)] == [(0, 0, 0), (255, 0, 0)]


@pytest.mark.slow
def test_gallery_is_built_by_commands_of_page(
    gallery: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = "data=digits latent_dim=2 encoder.hidden=[8] decoder.hidden=[8] trainer.max_epochs=1 callbacks=none"
    (tmp_path / "docs").mkdir()
    lines = (
        f"python -m vae_lab.train {small} hydra.run.dir=outputs/manifold",
        "python -m vae_lab.generate run=outputs/manifold figure=[manifold,latent_map] n=9 out=outputs/gallery/manifold",
    )
    (tmp_path / "docs" / "page.md").write_text("\n".join(("```bash", *lines, "```\n")))
    old = tmp_path / "outputs" / "gallery" / "manifold" / "old.png"  # written before the command was changed
    old.parent.mkdir(parents=True)
    Image.new("RGB", (200, 200)).save(old)
    os.utime(old, (0, 0))
    monkeypatch.setattr(gallery, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(gallery, "PAGE", tmp_path / "docs" / "page.md")
    gallery.main()
    made = {file.name for file in (tmp_path / "docs" / "gallery").iterdir()}
    assert made == {"manifold_manifold.webp", "manifold_latent_map.webp", "cover.webp"}


def test_gallery_runs_every_command_of_page(gallery: ModuleType) -> None:
    expected = [["python", *shlex.split(line)[1:]] for _, lines in BLOCKS for line in lines.splitlines()]
    assert gallery.commands(PAGE) == expected
