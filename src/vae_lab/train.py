"""Train one model: `python -m vae_lab.train model=bernoulli_mlp latent_dim=2`."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from vae_lab.cli.compose import compose
from vae_lab.cli.launch import launch

if TYPE_CHECKING:
    from vae_lab.runs import Run


def train(overrides: Sequence[str] = ()) -> "Run":
    """Train a model, as `vae-lab-train` does, and return the run with its metrics, module, data and path.

    Args:
        overrides: as on the command line, such as `["model=ae_mlp", "latent_dim=2", "data=digits"]`.

    Raises:
        ConfigError: if a value or a combination of values is invalid.
        DataError: if the data or the run to resume is missing or corrupt.
        NonFiniteError: if the loss becomes NaN or infinite.
    """
    config, path = compose("train", overrides)
    from vae_lab.commands.train import run  # slow to import, and not needed for --help

    return run(config, path, overrides)


main = partial(launch, "vae_lab.commands.train")

if __name__ == "__main__":
    main()
