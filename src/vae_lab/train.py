"""Train one model: `python -m vae_lab.train model=bernoulli_mlp latent_dim=2`."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from vae_lab.cli.compose import compose
from vae_lab.cli.launch import launch

if TYPE_CHECKING:
    from vae_lab.runs import Run


def train(overrides: Sequence[str] = ()) -> "Run":
    """Train as the command line does, and return the run: its metrics, module, data and path.

    Args:
        overrides: command-line arguments, such as `["model=ae_mlp", "latent_dim=2", "data=digits"]`.

    Raises:
        ConfigError: for a value, or a combination of values, that cannot work.
        DataError: where data, or a run to resume, are missing or damaged.
        NonFiniteError: where the loss stops being a number.
    """
    config, path = compose("train", overrides)
    from vae_lab.commands.train import run  # heavy, and not for --help

    return run(config, path, overrides)


main = partial(launch, "vae_lab.commands.train")

if __name__ == "__main__":
    main()
