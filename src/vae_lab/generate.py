"""Draw figures for a run, or write samples: `python -m vae_lab.generate run=outputs/vae/… figure=samples`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vae_lab.cli.compose import compose
from vae_lab.cli.launch import launch


def generate(overrides: Sequence[str] = ()) -> list[Path]:
    """Draw figures or write samples, as `vae-lab-generate` does, and return the paths of the new files.

    Args:
        overrides: command-line overrides, such as `["run=outputs/vae/…", "figure=[samples,manifold]"]`.

    Raises:
        ConfigError: if a value is invalid, or a figure cannot be drawn for the model.
        DataError: if the run, its checkpoint or its data set is missing or corrupt.
    """
    config, _ = compose("generate", overrides)
    from vae_lab.commands.generate import run  # slow to import, and not needed for --help

    return run(config)


main = partial(launch, "vae_lab.commands.generate")

if __name__ == "__main__":
    main()
