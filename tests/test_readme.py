"""The commands in README.md, docs/compose.md and docs/figures.md run, on digits and for one or two epochs."""

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import ROOT
from vae_lab import runs
from vae_lab.cli.compose import CONF, compose
from vae_lab.evaluate import evaluate
from vae_lab.generate import generate
from vae_lab.report import report
from vae_lab.train import train

PAGES = {file.name: file.read_text() for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
README, COMPOSE, FIGURES = (PAGES[name] for name in ("README.md", "compose.md", "figures.md"))


def commands(page: str) -> list[str]:
    """Return the command lines of a page."""
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]


EXISTING_RUN = "outputs/first"  # in commands that need an existing run
COMMANDS = [line for line in commands(README + COMPOSE) if EXISTING_RUN not in line]
PYTHON = re.findall(r"```python\n(.*?)```", README + COMPOSE, re.DOTALL)
SHORT = ["data=digits", "trainer.max_epochs=1", "name=readme", "callbacks=none"]


@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=pytest.mark.slow) if " -m model" in line else line for line in COMMANDS]
)
def test_every_command_trains(
    command: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
) -> None:
    python, dash, module, *arguments = shlex.split(line)
    assert (python, dash, module) == ("python", "-m", "vae_lab.train")
    arguments = [argument for argument in arguments if not argument.startswith(("data.root=", "data.shape="))]
    if "-m" in arguments:
        done = command(*arguments, *SHORT)
        assert done.returncode == 0, done.stderr
    else:  # in this process, which has imported everything
        monkeypatch.chdir(tmp_path)
        train([*arguments, *SHORT])
    jobs = [argument.count(",") + 1 for argument in arguments if re.match(r"(model|latent_dim)=", argument)]
    expected = 1
    for count in jobs:
        expected *= count
    assert len(list(tmp_path.glob("outputs/readme/*/metrics.json"))) == expected


@pytest.mark.slow
def test_commands_on_existing_run_write_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    functions = {
        "vae_lab.train": train,
        "vae_lab.generate": generate,
        "vae_lab.evaluate": evaluate,
        "vae_lab.report": report,
    }
    short = ["data=digits", "trainer.max_epochs=2", "encoder.hidden=[16]", "decoder.hidden=[16]"]
    made: list[Path] = []
    for number, line in enumerate(commands(FIGURES) + [line for line in commands(README) if EXISTING_RUN in line]):
        python, dash, module, *arguments = shlex.split(line)
        assert (python, dash) == ("python", "-m")
        run_dir = [] if EXISTING_RUN in line else [f"hydra.run.dir=outputs/{number}"]
        done = functions[module]([*arguments, *(short + run_dir if module == "vae_lab.train" else [])])
        made += done if isinstance(done, list) else []
    first = {str(file.relative_to("outputs/first")) for file in made if file.is_relative_to("outputs/first")}
    assert {"generated/samples.gif", "generated/samples.npz", "generated/samples", "generated/tsne.png"} <= first
    assert Path("pictures/interpolation.png") in made
    assert all(Path("outputs/first/evaluation", name).exists() for name in ("class_mse.csv", "metrics.json"))
    assert Path("elsewhere/metrics.json").exists()
    assert Path("outputs/first/report.html").exists()
    assert Path("pages/first.html").exists()
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", FIGURES, re.DOTALL):
        exec(block, names)
    assert names["errors"].error.shape == (359,)
    assert len([axes for axes in names["drawn"].axes if axes.images]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in COMMANDS if " -m model" not in line])
def test_every_command_composes_and_builds(line: str) -> None:
    config = compose("train", shlex.split(line)[3:])[0]
    runs.build_module(config)
    runs.build_data(config)


@pytest.mark.slow
def test_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in PYTHON:
        exec(block, names)
    assert names["terms"]["elbo"].isfinite().all()
    assert names["reconstruction"].shape == (8, 1, 8, 8)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert targets == ["demo", "test"]
    named = {target for page in PAGES.values() for target in re.findall(r"`make (\w+)", page)}
    assert all(f"\n{target}:" in makefile for target in {*targets, *named})


@pytest.mark.slow
def test_demo_trains_and_names_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (recipe,) = re.findall(r"\ndemo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text())
    program, dash, module, *arguments = shlex.split(recipe.replace("\\\n", " "))
    assert (program, dash, module) == ("$(BIN)/python", "-m", "vae_lab.train")
    run = train([*arguments, "trainer.max_epochs=2"])
    assert run.path.parent == tmp_path / "outputs" / "demo"
    page = (run.path / "report.html").relative_to(tmp_path)
    assert (run.path / "train.log").read_text().rstrip().endswith(f"open {page}")


def test_every_page_with_commands_is_tested() -> None:
    """Each page with commands is tested here or in its own test file."""
    here = {"README.md", "compose.md", "figures.md"}
    assert {name for name, page in PAGES.items() if commands(page)} == here | {"extending.md", "experiments.md"}


def test_link_targets_exist() -> None:
    others = {name: (ROOT / name).read_text() for name in ("CONTRIBUTING.md", "CHANGELOG.md")}
    for name, page in (PAGES | others).items():
        folder = ROOT if (ROOT / name).exists() else ROOT / "docs"
        for link in re.findall(r"\]\((?!http|#)([^)#]+)\)", page):
            generated = folder.name == "docs" and link == "reference/components.md"  # exists only on the site
            assert generated or (folder / link).exists(), f"{name}: {link}"


def test_readme_is_short() -> None:
    assert len(README.splitlines()) < 130


def test_components_in_compose_page_exist() -> None:
    """The page need not name all components: the reference is generated from the YAML files."""
    groups = {
        folder.name: {file.stem for file in folder.glob("[!_]*.yaml")} for folder in CONF.iterdir() if folder.is_dir()
    }
    for group, name in re.findall(r"\b(\w+)=(\w+)", COMPOSE):
        if group in groups:
            assert name in groups[group], f"{group}={name}"
