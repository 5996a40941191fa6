"""What can go wrong for reasons that the user can mend, and the exit code of each."""


def one_line(text: object) -> str:
    """Return a text, such as that of an error, with its lines joined by spaces."""
    return " ".join(line.strip() for line in str(text).splitlines() if line.strip())


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
