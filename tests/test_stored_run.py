"""A run directory of an earlier version loads, evaluates, resumes, and has figures and a report."""

import json
import shutil
from pathlib import Path

import pytest

from conftest import ROOT
from vae_lab import runs
from vae_lab.evaluate import evaluate
from vae_lab.generate import generate
from vae_lab.report import report
from vae_lab.train import train


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A copy of a run of version 0.1.0, revision 8afb7aa: two epochs on digits, with Lightning's EarlyStopping."""
    return Path(shutil.copytree(ROOT / "tests" / "runs" / "0.1.0", tmp_path / "run"))


def test_stored_run_loads_and_gives_stored_metrics(stored: Path) -> None:
    run = runs.load(stored)
    assert run.module.epoch == 2
    written = json.loads((stored / "metrics.json").read_text())
    found = evaluate([f"run={stored}", "device=cpu"])
    assert found == pytest.approx({name: written[name] for name in found}, rel=1e-5)
    files = generate([f"run={stored}", "figure=[samples,curves]", "n=4"])
    assert [file.name for file in files] == ["samples.png", "curves.png"]
    assert "Bernoulli MLP VAE" in report([f"run={stored}"]).read_text()


def test_stored_run_resumes_with_same_metrics(stored: Path) -> None:
    run = train([f"resume={stored}", "trainer.max_epochs=4"])
    assert run.metrics["epochs"] == 4
    assert run.metrics["test/elbo"] == pytest.approx(-42.178742592049176, rel=1e-4)  # the value of that revision
    assert run.metrics["test/mse"] == pytest.approx(0.23599934947357867, rel=1e-4)
    assert sorted(path.name for path in (stored / "figures").iterdir()) == ["class_mse", "curves", "samples"]


def test_same_command_finds_stored_run_completed(stored: Path, caplog: pytest.LogCaptureFixture) -> None:
    overrides = runs.directory.stored_overrides(stored)
    with caplog.at_level("INFO"):
        train([*overrides, f"hydra.run.dir={stored}"])
    assert "already completed" in caplog.text


def test_old_class_names_are_replaced_in_any_notation(stored: Path) -> None:
    config = (stored / "config.yaml").read_text()
    (stored / "config.yaml").write_text(config.replace("vae_lab.callbacks.Samples", "'vae_lab.callbacks.Samples'"))
    assert runs.directory.stored_config(stored).callbacks.samples._target_ == "vae_lab.figures.Samples"
    with (stored / ".hydra" / "overrides.yaml").open("a") as file:
        file.write("- '+callbacks.more={_target_: vae_lab.callbacks.Manifold}'\n")
    assert runs.directory.stored_overrides(stored)[-1] == "+callbacks.more={_target_: vae_lab.figures.Manifold}"
