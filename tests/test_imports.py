"""Imports run one way: a file may import what stands before it here, of those that it is allowed."""

import ast
from pathlib import Path

import pytest

import vae_lab

ALLOWED = {
    "errors": set(),
    "networks": set(),
    "posteriors": set(),
    "likelihoods": set(),
    "priors": set(),
    "metrics": set(),
    "loggers": set(),
    "model": set(),
    "config": {"errors"},
    "checkpoints": {"errors"},
    "data": {"errors", "model"},
    "objectives": {"model"},
    "module": {"errors", "metrics", "model", "objectives"},
    "callbacks": {"module"},
    "runs": {"errors", "config", "checkpoints", "data", "model", "module"},
    "commandline": {"errors", "config"},
    "train": {"errors", "config", "checkpoints", "loggers", "callbacks", "runs", "commandline"},
}
KNOW_HYDRA = {"runs", "commandline"}
PACKAGE = Path(vae_lab.__file__).parent
FILES = {file.stem: file for file in PACKAGE.glob("*.py") if file.stem != "__init__"}


def imported(file: Path) -> set[str]:
    """Return the dotted names that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_file_has_its_place() -> None:
    assert FILES.keys() == ALLOWED.keys()


@pytest.mark.parametrize("name", ALLOWED)
def test_a_file_imports_what_it_may(name: str) -> None:
    ours = {found.split(".")[1] for found in imported(FILES[name]) if found.startswith("vae_lab.")} - {"__version__"}
    assert ours <= ALLOWED[name]
    knows = {found.split(".")[0] for found in imported(FILES[name])}
    assert "hydra" not in knows or name in KNOW_HYDRA


def test_the_table_has_no_circle() -> None:
    order = list(ALLOWED)
    assert all(order.index(needed) < order.index(name) for name, needs in ALLOWED.items() for needed in needs)
