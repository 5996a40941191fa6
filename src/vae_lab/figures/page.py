"""The page that a figure is drawn on, in pixels: its title, its caption, its colours."""

from math import ceil
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

DPI = 100
MARGIN = 16  # around a page, in pixels
LEAST_WIDTH = 400  # of the content, so that a title has room
INK, GREY = "#1a1a1a", "#5f5f5f"
PAPER = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}  # behind words
TRAINING, VALIDATION = "#3f90da", "#bd1f01"  # of the classes' colours: one light, one dark in grey print
_ruler = RendererAgg(1, 1, DPI)


class Title(NamedTuple):
    """What a figure shows, of which model at which epoch, and below it what else a reader must know."""

    what: str
    model: str = ""
    caption: str = ""


def class_colors(count: int) -> list[Any]:
    """Return a colour for each class: Petroff's ten (arXiv 2107.02270), or more from a map.

    The ten can be told apart by the colour-blind.
    """
    ten = matplotlib.color_sequences["petroff10"]
    if count <= len(ten):
        return list(ten[:count])
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 1, count)))


def text_width(words: str, size: float, weight: str = "normal") -> int:
    """Return how many pixels wide words are, rounded up."""
    font = FontProperties(size=size, weight=weight)
    return ceil(max(_ruler.get_text_width_height_descent(line, font, False)[0] for line in words.split("\n")))


def wrapped(words: str, size: float, weight: str, width: int) -> str:
    """Return words broken into lines of at most so many pixels, where there is a space to break at."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size, weight) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


class Page:
    """A figure with a title and a caption, on which places are pixels from the left and from the top of the content.

    Args:
        width: of the content in pixels; a page is wide enough for a title and for every word at least.
        height: of the content in pixels.
        title: stands above it, its caption below.
    """

    def __init__(self, width: int, height: int, title: Title) -> None:
        fonts = ((title.what, 12, "bold"), (title.model, 9, "normal"), (title.caption, 8, "normal"))
        widths = [text_width(word, size, weight) for text, size, weight in fonts for word in text.split()]
        inner = max(width, LEAST_WIDTH, *widths)  # words are not broken
        self.width, self.left = inner + 2 * MARGIN, MARGIN + (inner - width) // 2
        head = [(wrapped(title.what, 12, "bold", inner), 12, "bold", INK, 20)]
        head += [(wrapped(title.model, 9, "normal", inner), 9, "normal", GREY, 16)] if title.model else []
        foot = wrapped(title.caption, 8, "normal", inner) if title.caption else ""
        self.top = MARGIN + sum(step * (words.count("\n") + 1) for words, *_, step in head) + 8
        below = 10 + 14 * (foot.count("\n") + 1) if foot else 0
        self.height = self.top + height + below + MARGIN
        self.figure = Figure(figsize=(self.width / DPI, self.height / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)
        place = MARGIN
        for words, size, weight, color, step in head:
            self._write(MARGIN, place, words, size=size, weight=weight, color=color, va="top", linespacing=1.25)
            place += step * (words.count("\n") + 1)
        if foot:
            y = self.top + height + 10
            self._write(MARGIN, y, foot, size=8, color=GREY, va="top", linespacing=1.25)

    def axes(self, left: int, top: int, width: int, height: int) -> Axes:
        """Return axes at a place on the page."""
        bottom = self.height - self.top - top - height
        box = ((self.left + left) / self.width, bottom / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(box)
        axes.tick_params(labelsize=8, colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
        return axes

    def image(self, left: int, top: int, grid: np.ndarray) -> Axes:
        """Show an image (height, width, 3) as it is, a pixel a pixel."""
        height, width, _ = grid.shape
        axes = self.axes(left, top, width, height)
        axes.imshow(grid, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        return axes

    def write(self, x: int, y: int, words: str, size: float = 8, **options: Any) -> None:
        """Write words at a place."""
        self._write(self.left + x, self.top + y, words, size=size, **{"color": INK, **options})

    def _write(self, x: int, y: int, words: str, **options: Any) -> None:
        self.figure.text(x / self.width, 1 - y / self.height, words, parse_math=False, **options)
