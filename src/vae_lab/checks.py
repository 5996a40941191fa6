"""Argument checks: constructors declare constraints as pydantic types, and errors are reported in one line.

class Gaussian(Head):
    @checked
    def __init__(self, scale: PositiveFloat = 1.0, mean: Literal["sigmoid", "identity"] = "sigmoid") -> None: ...
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError, validate_call

from vae_lab.errors import one_line

STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, extra="forbid", defer_build=True)
checked = validate_call(config=STRICT)

Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]

WORDS = {  # replacements for pydantic's Python terms, by error type
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "sequence_str": "a list",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "a list of {min_length} or more values",
    "too_long": "a list of {max_length} or fewer values",
    "string_too_short": "a string of {min_length} or more characters",
    "value_error": "{error}",
}


def in_one_line(error: ValidationError) -> str:
    """Return a one-line message for the first invalid argument: `scale=-1: must be greater than 0`.

    The alternatives in a union type are joined by "or". For a list element, as in
    `hidden[0]=0: must be greater than 0`, the message contains only the requirements for elements.
    """
    name = error.errors()[0]["loc"][:1]
    places: dict[str, list[Any]] = {}
    for wrong in error.errors():
        if wrong["loc"][:1] == name:  # list indices and pydantic's type names follow the argument's name
            indices = "".join(f"[{index}]" for index in wrong["loc"][1:] if isinstance(index, int))
            places.setdefault(f"{''.join(map(str, name))}{indices}", []).append(wrong)
    place, found = max(places.items(), key=lambda item: item[0].count("["))
    if found[0]["type"].startswith("missing"):
        return f"{place}: missing required option"
    if found[0]["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{place}: unknown option"
    if not place:  # a model validator: its message names the options
        return in_words(found[0])
    value = one_line(found[0]["input"])
    value = {"None": "null", "True": "true", "False": "false"}.get(value, value)
    alternatives = sorted(dict.fromkeys(map(in_words, found)), key=lambda words: not words.startswith("a "))
    return f"{place}={value}: must be {' or '.join(alternatives)}"  # "a whole number or less than 1", not the reverse


def in_words(wrong: Any) -> str:
    """Describe the requirement that a pydantic error reports."""
    if wrong["type"] in WORDS:
        return WORDS[wrong["type"]].format(**wrong.get("ctx", {}))
    if wrong["type"] == "is_instance_of" and wrong["ctx"]["class"] == "Sequence":
        return "a list"
    words = wrong["msg"].removeprefix("Input should be ").replace("a valid", "a").replace("None", "null")
    return words.replace("'", "")


@contextmanager
def inside(component: str) -> Iterator[None]:
    """Prefix the arguments in a validation error with the name of the component that rejected them."""
    try:
        yield
    except ValidationError as error:
        wrong: list[Any] = [
            {**each, "loc": (f"{component}.{each['loc'][0]}", *each["loc"][1:])}
            for each in error.errors(include_url=False)
        ]
        raise ValidationError.from_exception_data(error.title, wrong) from error
