"""Schedulers of the learning rate; they step once an epoch."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Gt, Lt
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, ReduceLROnPlateau

from vae_lab.checks import checked


class Step(MultiStepLR):
    """Multiplies the learning rate by `gamma` after each of the epochs in `milestones`."""

    @checked
    def __init__(self, optimizer: Optimizer, milestones: Sequence[PositiveInt], gamma: PositiveFloat = 0.1) -> None:
        super().__init__(optimizer, milestones, gamma)


class Cosine(CosineAnnealingLR):
    """Lowers the learning rate to `eta_min` over `T_max` epochs, along half a cosine."""

    @checked
    def __init__(self, optimizer: Optimizer, T_max: NonNegativeInt, eta_min: NonNegativeFloat = 0.0) -> None:  # noqa: N803
        super().__init__(optimizer, T_max, eta_min)


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
    """

    @checked
    def __init__(
        self,
        optimizer: Optimizer,
        monitor: Literal["training", "validation"] = "training",
        factor: Annotated[float, Gt(0), Lt(1)] = 0.1,
        patience: NonNegativeInt = 10,
        threshold: NonNegativeFloat = 0.01,
        cooldown: NonNegativeInt = 0,
        min_lr: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__(optimizer, "min", factor, patience, threshold, "abs", cooldown, min_lr)
        self.monitor = monitor
