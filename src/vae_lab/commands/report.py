"""Write `report.html`, the report of a run; it is also written when training completes.

The report is a single self-contained file with embedded figures and no scripts.
"""

import base64
import csv
import io
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from vae_lab.cli.compose import compose, literal
from vae_lab.cli.text import relative
from vae_lab.errors import DataError
from vae_lab.figures import Figure
from vae_lab.files import replacing
from vae_lab.model import in_words
from vae_lab.runs import changes, directory
from vae_lab.runs.build import class_of
from vae_lab.training import loggers

log = logging.getLogger(__name__)

MOST_EARLIER = 4  # number of earlier images shown for each figure
MOST_BYTES = 4_500_000  # largest total size of the images in a report
LOSSLESS = 100_000  # size in bytes up to which images are embedded unchanged; larger ones are converted to WebP
LONGEST = 4000  # longest side of a converted image, in pixels


def run(config: DictConfig, *_: object) -> Path:
    file = write(Path(config.run), Path(config.out) if config.out else None)
    log.info("report: %s", relative(file))
    return file


def write(path: Path, file: Path | None = None) -> Path:
    """Write the report of the run whose directory is `path`, and return the report's path.

    Args:
        path: the run directory.
        file: the file to write; None for `report.html` in the run directory.

    Raises:
        DataError: if the directory is not a run directory, a file in it is corrupt, or the report cannot be written.
    """
    jinja = Environment(loader=PackageLoader("vae_lab"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = jinja.get_template("run.html").render(content(path))
    file = file or path / "report.html"
    with directory.writable(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as beside:
            beside.write_text(page, encoding="utf-8")
    return file


def content(path: Path) -> dict[str, Any]:
    """Return the variables for the template."""
    config, metrics = directory.stored_config(path), directory.read_json(path / "metrics.json")
    given, begun = directory.stored_overrides(path), directory.read_json(path / ".hydra" / "provenance.json")
    words, last_epoch = captions(path, config), {}
    if rows := loggers.read_curves(path / "metrics.csv"):
        last_epoch = {key: int(value) if key == "epoch" else float(value) for key, value in rows[-1].items() if value}
    own = {key: value for key, value in last_epoch.items() if key.startswith("train/") and loggers.is_special(key)}
    figures, generated = [*drawn(path, words)], [*generated_since(path, words)]
    fit([*figures, *generated])
    command = ["python", "-m", "vae_lab.train"]
    resume = f"resume={literal(str(relative(path)))}"
    return {
        "name": config.name,
        "model": title(config, begun),
        "ended": bool(metrics),
        "metrics": {**metrics, **own} if metrics else last_epoch,
        "center": begun.get("center", "posterior mean"),
        "given": given,
        "settings": list(settings(config)),
        "figures": figures,
        "generated": generated,
        "classes": class_rows(path / "class_mse.csv") if metrics else [],
        "command": shlex.join([*command, *again(path, given, config)]),
        "resume": shlex.join([*command, resume]) if (path / "checkpoints" / "last.ckpt").exists() else None,
        "made_with": metrics or begun,
        "begun_with": begun,
        "yaml": OmegaConf.to_yaml(config),
    }


def title(config: DictConfig, begun: Mapping[str, Any]) -> str:
    """Return a short description of a run: its model, as stored when the run started, and its data."""
    likelihood, encoder, data = (class_name(config[group]) for group in ("likelihood", "encoder", "data"))
    density = getattr(class_of(config.posterior), "has_density", True)  # a user-defined class may not be importable
    of_an_older_run = in_words(likelihood, encoder, "VAE", density, config.latent_dim)
    return f"{begun.get('model', of_an_older_run)}, {data}"


def class_name(part: Any) -> str:
    return str(part.get("_target_") or "").rpartition(".")[2]


@cache
def defaults() -> DictConfig:
    """Return the default configuration of `train`, cached because composing it takes a fifth of a second."""
    return compose("train", [])[0]


def settings(config: DictConfig) -> Iterator[tuple[str, str, str]]:
    """Yield the key, value and default for each value that differs from its default.

    A component that replaces the default component is listed in a single row with all its options. A value whose
    default is an interpolation of another key is omitted if it still equals the value of that key.
    """
    expressions, there = (dict(changes.flat(OmegaConf.to_container(each))) for each in (defaults(), config))
    found = changes.changes(defaults(), config)
    targets = [key.removesuffix("._target_") for key in found if key.endswith("._target_")]
    swapped = [each for each in targets if not any(each.startswith(f"{other}.") for other in targets)]
    for key, (old, new) in found.items():
        if any(key.startswith(f"{part}.") for part in swapped):
            continue
        if key not in there:
            yield key, "not set", literal(old)
        elif not follows(config, key, expressions.get(key)):
            yield key, literal(new), literal(old) if key in expressions else ""
    for part in swapped:
        now, before = (OmegaConf.select(each, part) or {} for each in (config, defaults()))
        values = [
            f"{key}={literal(value)}"
            for key, value in changes.flat(OmegaConf.to_container(now) if now else {})
            if value is not None and not key.rpartition(".")[2].startswith("_")
        ]
        yield part, " ".join([class_name(now) or "none", *values]), class_name(before)


def follows(config: DictConfig, key: str, default: Any) -> bool:
    """Return whether a value in a configuration equals a default that is an interpolation, such as `${seed}`."""
    if not isinstance(default, str) or "${" not in default:
        return False
    whole = OmegaConf.merge(config)
    OmegaConf.update(whole, key, default)
    return OmegaConf.select(whole, key) == OmegaConf.select(config, key)


def again(path: Path, given: Sequence[str], config: DictConfig) -> list[str]:
    """Return the overrides that reproduce a run: the original ones, updated with the changes made on resume."""
    file = path / ".hydra" / "config.yaml"
    begun = directory.read_yaml(file) if file.exists() else OmegaConf.create()
    before, after = (dict(changes.flat(OmegaConf.to_container(each, resolve=True))) for each in (begun, config))
    changed = {key: after[key] for key in before if key in after and before[key] != after[key]}
    keys = {each: each.partition("=")[0].lstrip("+") for each in given}
    plus = {key: each.partition(key)[0] for each, key in keys.items()}
    kept = [each for each in given if keys[each] not in changed]
    return kept + [f"{plus.get(key, '')}{key}={literal(value)}" for key, value in changed.items()]


def drawn(path: Path, words: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the figures drawn during training, in the order of `words`, each with its last and some earlier images."""
    names = [folder.name for folder in sorted((path / "figures").glob("*")) if folder.is_dir()]
    for name in sorted(names, key=lambda name: [*words].index(name) if name in words else len(words)):
        files = {file.stem.removeprefix("epoch-"): file for file in (path / "figures" / name).glob("epoch-*.png")}
        epochs = sorted((int(epoch), file) for epoch, file in files.items() if epoch.isdecimal())
        if epochs:
            count = len(epochs) - 1
            evenly = {round(place * (count - 1) / (MOST_EARLIER - 1)) for place in range(MOST_EARLIER)}
            chosen = [epochs[-1], *(epochs[place] for place in range(count) if place in evenly)]
            last, *earlier = (picture(file, f"epoch {epoch}") for epoch, file in chosen)
            look_for = words.get(name, "")
            yield {"name": name, "look_for": look_for, "last": last, "earlier": earlier, "earlier_count": count}


def generated_since(path: Path, words: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the figures that `generate` has drawn for the run."""
    for file in sorted((path / "generated").glob("*")):
        if file.suffix in (".png", ".gif"):
            last, look_for = picture(file, "drawn by generate"), words.get(file.stem, "")
            yield {"name": file.name, "look_for": look_for, "last": last, "earlier": [], "earlier_count": 0}


def fit(figures: Sequence[dict[str, Any]]) -> None:
    """Remove image data, starting with the earliest epochs, so that the total size is at most `MOST_BYTES`."""
    room = MOST_BYTES
    for each in [figure["last"] for figure in figures] + [each for figure in figures for each in figure["earlier"]]:
        each["data"] = each["data"] if len(each["data"]) <= room else ""
        room -= len(each["data"])


def captions(path: Path, config: DictConfig) -> dict[str, str]:
    """Return the `look_for` text of each figure, keyed by name. Figures in the run's configuration come first."""
    found: dict[str, str] = {}
    parts = [*config.callbacks.items()]
    if (path / "generated").exists():  # composing takes a tenth of a second
        parts += compose("generate", ["run=."])[0].figures.items()
    for key, described in parts:
        if figure := class_of(described, Figure):
            name = figure.model_fields["name"].default
            found.setdefault(described.get("name") or (name if isinstance(name, str) else key), figure.look_for)
    return found


def picture(file: Path, words: str) -> dict[str, Any]:
    """Return an image for the template: its description, its data URL and its size in pixels."""
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
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: broken PNG
        raise DataError(f"{file}: corrupt image") from error
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"words": words, "data": url, "width": width, "height": height}


def class_rows(file: Path) -> list[dict[str, Any]]:
    """Return `name`, `images` and `mse` for each class in `class_mse.csv`; `mse` is None for a class without images."""
    if not file.exists():
        return []
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            return [
                {"name": row["name"], "images": int(row["images"]), "mse": float(row["mse"]) if row["mse"] else None}
                for row in csv.DictReader(lines)
            ]
    except (KeyError, TypeError, ValueError, csv.Error) as error:  # ValueError: also if not UTF-8
        raise DataError(f"{file}: corrupt; expected columns class, name, images and mse") from error
