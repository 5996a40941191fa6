"""Describe the arguments of a class or function, based on its signature and docstring."""

import inspect
import re
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.errors import PydanticUserError

from vae_lab.checks import WORDS

BOUNDS = {"exclusiveMinimum": "greater than {:.12g}", "minimum": WORDS["greater_than_equal"].replace("ge:g", ":.12g")}
BOUNDS |= {"exclusiveMaximum": "less than {:.12g}", "maximum": WORDS["less_than_equal"].replace("le:g", ":.12g")}
TYPES = {"integer": WORDS["int_type"], "boolean": WORDS["bool_type"], "number": "a number", "string": "a string"}


def accepted(owner: Any, name: str) -> str:
    """Return a description of the values that an argument accepts, or an empty string if they are unknown."""
    hint = hints(owner).get(name) if owner is not None and owner.__module__.startswith("vae_lab.") else None
    config = None if inspect.isclass(hint) and issubclass(hint, Enum) else ConfigDict(arbitrary_types_allowed=True)
    try:
        return in_words(TypeAdapter(hint, config=config).json_schema()) if hint else ""
    except PydanticUserError:  # a type without a schema, such as a module
        return ""


def hints(owner: Any) -> dict[str, Any]:
    """Return the types of the arguments, including those of base classes in vae_lab."""
    if not inspect.isclass(owner) or is_dataclass(owner) or issubclass(owner, BaseModel):
        return get_type_hints(inspect.unwrap(owner), include_extras=True)
    found: dict[str, Any] = {}
    for each in reversed(inspect.getmro(owner)):
        if each.__module__.startswith("vae_lab.") and "__init__" in vars(each):
            found |= get_type_hints(inspect.unwrap(vars(each)["__init__"]), include_extras=True)
    return found


def in_words(schema: dict[str, Any]) -> str:
    """Return a description of a JSON schema in the wording of error messages."""
    schema = {**schema, **schema.get("$defs", {}).get(schema.get("$ref", "").rpartition("/")[2], {})}
    if "enum" in schema or "const" in schema:
        return " | ".join(f"`{each}`" for each in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        inner = [in_words({"$defs": schema.get("$defs", {}), **each}) for each in schema["anyOf"]]
        lists = [each for each in inner if each.startswith("a list")]
        others = list(dict.fromkeys(each for each in inner if each and each not in lists))
        choices = all(each.startswith("`") for each in others)
        return ", or ".join(filter(None, [(" | " if choices else " or ").join(others), *lists]))
    if schema.get("type") == "null":
        return "`null`"
    if schema.get("type") == "array":
        least, most = schema.get("minItems"), schema.get("maxItems")
        length = (f" of {least} or more values" if most is None else f" of {least} values") if least else ""
        each = in_words(schema.get("items", {}))
        return f"a list{length}" + (f", each {each}" if each else "")
    bounds = " and ".join(words.format(schema[key]) for key, words in BOUNDS.items() if key in schema)
    kind = TYPES.get(schema.get("type", ""), "")
    return f"{'' if kind == TYPES['number'] and bounds else kind} {bounds}".strip()


def documented(owner: Any) -> dict[str, str]:
    """Return the description of each argument from the docstrings of a class and its base classes."""
    found: dict[str, str] = {}
    for each in reversed(inspect.getmro(owner)) if inspect.isclass(owner) else [owner]:
        if each.__module__.startswith("vae_lab."):
            args = re.search(
                r"^(?:Args|Attributes):\n((?:    .*\n?|\n(?=    ))*)", inspect.cleandoc(each.__doc__ or ""), re.M
            )
            entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", args[1] if args else "", re.M)
            found |= {name: re.sub(r"\bNone\b", "`null`", " ".join(text.split()).rstrip(".")) for name, text in entries}
    return found
