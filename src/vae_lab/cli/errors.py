"""From an error to the one line and the exit code that a user sees."""

import re

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from vae_lab.errors import ConfigError, VaeLabError, one_line


def exit_code(error: Exception) -> int:
    """Return what the shell is told: 1 for an internal error, else that of the error's kind."""
    if isinstance(error, VaeLabError):
        return error.exit_code
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return ConfigError.exit_code
    return 1


def explain(error: Exception) -> str:
    """Return one line that says what is wrong and, where Hydra knows, what there is to choose from."""
    cause = error.__cause__
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.parent_node is not None:
        return f"{cause.full_key} is no key: there are {', '.join(sorted(map(str, cause.parent_node)))}"
    text = str(error)
    if isinstance(error, OverrideParseException) and error.override not in text:
        text = f"{error.override}: {text}"
    if "Unknown function" in text:
        text = f"{text.splitlines()[0]}: a value with parentheses stands in quotes of its own, as in \"key='value(1)'\""
    if isinstance(cause, OmegaConfBaseException):
        text += f": {cause}"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        hints = r"In '\w+': |^\s*(full_key|object_type|reference_type|Config search path|provider=|See http).*$"
        text = re.sub(hints, "", text, flags=re.MULTILINE)
    return one_line(text) or type(error).__name__
