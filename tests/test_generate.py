"""The command `generate`: figures and samples of a finished run, from its directory alone."""

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
def moved(digits_run: Run, tmp_path: Path) -> Path:
    """A copy of the run at another place."""
    return Path(shutil.copytree(digits_run.path, tmp_path / "elsewhere" / "it"))


def test_every_figure_is_drawn(moved: Path) -> None:
    short = ["figures.tsne.n=60", "figures.tsne.iterations=250"]
    files = generate([f"run={moved}", "figure=all", *short])
    assert {file.relative_to(moved / "generated").stem for file in files} == {
        *("curves", "reconstructions", "denoising", "samples", "manifold", "interpolation", "transition"),
        *("traversals", "class_samples", "latent_map", "tsne", "latent_bars", "class_mse"),
    }
    for file in files:
        with Image.open(file) as image:
            assert min(image.size) > 100


class Mine(figures.Samples):
    """A figure of a user's own, with an option of its own."""

    shade: PositiveFloat = 1.0


def test_a_figure_of_the_users_own_is_found_with_its_options(tmp_path: Path) -> None:
    own = "+callbacks.mine={_target_: test_generate.Mine, name: mine, n: 4, shade: 0.5}"
    options = ["data=digits", *SMALL, "callbacks=none", own, f"hydra.run.dir={tmp_path / 'run'}"]
    path = train(options).path
    (file,) = generate([f"run={path}", "figure=mine"])
    drawn = path / "figures" / "mine" / "epoch-0001.png"
    assert file.read_bytes() == drawn.read_bytes()
    (larger,) = generate([f"run={path}", "figure=mine", "figures.mine.n=9"])
    assert larger.read_bytes() != drawn.read_bytes()
    assert "mine.png" in {file.name for file in generate([f"run={path}", "figures.tsne=null"])}
    for wrong, said in (
        ("figures.mine.shade=0", "mine.shade=0: must be greater"),
        ("figures.our.n=1", "unknown figure"),
    ):
        with pytest.raises(ConfigError, match=said):
            generate([f"run={path}", "figure=mine", wrong])


def test_a_figure_is_the_one_that_the_options_describe(moved: Path, tmp_path: Path) -> None:
    options = [
        "figure=[samples,interpolation]",
        "n=9",
        "labels=[2,6]",
        "scale=3",
        "seed=4",
        "figures.interpolation.steps=4",
    ]
    samples, interpolation = generate([f"run={moved}", *options, f"out={tmp_path / 'out'}"])
    assert (samples, interpolation) == (tmp_path / "out" / "samples.png", tmp_path / "out" / "interpolation.png")
    run = runs.load(moved)
    view = run.view()
    for drawing, file in (
        (figures.Samples(n=9, scale=3, seed=4), samples),
        (figures.Interpolation(labels=[2, 6], steps=4, scale=3, seed=4), interpolation),
    ):
        figures.save(drawing.draw(view), tmp_path / "expected.png")
        assert file.read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_a_checkpoint_can_be_chosen(moved: Path, tmp_path: Path) -> None:
    (first,) = generate([f"run={moved}", "format=npz"])
    best = np.load(first)["mean"]
    last = torch.load(moved / "checkpoints" / "last.ckpt", weights_only=True)
    biases = [name for name in last["state_dict"] if name.startswith("vae.decoder") and name.endswith("bias")]
    last["state_dict"][biases[-1]] += 1
    torch.save(last, moved / "checkpoints" / "last.ckpt")
    (second,) = generate([f"run={moved}", "format=npz", "checkpoint=last"])
    logits = np.log(best / (1 - best)) + 1
    np.testing.assert_allclose(np.load(second)["mean"], 1 / (1 + np.exp(-logits)), atol=1e-4)
    with pytest.raises(DataError, match=r"holds no checkpoint epoch-0001\.ckpt"):
        generate([f"run={moved}", "figure=samples", "checkpoint=epoch-0001"])


def test_samples_as_numbers_are_of_the_prior(moved: Path) -> None:
    (file,) = generate([f"run={moved}", "format=npz", "n=1500", "seed=3"])
    with np.load(file) as found:
        assert found.keys() == {"z", "mean", "sample"}
        z, mean, sample = (torch.from_numpy(found[name]) for name in ("z", "mean", "sample"))
    assert z.shape == (1500, 3)
    assert mean.shape == sample.shape == (1500, 1, 8, 8)
    assert abs(float(z.mean())) < 5 / 4500**0.5
    assert abs(float(z.var()) - 1) < 5 * (2 / 4500) ** 0.5
    with torch.no_grad():
        expected = runs.load(moved).module.vae.decode(z).mean
    torch.testing.assert_close(mean, expected)
    assert set(sample.unique().tolist()) == {0.0, 1.0}
    assert ((sample - mean).mean(0).abs() < 5 * 0.5 / 1500**0.5).all()
    again = generate([f"run={moved}", "format=npz", "n=1500", "seed=3"])
    with np.load(again[0]) as found:
        assert np.array_equal(found["sample"], sample)


def test_samples_of_classes_carry_their_labels(moved: Path) -> None:
    (file,) = generate([f"run={moved}", "format=npz", "n=4", "labels=[7,1]"])
    with np.load(file) as found:
        assert found["label"].tolist() == [7] * 4 + [1] * 4
        assert found["z"].shape == (8, 3)


def test_samples_as_images_are_the_same(moved: Path) -> None:
    generate([f"run={moved}", "format=png", "n=30"])  # which do not stay among the others
    (folder,) = generate([f"run={moved}", "format=png", "n=11", "labels=[5]"])
    (numbers,) = generate([f"run={moved}", "format=npz", "n=11", "labels=[5]"])
    with np.load(numbers) as found:
        for name in ("mean", "sample"):
            files = sorted((folder / name).iterdir())
            assert [file.name for file in files] == [f"{number:02d}-5.png" for number in range(11)]
            for file, expected in zip(files, found[name], strict=True):
                with Image.open(file) as image:
                    assert np.abs(np.asarray(image.convert("L")) / 255 - expected[0]).max() <= 0.5 / 255 + 1e-6


def test_the_figures_of_a_training_become_an_animation(tmp_path: Path) -> None:
    options = [
        "data=digits",
        *SMALL,
        "latent_dim=2",
        "callbacks=[samples,curves]",
        "callbacks.samples.every_n_epochs=1",
    ]
    run = train([*options, "trainer.max_epochs=3", f"hydra.run.dir={tmp_path / 'run'}"])
    (file,) = generate([f"run={run.path}", "animate=true"])  # the curves are there once
    assert file == run.path / "generated" / "samples.gif"
    with Image.open(file) as animation:
        assert animation.n_frames == 3
        for frame in range(3):
            animation.seek(frame)
            with Image.open(run.path / "figures" / "samples" / f"epoch-{frame + 1:04d}.png") as figure:
                shown, expected = (np.asarray(image.convert("L"), dtype=int) for image in (animation, figure))
            assert shown.shape == expected.shape
            assert np.abs(shown - expected).mean() < 3  # of 255: a GIF has 256 colours
    with pytest.raises(DataError, match="holds 1 figures, and an animation needs two"):
        generate([f"run={run.path}", "figure=curves", "animate=true"])
    with pytest.raises(DataError, match="holds 0 figures"):
        generate([f"run={run.path}", "figure=manifold", "animate=true"])


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        (["figure=smples"], ConfigError, "figure=smples must be all, or of curves, reconstructions"),
        (["figure=[samples,3]"], ConfigError, "figure=3 must be"),
        (["labels=[12]"], ConfigError, "labels: 12 is no class of Digits: there are 0, 1"),
        (["labels=[cat]", "format=npz"], ConfigError, "labels: cat is no class"),
        (["figure=interpolation", "labels=[1]"], ConfigError, "interpolation: labels=[1]: must be a list of length 2"),
        (["figure=manifold", "figures.manifold.dimensions=[0,3]"], ConfigError, "and latent_dim is 3"),
        (["format=jpg"], ConfigError, "Invalid value 'jpg', expected one of [npz, png]"),
        (["n=0"], ConfigError, "n=0: must be"),
        (["seed=-1"], ConfigError, "seed=-1: must be"),
        (["device=abacus"], ConfigError, "device=abacus is not there"),
        (["device=cuda:99"], ConfigError, "device=cuda:99 is not there"),
        (["checkpoint=first"], DataError, "holds no checkpoint first.ckpt"),
        (["data.root=/nowhere"], ConfigError, "data.root is no key of the run's data"),
        (["data=mnist", "data.root=/nowhere"], ConfigError, "data.shape=[1, 28, 28] must be [1, 8, 8]"),
        (["figures.samples.m=3"], ConfigError, "figures.samples.m: unknown option"),
        (["figure=[]"], ConfigError, "figure=[] must be all, or of"),
        (["labels=[]"], ConfigError, "labels=[]: must be a list of length 1 or more"),
        (["animate=true", "format=npz"], ConfigError, "has no use for format"),
        (["animate=true", "n=3"], ConfigError, "has no use for n"),
        (["figures.samples.n=0"], ConfigError, "figures.samples.n=0: must be"),  # whether it is asked for or not
        (["figures.samples=3"], ConfigError, "figures.samples: unknown figure"),
        (["figures.samples._target_=torch.nn.Identity"], ConfigError, "is no figure"),
        (["+figures.more={_target_: torch.nn.Identity}"], ConfigError, "figures.more._target_=torch.nn.Identity is no"),
        (["figure=curves", "labels=[3]"], ConfigError, "labels=[3] is an option of none of the figures curves"),
        (["figure=samples", "n=100000000"], ConfigError, "figure=samples: n=100000000: must be at most 10000"),
        (["data.classes=3"], ConfigError, "data.classes=3 is too few"),
        (["data.shape=3"], ConfigError, "data.shape=3 must be [1, 8, 8]"),
        (["device=meta"], ConfigError, "device=meta computes nothing"),
        (["animate=true", "out=/dev/null/x"], DataError, "holds no figure of two epochs"),
        (["format=npz", "out=/dev/null"], DataError, "/dev/null cannot be written"),
        (["figure=samples", "figures.samples=null"], ConfigError, "figure=samples must be all, or of curves, recon"),
        (["figure=manifold", "n=1000"], ConfigError, "figure=manifold: n=1000: must be at most 100"),
    ],
)
def test_a_mistake_is_one_line(moved: Path, options: list[str], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind) as error:
        generate([f"run={moved}", *options])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_run_is_said_to_be_none(moved: Path, tmp_path: Path) -> None:
    for place in (tmp_path / "nothing", tmp_path):
        with pytest.raises(DataError, match="is no run: it holds no config"):
            generate([f"run={place}"])
    assert not (tmp_path / "nothing").exists()
    shutil.rmtree(moved / "checkpoints")
    with pytest.raises(DataError, match=r"holds no checkpoint best\.ckpt"):
        generate([f"run={moved}"])
    with pytest.raises(ConfigError, match="run has no value"):
        generate([])


def test_what_does_not_fit_is_left_out_unless_asked_for_by_name(tmp_path: Path) -> None:
    path = train(["data=digits", "model=ae_mlp", *SMALL, "latent_dim=1", f"hydra.run.dir={tmp_path / 'run'}"]).path
    short = ["figures.tsne.n=60", "figures.tsne.iterations=250"]
    made = {file.stem for file in generate([f"run={path}", *short])}
    assert made == {
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
    with pytest.raises(ConfigError, match="an autoencoder has none"):
        generate([f"run={path}", "format=npz"])


def test_other_data_of_the_same_shape_are_drawn(moved: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "images" / "train", classes=("ant", "bee"), count=90, size=(8, 8))
    there = ["data=folder", f"data.root={tmp_path / 'images'}", "data.shape=[1,8,8]"]
    (file,) = generate([f"run={moved}", "figure=reconstructions", *there])
    run = runs.load(moved, data=compose("generate", ["run=x", "seed=0", *there])[0].data)
    view = run.view()
    figures.save(figures.Reconstructions().draw(view), tmp_path / "expected.png")
    assert file.read_bytes() == (tmp_path / "expected.png").read_bytes()
    assert view.class_names == ["ant", "bee"]


@pytest.mark.parametrize("content", [b"garbage\n1\n", b"epoch,step\nx,1\n", b"\xff\xfe", b"epoch,a\n1,b\n"])
def test_damaged_curves_are_said_to_be_damaged(moved: Path, content: bytes) -> None:
    (moved / "metrics.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"metrics\.csv is damaged"):
        generate([f"run={moved}", "figure=curves"])
    (moved / "metrics.csv").unlink()
    with pytest.raises(ConfigError, match="no numbers of an epoch"):
        generate([f"run={moved}", "figure=curves"])


def test_the_seed_of_a_figure_and_that_of_all(moved: Path, tmp_path: Path) -> None:
    def drawn(*options: str) -> bytes:
        return generate([f"run={moved}", "figure=samples", *options])[0].read_bytes()

    assert drawn() == drawn("seed=0") == drawn("figures.samples.seed=0")
    assert drawn("seed=5") == drawn("figures.samples.seed=5") != drawn()


def test_a_figure_can_be_left_out_of_all(moved: Path) -> None:
    short = ["figures.tsne=null", "figures.class_mse=null"]
    names = {file.stem for file in generate([f"run={moved}", *short])}
    assert len(names) == 11
    assert not names & {"tsne", "class_mse"}


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on colour images, of which the test is sorted by class and lacks one."""
    root = tmp_path_factory.mktemp("folder")
    write_images(root / "images" / "train", classes=("ant", "bee", "c d"), count=20, size=(8, 8))
    write_images(root / "images" / "test", classes=("ant", "c d"), count=9, size=(8, 8))
    (root / "images" / "test" / "ant").rename(root / "images" / "test" / "bee")
    options = ["data=folder", f"data.root={root / 'images'}", "data.shape=[3,8,8]", "model=gaussian_learned_mlp"]
    small = ["data.batch_size=8", "noise=gaussian", "latent_dim=2", *SMALL]
    return train([*options, *small, f"hydra.run.dir={root / 'run'}"])


@pytest.mark.parametrize("figure", sorted(set(FIGURES) - {"curves", "transfer"}))  # the model is not conditional
def test_every_figure_alone_has_colours_and_names(folder_run: Run, tmp_path: Path, figure: str) -> None:
    short = ["figures.tsne.iterations=250"]
    (file,) = generate([f"run={folder_run.path}", f"figure={figure}", f"out={tmp_path}", *short])
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=int)
    assert np.abs(pixels[..., 0] - pixels[..., 1]).max() > 20


def test_a_class_that_the_test_lacks(folder_run: Run, tmp_path: Path) -> None:
    where = [f"run={folder_run.path}", f"out={tmp_path}"]
    for options in (["figure=reconstructions", "labels=[ant]"], ["figure=interpolation", "labels=[bee,ant]"]):
        with pytest.raises(ConfigError, match="the test split has no image of ant"):
            generate([*where, *options])
    with pytest.raises(ConfigError, match="class 0 has no image"):
        generate([*where, "figure=class_samples", "labels=[0]"])
    (folder,) = generate([*where, "format=png", "n=2", "labels=[c d]"])
    assert sorted(file.name for file in (folder / "mean").iterdir()) == ["0-c-d.png", "1-c-d.png"]
    with pytest.raises(ConfigError, match="labels: wasp is no class of Folder: there are ant, bee, c d"):
        generate([*where, "labels=[wasp]"])


def test_images_that_were_moved_are_found_again(tmp_path: Path) -> None:
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
    generate([f"run={path}", "figure=samples"])  # which looks at no image
    with pytest.raises(DataError):
        generate([f"run={path}", "figure=reconstructions"])
    there = f"data.root={tmp_path / 'there'}"
    assert len(generate([f"run={path}", "figure=[class_samples,interpolation]", "labels=[bee,ant]", there])) == 2


def test_the_command_says_what_it_wrote_and_how_it_failed(
    command: Callable[..., subprocess.CompletedProcess[str]], moved: Path, tmp_path: Path
) -> None:
    done = command("run=elsewhere/it", "figure=samples", module="vae_lab.generate")
    assert (done.returncode, done.stdout, done.stderr) == (0, "elsewhere/it/generated/samples.png\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere"]  # no folder of Hydra's
    failed = command("run=nowhere", module="vae_lab.generate")
    assert failed.returncode == 3
    assert failed.stderr == "generate: nowhere is no run: it holds no config.yaml\n"


def test_no_figures_are_nothing_to_draw() -> None:
    with pytest.raises(ConfigError, match=r"^figures"):
        wanted(compose("generate", ["run=there"])[0], [])


def test_a_damaged_figure_of_an_epoch_is_named(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for epoch in ("0001", "0002"):
        (tmp_path / "samples" / f"epoch-{epoch}.png").write_text("not an image")
    with pytest.raises(DataError, match=r"epoch-0001\.png"):
        list(animations(tmp_path, ["samples"], True, tmp_path / "out"))
