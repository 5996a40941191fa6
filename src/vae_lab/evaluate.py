"""Test a finished run again: `python -m vae_lab.evaluate run=outputs/vae/…`, on its own data or on others."""

from collections.abc import Sequence
from functools import partial

from vae_lab.cli.compose import compose
from vae_lab.cli.launch import launch


def evaluate(overrides: Sequence[str] = ()) -> dict[str, float]:
    """Test as the command line does, and return the numbers by name: `test/elbo`, …

    Args:
        overrides: what would stand on the command line, such as `["run=outputs/vae/…", "data=mnist"]`.

    Raises:
        ConfigError: for a value that cannot work, or data of another shape.
        DataError: where the run, its checkpoint or the data are missing or damaged.
    """
    config, _ = compose("evaluate", overrides)
    from vae_lab.commands.evaluate import run  # heavy, and not for --help

    return run(config)


main = partial(launch, "vae_lab.commands.evaluate")

if __name__ == "__main__":
    main()
