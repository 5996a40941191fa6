"""The command `generate`: figures and samples of a completed run, from its run directory."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import PositiveFloat

from conftest import write_images
from vae_lab import figures, runs
from vae_lab.cli.compose import compose
from vae_lab.commands.generate import animations, wanted
from vae_lab.errors import ConfigError, DataError
from vae_lab.generate import generate
from vae_lab.runs import Run
from vae_lab.train import train

FIGURES = compose("generate", ["run=there"])[0].figures
SMALL = ["encoder.hidden=[16]", "decoder.hidden=[16]", "callbacks=none", "trainer.max_epochs=1"]


@pytest.fixture
def run_dir(digits_run: Run, tmp_path: Path) -> Path:
    """A copy of the run in another directory."""
    return Path(shutil.copytree(digits_run.path, tmp_path / "elsewhere" / "it"))


@pytest.mark.slow
def test_all_draws_every_figure(run_dir: Path) -> None:
    short = ["figures.tsne.n=60", "figures.tsne.iterations=250"]
    files = generate([f"run={run_dir}", "figure=all", *short])
    assert {file.relative_to(run_dir / "generated").stem for file in files} == {
        *("curves", "reconstructions", "denoising", "samples", "manifold", "interpolation", "transition"),
        *("traversals", "class_samples", "latent_map", "tsne", "latent_bars", "class_mse"),
    }
    for file in files:
        with Image.open(file) as image:
            assert min(image.size) > 100


class Mine(figures.Samples):
    """User-defined figure with an additional option."""

    shade: PositiveFloat = 1.0


@pytest.mark.slow
def test_user_defined_figure_is_found_with_its_options(tmp_path: Path) -> None:
    figure = "+callbacks.mine={_target_: test_generate.Mine, name: mine, n: 4, shade: 0.5}"
    options = ["data=digits", *SMALL, "callbacks=none", figure, f"hydra.run.dir={tmp_path / 'run'}"]
    path = train(options).path
    (file,) = generate([f"run={path}", "figure=mine"])
    drawn = path / "figures" / "mine" / "epoch-0001.png"
    assert file.read_bytes() == drawn.read_bytes()
    (larger,) = generate([f"run={path}", "figure=mine", "figures.mine.n=9"])
    assert larger.read_bytes() != drawn.read_bytes()
    assert "mine.png" in {file.name for file in generate([f"run={path}", "figures.tsne=null"])}
    for override, message in (
        ("figures.mine.shade=0", "mine.shade=0: must be greater"),
        ("figures.our.n=1", "unknown figure"),
    ):
        with pytest.raises(ConfigError, match=message):
            generate([f"run={path}", "figure=mine", override])


def test_figure_options_are_applied(run_dir: Path, tmp_path: Path) -> None:
    options = [
        "figure=[samples,interpolation]",
        "n=9",
        "labels=[2,6]",
        "scale=3",
        "seed=4",
        "figures.interpolation.steps=4",
    ]
    samples, interpolation = generate([f"run={run_dir}", *options, f"out={tmp_path / 'out'}"])
    assert (samples, interpolation) == (tmp_path / "out" / "samples.png", tmp_path / "out" / "interpolation.png")
    run = runs.load(run_dir)
    view = run.view()
    for figure, file in (
        (figures.Samples(n=9, scale=3, seed=4), samples),
        (figures.Interpolation(labels=[2, 6], steps=4, scale=3, seed=4), interpolation),
    ):
        figures.save(figure.draw(view), tmp_path / "expected.png")
        assert file.read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_checkpoint_can_be_selected(run_dir: Path, tmp_path: Path) -> None:
    (first,) = generate([f"run={run_dir}", "format=npz"])
    best = np.load(first)["mean"]
    last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    biases = [name for name in last["state_dict"] if name.startswith("vae.decoder") and name.endswith("bias")]
    last["state_dict"][biases[-1]] += 1
    torch.save(last, run_dir / "checkpoints" / "last.ckpt")
    (second,) = generate([f"run={run_dir}", "format=npz", "checkpoint=last"])
    logits = np.log(best / (1 - best)) + 1
    np.testing.assert_allclose(np.load(second)["mean"], 1 / (1 + np.exp(-logits)), atol=1e-4)
    with pytest.raises(DataError, match=r"epoch-0001\.ckpt: not found"):
        generate([f"run={run_dir}", "figure=samples", "checkpoint=epoch-0001"])


def test_npz_samples_come_from_prior(run_dir: Path) -> None:
    (file,) = generate([f"run={run_dir}", "format=npz", "n=1500", "seed=3"])
    with np.load(file) as found:
        assert found.keys() == {"z", "mean", "sample"}
        z, mean, sample = (torch.from_numpy(found[name]) for name in ("z", "mean", "sample"))
    assert z.shape == (1500, 3)
    assert mean.shape == sample.shape == (1500, 1, 8, 8)
    assert abs(float(z.mean())) < 5 / 4500**0.5
    assert abs(float(z.var()) - 1) < 5 * (2 / 4500) ** 0.5
    with torch.no_grad():
        expected = runs.load(run_dir).module.vae.decode(z).mean
    torch.testing.assert_close(mean, expected)
    assert set(sample.unique().tolist()) == {0.0, 1.0}
    assert ((sample - mean).mean(0).abs() < 5 * 0.5 / 1500**0.5).all()
    again = generate([f"run={run_dir}", "format=npz", "n=1500", "seed=3"])
    with np.load(again[0]) as found:
        assert np.array_equal(found["sample"], sample)


def test_class_samples_have_their_labels(run_dir: Path) -> None:
    (file,) = generate([f"run={run_dir}", "format=npz", "n=4", "labels=[7,1]"])
    with np.load(file) as found:
        assert found["label"].tolist() == [7] * 4 + [1] * 4
        assert found["z"].shape == (8, 3)


def test_png_samples_equal_npz_samples(run_dir: Path) -> None:
    generate([f"run={run_dir}", "format=png", "n=30"])  # the next call deletes these files
    (folder,) = generate([f"run={run_dir}", "format=png", "n=11", "labels=[5]"])
    (numbers,) = generate([f"run={run_dir}", "format=npz", "n=11", "labels=[5]"])
    with np.load(numbers) as found:
        for name in ("mean", "sample"):
            files = sorted((folder / name).iterdir())
            assert [file.name for file in files] == [f"{number:02d}-5.png" for number in range(11)]
            for file, expected in zip(files, found[name], strict=True):
                with Image.open(file) as image:
                    assert np.abs(np.asarray(image.convert("L")) / 255 - expected[0]).max() <= 0.5 / 255 + 1e-6


def test_animation_shows_figures_of_training(tmp_path: Path) -> None:
    options = [
        "data=digits",
        *SMALL,
        "latent_dim=2",
        "callbacks=[samples,curves]",
        "callbacks.samples.every_n_epochs=1",
    ]
    run = train([*options, "trainer.max_epochs=3", f"hydra.run.dir={tmp_path / 'run'}"])
    (file,) = generate([f"run={run.path}", "animate=true"])  # the curves are drawn only once
    assert file == run.path / "generated" / "samples.gif"
    with Image.open(file) as animation:
        assert animation.n_frames == 3
        for frame in range(3):
            animation.seek(frame)
            with Image.open(run.path / "figures" / "samples" / f"epoch-{frame + 1:04d}.png") as figure:
                shown, expected = (np.asarray(image.convert("L"), dtype=int) for image in (animation, figure))
            assert shown.shape == expected.shape
            assert np.abs(shown - expected).mean() < 3  # of 255, because a GIF has 256 colours
    with pytest.raises(DataError, match=r"too few images for an animation \(1 found, 2 required\)"):
        generate([f"run={run.path}", "figure=curves", "animate=true"])
    with pytest.raises(DataError, match=r"\(0 found, 2 required\)"):
        generate([f"run={run.path}", "figure=manifold", "animate=true"])


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (["figure=smples"], ConfigError, "figure=smples: unknown figure; did you mean 'samples'?"),
        (["figure=[samples,3]"], ConfigError, "figure=3: unknown figure"),
        (["labels=[12]"], ConfigError, "labels: unknown class '12' in Digits; expected a number from 0 to 9"),
        (["labels=[cat]", "format=npz"], ConfigError, "labels: unknown class 'cat'"),
        (
            ["figure=interpolation", "labels=[1]"],
            ConfigError,
            "interpolation: labels=[1]: must be a list of 2 or more values",
        ),
        (["figure=manifold", "figures.manifold.dimensions=[0,3]"], ConfigError, "but latent_dim=3"),
        (["format=jpg"], ConfigError, "format=jpg: must be npz or png"),
        (["n=0"], ConfigError, "n=0: must be"),
        (["seed=-1"], ConfigError, "seed=-1: must be"),
        (["device=abacus"], ConfigError, "device=abacus: not available"),
        (["device=cuda:99"], ConfigError, "device=cuda:99: not available"),
        (["checkpoint=first"], DataError, "first.ckpt: not found; expected one of best, last"),
        (["data.root=/nowhere"], ConfigError, "unknown key 'data.root'"),
        (["data=mnist", "data.root=/nowhere"], ConfigError, "data.shape=[1, 28, 28]: must be [1, 8, 8]"),
        (["figures.samples.m=3"], ConfigError, "figures.samples.m: unknown option"),
        (["figure=[]"], ConfigError, "figure=[]: must name at least one figure"),
        (["labels=[]"], ConfigError, "labels=[]: must be a list of 1 or more values"),
        (["animate=true", "format=npz"], ConfigError, "format=npz: not supported with animate=true"),
        (["animate=true", "n=3"], ConfigError, "n=3: not supported with animate=true"),
        (["figures.samples.n=0"], ConfigError, "figures.samples.n=0: must be"),  # even without figure=samples
        (["figures.samples=3"], ConfigError, "figures.samples: unknown figure"),
        (["figures.samples._target_=torch.nn.Identity"], ConfigError, "must derive from vae_lab.figures.Figure"),
        (["+figures.more={_target_: torch.nn.Identity}"], ConfigError, "figures.more._target_=torch.nn.Identity: must"),
        (["figure=curves", "labels=[3]"], ConfigError, "labels=[3]: not an option of curves"),
        (["figure=samples", "n=100000000"], ConfigError, "figure=samples: n=100000000: must be at most 10000"),
        (["data.classes=3"], ConfigError, "data.classes=3: must be at least 10"),
        (["data.shape=3"], ConfigError, "data.shape=3: must be [1, 8, 8]"),
        (["device=meta"], ConfigError, "device=meta: not supported"),
        (["animate=true", "out=/dev/null/x"], DataError, "contains no figure drawn in 2 or more epochs"),
        (["format=npz", "out=/dev/null"], DataError, "/dev/null: cannot be written"),
        (["figure=samples", "figures.samples=null"], ConfigError, "figure=samples: unknown figure"),
        (["figure=manifold", "n=1000"], ConfigError, "figure=manifold: n=1000: must be at most 100"),
    ],
)
def test_mistake_gives_one_line_error(run_dir: Path, options: list[str], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        generate([f"run={run_dir}", *options])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_run_or_checkpoint_is_rejected(run_dir: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(DataError, match=r"config\.yaml: not found; expected a run directory"):
            generate([f"run={path}"])
    assert not (tmp_path / "nothing").exists()
    shutil.rmtree(run_dir / "checkpoints")
    with pytest.raises(DataError, match=r"best\.ckpt: not found"):
        generate([f"run={run_dir}"])
    with pytest.raises(ConfigError, match=r"^run: missing"):
        generate([])


def test_unsuitable_figures_are_skipped_unless_named(tmp_path: Path) -> None:
    path = train(["data=digits", "model=ae_mlp", *SMALL, "latent_dim=1", f"hydra.run.dir={tmp_path / 'run'}"]).path
    short = ["figures.tsne.n=60", "figures.tsne.iterations=250"]
    drawn = {file.stem for file in generate([f"run={path}", *short])}
    assert drawn == {
        "curves",
        "reconstructions",
        "interpolation",
        "transition",
        "traversals",
        "tsne",
        "latent_bars",
        "class_mse",
    }
    for figure in ("manifold", "latent_map", "samples", "class_samples", "denoising"):
        with pytest.raises(ConfigError, match=f"figure={figure}"):
            generate([f"run={path}", f"figure={figure}"])
    with pytest.raises(ConfigError, match="must be null for an autoencoder"):
        generate([f"run={path}", "format=npz"])


def test_figures_can_show_other_data_of_same_shape(run_dir: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "images" / "train", classes=("ant", "bee"), count=90, size=(8, 8))
    other_data = ["data=folder", f"data.root={tmp_path / 'images'}", "data.shape=[1,8,8]"]
    (file,) = generate([f"run={run_dir}", "figure=reconstructions", *other_data])
    run = runs.load(run_dir, data=compose("generate", ["run=x", "seed=0", *other_data])[0].data)
    view = run.view()
    figures.save(figures.Reconstructions().draw(view), tmp_path / "expected.png")
    assert file.read_bytes() == (tmp_path / "expected.png").read_bytes()
    assert view.class_names == ["ant", "bee"]


@pytest.mark.parametrize("content", [b"garbage\n1\n", b"epoch,step\nx,1\n", b"\xff\xfe", b"epoch,a\n1,b\n"])
def test_corrupt_curves_are_reported(run_dir: Path, content: bytes) -> None:
    (run_dir / "metrics.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"metrics\.csv: corrupt"):
        generate([f"run={run_dir}", "figure=curves"])
    (run_dir / "metrics.csv").unlink()
    with pytest.raises(ConfigError, match="no epoch has been completed"):
        generate([f"run={run_dir}", "figure=curves"])


def test_seed_applies_to_one_figure_or_all(run_dir: Path, tmp_path: Path) -> None:
    def drawn(*options: str) -> bytes:
        return generate([f"run={run_dir}", "figure=samples", *options])[0].read_bytes()

    assert drawn() == drawn("seed=0") == drawn("figures.samples.seed=0")
    assert drawn("seed=5") == drawn("figures.samples.seed=5") != drawn()


def test_figure_can_be_excluded_from_all(run_dir: Path) -> None:
    short = ["figures.tsne=null", "figures.class_mse=null"]
    names = {file.stem for file in generate([f"run={run_dir}", *short])}
    assert len(names) == 11
    assert not names & {"tsne", "class_mse"}


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on colour images; its test split is sorted by class and lacks one class."""
    root = tmp_path_factory.mktemp("folder")
    write_images(root / "images" / "train", classes=("ant", "bee", "c d"), count=20, size=(8, 8))
    write_images(root / "images" / "test", classes=("ant", "c d"), count=9, size=(8, 8))
    (root / "images" / "test" / "ant").rename(root / "images" / "test" / "bee")
    options = ["data=folder", f"data.root={root / 'images'}", "data.shape=[3,8,8]", "model=gaussian_learned_mlp"]
    small = ["data.batch_size=8", "noise=gaussian", "latent_dim=2", *SMALL]
    return train([*options, *small, f"hydra.run.dir={root / 'run'}"])


@pytest.mark.slow
@pytest.mark.parametrize("figure", sorted(set(FIGURES) - {"curves", "transfer"}))  # the model is not conditional
def test_each_figure_is_drawn_in_colour(folder_run: Run, tmp_path: Path, figure: str) -> None:
    short = ["figures.tsne.iterations=250"]
    (file,) = generate([f"run={folder_run.path}", f"figure={figure}", f"out={tmp_path}", *short])
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=int)
    assert np.abs(pixels[..., 0] - pixels[..., 1]).max() > 20


def test_class_without_test_images_is_reported(folder_run: Run, tmp_path: Path) -> None:
    where = [f"run={folder_run.path}", f"out={tmp_path}"]
    for options in (["figure=reconstructions", "labels=[ant]"], ["figure=interpolation", "labels=[bee,ant]"]):
        with pytest.raises(ConfigError, match="the test split has no images of class ant"):
            generate([*where, *options])
    with pytest.raises(ConfigError, match="encoded images belongs to class 0"):
        generate([*where, "figure=class_samples", "labels=[0]"])
    (folder,) = generate([*where, "format=png", "n=2", "labels=[c d]"])
    assert sorted(file.name for file in (folder / "mean").iterdir()) == ["0-c-d.png", "1-c-d.png"]
    with pytest.raises(ConfigError, match="labels: unknown class 'wasp' in Folder; expected one of ant, bee, c d"):
        generate([*where, "labels=[wasp]"])


def test_moved_images_are_found_with_data_root(tmp_path: Path) -> None:
    write_images(tmp_path / "here" / "train", classes=("ant", "bee"), count=40)
    options = [
        "data=folder",
        f"data.root={tmp_path / 'here'}",
        "data.shape=[3,8,8]",
        "model=gaussian_mlp",
        "data.batch_size=8",
    ]
    path = train([*options, *SMALL, "latent_dim=2", f"hydra.run.dir={tmp_path / 'run'}"]).path
    (tmp_path / "here").rename(tmp_path / "there")
    generate([f"run={path}", "figure=samples"])  # needs no images
    with pytest.raises(DataError):
        generate([f"run={path}", "figure=reconstructions"])
    new_root = f"data.root={tmp_path / 'there'}"
    assert len(generate([f"run={path}", "figure=[class_samples,interpolation]", "labels=[bee,ant]", new_root])) == 2


def test_command_prints_files_and_errors(
    command: Callable[..., subprocess.CompletedProcess[str]], run_dir: Path, tmp_path: Path
) -> None:
    done = command("run=elsewhere/it", "figure=samples", module="vae_lab.generate")
    assert (done.returncode, done.stdout, done.stderr) == (0, "elsewhere/it/generated/samples.png\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere"]  # Hydra creates no directory
    failed = command("run=nowhere", module="vae_lab.generate")
    assert failed.returncode == 3
    assert failed.stderr == "generate: nowhere/config.yaml: not found; expected a run directory\n"


def test_empty_figures_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"^figures"):
        wanted(compose("generate", ["run=there"])[0], [])


def test_animation_names_corrupt_figure(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for epoch in ("0001", "0002"):
        (tmp_path / "samples" / f"epoch-{epoch}.png").write_text("not an image")
    with pytest.raises(DataError, match=r"epoch-0001\.png"):
        list(animations(tmp_path, ["samples"], True, tmp_path / "out"))
