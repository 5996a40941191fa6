"""Regenerate a run's report, `report.html`: `python -m vae_lab.report run=outputs/vae/…`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vae_lab.cli.compose import compose
from vae_lab.cli.launch import launch


def report(overrides: Sequence[str] = ()) -> Path:
    """Write a report, as `vae-lab-report` does, and return the path of the file.

    Args:
        overrides: command-line overrides, such as `["run=outputs/vae/…"]`.

    Raises:
        ConfigError: if a key is unknown or a value is invalid.
        DataError: if the directory is not a run directory or contains a corrupt file.
    """
    config, _ = compose("report", overrides)
    from vae_lab.commands.report import run  # slow to import, and not needed for --help

    return run(config)


main = partial(launch, "vae_lab.commands.report")

if __name__ == "__main__":
    main()
