"""The page of a run, made again: `python -m vae_lab.report run=outputs/vae/…` writes its `report.html`.

It is one file that needs nothing else: figures are inside it, and it has no script. A training makes it at its end.
"""

import base64
import csv
import json
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from vae_lab.commandline import compose, launch, relative
from vae_lab.errors import ConfigError, DataError

log = logging.getLogger(__name__)

MOST_EARLIER = 4  # pictures of a figure that are shown beside the last
MEANINGS = {
    "loss": "what was minimised",
    "elbo": "lower bound of log p(x) at β = 1, with every constant: larger is better",
    "log_likelihood": "log p(x|z), z from the posterior",
    "kl": "from the posterior to the prior; elbo = log_likelihood - kl",
    "mse": "squared error per pixel of the reconstruction from the posterior's mean",
    "elbo_unnormalised": "in the place of the ELBO, but no bound: no density is behind it",
    "log_likelihood_unnormalised": "in the place of log p(x|z), but no density is behind it",
    "seconds": "of the epoch's training",
    "lr": "learning rate",
}


class Setting(NamedTuple):
    """A value of a run's configuration that is not the default."""

    key: str
    value: str
    default: str


class Number(NamedTuple):
    """A number of a run: what it means, and its values by stage."""

    name: str
    meaning: str
    values: dict[str, str]


class Picture(NamedTuple):
    """An image that is written into the page: what it is of, and its data and size in pixels."""

    words: str
    data: str
    width: int
    height: int


class Shown(NamedTuple):
    """A figure: its name, what to look for, its last picture, some earlier ones, and how many there are of those."""

    name: str
    look_for: str
    last: Picture
    earlier: Sequence[Picture] = ()
    before: int = 0


class ClassRow(NamedTuple):
    """A class of the test split; `share` is its error in percent of the largest, None for a class without images."""

    name: str
    images: int
    mse: str
    share: float | None


def report(overrides: Sequence[str] = ()) -> Path:
    """Write a page as the command line does, and return its file.

    Args:
        overrides: what would stand on the command line, such as `["run=outputs/vae/…"]`.

    Raises:
        ConfigError: for an option that there is not.
        DataError: where the directory is no run, or something in it is damaged.
    """
    return run(compose("report", overrides)[0])


def run(config: DictConfig) -> Path:
    """Write the page that a configuration asks for, and return its file."""
    from vae_lab.config import check_values

    check_values(config, {})
    file = write(Path(config.run), Path(config.out) if config.out else None)
    log.info("open %s", relative(file.absolute()))
    return file


def write(path: Path, file: Path | None = None) -> Path:
    """Write the page of the run in a directory, and return its file: `report.html` in there if none is given.

    Raises:
        DataError: where the directory is no run, something in it is damaged, or the page cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from vae_lab import runs
    from vae_lab.files import replacing

    jinja = Environment(loader=PackageLoader("vae_lab"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = jinja.get_template("run.html").render(content(path))
    file = file or path / "report.html"
    with runs.writable(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as beside:
            beside.write_text(page, encoding="utf-8")
    return file


def content(path: Path) -> dict[str, Any]:
    """Return what the page says, by the names that its template has for it.

    Raises:
        DataError: where the directory is no run, or something in it is damaged.
    """
    from vae_lab import runs

    config, metrics = runs.stored_config(path), runs.stored_metrics(path)
    found = metrics or last_epoch(path)
    stages, numbers = by_stage(found)
    figures = list(drawn(path, config))
    return {
        "name": config.name,
        "model": title(config),
        "metrics": metrics,
        "epoch": found.get("epochs", found.get("epoch", 0)),
        "stages": stages,
        "numbers": numbers,
        "headline": headline(stages, numbers),
        "settings": list(settings(config)),
        "figures": figures,
        "generated": list(generated(path, config)),
        "classes": list(class_rows(path / "class_mse.csv")),
        "command": shlex.join(["python", "-m", "vae_lab.train", *arguments(path, config)]),
        "versions": {key.partition("/")[2]: value for key, value in metrics.items() if key.startswith("version/")},
        "yaml": OmegaConf.to_yaml(config),
    }


def title(config: DictConfig) -> str:
    """Return what was trained in a few words: likelihood, network, kind, latent size, data."""
    from vae_lab.config import has_density, part
    from vae_lab.model import in_words

    likelihood, encoder, data = (part(config, group) for group in ("likelihood", "encoder", "data"))
    return f"{in_words(likelihood, encoder, has_density(config), config.latent_dim)}, {data.__name__}"


def last_epoch(path: Path) -> dict[str, Any]:
    """Return the numbers of the last epoch of a run that has not ended; none before the first."""
    from vae_lab import loggers

    rows = loggers.read_curves(path / "metrics.csv")
    last = {name: float(value) for name, value in rows[-1].items() if value} if rows else {}
    return {name: int(value) if name in ("epoch", "step") else value for name, value in last.items()}


def by_stage(metrics: Mapping[str, Any]) -> tuple[list[str], list[Number]]:
    """Return the stages that there are numbers of, and the numbers."""
    found: dict[str, dict[str, str]] = {}
    for key, value in metrics.items():
        stage, slash, name = key.partition("/")
        if slash and isinstance(value, float):
            found.setdefault(name, {})[stage] = f"{value:.6g}"
    stages = [stage for stage in ("train", "val", "test") if any(stage in values for values in found.values())]
    return stages, [Number(name, MEANINGS.get(name, ""), values) for name, values in found.items()]


def headline(stages: Sequence[str], numbers: Sequence[Number]) -> list[tuple[str, str]]:
    """Return the few numbers that a reader looks for first, of the last stage that there is."""
    chosen = ("elbo", "elbo_unnormalised", "kl", "mse")
    return [
        (f"{stages[-1]}/{number.name}", f"{float(number.values[stages[-1]]):.4g}")
        for number in numbers
        if number.name in chosen and stages[-1] in number.values
    ]


def settings(config: DictConfig) -> Iterator[Setting]:
    """Yield what differs from the defaults; a value that follows another one of the run's does not."""
    from vae_lab import runs

    defaults = compose("train", [])[0]
    plain = dict(runs.flat(OmegaConf.to_container(defaults)))
    there = dict(runs.flat(OmegaConf.to_container(config)))
    for key, default, value in runs.changes(defaults, config):
        group, _, option = key.rpartition(".")
        if key not in there or option == "_partial_" or follows(config, key, plain.get(key)):
            continue
        if option == "_target_":
            yield Setting(group, *(str(target or "").rpartition(".")[2] for target in (value, default)))
        else:
            yield Setting(key, said(value), said(default) if key in plain else "")


def follows(config: DictConfig, key: str, default: Any) -> bool:
    """Tell whether a value is what the default, an expression such as `${seed}`, comes to in a configuration."""
    if not isinstance(default, str) or "${" not in default:
        return False
    whole = OmegaConf.merge(config)
    OmegaConf.update(whole, key, default)
    return OmegaConf.select(whole, key) == OmegaConf.select(config, key)


def said(value: Any) -> str:
    """Return a value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def arguments(path: Path, config: DictConfig) -> list[str]:
    """Return what makes the same training again: what was said, and what changed when it went on.

    Raises:
        DataError: where the list of what was said is damaged.
    """
    from yaml import YAMLError

    from vae_lab import runs

    file = path / ".hydra" / "overrides.yaml"
    try:
        given = [str(each) for each in OmegaConf.load(file)] if file.exists() else []
    except YAMLError as error:
        raise DataError(f"{file} is damaged") from error
    given = [each for each in given if not each.startswith("hydra.") or each.startswith("hydra.searchpath=")]
    try:
        begun = compose("train", given)[0]
    except ConfigError:  # a part of the user's own that is not here, or one of another version
        return given
    changed = {
        change.key: change.new for change in runs.changes(begun, config) if change.key.startswith(runs.MAY_CHANGE)
    }
    kept = [each for each in given if each.partition("=")[0] not in changed]
    return kept + [f"{key}={said(value)}" for key, value in changed.items()]


def drawn(path: Path, config: DictConfig) -> Iterator[Shown]:
    """Yield the figures that the training has drawn, in the order of its configuration."""
    words = captions(config)
    names = [folder.name for folder in sorted((path / "figures").glob("*")) if folder.is_dir()]
    for name in sorted(names, key=lambda name: [*words].index(name) if name in words else len(words)):
        files = {file.stem.removeprefix("epoch-"): file for file in (path / "figures" / name).glob("epoch-*.png")}
        epochs = sorted((epoch for epoch in files if epoch.isdecimal()), key=int)
        pictures = [(files[epoch], f"epoch {int(epoch)}") for epoch in epochs]
        if pictures:
            last, earlier = picture(*pictures[-1]), [picture(*each) for each in spread(pictures[:-1], MOST_EARLIER)]
            yield Shown(name, words.get(name, ""), last, earlier, len(pictures) - 1)


def generated(path: Path, config: DictConfig) -> Iterator[Shown]:
    """Yield the figures that were made of the finished run."""
    words = captions(config)
    for file in sorted((path / "generated").glob("*")):
        if file.suffix in (".png", ".gif"):
            yield Shown(file.stem, words.get(file.stem, ""), picture(file, file.name))


def captions(config: DictConfig) -> dict[str, str]:
    """Return what to look for in each figure, those of the run first."""
    from vae_lab import runs

    described = {**config.callbacks, **compose("generate", ["run=."])[0].figures}
    classes = {key: runs.figure_class(config.callbacks.get(key) or each) for key, each in described.items()}
    return {
        described[key].get("name") or getattr(each, "name", key): each.look_for
        for key, each in classes.items()
        if each is not None
    }


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most so many items, evenly from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def picture(file: Path, words: str) -> Picture:
    """Return an image to be written into a page.

    Raises:
        DataError: where it is damaged.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.verify()
            width, height = image.size
        data = base64.b64encode(file.read_bytes()).decode()
    except (OSError, SyntaxError) as error:  # the second is Pillow's, of a broken PNG
        raise DataError(f"{file} is damaged: {error}") from error
    return Picture(words, f"data:image/{file.suffix[1:]};base64,{data}", width, height)


def class_rows(file: Path) -> Iterator[ClassRow]:
    """Yield the rows of a `class_mse.csv`; none without the file.

    Raises:
        DataError: where it is damaged.
    """
    if not file.exists():
        return
    try:
        with file.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        largest = max((float(row["mse"]) for row in rows if row["mse"]), default=0) or 1
        for row in rows:
            mse = float(row["mse"]) if row["mse"] else None
            share = None if mse is None else 100 * mse / largest
            yield ClassRow(row["name"], int(row["images"]), "n/a" if mse is None else f"{mse:.4g}", share)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{file} is damaged: it must hold class, name, images and mse") from error


def main() -> None:
    """Run the command line."""
    launch(lambda config, *_: run(config), "report")


if __name__ == "__main__":
    main()
