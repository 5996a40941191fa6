"""Callbacks that measure a training of vae_lab from inside: in turns with a bare loop, its start, its memory."""

import copy
import os
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

import bare


class InTurns(Callback):
    """Trains and validates a bare loop from the same weights after every epoch, and measures both.

    Our training is all from the first hook of an epoch to that of the next, but the validation: the steps, the curves,
    the progress bar, the checkpoints. The bare loop's is its steps.

    Args:
        model: class of `bare`.
        prepare: function of `bare`.
        bf16: whether a second bare loop runs in turns, too, with its networks under autocast to bfloat16.

    Attributes:
        seconds: of the training at hand: `train`, `val`, `bare/train`, `bare/val` and, with `bf16`, `bare bf16/train`,
            a list of each epoch's.
    """

    seconds: ClassVar[dict[str, list[float]]] = {}

    def __init__(self, model: str = "MLP", prepare: str = "threshold", bf16: bool = False) -> None:
        self.model, self.prepare, self.bf16 = getattr(bare, model), getattr(bare, prepare), bf16

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the bare loop."""
        data: Any = trainer.datamodule
        device, vae = pl_module.device, pl_module.vae
        model = self.model().to(device)
        weights = [*vae.encoder.parameters(), *vae.decoder.parameters()]
        with torch.no_grad():
            for weight, same in zip(model.parameters(), weights, strict=True):
                weight.copy_(same)
        images, batches = data.train.image.to(device), int(trainer.num_training_batches)
        self.bare = bare.Bare(model, images, data.batch_size, batches, self.prepare)
        self.others = [
            bare.Bare(copy.deepcopy(model), images, data.batch_size, batches, self.prepare, True)
        ] * self.bf16
        self.validated = data.val.image.to(device)
        self.seconds.clear()
        self.seconds.update({name: [] for name in ("train", "val", "bare/train", "bare/val")})
        self.started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the epoch before, and begin."""
        now = time.perf_counter()
        if self.started:
            self.seconds["train"].append(now - self.started)
        self.started = now

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the last epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause."""
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on."""
        seconds = time.perf_counter() - self.paused
        if trainer.state.fn == "fit":
            self.seconds["val"].append(seconds)
            self.started += seconds

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the bare loop have its turn."""
        started = time.perf_counter()
        self.seconds["bare/train"].append(self.bare.train())
        self.seconds["bare/val"].append(self.bare.evaluate(self.validated)["seconds"])
        for loop in self.others:
            self.seconds.setdefault("bare bf16/train", []).append(loop.train())
        self.started += time.perf_counter() - started


class Parts(Callback):
    """Measures the parts of our step and of the bare loop's, twenty steps of each in turns.

    Attributes:
        marks: the time at which a part of a step began, and its name.
    """

    marks: ClassVar[list[tuple[str, float]]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the bare loop, and listen when the objective begins."""
        self.marks.clear()
        data: Any = trainer.datamodule
        images = data.train.image.to(pl_module.device)
        self.bare = bare.Bare(bare.MLP().to(pl_module.device), images, data.batch_size, batches=20)
        self.bare.mark = lambda part: self.mark(f"bare {part}")
        objective = pl_module.objective

        def marked(*arguments: Any) -> Any:
            self.mark("ours forward")
            result = objective(*arguments)
            self.mark("ours rest")
            return result

        pl_module.objective = marked

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Give the bare loop its turn."""
        if batch_idx % 20 == 0:
            self.bare.train()
        self.mark("ours rest")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Begin with the backward pass."""
        self.mark("ours backward")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End it."""
        self.mark("ours rest")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Begin with the optimizer's step."""
        self.mark("ours optimizer")

    def on_train_batch_end(self, *_: Any) -> None:
        """Begin with what is between the steps: the next batch is fetched and made ready."""
        self.mark("ours batch")

    def mark(self, part: str) -> None:
        """Note that a part begins."""
        self.marks.append((part, time.perf_counter()))

    @classmethod
    def medians(cls, whose: str) -> dict[str, float]:
        """Return the microseconds of each part of a step, medians over all steps."""
        steps: list[dict[str, float]] = [{}]
        for (part, began), (following, ended) in pairwise(cls.marks):
            owner, name = part.split()
            if owner == whose and following.startswith(whose):
                if name == "batch":
                    steps.append({})
                steps[-1][name] = steps[-1].get(name, 0.0) + 1e6 * (ended - began)
        return {name: statistics.median(step[name] for step in steps if name in step) for name in steps[-2]}


class FirstStep(Callback):
    """Prints the time when the first step has been done, and ends the process there."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Print and end."""
        print(time.time(), flush=True)
        os._exit(0)


class Memory(Callback):
    """Prints the bytes that the process has in memory after each epoch, and the epoch's seconds."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        seconds = time.perf_counter() - self.started
        print("memory", trainer.current_epoch + 1, pages * os.sysconf("SC_PAGESIZE"), seconds, flush=True)
