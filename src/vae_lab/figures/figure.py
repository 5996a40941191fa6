"""Base classes of the figures."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

from annotated_types import MinLen
from matplotlib.figure import Figure as Drawn
from pydantic import BaseModel, ConfigDict, PositiveInt, field_validator

from vae_lab.checks import STRICT, Seed
from vae_lab.view import View

Labels = Annotated[Sequence[int | str], MinLen(1)]  # classes, by number or by name


class Figure(BaseModel, ABC):
    """Base class of the figures; a subclass defines `name` and the method `figure`.

    Args:
        name: name of the figure's directory in a run directory.
        every_n_epochs: interval in epochs between two figures of a training; the last epoch is always drawn. None for
            only the last epoch.
        epochs: the epochs to draw, instead of an interval.
        optional: whether training omits the figure if it does not apply to the model; otherwise it is an error.
        seed: seed of the figure's random numbers. It is the same in every epoch, so that figures are comparable.

    Raises:
        ValueError: for an unknown option or an invalid value.
    """

    model_config = ConfigDict(**STRICT, frozen=True)

    look_for: ClassVar[str] = ""  # how to judge the figure, shown in the report
    quiet: ClassVar[bool] = False  # whether to omit the figure without a message
    after_test: ClassVar[bool] = False  # whether to draw the figure after the test instead of the last epoch

    name: str
    every_n_epochs: PositiveInt | None = None
    epochs: Sequence[PositiveInt] | None = None
    optional: bool = False
    seed: Seed = 0

    @field_validator("name")  # also applies to subclasses, which set a default
    @classmethod
    def _is_a_file_name(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
            raise ValueError("letters, digits, . _ and -")
        return name

    def draw(self, view: View) -> Drawn:
        """Return the figure; the state of the model and of the random generators does not change."""
        with view.undisturbed(self.seed):
            return self.figure(view)

    @abstractmethod
    def figure(self, view: View) -> Drawn:
        """Return the figure; called with the model in evaluation mode and the random generators seeded."""

    def options(self, view: View) -> set[str]:
        """Return the names of the options that apply to a model."""
        return set(type(self).model_fields)

    def refuses(self, view: View) -> str | None:
        """Return why the figure does not apply to a model, or None if it does; reads no data."""
        return None

    def check(self, view: View) -> None:
        """Check that the classes in `labels` exist, which reads the data.

        Raises:
            ValueError: if a class does not exist.
        """
        view.numbers(getattr(self, "labels", None) or [])

    def is_due(self, epoch: int, last: bool) -> bool:
        """Return whether the figure is drawn after an epoch, counted from 1."""
        if self.epochs is not None:
            return epoch in self.epochs
        ends = last and not self.after_test
        return ends or (self.every_n_epochs is not None and epoch % self.every_n_epochs == 0)

    def changed(self, **options: object) -> Self:
        """Return a copy of the figure with some options changed and checked."""
        return type(self)(**{**dict(self), **options})


class Grid(Figure, ABC):
    """Base class of figures that contain images.

    Args:
        scale: side in figure pixels of each image pixel; None for a readable size.
    """

    scale: PositiveInt | None = None
