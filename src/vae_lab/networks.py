"""Networks: modules that derive their layer sizes from an input shape and an output shape."""

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
from vae_lab.errors import did_you_mean

Shape = tuple[int, ...]
Network = Callable[..., nn.Module]  # called with (in_shape, out_shape); see `Conditional`
Names = str | Sequence[str | None] | None
Channels = Annotated[Sequence[PositiveInt], MinLen(1)]
Sides = PositiveInt | Sequence[PositiveInt]  # in pixels; one value for all layers, or one for each layer
Init = Literal["default", "kaiming", "xavier"]


class MLP(nn.Sequential):
    """Fully connected network that maps (N, *in_shape) to (N, *out_shape).

    Each hidden layer is linear → norm → activation → dropout; the output layer is linear only. `activation`, `norm` and
    `dropout` each take a single value for all hidden layers or a list with one value per layer.

    Args:
        in_shape: shape of one input, without the batch axis.
        out_shape: shape of one output, without the batch axis.
        hidden: widths of the hidden layers; empty for a linear map.
        activation: `torch.nn` activation, such as `ReLU` or `LeakyReLU(0.2)`; None for no activation.
        norm: `torch.nn` normalisation over features, such as `BatchNorm1d` or `LayerNorm`; None for no normalisation.
        dropout: probability of dropping a hidden unit, 0 ≤ p < 1.
        order: order of the steps that follow a linear layer.
        activate_output: whether norm, activation and dropout also follow the output layer. If so, lists include a value
            for it.
        init: initialisation of weights and biases; see `initialise`.
        context_dim: size of the context (N, context_dim), the network's second argument; 0 for no context.

    Raises:
        ValueError: if a layer is unknown, a list does not match the number of layers, or the order is incomplete.

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
        following = following_layers(followed, order, norm=norm, activation=activation, dropout=dropout)
        layers: list[nn.Module] = [nn.Flatten()]
        for (fan_in, fan_out), steps in zip(pairwise(widths), [*following, []], strict=False):
            layers += [nn.Linear(fan_in, fan_out), *steps]
        super().__init__(*layers, nn.Unflatten(1, out_shape))
        initialise(self, init)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(x if context is None else torch.cat([x.flatten(1), context], 1))  # type: ignore[no-untyped-call]


class ConvEncoder(nn.Sequential):
    """Convolutional network that maps images (N, C, H, W) to (N, *out_shape): convolutions, then a linear network.

    Each layer is convolution → norm → activation → max-pooling → dropout. Convolutions are padded so that only
    their stride, not their kernel, reduces the size of the feature maps. The options from `kernel` to `dropout` each
    take a single value for all layers or a list with one value per layer.

    Args:
        in_shape: (C, H, W).
        out_shape: shape of one output, without the batch axis.
        channels: number of feature maps in each layer. None selects 32, 64, 128, … (at most 512), with enough layers
            to reduce each side of the image to 7 pixels or fewer, or as many layers as the shorter side allows.
        kernel: side length of the convolution kernel in pixels.
        stride: stride of the convolution in pixels.
        pool: side length of the max-pooling window in pixels; 1 for no pooling.
        activation: `torch.nn` activation, such as `ReLU` or `LeakyReLU(0.2)`; None for no activation.
        norm: `torch.nn` normalisation over feature maps, such as `BatchNorm2d` or `GroupNorm(8)`; None for no norm.
        dropout: probability of dropping a value in a feature map, 0 ≤ p < 1.
        order: order of the steps that follow a convolution.
        linear: network that maps the last feature maps to the output; None for a linear layer with the same `init`.
        init: initialisation of the convolutions' weights and biases; see `initialise`. `linear` has its own `init`.
        context_dim: size of the context (N, context_dim), the network's second argument, which is passed to the linear
            network; 0 for no context.

    Raises:
        ValueError: if there are more layers than the image size allows, if a kernel is smaller than its stride, if a
            kernel with stride 1 has an even side length, or for the same reasons as in `MLP`.

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
        following = following_layers(channels, order, norm=norm, activation=activation, pool=pools, dropout=dropout)
        sizes = [size]
        layers: list[nn.Module] = []
        for (maps_in, maps_out), k, s, side, steps in zip(
            pairwise([colours, *channels]), kernels, strides, pools, following, strict=True
        ):
            layers += [nn.Conv2d(maps_in, maps_out, k, s, padding(k, s)), *steps]
            sizes.append([strided(length, k, s)[0] // side for length in sizes[-1]])
        check_convolutions(norm, channels, kernels, strides, sizes)
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
        return linear(x) if context is None else linear(x, context)  # a user-defined network may not accept a context


class ConvDecoder(nn.Sequential):
    """Network that maps (N, *in_shape) to images (N, C, H, W): a linear network, then transposed convolutions.

    It mirrors `ConvEncoder`: the linear network computes the first and smallest feature maps, and norm → activation →
    dropout follow every transposed convolution except the last. Each option takes a single value for all of these
    layers or a list with one value per layer; lists for `kernel` and `stride` include the last transposed convolution.

    Arguments and errors that are not described here are the same as for `ConvEncoder`.

    Args:
        in_shape: shape of one input, without the batch axis.
        out_shape: (C, H, W).
        channels: number of input feature maps for each transposed convolution. None selects …, 128, 64, 32 (at most
            512), with as many layers as `ConvEncoder` has for the same image.
        stride: factor by which a transposed convolution enlarges the feature maps.
        linear: network that maps the input to the first feature maps, including their activation; None for a linear
            layer with ReLU and the same `init`.

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
        following = following_layers(channels[1:], order, norm=norm, activation=activation, dropout=dropout)
        sizes, rests = [size], []  # from the image to the first feature maps
        for k, s in zip(kernels[::-1], strides[::-1], strict=True):
            (height, rest_below), (width, rest_right) = (strided(length, k, s) for length in sizes[-1])
            sizes.append([height, width])
            rests.append((rest_below, rest_right))
        check_convolutions(norm, channels, kernels, strides, sizes)
        layers: list[nn.Module] = []
        for (maps_in, maps_out), k, s, rest, steps in zip(
            pairwise([*channels, colours]), kernels, strides, rests[::-1], [*following, []], strict=True
        ):
            layers += [nn.ConvTranspose2d(maps_in, maps_out, k, s, padding(k, s), output_padding=rest), *steps]
        super().__init__(*layers)
        initialise(self, init)
        first = linear or partial(MLP, hidden=(), activate_output=True, init=init)
        with inside("linear"):
            self.insert(0, first(in_shape, (channels[0], *sizes[-1])))
        self.to(memory_format=torch.channels_last)  # a third faster on a CPU


def padding(kernel: int, stride: int) -> int:
    """Return the padding for which the output side length is the input's divided by the stride, to within one pixel."""
    return max(0, (kernel - stride + 1) // 2)


def strided(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the output length of a padded convolution and the number of uncovered pixels at the end."""
    if length < 2 and stride > 1:  # one pixel cannot be divided
        return 0, 0
    steps, rest = divmod(length + 2 * padding(kernel, stride) - kernel, stride)
    return steps + 1, rest


def default_channels(size: Sequence[int], kernel: Any, stride: Any, pool: Any = 1) -> list[int]:
    """Return 32, 64, 128, … (at most 512) for the layers that reduce an image (H, W) to at most 7 pixels per side."""
    if not all(isinstance(value, int) for value in (kernel, stride, pool)):
        raise ValueError("channels=null: must be a list if kernel, stride or pool is a list")
    if stride * pool < 2:
        raise ValueError("channels=null: must be a list unless stride or pool reduces the image size; use stride=2")
    lengths, depth = list(size), 0
    while max(lengths) > 7 and min(lengths) > 0:
        lengths = [strided(length, kernel, stride)[0] // pool for length in lengths]
        depth += min(lengths) > 0
    return [min(32 * 2**layer, 512) for layer in range(max(1, depth))]


def check_convolutions(
    norm: Names, channels: Sequence[int], kernels: list[int], strides: list[int], sizes: list[list[int]]
) -> None:
    """Check that norms apply to feature maps, kernels cover all pixels and are centred, and the image is large enough.

    Args:
        norm: the network's `norm` option.
        channels: number of channels of each layer.
        kernels: side length of each layer's kernel, in pixels.
        strides: stride of each layer, in pixels.
        sizes: size of the image (H, W), followed by the size of the feature maps in each layer.

    Raises:
        ValueError: if a check fails.
    """
    for name in [norm] if isinstance(norm, str) else norm or ():
        if name is not None and name.startswith(("LayerNorm", "RMSNorm")):
            raise ValueError(f"norm={name}: must normalise over feature maps; use BatchNorm2d or GroupNorm(1)")
    for kernel, stride in zip(kernels, strides, strict=True):
        if kernel < stride:
            raise ValueError(f"kernel={kernel}: must be at least the stride, {stride}")
        if stride == 1 and kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}: must be odd for stride=1")
    fitting = sum(min(lengths) > 0 for lengths in sizes[1:])
    if fitting < len(channels):
        height, width = sizes[0]
        expected = f"must specify at most {fitting} layer{'s' * (fitting > 1)} for images of {height}×{width} pixels"
        if not fitting:
            expected = f"images of {height}×{width} pixels are too small for one layer; use stride=1 or an MLP"
        raise ValueError(f"channels={list(channels)}: {expected}")


def following_layers(features: Sequence[int], order: Sequence[str], **options: Any) -> list[list[nn.Module]]:
    """Return the modules that follow each layer.

    Args:
        features: number of output features of each layer.
        order: the names of `options`, in the order of the modules.
        options: `norm`, `activation`, `pool` and `dropout`, each a single value or a list with one value per layer.
    """
    if sorted(order) != sorted(options):
        raise ValueError(f"order={list(order)}: must contain each of these exactly once: {', '.join(options)}")
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
    """Return a list with one value for each of `count` layers, given such a list or a single value for all layers."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"{option}={list(value)}: must be a single value or a list with one value per layer ({count} in total)"
        )
    return list(value)


def initialise(network: nn.Module, init: Init) -> None:
    """Initialise the weights and biases of all linear and convolutional layers.

    `default` keeps torch's default. `kaiming` draws weights from a normal distribution (He et al., arXiv 1502.01852),
    and `xavier` from a uniform distribution (Glorot & Bengio, AISTATS 2010); both set biases to 0. Both use torch's
    implementations, in which a transposed convolution has the fan-in of the corresponding convolution.
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
    """Return the layer `torch.nn.<call>`, such as `LeakyReLU(0.2)`, with `sizes` appended to the arguments."""
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
        name, is_norm = call.partition("(")[0], option == "norm"
        examples = "BatchNorm1d or GroupNorm(8)" if is_norm else "ReLU or LeakyReLU(0.2)"
        closest = "" if is_norm or hasattr(nn, name) else did_you_mean(name, nn.modules.activation.__all__)
        raise ValueError(f"{option}={call}: must be a layer from torch.nn, such as {examples}{closest}")
    return layer(*arguments, *sizes, **keywords)
