"""Imports run one way: the lab stands on the library, and each part of the lab on those before it."""

import ast
from pathlib import Path

import pytest

import vae_lab

# The lab, each part after what it may import; every other file or folder of the package is the library's.
LAB = ["workarounds", "schedulers", "loggers", "checkpoints", "data", "module", "config", "view", "callbacks", "runs"]
LAB += ["commandline", "report", "train", "generate", "evaluate"]
FORBIDDEN = {"pytorch_lightning", "hydra", "omegaconf", "wandb"}  # to the library
KNOW_HYDRA = {"runs", "commandline", "workarounds"}
PACKAGE = Path(vae_lab.__file__).parent
FILES = {file.relative_to(PACKAGE): file for file in PACKAGE.rglob("*.py")}


def place(file: Path) -> str:
    """Return which part of the lab a file or a module belongs to; empty for the library."""
    part = file.parts[0].removesuffix(".py") if file.parts else ""
    return part if part in LAB else ""


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


@pytest.mark.parametrize("name", FILES, ids=str)
def test_a_file_imports_only_what_it_stands_on(name: Path) -> None:
    mine, names = place(name), imported(FILES[name])
    ours = {place(Path(*found.split(".")[1:])) for found in names if found.startswith("vae_lab.")}
    allowed = {"", *LAB[: LAB.index(mine) + 1]} if mine else {""}
    assert ours <= allowed
    packages = {found.split(".")[0] for found in names}
    assert mine or not packages & FORBIDDEN
    assert "hydra" not in packages or mine in KNOW_HYDRA
