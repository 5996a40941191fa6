"""Networks: modules that are called with an input shape and an output shape, and so work out every size."""

import ast
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import prod
from typing import Annotated, Any, Literal

import torch
from annotated_types import MinLen
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from vae_lab.checks import Fraction, checked, inside

Shape = tuple[int, ...]
Network = Callable[..., nn.Module]  # (in_shape, out_shape), see `Conditional`
Names = str | Sequence[str | None] | None
Channels = Annotated[Sequence[PositiveInt], MinLen(1)]
Sides = PositiveInt | Sequence[PositiveInt]  # in pixels, for all layers or for each
Init = Literal["default", "kaiming", "xavier"]


class MLP(nn.Sequential):
    """Fully connected network from (N, *in_shape) to (N, *out_shape).

    Each hidden layer is linear → norm → activation → dropout; the output layer is linear alone. What holds for every
    hidden layer is given once, or as a list with a value for each.

    Args:
        in_shape: shape of one input, without the batch axis.
        out_shape: shape of one output, without the batch axis.
        hidden: width of each hidden layer, none for a linear map.
        activation: `torch.nn` activation, such as `ReLU` or `LeakyReLU(0.2)`; None for none.
        norm: `torch.nn` normalisation over features, such as `BatchNorm1d` or `LayerNorm`; None for none.
        dropout: probability of dropping a hidden unit, 0 ≤ p < 1.
        order: of what follows a linear layer.
        activate_output: whether the output layer has norm, activation and dropout behind it, too; lists count it.
        init: of weights and biases, see `initialise`.
        context_dim: size of a context (N, context_dim) that the network is called with as well; 0 for none.

    Raises:
        ValueError: for an unknown layer, a list of another length than there are layers, or an incomplete order.

    >>> import torch
    >>> encoder = MLP((1, 28, 28), (40,), hidden=(500, 500), activation=("ELU", "Tanh"))
    >>> encoder(torch.zeros(8, 1, 28, 28)).shape
    torch.Size([8, 40])
    """

    @checked
    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden: Sequence[PositiveInt] = (500, 500),
        activation: Names = "ReLU",
        norm: Names = None,
        dropout: Fraction | Sequence[Fraction] = 0.0,
        order: Sequence[str] = ("norm", "activation", "dropout"),
        activate_output: bool = False,
        init: Init = "default",
        context_dim: NonNegativeInt = 0,
    ) -> None:
        widths = [prod(in_shape) + context_dim, *hidden, prod(out_shape)]
        followed = widths[1:] if activate_output else hidden  # by norm, activation and dropout
        behind = follow(followed, order, norm=norm, activation=activation, dropout=dropout)
        layers: list[nn.Module] = [nn.Flatten()]
        for (fan_in, fan_out), steps in zip(pairwise(widths), [*behind, []], strict=False):
            layers += [nn.Linear(fan_in, fan_out), *steps]
        super().__init__(*layers, nn.Unflatten(1, out_shape))
        initialise(self, init)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(x if context is None else torch.cat([x.flatten(1), context], 1))  # type: ignore[no-untyped-call]


class ConvEncoder(nn.Sequential):
    """Convolutional network from images (N, C, H, W) to (N, *out_shape): convolutions, then a linear network.

    Each layer is convolution → norm → activation → max-pooling → dropout. A convolution is padded so that its stride
    alone makes the feature map smaller. What holds for every layer is given once, or as a list with a value for each.

    Args:
        in_shape: (C, H, W).
        out_shape: shape of one output, without the batch axis.
        channels: feature maps of each layer; None for 32, 64, 128, … (512 at most), in as many layers as bring the
            image to 7 pixels or fewer, or as far as its shorter side allows.
        kernel: side of a convolution's kernel in pixels.
        stride: of a convolution in pixels.
        pool: side of max-pooling in pixels, 1 for none.
        activation: `torch.nn` activation, such as `ReLU` or `LeakyReLU(0.2)`; None for none.
        norm: `torch.nn` normalisation over feature maps, such as `BatchNorm2d` or `GroupNorm(8)`; None for none.
        dropout: probability of dropping a value of a feature map, 0 ≤ p < 1.
        order: of what follows a convolution.
        linear: network from the last feature maps to the output; None for one linear layer of the same `init`.
        init: of the convolutions' weights and biases, see `initialise`; a `linear` that is given has its own.
        context_dim: size of a context (N, context_dim) that the linear network is called with as well; 0 for none.

    Raises:
        ValueError: for more layers than the image has room for, a kernel smaller than its stride or an even one at
            stride 1, or what `MLP` refuses, too.

    >>> import torch
    >>> encoder = ConvEncoder((3, 32, 32), (40,), channels=(64, 128), norm=(None, "BatchNorm2d"))
    >>> encoder(torch.zeros(8, 3, 32, 32)).shape
    torch.Size([8, 40])
    """

    @checked
    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Channels | None = None,
        kernel: Sides = 4,
        stride: Sides = 2,
        pool: Sides = 1,
        activation: Names = "ReLU",
        norm: Names = None,
        dropout: Fraction | Sequence[Fraction] = 0.0,
        order: Sequence[str] = ("norm", "activation", "pool", "dropout"),
        linear: Network | None = None,
        init: Init = "default",
        context_dim: NonNegativeInt = 0,
    ) -> None:
        colours, *size = in_shape
        channels = channels or default_channels(size, kernel, stride, pool)
        count = len(channels)
        kernels, strides = per_layer("kernel", kernel, count), per_layer("stride", stride, count)
        pools = per_layer("pool", pool, count)
        behind = follow(channels, order, norm=norm, activation=activation, pool=pools, dropout=dropout)
        sizes = [size]
        layers: list[nn.Module] = []
        for (maps_in, maps_out), k, s, side, steps in zip(
            pairwise([colours, *channels]), kernels, strides, pools, behind, strict=True
        ):
            layers += [nn.Conv2d(maps_in, maps_out, k, s, padding(k, s)), *steps]
            sizes.append([strided(length, k, s)[0] // side for length in sizes[-1]])
        refuse(norm, channels, kernels, strides, sizes)
        super().__init__(*layers)
        initialise(self, init)
        with inside("linear"):
            make = linear or partial(MLP, hidden=(), init=init)
            given = {"context_dim": context_dim} if context_dim else {}
            self.append(make((channels[-1], *sizes[-1]), out_shape, **given))
        self.to(memory_format=torch.channels_last)  # a third faster on a CPU

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        *convolutions, linear = self
        for layer in convolutions:
            x = layer(x)
        return linear(x) if context is None else linear(x, context)  # a network of a user's may take no context


class ConvDecoder(nn.Sequential):
    """Convolutional network from (N, *in_shape) to images (N, C, H, W): a linear network, then transposed convolutions.

    It is the mirror image of `ConvEncoder`: the linear network gives the first, smallest feature maps, and each
    transposed convolution but the last is followed by norm → activation → dropout. What holds for every one of them is
    given once, or as a list with a value for each; `kernel` and `stride` have one for the last, too.

    Arguments and errors are those of `ConvEncoder`, but for these.

    Args:
        in_shape: shape of one input, without the batch axis.
        out_shape: (C, H, W).
        channels: feature maps that each transposed convolution starts from; None for …, 128, 64, 32 (512 at most), in
            as many layers as bring an image of 7 pixels or fewer to its size.
        stride: factor by which a transposed convolution makes the feature map larger.
        linear: network from the input to the first feature maps, with what follows them; None for one linear layer
            with ReLU, of the same `init`.

    >>> import torch
    >>> ConvDecoder((20,), (1, 28, 28), channels=(128, 64))(torch.zeros(8, 20)).shape
    torch.Size([8, 1, 28, 28])
    """

    @checked
    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Channels | None = None,
        kernel: Sides = 4,
        stride: Sides = 2,
        activation: Names = "ReLU",
        norm: Names = None,
        dropout: Fraction | Sequence[Fraction] = 0.0,
        order: Sequence[str] = ("norm", "activation", "dropout"),
        linear: Network | None = None,
        init: Init = "default",
    ) -> None:
        colours, *size = out_shape
        channels = channels or default_channels(size, kernel, stride)[::-1]
        count = len(channels)
        kernels, strides = per_layer("kernel", kernel, count), per_layer("stride", stride, count)
        behind = follow(channels[1:], order, norm=norm, activation=activation, dropout=dropout)
        sizes, rests = [size], []  # from the image back to the first feature maps
        for k, s in zip(kernels[::-1], strides[::-1], strict=True):
            (height, rest_below), (width, rest_right) = (strided(length, k, s) for length in sizes[-1])
            sizes.append([height, width])
            rests.append((rest_below, rest_right))
        refuse(norm, channels, kernels, strides, sizes)
        layers: list[nn.Module] = []
        for (maps_in, maps_out), k, s, rest, steps in zip(
            pairwise([*channels, colours]), kernels, strides, rests[::-1], [*behind, []], strict=True
        ):
            layers += [nn.ConvTranspose2d(maps_in, maps_out, k, s, padding(k, s), output_padding=rest), *steps]
        super().__init__(*layers)
        initialise(self, init)
        first = linear or partial(MLP, hidden=(), activate_output=True, init=init)
        with inside("linear"):
            self.insert(0, first(in_shape, (channels[0], *sizes[-1])))
        self.to(memory_format=torch.channels_last)  # a third faster on a CPU


def padding(kernel: int, stride: int) -> int:
    """Return the padding with which a convolution divides the size by its stride, to a pixel."""
    return max(0, (kernel - stride + 1) // 2)


def strided(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the length that a padded convolution leaves, and the pixels at the end that it does not see."""
    if length < 2 and stride > 1:  # one pixel cannot be divided
        return 0, 0
    steps, rest = divmod(length + 2 * padding(kernel, stride) - kernel, stride)
    return steps + 1, rest


def default_channels(size: Sequence[int], kernel: Any, stride: Any, pool: Any = 1) -> list[int]:
    """Return 32, 64, 128, … (512 at most) for the layers that bring an image (H, W) to 7 pixels or fewer."""
    if not all(isinstance(value, int) for value in (kernel, stride, pool)):
        raise ValueError("channels=null takes no list of kernels, strides or pools: give the channels, too")
    if stride * pool < 2:
        raise ValueError("channels=null needs something that makes the image smaller, such as stride=2")
    lengths, depth = list(size), 0
    while max(lengths) > 7 and min(lengths) > 0:
        lengths = [strided(length, kernel, stride)[0] // pool for length in lengths]
        depth += min(lengths) > 0
    return [min(32 * 2**layer, 512) for layer in range(max(1, depth))]


def refuse(
    norm: Names, channels: Sequence[int], kernels: list[int], strides: list[int], sizes: list[list[int]]
) -> None:
    """Refuse norms of the wrong axis, kernels that pass over pixels or have no centre, and maps of less than a pixel.

    Args:
        norm: that follows the convolutions.
        channels: of each layer.
        kernels: of each layer.
        strides: of each layer.
        sizes: of the image (H, W), and then of each layer's feature maps.
    """
    for name in [norm] if isinstance(norm, str) else norm or ():
        if name is not None and name.startswith(("LayerNorm", "RMSNorm")):
            raise ValueError(f"norm={name} would norm the rows of a feature map: use BatchNorm2d or GroupNorm(1)")
    for kernel, stride in zip(kernels, strides, strict=True):
        if kernel < stride:
            raise ValueError(f"kernel={kernel} passes over pixels at stride={stride}: it must be at least as large")
        if stride == 1 and kernel % 2 == 0:
            raise ValueError(f"kernel={kernel} at stride=1 has no centre and would move the image: take an odd one")
    fitting = sum(min(lengths) > 0 for lengths in sizes[1:])
    if fitting < len(channels):
        fits = f"the deepest that fits is {fitting}"
        if not fitting:
            fits = "none such fits, take stride=1 or a network of linear layers"
        height, width = sizes[0]
        raise ValueError(
            f"channels={list(channels)} has depth {len(channels)}, too deep for {height}×{width} pixels: {fits}"
        )


def follow(features: Sequence[int], order: Sequence[str], **options: Any) -> list[list[nn.Module]]:
    """Return for each layer the modules that follow it.

    Args:
        features: that each layer gives.
        order: of the steps, which are the names of the options.
        options: `norm`, `activation`, `pool`, `dropout`: a value, or one for each layer.
    """
    if sorted(order) != sorted(options):
        raise ValueError(f"order={list(order)} must hold each of {', '.join(options)} once")
    values = {name: per_layer(name, value, len(features)) for name, value in options.items()}

    def step(name: str, value: Any, width: int) -> nn.Module:
        if name == "pool":
            return nn.MaxPool2d(value)
        if name == "dropout":
            return nn.Dropout(value)
        return torch_layer(name, value, *([width] if name == "norm" else []))

    nothing = {"norm": None, "activation": None, "pool": 1, "dropout": 0}
    return [
        [step(name, values[name][layer], width) for name in order if values[name][layer] != nothing[name]]
        for layer, width in enumerate(features)
    ]


def per_layer(option: str, value: Any, count: int) -> list[Any]:
    """Return a list with a value for each of `count` layers, from one value for all or from such a list."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{option}={list(value)} must be one value, or {count}: one for each layer")
    return list(value)


def initialise(network: nn.Module, init: Init) -> None:
    """Set the weights and biases of all linear and convolutional layers.

    `default` leaves torch's own; `kaiming` draws weights from a normal distribution (He et al., arXiv 1502.01852),
    `xavier` from a uniform one (Glorot & Bengio, AISTATS 2010); both set biases to 0. Both are torch's, which counts as
    inputs of a transposed convolution those of the convolution that it is the transpose of.
    """
    if init == "default":
        return
    fill = nn.init.kaiming_normal_ if init == "kaiming" else nn.init.xavier_uniform_
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            fill(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def torch_layer(option: str, call: str, *sizes: int) -> nn.Module:
    """Return the layer `torch.nn.<call>`, such as `ReLU` or `LeakyReLU(0.2)`, with `sizes` behind its arguments."""
    try:
        node = ast.parse(call, mode="eval").body
        if not isinstance(node, ast.Call):
            node = ast.Call(node, [], [])
        arguments = [ast.literal_eval(argument) for argument in node.args]
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
        layer = getattr(nn, ast.unparse(node.func))
    except (SyntaxError, ValueError, TypeError, AttributeError):
        layer = None
    if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
        raise ValueError(f"{option}={call} is no layer of torch.nn, such as ReLU, LeakyReLU(0.2) or BatchNorm1d")
    return layer(*arguments, *sizes, **keywords)
