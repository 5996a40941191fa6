"""What can go wrong for reasons that the user can mend, and the exit code of each."""

from collections.abc import Iterable
from difflib import get_close_matches


def one_line(text: object) -> str:
    """Return a text, such as that of an error, with its lines joined by spaces."""
    return " ".join(line.strip() for line in str(text).splitlines() if line.strip())


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return the hint that ends an error about an unknown name: the closest option, or all where there are few.

    >>> did_you_mean("latentdim", ["latent_dim", "likelihood"])
    "; did you mean 'latent_dim'?"
    """
    options = list(options)
    if close := get_close_matches(name, options, n=1):
        return f"; did you mean '{close[0]}'?"
    return f"; expected one of {', '.join(options)}" if 0 < len(options) <= 8 else ""


class VaeLabError(Exception):
    """Base of the errors that end a command with one line; `exit_code` is what the shell sees."""

    exit_code = 1

    def __init__(self, *text: object) -> None:
        super().__init__(*map(one_line, text))


class ConfigError(VaeLabError):
    """A value, or a combination of values, that cannot work: names the key, the value and what can."""

    exit_code = 2


class DataError(VaeLabError):
    """Data or a stored run that is missing, damaged or of the wrong kind: names the path and the way out."""

    exit_code = 3


class NonFiniteError(VaeLabError):
    """A loss that is not a number or infinite: names the step and the term, before the weights take harm."""

    exit_code = 4
