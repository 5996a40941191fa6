"""Runs: a directory that holds everything about one training, and the objects that its configuration describes."""

from vae_lab.runs.build import build_data, build_each, build_module
from vae_lab.runs.run import Run, load

__all__ = ["Run", "build_data", "build_each", "build_module", "load"]
