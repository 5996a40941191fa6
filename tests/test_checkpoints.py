import pickle
from pathlib import Path
from typing import BinaryIO

import fsspec
import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn

from vae_lab import runs
from vae_lab.errors import DataError
from vae_lab.train import train
from vae_lab.training import checkpoints


def test_missing_best_falls_back_to_last(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not found"):
        checkpoints.find(tmp_path)
    (tmp_path / "last.ckpt").touch()
    assert checkpoints.find(tmp_path).name == "last.ckpt"
    (tmp_path / "best.ckpt").touch()
    assert checkpoints.find(tmp_path).name == "best.ckpt"
    assert checkpoints.find(tmp_path, "last").name == "last.ckpt"


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_truncated_checkpoint_is_reported_as_corrupt(tmp_path: Path, kept: float) -> None:
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": nn.Linear(50, 50).state_dict()}, file)
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    with pytest.raises(DataError, match="corrupt"):
        checkpoints.read(file)


def test_failed_save_keeps_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, path = checkpoints.Files(), tmp_path / "checkpoints" / "last.ckpt"
    files.save_checkpoint({"epoch": 1}, path)

    def fails(content: dict, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="no space"):
        files.save_checkpoint({"epoch": 2}, path)
    assert checkpoints.read(path) == {"epoch": 1}
    assert list(path.parent.iterdir()) == [path]


class Harm:
    """An object that creates a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (Path("harmed").touch, ())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [torch.save, lambda harm, file: file.write_bytes(pickle.dumps(harm))])
def test_code_in_checkpoint_is_not_run(tmp_path: Path, save: callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save({"state_dict": Harm()}, tmp_path / "last.ckpt")
    with pytest.raises(DataError):
        checkpoints.read(tmp_path / "last.ckpt")
    assert not (tmp_path / "harmed").exists()


def test_weights_of_different_model_are_rejected(tmp_path: Path) -> None:
    class Model(LightningModule):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.layer = nn.Linear(3, size)

    torch.save({"state_dict": Model(4).state_dict()}, tmp_path / "last.ckpt")
    checkpoints.restore(Model(4), tmp_path / "last.ckpt")
    with pytest.raises(DataError, match="different model"):
        checkpoints.restore(Model(5), tmp_path / "last.ckpt")


@pytest.fixture
def short(tmp_path: Path) -> list[str]:
    """Return overrides for a short training in a temporary run directory."""
    small = ["data=digits", "latent_dim=2", "encoder.hidden=[8]", "decoder.hidden=[8]", "callbacks=none"]
    return [*small, f"hydra.run.dir={tmp_path / 'run'}"]


def test_periodic_checkpoints_are_kept_with_best_and_last(short: list[str]) -> None:
    run = train([*short, "trainer.max_epochs=3", "checkpoint_every=2"])
    folder = run.path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "epoch-0002.ckpt", "last.ckpt"]
    assert checkpoints.read(folder / "epoch-0002.ckpt")["epoch"] == 1  # Lightning counts from 0
    before = (folder / "epoch-0002.ckpt").read_bytes()
    train([f"resume={run.path}", "trainer.max_epochs=6"])
    assert sorted(path.stem for path in folder.iterdir()) == ["best", "epoch-0002", "epoch-0004", "epoch-0006", "last"]
    assert (folder / "epoch-0002.ckpt").read_bytes() == before
    second, last = (runs.load(run.path, name).module.state_dict() for name in ("epoch-0002", "last"))
    sixth = runs.load(run.path, "epoch-0006").module.state_dict()
    assert all(torch.equal(last[name], sixth[name]) for name in last)
    assert not all(torch.equal(last[name], second[name]) for name in last)


def test_checkpoint_of_every_epoch_can_be_kept(short: list[str]) -> None:
    run = train([*short, "trainer.max_epochs=2", "checkpoint_every=1", "data.val_fraction=0"])
    names = sorted(path.stem for path in (run.path / "checkpoints").iterdir())
    assert names == ["epoch-0001", "epoch-0002", "last"]


def test_lightning_handles_remote_paths() -> None:
    path = "memory://checkpoints/last.ckpt"
    checkpoints.Files().save_checkpoint({"epoch": 1}, path)
    with fsspec.open(path) as file:
        assert torch.load(file) == {"epoch": 1}
