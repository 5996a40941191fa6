"""Figures of images, shown pixel by pixel: each of theirs is `scale` × `scale` of the figure's."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from vae_lab.figures.page import GREY, INK, PAPER, TRAINING, Page, Title, class_colors, text_width

GAP = 2  # between two images, in pixels
TILE = 56  # about the width of an image, where no scale is given


class Panel(NamedTuple):
    """A grid of images with words around it.

    Attributes:
        images: R rows of C images with values in [0, 1] (R, C, channels, H, W), 1 or 3 channels; NaN is left white.
        title: above the grid.
        rows: words before each row, none or R of them.
        columns: words above each column, none or C of them.
    """

    images: Tensor
    title: str = ""
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()


def default_scale(height: int, width: int) -> int:
    """Return how many pixels of a figure a pixel of an image gets, so that it can be seen."""
    return max(1, round(TILE / max(height, width)))


def tiles(images: Tensor, scale: int = 1, gap: int = GAP) -> np.ndarray:
    """Return a grid of images as one (height, width, 3), uint8: each pixel enlarged, white between the images.

    Args:
        images: values in [0, 1] (R, C, channels, H, W); others are clipped, NaN is white.
        scale: pixels that a pixel becomes, in both directions.
        gap: pixels between two images.

    Raises:
        ValueError: for images of other than 1 or 3 channels.
    """
    rows, columns, channels, height, width = images.shape
    if channels not in (1, 3):
        raise ValueError(f"images of {channels} channels cannot be shown: 1 is grey, 3 are red, green and blue")
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
        panels: the grids, of images of one shape.
        title: of the figure.
        scale: pixels of the figure that a pixel of an image gets, in both directions; None for what can be seen.
        gap: pixels between two images.
        across: how many grids stand side by side.
    """
    *_, height, width = panels[0].images.shape
    scale = scale or default_scale(height, width)
    drawn = [tiles(panel.images, scale, gap) for panel in panels]
    margins = [_margins(panel, width * scale) for panel in panels]
    lefts = max(left for left, _ in margins)  # the same for all, so that the grids stand in line
    boxes = [(lefts + grid.shape[1], top + grid.shape[0]) for grid, (_, top) in zip(drawn, margins, strict=True)]
    lines = [range(start, min(start + across, len(panels))) for start in range(0, len(panels), across)]
    heights = [max(boxes[place][1] for place in line) for line in lines]
    apart = 20
    wide = max(sum(boxes[place][0] for place in line) + apart * (len(line) - 1) for line in lines)
    page = Page(wide, sum(heights) + apart * (len(lines) - 1), title)
    y = 0
    for line, high in zip(lines, heights, strict=True):
        x = 0
        for place in line:
            panel, grid, (_, top) = panels[place], drawn[place], margins[place]
            _captioned(page, panel, grid, x + lefts, y + top, (height * scale, width * scale), gap)
            x += boxes[place][0] + apart
        y += high + apart
    return page.figure


def latent_bars(
    images: Tensor, mean: Tensor, std: Tensor | None, reconstructions: Tensor, title: Title, scale: int | None = None
) -> Figure:
    """Draw how images pass through the latent space: the image, its posterior's mean with σ as bars, what comes back.

    Args:
        images: what the encoder sees (N, C, H, W).
        mean: of the posterior of each (N, D).
        std: standard deviation of it (N, D); None for a point.
        reconstructions: (N, C, H, W).
        title: of the figure.
        scale: pixels of the figure that a pixel of an image gets; None for what can be seen.
    """
    count, _, height, width = images.shape
    scale = scale or 2 * default_scale(height, width)
    wide, high = width * scale, max(height * scale, 80)
    side, apart = 420, 14
    page = Page(wide + 50 + side + 20 + wide, 20 + count * (high + apart) + 24, title)
    page.write(0, 4, "input", va="top")
    page.write(wide + 50, 4, "code" if std is None else "posterior mean ± σ", va="top")
    page.write(wide + 70 + side, 4, "reconstruction", va="top")
    reach = float((mean.abs() + (0 if std is None else std)).max()) * 1.05 or 1.0
    for row in range(count):
        y = 24 + row * (high + apart)
        page.image(0, y, tiles(images[row][None, None], scale))
        axes = page.axes(wide + 50, y, side, high)
        errors = None if std is None else std[row].tolist()
        axes.bar(
            range(mean.shape[1]), mean[row].tolist(), yerr=errors, color=TRAINING, ecolor=INK, error_kw={"lw": 0.8}
        )
        axes.axhline(0, color=GREY, linewidth=0.6)
        axes.set_ylim(-reach, reach)
        axes.set_xlim(-0.6, mean.shape[1] - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        if row < count - 1:
            axes.set_xticklabels([])
        else:
            axes.set_xlabel("latent dimension", size=8)
        page.image(wide + 70 + side, y, tiles(reconstructions[row][None, None], scale))
    return page.figure


def class_mse(
    mse: Tensor, images: Tensor, names: Sequence[str], examples: Panel | None, title: Title, scale: int | None = None
) -> Figure:
    """Draw the mean squared error of each class as bars, over its best and its worst images.

    Args:
        mse: of each class (C,), NaN where it has no image.
        images: how many images each class has (C,).
        names: of the classes.
        examples: a column of images for each class; None for none.
        title: of the figure.
        scale: pixels of the figure that a pixel of an image gets; None for what can be seen.
    """
    count, left, high = len(names), 60, 200
    tile, below, grid = max(14, min(TILE, 1400 // count)), 20, None
    if examples is not None:
        *_, height, width = examples.images.shape
        scale = scale or default_scale(height, width)
        grid, tile = tiles(examples.images, scale), width * scale
        left = max(left, _margins(examples, tile)[0])
        below = 20 + grid.shape[0]
    turned = any(text_width(name, 8) > tile for name in names)
    room = max(text_width(name, 8) for name in names) if turned else 10
    wide = count * (tile + GAP) - GAP
    page = Page(left + wide, 20 + high + room + below, title)
    axes = page.axes(left, 20, wide, high)
    middles = [column * (tile + GAP) + tile / 2 for column in range(count)]  # each bar above its images
    heights = mse.nan_to_num(0).tolist()
    axes.bar(middles, heights, width=0.8 * tile, color=class_colors(count))
    top = max(heights) * 1.15 or 1.0
    look: dict[str, Any] = {"size": 7, "ha": "center", "va": "bottom", "bbox": PAPER, "zorder": 5}
    for middle, value, number in zip(middles, mse.tolist(), images.tolist(), strict=True):
        words = "n/a" if number == 0 else f"{value:.4f}"
        if tile >= text_width("0.0000", 7):
            axes.annotate(words, (middle, value if number else 0), (0, 2), textcoords="offset points", **look)
    mean = float(mse.nanmean())
    axes.axhline(mean, color=INK, linewidth=1, linestyle="--")
    axes.annotate(
        f"mean over classes {mean:.4f}", (wide, top), size=8, ha="right", va="bottom", color=INK, annotation_clip=False
    )
    axes.set_xlim(0, wide)
    axes.set_ylim(0, top)
    axes.set_xticks(middles, names, rotation=90 if turned else 0)
    for text in axes.get_xticklabels():
        text.set_parse_math(False)
    axes.set_ylabel("MSE", size=9)
    if examples is not None and grid is not None:
        tall = (grid.shape[0] + GAP) // examples.images.shape[0] - GAP
        _captioned(page, examples, grid, left, 20 + high + room + 16, (tall, tile))
    return page.figure


def _margins(panel: Panel, width: int) -> tuple[int, int]:
    """Return how many pixels the words take to the left of and above a grid of images so wide."""
    left = max((text_width(words, 8) for words in panel.rows), default=-8) + 8
    top = 18 if panel.title else 0
    if panel.columns:
        widest = max(text_width(words, 8) for words in panel.columns)
        top += 14 if widest <= width else widest + 6
    return left, top


def _captioned(
    page: Page, panel: Panel, grid: np.ndarray, x: int, y: int, size: tuple[int, int], gap: int = GAP
) -> None:
    """Show a grid of images of a size (height, width), and its words around it."""
    height, width = size
    page.image(x, y, grid)
    turned = any(text_width(words, 8) > width for words in panel.columns)
    if panel.title:
        page.write(x, y - _margins(panel, width)[1], panel.title, size=9, weight="bold", va="top")
    for row, words in enumerate(panel.rows):
        page.write(x - 8, y + row * (height + gap) + height // 2, words, ha="right", va="center")
    for column, words in enumerate(panel.columns):
        middle = x + column * (width + gap) + width // 2
        page.write(middle, y - 3, words, ha="center", va="bottom", rotation=90 if turned else 0)
