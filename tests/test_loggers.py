import csv
import logging
from pathlib import Path

import pytest

from vae_lab.loggers import Curves, Lines


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_curves_have_one_row_an_epoch_and_exact_numbers(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "metrics.csv")
    curves.log_metrics({"epoch": 1, "train/loss": 1 / 3}, step=10)
    curves.log_metrics({"epoch": 2, "train/loss": 0.25, "val/elbo": -2.0}, step=20)
    first, second = rows(tmp_path / "metrics.csv")
    assert float(first["train/loss"]) == 1 / 3
    assert first["val/elbo"] == ""
    assert second == {"epoch": "2", "step": "20", "train/loss": "0.25", "val/elbo": "-2.0"}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_an_epoch_that_is_run_again_replaces_its_row_and_those_after(tmp_path: Path) -> None:
    for epoch in (1, 2, 3, 4):
        Curves(tmp_path / "metrics.csv").log_metrics({"epoch": epoch, "train/loss": float(epoch)}, step=epoch)
    Curves(tmp_path / "metrics.csv").log_metrics({"epoch": 3, "train/loss": 30.0}, step=3)
    assert [row["train/loss"] for row in rows(tmp_path / "metrics.csv")] == ["1.0", "2.0", "30.0"]


@pytest.mark.parametrize(("every", "printed"), [(1, [1, 2, 3, 4, 5]), (2, [1, 2, 4, 5]), (10, [1, 5])])
def test_lines_come_at_their_interval_and_at_both_ends(
    every: int, printed: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lines = Lines(every, epochs=5)
    for epoch in range(1, 6):
        lines.log_metrics({"epoch": epoch, "train/loss": 1.5})
    assert [record.getMessage() for record in caplog.records] == [f"epoch {e}/5  train/loss 1.5" for e in printed]
