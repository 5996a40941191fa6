"""Figures: tensors in, a matplotlib Figure out. Nothing here knows a model, a data set or a screen.

Every class has one colour in all figures. Titles are two lines: what is shown, and of which model at which epoch.
"""

from vae_lab.figures.charts import curves, points
from vae_lab.figures.images import Panel, class_mse, default_scale, grids, latent_bars, tiles
from vae_lab.figures.page import Title, class_colors

__all__ = [
    "Panel",
    "Title",
    "class_colors",
    "class_mse",
    "curves",
    "default_scale",
    "grids",
    "latent_bars",
    "points",
    "tiles",
]
