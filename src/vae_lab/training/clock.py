"""Measurement of training time."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from vae_lab.training.module import VAEModule


class Clock(Callback):
    """Records the duration of each epoch in seconds, excluding validation, as `train/seconds`.

    Attributes:
        totals: sums over all epochs, including those before the run was resumed: `seconds` (with validation),
            `step_seconds` (without validation) and `images` (number of images processed during training).
    """

    def __init__(self) -> None:
        self.totals = {"seconds": 0.0, "step_seconds": 0.0, "images": 0}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.totals)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.totals = dict(state_dict)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started, self.validation = time.perf_counter(), 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.validation += time.perf_counter() - self.paused

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, VAEModule)
        seconds = time.perf_counter() - self.started
        self.totals["seconds"] += seconds
        self.totals["step_seconds"] += seconds - self.validation
        self.totals["images"] += pl_module.sums.count * trainer.world_size
        pl_module.numbers["train/seconds"] = seconds - self.validation
