import pytest
import torch
from torch import nn

from vae_lab.networks import MLP


@pytest.mark.parametrize("hidden", [(), (7,), (7, 5, 3)])
def test_mlp_maps_shapes_to_shapes(hidden: tuple[int, ...]) -> None:
    network = MLP((2, 3, 4), (5, 2), hidden=hidden)
    assert network(torch.rand(6, 2, 3, 4)).shape == (6, 5, 2)
    widths = [layer.out_features for layer in network if isinstance(layer, nn.Linear)]
    assert widths == [*hidden, 10]


def test_mlp_orders_its_layers() -> None:
    network = MLP((4,), (2,), hidden=(8, 6), activation=["ELU", "Tanh"], norm="BatchNorm1d", dropout=0.1)
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == [
        "Flatten",
        *("Linear", "BatchNorm1d", "ELU", "Dropout"),
        *("Linear", "BatchNorm1d", "Tanh", "Dropout"),
        *("Linear", "Unflatten"),
    ]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"activation": "Foo"}, "activation=Foo"),
        ({"activation": "functional"}, "activation=functional"),
        ({"activation": ["ReLU"]}, "hidden"),
        ({"norm": "Norm"}, "norm=Norm"),
        ({"hidden": (0, 3)}, "hidden"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_mlp_refuses_what_cannot_work(options: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        MLP((4,), (2,), **options)
