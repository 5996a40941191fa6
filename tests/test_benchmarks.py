import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import ROOT, write_mnist
from vae_lab import runs
from vae_lab.commandline import compose
from vae_lab.metrics import Sums
from vae_lab.model import Batch

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the files of the benchmarks importable."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("MLP", ["model=bernoulli_mlp"]),
        ("Conv", ["model=bernoulli_conv", "encoder=conv_pooled", "decoder=conv_pooled"]),
    ],
)
def test_the_bare_loop_is_the_same_model(model: str, overrides: list[str]) -> None:
    import bare

    config, _ = compose("train", overrides)
    module, theirs = runs.build_module(config), getattr(bare, model)()
    ours = [*module.vae.encoder.parameters(), *module.vae.decoder.parameters()]
    with torch.no_grad():
        for weight, same in zip(theirs.parameters(), ours, strict=True):
            weight.copy_(same)
    images = torch.randint(256, (100, 1, 28, 28), dtype=torch.uint8)
    x, _ = bare.threshold(images)
    means = bare.Bare(theirs, images).evaluate(images)
    sums = Sums()
    with torch.no_grad():
        sums.add(module.eval().evaluate(Batch(x, x, torch.zeros(100))))
    expected = sums.means()
    assert means["kl"] == pytest.approx(expected["kl"], rel=1e-4)  # the others hang on the z that was sampled
    assert means["mse"] == pytest.approx(expected["mse"], rel=1e-4)
    assert means["elbo"] == pytest.approx(expected["elbo"], rel=0.02)


def test_the_bare_loop_learns() -> None:
    import bare

    torch.manual_seed(0)
    images = (torch.rand(1, 1, 28, 28).expand(600, -1, -1, -1) * 255).to(torch.uint8)  # one image, many times
    loop = bare.Bare(bare.MLP(), images, prepare=bare.salt_and_pepper)
    before = loop.evaluate(images)["elbo"]
    for _ in range(10):
        loop.train()
    assert loop.evaluate(images)["elbo"] > before + 100


def test_a_short_benchmark_measures_prints_and_writes(tmp_path: Path) -> None:
    root, file = write_mnist(tmp_path / "data", 3000), tmp_path / "results.json"
    command = [sys.executable, "benchmarks/bench.py", "mlp", "--pairs", "2", "--epochs", "2", "--part", "0.5"]
    ended = subprocess.run([*command, "--root", root, "--json", file], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    row = json.loads(file.read_text())["speed"]["mlp"]
    assert 0.1 < row["range"][0] <= row["ratio"] <= row["range"][1] < 10
    assert row["ours"] > 0 < row["bare"]
    assert f"**{row['ratio']:.2f}**" in ended.stdout
    assert not list(tmp_path.rglob("*.ckpt"))


def test_an_unknown_row_is_refused() -> None:
    ended = subprocess.run([sys.executable, "benchmarks/bench.py", "x"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "x is none of mlp, " in ended.stderr


def test_the_page_is_made_from_the_results() -> None:
    import page

    results = json.loads((BENCHMARKS / "results.json").read_text())
    assert (ROOT / "docs" / "benchmarks.md").read_text() == page.tables(results)


def test_a_row_that_loses_says_so() -> None:
    import page

    results = json.loads((BENCHMARKS / "results.json").read_text())
    results["speed"]["mlp"] |= {"ratio": 1.06, "promised": 1.05}
    assert "1.05, **not kept**" in page.tables(results)
