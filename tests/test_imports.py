"""The library does not import the lab; each layer of the lab imports only the layers below it."""

import ast
from pathlib import Path

import pytest

import vae_lab

# The layers of the lab, from the lowest. Entry points are above all layers; all other files are the library.
LAB = ["workarounds", "data", "training", "cli", "runs", "commands"]
FORBIDDEN = {"pytorch_lightning", "hydra", "omegaconf", "wandb"}  # in the library
PACKAGE = Path(vae_lab.__file__).parent
FILES = {file.relative_to(PACKAGE): file for file in PACKAGE.rglob("*.py")}


ENTRY_POINTS = {file.stem for file in PACKAGE.glob("*.py") if "__main__" in file.read_text()}


def level(name: str) -> int:
    """Return the level of a file or directory: 0 for the library, then the layers of the lab, then the entry points."""
    return len(LAB) + 1 if name in ENTRY_POINTS else LAB.index(name) + 1 if name in LAB else 0


def imported(file: Path, top_level: bool = False) -> set[str]:
    """Return the dotted names that a file imports, anywhere or only at its top level."""
    names, tree = set(), ast.parse(file.read_text())
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("name", FILES, ids=str)
def test_file_imports_nothing_from_higher_levels(name: Path) -> None:
    own_level, names = level(name.parts[0].removesuffix(".py")), imported(FILES[name])
    assert all(level(found.split(".")[1]) <= own_level for found in names if found.startswith("vae_lab."))
    assert own_level or not {found.split(".")[0] for found in names} & FORBIDDEN


@pytest.mark.parametrize("name", sorted(ENTRY_POINTS))
def test_entry_point_defers_heavy_imports(name: str) -> None:
    layers = {found.split(".")[1] for found in imported(PACKAGE / f"{name}.py", top_level=True) if "vae_lab." in found}
    assert layers == {"cli"}  # the test of --help checks what cli imports
