import importlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from vae_lab.networks import MLP
from vae_lab.workarounds import onednn

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch was built without oneDNN for this processor"
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Use oneDNN on any processor and for any size, and count the products."""
    counted: list[int] = []
    apply = onednn.Product.apply
    monkeypatch.setattr(onednn, "SMALLEST", 0)
    monkeypatch.setattr(onednn.Product, "apply", lambda *arguments: counted.append(1) or apply(*arguments))
    return counted


def layers(bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    fast, plain = onednn.Linear(30, 20, bias=bias), nn.Linear(30, 20, bias=bias)
    plain.load_state_dict(fast.state_dict())
    return fast, plain


def gradients(layer: nn.Linear, x: Tensor, order: int = 1) -> list[Tensor]:
    """Return the gradients of a scalar, or with `order=2` those of the sum of their squares."""
    weights = [*layer.parameters(), *([x] if x.requires_grad else [])]
    found = torch.autograd.grad(layer(x).sin().sum(), weights, create_graph=order > 1)
    if order == 1:
        return list(found)
    return list(torch.autograd.grad(sum(each.square().sum() for each in found), weights))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("from_x", [True, False])
def test_values_and_gradients_equal_torch(calls: list[int], bias: bool, order: int, from_x: bool) -> None:
    fast, plain = layers(bias)
    x = torch.randn(50, 30, requires_grad=from_x)
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-5, atol=1e-5)
    for found, expected in zip(gradients(fast, x, order), gradients(plain, x, order), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert calls


def test_values_for_strided_inputs_equal_torch(calls: list[int]) -> None:
    fast, plain = layers()
    for x in (torch.randn(30, 50).t(), torch.randn(50, 60)[:, ::2], torch.randn(1, 30).expand(50, 30)):
        torch.testing.assert_close(fast(x), plain(x), rtol=1e-5, atol=1e-5)
    assert calls


@pytest.mark.parametrize("shape", [(30,), (4, 50, 30)])
def test_other_shapes_use_torch(calls: list[int], shape: tuple[int, ...]) -> None:
    fast, plain = layers()
    x = torch.randn(shape)
    assert torch.equal(fast(x), plain(x))
    assert not calls


def test_small_matrices_other_dtypes_and_autocast_use_torch(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    fast, plain = layers()
    x = torch.randn(50, 30)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(x), plain(x))
    assert fast.double()(x.double()).dtype == torch.float64
    fast.float()
    monkeypatch.setattr(onednn, "SMALLEST", 50 * 30 * 20 + 1)
    assert torch.equal(fast(x), plain(x))
    monkeypatch.setattr(onednn, "SMALLEST", 50 * 30 * 20)
    with monkeypatch.context() as patch:
        patch.setattr(type(torch.backends.mkldnn), "enabled", False)
        assert torch.equal(fast(x), plain(x))
    assert not calls
    fast(x)
    assert calls


def test_forward_mode_derivatives_use_torch(calls: list[int]) -> None:
    fast, plain = layers()
    x, direction = torch.randn(2, 5, 30)
    with forward_ad.dual_level():
        found = [forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction))).tangent for layer in (fast, plain)]
    assert torch.equal(*found)
    assert not calls


def test_module_can_be_reloaded() -> None:
    importlib.reload(onednn)


def test_function_transforms_use_torch(calls: list[int]) -> None:
    fast, plain = layers()
    x = torch.randn(5, 30)
    for transform in (torch.func.jacrev, torch.func.jacfwd, torch.func.vmap):
        torch.testing.assert_close(transform(fast)(x), transform(plain)(x), rtol=1e-5, atol=1e-5)
    assert not calls


@pytest.mark.parametrize(("faster", "without", "used"), [(True, "", True), (False, "", False), (True, "onednn", False)])
def test_layers_are_replaced_if_faster_and_not_disabled(
    monkeypatch: pytest.MonkeyPatch, faster: bool, without: str, used: bool
) -> None:
    monkeypatch.setattr(onednn, "FASTER", faster)
    monkeypatch.setenv("VAE_LAB_WITHOUT", without)
    network = MLP((4,), (2,), hidden=(3,))
    onednn.use(network)
    expected = onednn.Linear if used else nn.Linear
    assert {type(layer) for layer in network.modules() if isinstance(layer, nn.Linear)} == {expected}


def test_export_uses_torch(calls: list[int]) -> None:
    fast, plain = layers()
    batch = torch.export.Dim("batch")
    program = torch.export.export(fast, (torch.randn(50, 30),), dynamic_shapes=({0: batch},))
    assert "vae_lab" not in str(program.graph)
    x = torch.randn(7, 30)
    assert torch.equal(program.module()(x), plain(x))
    assert not calls


def test_onednn_is_faster_only_on_amd_with_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    capability = torch.backends.cpu.get_cpu_capability()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not onednn.is_faster()
    if capability == "AVX512":
        monkeypatch.undo()
        assert onednn.is_faster() == ("AuthenticAMD" in Path("/proc/cpuinfo").read_text())


def test_workaround_is_off_for_other_torch_or_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(self: Path) -> None:
        raise FileNotFoundError(self)

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", unreadable)
        assert not onednn.is_faster()
    monkeypatch.delattr(forward_ad, "_current_level")
    assert not onednn.is_faster()
