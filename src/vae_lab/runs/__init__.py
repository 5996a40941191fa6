"""Runs: run directories, and the objects that a configuration describes."""

from vae_lab.runs.build import build_data, build_each, build_module
from vae_lab.runs.run import Run, load

__all__ = ["Run", "build_data", "build_each", "build_module", "load"]
