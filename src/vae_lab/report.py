"""Write the page of a run again, its `report.html`: `python -m vae_lab.report run=outputs/vae/…`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vae_lab.cli.compose import compose
from vae_lab.cli.launch import launch


def report(overrides: Sequence[str] = ()) -> Path:
    """Write a page as the command line does, and return its file.

    Args:
        overrides: what would stand on the command line, such as `["run=outputs/vae/…"]`.

    Raises:
        ConfigError: for an unknown option.
        DataError: where the directory is no run, or something in it is damaged.
    """
    config, _ = compose("report", overrides)
    from vae_lab.commands.report import run  # heavy, and not for --help

    return run(config)


main = partial(launch, "vae_lab.commands.report")

if __name__ == "__main__":
    main()
