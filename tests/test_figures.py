"""The content of figures: pixels, positions and labels, with nothing cut off."""

import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.text import Text
from PIL import Image

from vae_lab import figures
from vae_lab.figures import Panel, Title, charts
from vae_lab.figures.grids import class_mse, latent_bars
from vae_lab.figures.page import DPI, MARGIN, class_colors

TITLE = Title("What it shows", "Bernoulli MLP VAE, z = 2, MNIST, epoch 3", "What to look for.")


def pixels(figure: Figure) -> np.ndarray:
    """Return the pixels of the saved figure (height, width, 3)."""
    with tempfile.TemporaryDirectory() as folder:
        figures.save(figure, Path(folder) / "figure.png")
        with Image.open(Path(folder) / "figure.png") as image:
            return np.asarray(image.convert("RGB"))


def shown(figure: Figure, axes: Axes) -> np.ndarray:
    """Return the pixels of the saved figure inside `axes`."""
    whole, box = pixels(figure), axes.get_window_extent()
    left, bottom = np.rint(figure.get_tightbbox().p0 * DPI).astype(int) - MARGIN  # origin of the saved figure
    x0, x1, y0, y1 = (round(float(edge)) for edge in (box.x0, box.x1, box.y0, box.y1))
    return whole[len(whole) - y1 + bottom : len(whole) - y0 + bottom, x0 - left : x1 - left]


def images(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.images and not axes.spines["left"].get_visible()]


def texts(figure: Figure) -> list[Text]:
    """Return the visible texts of a figure, without labels of ticks outside the axis limits, which are not drawn."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = axis.get_major_ticks()
            for tick, place in zip(ticks, axis.get_majorticklocs(), strict=False):
                if not low <= place <= high or not axes.axison:
                    hidden |= {tick.label1, tick.label2}
            hidden |= {label for tick in ticks[len(axis.get_majorticklocs()) :] for label in (tick.label1, tick.label2)}
    found = figure.findobj(Text)
    return [text for text in found if text.get_text().strip() and text.get_visible() and text not in hidden]


def words(figure: Figure) -> dict[str, Text]:
    return {text.get_text(): text for text in texts(figure)}


def assert_nothing_is_cut_off(figure: Figure, apart: bool = True) -> None:
    """Assert that the figure has a white margin and, with `apart`, that no texts overlap."""
    whole = pixels(figure)
    margin = MARGIN // 2
    for edge in (whole[:margin], whole[-margin:], whole[:, :margin], whole[:, -margin:]):
        assert (edge > 250).all()
    figure.draw_without_rendering()  # saving leaves the axis labels at their positions in the file
    boxes = [(text.get_text(), text.get_window_extent().padded(-1)) for text in texts(figure)]
    for place, (name, box) in enumerate(boxes if apart else []):
        for other, against in boxes[:place]:
            assert not box.overlaps(against), (name, other)


def test_overlapping_text_is_detected() -> None:
    figure = class_mse(torch.tensor([0.2, 0.35]), torch.ones(2), ["cat", "dog"], None, TITLE)
    assert_nothing_is_cut_off(figure)
    figure.axes[0].set_xticklabels(["cat", "a name that is much too long to stand below a bar of this width"])
    with pytest.raises(AssertionError, match="much too long"):
        assert_nothing_is_cut_off(figure)


def test_tiles_contain_exact_pixels_of_images() -> None:
    values = torch.rand(2, 3, 1, 4, 5)
    canvas = figures.tiles(values, scale=3, gap=2)
    assert canvas.shape == (2 * (12 + 2) - 2, 3 * (15 + 2) - 2, 3)
    for row in range(2):
        for column in range(3):
            tile = canvas[row * 14 : row * 14 + 12, column * 17 : column * 17 + 15]
            expected = np.kron((values[row, column, 0].numpy() * 255).round(), np.ones((3, 3)))
            assert all(np.array_equal(tile[..., color], expected) for color in range(3))
    assert (canvas[12:14] == 255).all()
    assert (canvas[:, 15:17] == 255).all()


def test_tiles_keep_colours_clip_values_and_show_nan_as_white() -> None:
    values = torch.tensor([-1.0, 0.5, 2.0]).view(1, 1, 3, 1, 1)
    assert figures.tiles(values).tolist() == [[[0, 128, 255]]]
    assert figures.tiles(torch.full((1, 1, 1, 1, 1), float("nan"))).tolist() == [[[255, 255, 255]]]
    with pytest.raises(ValueError, match="2 channels"):
        figures.tiles(torch.zeros(1, 1, 2, 3, 3))


@pytest.mark.parametrize(("scale", "size"), [(None, 7), (1, 1), (5, 5)])
def test_grid_is_saved_without_interpolation(scale: int | None, size: int) -> None:
    values = torch.rand(3, 9, 1, 8, 8)
    figure = figures.grids([Panel(values, "", ["a", "b", "c"], list("123456789"))], TITLE, scale)
    (axes,) = images(figure)
    assert np.array_equal(shown(figure, axes), figures.tiles(values, size))


def test_labels_are_left_of_rows_and_above_columns() -> None:
    values = torch.rand(2, 8, 1, 8, 8)
    figure = figures.grids([Panel(values, "panel", ["first", "second"], list("abcdefgh"))], TITLE)
    (axes,) = images(figure)
    box, labels = axes.get_window_extent(), words(figure)
    figure.canvas.draw()
    for row, name in enumerate(("first", "second")):
        place = labels[name].get_window_extent()
        assert place.x1 < box.x0
        assert (place.y0 + place.y1) / 2 == pytest.approx(box.y1 - 28 - row * 58, abs=3)
    for column, name in enumerate("abcdefgh"):
        place = labels[name].get_window_extent()
        assert place.y0 > box.y1
        assert (place.x0 + place.x1) / 2 == pytest.approx(box.x0 + 28 + column * 58, abs=2)
    for name in (TITLE.what, TITLE.model, "panel"):
        assert labels[name].get_window_extent().y0 > labels["a"].get_window_extent().y1
    assert labels[TITLE.caption].get_window_extent().y1 < box.y0


def test_panels_wrap_after_given_number() -> None:
    panels = [Panel(torch.full((1, 4, 1, 8, 8), value), str(value)) for value in (0.0, 0.5, 1.0)]
    figure = figures.grids(panels, TITLE, across=2)
    first, second, third = (axes.get_window_extent() for axes in images(figure))
    assert first.y0 == second.y0
    assert first.x1 < second.x0
    assert third.x0 == first.x0
    assert third.y1 < first.y0
    assert [shown(figure, axes)[0, 0, 0] for axes in images(figure)] == [0, 128, 255]


def test_grid_without_gap_is_contiguous() -> None:
    figure = figures.grids([Panel(torch.zeros(10, 10, 1, 8, 8))], TITLE, gap=0)
    (axes,) = images(figure)
    assert shown(figure, axes).shape == (560, 560, 3)
    assert not shown(figure, axes).any()


NAMES = ["a", "two words", "$x^2$", "a name that is rather long for a class"]


def test_points_have_correct_positions_and_class_colours() -> None:
    places, label = torch.randn(50, 2), torch.arange(50) % 4
    figure = charts.points(places, label, NAMES, TITLE, ("z0", "z1"), circles=True)
    (axes,) = figure.axes
    (cloud,) = axes.collections
    order = np.lexsort(cloud.get_offsets().T)
    expected = np.lexsort(places.numpy().T)
    np.testing.assert_allclose(cloud.get_offsets()[order], places.numpy()[expected], rtol=1e-6)
    colors = np.array([matplotlib.colors.to_rgb(color) for color in class_colors(4)])
    np.testing.assert_allclose(cloud.get_facecolors()[order][:, :3], colors[label.numpy()[expected]])
    circles = [patch for patch in axes.patches if isinstance(patch, Circle)]
    assert [(circle.center, circle.radius) for circle in circles] == [((0, 0), radius) for radius in (1, 2, 3)]
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.bbox.width == pytest.approx(axes.bbox.height)
    assert axes.get_xlim()[1] >= max(3, places.abs().max())
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z0", "z1")
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == NAMES
    at = {text.get_text(): text.xy for text in axes.texts if text.get_text() in NAMES}
    for number, name in enumerate(NAMES):
        np.testing.assert_allclose(at[name], places[label == number].median(0).values, rtol=1e-6)
    assert_nothing_is_cut_off(figure, apart=False)


@pytest.mark.parametrize("corner", [(-1.0, -1.0), (1.0, 1.0), (-1.0, 1.0), (1.0, -1.0)])
def test_long_name_at_border_stays_inside_axes(corner: tuple[float, float]) -> None:
    places = torch.cat([torch.tensor(corner).expand(20, 2), torch.zeros(20, 2)])
    long = "a class with a name of more than forty letters"
    figure = charts.points(places, torch.arange(40) // 20, [long, "b"], TITLE)
    assert_nothing_is_cut_off(figure)
    (axes,) = figure.axes
    (name,) = [text for text in axes.texts if text.get_text() == long]
    inside = axes.get_window_extent()
    box = name.get_window_extent()
    assert inside.x0 <= box.x0 < box.x1 <= inside.x1
    assert inside.y0 <= box.y0 < box.y1 <= inside.y1


def test_points_can_omit_circles_and_axis_labels() -> None:
    figure = charts.points(100 + torch.randn(50, 2), torch.zeros(50, dtype=torch.long), ["a", "b"], TITLE)
    (axes,) = figure.axes
    assert not [patch for patch in axes.patches if isinstance(patch, Circle)]
    assert len(axes.get_xticks()) == len(axes.get_yticks()) == 0
    assert 90 < axes.get_xlim()[0] < axes.get_xlim()[1] < 110


@pytest.mark.parametrize("std", [True, False])
def test_latent_bars_show_means_and_standard_deviations(std: bool) -> None:
    given, back, mean = torch.rand(3, 1, 8, 8), torch.rand(3, 1, 8, 8), torch.randn(3, 4)
    deviation = torch.rand(3, 4) if std else None
    figure = latent_bars(given, mean, deviation, back, "code", TITLE)
    bars = [axes for axes in figure.axes if axes.containers]
    assert len(bars) == 3
    for row, axes in enumerate(bars):
        np.testing.assert_allclose([bar.get_height() for bar in axes.patches], mean[row], rtol=1e-6)
        assert bool(axes.collections) == std
        if std:
            ends = np.array([segment[:, 1] for segment in axes.collections[0].get_segments()])
            expected = torch.stack([mean[row] - deviation[row], mean[row] + deviation[row]], 1)
            np.testing.assert_allclose(ends, expected, rtol=1e-5, atol=1e-6)
        assert axes.get_ylim() == bars[0].get_ylim()
    left, right = images(figure)[::2], images(figure)[1::2]
    for row in range(3):
        assert np.array_equal(shown(figure, left[row]), figures.tiles(given[row][None, None], 14))
        assert np.array_equal(shown(figure, right[row]), figures.tiles(back[row][None, None], 14))
    assert_nothing_is_cut_off(figure)


def test_bars_of_classes_are_centred_above_their_images() -> None:
    mse, count = torch.tensor([0.01, float("nan"), 0.03]), torch.tensor([5, 0, 7])
    examples = Panel(torch.rand(2, 3, 1, 8, 8), rows=["best", "reconstruction"])
    figure = class_mse(mse, count, ["cat", "dog", "$bird$"], examples, TITLE)
    bars, grid = figure.axes
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([0.01, 0, 0.03])
    colors = [matplotlib.colors.to_rgb(bar.get_facecolor()) for bar in bars.patches]
    assert colors == [matplotlib.colors.to_rgb(color) for color in class_colors(3)]
    (mean,) = bars.lines
    assert list(mean.get_ydata()) == pytest.approx([0.02, 0.02])
    assert {"n/a", "0.0100", "0.0300", "mean over classes 0.0200"} <= words(figure).keys()
    assert [text.get_text() for text in bars.get_xticklabels()] == ["cat", "dog", "$bird$"]
    for column, bar in enumerate(bars.patches):
        middle = bars.transData.transform((bar.get_x() + bar.get_width() / 2, 0))[0]
        assert middle == pytest.approx(grid.get_window_extent().x0 + 28 + column * 58, abs=1)
    assert np.array_equal(shown(figure, grid), figures.tiles(examples.images, 7))
    assert_nothing_is_cut_off(figure)


def test_many_classes_have_only_bars() -> None:
    figure = class_mse(torch.rand(60), torch.ones(60), [f"class {k}" for k in range(60)], None, TITLE)
    (bars,) = figure.axes
    assert len(bars.patches) == 60
    assert_nothing_is_cut_off(figure)


ROWS = [
    {
        "epoch": 1,
        "train/loss": 9.0,
        "train/elbo": -9.0,
        "train/kl": 3.0,
        "val/elbo": -8.0,
        "val/kl": 2.0,
        "val/mse": 0.2,
    },
    {
        "epoch": 2,
        "train/loss": 8.0,
        "train/elbo": -8.0,
        "train/kl": 1.0,
        "val/elbo": -7.0,
        "val/kl": 3.0,
        "val/mse": 0.1,
    },
    {"epoch": 3, "train/loss": 7.0, "train/elbo": -7.0, "train/kl": 2.0},
]


def test_curves_show_metrics_over_epochs() -> None:
    kl = {"training": torch.tensor([[0.0, 2.0], [0.5, 1.0], [1.5, 0.5]]), "validation": torch.tensor([[0.1, 0.2]] * 3)}
    kl["validation"][2] = float("nan")
    figure = charts.curves(ROWS, {"": kl}, TITLE)
    named = {axes.get_title(loc="left"): axes for axes in figure.axes}
    lines = {line.get_label(): line for line in named["ELBO (nats)"].lines}
    assert list(lines["training"].get_xydata().T[1]) == [-9, -8, -7]
    assert lines["validation"].get_xydata().tolist() == [[1, -8], [2, -7]]
    assert [line.get_label() for line in named["loss (nats)"].lines] == ["training"]
    assert "log-likelihood (nats)" not in named
    kl_panel = named["KL (nats)"]  # falls, then rises in training; only rises in validation
    labels = [text.get_text() for text in kl_panel.get_legend().get_texts()]
    assert labels == ["training, minimum at epoch 2", "validation"]
    assert [line.get_xydata().tolist() for line in kl_panel.lines if line.get_marker() == "v"] == [[[2, 1]]]
    heat = named["KL per dimension (nats), training"]
    np.testing.assert_allclose(heat.images[0].get_array(), [[2.0, 1.0, 0.5], [0.0, 0.5, 1.5]])
    assert [text.get_text() for text in heat.get_yticklabels()] == ["z1", "z0"]
    other = named["KL per dimension (nats), validation"].images[0]
    np.testing.assert_allclose(other.get_array()[:, 0], [0.2, 0.1])  # in the order of the last validation values
    assert other.get_clim() == heat.images[0].get_clim() == (0, 2)
    assert_nothing_is_cut_off(figure)


def test_hierarchical_curves_have_panel_per_layer_and_other_terms_last() -> None:
    rows = [{"epoch": epoch, "train/loss": 2.0, "train/tc": 0.5, "train/lr": 1.0, "train/kl": 3.0} for epoch in (1, 2)]
    for number, row in enumerate(rows):
        row |= {"train/kl_layer1": -1.0 + number, "train/kl_layer2": 2.0}
    kl = {
        "layer1": {"training": torch.tensor([[0.5, -1.5]] * 2)},
        "layer2": {"training": torch.tensor([[1.0, 0.5, 0.5]] * 2)},
    }
    figure = charts.curves(rows, kl, TITLE)
    named = {title: axes for axes in figure.axes if (title := axes.get_title(loc="left"))}
    layers = [f"KL of layer {number} (nats)" for number in (1, 2)]
    heats = [f"KL per dimension of layer {number} (nats), training" for number in (1, 2)]
    assert named.keys() == {"loss (nats)", "KL (nats)", *layers, *heats, "tc"}
    assert [named[heat].images[0].get_array().shape for heat in heats] == [(2, 2), (3, 2)]
    assert named[layers[0]].lines[0].get_ydata().tolist() == [-1, 0]
    tops = [named[title].get_position().y1 for title in ("loss (nats)", "KL (nats)", *layers, "tc")]
    assert tops == sorted(tops, reverse=True)
    assert [named[one].get_position().y1 for one in layers] == [named[heat].get_position().y1 for heat in heats]
    low, high = named[heats[0]].images[0].get_clim()
    assert (low, high) == (-1.5, 0.5)  # a sampled KL may be negative
    assert_nothing_is_cut_off(figure)
    without = charts.curves(rows, {"layer1": kl["layer1"]}, TITLE)  # the second layer has no KL per dimension
    assert {*layers} < {axes.get_title(loc="left") for axes in without.axes}


def test_unnormalised_elbo_has_curve() -> None:
    rows = [{"epoch": 1, "train/loss": 1.0, "val/elbo_unnormalised": -5.0}]
    figure = charts.curves(rows, {}, TITLE)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss (nats)", "ELBO (nats)"]
    assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize("columns", [["1"] * 3, ["a long name", "another one that is longer", "b"], []])
@pytest.mark.parametrize(
    "title", [TITLE, Title("w " * 200, "m " * 300, "$c$ " * 400), Title("short"), Title("x" * 70, "y" * 99, "z" * 99)]
)
@pytest.mark.parametrize("rows", [[], ["row", "a row of a longer name"]])
def test_text_is_not_cut_off(columns: list[str], title: Title, rows: list[str]) -> None:
    figure = figures.grids([Panel(torch.rand(2, 3, 3, 8, 8), "panel", rows, columns)], title)
    assert_nothing_is_cut_off(figure)
    assert set(rows) | set(columns) <= words(figure).keys()


def test_classes_have_distinct_colours() -> None:
    for count in (1, 2, 10, 11, 100):
        colors = class_colors(count)
        assert len({tuple(color) for color in colors}) == count
    assert class_colors(3) == class_colors(10)[:3]


@pytest.mark.slow  # a new process
def test_figures_do_not_import_pyplot() -> None:
    script = (
        "import sys, torch; from vae_lab.figures import *; import io\n"
        "figure = grids([Panel(torch.rand(1, 1, 1, 8, 8))], Title('a')); figure.savefig(io.BytesIO())\n"
        "assert 'matplotlib.pyplot' not in sys.modules; print(type(figure.canvas).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "FigureCanvasAgg"


def test_legend_is_omitted_for_many_classes() -> None:
    names = [str(number) for number in range(charts.MOST_NAMED + 1)]
    (axes,) = charts.points(torch.randn(50, 2), torch.arange(50) % len(names), names, TITLE).axes
    assert axes.get_legend() is None


def test_curves_omit_names_of_many_latent_dimensions() -> None:
    rows = [{"epoch": epoch, "train/loss": 1.0, "train/kl": 1.0} for epoch in (1, 2)]
    for dimensions in (20, 21):
        figure = charts.curves(rows, {"": {"training": torch.rand(2, dimensions)}}, TITLE)
        (heat,) = [axes for axes in figure.axes if axes.get_title(loc="left").startswith("KL per dimension")]
        named = {text.get_text() for text in heat.get_yticklabels()} == {f"z{number}" for number in range(20)}
        assert named == (dimensions == 20)
        assert bool(heat.get_ylabel()) != named
