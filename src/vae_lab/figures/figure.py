"""What every figure is: an object that draws a view."""

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
    """An object that draws a view of a model; a subclass has a `name` and a method `figure`.

    Args:
        name: of the figure's folder in a run.
        every_n_epochs: epochs of a training from one figure to the next, and the last; None for the last alone.
        epochs: the epochs to draw after, and no others, in place of an interval.
        optional: whether a training leaves the figure out where it does not fit the model, rather than refusing it.
        seed: of whatever is random in the figure: the same in every epoch, so that they compare.

    Raises:
        ValueError: for an argument that is unknown or outside its range.
    """

    model_config = ConfigDict(**STRICT, frozen=True)

    look_for: ClassVar[str] = ""  # what tells a good figure from a bad one, for the caption on the page
    quiet: ClassVar[bool] = False  # left out without a warning
    after_test: ClassVar[bool] = False  # drawn after the test rather than after the last epoch

    name: str
    every_n_epochs: PositiveInt | None = None
    epochs: Sequence[PositiveInt] | None = None
    optional: bool = False
    seed: Seed = 0

    @field_validator("name")  # of subclasses as well, which give the field a default
    @classmethod
    def _is_a_file_name(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
            raise ValueError("letters, digits, . _ and -")
        return name

    def draw(self, view: View) -> Drawn:
        """Return the figure; the model and all random numbers stay as they were."""
        with view.undisturbed(self.seed):
            return self.figure(view)

    @abstractmethod
    def figure(self, view: View) -> Drawn:
        """Return the figure, with the model in evaluation and random numbers from the seed."""

    def options(self, view: View) -> set[str]:
        """Return the names of the options that matter for a model."""
        return set(type(self).model_fields)

    def refuses(self, view: View) -> str | None:
        """Return why the figure cannot be drawn of a model; None where it can. Data are not read for it."""
        return None

    def check(self, view: View) -> None:
        """Check that the data have the classes that the figure shows, and read the data where they are not read yet.

        Raises:
            ValueError: for a class that they do not have.
        """
        view.numbers(getattr(self, "labels", None) or [])

    def is_due(self, epoch: int, last: bool) -> bool:
        """Tell whether the figure is drawn after an epoch, the first being 1."""
        if self.epochs is not None:
            return epoch in self.epochs
        ends = last and not self.after_test
        return ends or (self.every_n_epochs is not None and epoch % self.every_n_epochs == 0)

    def changed(self, **options: object) -> Self:
        """Return the same figure with some options changed, and checked."""
        return type(self)(**{**dict(self), **options})


class Grid(Figure, ABC):
    """What figures of images share.

    Args:
        scale: pixels of the figure that a pixel of an image gets, in both directions; None for what can be seen.
    """

    scale: PositiveInt | None = None
