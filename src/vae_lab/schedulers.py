"""Schedulers of the learning rate that torch does not have as they are needed; they step once an epoch."""

from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau


class Plateau(ReduceLROnPlateau):
    """Lowers the learning rate when an epoch's loss has stopped falling.

    Args:
        optimizer: whose learning rate it is.
        monitor: `training` for the mean loss of the epoch; `validation` for minus the validation's ELBO, or its
            log-likelihood where there is no ELBO. An epoch without a validation then does not count.
        factor: by which the rate is multiplied, 0 < f < 1.
        patience: epochs without a fall that are waited for.
        threshold: nats by which the loss has to fall. It is no part of the loss, because losses of densities are of
            either sign.
        cooldown: epochs after a change in which none is counted.
        min_lr: rate that is not gone below.

    Raises:
        ValueError: for another `monitor`, or a factor of 1 or more.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        monitor: Literal["training", "validation"] = "training",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 0.01,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        if monitor not in ("training", "validation"):
            raise ValueError(f"monitor={monitor} must be training or validation")
        super().__init__(optimizer, "min", factor, patience, threshold, "abs", cooldown, min_lr)
        self.monitor = monitor
