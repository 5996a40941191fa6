"""The page of a run, made again: `python -m vae_lab.report run=outputs/vae/…` writes its `report.html`.

It is one file that needs nothing else: figures are inside it, and it has no script. A training makes it at its end.
"""

import base64
import csv
import io
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from vae_lab.commandline import compose, launch, literal, relative
from vae_lab.config import Report, check_values, part
from vae_lab.errors import ConfigError, DataError

log = logging.getLogger(__name__)

MOST_EARLIER = 4  # pictures of a figure that are shown beside the last
MOST_BYTES = 4_500_000  # of all pictures on a page
LOSSLESS = 100_000  # bytes of a picture that is written as it is; a larger one as WebP, which looks the same
LONGEST = 4000  # side of such a larger one, in pixels


class Setting(NamedTuple):
    """A value of a run's configuration that is not the default, or a part in another one's place with its values."""

    key: str
    value: str
    default: str


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
    earlier_count: int = 0


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
    check_values(config, Report)
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
    given, words = runs.stored_overrides(path), captions(config)
    figures, generated = fitting(list(drawn(path, words)), list(generated_since(path, words)))
    begun = runs.stored_provenance(path)
    return {
        "name": config.name,
        "model": title(config),
        "ended": bool(metrics),
        "metrics": metrics or last_epoch(path),
        "given": given,
        "settings": list(settings(config)),
        "figures": figures,
        "generated": generated,
        "classes": class_rows(path / "class_mse.csv") if metrics else [],
        "command": shlex.join(["python", "-m", "vae_lab.train", *again(path, given, config)]),
        "resume": resume(path),
        "made_with": metrics or begun,
        "begun_with": begun,
        "yaml": OmegaConf.to_yaml(config),
    }


def title(config: DictConfig) -> str:
    """Return what was trained in a few words: likelihood, network, kind, latent size, data."""
    from vae_lab.model import in_words

    likelihood, encoder, data = (class_name(config[group]) for group in ("likelihood", "encoder", "data"))
    try:
        density = part(config, "posterior").has_density
    except (ConfigError, AttributeError):  # a posterior of the user's own, which is not here
        density = True
    return f"{in_words(likelihood, encoder, density, config.latent_dim)}, {data}"


def class_name(part: Any) -> str:
    """Return the name of a part's class, empty for no part."""
    return str(part.get("_target_") or "").rpartition(".")[2]


def resume(path: Path) -> str | None:
    """Return the command that goes on with a run; None where it has no checkpoint yet."""
    if not (path / "checkpoints" / "last.ckpt").exists():
        return None
    return shlex.join(["python", "-m", "vae_lab.train", f"resume={literal(str(relative(path.absolute())))}"])


def last_epoch(path: Path) -> dict[str, Any]:
    """Return the numbers of the last epoch of a run that has not ended; none before the first."""
    from vae_lab import loggers

    rows = loggers.read_curves(path / "metrics.csv")
    last = {name: float(value) for name, value in rows[-1].items() if value} if rows else {}
    return {name: int(value) if name in ("epoch", "step") else value for name, value in last.items()}


def settings(config: DictConfig) -> Iterator[Setting]:
    """Yield what differs from the defaults; a value that follows another one of the run's does not.

    A part that stands in the place of another is one setting, with all of its values.
    """
    from vae_lab import runs

    defaults = compose("train", [])[0]
    plain: Any = OmegaConf.to_container(defaults)
    expressions, there = dict(runs.flat(plain)), dict(runs.flat(OmegaConf.to_container(config)))
    found = {change.key: change for change in runs.changes(defaults, config)}
    targets = [key.removesuffix("._target_") for key in found if key.endswith("._target_")]
    swapped = [each for each in targets if not any(each.startswith(f"{other}.") for other in targets)]
    for key, change in found.items():
        part = next((part for part in swapped if key.startswith(f"{part}.")), None)
        if part is None and key not in there:
            yield Setting(key, "not there", literal(change.old))
        elif part is None and not follows(config, key, expressions.get(key)):
            yield Setting(key, literal(change.new), literal(change.old) if key in expressions else "")
    for part in swapped:
        now, before = (OmegaConf.select(each, part) for each in (config, defaults))
        values = [
            f"{key}={literal(value)}"
            for key, value in runs.flat(OmegaConf.to_container(now) if now else {})
            if value is not None and not key.rpartition(".")[2].startswith("_")
        ]
        yield Setting(part, " ".join([class_name(now or {}) or "none", *values]), class_name(before or {}))


def follows(config: DictConfig, key: str, default: Any) -> bool:
    """Tell whether a value is what the default, an expression such as `${seed}`, comes to in a configuration."""
    if not isinstance(default, str) or "${" not in default:
        return False
    whole = OmegaConf.merge(config)
    OmegaConf.update(whole, key, default)
    return OmegaConf.select(whole, key) == OmegaConf.select(config, key)


def again(path: Path, given: Sequence[str], config: DictConfig) -> list[str]:
    """Return what makes the same training again: what was said, and what has changed since, when it went on.

    Raises:
        DataError: where what it began with is damaged.
    """
    from vae_lab import runs

    file = path / ".hydra" / "config.yaml"
    begun = runs.read_yaml(file) if file.exists() else OmegaConf.create()
    before, after = (dict(runs.flat(OmegaConf.to_container(each, resolve=True))) for each in (begun, config))
    changed = {key: after[key] for key in before if key in after and before[key] != after[key]}
    keys = {each: each.partition("=")[0].lstrip("+") for each in given}
    plus = {key: "+" * each.count("+", 0, each.index(key)) for each, key in keys.items()}
    kept = [each for each in given if keys[each] not in changed]
    return kept + [f"{plus.get(key, '')}{key}={literal(value)}" for key, value in changed.items()]


def drawn(path: Path, words: Mapping[str, str]) -> Iterator[Shown]:
    """Yield the figures that the training has drawn, in the order of `words`."""
    names = [folder.name for folder in sorted((path / "figures").glob("*")) if folder.is_dir()]
    for name in sorted(names, key=lambda name: [*words].index(name) if name in words else len(words)):
        files = {file.stem.removeprefix("epoch-"): file for file in (path / "figures" / name).glob("epoch-*.png")}
        epochs = sorted((epoch for epoch in files if epoch.isdecimal()), key=int)
        pictures = [(files[epoch], f"epoch {int(epoch)}") for epoch in epochs]
        if pictures:
            last, earlier = picture(*pictures[-1]), [picture(*each) for each in spread(pictures[:-1], MOST_EARLIER)]
            yield Shown(name, words.get(name, ""), last, earlier, len(pictures) - 1)


def generated_since(path: Path, words: Mapping[str, str]) -> Iterator[Shown]:
    """Yield the figures that were made of the finished run."""
    for file in sorted((path / "generated").glob("*")):
        if file.suffix in (".png", ".gif"):
            yield Shown(file.name, words.get(file.stem, ""), picture(file, "of the finished run"))


def fitting(figures: Sequence[Shown], generated: Sequence[Shown]) -> tuple[list[Shown], list[Shown]]:
    """Return the same without the pictures that the page has no room for: the earlier ones are the first to go."""
    room = MOST_BYTES

    def fit(picture: Picture) -> Picture:
        nonlocal room
        if len(picture.data) > room:
            return picture._replace(data="")
        room -= len(picture.data)
        return picture

    figures = [each._replace(last=fit(each.last)) for each in figures]
    generated = [each._replace(last=fit(each.last)) for each in generated]
    return [each._replace(earlier=[one for one in map(fit, each.earlier) if one.data]) for each in figures], generated


def captions(config: DictConfig) -> dict[str, str]:
    """Return what to look for in each figure, those of the run first and in their order."""
    from vae_lab import runs

    found: dict[str, str] = {}
    for key, described in [*config.callbacks.items(), *compose("generate", ["run=."])[0].figures.items()]:
        figure = runs.figure_class(described)
        if figure is not None:
            found.setdefault(described.get("name") or getattr(figure, "name", key), figure.look_for)
    return found


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
        data, kind = file.read_bytes(), file.suffix[1:]
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            width, height = image.size
            if kind == "png" and len(data) > LOSSLESS:
                smaller, kind, colors = io.BytesIO(), "webp", image.convert("RGB")
                colors.thumbnail((LONGEST, LONGEST))
                colors.save(smaller, "WEBP", quality=90, method=2)
                data, (width, height) = smaller.getvalue(), colors.size
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # the second is of a broken PNG
        raise DataError(f"{file} is damaged: it is no picture that can be read") from error
    return Picture(words, f"data:image/{kind};base64,{base64.b64encode(data).decode()}", width, height)


def class_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a `class_mse.csv`: name, images, mse; `mse` is None for a class without images.

    Raises:
        DataError: where the file is damaged.
    """
    if not file.exists():
        return []
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            return [
                {"name": row["name"], "images": int(row["images"]), "mse": float(row["mse"]) if row["mse"] else None}
                for row in csv.DictReader(lines)
            ]
    except (KeyError, TypeError, ValueError, csv.Error) as error:  # the third is that of bytes that are no UTF-8, too
        raise DataError(f"{file} is damaged: it must hold class, name, images and mse") from error


def main() -> None:
    """Run the command line."""
    launch(lambda config, *_: run(config), "report")


if __name__ == "__main__":
    main()
