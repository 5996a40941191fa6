"""Workarounds for Hydra. Nothing heavy is imported here: `--help` imports this file."""

from hydra.core.config_store import ConfigStore

from vae_lab.workarounds import enabled


def share_config_store() -> None:
    """`config_store`: hand out Hydra's config store itself where Hydra copies it.

    Hydra copies the whole store each time it lists a config group, 124 times for one `--help`, to protect it from
    changes that nobody makes. Without this, `--help` takes twice as long (1.2 s instead of 0.6 s).
    """
    if enabled("config_store"):
        ConfigStore.__deepcopy__ = lambda store, _: store  # type: ignore[attr-defined]
