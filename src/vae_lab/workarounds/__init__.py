"""Workarounds for Hydra, Lightning and torch, with one switch for all of them.

Each has a name, and its docstring states the cost of doing without it. The environment variable
`VAE_LAB_WITHOUT=onednn,profiler` disables these two, `VAE_LAB_WITHOUT=all` all of them. Results change by rounding at
most.
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
    """Set an environment variable temporarily, or unset it if the value is None."""
    before = os.environ.pop(name, None)
    os.environ.update({} if value is None else {name: value})
    try:
        yield
    finally:
        os.environ.pop(name, None)
        os.environ.update({} if before is None else {name: before})
