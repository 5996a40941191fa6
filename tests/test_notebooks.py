"""Form of the notebooks; pytest runs them with nbmake."""

import json
from pathlib import Path

import pytest

from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_notebooks_are_numbered() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["01_first_vae", "02_what_the_loss_does", "03_latent_space"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_has_no_outputs_and_enough_text(file: Path) -> None:
    cells = json.loads(file.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len(cells) - len(code) >= len(code) / 2  # at least one text cell for two code cells
    assert "".join(cells[0]["source"]).startswith("# ")


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_needs_no_download(file: Path) -> None:
    text = file.read_text()
    assert text.count("data=digits") >= 1
    assert "data=mnist" not in text
