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


@pytest.mark.slow
def test_a_short_benchmark_measures_prints_and_writes(
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


def test_an_unknown_row_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import bench

    monkeypatch.setattr("sys.argv", ["bench.py", "x"])
    with pytest.raises(SystemExit, match="2"):
        bench.main()
    assert "x is none of mlp, " in capsys.readouterr().err


def test_random_images_have_the_format_of_mnist(tmp_path: Path) -> None:
    import bench

    bench.write_random_mnist(tmp_path, 300)
    data = MNIST(root=tmp_path, shape=(1, 28, 28))
    data.setup()
    assert (len(data.train), len(data.val), len(data.test)) == (270, 30, 10_000)
    assert data.train.label.unique().tolist() == list(range(10))


def test_the_page_is_made_from_the_results() -> None:
    import page

    results = json.loads((BENCHMARKS / "results.json").read_text())
    assert (ROOT / "docs" / "benchmarks.md").read_text() == page.tables(results)


def test_a_row_that_loses_says_so() -> None:
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
