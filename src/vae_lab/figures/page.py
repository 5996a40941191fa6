"""Layout and saving of figures: exact sizes in pixels, titles, captions and colours."""

from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from vae_lab.files import replacing

DPI = 100
MARGIN = 16  # pixels
LEAST_WIDTH = 400  # pixels; leaves room for a title
INK, GREY = "#1a1a1a", "#5f5f5f"
PAPER = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}  # behind labels
TRAINING, VALIDATION = "#3f90da", "#bd1f01"  # class colours; light and dark when printed in greyscale


class Title(NamedTuple):
    """The two lines of a title, and the caption.

    The first line names the figure; the second names the model, the data and the epoch.
    """

    what: str
    model: str = ""
    caption: str = ""


def class_colors(count: int) -> list[Any]:
    """Return a colour for each class: Petroff's (arXiv 2107.02270) for up to ten classes, otherwise from a colour map.

    Petroff's colours can be distinguished by people with colour vision deficiency.
    """
    ten = matplotlib.color_sequences["petroff10"]
    if count <= len(ten):
        return list(ten[:count])
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 1, count)))


def canvas(width: int, height: int) -> Figure:
    """Return an empty figure of the given size in pixels; `save` enlarges it to include any text outside this area."""
    figure = Figure(figsize=(max(width, LEAST_WIDTH) / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: int, top: int, width: int, height: int) -> Axes:
    """Add axes of the given size at the given offset from the top-left corner, both in pixels."""
    axes = figure.add_axes(box(figure, left, top, width, height))
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def box(figure: Figure, left: int, top: int, width: int, height: int) -> tuple[float, float, float, float]:
    """Convert a box from pixels, measured from the top left, to figure fractions, measured from the bottom left."""
    wide, high = figure.bbox.width, figure.bbox.height
    return left / wide, 1 - (top + height) / high, width / wide, height / high


def add_image(figure: Figure, left: int, top: int, image: np.ndarray) -> Axes:
    """Add an image (height, width, 3) without resampling: each image pixel becomes one figure pixel."""
    height, width, _ = image.shape
    axes = add_axes(figure, left, top, width, height)
    axes.imshow(image, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes


def extent(axes: Axes) -> Bbox:
    """Return the bounding box of axes and their labels, in pixels from the bottom-left corner."""
    place = axes.get_tightbbox()
    assert place is not None
    return place


def titled(figure: Figure, title: Title) -> Figure:
    """Add a title above and a caption below the contents of a figure, and return the figure."""
    drawn = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    room = max(drawn.width, LEAST_WIDTH)
    write(figure, drawn.x0, drawn.y0 - 12, title.caption, room, size=8, color=GREY, va="top")
    top = drawn.y1 + 12
    for words, style in ((title.model, {"size": 9, "color": GREY}), (title.what, {"size": 12, "weight": "bold"})):
        if words:
            top = write(figure, drawn.x0, top, words, room, va="bottom", **style).get_window_extent().y1 + 4
    return figure


def write(figure: Figure, x: float, y: float, words: str, room: float, **style: Any) -> Text:
    """Add text, wrapped to about `room` pixels, at a position in pixels from the bottom-left corner."""
    place = (x / figure.bbox.width, y / figure.bbox.height)
    text = figure.text(*place, words, parse_math=False, linespacing=1.25, **{"color": INK, **style})
    width = text.get_window_extent().width
    if width > room:
        text.set_text(fill(words, int(len(words) * room / width), break_long_words=False, break_on_hyphens=False))
    return text


def save(figure: Figure, file: Path) -> None:
    """Save a figure atomically as a PNG file, with a margin around the contents; create the directory if needed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # whole pixels, so that images are not resampled
    corners = np.rint(figure.get_tightbbox().get_points() * DPI) + np.array([[-MARGIN], [MARGIN]])
    with replacing(file) as temporary:
        area = Bbox(corners / DPI)
        figure.savefig(temporary, format="png", bbox_inches=area, pil_kwargs={"compress_level": 2})
