"""Learning-rate schedulers, stepped once per epoch."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Gt, Lt
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, ReduceLROnPlateau

from vae_lab.checks import checked


class Step(MultiStepLR):
    """Multiplies the learning rate by `gamma` after each epoch in `milestones`.

    Args:
        optimizer: the optimizer whose learning rate is scheduled.
        milestones: epochs after which the learning rate changes.
        gamma: factor by which the learning rate is multiplied, greater than 0.
    """

    @checked
    def __init__(self, optimizer: Optimizer, milestones: Sequence[PositiveInt], gamma: PositiveFloat = 0.1) -> None:
        super().__init__(optimizer, milestones, gamma)


class Cosine(CosineAnnealingLR):
    """Lowers the learning rate to `eta_min` over `T_max` epochs, following half a cosine wave.

    Args:
        optimizer: the optimizer whose learning rate is scheduled.
        T_max: number of epochs.
        eta_min: final learning rate.
    """

    @checked
    def __init__(self, optimizer: Optimizer, T_max: NonNegativeInt, eta_min: NonNegativeFloat = 0.0) -> None:  # noqa: N803
        super().__init__(optimizer, T_max, eta_min)


class Plateau(ReduceLROnPlateau):
    """Lowers the learning rate when the loss stops falling.

    Args:
        optimizer: the optimizer whose learning rate is scheduled.
        monitor: `training` for the mean training loss of the epoch; `validation` for the negative validation
            ELBO, or the negative validation log-likelihood if the model has no ELBO. With `validation`, epochs without
            validation are not counted.
        factor: factor by which the learning rate is multiplied, 0 < factor < 1.
        patience: number of epochs to tolerate without improvement.
        threshold: smallest decrease in the loss that counts as an improvement, in nats. It is absolute, not relative,
            because a negative log-density can have either sign.
        cooldown: number of epochs, after each reduction, for which a lack of improvement is not counted.
        min_lr: lower bound on the learning rate.
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
