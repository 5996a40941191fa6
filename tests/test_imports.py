"""Imports run one way: the lab stands on the library, and each part of the lab on those before it."""

import ast
from pathlib import Path

import pytest

import vae_lab

# The parts of the lab, each after what it may import. The entry points stand on all of them; the rest is the library.
LAB = ["workarounds", "data", "training", "cli", "runs", "commands"]
FORBIDDEN = {"pytorch_lightning", "hydra", "omegaconf", "wandb"}  # to the library
PACKAGE = Path(vae_lab.__file__).parent
FILES = {file.relative_to(PACKAGE): file for file in PACKAGE.rglob("*.py")}


ENTRY_POINTS = {file.stem for file in PACKAGE.glob("*.py") if "__main__" in file.read_text()}


def floor(part: str) -> int:
    """Return how high a file or folder stands: 0 for the library, then the lab, then the entry points."""
    return len(LAB) + 1 if part in ENTRY_POINTS else LAB.index(part) + 1 if part in LAB else 0


def imported(file: Path, at_once: bool = False) -> set[str]:
    """Return the dotted names that a file imports, wherever in it or `at_once`, when it is imported itself."""
    names, tree = set(), ast.parse(file.read_text())
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("name", FILES, ids=str)
def test_a_file_imports_only_what_it_stands_on(name: Path) -> None:
    mine, names = floor(name.parts[0].removesuffix(".py")), imported(FILES[name])
    assert all(floor(found.split(".")[1]) <= mine for found in names if found.startswith("vae_lab."))
    assert mine or not {found.split(".")[0] for found in names} & FORBIDDEN


@pytest.mark.parametrize("name", sorted(ENTRY_POINTS))
def test_an_entry_point_imports_nothing_heavy_at_once(name: str) -> None:
    parts = {found.split(".")[1] for found in imported(PACKAGE / f"{name}.py", at_once=True) if "vae_lab." in found}
    assert parts == {"cli"}  # whose own imports the test of --help looks at
