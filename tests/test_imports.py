"""Imports run one way: a file may import what stands before it here, of those that it is allowed."""

import ast
from pathlib import Path

import pytest

import vae_lab

ALLOWED = {
    "errors": set(),
    "files": set(),
    "checks": set(),
    "linear": set(),
    "model": set(),
    "networks": {"checks", "linear"},
    "posteriors": {"checks", "model"},
    "likelihoods": {"checks", "model"},
    "priors": {"checks"},
    "noise": {"checks"},
    "metrics": set(),
    "schedulers": {"checks"},
    "latents": set(),
    "figures.page": set(),
    "figures.images": {"figures.page"},
    "figures.charts": {"figures.page"},
    "figures": {"figures.page", "figures.images", "figures.charts"},
    "loggers": {"errors", "files"},
    "checkpoints": {"errors", "files"},
    "data.batches": set(),
    "data.images": {"checks", "errors", "model", "noise", "data.batches"},
    "data.sets": {"checks", "errors", "data.batches", "data.images"},
    "data.folder": {"checks", "errors", "data.batches", "data.images"},
    "data": {"data.batches", "data.images", "data.sets", "data.folder"},
    "objectives": {"checks", "errors", "model"},
    "module": {"errors", "metrics", "model", "objectives", "schedulers"},
    "config": {"checks", "errors", "module"},
    "view": {"data", "model"},
    "callbacks.clock": {"module"},
    "callbacks.drawing": {"figures", "files", "loggers", "module", "view"},
    "callbacks.images": {"figures", "latents", "metrics", "view", "callbacks.drawing"},
    "callbacks.spaces": {"figures", "latents", "view", "callbacks.drawing"},
    "callbacks.numbers": {"figures", "files", "loggers", "metrics", "module", "view", "callbacks.drawing"},
    "callbacks": {"callbacks.clock", "callbacks.drawing", "callbacks.images", "callbacks.spaces", "callbacks.numbers"},
    "runs": {
        "checks",
        "errors",
        "config",
        "files",
        "checkpoints",
        "callbacks",
        "data",
        "model",
        "module",
        "objectives",
    },
    "commandline": {"errors", "config"},
    "report": {"errors", "config", "files", "loggers", "model", "runs", "commandline"},
    "train": {
        "errors",
        "config",
        "checkpoints",
        "loggers",
        "callbacks",
        "module",
        "runs",
        "view",
        "commandline",
        "report",
    },
    "generate": {"errors", "config", "figures", "files", "callbacks", "runs", "view", "commandline"},
    "evaluate": {"config", "files", "metrics", "callbacks", "runs", "view", "commandline"},
}
KNOW_HYDRA = {"runs", "commandline"}
PACKAGE = Path(vae_lab.__file__).parent
FILES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
    if file != PACKAGE / "__init__.py"
}


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
    ours = {found.removeprefix("vae_lab.") for found in imported(FILES[name]) if found.startswith("vae_lab.")}
    files = {
        max((each for each in FILES if f"{found}.".startswith(f"{each}.")), key=len) for found in ours - {"__version__"}
    }
    assert files <= ALLOWED[name]
    knows = {found.split(".")[0] for found in imported(FILES[name])}
    assert "hydra" not in knows or name in KNOW_HYDRA


def test_the_table_has_no_circle() -> None:
    order = list(ALLOWED)
    assert all(order.index(needed) < order.index(name) for name, needs in ALLOWED.items() for needed in needs)
