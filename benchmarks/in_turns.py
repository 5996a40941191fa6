"""Callbacks that measure a training of vae_lab: speed relative to a bare loop, phases of a step, start and memory."""

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
    """Trains and validates a bare loop with the same initial weights after every epoch, and measures both.

    The time of vae_lab is measured from the first hook of an epoch to that of the next, without validation: steps,
    curves, progress bar and checkpoints. The time of the bare loop is that of its steps.

    Args:
        model: name of a class in `bare`.
        prepare: name of a function in `bare`.
        bf16: whether to train a second bare loop, with its networks under autocast to bfloat16.

    Attributes:
        seconds: lists of the seconds of each epoch in the current training: `train`, `val`, `bare/train`, `bare/val`
            and, with `bf16`, `bare bf16/train`.
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
        """Record the previous epoch and start the clock."""
        now = time.perf_counter()
        if self.started:
            self.seconds["train"].append(now - self.started)
        self.started = now

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the last epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause the clock."""
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the validation and continue the clock."""
        seconds = time.perf_counter() - self.paused
        if trainer.state.fn == "fit":
            self.seconds["val"].append(seconds)
            self.started += seconds

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train and validate the bare loop, and exclude its time."""
        started = time.perf_counter()
        self.seconds["bare/train"].append(self.bare.train())
        self.seconds["bare/val"].append(self.bare.evaluate(self.validated)["seconds"])
        for loop in self.others:
            self.seconds.setdefault("bare bf16/train", []).append(loop.train())
        self.started += time.perf_counter() - started


class Parts(Callback):
    """Measures the phases of a step of vae_lab and of the bare loop, alternating every twenty steps.

    Attributes:
        marks: name and start time of each phase of a step.
    """

    marks: ClassVar[list[tuple[str, float]]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the bare loop, and mark the start and end of the objective."""
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
        """Run the bare loop for twenty steps after every twenty steps."""
        if batch_idx % 20 == 0:
            self.bare.train()
        self.mark("ours rest")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Mark the start of the backward pass."""
        self.mark("ours backward")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the end of the backward pass."""
        self.mark("ours rest")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Mark the start of the optimizer step."""
        self.mark("ours optimizer")

    def on_train_batch_end(self, *_: Any) -> None:
        """Mark the start of the time between steps, in which the next batch is prepared."""
        self.mark("ours batch")

    def mark(self, part: str) -> None:
        """Record the start of a phase."""
        self.marks.append((part, time.perf_counter()))

    @classmethod
    def medians(cls, whose: str) -> dict[str, float]:
        """Return the median microseconds of each phase over all steps."""
        steps: list[dict[str, float]] = [{}]
        for (part, began), (following, ended) in pairwise(cls.marks):
            owner, name = part.split()
            if owner == whose and following.startswith(whose):
                if name == "batch":
                    steps.append({})
                steps[-1][name] = steps[-1].get(name, 0.0) + 1e6 * (ended - began)
        return {name: statistics.median(step[name] for step in steps if name in step) for name in steps[-2]}


class FirstStep(Callback):
    """Prints the time at the end of the first step, and exits the process."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Print the time and exit."""
        print(time.time(), flush=True)
        os._exit(0)


class Memory(Callback):
    """Prints the bytes in memory after each epoch, and the seconds of the epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the memory and the seconds."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        seconds = time.perf_counter() - self.started
        print("memory", trainer.current_epoch + 1, pages * os.sysconf("SC_PAGESIZE"), seconds, flush=True)
