"""Errors that users can resolve, and their exit codes."""

from collections.abc import Iterable
from difflib import get_close_matches


def one_line(text: object) -> str:
    """Return the text with its lines stripped and joined with spaces."""
    return " ".join(line.strip() for line in str(text).splitlines() if line.strip())


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return a hint about an unknown name: the closest option, or all options if there are at most eight, or nothing.

    >>> did_you_mean("LatentDim", ["latent_dim", "seed"])
    "; did you mean 'latent_dim'?"
    >>> did_you_mean("x", ["latent_dim", "seed"])
    '; expected one of latent_dim, seed'
    >>> did_you_mean("x", "abcdefghi")
    ''
    """
    options = list(options)
    in_lower_case = {option.lower(): option for option in options}
    if closest := get_close_matches(name.lower(), in_lower_case, n=1, cutoff=0.8):
        return f"; did you mean '{in_lower_case[closest[0]]}'?"
    return f"; expected one of {', '.join(options)}" if 0 < len(options) <= 8 else ""


class VaeLabError(Exception):
    """Base class for errors that end a command with a one-line message and the exit code `exit_code`."""

    exit_code = 1

    def __init__(self, *text: object) -> None:
        super().__init__(*map(one_line, text))


class ConfigError(VaeLabError):
    """An invalid value or combination of values. The message states the key, the value and what was expected."""

    exit_code = 2


class DataError(VaeLabError):
    """Data or a run that is missing, corrupt or of the wrong kind. The message states the path and what to do."""

    exit_code = 3


class NonFiniteError(VaeLabError):
    """A NaN or infinite loss. The message names the step and the term. The weights are not updated."""

    exit_code = 4
