"""Figures: each is an object that draws a view. Nothing here knows Lightning, Hydra or the directory of a run.

Every class has one colour in all figures. Titles are two lines: what is shown, and of which model at which epoch.
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
