"""Callbacks that measure training with vae_lab: speed compared with a bare loop, start-up time and memory."""

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
    """Alternates each epoch with an epoch of a bare loop that starts from the same weights, and measures both.

    For vae_lab, everything from the first hook of one epoch to that of the next is measured, except validation: steps,
    curves, progress bar and checkpoints. For the bare loop, only the steps are measured.

    Args:
        model: name of a class in `bare`.
        prepare: name of a function in `bare`.
        bf16: whether to also train a second bare loop in bfloat16 with autocast.

    Attributes:
        seconds: seconds of each epoch in the current training run: `train`, `val`, `bare/train`, `bare/val` and, with
            `bf16`, `bare bf16/train`.
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
        """Record the duration of the previous epoch, and start timing."""
        now = time.perf_counter()
        if self.started:
            self.seconds["train"].append(now - self.started)
        self.started = now

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the duration of the last epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause the timing of training."""
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the duration of validation, and continue the timing of training."""
        seconds = time.perf_counter() - self.paused
        if trainer.state.fn == "fit":
            self.seconds["val"].append(seconds)
            self.started += seconds

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train and validate the bare loop."""
        started = time.perf_counter()
        self.seconds["bare/train"].append(self.bare.train())
        self.seconds["bare/val"].append(self.bare.evaluate(self.validated)["seconds"])
        for loop in self.others:
            self.seconds.setdefault("bare bf16/train", []).append(loop.train())
        self.started += time.perf_counter() - started


class Parts(Callback):
    """Measures the phases of a step in vae_lab and in the bare loop, alternating every twenty steps.

    Attributes:
        marks: name and start time of each phase.
    """

    marks: ClassVar[list[tuple[str, float]]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the bare loop, and record when the objective is called."""
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
        """Train the bare loop for twenty steps before every twentieth step."""
        if batch_idx % 20 == 0:
            self.bare.train()
        self.mark("ours rest")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Record the start of the backward pass."""
        self.mark("ours backward")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the end of the backward pass."""
        self.mark("ours rest")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Record the start of the optimizer step."""
        self.mark("ours optimizer")

    def on_train_batch_end(self, *_: Any) -> None:
        """Record the end of a step, after which the next batch is fetched and prepared."""
        self.mark("ours batch")

    def mark(self, part: str) -> None:
        """Record the start of a phase."""
        self.marks.append((part, time.perf_counter()))

    @classmethod
    def medians(cls, whose: str) -> dict[str, float]:
        """Return the median duration of each phase over all steps, in microseconds."""
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
    """Prints the memory of the process in bytes after each epoch, and the duration of the epoch in seconds."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start timing the epoch."""
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the memory and the duration."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        seconds = time.perf_counter() - self.started
        print("memory", trainer.current_epoch + 1, pages * os.sysconf("SC_PAGESIZE"), seconds, flush=True)
