"""Test a run again, on its own data or on different data: `python -m vae_lab.evaluate run=outputs/vae/…`."""

from collections.abc import Sequence
from functools import partial

from vae_lab.cli.compose import compose
from vae_lab.cli.launch import launch


def evaluate(overrides: Sequence[str] = ()) -> dict[str, float]:
    """Test a run, as `vae-lab-evaluate` does, and return the metrics by name, such as `test/elbo`.

    Args:
        overrides: command-line overrides, such as `["run=outputs/vae/…", "data=mnist"]`.

    Raises:
        ConfigError: if a value is invalid or the images do not have the shape that the model expects.
        DataError: if the run, its checkpoint or the data set is missing or corrupt.
    """
    config, _ = compose("evaluate", overrides)
    from vae_lab.commands.evaluate import run  # slow to import, and not needed for --help

    return run(config)


main = partial(launch, "vae_lab.commands.evaluate")

if __name__ == "__main__":
    main()
