"""The library without Lightning and Hydra: public names, a plain training loop, export."""

import re
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import vae_lab
from conftest import ROOT
from vae_lab import VAE, Conditional, ConvDecoder, ConvEncoder, Gaussian, Normal, StandardNormal, runs
from vae_lab.cli.compose import compose
from vae_lab.workarounds import onednn

LOOP = re.search(r"```python\n(import torch\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


@pytest.mark.slow
def test_readme_loop_needs_neither_lightning_nor_hydra() -> None:
    """The loop runs in a new process in which these modules cannot be imported."""
    lab = ("pytorch_lightning", "lightning", "hydra", "omegaconf", "wandb", "torchvision")
    program = f"import sys\nsys.modules.update(dict.fromkeys({lab}))\n{LOOP}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    elbo = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert len(elbo) == 20
    assert elbo[-1] > -23.5  # the best value without latent dimensions is -25.1


@pytest.mark.parametrize("name", vae_lab.__all__)
def test_public_name_is_defined_in_vae_lab(name: str) -> None:
    assert getattr(vae_lab, name).__module__.startswith("vae_lab.")
    assert f" {name}," in (text := Path(vae_lab.__file__).read_text()) or f" {name}\n" in text  # for type checkers


def test_unknown_name_is_rejected() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Encoder'"):
        _ = vae_lab.Encoder


class Codec(nn.Module):
    """Map images to posterior mean, posterior standard deviation and reconstruction, as in a deployment."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.vae.encode(x)
        return q.mean, q.stddev, self.vae.decode(q.mean).mean


@pytest.mark.parametrize(
    "preset",
    [
        "bernoulli_mlp",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("gaussian_learned_conv", "bernoulli_conv_mnist")),
    ],
)
def test_preset_exports_with_dynamic_batch_size(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "FASTER", hasattr(torch.ops.mkldnn, "_linear_pointwise"))
    monkeypatch.setattr(onednn, "SMALLEST", 0)
    codec = Codec(runs.build_module(compose("train", [f"model={preset}", "data=digits"])[0]).vae).eval()
    example, x = torch.rand(2, 3, 1, 8, 8)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(codec, (example,), dynamic_shapes=({0: batch},))
    onnx = tmp_path / "codec.onnx"
    torch.onnx.export(program, f=onnx, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(onnx)
    for size in (1, 3):
        expected = codec(x[:size])
        for found in (program.module()(x[:size]), session.run(None, {session.get_inputs()[0].name: x[:size].numpy()})):
            for value, known in zip(found, expected, strict=True):
                torch.testing.assert_close(torch.as_tensor(value), known, rtol=1e-4, atol=1e-5)


def test_library_model_exports() -> None:
    encoder = Conditional(ConvEncoder, Normal(), in_shape=(3, 16, 16), event_shape=(4,))
    decoder = Conditional(ConvDecoder, Gaussian(), in_shape=(4,), event_shape=(3, 16, 16))
    codec = Codec(VAE(encoder, decoder, StandardNormal(4))).eval()
    program = torch.export.export(codec, (torch.rand(2, 3, 16, 16),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = torch.rand(5, 3, 16, 16)
    torch.testing.assert_close(program.module()(x)[2], codec(x)[2])
