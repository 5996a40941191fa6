"""Workarounds for Hydra, Lightning and torch, and the one switch for all of them.

Each says what it costs to go without it, and has a name: `VAE_LAB_WITHOUT=onednn,profiler` in the environment switches
these two off, `VAE_LAB_WITHOUT=all` every one. None of them changes a result beyond rounding.
"""

import os


def enabled(name: str) -> bool:
    """Tell whether a workaround is switched on."""
    off = os.environ.get("VAE_LAB_WITHOUT", "").split(",")
    return name not in off and "all" not in off
