import pickle
from collections.abc import Sequence
from typing import Annotated, Literal

import pytest
from annotated_types import Len
from pydantic import PositiveFloat, PositiveInt, ValidationError
from torch import nn

from vae_lab.checks import Probability, checked, in_one_line, inside
from vae_lab.errors import DataError


class Component:
    @checked
    def __init__(
        self,
        width: PositiveInt,
        sides: PositiveInt | Sequence[PositiveInt] = 3,
        scale: PositiveFloat | None = None,
        p: Probability = 0.5,
        kind: Literal["one", "two", None] = None,
        shape: Annotated[Sequence[PositiveInt], Len(2, 2)] = (1, 1),
        layer: nn.Module | None = None,
        on: bool = True,
    ) -> None:
        self.scale = scale


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width=0: must be greater than 0"),
        ({"width": 1.0}, "width=1.0: must be a whole number"),
        ({"width": True}, "width=true: must be a whole number"),
        ({}, "width: missing required option"),
        ({"width": 1, "height": 2}, "height: unknown option"),
        ({"width": 1, "sides": 0}, "sides=0: must be a list or greater than 0"),
        ({"width": 1, "sides": "abc"}, "sides=abc: must be a whole number or a list"),
        ({"width": 1, "sides": [1, -1]}, "sides[1]=-1: must be greater than 0"),
        ({"width": 1, "scale": float("nan")}, "scale=nan: must be a finite number"),
        ({"width": 1, "p": -0.5}, "p=-0.5: must be at least 0"),
        ({"width": 1, "kind": "three"}, "kind=three: must be one, two or null"),
        ({"width": 1, "shape": [1]}, "shape=[1]: must be a list of 2 or more values"),
        ({"width": 1, "layer": "ReLU"}, "layer=ReLU: must be an instance of Module"),
        ({"width": 1, "on": None}, "on=null: must be true or false"),
        ({"width": 0, "p": 2.0}, "width=0: must be greater than 0"),  # the first of two errors
    ],
)
def test_validation_error_becomes_one_line(options: dict, message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Component(**options)
    assert in_one_line(raised.value) == message


def test_nested_option_is_named_with_its_path() -> None:
    with pytest.raises(ValidationError) as raised, inside("linear"):
        Component(width=1, sides=[0])
    assert in_one_line(raised.value) == "linear.sides[0]=0: must be greater than 0"


def test_integer_is_accepted_as_float() -> None:
    assert Component(width=1, scale=2).scale == 2


def test_error_message_is_one_line_before_and_after_pickling() -> None:
    assert str(DataError()) == ""
    error = pickle.loads(pickle.dumps(DataError("/two  spaces/a\n  b is\n\n missing")))
    assert (str(error), error.exit_code) == ("/two  spaces/a b is missing", 3)
