"""Properties that hold for all shapes, options, sizes and seeds; Hypothesis searches for counterexamples."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from vae_lab.data import ImageData
from vae_lab.data.batches import Batches, split_off_test
from vae_lab.errors import ConfigError
from vae_lab.networks import MLP, ConvDecoder, ConvEncoder
from vae_lab.noise import Dropout, Gaussian, Masking, Noise, SaltAndPepper, rotate_and_shift

COLOURS = st.sampled_from([1, 3])
SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 17)
SMALL = st.integers(1, 3)
SHAPES = st.tuples(COLOURS, SIDES, SIDES)


def examples(count: int) -> settings:
    return settings(deadline=None, derandomize=True, database=None, max_examples=count)


# ---- networks ----


def one_or_list(values: st.SearchStrategy, count: int) -> st.SearchStrategy:
    """Return one value for all layers, or a list with a value for each."""
    return values | st.lists(values, min_size=count, max_size=count)


def listed(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, list) else [value] * count


@st.composite
def convolutions(draw: st.DrawFn, pools: bool = True) -> dict[str, Any]:
    channels = draw(st.lists(SMALL, min_size=1, max_size=3))
    options = {"channels": channels, "kernel": draw(one_or_list(st.integers(1, 5), len(channels)))}
    options["stride"] = draw(one_or_list(SMALL, len(channels)))
    if pools:
        options["pool"] = draw(one_or_list(SMALL, len(channels)))
    return options


def changed(options: dict[str, Any], part: slice) -> dict[str, Any]:
    """Return the options of some of the layers."""
    return {name: value[part] if isinstance(value, list) else value for name, value in options.items()}


def mirrored(options: dict[str, Any]) -> dict[str, Any]:
    return changed(options, slice(None, None, -1))


def built(network: type[nn.Module], *shapes: tuple[int, ...], **options: Any) -> nn.Module:
    """Return a network whose weights have shapes but no values."""
    with torch.device("meta"):
        return network(*shapes, **options)


def refusal(network: type[nn.Module], *shapes: tuple[int, ...], **options: Any) -> str | None:
    """Return the error message of a network, or None if there is no error."""
    try:
        built(network, *shapes, **options)
    except ValueError as error:
        return str(error)
    return None


def maps(network: nn.Module, shape: tuple[int, ...]) -> tuple[list[torch.Size], torch.Size]:
    """Return the shapes of the input, of all feature maps and of the output."""
    x = torch.empty(shape, device="meta")
    shapes = [x.shape]
    for layer in network:
        x = layer(x)
        if isinstance(layer, (nn.ConvTranspose2d, nn.Conv2d, nn.MaxPool2d)):
            shapes.append(x.shape)
        elif isinstance(layer, MLP) and x.ndim == 4:  # the first feature maps of a decoder
            shapes = [x.shape]
    return shapes, x.shape


def assert_gradients(network: nn.Module) -> None:
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.any(), name


@examples(40)
@given(SHAPES, convolutions(), st.lists(SMALL, min_size=1, max_size=2), SMALL)
def test_encoder_has_expected_shapes_or_error_names_option(
    shape: tuple[int, ...], options: dict[str, Any], out_shape: list[int], count: int
) -> None:
    depth = len(options["channels"])
    layers = list(zip(*(listed(options[name], depth) for name in ("kernel", "stride", "pool")), strict=True))
    error = refusal(ConvEncoder, shape, tuple(out_shape), **options)
    if any(kernel < stride or (stride == 1 and kernel % 2 == 0) for kernel, stride, _ in layers):
        assert error is not None
        assert error.startswith("kernel=")
    elif error is not None:
        assert error.startswith(f"channels={options['channels']}: ")
        shallower = [changed(options, slice(fewer)) for fewer in range(1, depth)]
        fitting = sum(refusal(ConvEncoder, shape, (1,), **each) is None for each in shallower)
        assert (f"must specify at most {fitting} layer" if fitting else "too small for one layer") in error
    else:
        shapes, out = maps(built(ConvEncoder, shape, tuple(out_shape), **options), (count, *shape))
        assert out == (count, *out_shape)
        sizes = list(shape[1:])
        for kernel, stride, pool in layers:  # an odd difference is padded by one more pixel
            sizes = [(length + (kernel - stride) % 2) // stride // pool for length in sizes]
        assert list(shapes[-1][2:]) == sizes


@examples(40)
@given(SHAPES, convolutions(pools=False), SMALL)
def test_decoder_mirrors_encoder(shape: tuple[int, ...], options: dict[str, Any], count: int) -> None:
    refused = [refusal(ConvEncoder, shape, (2,), **options), refusal(ConvDecoder, (2,), shape, **mirrored(options))]
    if refused != [None, None]:
        assert None not in refused
        return
    encoder, decoder = built(ConvEncoder, shape, (2,), **options), built(ConvDecoder, (2,), shape, **mirrored(options))
    (down, code), (up, image) = maps(encoder, (count, *shape)), maps(decoder, (count, 2))
    assert code == (count, 2)
    assert image == (count, *shape)
    assert up == down[::-1]


@examples(60)
@given(
    st.tuples(COLOURS, st.integers(1, 40), st.integers(1, 40)),
    st.fixed_dictionaries({}, optional={"kernel": st.integers(1, 5), "stride": SMALL, "pool": SMALL}),
)
def test_default_channels_reach_seven_pixels_or_maximum_depth(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    error = refusal(ConvEncoder, shape, (2,), **options)
    if options.get("stride", 2) * options.get("pool", 1) == 1:
        assert error is not None
        assert error.startswith("channels=null: must be a list unless stride or pool reduces the image")
        return
    one = refusal(ConvEncoder, shape, (2,), **options, channels=[32])
    if one is not None:  # no layer fits
        assert error is not None
        return
    assert error is None
    encoder = built(ConvEncoder, shape, (2,), **options)
    channels = [layer.out_channels for layer in encoder if isinstance(layer, nn.Conv2d)]
    assert channels == [32, 64, 128, 256, 512, 512, 512][: len(channels)]
    last = maps(encoder, (1, *shape))[0][-1]
    deeper = refusal(ConvEncoder, shape, (2,), **options, channels=[1] * (len(channels) + 1))
    assert max(last[2:]) <= 7 or deeper is not None
    if len(channels) > 1:
        shallower = built(ConvEncoder, shape, (2,), **options, channels=[1] * (len(channels) - 1))
        assert max(maps(shallower, (1, *shape))[0][-1][2:]) > 7
    if "pool" not in options:
        first, *_ = maps(built(ConvDecoder, (2,), shape, **options), (1, 2))[0]
        assert first == last


@examples(20)
@given(SHAPES, convolutions(), st.integers(0, 2))
def test_every_weight_of_convolutional_networks_has_gradient(
    shape: tuple[int, ...], options: dict[str, Any], context_dim: int
) -> None:
    unpooled = {name: value for name, value in options.items() if name != "pool"}
    assume(refusal(ConvEncoder, shape, (2,), **options) is None)
    torch.manual_seed(0)
    smooth = {"activation": "Tanh", "linear": partial(MLP, hidden=())}  # no dead units
    encoder = ConvEncoder(shape, (2,), **options, **smooth, context_dim=context_dim)
    decoder = ConvDecoder((2,), shape, **mirrored(unpooled), **smooth)
    context = torch.randn(3, context_dim) if context_dim else None
    decoder(encoder(torch.randn(3, *shape), context)).square().sum().backward()
    assert_gradients(encoder)
    assert_gradients(decoder)


@examples(15)
@given(
    st.lists(SMALL, min_size=1, max_size=3),
    st.lists(SMALL, min_size=1, max_size=3),
    st.lists(SMALL, max_size=3),
    st.booleans(),
    st.integers(0, 2),
    st.data(),
)
def test_mlp_maps_any_shape_to_any_shape(
    in_shape: list[int],
    out_shape: list[int],
    hidden: list[int],
    activate_output: bool,
    context_dim: int,
    data: st.DataObject,
) -> None:
    count = len(hidden) + activate_output
    options: dict[str, Any] = {
        "activation": data.draw(one_or_list(st.sampled_from(["Tanh", "LeakyReLU(0.2)", None]), count)),
        "norm": data.draw(one_or_list(st.sampled_from([None, "BatchNorm1d", "LayerNorm"]), count)),
        "dropout": data.draw(one_or_list(st.sampled_from([0, 0.5]), count)),
    }
    order = data.draw(st.permutations(["norm", "activation", "dropout"]))
    make = partial(MLP, tuple(in_shape), tuple(out_shape), hidden, order=order, activate_output=activate_output)
    make = partial(make, context_dim=context_dim)
    torch.manual_seed(0)
    network = make(**options)
    y = network(torch.randn(3, *in_shape), torch.randn(3, context_dim) if context_dim else None)
    assert y.shape == (3, *out_shape)
    y.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())
    if not any(listed(options["norm"], count) + listed(options["dropout"], count)):  # both may make a gradient 0
        assert_gradients(network)
    name = data.draw(st.sampled_from(sorted(options)))
    longer = [*listed(options[name], count), {"activation": "ReLU", "norm": None, "dropout": 0}[name]]
    with pytest.raises(
        ValueError, match=rf"^{name}=.* must be a single value or a list with one value per layer \({count} in total\)$"
    ):
        make(**options | {name: longer})


# ---- splits ----


class Numbered(ImageData):
    """Images of two pixels; their value is the number of the image."""

    def __init__(self, size: int, **options: Any) -> None:
        super().__init__(**{"shape": (1, 1, 2), "batch_size": 1, **options})
        self.size = size

    def read(self, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = torch.arange(self.size)
        return numbers.to(torch.uint8)[:, None, None, None].expand(-1, *self.shape).contiguous(), numbers


@examples(50)
@given(
    st.integers(1, 255),
    st.floats(0, 1, exclude_max=True) | st.integers(2, 260),
    st.integers(1, 20),
    SEEDS,
    st.sampled_from(["none", "dynamic", "static"]),
)
def test_training_and_validation_splits_have_each_image_once(
    size: int, val_fraction: float, batch_size: int, seed: int, binarize: str
) -> None:
    data = Numbered(size, val_fraction=val_fraction, batch_size=batch_size, seed=seed, binarize=binarize)
    count = val_fraction if val_fraction >= 1 else round(val_fraction * size)
    if count >= size or (val_fraction and not count) or batch_size > size - count:
        with pytest.raises(ConfigError, match=rf"^data\.(val_fraction={val_fraction}|batch_size={batch_size}): "):
            data.setup()
        return
    data.setup()
    assert len(data.val) == count
    assert sorted(data.train.label.tolist() + data.val.label.tolist()) == list(range(size))
    for split in (data.train, data.val):
        assert (split.image.flatten(1) == split.label[:, None]).all()
        assert split.binary is None or split.binary.shape == split.image.shape


@examples(50)
@given(st.integers(2, 40), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_training_and_test_splits_have_each_image_once(size: int, fraction: float) -> None:
    train, test = (split_off_test(size, fraction, part) for part in (True, False))
    assert sorted(train.tolist() + test.tolist()) == list(range(size))
    assert len(train) >= 1
    assert len(test) >= 1
    assert abs(len(test) - fraction * size) <= 1


# ---- batches of an epoch ----


@examples(80)
@given(st.integers(1, 60), st.integers(1, 20), SEEDS, st.booleans(), st.integers(0, 1000), st.integers(1, 5))
def test_processes_share_images_without_overlap(
    size: int, batch_size: int, seed: int, shuffle: bool, epoch: int, world_size: int
) -> None:
    assume(size >= world_size)
    whole = torch.cat([plan.indices for plan in Batches(size, batch_size, seed, shuffle, epoch=epoch)]).tolist()
    assert sorted(whole) == list(range(size))
    seen, steps, seeds = [-1] * size, [], []
    for rank in range(world_size):
        batches = Batches(size, batch_size, seed, shuffle, rank=rank, world_size=world_size)
        batches.set_epoch(epoch)
        plans = list(batches)
        assert len(plans) == len(batches)
        sizes = [len(plan.indices) for plan in plans]
        assert all(each == batch_size for each in sizes[:-1])
        assert 1 <= sizes[-1] <= batch_size + shuffle
        assert sizes[-1] > 1 or batch_size == 1 or len(sizes) == 1 or not shuffle  # batch norm needs two images
        order = torch.cat([plan.indices for plan in plans]).tolist()
        seen[rank : rank + world_size * len(order) : world_size] = order
        steps.append(len(plans))
        seeds += [plan.seed for plan in plans]
    left_out = size % world_size if shuffle else 0
    assert seen == whole[: size - left_out] + [-1] * left_out
    assert len(set(seeds)) == len(seeds)
    assert len(set(steps)) == 1 or not shuffle


@examples(30)
@given(st.integers(12, 60), st.integers(1, 20), SEEDS, st.integers(0, 1000), st.integers(0, 1000))
def test_order_depends_only_on_seed_and_epoch(size: int, batch_size: int, seed: int, epoch: int, other: int) -> None:
    def plans(seed: int, epoch: int, shuffle: bool = True) -> list[tuple[list[int], int]]:
        return [(plan.indices.tolist(), plan.seed) for plan in Batches(size, batch_size, seed, shuffle, epoch=epoch)]

    def order(seed: int, epoch: int) -> list[int]:
        return [index for indices, _ in plans(seed, epoch) for index in indices]

    assert plans(seed, epoch) == plans(seed, epoch)
    assert order(seed, epoch) != order(seed + 1, epoch)
    assert (order(seed, epoch) == order(seed, other)) == (epoch == other)
    assert plans(seed, epoch, shuffle=False) == plans(seed, other, shuffle=False)


# ---- binarization ----


class Grey(Numbered):
    """Images of random grey values; the first pixel is black and the second white."""

    def read(self, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        source = torch.Generator().manual_seed(int(train))
        images = torch.randint(256, (self.size, *self.shape), dtype=torch.uint8, generator=source)
        images[:, :, 0, 0], images[:, :, 0, 1] = 0, 255
        return images, torch.arange(self.size)


@examples(24)
@given(
    st.sampled_from(["none", "threshold", "dynamic", "static"]),
    st.booleans(),
    st.tuples(COLOURS, SIDES, st.integers(2, 17)),
    st.tuples(SEEDS, SEEDS, SEEDS),
)
def test_target_is_binary_and_keeps_black_and_white(
    binarize: str, binarize_input: bool, shape: tuple[int, ...], seeds: tuple[int, ...]
) -> None:
    data, other = (
        Grey(8, shape=shape, binarize=binarize, binarize_input=binarize_input, val_fraction=3, seed=seed)
        for seed in seeds[:2]
    )
    data.setup()
    other.setup()

    def drawn(images: Any, training: bool, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        batch = data.batch(images, training)
        grey = images.image / 255
        assert torch.equal(batch.input, batch.target if binarize_input else grey)
        if binarize == "none":
            assert torch.equal(batch.target, grey)
        else:
            assert ((batch.target == 0) | (batch.target == 1)).all()
        assert not batch.target[images.image == 0].any()
        assert (batch.target[images.image == 255] == 1).all()
        return batch.target

    again = seeds[2]
    for split in (data.val, data.test):
        assert torch.equal(drawn(split, False, 0), drawn(split, False, again))
    assert torch.equal(drawn(data.test, False, 0), drawn(other.test, False, 0))
    train = drawn(data.train, True, 0)
    assert train.shape == (5, *shape)
    if binarize != "dynamic":
        assert torch.equal(train, drawn(data.train, True, again))
    if binarize == "static":  # the pixels of an image do not depend on its split
        known = {}
        for each in (data, other):
            for split in (each.train, each.val):
                for label, target in zip(split.label.tolist(), drawn(split, True, again), strict=True):
                    assert torch.equal(known.setdefault(label, target), target)


# ---- noise ----

AMOUNTS = st.floats(0, 1) | st.sampled_from([0.0, 0.01, 1.0])


@examples(60)
@given(
    st.sampled_from([Dropout, SaltAndPepper, Gaussian, Masking]),
    AMOUNTS,
    st.tuples(SMALL, COLOURS, SIDES, SIDES),
    st.sampled_from([torch.float32, torch.float64]),
    SEEDS,
    st.booleans(),
)
def test_noise_sets_only_allowed_values(
    kind: type[Noise], amount: float, shape: tuple[int, ...], dtype: torch.dtype, seed: int, binary: bool
) -> None:
    torch.manual_seed(seed)
    x = torch.rand(shape, dtype=dtype) * 0.8 + 0.1  # excludes 0 and 1, which noise sets
    if binary:
        x = x.round()
    before = x.clone()
    y = kind(amount)(x)
    assert torch.equal(x, before)  # the target is the same tensor
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert y.min() >= 0
    assert y.max() <= 1
    if amount == 0:
        assert torch.equal(y, x)
    if kind is not Gaussian and binary:
        assert ((y == 0) | (y == 1)).all()
    if kind is Dropout:
        assert ((y == 0) | (y == x)).all()
        assert amount < 1 or not y.any()
    elif kind is SaltAndPepper:
        black, white, same = ((y == value).all(1) for value in (0, 1, x))  # in all channels
        assert (black | white | same).all()
        assert amount < 1 or (black | white).all()
    elif kind is Masking:
        side = max(round(amount * min(shape[-2:])), int(amount > 0))
        for masked, image in zip(y, x, strict=True):
            assert any(
                torch.equal(masked, blank(image, top, left, side))
                for top in range(shape[-2] - side + 1)
                for left in range(shape[-1] - side + 1)
            )


def blank(image: torch.Tensor, top: int, left: int, side: int) -> torch.Tensor:
    image = image.clone()
    image[:, top : top + side, left : left + side] = 0
    return image


@examples(25)
@given(st.tuples(SMALL, COLOURS, SIDES, SIDES), SEEDS, st.data())
def test_shift_moves_any_image_by_whole_pixels(shape: tuple[int, ...], seed: int, data: st.DataObject) -> None:
    pixels = data.draw(st.integers(0, min(2, min(shape[-2:]) - 1)))
    torch.manual_seed(seed)
    images = torch.randint(256, shape, dtype=torch.uint8)
    padded = nn.functional.pad(images, [pixels] * 4)
    for image, moved in zip(padded, rotate_and_shift(images, degrees=0, pixels=pixels), strict=True):
        assert any(
            torch.equal(image[:, top : top + shape[-2], left : left + shape[-1]], moved)
            for top in range(2 * pixels + 1)
            for left in range(2 * pixels + 1)
        )
