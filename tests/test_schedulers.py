import pytest
import torch

from vae_lab.training.schedulers import Plateau


def make(**options: object) -> tuple[torch.optim.Optimizer, Plateau]:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return optimizer, Plateau(optimizer, **options)


def rates(losses: list[float], **options: object) -> list[float]:
    optimizer, plateau = make(**options)
    seen = []
    for loss in losses:
        plateau.step(loss)
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def test_learning_rate_falls_after_patience() -> None:
    assert rates([5, 4, 4, 4, 4, 4], factor=0.1, patience=1) == [1, 1, 1, 0.1, 0.1, pytest.approx(0.01)]


@pytest.mark.parametrize("level", [100.0, -100.0])
def test_threshold_is_in_nats_for_either_sign_of_loss(level: float) -> None:
    """With a threshold relative to the loss, a constant loss below 0 would count as falling."""
    assert rates([level] * 4, patience=1)[-1] == 0.1
    assert rates([level - 0.02 * step for step in range(6)], patience=1)[-1] == 1
    assert rates([level - 0.005 * step for step in range(2)], patience=0)[-1] == 0.1


@pytest.mark.parametrize(("options", "option"), [({"monitor": "val"}, "monitor"), ({"factor": 1.5}, "factor")])
def test_invalid_option_is_rejected(options: dict, option: str) -> None:
    with pytest.raises(ValueError, match=option):
        make(**options)
