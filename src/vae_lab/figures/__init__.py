"""Figures: objects that plot a `View` of a model. They do not depend on Lightning, Hydra or run directories.

A class has the same colour in all figures. The first line of a title names the figure; the second names the model, the
data and the epoch.
"""

from vae_lab.figures.charts import points
from vae_lab.figures.figure import Figure, Grid, Labels
from vae_lab.figures.grids import Panel, grids, tiles
from vae_lab.figures.images import (
    ClassSamples,
    Denoising,
    Interpolation,
    Manifold,
    Reconstructions,
    Samples,
    Transfer,
    Transition,
    Traversals,
)
from vae_lab.figures.numbers import ClassMse, Curves
from vae_lab.figures.page import Title, save
from vae_lab.figures.spaces import LatentBars, LatentMap, Tsne

__all__ = [
    "ClassMse",
    "ClassSamples",
    "Curves",
    "Denoising",
    "Figure",
    "Grid",
    "Interpolation",
    "Labels",
    "LatentBars",
    "LatentMap",
    "Manifold",
    "Panel",
    "Reconstructions",
    "Samples",
    "Title",
    "Transfer",
    "Transition",
    "Traversals",
    "Tsne",
    "grids",
    "points",
    "save",
    "tiles",
]
