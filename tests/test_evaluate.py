"""The command `evaluate`, which evaluates a completed run again."""

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import write_images, write_mnist
from vae_lab import runs
from vae_lab.errors import ConfigError, DataError
from vae_lab.evaluate import evaluate
from vae_lab.runs import Run
from vae_lab.train import train
from vae_lab.workarounds import variable

Command = Callable[..., subprocess.CompletedProcess[str]]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("options", [[], ["noise=gaussian", "noise.eval=true"], ["trainer.precision=64-true"]])
def test_evaluate_reproduces_test_metrics_of_training(tmp_path: Path, options: list[str]) -> None:
    small = ["data=digits", "latent_dim=2", "encoder.hidden=[16]", "decoder.hidden=[16]", "trainer.max_epochs=2"]
    run = train([*small, *options, "callbacks=class_mse", f"hydra.run.dir={tmp_path / 'run'}"])
    numbers = evaluate([f"run={run.path}"])
    assert numbers == {name: value for name, value in run.metrics.items() if name.startswith("test/")}
    again, once = table(run.path / "evaluation" / "class_mse.csv"), table(run.path / "class_mse.csv")
    assert again == once
    assert (run.path / "evaluation" / "class_mse.png").exists()
    written = json.loads((run.path / "evaluation" / "metrics.json").read_text())
    assert {name: written[name] for name in numbers} == numbers
    assert written["epoch"] == run.module.epoch


def test_other_data_of_same_shape_can_be_evaluated(digits_run: Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(digits_run.path, tmp_path / "run"))
    write_images(tmp_path / "images" / "train", classes=("ant", "bee"), count=10, size=(8, 8))
    write_images(tmp_path / "images" / "test", classes=("ant", "bee"), count=7, size=(8, 8))
    images = ["data=folder", f"data.root={tmp_path / 'images'}", "data.shape=[1,8,8]", "data.batch_size=4"]
    numbers = evaluate([f"run={path}", *images])
    (made,) = path.glob("evaluation-folder-*")
    rows = table(made / "class_mse.csv")
    assert [(row["name"], row["images"]) for row in rows] == [("ant", "7"), ("bee", "7")]
    assert np.mean([float(row["mse"]) for row in rows]) == pytest.approx(numbers["test/mse"], rel=1e-6)
    run = runs.load(path, data={"_target_": "vae_lab.data.Digits", **dict(digits_run.config.data)})
    assert run.data.binarize == "threshold"  # required by the likelihood of the run for any data


def test_evaluations_with_other_seed_or_checkpoint_are_kept_separate(tmp_path: Path) -> None:
    small = ["data=digits", "latent_dim=2", "encoder.hidden=[16]", "decoder.hidden=[16]", "trainer.max_epochs=1"]
    path = train([*small, "callbacks=none", f"hydra.run.dir={tmp_path / 'run'}"]).path
    numbers = [evaluate([f"run={path}", *options]) for options in ([], ["seed=0"], ["seed=7", "checkpoint=last"])]
    assert numbers[0] == numbers[1]
    assert numbers[0]["test/elbo"] != numbers[2]["test/elbo"]
    assert numbers[0]["test/kl"] == numbers[2]["test/kl"]  # does not depend on sampled z
    places = {file.name for file in path.glob("evaluation*")}
    assert len(places) == 3
    assert "evaluation" in places
    evaluate([f"run={path}", "checkpoint=last"])
    assert {file.name for file in path.glob("evaluation*")} - places == {"evaluation-last"}


def test_invalid_evaluation_is_rejected(digits_run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.shape=\[1, 28, 28\]: must be \[1, 8, 8\]"):
        evaluate([f"run={digits_run.path}", "data=mnist"])
    with pytest.raises(DataError, match="expected a run directory"):
        evaluate([f"run={tmp_path}"])
    with pytest.raises(ConfigError, match=r"^run: missing"):
        evaluate()
    with pytest.raises(ConfigError, match=r"data\.batch_size=0: must be"):
        evaluate([f"run={digits_run.path}", "data.batch_size=0"])
    with pytest.raises(ConfigError, match=r"^seed=-1: must be"):
        evaluate([f"run={digits_run.path}", "seed=-1"])


def test_command_prints_metrics_and_classes(command: Command, digits_run: Run, tmp_path: Path) -> None:
    shutil.copytree(digits_run.path, tmp_path / "run")
    done = command("run=run", "out=there", module="vae_lab.evaluate")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "results: there"
    assert float(lines[1].split()[1]) == pytest.approx(digits_run.metrics["test/elbo"], rel=1e-5)
    assert [line.split()[0] for line in lines if line[:1].isdigit()] == [*"0123456789"]
    rows = table(tmp_path / "there" / "class_mse.csv")
    mean = np.mean([float(row["mse"]) for row in rows])
    (mean_line,) = [line for line in lines if line.startswith("mean over classes")]
    assert float(mean_line.split()[-1]) == pytest.approx(mean, rel=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "there"]


@pytest.mark.slow
def test_class_mse_matches_numpy_with_one_and_two_processes(command: Command, tmp_path: Path) -> None:
    """Use 10,000 images and a trailing batch."""
    real = Path(os.environ.get("VAE_LAB_DATA", "data")).absolute()
    root = real if (real / "MNIST" / "raw").is_dir() else write_mnist(tmp_path / "mnist", images=10_000)
    options = ["data=mnist", f"data.root={root}", "trainer.max_epochs=0", "callbacks=class_mse", "latent_dim=2"]
    options += ["encoder.hidden=[32]", "decoder.hidden=[32]", "data.batch_size=96", "trainer.accelerator=cpu"]
    one = train([*options, f"hydra.run.dir={tmp_path / 'one'}"])
    done = command(*options, "trainer.devices=2", "trainer.strategy=ddp", "hydra.run.dir=two", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        x = (one.data.test.image > 127).float()
        mean = one.module.vae.decode(one.module.vae.encode(x).mean).mean
    error = ((mean.double() - x.double()) ** 2).mean((1, 2, 3)).numpy()
    label = one.data.test.label.numpy()
    assert len(label) == 10_000
    for name in ("one", "two"):
        rows = table(tmp_path / name / "class_mse.csv")
        for each, row in enumerate(rows):
            assert int(row["images"]) == (label == each).sum()
            assert float(row["mse"]) == pytest.approx(error[label == each].mean(), rel=1e-6, abs=0)
    assert table(tmp_path / "one" / "class_mse.csv") == table(tmp_path / "two" / "class_mse.csv")


def test_run_can_be_evaluated_without_its_devices(digits_run: Run, tmp_path: Path) -> None:
    """Pretend that the run was trained on four GPUs: only the devices in its configuration change."""
    path = Path(shutil.copytree(digits_run.path, tmp_path / "run"))
    config = (path / "config.yaml").read_text()
    config = config.replace("accelerator: auto", "accelerator: gpu").replace("devices: 1", "devices: 4")
    (path / "config.yaml").write_text(config.replace("strategy: auto", "strategy: ddp"))
    with variable("CUDA_VISIBLE_DEVICES", ""):
        numbers = evaluate([f"run={path}", "device=cpu"])
    assert numbers["test/elbo"] == digits_run.metrics["test/elbo"]
