"""`onednn`: compute float32 matrix products with oneDNN on AMD processors.

On a CPU, torch multiplies float32 matrices with MKL, which uses AVX-512 only on Intel processors. oneDNN, which torch
includes for convolutions and bfloat16, uses AVX-512 on AMD processors too. Without this workaround, an epoch of a
small MLP takes about 1.4 times as long on AMD processors with AVX-512 (docs/benchmarks.md). Results differ only by
rounding error.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from vae_lab.workarounds import enabled

SMALLEST = 2_000_000  # number of multiplications at which the gain exceeds the cost of a call


def is_faster() -> bool:
    """Return whether oneDNN is available and the processor has AVX-512 instructions that MKL does not use."""
    private = (torch.ops.mkldnn, "_linear_pointwise"), (torch._C, "_are_functorch_transforms_active")
    # other versions of torch may not have these private names
    if not all(hasattr(*name) for name in (*private, (forward_ad, "_current_level"))):
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        with Path("/proc/cpuinfo").open() as file:
            return "AuthenticAMD" in file.read(500)
    except OSError:  # not Linux: the vendor is unknown
        return False


FASTER = is_faster()


def use(module: nn.Module) -> None:
    """Replace every `torch.nn.Linear` in a module with `Linear`, in place, if oneDNN is faster."""
    if FASTER and enabled("onednn"):
        for layer in module.modules():
            if type(layer) is nn.Linear:
                layer.__class__ = Linear


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x Wᵀ + b (N, O) for x (N, I), W (O, I) and b (O,), all float32."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


# a separate operator, because torch.compile supports oneDNN's operator only with constant weights
if not hasattr(torch.ops.vae_lab, "product"):  # already defined if this module is reloaded
    library = torch.library.Library("vae_lab", "FRAGMENT")
    library.define("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
    library.impl("product", product, "CPU")
    torch.library.register_fake(
        "vae_lab::product", lambda x, weight, _: x.new_empty(x.shape[0], weight.shape[0]), lib=library
    )


class Product(torch.autograd.Function):
    """Differentiable `product`, whose gradients are also computed with `product`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.ops.vae_lab.product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            Product.apply(gradient, weight.t(), None) if of_x else None,
            Product.apply(gradient.t(), x.t(), None) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )


class Linear(nn.Linear):
    """A `torch.nn.Linear` that uses oneDNN for large float32 matrices on a CPU, except during tracing and export."""

    def forward(self, x: Tensor) -> Tensor:
        if (
            not torch.compiler.is_exporting()
            and not torch._C._is_tracing()
            and x.dim() == 2
            and x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and len(x) * self.weight.numel() >= SMALLEST
            and not torch.is_autocast_enabled("cpu")  # torch already uses oneDNN for bfloat16
            and bool(torch.backends.mkldnn.enabled)
            and not torch._C._are_functorch_transforms_active()
            and forward_ad._current_level < 0  # no forward-mode derivatives
        ):
            return Product.apply(x, self.weight, self.bias)
        return super().forward(x)
