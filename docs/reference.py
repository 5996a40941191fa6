"""Generate the component and command references for the site from `conf/` and the signatures of classes."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_object
from signatures import accepted, documented

import vae_lab
from vae_lab.cli.compose import CONF
from vae_lab.cli.schema import ROOTS
from vae_lab.runs.build import check_optimizer, check_trainer

CHECKS: dict[str, Callable[..., None]] = {"optimizer": check_optimizer, "trainer": check_trainer}
PAPER = r"\b\d{4}\.\d{4,5}\b"
HYDRA = {"train": ("hydra.run.dir", "hydra.sweep.dir")}  # Hydra keys that users set
HEAD = ("Key", "Default", "Accepted values", "Description")
INTRODUCTION = """# Components

Each config group is a directory in `conf/`, and each component is a YAML file in it. On the command line,
`<group>=<component>` selects a component and `<group>.<option>=<value>` sets an option."""


@dataclass(frozen=True)
class Option:
    """A leaf of a YAML file: its dotted key, its value as written, and its comment."""

    key: str
    default: str
    comment: str = ""


@dataclass(frozen=True)
class Source:
    """A YAML file in `conf/`; `about` is the comment at the top of the file."""

    path: Path
    about: str
    values: dict[str, Any]
    options: tuple[Option, ...]

    @property
    def is_preset(self) -> bool:
        return self.path.read_text().startswith("# @package _global_")

    @property
    def selected(self) -> list[tuple[str, str]]:
        """The defaults list as pairs of a group, which is empty for the file's own group, and a component."""
        pairs = [("", each) if isinstance(each, str) else next(iter(each.items())) for each in self.values["defaults"]]
        return [(group.removeprefix("override /"), "null" if name is None else name) for group, name in pairs]

    @property
    def bases(self) -> list[tuple[str, "Source"]]:
        """The files in the same group that this file extends, each with the block into which it is merged."""
        names = [name.partition("@") for group, name in self.selected if not group and name != "_self_"]
        return [(block, read(self.path.with_name(f"{name}.yaml"))) for name, _, block in names]

    @property
    def targets(self) -> dict[str, str]:
        """The class for each block of options by name, such as `linear`; the name is empty for the component itself."""
        found = {join(block, inner): target for block, base in self.bases for inner, target in base.targets.items()}
        blocks = {"": self.values, **{key: value for key, value in self.values.items() if isinstance(value, dict)}}
        return found | {block: value["_target_"] for block, value in blocks.items() if "_target_" in value}


def join(*names: str) -> str:
    """Return a dotted key."""
    return ".".join(filter(None, names))


@cache
def read(path: Path) -> Source:
    """Return a YAML file with its comments."""
    text = path.read_text()
    top = re.match(r"(#.*\n)*", text)
    about = [line[1:].removeprefix(" ") for line in (top[0] if top else "").splitlines() if "@package" not in line]
    values = {"defaults": [], **(yaml.safe_load(text) or {})}
    return Source(path, "\n".join(about), values, tuple(leaves(yaml.compose(text), text.splitlines(), len(about))))


def leaves(node: yaml.Node, lines: list[str], top: int, prefix: str = "") -> Iterator[Option]:
    """Yield the options of a mapping, each with the comments above its key and after its value."""
    for key, value in node.value:
        name, mark = join(prefix, key.value), " " * key.start_mark.column + "#"
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from leaves(value, lines, top, name)
        elif key.value not in ("defaults", "_target_", "_partial_"):
            above = takewhile(partial(re.match, mark), reversed(lines[top : key.start_mark.line]))
            behind = re.match(r"[\s\]}]*(#.*)", lines[value.end_mark.line][value.end_mark.column :])
            words = [*reversed(list(above)), *(behind.groups() if behind else [])]
            source = "\n".join(lines)[value.start_mark.index : value.end_mark.index]
            yield Option(name, " ".join(source.split()), " ".join(word.strip(" #") for word in words))


def escape(text: str) -> str:
    """Return text escaped for Markdown, except for `code`, with arXiv numbers converted to links."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"([*<|\[\]])", r"\\\1", part) for part in parts[::2]]
    parts[::2] = [re.sub(f"({PAPER})", r"[\1](https://arxiv.org/abs/\1)", part) for part in parts[::2]]
    return "".join(parts)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table without empty columns, or an empty string if there are no rows."""
    filled = list(rows)
    columns = [each for each in zip(head, *filled, strict=True) if any(each[1:])]
    lines = [f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True)]
    return "\n".join([*lines[:1], "|---" * len(columns) + "|", *lines[1:]]) + "\n" if filled else ""


def option_row(option: Option, key: str, owner: Any, check: Any = None) -> list[str]:
    """Return the table row for an option: key, default, accepted values and description."""
    name = option.key.rpartition(".")[2]
    values = accepted(owner, name) or accepted(check, name)
    if values.startswith("`") and option.default.isalpha() and f"`{option.default}`" not in values:
        values = f"`{option.default}` | {values}"  # such as `auto`, which is resolved before the class is called
    default = "required" if option.default == "???" else f"`{option.default}`"
    return [f"`{key}`", default, escape(values), escape(option.comment or documented(owner).get(name, ""))]


def component(source: Source, group: str, common: Source | None) -> str:
    """Return the section on a component."""
    name, check = source.path.stem, CHECKS.get(group)
    prefix = "" if source.is_preset else group
    lines = [f"### {group}={name} {{#{group}-{name}}}", escape(source.about)]
    for target in ({"": source.values} | source.values).values():
        if isinstance(target, dict) and "_target_" in target:
            lines.append(described(target["_target_"]))
    bases = [(block, base.path.stem) for block, base in source.bases if base is not common]
    links = [f"[`{base}`](#{group}-{base})" + (f" as `{group}.{block}`" if block else "") for block, base in bases]
    if links:
        lines.append(f"Based on {', '.join(links)}.")
    if common in [base for _, base in source.bases]:
        lines.append(f"Also has the [common options](#{group}-common).")
    chosen = [(key.strip("/"), name) for key, name in source.selected if key]
    if chosen:
        lines.append(f"Selects {', '.join(f'[`{key}={name}`](#{key}-{name})' for key, name in chosen)}.")
    if source.is_preset or (bases and "_target_" not in source.values):
        sets = [(f"`{join(prefix, each.key)}`", f"`{each.default}`") for each in source.options]
        lines.append(table(("Sets", "To"), sets))
    else:
        rows = [option_row(each, join(prefix, each.key), owner(each.key, source), check) for each in source.options]
        lines.append(table(HEAD, rows))
    return "\n\n".join(filter(None, lines))


def owner(key: str, source: Source) -> Any:
    """Return the class that has an option as an argument, or None if there is no such class."""
    block = key
    while block:
        block = block.rpartition(".")[0]
        if block in source.targets:
            return get_object(source.targets[block])
    return None


def names() -> str:
    """Return a table of the names that `vae_lab` exports."""
    found = [getattr(vae_lab, name) for name in vae_lab.__all__]
    rows = [(f"[`{each.__name__}`][{each.__module__}.{each.__name__}]", escape(summary(each)[0])) for each in found]
    return table(("Name", "Description"), rows)


def summary(owner: Any) -> tuple[str, str]:
    """Return the first paragraph of a docstring, and the remaining text."""
    first, _, rest = inspect.cleandoc(owner.__doc__ or "").partition("\n\n")
    return " ".join(first.split()), rest


def described(target: str) -> str:
    """Return a link to a class or function, the first paragraph of its docstring, and papers cited further on."""
    if not target.startswith("vae_lab."):
        return f"Class: `{target}`."
    first, rest = summary(get_object(target))
    papers = sorted(set(re.findall(PAPER, rest)) - set(re.findall(PAPER, first)))
    more = f" See arXiv {', '.join(papers)}." if papers else ""
    return f"[`{target}`][{target}]: {escape(first + more)}"


def components() -> str:
    """Return the page on all config groups, in the order of `conf/train.yaml`."""
    chosen = dict(read(CONF / "train.yaml").selected)
    page, overview = [], []
    for group in [each for each in chosen if each and "/" not in each]:
        sources = [read(path) for path in sorted((CONF / group).glob("*.yaml"))]
        named = [each for each in sources if not each.path.stem.startswith("_")]
        links = ", ".join(f"[`{each.path.stem}`](#{group}-{each.path.stem})" for each in named)
        overview.append((f"[`{group}`](#{group})", f"`{chosen[group]}`", links))
        page.append(f"## {group}")
        common = next((each for each in sources if each not in named), None)
        if common:
            uses = [(block, each) for each in named for block, base in each.bases if base is common]
            kind = get_object(next(iter(uses[0][1].targets.values())))
            prefix = join(group, "<name>" if uses[0][0] else "")
            rows = [option_row(each, join(prefix, each.key), kind) for each in common.options]
            page += [f"### Common options {{#{group}-common}}", escape(common.about), table(HEAD, rows)]
        page += [component(each, group, common) for each in named]
    return "\n\n".join([INTRODUCTION, table(("Config group", "Default", "Components"), overview), *page])


def commands() -> str:
    """Return the page on the commands and the keys that belong to no component."""
    page = ["# Commands"]
    for name, root in ROOTS.items():
        source = read(CONF / f"{name}.yaml")
        usage = source.values["hydra"]["help"]["header"].splitlines()[1:]
        kept = [each for each in source.options if not each.key.startswith("hydra.") or each.key in HYDRA.get(name, ())]
        groups = [
            (f"`{group.partition('@')[2] or group}`", f"`{chosen}`") for group, chosen in source.selected if group
        ]
        page += [
            f"## {name}",
            escape(source.about),
            "```bash\n" + "\n".join(line.strip() for line in usage) + "\n```",
            table(HEAD, [option_row(each, each.key, root) for each in kept]),
            table(("Config group", "Default"), [each for each in groups if "hydra/" not in each[0]]),
        ]
    return "\n\n".join(page)
