"""Charts of points in the latent plane and of metrics over epochs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from vae_lab.figures.page import INK, PAPER, TRAINING, VALIDATION, Title, add_axes, canvas, class_colors, titled
from vae_lab.metrics import KL_OF_LAYER, USUAL

MOST_NAMED = 40  # maximum number of classes in a legend


def points(
    places: Tensor,
    label: Tensor,
    names: Sequence[str],
    title: Title,
    axes_names: tuple[str, str] = ("", ""),
    circles: bool = False,
) -> Figure:
    """Draw labelled points, with the name of each class at the median of its points.

    Args:
        places: coordinates of the points (N, 2).
        label: class of each point (N,).
        names: names of the classes.
        title: title of the figure.
        axes_names: labels of the horizontal and vertical axes; without labels, the axes have no ticks.
        circles: whether to draw the 1σ, 2σ and 3σ circles of a standard normal prior.
    """
    side = 640
    figure = canvas(side, side)
    axes = add_axes(figure, 0, 0, side, side)
    places, label = places.detach().float().cpu(), label.cpu()
    colors = class_colors(len(names))
    # in random order, so that no class covers another
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(0))
    shown = [colors[each] for each in label[order].tolist()]
    size = 8 if len(label) > 1000 else 16
    across, up = places[order].T.numpy()
    axes.scatter(across, up, s=size, c=shown, alpha=0.7, linewidths=0)
    middle, reach = np.zeros(2), 0.0
    if circles:
        for radius in (1, 2, 3):
            axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor=INK, linewidth=0.9, linestyle="--"))
            axes.annotate(f"{radius}σ", (0, radius), size=8, color=INK, ha="center", va="center", bbox=PAPER, zorder=6)
        reach = 3.3
    else:
        middle = ((places.amax(0) + places.amin(0)) / 2).numpy()
    reach = max(reach, float((places - torch.from_numpy(middle).float()).abs().max()) * 1.05) or 1.0
    axes.set_xlim(middle[0] - reach, middle[0] + reach)
    axes.set_ylim(middle[1] - reach, middle[1] + reach)
    for number, name in enumerate(names):
        chosen = places[label == number]
        if len(chosen):
            style = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": colors[number], "linewidth": 1.5}
            look: dict[str, Any] = {"size": 9, "color": INK, "ha": "center", "va": "center", "bbox": style, "zorder": 5}
            look |= {"parse_math": False, "textcoords": "offset pixels"}
            median = tuple(chosen.median(0).values.tolist())
            note, inside = axes.annotate(name, median, (0, 0), **look), axes.bbox.padded(-6)
            here = note.get_window_extent()
            note.xyann = (
                max(inside.x0 - here.x0, 0) - max(here.x1 - inside.x1, 0),
                max(inside.y0 - here.y0, 0) - max(here.y1 - inside.y1, 0),
            )
    if any(axes_names):
        axes.set_xlabel(axes_names[0], size=9)
        axes.set_ylabel(axes_names[1], size=9)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    marks = [Line2D([], [], marker="o", linestyle="", markersize=6, color=color) for color in colors]
    if len(names) <= MOST_NAMED:
        lines = axes.legend(marks, names, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
        for text in lines.get_texts():
            text.set_parse_math(False)
    return titled(figure, title)


def curves(rows: Sequence[Mapping[str, float]], kl: Mapping[str, Mapping[str, Tensor]], title: Title) -> Figure:
    """Draw training and validation metrics over the epochs; the objective's own terms come last.

    Args:
        rows: `epoch` and the metrics for each epoch: `train/loss`, `val/elbo`, …
        kl: KL for each latent dimension (epochs, D), by stochastic layer and then by split (`training`, `validation`);
            NaN if missing. If there is only one layer, its name is empty.
        title: title of the figure.
    """
    kinds = {"loss": "loss (nats)", "elbo": "ELBO (nats)", "log_likelihood": "log-likelihood (nats)"}
    kinds |= {"mse": "MSE", "kl": "KL (nats)"}
    terms = list(dict.fromkeys(_term(name) for row in rows for name in row if name.startswith(("train/", "val/"))))
    heats: dict[str, list[Any]] = {name: [] for name in terms if KL_OF_LAYER.fullmatch(name)}
    heats |= {f"kl_{layer}" if layer else "kl": [(layer, stage) for stage in kl[layer]] for layer in kl}
    own = [name for name in terms if name not in (*USUAL, *heats)]
    lines: list[list[Any]] = [
        [name for name in kinds if name in terms and name not in heats],
        # one row of panels for the KL of each stochastic layer
        *([*([name] if name in terms else []), *of_layer] for name, of_layer in heats.items()),
        *(own[start : start + 4] for start in range(0, len(own), 4)),
    ]
    lines = [line for line in lines if line]
    wide, high = 300, 220
    right, down = wide + 75, high + 62
    figure = canvas(max(map(len, lines)) * right - 75, len(lines) * down - 62)
    for line, panels in enumerate(lines):
        for place, panel in enumerate(panels):
            x, y = place * right, line * down
            if isinstance(panel, str):
                axes = add_axes(figure, x, y, wide, high)
                _over_epochs(axes, rows, panel)
                of_layer = f"KL of {_layer_name(panel.removeprefix('kl_'))} (nats)"
                axes.set_title(kinds.get(panel, of_layer if panel in heats else panel), size=9, loc="left")
            else:
                layer, stage = panel
                axes = add_axes(figure, x, y, wide - 16, high)
                _heat(axes, add_axes(figure, x + wide - 8, y, 8, high), kl[layer], layer, stage)
            axes.set_xlabel("epoch", size=8)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return titled(figure, title)


def _over_epochs(axes: Axes, rows: Sequence[Mapping[str, float]], name: str) -> None:
    """Draw a metric for training and validation; mark the minimum of the KL if the KL fell and then rose."""
    for stage, words, color in (("train", "training", TRAINING), ("val", "validation", VALIDATION)):
        found = [(row["epoch"], value) for row in rows for value in _of(row, f"{stage}/{name}")]
        if not found:
            continue
        epochs, values = zip(*found, strict=True)
        lowest = values.index(min(values))
        if name == "kl" and 0 < lowest < len(values) - 1:
            axes.plot(epochs[lowest], values[lowest], marker="v", color=color, ms=7, linestyle="")
            words += f", minimum at epoch {epochs[lowest]:.0f}"
        marker = "o" if len(epochs) < 3 else None
        axes.plot(epochs, values, color=color, linewidth=1.5, label=words, marker=marker, ms=4)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(frameon=False, fontsize=8, loc="best")


def _heat(axes: Axes, bar: Axes, kl: Mapping[str, Tensor], layer: str, stage: str) -> None:
    """Draw a heat map of the KL by latent dimension and epoch; all splits use the same order and colours."""
    final = [values[~values.isnan().any(1)][-1] for values in kl.values()]  # an epoch may lack validation metrics
    order = final[-1].argsort(descending=True)
    every = torch.cat([values.nan_to_num(0).flatten() for values in kl.values()])
    limits = {"vmin": min(0.0, float(every.min())), "vmax": max(0.0, float(every.max()))}  # an estimate may be negative
    epochs, dimensions = kl[stage].shape
    box = (0.5, epochs + 0.5, dimensions - 0.5, -0.5)
    values = kl[stage][:, order].T.numpy()
    look: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest", "cmap": "viridis", **limits}
    shown = axes.imshow(values, extent=box, **look)
    of_layer = f" of {_layer_name(layer)}" if layer else ""
    axes.set_title(f"KL per dimension{of_layer} (nats), {stage}", size=9, loc="left")
    if dimensions <= 20:
        axes.set_yticks(range(dimensions), [f"z{number}" for number in order.tolist()])
    else:
        axes.set_ylabel("latent dimensions, sorted by KL", size=8)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    assert axes.figure is not None
    axes.figure.colorbar(shown, cax=bar).ax.tick_params(labelsize=7)


def _of(row: Mapping[str, float], name: str) -> list[float]:
    """Return a list with the metric's value, whether normalised or not; it is empty if the row has no such value."""
    return [row[each] for each in (name, f"{name}_unnormalised") if each in row][:1]


def _layer_name(layer: str) -> str:
    """Return the name of a stochastic layer for use in titles: `layer 1` for `layer1`."""
    return layer.replace("layer", "layer ")


def _term(name: str) -> str:
    """Return a metric's name without the split and `_unnormalised`: `kl` for `val/kl`."""
    return name.partition("/")[2].removesuffix("_unnormalised")
