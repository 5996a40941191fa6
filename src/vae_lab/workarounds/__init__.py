"""Workarounds for Hydra, Lightning and torch. An environment variable can disable them.

Each workaround has a name, and its docstring states the cost of disabling it. Set `VAE_LAB_WITHOUT=onednn,profiler` to
disable those two, or `VAE_LAB_WITHOUT=all` to disable all workarounds. Disabling them changes results only by rounding
error.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def enabled(name: str) -> bool:
    """Return whether a workaround is enabled."""
    off = os.environ.get("VAE_LAB_WITHOUT", "").split(",")
    return name not in off and "all" not in off


@contextmanager
def variable(name: str, value: str | None) -> Iterator[None]:
    """Temporarily set an environment variable, or unset it if the value is None."""
    before = os.environ.pop(name, None)
    os.environ.update({} if value is None else {name: value})
    try:
        yield
    finally:
        os.environ.pop(name, None)
        os.environ.update({} if before is None else {name: before})
