import csv
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pytorch_lightning.loggers import WandbLogger

from vae_lab.errors import ConfigError, DataError
from vae_lab.train import train
from vae_lab.training.loggers import Curves, Lines, in_use


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_curves_have_one_row_per_epoch_and_exact_values(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "metrics.csv")
    curves.log_metrics({"epoch": 1, "train/loss": 1 / 3}, step=10)
    curves.log_metrics({"epoch": 2, "train/loss": 0.25, "val/elbo": -2.0}, step=20)
    first, second = rows(tmp_path / "metrics.csv")
    assert float(first["train/loss"]) == 1 / 3
    assert first["val/elbo"] == ""
    assert second == {"epoch": "2", "step": "20", "train/loss": "0.25", "val/elbo": "-2.0"}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_repeated_epoch_replaces_its_row_and_later_rows(tmp_path: Path) -> None:
    for epoch in (1, 2, 3, 4):
        Curves(tmp_path / "metrics.csv").log_metrics({"epoch": epoch, "train/loss": float(epoch)}, step=epoch)
    Curves(tmp_path / "metrics.csv").log_metrics({"epoch": 3, "train/loss": 30.0}, step=3)
    assert [row["train/loss"] for row in rows(tmp_path / "metrics.csv")] == ["1.0", "2.0", "30.0"]


@pytest.mark.parametrize(("every", "printed"), [(1, [1, 2, 3, 4, 5]), (2, [1, 2, 4, 5]), (10, [1, 5])])
def test_lines_are_printed_at_interval_and_first_and_last_epoch(
    every: int, printed: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lines = Lines(every, epochs=5)
    for epoch in range(1, 6):
        lines.log_metrics({"epoch": epoch, "train/loss": 1.5})
    assert [record.getMessage() for record in caplog.records] == [f"epoch {e}/5  train/loss 1.5" for e in printed]


def test_metrics_without_epoch_are_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for logger in (Curves(tmp_path / "metrics.csv"), Lines(1, epochs=5)):
        logger.log_metrics({"test/elbo": -1.0}, step=10)
    assert list(tmp_path.iterdir()) == []
    assert not caplog.records


def test_unnormalised_metrics_are_printed_with_suffix(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Lines(1, epochs=5).log_metrics({"epoch": 1, "val/elbo_unnormalised": -1.5, "val/kl": 2.0, "train/kl": 3.0})
    assert caplog.messages == ["epoch 1/5  val/elbo_unnormalised -1.5  val/kl 2"]


def test_terms_of_objective_and_layers_are_printed_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    row = {"train/kl_layer1": 1.0, "train/tc": 2.0, "train/lr": 3.0, "train/seconds": 4.0, "val/kl": 5.0}
    Lines(1, epochs=5).log_metrics({"epoch": 1, **row, "val/kl_layer1": 6.0})
    assert caplog.messages == ["epoch 1/5  val/kl 5  train/tc 2  val/kl_layer1 6  train/seconds 4"]


SMALL = ["data=digits", "latent_dim=2", "encoder.hidden=[8]", "decoder.hidden=[8]"]
SHORT = [*SMALL, "trainer.max_epochs=2", "callbacks=none"]


def test_tensorboard_receives_curves_and_test_metrics(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train([*SHORT, "logger=[csv,tensorboard]", f"hydra.run.dir={tmp_path / 'run'}"])
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    for name in ("train/loss", "val/elbo", "val/kl", "train/log_likelihood"):
        written = [float(row[name]) for row in rows(run.path / "metrics.csv")]
        assert [event.value for event in events.Scalars(name)] == pytest.approx(written, rel=1e-6)
        assert [event.step for event in events.Scalars(name)] == [11, 22]
    (tested,) = events.Scalars("test/elbo")
    assert tested.value == pytest.approx(run.metrics["test/elbo"], rel=1e-6)


def test_missing_tensorboard_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_lightning.loggers import TensorBoardLogger

    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available.")

    monkeypatch.setattr(TensorBoardLogger, "__init__", missing)
    with pytest.raises(ConfigError, match=r"^logger\.tensorboard: .*tensorboard"):
        train([*SHORT, "logger=tensorboard", f"hydra.run.dir={tmp_path / 'run'}"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_wandb_offline_needs_no_account(command: callable, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path / "home"), "NETRC": str(tmp_path / "netrc")}
    done = command("-m", *SHORT, "latent_dim=2,3", "logger=wandb", "hydra.sweep.dir=sweep", **home)
    assert done.returncode == 0, done.stderr
    runs = [path for path in (tmp_path / "sweep").iterdir() if path.is_dir()]
    assert len(runs) == 2
    for run in runs:
        (log,) = run.glob("wandb/offline-run-*/*.wandb")  # each job has its own wandb run
        assert log.stat().st_size > 0


@pytest.mark.slow
def test_wandb_online_without_account_gives_one_line_error(command: callable, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path / "home"), "NETRC": str(tmp_path / "netrc")}
    done = command(*SHORT, "logger=wandb", "logger.wandb.offline=false", "hydra.run.dir=run", **home)
    assert done.returncode == 2, done.stderr
    assert "logger: WandbLogger cannot start" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_open_wandb_run_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=object()))
    with (
        pytest.raises(ConfigError, match="a wandb run is already open"),
        in_use([WandbLogger(save_dir=tmp_path, offline=True)], {}),
    ):
        pass


class Failing(Curves):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def log_hyperparams(self, *_: object, **__: object) -> None:
        raise self.error


@pytest.mark.parametrize(("error", "kind"), [(OSError(28, "disk full"), DataError), (KeyError("x"), ConfigError)])
def test_failing_logger_is_named(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^logger: Failing cannot"), in_use([Failing(error)], {}):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("before", [None, "offline"])
def test_wandb_restores_process_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if before:
        monkeypatch.setenv("WANDB_MODE", before)
    run = train([*SHORT, "trainer.max_epochs=1", "logger=wandb", f"hydra.run.dir={tmp_path / 'run'}"])
    assert list(run.path.glob("wandb/offline-run-*"))
    assert os.environ.get("WANDB_MODE") == before
    assert sys.modules["wandb"].run is None


def test_completed_run_is_found_with_other_logger(tmp_path: Path) -> None:
    run = train([*SHORT, "logger=tensorboard", f"hydra.run.dir={tmp_path / 'run'}"])
    again = train([*SHORT, f"hydra.run.dir={tmp_path / 'run'}"])
    assert again.metrics == run.metrics
