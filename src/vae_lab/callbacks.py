"""Callbacks of a training: a few lines each."""

import time

from pytorch_lightning import Callback, LightningModule, Trainer

from vae_lab.module import VAEModule


class Clock(Callback):
    """Measures the seconds of each epoch's training steps, without validation, as `train/seconds`.

    Attributes:
        seconds: of all epochs.
        images: that were trained on in them.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        self.started = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop for the validation."""
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on after the validation."""
        if trainer.state.fn == "fit":
            self.started += time.perf_counter() - self.paused

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report."""
        assert isinstance(pl_module, VAEModule)
        seconds = time.perf_counter() - self.started
        self.seconds += seconds
        self.images += pl_module.sums.count * trainer.world_size
        pl_module.numbers["train/seconds"] = seconds
