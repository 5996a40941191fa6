"""Workarounds for Hydra, Lightning and torch, and the one switch for all of them.

Each says what it costs to go without it, and has a name: `VAE_LAB_WITHOUT=onednn,profiler` in the environment switches
these two off, `VAE_LAB_WITHOUT=all` every one. None of them changes a result beyond rounding.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def enabled(name: str) -> bool:
    """Tell whether a workaround is switched on."""
    off = os.environ.get("VAE_LAB_WITHOUT", "").split(",")
    return name not in off and "all" not in off


@contextmanager
def variable(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable for a while, or remove it where the value is None."""
    before = os.environ.pop(name, None)
    os.environ.update({} if value is None else {name: value})
    try:
        yield
    finally:
        os.environ.pop(name, None)
        os.environ.update({} if before is None else {name: before})
