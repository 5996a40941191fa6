"""Networks: modules that are called with an input shape and an output shape, and so work out every size."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

Shape = tuple[int, ...]


class MLP(nn.Sequential):
    """Fully connected network from (N, *in_shape) to (N, *out_shape).

    Each hidden layer is linear → norm → activation → dropout; the output layer is linear alone.

    Args:
        in_shape: shape of one input, without the batch axis.
        out_shape: shape of one output, without the batch axis.
        hidden: width of each hidden layer, none for a linear map.
        activation: name of a `torch.nn` activation, or one name for each hidden layer.
        norm: name of a `torch.nn` normalisation over features, such as `BatchNorm1d` or `LayerNorm`.
        dropout: probability of dropping a hidden unit, 0 ≤ p < 1.

    Raises:
        ValueError: for a width below 1, an unknown layer name, a list of another length than `hidden`,
            or a dropout outside its range.

    >>> import torch
    >>> encoder = MLP((1, 28, 28), (40,), hidden=(500, 500), activation=("ELU", "Tanh"))
    >>> encoder(torch.zeros(8, 1, 28, 28)).shape
    torch.Size([8, 40])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden: Sequence[int] = (500, 500),
        activation: str | Sequence[str] = "ReLU",
        norm: str | None = None,
        dropout: float = 0.0,
    ) -> None:
        activations = [activation] * len(hidden) if isinstance(activation, str) else list(activation)
        if len(activations) != len(hidden):
            raise ValueError(
                f"activation={activations} names {len(activations)} layers, hidden={list(hidden)} has {len(hidden)}"
            )
        if not all(type(width) is int and width >= 1 for width in hidden):
            raise ValueError(f"hidden={list(hidden)} must hold whole numbers of at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be at least 0 and below 1")
        widths = [prod(in_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for (fan_in, fan_out), name in zip(pairwise(widths), activations, strict=True):
            layers.append(nn.Linear(fan_in, fan_out))
            if norm is not None:
                layers.append(torch_layer("norm", norm)(fan_out))
            layers.append(torch_layer("activation", name)())
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        layers += [nn.Linear(widths[-1], prod(out_shape)), nn.Unflatten(1, out_shape)]
        super().__init__(*layers)


def torch_layer(option: str, name: str) -> type[nn.Module]:
    """Return the class `torch.nn.<name>`.

    Raises:
        ValueError: when torch has no layer of that name; names the `option` that asked for it.
    """
    layer = getattr(nn, name, None)
    if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
        raise ValueError(f"{option}={name} is no layer of torch.nn, such as ReLU, ELU, Tanh or BatchNorm1d")
    return layer
