"""Exit codes and one-line messages for errors, including Hydra and OmegaConf errors."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    ValidationError,
)

from vae_lab.cli.schema import Config
from vae_lab.errors import ConfigError, VaeLabError, did_you_mean, one_line

PRESETS = {"model", "experiment"}
GROUPS = PRESETS | {field.name for field in fields(Config) if field.type == dict[str, Any]}

EXPECTED = {  # OmegaConf messages about a value, and what was expected
    r"could not be converted to Integer": "must be a whole number",
    r"is not a valid bool": "must be true or false",
    r"is not Optional": "must not be null",
    r"Cannot convert '\w+' to string": "must be a string",
    r"is not a ListConfig, list or tuple": "must be a list",
    r"expected one of \[(.+)\]": "must be {0}",
}


def exit_code(error: Exception) -> int:
    """Return the exit code: the one defined by the error's class, 2 for Hydra and OmegaConf errors, and 1 otherwise."""
    if isinstance(error, VaeLabError):
        return error.exit_code
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return ConfigError.exit_code
    return 1


def explain(error: Exception, overrides: Sequence[str] = ()) -> str:
    """Return one line that says what is wrong, what was expected and, where possible, what to do.

    Args:
        error: any error; Hydra and OmegaConf errors are reworded.
        overrides: the overrides of the command, searched if Hydra's error does not name the invalid override.
    """
    text, cause = str(error), error.__cause__
    if isinstance(error, OverrideParseException):
        return explain_syntax(error.override, text)
    if isinstance(error, MissingConfigException) and "/" in str(error.missing_cfg_file):
        group, _, name = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
        kind = "preset" if group in PRESETS else "component"
        hint = did_you_mean(name, [option for option in error.options or () if not option.startswith("_")])
        return f"{group}={name}: unknown {kind}{hint or f'; --help lists the available {kind}s'}"
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.parent_node is not None:
        return unknown_key(str(cause.full_key), cause.parent_node if isinstance(cause.parent_node, DictConfig) else ())
    if isinstance(cause, ValidationError) and text.startswith("Error merging override "):
        return f"{text.removeprefix('Error merging override ')}: {expected(cause)}"
    if isinstance(error, InterpolationResolutionError):
        reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", text.splitlines()[0]).strip('"')
        return f"{error.full_key}: {reason[:1].lower()}{reason[1:]}"
    if text.startswith("Config group override must be"):
        wrong = [each for each in overrides if each.partition("=")[0] in GROUPS | {""} and not names_component(each)]
        return f"{wrong[0] if wrong else 'config group'}: expected <group>=<component>"
    if found := re.match(r"Ambiguous value for argument '(.+?)=(.*)'$|Sweep parameters '(.+)' requires", text, re.M):
        key, value, sweep = found.groups()
        hint = f"; write a list as {key}=[{value}]" if key and key not in GROUPS else ""
        return f"{sweep or f'{key}={value}'}: a sweep requires the -m flag{hint}"
    if found := re.search(r"An item is already at '(.+?)'", text):
        return f"+{found[1]}: the key already exists; use {found[1]}=… to change its value"
    if found := re.match(r"Could not delete from config. '(.+)' does not exist", text):
        return f"~{found[1]}: unknown key"
    if found := re.match(r"Could not delete '(.+)'. No match in the defaults list", text):
        return f"~{found[1]}: not selected, so it cannot be removed"
    if isinstance(cause, OmegaConfBaseException):
        text += f": {cause}"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        hints = r"In '[\w/]+': |^\s*(full_key|object_type|reference_type|Config search path|provider=|See http).*$"
        text = re.sub(hints, "", text, flags=re.MULTILINE)
    return one_line(text) or type(error).__name__


def unknown_key(key: str, siblings: Iterable[Any]) -> str:
    """Return the message for a key that does not exist, suggesting the closest key at the same level.

    >>> unknown_key("trainer.max_epoch", ["max_epochs", "max_steps"])
    "unknown key 'trainer.max_epoch'; did you mean 'trainer.max_epochs'?"
    """
    parent, dot, name = key.rpartition(".")
    names = {str(each) for each in siblings} - {"hydra"}
    if not dot and names >= GROUPS - PRESETS:  # presets can be selected, but are not stored in the configuration
        names |= PRESETS
    hint = did_you_mean(name, sorted(each for each in names if not each.startswith("_")))
    hint = hint.replace("did you mean '", f"did you mean '{parent}{dot}")
    if parent == "trainer":
        hint = hint or f"; use +{key}=… if this is an option of Lightning's Trainer"
    return f"unknown key '{key}'{hint or '; --help lists the keys'}"


def explain_syntax(override: str, text: str) -> str:
    """Return the message for an override that Hydra cannot parse."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override}: expected key=value"
    if "Unknown function" in text:
        return f"{override}: a value with parentheses must be quoted, as in \"{key}='{value}'\""
    return f"{override}: invalid syntax; close all brackets, and quote special characters, as in \"name='a=b'\""


def expected(error: ValidationError) -> str:
    """Return a description of the value that OmegaConf expected."""
    for pattern, words in EXPECTED.items():
        if found := re.search(pattern, str(error)):
            return words.format(*(group.replace(", ", " or ") for group in found.groups()))
    return one_line(str(error).splitlines()[0])


def names_component(override: str) -> bool:
    value = override.partition("=")[2]
    return re.fullmatch(r"[A-Za-z_][\w/.-]*", value) is not None and value not in ("null", "true", "false")
