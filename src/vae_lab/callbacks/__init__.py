"""Callbacks of a training: what is drawn and when, what is measured. `conf/callbacks` has a YAML for each figure."""

from vae_lab.callbacks.clock import Clock
from vae_lab.callbacks.drawing import Drawing, write
from vae_lab.callbacks.images import (
    ClassSamples,
    Denoising,
    Interpolation,
    Manifold,
    Reconstructions,
    Samples,
    Transition,
    Traversals,
)
from vae_lab.callbacks.numbers import ClassMse, ClassReport, Curves, write_table
from vae_lab.callbacks.spaces import LatentBars, LatentMap, Tsne

__all__ = [
    "ClassMse",
    "ClassReport",
    "ClassSamples",
    "Clock",
    "Curves",
    "Denoising",
    "Drawing",
    "Interpolation",
    "LatentBars",
    "LatentMap",
    "Manifold",
    "Reconstructions",
    "Samples",
    "Transition",
    "Traversals",
    "Tsne",
    "write",
    "write_table",
]
