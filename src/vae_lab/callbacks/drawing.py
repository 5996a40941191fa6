"""When a figure is drawn in a training, and where it goes."""

import logging
import math
import re
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer

from vae_lab import loggers
from vae_lab.files import replacing
from vae_lab.module import VAEModule
from vae_lab.view import View

log = logging.getLogger(__name__)


def is_list(value: object) -> bool:
    """Tell whether a value is a list of values, which a word is not."""
    return isinstance(value, Sequence) and not isinstance(value, str)


class Rule(NamedTuple):
    """What a value has to be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def whole(least: int, most: float = math.inf) -> Rule:
    """Return the rule for whole numbers from `least` to `most`."""
    words = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
    return Rule(f"a whole number {words}", lambda value: type(value) is int and least <= value <= most)


def or_null(rule: Rule) -> Rule:
    """Return the rule for null, or what another holds for."""
    return Rule(f"null or {rule.words}", lambda value: value is None or rule.holds(value))


AT_LEAST_1, SEED = whole(1), whole(0, 2**32 - 1)
POSITIVE = Rule("a number above 0", lambda value: type(value) in (int, float) and math.isfinite(value) and value > 0)
TRUE_OR_FALSE = Rule("true or false", lambda value: isinstance(value, bool))

Labels = Sequence[int | str]  # classes, by number or by name

# What the options of figures have to be: by their names, else by their types. Others a figure checks itself.
LIST = Rule("a list, not empty", lambda value: is_list(value) and len(value) > 0)
NAMED = {
    "seed": SEED,
    "epochs": or_null(
        Rule(
            "a list of whole numbers of at least 1", lambda value: is_list(value) and all(map(AT_LEAST_1.holds, value))
        )
    ),
    "label": Rule("a class", lambda value: not is_list(value)),
    "name": Rule("letters, digits, . _ and -", lambda value: re.fullmatch(r"\w[\w.-]*", value, re.ASCII) is not None),
}
KINDS: dict[Any, Rule] = {
    int: AT_LEAST_1,
    int | None: or_null(AT_LEAST_1),
    float: POSITIVE,
    float | None: or_null(POSITIVE),
    bool: TRUE_OR_FALSE,
    Sequence[int]: LIST,
    Sequence[float]: LIST,
    Labels | None: or_null(LIST),
}


@dataclass(eq=False, kw_only=True)
class Drawing(Callback, ABC):
    """Draws a figure after some epochs, as `figures/<name>/epoch-0003.png` in the run's directory, and for the loggers.

    The checkpoint of the epoch is written before, the training's random numbers stay as they are, and a figure that
    fails is a line in the log.

    Args:
        name: of the figure's folder.
        every_n_epochs: epochs from one figure to the next, and the last epoch is drawn as well; None for that alone.
        epochs: the epochs to draw after, and no others, in place of an interval.
        optional: whether it is left out where it does not fit the model, rather than refused.
        seed: of whatever is random in the figure: the same in every epoch, so that they compare.

    Raises:
        ValueError: for a value of another type, or a number below 1.
    """

    quiet: ClassVar[bool] = False  # whether it is left out without a word
    look_for: ClassVar[str] = ""  # what tells a good figure from a bad one, for the caption on a page

    name: str
    every_n_epochs: int | None = None
    epochs: Sequence[int] | None = None
    optional: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            rule = NAMED.get(field.name) or KINDS.get(field.type)
            if rule is not None and not rule.holds(value):
                raise ValueError(f"{field.name}={value} must be {rule.words}")

    @abstractmethod
    def figure(self, view: View) -> Figure:
        """Return the figure."""

    def refuses(self, view: View) -> str | None:
        """Return why the figure cannot be drawn of a model; None where it can."""
        return None

    def check(self, view: View) -> None:
        """Look whether the data have the classes that are asked for; reads them where that is not yet done.

        Raises:
            ValueError: for a class that they do not have.
        """
        view.numbers(getattr(self, "labels", None) or [])

    def draw(self, view: View) -> Figure:
        """Return the figure, and leave the model and all random numbers as they were."""
        with view.undisturbed(self.seed):
            return self.figure(view)

    def is_due(self, epoch: int, last: bool) -> bool:
        """Tell whether the figure is drawn after an epoch, the first being 1."""
        if self.epochs is not None:
            return epoch in self.epochs
        return last or (self.every_n_epochs is not None and epoch % self.every_n_epochs == 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where the training goes on: that epoch was drawn before, unless something came between."""
        assert isinstance(pl_module, VAEModule)
        self.begun = pl_module.epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the epoch before, which has its checkpoint by now."""
        assert isinstance(pl_module, VAEModule)
        epoch = pl_module.epoch
        drawn = epoch == self.begun and self.file(Path(trainer.default_root_dir), epoch).exists()
        if epoch and not drawn and self.is_due(epoch, last=False):
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last epoch."""
        assert isinstance(pl_module, VAEModule)
        if self.is_due(pl_module.epoch, last=True):
            self.save(trainer, pl_module)

    def save(self, trainer: Trainer, module: VAEModule) -> None:
        """Draw in the process of rank 0, and keep the figure; where that fails, say why and go on."""
        if not trainer.is_global_zero:
            return
        view = View(module.vae, trainer.datamodule, module.epoch, Path(trainer.default_root_dir))  # type: ignore[attr-defined]
        with self.forgiven(view.epoch):
            self.deliver(view, trainer)

    @contextmanager
    def forgiven(self, epoch: int) -> Iterator[None]:
        """Say what went wrong with the figure of an epoch in a line, and go on."""
        try:
            yield
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"
            log.warning("figure %s of epoch %d failed: %s", self.name, epoch, " ".join(reason.split()))

    def file(self, path: Path, epoch: int) -> Path:
        """Return where in a run's directory the figure of an epoch lies."""
        return path / "figures" / self.name / f"epoch-{epoch:04d}.png"

    def deliver(self, view: View, trainer: Trainer) -> None:
        """Draw, and keep what was drawn."""
        self.keep(self.draw(view), view, trainer)

    def keep(self, figure: Figure, view: View, trainer: Trainer) -> None:
        """Write a figure into the run's directory, and show it to the loggers."""
        assert view.path is not None
        file = self.file(view.path, view.epoch)
        write(figure, file)
        loggers.show(trainer.loggers, f"figures/{self.name}", file, trainer.global_step)


@dataclass(eq=False, kw_only=True)
class Grid(Drawing):
    """What figures of images share.

    Args:
        scale: pixels of the figure that a pixel of an image gets, in both directions; None for what can be seen.
    """

    scale: int | None = None


def write(figure: Figure, file: Path) -> None:
    """Write a figure as a PNG, whole or not at all, and make the folder that it lies in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as beside:
        figure.savefig(beside, format="png", pil_kwargs={"compress_level": 2})
