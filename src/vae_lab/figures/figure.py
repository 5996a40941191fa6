"""Base classes for figures."""

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
    """Base class for figures. Subclasses define `name` and the `figure` method.

    Args:
        name: name of the figure's directory in the run directory.
        every_n_epochs: interval, in epochs, at which to draw the figure during training. The figure is also drawn after
            the last epoch; with None, only then.
        epochs: the only epochs after which to draw the figure; None to use `every_n_epochs`.
        optional: whether to omit the figure, instead of raising an error, if it does not apply to the model.
        seed: seed for the figure's random numbers. It is the same in every epoch, so that figures are comparable.

    Raises:
        ValueError: if an option is unknown or a value is invalid.
    """

    model_config = ConfigDict(**STRICT, frozen=True)

    look_for: ClassVar[str] = ""  # how to judge the figure, shown in the report
    quiet: ClassVar[bool] = False  # whether to omit the figure without a message
    after_test: ClassVar[bool] = False  # whether to draw it after testing instead of after the last epoch

    name: str
    every_n_epochs: PositiveInt | None = None
    epochs: Sequence[PositiveInt] | None = None
    optional: bool = False
    seed: Seed = 0

    @field_validator("name")  # also applies to subclasses, which set a default
    @classmethod
    def _is_a_file_name(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
            raise ValueError("a name of letters, digits, '.', '_' and '-' that does not start with '.' or '-'")
        return name

    def draw(self, view: View) -> Drawn:
        """Return the figure without changing the state of the model or of the random number generators."""
        with view.undisturbed(self.seed):
            return self.figure(view)

    @abstractmethod
    def figure(self, view: View) -> Drawn:
        """Return the figure. The model is in evaluation mode, and the random number generators are seeded."""

    def options(self, view: View) -> set[str]:
        """Return the names of the options that apply to a model."""
        return set(type(self).model_fields)

    def refuses(self, view: View) -> str | None:
        """Return the reason why the figure does not apply to the model, or None if it does. No data are read."""
        return None

    def check(self, view: View) -> None:
        """Check that the classes in `labels` exist. This reads the data.

        Raises:
            ValueError: if a class does not exist.
        """
        view.numbers(getattr(self, "labels", None) or [])

    def is_due(self, epoch: int, last: bool) -> bool:
        """Return whether to draw the figure after the given epoch, counted from 1."""
        if self.epochs is not None:
            return epoch in self.epochs
        ends = last and not self.after_test
        return ends or (self.every_n_epochs is not None and epoch % self.every_n_epochs == 0)

    def changed(self, **options: object) -> Self:
        """Return a copy of the figure with some options changed. The new values are checked."""
        return type(self)(**{**dict(self), **options})


class Grid(Figure, ABC):
    """Base class for figures that contain images.

    Args:
        scale: side length of each image pixel, in figure pixels; None for a readable size.
    """

    scale: PositiveInt | None = None
