"""Draw figures of a finished run, or write samples: `python -m vae_lab.generate run=outputs/vae/… figure=samples`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vae_lab.cli.compose import compose
from vae_lab.cli.launch import launch


def generate(overrides: Sequence[str] = ()) -> list[Path]:
    """Do as the command line does, and return the files that were written.

    Args:
        overrides: what would stand on the command line, such as `["run=outputs/vae/…", "figure=[samples,manifold]"]`.

    Raises:
        ConfigError: for a value that cannot work, or a figure that does not fit the model.
        DataError: where the run, its checkpoint or its data are missing or damaged.
    """
    config, _ = compose("generate", overrides)
    from vae_lab.commands.generate import run  # heavy, and not for --help

    return run(config)


main = partial(launch, "vae_lab.commands.generate")

if __name__ == "__main__":
    main()
