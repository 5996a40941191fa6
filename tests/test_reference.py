"""The generated reference pages contain every option of `conf/`, with its default and accepted values."""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from vae_lab.cli.compose import CONF
from vae_lab.cli.schema import ROOTS

sys.path.insert(0, str(ROOT / "docs"))
reference = import_module("reference")

COMPONENTS, COMMANDS = reference.components(), reference.commands()
FILES = [file for file in sorted(CONF.glob("*/*.yaml")) if file.parent.name != "hydra"]


def section(page: str, anchor: str) -> str:
    """Return the text below the heading with this anchor."""
    found = re.search(rf"^##+ [^\n]*\{{#{re.escape(anchor)}\}}\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, anchor
    return found[1]


def rows(text: str) -> dict[str, list[str]]:
    """Return the first cell of each table row, with the other cells."""
    cells = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in text.splitlines() if line.startswith("| `")]
    return {first.strip("`"): rest for first, *rest in cells}


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a file and their values, without references to classes and other files."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        elif key not in ("defaults", "_target_", "_partial_"):
            yield f"{prefix}{key}", value


def same(cell: str, value: Any) -> bool:
    return cell == "required" if value == "???" else yaml.safe_load(cell.strip("`")) == value


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_option_of_component_has_default(file: Path) -> None:
    group, common, preset = file.parent.name, file.stem.startswith("_"), "@package _global_" in file.read_text()
    found = rows(section(COMPONENTS, f"{group}-{'common' if common else file.stem}"))
    for key, value in leaves(yaml.safe_load(file.read_text()) or {}):
        names = [key] if preset else [f"{group}.{key}", f"{group}.<name>.{key}"]
        cells = next((found[name] for name in names if name in found), None)
        assert cells is not None, key
        assert same(cells[0], value), key


@pytest.mark.parametrize("name", ROOTS)
def test_every_key_of_command_has_default(name: str) -> None:
    text = re.split(rf"^## {name}$", COMMANDS, flags=re.MULTILINE)[1].partition("\n## ")[0]
    found = rows(text)
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    for key, value in leaves({key: value for key, value in values.items() if key != "hydra"}):
        assert same(found[key][0], value), key


@pytest.mark.parametrize(
    ("anchor", "key", "accepted"),
    [
        ("likelihood-gaussian", "likelihood.scale", "greater than 0"),
        ("likelihood-gaussian", "likelihood.mean", "`sigmoid` | `identity`"),
        ("data-common", "data.binarize", "`auto` | `none` | `threshold` | `dynamic` | `static`"),
        ("objective-elbo", "objective.beta", "at least 0"),
        ("scheduler-plateau", "scheduler.factor", "greater than 0 and less than 1"),
        ("callbacks-manifold", "callbacks.manifold.n", "at most 100"),
        ("encoder-conv", "encoder.linear.init", "`default` | `kaiming` | `xavier`"),
        ("trainer-default", "trainer.precision", "`bf16-mixed`"),
    ],
)
def test_options_have_accepted_values(anchor: str, key: str, accepted: str) -> None:
    assert accepted in rows(section(COMPONENTS, anchor))[key][1].replace("\\|", "|")


def test_papers_are_linked() -> None:
    assert "[1312.6114](https://arxiv.org/abs/1312.6114)" in section(COMPONENTS, "posterior-normal")


def test_comments_above_and_after_option_form_description(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(
        "# At the top.\ndefaults: [other, _self_]\n\n# above,\na: 1e-3  # behind\nb:\n  c: [1, 2]  # lists\n  d: x\n"
    )
    source = reference.read(file)
    assert source.about == "At the top."
    options = [(option.key, option.default, option.comment) for option in source.options]
    assert options == [("a", "1e-3", "above, behind"), ("b.c", "[1, 2]", "lists"), ("b.d", "x", "")]


def test_escaped_text_is_shown_verbatim() -> None:
    assert reference.escape("p(x|z), <root>/*, `a|b`") == r"p(x\|z), \<root>/\*, `a|b`"
