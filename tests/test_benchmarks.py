import json
from pathlib import Path

import pytest
import torch

from conftest import ROOT, write_mnist
from vae_lab import runs
from vae_lab.cli.compose import compose
from vae_lab.data import MNIST
from vae_lab.metrics import Sums
from vae_lab.model import Batch

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("MLP", ["model=bernoulli_mlp"]),
        ("Conv", ["model=bernoulli_conv", "encoder=conv_pooled", "decoder=conv_pooled"]),
    ],
)
def test_bare_loop_has_same_metrics_as_model(model: str, overrides: list[str]) -> None:
    import bare

    config, _ = compose("train", overrides)
    module, loop_model = runs.build_module(config), getattr(bare, model)()
    weights = [*module.vae.encoder.parameters(), *module.vae.decoder.parameters()]
    with torch.no_grad():
        for weight, same in zip(loop_model.parameters(), weights, strict=True):
            weight.copy_(same)
    images = torch.randint(256, (100, 1, 28, 28), dtype=torch.uint8)
    x, _ = bare.threshold(images)
    means = bare.Bare(loop_model, images).evaluate(images)
    sums = Sums()
    with torch.no_grad():
        sums.add(module.eval().evaluate(Batch(x, x, torch.zeros(100))))
    expected = sums.means()
    assert means["kl"] == pytest.approx(expected["kl"], rel=1e-4)
    assert means["mse"] == pytest.approx(expected["mse"], rel=1e-4)
    assert means["elbo"] == pytest.approx(expected["elbo"], rel=0.02)  # depends on the sampled z


def test_bare_loop_learns() -> None:
    import bare

    torch.manual_seed(0)
    images = (torch.rand(1, 1, 28, 28).expand(600, -1, -1, -1) * 255).to(torch.uint8)  # one image, repeated
    loop = bare.Bare(bare.MLP(), images, prepare=bare.salt_and_pepper)
    before = loop.evaluate(images)["elbo"]
    for _ in range(10):
        loop.train()
    assert loop.evaluate(images)["elbo"] > before + 100


@pytest.mark.slow
def test_short_benchmark_prints_and_writes_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench

    root, file = write_mnist(tmp_path / "data", 3000), tmp_path / "results.json"
    short = ["--pairs", "2", "--epochs", "2", "--part", "0.5", "--root", str(root), "--json", str(file)]
    monkeypatch.setattr("sys.argv", ["bench.py", "mlp", *short])
    bench.main()
    row = json.loads(file.read_text())["speed"]["mlp"]
    assert 0.1 < row["range"][0] <= row["ratio"] <= row["range"][1] < 10
    assert row["ours"] > 0 < row["bare"]
    assert f"**{row['ratio']:.2f}**" in capsys.readouterr().out


def test_unknown_row_is_rejected(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import bench

    monkeypatch.setattr("sys.argv", ["bench.py", "x"])
    with pytest.raises(SystemExit, match="2"):
        bench.main()
    assert "x is none of mlp, " in capsys.readouterr().err


def test_random_images_have_mnist_format(tmp_path: Path) -> None:
    import bench

    bench.write_random_mnist(tmp_path, 300)
    data = MNIST(root=tmp_path, shape=(1, 28, 28))
    data.setup()
    assert (len(data.train), len(data.val), len(data.test)) == (270, 30, 10_000)
    assert data.train.label.unique().tolist() == list(range(10))


def test_page_matches_results() -> None:
    import page

    results = json.loads((BENCHMARKS / "results.json").read_text())
    assert (ROOT / "docs" / "benchmarks.md").read_text() == page.tables(results)


def test_exceeded_ratio_is_marked_as_not_kept() -> None:
    import page

    results = json.loads((BENCHMARKS / "results.json").read_text())
    rows = []
    for ratio in (1.04, 1.06):
        results["speed"]["mlp"] |= {"ratio": ratio, "promised": 1.05}
        rows.append(next(line for line in page.tables(results).splitlines() if line.startswith("| mlp<br>")))
    assert "**1.04**" in rows[0]
    assert "1.05, kept" in rows[0]
    assert "**1.06**" in rows[1]
    assert "1.05, **not kept**" in rows[1]
