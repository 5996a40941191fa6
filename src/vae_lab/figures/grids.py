"""Image grids in which each image pixel covers `scale` × `scale` figure pixels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from vae_lab.figures.page import (
    GREY,
    INK,
    PAPER,
    TRAINING,
    Title,
    add_axes,
    add_image,
    box,
    canvas,
    class_colors,
    extent,
    titled,
)

GAP = 2  # pixels between two images
GUTTER = 20  # pixels between two grids
TILE = 56  # approximate side length of an image in pixels if no scale is given


class Panel(NamedTuple):
    """A grid of images with a title and labels.

    Attributes:
        images: R rows of C images (R, C, channels, H, W) with 1 or 3 channels and values in [0, 1]; NaN is white.
        title: title above the grid.
        rows: R row labels; empty for no labels.
        columns: C column labels; empty for no labels.
    """

    images: Tensor
    title: str = ""
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()


def default_scale(height: int, width: int) -> int:
    """Return the scale at which the longer side of an image is about `TILE` figure pixels."""
    return max(1, round(TILE / max(height, width)))


def tiles(images: Tensor, scale: int = 1, gap: int = GAP) -> np.ndarray:
    """Return a grid of enlarged images on a white background as a single uint8 image (height, width, 3).

    Args:
        images: pixel values (R, C, channels, H, W), clipped to [0, 1]; NaN is white.
        scale: side length of each image pixel, in figure pixels.
        gap: number of pixels between adjacent images.

    Raises:
        ValueError: if the images do not have 1 or 3 channels.
    """
    rows, columns, channels, height, width = images.shape
    if channels not in (1, 3):
        raise ValueError(f"images with {channels} channels cannot be shown; expected 1 (grey) or 3 (RGB)")
    values = images.detach().float().cpu().nan_to_num(nan=1.0).clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels = values.expand(-1, -1, 3, -1, -1).permute(0, 1, 3, 4, 2).numpy()  # (R, C, H, W, 3)
    pixels = pixels.repeat(scale, axis=2).repeat(scale, axis=3)
    high, wide = height * scale + gap, width * scale + gap
    grid = np.full((rows, high, columns, wide, 3), 255, dtype=np.uint8)
    grid[:, : height * scale, :, : width * scale] = pixels.transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * high, columns * wide, 3)[: rows * high - gap, : columns * wide - gap]


def grids(panels: Sequence[Panel], title: Title, scale: int | None = None, gap: int = GAP, across: int = 1) -> Figure:
    """Draw grids of images.

    Args:
        panels: grids to draw; all images must have the same shape.
        title: title of the figure.
        scale: side length of each image pixel, in figure pixels; None for a readable size.
        gap: number of pixels between adjacent images.
        across: number of grids in each row.
    """
    *_, height, width = panels[0].images.shape
    scale = scale or default_scale(height, width)
    drawn = [tiles(panel.images, scale, gap) for panel in panels]
    lines = [range(start, min(start + across, len(panels))) for start in range(0, len(panels), across)]
    figure = canvas(max(sum(drawn[place].shape[1] + GUTTER for place in line) for line in lines) - GUTTER, 1000)
    top = 0
    for line in lines:
        axes = [add_image(figure, 0, 0, drawn[place]) for place in line]
        above = max(
            caption(each, panels[place], height * scale, width * scale, gap)
            for each, place in zip(axes, line, strict=True)
        )
        left, top = 0, top + above
        for each, place in zip(axes, line, strict=True):
            high, wide, _ = drawn[place].shape
            each.set_position(box(figure, left, top, wide, high))
            left += wide + GUTTER
        top += max(drawn[place].shape[0] for place in line) + GUTTER
    return titled(figure, title)


def caption(axes: Axes, panel: Panel, height: int, width: int, gap: int = GAP) -> int:
    """Add a panel's title and labels to its grid, and return the height in pixels that they occupy above the grid.

    `height` and `width` are the dimensions of each image in pixels.
    """
    if panel.rows:
        axes.set_yticks([row * (height + gap) + height / 2 for row in range(len(panel.rows))], panel.rows)
    if panel.columns:
        axes.xaxis.tick_top()
        axes.set_xticks([column * (width + gap) + width / 2 for column in range(len(panel.columns))], panel.columns)
        turn_if_wider(axes, width)
    axes.tick_params(length=0, pad=4)
    axes.set_title(panel.title, size=9, weight="bold", loc="left")
    for text in axes.get_xticklabels() + axes.get_yticklabels():
        text.set_parse_math(False)
    return round(extent(axes).y1 - axes.bbox.y1)


def turn_if_wider(axes: Axes, width: int) -> None:
    """Rotate the labels of the horizontal axis by 90° if any of them is wider than `width` pixels."""
    if any(text.get_window_extent().width > width for text in axes.get_xticklabels()):
        axes.tick_params(axis="x", labelrotation=90)


def latent_bars(
    images: Tensor,
    mean: Tensor,
    std: Tensor | None,
    reconstructions: Tensor,
    center: str,
    title: Title,
    scale: int | None = None,
) -> Figure:
    """Draw each image, bars for its posterior mean and σ, and its reconstruction.

    Args:
        images: inputs to the encoder (N, C, H, W).
        mean: posterior means (N, D).
        std: posterior standard deviations (N, D); None for a point posterior or if they have no closed form.
        reconstructions: mean reconstructions (N, C, H, W).
        center: name of the values in `mean`, used to label the bars.
        title: title of the figure.
        scale: side length of each image pixel, in figure pixels; None for a readable size.
    """
    count, _, height, width = images.shape
    scale = scale or 2 * default_scale(height, width)
    wide, step, side = width * scale, max(height * scale, 80) + 14, 420
    figure = canvas(wide + 50 + side + GUTTER + wide, count * step)
    reach = float((mean.abs() + (0 if std is None else std)).max()) * 1.05 or 1.0
    for row in range(count):
        given = add_image(figure, 0, row * step, tiles(images[row][None, None], scale))
        axes = add_axes(figure, wide + 50, row * step, side, step - 14)
        back = add_image(figure, wide + 50 + side + GUTTER, row * step, tiles(reconstructions[row][None, None], scale))
        errors = None if std is None else std[row].tolist()
        look: dict[str, Any] = {"color": TRAINING, "ecolor": INK, "error_kw": {"lw": 0.8}}
        axes.bar(range(mean.shape[1]), mean[row].tolist(), yerr=errors, **look)
        axes.axhline(0, color=GREY, linewidth=0.6)
        axes.set(ylim=(-reach, reach), xlim=(-0.6, mean.shape[1] - 0.4))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        if row == 0:
            names = ("input", center if std is None else f"{center} ± σ", "reconstruction")
            for each, name in zip((given, axes, back), names, strict=True):
                each.set_title(name, size=8, color=INK, loc="left")
        if row < count - 1:
            axes.set_xticklabels([])
    axes.set_xlabel("latent dimension", size=8)
    return titled(figure, title)


def class_mse(
    mse: Tensor, images: Tensor, names: Sequence[str], examples: Panel | None, title: Title, scale: int | None = None
) -> Figure:
    """Draw the mean squared error of each class as a bar above the best and worst images of the class.

    Args:
        mse: mean squared error of each class (C,), NaN for a class without images.
        images: number of images in each class (C,).
        names: names of the classes.
        examples: a column of images for each class; None for no images.
        title: title of the figure.
        scale: side length of each image pixel, in figure pixels; None for a readable size.
    """
    count, high = len(names), 200
    tile = max(14, min(TILE, 1400 // count))
    if examples is not None:
        *_, height, width = examples.images.shape
        pixels = scale or default_scale(height, width)
        tile = width * pixels
    wide = count * (tile + GAP) - GAP
    figure = canvas(wide, high)
    axes = add_axes(figure, 0, 0, wide, high)
    middles = [column * (tile + GAP) + tile / 2 for column in range(count)]  # align each bar with its images
    heights = mse.nan_to_num(0).tolist()
    axes.bar(middles, heights, width=0.8 * tile, color=class_colors(count))
    top, mean = max(heights) * 1.15 or 1.0, float(mse.nanmean())
    look: dict[str, Any] = {"size": 7, "ha": "center", "va": "bottom", "bbox": PAPER, "zorder": 5}
    for middle, value, number in zip(middles, mse.tolist(), images.tolist(), strict=True):
        if tile >= 30:  # the width of a label
            words, place = ("n/a", 0) if number == 0 else (f"{value:.4f}", value)
            axes.annotate(words, (middle, place), (0, 2), textcoords="offset points", **look)
    axes.axhline(mean, color=INK, linewidth=1, linestyle="--")
    axes.set_title(f"mean over classes {mean:.4f}", size=8, color=INK, loc="right")
    axes.set(xlim=(0, wide), ylim=(0, top))
    axes.set_xticks(middles, names, parse_math=False)
    turn_if_wider(axes, tile)
    axes.set_ylabel("MSE", size=9)
    if examples is not None:
        below = high + 8 + round(axes.bbox.y0 - extent(axes).y0)
        grid = add_image(figure, 0, below, tiles(examples.images, pixels))
        caption(grid, examples, height * pixels, tile)
    return titled(figure, title)
