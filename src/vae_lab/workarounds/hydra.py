"""Workarounds for Hydra. This module is imported for `--help`, so it must not import torch."""

from hydra.core.config_store import ConfigStore

from vae_lab.workarounds import enabled


def share_config_store() -> None:
    """`config_store`: share Hydra's config store instead of copying it.

    Hydra copies the whole store each time it lists a config group, 124 times for a single `--help`, although nothing
    modifies the copies. Without this workaround, `--help` takes twice as long (1.2 s instead of 0.6 s).
    """
    if enabled("config_store"):
        ConfigStore.__deepcopy__ = lambda store, _: store  # type: ignore[attr-defined]
