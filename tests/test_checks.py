import pickle
from collections.abc import Sequence
from typing import Annotated, Literal

import pytest
from annotated_types import Len
from pydantic import PositiveFloat, PositiveInt, ValidationError
from torch import nn

from vae_lab.checks import Probability, checked, in_one_line, inside
from vae_lab.errors import DataError


class Part:
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
    ("options", "said"),
    [
        ({"width": 0}, "width=0: must be greater than 0"),
        ({"width": 1.0}, "width=1.0: must be a whole number"),
        ({"width": True}, "width=true: must be a whole number"),
        ({}, "width: missing required option"),
        ({"width": 1, "height": 2}, "height: unknown option"),
        ({"width": 1, "sides": 0}, "sides=0: must be greater than 0 or a list"),
        ({"width": 1, "sides": "abc"}, "sides=abc: must be a whole number or a list"),
        ({"width": 1, "sides": [1, -1]}, "sides[1]=-1: must be greater than 0"),
        ({"width": 1, "scale": float("nan")}, "scale=nan: must be a finite number"),
        ({"width": 1, "p": -0.5}, "p=-0.5: must be at least 0"),
        ({"width": 1, "kind": "three"}, "kind=three: must be one, two or null"),
        ({"width": 1, "shape": [1]}, "shape=[1]: must be a list of length 2 or more"),
        ({"width": 1, "layer": "ReLU"}, "layer=ReLU: must be an instance of Module"),
        ({"width": 1, "on": None}, "on=null: must be true or false"),
        ({"width": 0, "p": 2.0}, "width=0: must be greater than 0"),  # the first of two
    ],
)
def test_an_error_becomes_one_line(options: dict, said: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        Part(**options)
    assert in_one_line(refusal.value) == said


def test_a_part_of_a_part_is_named() -> None:
    with pytest.raises(ValidationError) as refusal, inside("linear"):
        Part(width=1, sides=[0])
    assert in_one_line(refusal.value) == "linear.sides[0]=0: must be greater than 0"


def test_a_number_may_be_whole_where_any_number_may_stand() -> None:
    assert Part(width=1, scale=2).scale == 2


def test_an_error_is_one_line_here_and_in_another_process() -> None:
    assert str(DataError()) == ""
    error = pickle.loads(pickle.dumps(DataError("/two  spaces/a\n  b is\n\n missing")))
    assert (str(error), error.exit_code) == ("/two  spaces/a b is missing", 3)
