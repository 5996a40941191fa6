import copy
from functools import partial
from math import prod

import pytest
import torch
from torch import nn

from vae_lab import runs
from vae_lab.cli.compose import compose
from vae_lab.networks import MLP, ConvDecoder, ConvEncoder, initialise


@pytest.mark.parametrize("hidden", [(), (7,), (7, 5, 3)])
def test_mlp_maps_shapes_to_shapes(hidden: tuple[int, ...]) -> None:
    network = MLP((2, 3, 4), (5, 2), hidden=hidden)
    assert network(torch.rand(6, 2, 3, 4)).shape == (6, 5, 2)
    widths = [layer.out_features for layer in network if isinstance(layer, nn.Linear)]
    assert widths == [*hidden, 10]


def test_mlp_layers_have_default_order() -> None:
    network = MLP((4,), (2,), hidden=(8, 6), activation=["ELU", "Tanh"], norm="BatchNorm1d", dropout=0.1)
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == [
        "Flatten",
        *("Linear", "BatchNorm1d", "ELU", "Dropout"),
        *("Linear", "BatchNorm1d", "Tanh", "Dropout"),
        *("Linear", "Unflatten"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "Foo"}, "activation=Foo"),
        ({"activation": "functional"}, "activation=functional"),
        ({"activation": ["ReLU"]}, "activation=.*: must be a single value or a list .*2 in total"),
        ({"activation": "LeakyReLU(x)"}, "activation=LeakyReLU"),
        ({"activation": "ReLU("}, "activation=ReLU"),
        ({"activation": "nn.ReLU"}, "activation=nn.ReLU"),
        ({"order": ["norm", "activation"]}, "order=.* dropout"),
        ({"norm": "Norm"}, "norm=Norm"),
        ({"hidden": (0, 3)}, "hidden"),
    ],
)
def test_invalid_mlp_option_is_rejected(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLP((4,), (2,), **options)


def test_options_can_be_lists_with_value_per_layer() -> None:
    options = {"norm": [None, "BatchNorm1d"], "dropout": [0.2, 0], "activation": ["LeakyReLU(0.2)", None]}
    network = MLP((4,), (2,), hidden=(8, 6), order=["activation", "dropout", "norm"], **options)
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == ["Flatten", "Linear", "LeakyReLU", "Dropout", "Linear", "BatchNorm1d", "Linear", "Unflatten"]
    assert network[2].negative_slope == 0.2


def test_output_layer_can_have_norm_and_activation() -> None:
    network = MLP((4,), (2, 3), hidden=(8,), activation=["ELU", "Tanh"], norm="LayerNorm", activate_output=True)
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == ["Flatten", "Linear", "LayerNorm", "ELU", "Linear", "LayerNorm", "Tanh", "Unflatten"]


# ---- convolutions ----

SHAPES = [
    (1, 8, 8),
    (1, 28, 28),
    (3, 32, 32),
    (3, 27, 31),
    (2, 64, 17),
    (1, 224, 160),
    (1, 4, 64),
    (1, 3, 3),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", [{}, {"kernel": 3}, {"kernel": 5, "stride": 3, "channels": [4]}, {"kernel": 2}])
def test_convolutions_fit_any_image_size(shape: tuple[int, int, int], options: dict) -> None:
    channels = options.get("channels")
    mirrored = options | ({"channels": channels[::-1]} if channels else {})
    encoder, decoder = ConvEncoder(shape, (5,), **options), ConvDecoder((5,), shape, **mirrored)
    code = encoder(torch.rand(2, *shape))
    assert code.shape == (2, 5)
    assert decoder(code).shape == (2, *shape)


@pytest.mark.parametrize(
    ("side", "depth"), [(1, 0), (2, 1), (7, 1), (8, 1), (14, 1), (28, 2), (32, 3), (64, 4), (224, 5)]
)
def test_default_depth_reduces_image_to_seven_pixels(side: int, depth: int) -> None:
    if depth == 0:
        with pytest.raises(ValueError, match="too small for one layer"):
            ConvEncoder((1, side, side), (5,))
        return
    encoder, decoder = ConvEncoder((1, side, side), (5,)), ConvDecoder((5,), (1, side, side))
    widths = [32, 64, 128, 256, 512][:depth]
    assert [layer.out_channels for layer in encoder if isinstance(layer, nn.Conv2d)] == widths
    assert [layer.in_channels for layer in decoder if isinstance(layer, nn.ConvTranspose2d)] == widths[::-1]


@pytest.mark.parametrize(
    "network", [lambda **o: ConvEncoder((1, 8, 12), (5,), **o), lambda **o: ConvDecoder((5,), (1, 8, 12), **o)]
)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"channels": [4, 4, 4, 4]},
            r"channels=\[4, 4, 4, 4\]: must .* at most 3 layers for images of 8×12 pixels$",
        ),
        ({"channels": [4, 4], "kernel": [3]}, "kernel=.*: must be a single value or a list .*2 in total"),
        ({"channels": [4] * 7, "kernel": 3}, "channels=.*: must specify at most 3 layers for images of 8×12 pixels$"),
        ({"channels": [4, 4], "kernel": 4, "stride": 1}, "kernel=4: must be odd for stride=1"),
        ({"channels": [4, 4], "kernel": 2, "stride": [2, 3]}, "kernel=2: must be at least the stride, 3"),
        ({"kernel": [3, 3]}, "channels=null: must be a list if kernel"),
        ({"kernel": 3, "stride": 1}, "channels=null: must be a list unless stride"),
        ({"channels": [4], "norm": "LayerNorm"}, r"norm=LayerNorm.*GroupNorm\(1\)"),
        ({"channels": [4, 4], "norm": "Norm"}, "norm=Norm"),
        ({"channels": [4, 4], "order": ["activation"]}, "order="),
    ],
)
def test_invalid_convolution_option_is_rejected(network: partial, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**options)


def test_pooling_reduces_feature_maps_and_excess_is_rejected() -> None:
    encoder = ConvEncoder((1, 8, 8), (5,), channels=[4, 4], kernel=3, stride=1, pool=[2, 3])
    assert encoder(torch.rand(2, 1, 8, 8)).shape == (2, 5)
    assert encoder[-1][1].in_features == 4 * 1 * 1
    with pytest.raises(ValueError, match="must specify at most 1 layer for images"):
        ConvEncoder((1, 8, 8), (5,), channels=[4, 4], kernel=3, stride=1, pool=[4, 3])


def test_default_depth_accounts_for_pooling_and_stride() -> None:
    for options, depth in (({"kernel": 3, "stride": 1, "pool": 2}, 3), ({"pool": 2}, 2), ({"stride": 4}, 2)):
        encoder = ConvEncoder((3, 32, 32), (5,), **options)
        assert len([layer for layer in encoder if isinstance(layer, nn.Conv2d)]) == depth, options
        assert encoder(torch.rand(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize("network", [ConvEncoder, ConvDecoder])
def test_init_applies_to_every_weight(network: type[nn.Module]) -> None:
    shapes = ((1, 16, 16), (50,)) if network is ConvEncoder else ((50,), (1, 16, 16))
    torch.manual_seed(0)
    for init, fan in (("kaiming", lambda w: 2 / prod(w.shape[1:])), ("xavier", None)):
        made = network(*shapes, channels=[64, 64], linear=partial(MLP, hidden=[300], init=init), init=init)
        layers = [layer for layer in made.modules() if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))]
        assert len(layers) == 4
        for layer in layers:
            assert not layer.bias.any()
            out, into, *kernel = layer.weight.shape
            variance = fan(layer.weight) if fan else 2 / ((out + into) * prod(kernel))
            assert layer.weight.var().item() == pytest.approx(variance, rel=0.15)
            if init == "xavier":
                assert layer.weight.abs().max() <= (3 * variance) ** 0.5


# ---- the networks of the reference repositories ----


def conv(into: int, out: int, kernel: int) -> int:
    return into * out * kernel**2 + out


def linear(into: int, out: int) -> int:
    return into * out + out


def norm(features: int) -> int:
    return 2 * features


# layers with their output shapes, and the number of parameters, for 20 latent dimensions
REFERENCES = {
    ("encoder=conv_mnist", "data=mnist"): (
        "Conv2d 64×14×14, LeakyReLU(0.2), Conv2d 128×7×7, BatchNorm2d, LeakyReLU(0.2), "
        "Linear 1024, BatchNorm1d, LeakyReLU(0.2), Linear 40",
        conv(1, 64, 4) + conv(64, 128, 4) + norm(128) + linear(6272, 1024) + norm(1024) + linear(1024, 40),
    ),
    ("decoder=conv_mnist", "data=mnist"): (
        "Linear 1024, BatchNorm1d, ReLU, Linear 6272, BatchNorm1d, ReLU, "
        "ConvTranspose2d 64×14×14, BatchNorm2d, ReLU, ConvTranspose2d 1×28×28",
        linear(20, 1024) + norm(1024) + linear(1024, 6272) + norm(6272) + conv(128, 64, 4) + norm(64) + conv(64, 1, 4),
    ),
    ("decoder=conv_mnist", "data=mnist", "likelihood=gaussian_learned"): (
        "Linear 1024, BatchNorm1d, ReLU, Linear 6272, BatchNorm1d, ReLU, "
        "ConvTranspose2d 64×14×14, BatchNorm2d, ReLU, ConvTranspose2d 2×28×28",
        linear(20, 1024) + norm(1024) + linear(1024, 6272) + norm(6272) + conv(128, 64, 4) + norm(64) + conv(64, 2, 4),
    ),
    ("encoder=conv_cifar10", "data=cifar10", "likelihood=gaussian"): (
        "Conv2d 64×16×16, LeakyReLU(0.2), Conv2d 128×8×8, BatchNorm2d, LeakyReLU(0.2), "
        "Conv2d 256×4×4, BatchNorm2d, LeakyReLU(0.2), Linear 40",
        conv(3, 64, 4) + conv(64, 128, 4) + norm(128) + conv(128, 256, 4) + norm(256) + linear(4096, 40),
    ),
    ("decoder=conv_cifar10", "data=cifar10", "likelihood=gaussian_learned"): (
        "Linear 1792, BatchNorm1d, ReLU, ConvTranspose2d 256×4×4, BatchNorm2d, ReLU, "
        "ConvTranspose2d 128×8×8, ReLU, ConvTranspose2d 64×16×16, ReLU, ConvTranspose2d 6×32×32",
        linear(20, 448 * 4) + norm(448 * 4) + conv(448, 256, 4) + norm(256)
        + conv(256, 128, 4) + conv(128, 64, 4) + conv(64, 6, 4),
    ),
    ("decoder=conv_cifar10", "data=cifar10", "likelihood=gaussian"): (
        "Linear 1792, BatchNorm1d, ReLU, ConvTranspose2d 256×4×4, BatchNorm2d, ReLU, "
        "ConvTranspose2d 128×8×8, ReLU, ConvTranspose2d 64×16×16, ReLU, ConvTranspose2d 3×32×32",
        linear(20, 448 * 4) + norm(448 * 4) + conv(448, 256, 4) + norm(256)
        + conv(256, 128, 4) + conv(128, 64, 4) + conv(64, 3, 4),
    ),
    ("encoder=mlp_elu_tanh", "data=mnist"): (
        "Linear 500, ELU, Dropout(0.1), Linear 500, Tanh, Dropout(0.1), Linear 40",
        linear(784, 500) + linear(500, 500) + linear(500, 40),
    ),
    ("decoder=mlp_elu_tanh", "data=mnist"): (
        "Linear 500, Tanh, Dropout(0.1), Linear 500, ELU, Dropout(0.1), Linear 784",
        linear(20, 500) + linear(500, 500) + linear(500, 784),
    ),
    ("encoder=conv_pooled", "data=mnist"): (
        "Conv2d 16×28×28, LeakyReLU(0.01), MaxPool2d 16×14×14, BatchNorm2d, "
        "Conv2d 32×14×14, LeakyReLU(0.01), MaxPool2d 32×7×7, BatchNorm2d, Conv2d 16×7×7, Dropout(0.2), "
        "Linear 512, LeakyReLU(0.01), Dropout(0.2), Linear 256, LeakyReLU(0.01), Dropout(0.2), BatchNorm1d, Linear 40",
        conv(1, 16, 3) + norm(16) + conv(16, 32, 3) + norm(32) + conv(32, 16, 3)
        + linear(784, 512) + linear(512, 256) + norm(256) + linear(256, 40),
    ),
    ("decoder=conv_pooled", "data=mnist"): (
        "Linear 256, LeakyReLU(0.01), Linear 512, LeakyReLU(0.01), Linear 784, LeakyReLU(0.01), "
        "ConvTranspose2d 32×14×14, BatchNorm2d, LeakyReLU(0.01), "
        "ConvTranspose2d 16×28×28, BatchNorm2d, LeakyReLU(0.01), ConvTranspose2d 1×28×28",
        linear(20, 256) + linear(256, 512) + linear(512, 784)
        + conv(16, 32, 4) + norm(32) + conv(32, 16, 4) + norm(16) + conv(16, 1, 3),
    ),
    ("encoder=mlp", "data=mnist"): (
        "Linear 500, ReLU, Linear 500, ReLU, Linear 40",
        linear(784, 500) + linear(500, 500) + linear(500, 40),
    ),
    ("decoder=mlp", "data=mnist"): (
        "Linear 500, ReLU, Linear 500, ReLU, Linear 784",
        linear(20, 500) + linear(500, 500) + linear(500, 784),
    ),
    ("encoder=mlp_512", "data=mnist"): (
        "Linear 512, ReLU, Linear 512, ReLU, Linear 40",
        linear(784, 512) + linear(512, 512) + linear(512, 40),
    ),
    ("decoder=mlp_512", "data=mnist"): ("Linear 512, ReLU, Linear 784", linear(20, 512) + linear(512, 784)),
}  # fmt: skip


def test_init_applies_to_default_linear_layer() -> None:
    for made in (ConvEncoder((1, 8, 8), (5,), init="kaiming"), ConvDecoder((5,), (1, 8, 8), init="kaiming")):
        layers = [layer for layer in made.modules() if isinstance(layer, nn.Linear)]
        assert len(layers) == 1
        assert not layers[0].bias.any()


def test_linear_init_defaults_to_init_of_convolutions() -> None:
    for options, expected in ((["encoder.init=xavier"], "xavier"), (["encoder.linear.init=kaiming"], "kaiming")):
        config = compose("train", ["encoder=conv", *options])[0]
        assert config.encoder.linear.init == expected
    assert compose("train", ["encoder=conv_cifar10", "decoder=conv_cifar10"])[0].decoder.linear.init == "kaiming"


def described(network: nn.Module, x: torch.Tensor) -> str:
    """Return the layers in the order of their execution, with the output shapes of those that change the shape."""
    names: list[str] = []

    def record(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        name = type(layer).__name__
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d)):
            name += " " + "×".join(map(str, output.shape[1:]))
        elif isinstance(layer, nn.Dropout):
            name += f"({layer.p})"
        elif isinstance(layer, nn.LeakyReLU):
            name += f"({layer.negative_slope})"
        if name not in ("Flatten", "Unflatten"):
            names.append(name)

    for layer in network.modules():
        if not list(layer.children()):
            layer.register_forward_hook(record)
    network(x)
    return ", ".join(names)


@pytest.mark.parametrize("options", REFERENCES, ids=" ".join)
def test_reference_networks_have_same_layers_and_parameter_count(options: tuple[str, ...]) -> None:
    layers, parameters = REFERENCES[options]
    config = compose("train", options)[0]
    conditional = getattr(runs.build_module(config).vae, options[0].partition("=")[0])
    assert described(conditional.network, torch.zeros(2, *conditional.in_shape)) == layers
    assert sum(weight.numel() for weight in conditional.network.parameters()) == parameters


@pytest.mark.parametrize(
    ("network", "shapes"), [(ConvEncoder, [(3, 16, 16), (6,)]), (ConvDecoder, [(6,), (3, 16, 16)])]
)
def test_channels_last_weights_give_same_values(network: type[nn.Module], shapes: list[tuple[int, ...]]) -> None:
    channels_last = network(*shapes, channels=[8, 16])
    layers = [layer for layer in channels_last.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]
    assert all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in layers)
    contiguous = copy.deepcopy(channels_last).to(memory_format=torch.contiguous_format)
    x = torch.randn(4, *shapes[0])
    torch.testing.assert_close(channels_last(x), contiguous(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init", ["kaiming", "xavier"])
def test_layer_without_bias_is_initialised(init: str) -> None:
    layer = nn.Linear(3, 2, bias=False)
    before = layer.weight.detach().clone()
    initialise(layer, init)
    assert not torch.equal(layer.weight, before)
