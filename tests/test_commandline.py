"""The command line in a separate process: output, files and exit codes."""

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conftest import ROOT
from vae_lab.cli.compose import job_dir, run_dir
from vae_lab.errors import ConfigError
from vae_lab.train import train

Command = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("data=digits", "encoder.hidden=[16]", "decoder.hidden=[16]", "trainer.max_epochs=2", "callbacks=none")


@pytest.mark.parametrize("model", ["bernoulli_mlp", "gaussian_mlp", "ae_mlp"])
def test_training_prints_metrics_and_run_directory(command: Command, tmp_path: Path, model: str) -> None:
    new_process = {"PYTHONUNBUFFERED": "1"} if model == "ae_mlp" else {}  # shows what imports print
    done = command(*SMALL, f"model={model}", "latent_dim=2", **new_process)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (run,) = (tmp_path / "outputs" / "vae").iterdir()
    assert (
        done.stdout.splitlines()[-1]
        == f"results: {run.relative_to(tmp_path)}; open {run.relative_to(tmp_path)}/report.html"
    )
    assert re.fullmatch(r"[\w.-]+", run.name)
    assert done.stdout.count("epoch ") == 2
    assert (run / "train.log").read_text().count("epoch ") == 2
    metrics = json.loads((run / "metrics.json").read_text())
    assert ("test/elbo" in metrics) == (model != "ae_mlp")
    for name in ("log_likelihood", "mse"):  # columns of the table: validation, test
        (row,) = re.findall(rf"^{name} +(\S+) +(\S+)$", done.stdout, re.MULTILINE)
        assert [float(number) for number in row] == pytest.approx(
            [metrics[f"val/{name}"], metrics[f"test/{name}"]], rel=1e-5
        )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["model=ae_mpl"], 2, "model=ae_mpl: unknown preset; did you mean 'ae_mlp'?"),
        (["latent_dim=abc"], 2, "latent_dim=abc"),
        (["latent_dim=0"], 2, "latent_dim=0: must be greater than 0"),
        (["epochs=3"], 2, "unknown key 'epochs'"),
        (["--epochs=3"], 2, "--epochs=3: unexpected argument"),
        (["data=digits", "-m", "latent_dim=2,3"], 2, "put flags such as -m before all overrides"),
        (["noise=null"], 2, "noise=null: expected <group>=<component>"),
        (["data=digits", "data.binarize=none"], 2, "data.binarize=none"),
        (["data=digits", "data.batch_size=1500"], 2, "data.batch_size=1500"),
        (["resume=nowhere"], 3, "nowhere/config.yaml: not found; expected a run directory"),
    ],
)
def test_mistake_prints_one_line_and_writes_nothing(
    command: Command, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    done = command(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_missing_data_are_reported_with_alternative(command: Command, tmp_path: Path) -> None:
    done = command()
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "data.root=" in done.stderr
    assert "data=digits" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "message"),
    [("encoder.activation=Foo", r"encoder\.activation=Foo"), ("trainer.accelerator=tpu", "trainer: ")],
)
def test_invalid_option_of_component_or_trainer_is_one_line(tmp_path: Path, option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        train(["data=digits", option, f"hydra.run.dir={tmp_path / 'run'}"])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_hydra_full_error_prints_traceback(command: Command) -> None:
    done = command("latent_dim=0", HYDRA_FULL_ERROR="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_sweep_has_directory_per_job_and_skips_completed_jobs(command: Command, tmp_path: Path) -> None:
    sweep = ("-m", *SMALL, "latent_dim=2,5", "name=sizes", "encoder.activation=[Tanh]")
    done = command(*sweep)
    assert done.returncode == 0, done.stderr
    runs = sorted(path.name for path in (tmp_path / "outputs" / "sizes").iterdir() if path.is_dir())
    assert len(runs) == 2
    for size, name in zip((2, 5), runs, strict=True):
        assert f"latent_dim-{size}" in name
        assert not set(name) & set("=, [")
        path = tmp_path / "outputs" / "sizes" / name
        assert "test/elbo" in json.loads((path / "metrics.json").read_text())
        assert f"latent_dim: {size}\n" in (path / "config.yaml").read_text()
    again = command(*sweep)
    assert again.returncode == 0
    assert again.stdout.count("already completed") == 2
    assert "epoch " not in again.stdout


def test_failed_job_logs_traceback_and_leaves_other_jobs_intact(command: Command, tmp_path: Path) -> None:
    done = command("-m", *SMALL, "latent_dim=0,2", "hydra.sweep.dir=sweep")
    assert done.returncode == 2
    assert "latent_dim=0: must be" in done.stderr
    bad, good = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert "Traceback" in (bad / "train.log").read_text()
    assert (good / "metrics.json").exists()
    before = (good / "train.log").read_text()
    other = command("-m", *SMALL, "latent_dim=2", "hydra.sweep.dir=sweep", f"hydra.sweep.subdir={good.name}", "seed=1")
    assert other.returncode == 2
    assert (good / "train.log").read_text() == before


def test_resumed_run_stays_in_its_run_directory(command: Command, tmp_path: Path) -> None:
    assert command(*SMALL, "hydra.run.dir=run").returncode == 0
    done = command("resume=run", "trainer.max_epochs=3")
    assert done.returncode == 0, done.stderr
    assert "epoch 3/3" in done.stdout
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epochs"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_two_processes_evaluate_every_image_once(command: Command, tmp_path: Path) -> None:
    options = ("data=digits", "model=ae_mlp", "trainer.max_epochs=0", "trainer.precision=64-true")
    numbers = []
    for devices in (1, 2):
        done = command(*options, f"trainer.devices={devices}", "trainer.accelerator=cpu", f"hydra.run.dir=run{devices}")
        assert done.returncode == 0, done.stderr
        numbers.append(json.loads((tmp_path / f"run{devices}" / "metrics.json").read_text()))
    for name in ("val/mse", "test/mse", "test/log_likelihood"):
        assert numbers[0][name] == pytest.approx(numbers[1][name], rel=1e-12)


@pytest.mark.slow
def test_two_processes_write_one_run(command: Command, tmp_path: Path) -> None:
    two = (*SMALL, "trainer.devices=2", "trainer.accelerator=cpu", "noise=gaussian")
    done = command(*two, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch ") == 2
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == 3
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epochs"] == 2
    drawn = ("callbacks=[samples,class_mse,curves]", "callbacks.samples.every_n_epochs=1", "hydra.run.dir=drawn")
    done = command(*two, *drawn)
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout
    figures = sorted(file.parent.name for file in (tmp_path / "drawn" / "figures").glob("*/*.png"))
    assert figures == ["class_mse", "curves", "samples", "samples"]
    with_figures, without_figures = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("drawn", "run")
    )
    for name, weight in with_figures["state_dict"].items():
        assert torch.equal(weight, without_figures["state_dict"][name])


def test_non_finite_loss_exits_with_code_4(command: Command, tmp_path: Path) -> None:
    done = command(*SMALL, "model=gaussian_mlp", "likelihood.mean=identity", "optimizer.lr=1e30", "hydra.run.dir=run")
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "not finite at step" in done.stderr
    assert "Traceback" in (tmp_path / "run" / "train.log").read_text()


def test_existing_directories_and_logs_are_kept(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "sub").mkdir(parents=True)
    assert command("latent_dim=0", "hydra.run.dir=mine/sub").returncode == 2
    assert command("latent_dim=0", "hydra.run.dir=mine/sub/new/run").returncode == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "sub"]
    assert command(*SMALL, "hydra.run.dir=run").returncode == 0
    before = (tmp_path / "run" / "train.log").read_text()
    assert command(*SMALL, "hydra.run.dir=run", "latent_dim=3").returncode == 2
    assert (tmp_path / "run" / "train.log").read_text() == before


def test_unwritable_run_directory_is_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = command(*SMALL, "hydra.run.dir=file/run")
    assert done.returncode == 3
    assert "file/run: cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_help_does_not_import_torch(command: Command, arguments: list[str]) -> None:
    done = command(*arguments, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert "latent_dim: 20" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported
    assert not {"torch", "pytorch_lightning", "torchvision", "sklearn", "wandb", "matplotlib", "pydantic"} & imported


@pytest.mark.parametrize("overrides", ["model-ae_mlp_latent_dim-2", "a-[1,2]_b-x y=z", "x" * 400, ""])
def test_job_directory_needs_no_shell_quoting(overrides: str) -> None:
    assert re.fullmatch(r"[\w.+-]{1,121}", job_dir(overrides))


def test_job_directories_of_different_overrides_differ() -> None:
    assert job_dir("model-ae_mlp_latent_dim-2") == "model-ae_mlp_latent_dim-2"
    overrides = ["a--1", "a-[1]", "a-[-1]", "a- 1", "x" * 400, "x" * 401, "", "defaults"]
    assert len({job_dir(each) for each in overrides}) == len(overrides)


def test_runs_started_at_same_time_have_different_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime(2026, 1, 31)  # the same microsecond for all runs
    monkeypatch.setattr("vae_lab.cli.compose.datetime", SimpleNamespace(now=lambda: moment))
    assert len({run_dir(None, "outputs/vae") for _ in range(20)}) > 15
    assert run_dir("outputs/vae/mine", "outputs/vae") == "outputs/vae/mine"


@pytest.mark.slow
def test_installed_wheel_trains_in_empty_directory(command: Command, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True, timeout=120)
    (site / "sitecustomize.py").write_text("import vae_lab\nprint(vae_lab.__file__)\n")
    done = command(*SMALL, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site / "vae_lab"))
    assert all((site / "bin" / f"vae-lab-{name}").exists() for name in ("train", "generate", "evaluate"))


@pytest.mark.parametrize("name", ["train", "generate", "evaluate", "report"])
def test_a_module_launches_its_command(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    launched = []
    monkeypatch.setattr("vae_lab.cli.launch.launch", launched.append)
    monkeypatch.delitem(sys.modules, f"vae_lab.{name}", raising=False)
    runpy.run_module(f"vae_lab.{name}", run_name="__main__")
    assert launched == [f"vae_lab.commands.{name}"]
