"""When figures are drawn, what they show, and that they do not change training."""

import csv
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from pytorch_lightning.loggers import CometLogger, CSVLogger, MLFlowLogger, WandbLogger
from torch import Tensor

from vae_lab import figures, latents, runs
from vae_lab.cli.compose import CONF, compose
from vae_lab.errors import ConfigError
from vae_lab.figures.images import ends
from vae_lab.runs import Run
from vae_lab.train import train
from vae_lab.training import checkpoints
from vae_lab.training.figures import DrawFigures, write_table
from vae_lab.training.loggers import Curves, show
from vae_lab.view import View

SMALL = ["data=digits", "encoder.hidden=[16]", "decoder.hidden=[16]", "latent_dim=2"]
SETS = ("none", "all", "default", "milestones", "latent_plane")
EVERY = sorted(file.stem for file in (CONF / "callbacks").glob("[!_]*.yaml") if file.stem not in SETS)
KINDS = [each for each in vars(figures).values() if isinstance(each, type) and issubclass(each, figures.Figure)]
DRAWINGS = {name: each for each in KINDS if isinstance(name := each.model_fields["name"].default, str)}

SMALL = ["data=digits", "encoder.hidden=[16]", "decoder.hidden=[16]", "latent_dim=2"]
SETS = ("none", "all", "default", "milestones", "latent_plane")
EVERY = sorted(file.stem for file in (CONF / "callbacks").glob("[!_]*.yaml") if file.stem not in SETS)


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Run]:
    def run(*overrides: str, name: str = "run") -> Run:
        return train([*SMALL, f"hydra.run.dir={tmp_path / name}", *overrides])

    return run


@pytest.fixture
def view(digits_run: Run) -> View:
    return digits_run.view()


def drawn(run: Run) -> dict[str, list[str]]:
    """Return the file names of each figure in the run directory."""
    return {folder.name: sorted(f.name for f in folder.iterdir()) for folder in (run.path / "figures").iterdir()}


def cut(figure: Figure, rows: int, columns: int, size: int = 56, gap: int = 2, place: int = 0) -> np.ndarray:
    """Return the tiles of an image grid in a figure, (rows, columns, size, size) in 0 … 255."""
    grids = [
        axes.images[0].get_array() for axes in figure.axes if axes.images and not axes.spines["left"].get_visible()
    ]
    grid = grids[place][..., 0]
    assert grid.shape == (rows * (size + gap) - gap, columns * (size + gap) - gap)
    step = size + gap
    return np.array(
        [[grid[r * step : r * step + size, c * step : c * step + size] for c in range(columns)] for r in range(rows)]
    )


def bytes_of(images: Tensor, scale: int = 7) -> np.ndarray:
    """Return images (..., 1, 8, 8) as tiles in the format of `cut`."""
    values = images.detach().squeeze(-3).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    return values.repeat(scale, -1).repeat(scale, -2)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def test_every_figure_has_yaml() -> None:
    assert sorted(DRAWINGS) == EVERY
    assert len(EVERY) == 14


@pytest.mark.parametrize("name", EVERY)
def test_yaml_contains_every_option_with_its_default(name: str) -> None:
    config, _ = compose("train", [f"callbacks={name}"])
    (drawing,) = runs.build_each(config, "callbacks").values()
    assert type(drawing) is DRAWINGS[name]
    stated, options = dict(config.callbacks[name]), dict(DRAWINGS[name]())
    assert options.pop("name") == name
    assert stated.keys() - {"_target_"} == options.keys()
    for option, default in options.items():
        if option != "every_n_epochs":
            value = stated[option]
            assert (tuple(value) if isinstance(default, tuple) else value) == default, option


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({}, [7]),
        ({"every_n_epochs": 3}, [3, 6, 7]),
        ({"every_n_epochs": 1}, [1, 2, 3, 4, 5, 6, 7]),
        ({"epochs": [1, 5, 100]}, [1, 5]),
        ({"epochs": [1, 7], "every_n_epochs": 2}, [1, 7]),
    ],
)
def test_figure_is_due_at_interval_and_last_epoch_or_at_given_epochs(options: dict, epochs: list[int]) -> None:
    drawing = figures.Samples(**options)
    assert [epoch for epoch in range(1, 8) if drawing.is_due(epoch, last=epoch == 7)] == epochs


def test_figures_are_written_for_due_epochs(small: Callable[..., Run]) -> None:
    run = small("trainer.max_epochs=3", "callbacks.samples.epochs=[1,2]", "callbacks.latent_map.every_n_epochs=2")
    found = drawn(run)
    assert found.pop("samples") == ["epoch-0001.png", "epoch-0002.png"]
    assert found.pop("latent_map") == ["epoch-0002.png", "epoch-0003.png"]
    assert found.pop("class_mse") == [f"epoch-{run.module.epoch:04d}.png"]  # the epoch of the tested weights
    last = {"curves", "reconstructions", "manifold", "interpolation", "traversals", "class_samples", "latent_bars"}
    assert found == {name: ["epoch-0003.png"] for name in last}
    for file in run.path.glob("figures/*/*"):
        with Image.open(file) as image:
            assert min(image.size) > 100
    assert "skipped figures" not in (run.path / "train.log").read_text()


MODELS = {
    "noise and dropout": ["noise=gaussian", "encoder.dropout=0.2", "data.binarize=dynamic"],
    "batch norm": ["model=bernoulli_conv", "encoder.norm=BatchNorm2d", "decoder.norm=BatchNorm2d", "data.shift=1"],
    "autoencoder": ["model=ae_mlp"],
    "double precision": ["noise=gaussian", "trainer.precision=64-true", "callbacks=default"],
    "bfloat16": ["noise=gaussian", "trainer.precision=bf16-mixed", "callbacks=default"],
    "workers": ["noise=gaussian", "data.num_workers=1", "callbacks=[default,transition]"],
}


FAST = ("noise and dropout",)


@pytest.mark.parametrize(
    "model", [each if each in FAST else pytest.param(each, marks=pytest.mark.slow) for each in MODELS]
)
def test_figures_do_not_change_training(tmp_path: Path, model: str) -> None:
    size = [] if model == "batch norm" else ["encoder.hidden=[16]", "decoder.hidden=[16]"]
    options = ["data=digits", "latent_dim=3", *size, *MODELS[model], "trainer.max_epochs=2"]
    short = ["callbacks.tsne.n=60", "callbacks.tsne.iterations=250"]
    chosen = next((option for option in options if option.startswith("callbacks")), "callbacks=all")
    if chosen == "callbacks=all":
        options += [chosen, *short]
    config, _ = compose("train", options)
    each = [f"callbacks.{name}.every_n_epochs=1" for name in config.callbacks]
    without = [option for option in options if not option.startswith("callbacks")]
    plain = train([*without, "callbacks=none", f"hydra.run.dir={tmp_path / 'plain'}"])
    with_figures = train([*options, *each, f"hydra.run.dir={tmp_path / 'drawn'}"])
    count = {"noise and dropout": 13, "batch norm": 12, "autoencoder": 10, "workers": 12}.get(model, 11)
    assert len(drawn(with_figures)) == count
    assert all(len(found) == 2 for found in drawn(with_figures).values())
    log = (with_figures.path / "train.log").read_text()
    assert "failed" not in log
    assert ("skipped figures: samples (an autoencoder has no prior" in log) == (model == "autoencoder")
    for name in ("last", "best"):
        actual, expected = (
            checkpoints.read(checkpoints.find(run.path / "checkpoints", name)) for run in (with_figures, plain)
        )
        for part, weight in actual["state_dict"].items():
            assert torch.equal(weight, expected["state_dict"][part]), part
        assert str(actual["optimizer_states"]) == str(expected["optimizer_states"])
    numbers = {key: value for key, value in plain.metrics.items() if "/" in key}
    assert {key: with_figures.metrics[key] for key in numbers} == numbers


def test_figure_shows_same_images_in_every_epoch(small: Callable[..., Run]) -> None:
    run = small("trainer.max_epochs=2", "callbacks=reconstructions", "callbacks.reconstructions.every_n_epochs=1")
    first, second = (
        np.asarray(Image.open(run.path / "figures" / "reconstructions" / f"epoch-000{epoch}.png").convert("RGB"))
        for epoch in (1, 2)
    )
    assert first.shape == second.shape
    changed = np.flatnonzero((first != second).any((1, 2)))
    truth = figures.tiles((run.data.test.image[View(run.module.vae, run.data, 2).chosen(10)] > 127)[None].float(), 7)
    rows = [top for top in range(len(first) - 56) if np.array_equal(first[top : top + 56, -16 - 578 : -16], truth)]
    assert len(rows) == 1
    assert not set(range(rows[0], rows[0] + 56)) & set(changed)  # the targets do not change
    assert set(range(rows[0] + 80, rows[0] + 150)) & set(changed)  # the reconstructions do


def test_failed_figure_is_logged_and_training_continues(
    small: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: figures.Samples, view: View) -> Figure:
        torch.rand(3)
        raise RuntimeError("no ink\nleft")

    def full(self: Curves, metrics: dict, step: int) -> None:
        if self.path.name == "kl_per_dimension.csv":
            raise OSError("disk full")
        write(self, metrics, step)

    write = Curves.log_metrics
    plain = small("callbacks=none", "trainer.max_epochs=2", name="plain")
    monkeypatch.setattr(figures.Samples, "figure", fails)
    monkeypatch.setattr(Curves, "log_metrics", full)
    run = small("callbacks=[samples,curves]", "callbacks.samples.every_n_epochs=1", "trainer.max_epochs=2")
    failures = [line for line in (run.path / "train.log").read_text().splitlines() if " failed: " in line]
    assert len(failures) == 4
    assert sum("figure curves for epoch 1 failed: OSError: disk full" in line for line in failures) == 1
    lost = "figure samples for epoch 1 failed: RuntimeError: no ink left (test_drawing.py, "
    assert sum(lost in line for line in failures) == 1
    assert drawn(run) == {"curves": ["epoch-0002.png"]}
    assert run.metrics["test/elbo"] == plain.metrics["test/elbo"]


@pytest.mark.slow
def test_resumed_run_keeps_its_curves(small: Callable[..., Run]) -> None:
    options = ("noise=gaussian", "callbacks=curves", "callbacks.curves.every_n_epochs=1")
    whole = small(*options, "trainer.max_epochs=3", name="whole")
    half = small(*options, "trainer.max_epochs=1")
    resumed = train([f"resume={half.path}", "trainer.max_epochs=3"])
    resumed_kl, whole_kl = ((run.path / "kl_per_dimension.csv").read_text() for run in (resumed, whole))
    assert resumed_kl == whole_kl
    assert drawn(resumed) == drawn(whole)
    for name, weight in runs.load(whole.path, "last").module.state_dict().items():
        assert torch.equal(weight, runs.load(resumed.path, "last").module.state_dict()[name])


def test_resumed_run_keeps_existing_figures_and_draws_missing_ones(small: Callable[..., Run]) -> None:
    half = small("callbacks=samples", "callbacks.samples.every_n_epochs=1", "trainer.max_epochs=2")
    second = half.path / "figures" / "samples" / "epoch-0002.png"
    second.write_bytes(b"drawn before")
    train([f"resume={half.path}", "trainer.max_epochs=3"])
    assert second.read_bytes() == b"drawn before"
    (half.path / "figures" / "samples" / "epoch-0003.png").unlink()  # as if the process had been killed before drawing
    train([f"resume={half.path}", "trainer.max_epochs=4"])
    assert drawn(half) == {"samples": [f"epoch-000{epoch}.png" for epoch in (1, 2, 3, 4)]}


def test_options_of_figures_do_not_distinguish_runs(small: Callable[..., Run]) -> None:
    run = small("callbacks=none", "trainer.max_epochs=1")
    again = small("callbacks=[samples,curves]", "callbacks.samples.n=9", "trainer.max_epochs=1")  # the run is completed
    assert again.metrics == run.metrics
    resumed = small("callbacks=samples", "trainer.max_epochs=2", name="other")
    train([f"resume={resumed.path}", "trainer.max_epochs=3", "callbacks.samples.epochs=[3]"])
    assert drawn(resumed) == {"samples": ["epoch-0002.png", "epoch-0003.png"]}
    with pytest.raises(ConfigError, match=r"^unknown key 'callbacks\.samples\.foo'"):
        train([f"resume={resumed.path}", "trainer.max_epochs=4", "callbacks.samples.foo=3"])
    with pytest.raises(ConfigError, match="cannot be changed"):
        train([f"resume={resumed.path}", "trainer.max_epochs=4", "callbacks=curves"])


class Mine(figures.Samples):
    """A user-defined figure."""


def test_options_of_user_defined_figure_do_not_distinguish_runs(small: Callable[..., Run]) -> None:
    own = "+callbacks.mine={_target_: test_drawing.Mine, name: mine, n: %d}"
    run = small("callbacks=none", own % 4, "trainer.max_epochs=1")
    assert drawn(run) == {"mine": ["epoch-0001.png"]}
    assert small("callbacks=none", own % 9, "trainer.max_epochs=1").metrics == run.metrics
    with pytest.raises(ConfigError, match=r"callbacks\.stop"):
        small("callbacks=none", "+callbacks.stop={_target_: vae_lab.training.clock.Nothing}", "trainer.max_epochs=1")


def test_second_figure_of_same_class_has_different_name(small: Callable[..., Run]) -> None:
    second = "+callbacks.second={_target_: vae_lab.figures.Samples, name: few, n: 4}"
    assert set(drawn(small("callbacks=samples", second, "trainer.max_epochs=1"))) == {"samples", "few"}


def test_early_stopping_draws_last_epoch(small: Callable[..., Run]) -> None:
    stop = "_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/elbo, mode: min, patience: 1"
    run = small("callbacks=samples", f"+callbacks.stop={{{stop}}}", "trainer.max_epochs=9")
    assert run.metrics["epochs"] == 2
    assert drawn(run) == {"samples": ["epoch-0002.png"]}


def test_kl_per_dimension_sums_to_kl(digits_run: Run) -> None:
    def rows(name: str) -> list[dict[str, str]]:
        with (digits_run.path / name).open(newline="") as file:
            return list(csv.DictReader(file))

    parts, whole = rows("kl_per_dimension.csv"), rows("metrics.csv")
    assert [row["epoch"] for row in parts] == ["1", "2"]
    for part, row in zip(parts, whole, strict=True):
        assert part.keys() == {"epoch", "step", *(f"{stage}/{k}" for stage in ("train", "val") for k in range(3))}
        for stage in ("train", "val"):
            total = sum(float(part[f"{stage}/{k}"]) for k in range(3))
            assert total == pytest.approx(float(row[f"{stage}/kl"]), rel=1e-6)


def test_tensorboard_receives_figures(small: Callable[..., Run]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = small("trainer.max_epochs=2", "callbacks=samples", "callbacks.samples.every_n_epochs=1", "logger=tensorboard")
    events = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["figures/samples"]
    logged = events.Images("figures/samples")
    assert [event.step for event in logged] == [11, 22]
    with Image.open(run.path / "figures" / "samples" / "epoch-0002.png") as image:
        assert (logged[1].width, logged[1].height) == image.size


def test_figure_is_passed_to_each_logger_that_accepts_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = []
    wandb, comet, mlflow, full = (kind.__new__(kind) for kind in (WandbLogger, Comet, Mlflow, WandbLogger))
    wandb.log_image = lambda **options: given.append(options)
    full.log_image = lambda **_: (tmp_path / "no" / "room").write_text("")
    comet.own = SimpleNamespace(log_image=lambda *images, **options: given.append((*images, options)))
    mlflow.own = SimpleNamespace(log_artifact=lambda *options: given.append(options))
    file = str(tmp_path / "a.png")
    show([CSVLogger(tmp_path), full, wandb, comet, mlflow], "figures/samples", tmp_path / "a.png", 7)
    assert given == [
        {"key": "figures/samples", "images": [file], "step": 7},
        (file, {"name": "figures/samples", "step": 7}),
        ("run 1", file, "figures/samples"),
    ]
    assert "WandbLogger cannot log figures/samples" in caplog.text


class Comet(CometLogger):
    experiment = property(lambda self: self.own)


class Mlflow(MLFlowLogger):
    experiment = property(lambda self: self.own)
    run_id = "run 1"


def test_only_rank_zero_draws(view: View, digits_run: Run, tmp_path: Path) -> None:
    for rank, expected in ((1, []), (0, ["epoch-0002.png"])):
        trainer = SimpleNamespace(
            is_global_zero=rank == 0,
            default_root_dir=tmp_path,
            datamodule=view.data,
            loggers=[],
            global_step=0,
            testing=False,
        )
        callback = DrawFigures([figures.Samples()])
        callback.setup(trainer, digits_run.module, "fit")
        callback.on_train_end(trainer, digits_run.module)
        assert [file.name for file in tmp_path.glob("figures/samples/*")] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["callbacks=manifold", "latent_dim=1"],
            "callbacks.manifold: requires latent dimensions [0, 1], but latent_dim=1",
        ),
        (["callbacks=[default,manifold]", "latent_dim=1"], "callbacks.manifold: requires"),
        (["callbacks=latent_map", "latent_dim=1"], "callbacks.latent_map: requires at least two latent dimensions"),
        (["callbacks=denoising"], "callbacks.denoising: requires noise"),
        (["callbacks=samples", "model=ae_mlp"], "callbacks.samples: an autoencoder has no prior"),
        (["callbacks.interpolation.labels=[1,12]"], "callbacks.interpolation: unknown class '12' in Digits"),
        (
            ["callbacks.interpolation.labels=[1]"],
            "callbacks.interpolation.labels=[1]: must be a list of 2 or more values",
        ),
        (["callbacks.samples.n=1.5"], "callbacks.samples.n=1.5: must be a whole number"),
        (["callbacks.samples.every_n_epochs=0"], "callbacks.samples.every_n_epochs=0: must be greater than 0"),
        (["callbacks.samples.epochs=[0]"], "callbacks.samples.epochs[0]=0: must be greater than 0"),
        (["callbacks.samples.optional=maybe"], "callbacks.samples.optional=maybe: must be true or false"),
        (["callbacks.samples.seed=-1"], "callbacks.samples.seed=-1: must be at least 0"),
        (["callbacks.samples.foo=3"], "unknown key 'callbacks.samples.foo'"),
        (["+callbacks.samples.name=../x"], "callbacks.samples.name=../x: must be a name of letters, digits"),
        (["callbacks.manifold.n=101"], "callbacks.manifold.n=101: must be at most 100"),
        (
            ["callbacks.manifold.quantiles=[0.9,0.1]"],
            "manifold.quantiles=[0.9, 0.1]: must be in ascending order",
        ),
        (["callbacks.manifold.dimensions=[1,1]"], "callbacks.manifold.dimensions=[1, 1]: must be two different"),
        (["callbacks.manifold.reach=abc"], "callbacks.manifold.reach=abc: must be a number"),
        (
            ["callbacks.reconstructions.labels=[]"],
            "callbacks.reconstructions.labels=[]: must be a list of 1 or more values",
        ),
        (["+callbacks.tsne.n=20"], "callbacks.tsne: missing `_target_`"),
    ],
)
def test_invalid_figure_is_rejected_before_anything_is_written(
    small: Callable[..., Run], tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        small(*options)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_default_set_skips_figures_that_do_not_fit(small: Callable[..., Run]) -> None:
    run = small("latent_dim=1", "trainer.max_epochs=1")
    (line,) = [line for line in (run.path / "train.log").read_text().splitlines() if "skipped" in line]
    assert "manifold (requires latent dimensions [0, 1], but latent_dim=1)" in line
    assert "latent_map" in line
    assert "denoising" not in line  # skipped without a message because there is no noise
    assert {"manifold", "latent_map", "denoising"} & drawn(run).keys() == set()


def test_null_removes_figure(small: Callable[..., Run]) -> None:
    run = small("trainer.max_epochs=1", "callbacks=[samples,curves]", "callbacks.samples=null")
    assert list(drawn(run)) == ["curves"]


# What each figure shows


def test_reconstructions_show_target_mean_and_sample(view: View) -> None:
    figure = figures.Reconstructions(n=15).draw(view)
    chosen = view.chosen(15)
    with torch.no_grad():
        truth = (view.data.test.image[chosen] > 127).float()
        mean = view.vae.decode(view.vae.encode(truth).mean).mean
    for block, part in enumerate((slice(0, 10), slice(10, 15))):
        tiles = cut(figure, 3, len(range(15)[part]), place=block)
        assert np.array_equal(tiles[0], bytes_of(truth[part]))
        assert np.abs(tiles[1].astype(int) - bytes_of(mean[part])).max() <= 1
        assert set(np.unique(tiles[2])) == {0, 255}
    labels = words(figure)
    assert [name for name in labels if name in ("target", "input", "mean", "sample")] == [
        "target",
        "mean",
        "sample",
    ] * 2
    assert [name for name in labels if name.isdigit()] == [*"0123456789", *"01234"]


def test_reconstructions_show_input_that_differs_from_target(digits_run: Run) -> None:
    run = runs.load(digits_run.path, data={"binarize_input": False})
    view = View(run.module.vae, run.data, 2)
    figure = figures.Reconstructions(n=4, labels=[5, 2]).draw(view)
    grey = view.data.test.image[view.chosen(4, [5, 2])] / 255
    tiles = cut(figure, 4, 4)
    assert np.array_equal(tiles[0], bytes_of((grey > 0.5).float()))
    assert np.array_equal(tiles[1], bytes_of(grey))
    assert [name for name in words(figure) if name.isdigit()] == ["5", "2", "5", "2"]
    assert "input" in words(figure)


def test_denoising_states_mse_of_input_and_reconstruction(view: View) -> None:
    figure = figures.Denoising(n=10).draw(view)
    tiles = cut(figure, 3, 10) / 255
    original = (view.data.test.image[view.chosen(10)] > 127).float()
    assert np.array_equal(tiles[0] * 255, bytes_of(original))
    for row, name in ((1, "noisy input"), (2, "reconstruction")):
        (label,) = [line for line in words(figure) if line.startswith(f"{name}, MSE")]
        assert float(label.rpartition(" ")[2]) == pytest.approx(((tiles[row] - tiles[0]) ** 2).mean(), abs=1e-3)
    flipped = (tiles[1] != tiles[0]).mean()
    assert 0.05 < flipped < 0.15  # a fifth of the pixels becomes black or white, which changes half of them


def test_samples_are_decoded_from_prior(view: View) -> None:
    figure = figures.Samples(n=10, seed=5).draw(view)
    with view.undisturbed(5):
        mean = view.vae.decode(torch.randn(10, 3)).mean
    tiles = cut(figure, 3, 4, place=0)
    assert np.abs(tiles.reshape(12, 56, 56)[:10].astype(int) - bytes_of(mean)).max() <= 1
    assert (tiles.reshape(12, 56, 56)[10:] == 255).all()  # unused tiles are white
    drawn_pixels = cut(figure, 3, 4, place=1).reshape(12, 56, 56)[:10]
    assert set(np.unique(drawn_pixels)) == {0, 255}
    assert {"mean E[x|z]", "sample x ~ p(x|z)"} <= set(words(figure))


@pytest.mark.parametrize("reach", [None, 2.0])
def test_manifold_is_decoded_from_grid(view: View, reach: float | None) -> None:
    figure = figures.Manifold(n=5, reach=reach, dimensions=[2, 0]).draw(view)
    values = latents.quantiles(5) if reach is None else torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    tiles = cut(figure, 5, 5, gap=0)
    for row in range(5):
        for column in range(5):
            z = torch.tensor([values[4 - row], 0.0, values[column]])
            with torch.no_grad():
                expected = bytes_of(view.vae.decode(z).mean)
            assert np.abs(tiles[row, column].astype(int) - expected).max() <= 1
    assert "Sweep over z2 and z0" in words(figure)


def test_interpolation_starts_and_ends_at_given_images(view: View) -> None:
    figure = figures.Interpolation(labels=[3, 8], steps=5).draw(view)
    tiles = cut(figure, 2, 7)
    ends = (view.data.test.image[view.chosen(2, [3, 8])] > 127).float()
    with torch.no_grad():
        first, last = view.vae.encode(ends).mean
        for row, path in enumerate((latents.linear, latents.spherical)):
            expected = bytes_of(view.vae.decode(path(first, last, 5)).mean)
            assert np.abs(tiles[row, 1:6].astype(int) - expected).max() <= 1
            assert np.array_equal(tiles[row, [0, 6]], bytes_of(ends))
    assert "Interpolation from 3 to 8" in words(figure)
    assert [name for name in words(figure) if name in ("linear", "spherical")] == ["linear", "spherical"]


def test_interpolation_within_class_uses_two_images(view: View) -> None:
    tiles = cut(figures.Interpolation(labels=[3, 3], steps=2).draw(view), 2, 4)
    assert not np.array_equal(tiles[0, 0], tiles[0, 3])


def test_transition_is_in_reading_order(view: View) -> None:
    figure = figures.Transition(labels=[0, 7], n=4).draw(view)
    ends = (view.data.test.image[view.chosen(2, [0, 7])] > 127).float()
    with torch.no_grad():
        z = latents.linear(*view.vae.encode(ends).mean, 16)
        expected = bytes_of(view.vae.decode(z).mean)
    assert np.abs(cut(figure, 4, 4).reshape(16, 56, 56).astype(int) - expected).max() <= 1


def test_traversals_are_in_descending_order_of_kl(view: View) -> None:
    figure = figures.Traversals(steps=5, n=2).draw(view)
    codes = view.codes(1000)
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(codes.mean, codes.std), normal(0.0, 1.0)).mean(0)
    order = kl.argsort(descending=True).tolist()[:2]
    rows = [line for line in words(figure) if line.startswith("z")]
    assert rows == [f"z{each}, KL {kl[each]:.2f}" for each in order]
    tiles = cut(figure, 2, 5)
    with torch.no_grad():
        start = view.vae.encode((view.data.test.image[view.chosen(1)] > 127).float()).mean[0]
        for row, each in enumerate(order):
            z = start.repeat(5, 1)
            z[:, each] = torch.linspace(-3, 3, 5)
            assert np.abs(tiles[row].astype(int) - bytes_of(view.vae.decode(z).mean)).max() <= 1
    assert [line for line in words(figure) if line[-2:] in (".0", ".5")] == ["-3.0", "-1.5", "0.0", "1.5", "3.0"]


def test_class_samples_are_drawn_from_gaussian_of_class(view: View) -> None:
    drawing = figures.ClassSamples(labels=[4, 1], n=2000)
    with view.undisturbed(0):
        z, classes = drawing.sample(view, 2000)
    assert classes == [4, 1]
    codes = view.codes(5000)
    for row, each in enumerate(classes):
        chosen = codes.label == each
        error = codes.std[chosen].square().mean(0).sqrt() / 2000**0.5
        assert ((z[row].mean(0) - codes.mean[chosen].mean(0)).abs() < 5 * error).all()
        expected = codes.std[chosen].square().mean(0)
        assert ((z[row].var(0) / expected - 1).abs() < 5 * (2 / 2000) ** 0.5).all()
    figure = figures.ClassSamples(n=3).draw(view)
    assert cut(figure, 10, 3).shape == (10, 3, 56, 56)
    assert [name for name in words(figure) if name.isdigit()] == [*"0123456789"]


@pytest.mark.parametrize("latent_dim", [2, 3])
def test_latent_map_shows_posterior_means(digits_run: Run, small: Callable[..., Run], latent_dim: int) -> None:
    run = digits_run if latent_dim == 3 else small("trainer.max_epochs=1", "callbacks=none")
    view = View(run.module.vae, run.data, 1)
    figure = figures.LatentMap(n=200).draw(view)
    (axes,) = figure.axes
    mean = view.codes(200).mean
    if latent_dim == 3:
        mean = mean @ latents.principal_axes(mean).directions
        assert "principal axis 1" in axes.get_xlabel()
    else:
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("z0", "z1")
    found = axes.collections[0].get_offsets()
    np.testing.assert_allclose(np.sort(found, 0), np.sort(mean.numpy(), 0), rtol=1e-5)
    assert len(axes.patches) == 3
    assert "200 test images" in " ".join(words(figure))


def test_tsne_is_seeded_and_states_its_parameters(view: View) -> None:
    places = [
        np.asarray(figures.Tsne(n=90, iterations=250, perplexity=12.0).draw(view).axes[0].collections[0].get_offsets())
        for _ in range(2)
    ]
    assert np.array_equal(*places)
    figure = figures.Tsne(n=90, iterations=250, perplexity=12.0).draw(view)
    assert "90 test images, with perplexity 12, PCA initialisation, 250 iterations and seed 0." in " ".join(
        " ".join(words(figure)).split()
    )
    figures.Tsne(n=5, iterations=250).draw(view)  # fewer points than the default perplexity of 30


def test_latent_bars_show_posterior(view: View) -> None:
    figure = figures.LatentBars(n=3).draw(view)
    codes = view.encode(view.batch(view.chosen(3)))
    bars = [axes for axes in figure.axes if axes.patches]
    np.testing.assert_allclose([[bar.get_height() for bar in axes.patches] for axes in bars], codes.mean, rtol=1e-5)
    assert "posterior mean ± σ" in words(figure)


def test_class_mse_matches_numpy(view: View) -> None:
    report = view.errors
    target = (view.data.test.image > 127).float()
    with torch.no_grad():
        mean = view.vae.decode(view.vae.encode(target).mean).mean
    error = ((mean.double().numpy() - target.double().numpy()) ** 2).mean((1, 2, 3))
    label = view.label.numpy()
    expected = [error[label == each].mean() for each in range(10)]
    np.testing.assert_allclose(report.classes.mean, expected, rtol=1e-6)
    assert report.classes.images.tolist() == np.bincount(label).tolist()
    figure = figures.ClassMse(examples=2).draw(view)
    tiles = cut(figure, 8, 10)
    for each in range(10):
        ranked = np.flatnonzero(label == each)[np.argsort(error[label == each], kind="stable")]
        for row, place in zip((0, 2, 4, 6), (ranked[0], ranked[1], ranked[-1], ranked[-2]), strict=True):
            assert np.array_equal(tiles[row, each], bytes_of(target[place])), (row, each)
            assert np.abs(tiles[row + 1, each].astype(int) - bytes_of(mean[place])).max() <= 1
    assert words(figure).count("best") == words(figure).count("worst") == 2


def test_figures_show_noisy_inputs_that_were_encoded(digits_run: Run) -> None:
    run = runs.load(digits_run.path)
    run.data.noise.in_evaluation = True
    view = View(run.module.vae, run.data, 2)
    figure = figures.LatentBars(n=3).draw(view)
    shown, back = ([axes.images[0].get_array()[..., 0] for axes in figure.axes if axes.images][k::2] for k in (0, 1))
    bars = [[bar.get_height() for bar in axes.patches] for axes in figure.axes if axes.patches]
    clean = (view.data.test.image[view.chosen(3)] > 127).float()
    for row in range(3):
        given = torch.from_numpy(shown[row][::14, ::14] / 255).float()[None, None]
        assert not torch.equal(given[0], clean[row])
        with torch.no_grad():
            q = view.vae.encode(given)
            np.testing.assert_allclose(bars[row], q.mean[0], rtol=1e-4, atol=1e-5)
            expected = bytes_of(view.vae.decode(q.mean).mean, scale=14)[0]
        assert np.abs(back[row].astype(int) - expected).max() <= 1
    drawing = figures.ClassMse()
    before = torch.get_rng_state()
    report = view.errors
    tiles = cut(drawing.draw(view), 4, 10) / 255
    assert torch.equal(torch.get_rng_state(), before)
    for each in range(10):
        errors = report.error[report.label == each]
        for row, extreme in ((0, errors.min()), (2, errors.max())):
            assert ((tiles[row, each] - tiles[row + 1, each]) ** 2).mean() == pytest.approx(float(extreme), abs=2e-3)


def test_class_mse_of_many_classes_has_only_bars(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    from vae_lab.figures import numbers

    monkeypatch.setattr(numbers, "MOST_SHOWN", 9)
    assert len(figures.ClassMse().draw(view).axes) == 1


def test_interpolation_in_one_dimension_is_only_linear(small: Callable[..., Run]) -> None:
    run = small("latent_dim=1", "trainer.max_epochs=1", "callbacks=none")
    figure = figures.Interpolation(steps=3).draw(View(run.module.vae, run.data, 1))
    assert cut(figure, 1, 5).shape == (1, 5, 56, 56)
    assert "spherical" not in words(figure)


def test_mse_of_class_without_images_is_not_available(digits_run: Run, tmp_path: Path) -> None:
    run = runs.load(digits_run.path)
    run.data.setup()
    run.data.test = run.data.test.part((run.data.test.label != 4).nonzero().flatten())
    view = View(run.module.vae, run.data, 2)
    drawing = figures.ClassMse()
    report = view.errors
    assert report.classes.mean[4].isnan()
    write_table(tmp_path / "class_mse.csv", report.classes, run.data.class_names)
    with (tmp_path / "class_mse.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[4] == {"class": "4", "name": "4", "images": "0", "mse": ""}
    assert float(rows[5]["mse"]) == float(report.classes.mean[5])
    figure = drawing.draw(view)
    assert "n/a" in [text.get_text() for axes in figure.axes for text in axes.texts]
    assert (cut(figure, 4, 10)[:, 4] == 255).all()


def test_table_of_classes_agrees_with_test_metrics(small: Callable[..., Run]) -> None:
    run = small(
        "trainer.max_epochs=3", "noise=gaussian", "noise.eval=true", "callbacks=class_mse", "data.batch_size=50"
    )
    with (run.path / "class_mse.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = np.array([int(row["images"]) for row in rows])
    mse = np.array([float(row["mse"]) for row in rows])
    assert images.sum() == 359
    # computed from the same noisy inputs as the metric
    assert (images * mse).sum() / 359 == pytest.approx(run.metrics["test/mse"], rel=1e-6)


def test_curves_require_completed_epoch(digits_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(ValueError, match="no epoch has been completed"):
        figures.Curves().draw(View(digits_run.module.vae, digits_run.data, 2))
    figure = figures.Curves().draw(replace(digits_run.view(), epoch=1))
    losses = next(axes for axes in figure.axes if axes.get_title(loc="left") == "loss (nats)")
    assert len(losses.lines[0].get_xdata()) == 2  # all epochs of the run, not only those up to the epoch of the view
    assert "Bernoulli MLP VAE, z = 3, Digits, epoch 2" in words(figure)


def test_labels_without_context_are_rejected(view: View) -> None:
    assert figures.Samples().refuses(view) is None
    assert figures.Samples(labels=[1]).refuses(view).startswith("labels=[1]: ")


@pytest.mark.parametrize("in_evaluation", [True, False])
def test_denoising_corrupts_images_once(view: View, monkeypatch: pytest.MonkeyPatch, in_evaluation: bool) -> None:
    seen, corrupt = [], view.data.noise.forward
    monkeypatch.setattr(view.data.noise, "in_evaluation", in_evaluation)
    monkeypatch.setitem(vars(view.data.noise), "forward", lambda x: seen.append(x) or corrupt(x))
    clean, noisy, _ = cut(figures.Denoising(n=4).draw(view), 3, 4)
    assert [len(x) for x in seen] == [4]
    assert not np.array_equal(clean, noisy)


@pytest.mark.parametrize("same", [True, False])
def test_interpolation_within_one_context_has_one_context(same: bool) -> None:
    """And two images of a class need two."""
    context = torch.tensor([[1.0, 0.0], [1.0 - (not same), 0.0]])
    stub = SimpleNamespace(
        label=torch.tensor([0, 0, 1]),
        class_names=["cat", "dog"],
        numbers=lambda labels: labels,
        chosen=lambda count, labels: torch.tensor({0: [0, 1], 1: [2]}[labels[0]][:count]),
        names=lambda indices: indices.tolist(),
        batch=lambda indices: SimpleNamespace(target=torch.zeros(len(indices), 1, 2, 2)),
        encode=lambda _: SimpleNamespace(mean=torch.zeros(2, 3), context=context),
    )
    assert len(ends(stub, [0, 0])[3]) == (1 if same else 2)
    with pytest.raises(ValueError, match="dog"):
        ends(stub, [1, 1])
