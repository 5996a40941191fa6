"""Draw figures of a finished run, or write samples."""

import logging
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from PIL import Image, ImageOps
from pydantic import ValidationError

from vae_lab.checks import in_one_line
from vae_lab.cli.compose import fit_for_a_path
from vae_lab.cli.text import relative
from vae_lab.errors import ConfigError, DataError
from vae_lab.figures import ClassSamples, Figure, save, tiles
from vae_lab.files import replacing
from vae_lab.runs import build, build_each, directory, load
from vae_lab.view import View

log = logging.getLogger(__name__)

COMMON = ("labels", "n", "scale", "seed")  # for every figure that has such an option


def run(config: DictConfig, *_: object) -> list[Path]:
    found = Path(config.run)
    stored = directory.stored_config(found)
    if OmegaConf.is_interpolation(config.data, "seed"):  # of other data: the run's, whatever the figures'
        config.data.seed = stored.seed
    OmegaConf.resolve(config)
    offered = known(config, stored)
    names, by_name = wanted(config, [*offered])
    out = Path(config.out) if config.out else found / "generated"
    if config.animate:
        written = animations(found / "figures", names, by_name, out)
    else:
        view = load(found, config.checkpoint, config.device, config.data).view()
        with build.blame("labels"):
            view.numbers(config.labels or [])
        drawn = figures(config, {name: offered[name] for name in names}, by_name, view, out)
        written = chain(drawn, samples(config, view, out) if config.format else ())
    files = []
    with directory.writable(out):
        for file in written:
            log.info("%s", relative(file))
            files.append(file)
    return files


def known(config: DictConfig, stored: DictConfig) -> dict[str, Any]:
    """Return the descriptions of all figures by name: ours, and those of the run that are not ours."""
    described: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, each in config.figures.items():
        if each is not None:
            (described if OmegaConf.is_dict(each) and "_target_" in each else options)[name] = each
    for name, each in stored.callbacks.items():
        if build.class_of(each, Figure) and (name not in config.figures or name in options):
            described[name] = OmegaConf.merge(each, options.pop(name, {}))
    if options:
        raise ConfigError(f"figures.{min(options)}: unknown figure; there are {', '.join(described)}")
    return described


def wanted(config: DictConfig, names: list[str]) -> tuple[list[str], bool]:
    """Return the names of the figures to draw, and whether they were asked for by name."""
    asked = config.figure
    useless = [key for key in ("format", *COMMON) if config[key] is not None]
    if config.animate and useless:
        raise ConfigError(f"animate=true makes GIFs of figures that are there, and has no use for {useless[0]}")
    if asked is None and config.format is not None:
        return [], False
    if asked is None or asked == "all":
        if not names:
            raise ConfigError("figures is empty, so there is nothing to draw")
        return names, False
    chosen = list(asked) if OmegaConf.is_list(asked) else [asked]
    for name in chosen or ["[]"]:
        if name not in names:
            raise ConfigError(f"figure={name} must be all, or of {', '.join(names)}")
    return chosen, True


def figures(
    config: DictConfig, described: dict[str, DictConfig], by_name: bool, view: View, out: Path
) -> Iterator[Path]:
    """Draw figures, and yield the file of each; what was not asked for by name is left out where it does not fit."""
    out.mkdir(parents=True, exist_ok=True)
    drawings = build_each(OmegaConf.create({"figures": described}), "figures")
    for name, drawing in drawings.items():
        if not isinstance(drawing, Figure):
            raise ConfigError(f"figures.{name}._target_={described[name]._target_} is no figure")
    values: Any = OmegaConf.to_container(config)
    common = {key: values[key] for key in COMMON if values[key] is not None}
    useless = common.keys() - {key for drawing in drawings.values() for key in drawing.options(view)}
    if useless and drawings and config.format is None:
        key = min(useless)
        raise ConfigError(f"{key}={common[key]} is an option of none of the figures {', '.join(drawings)}")
    if not by_name:
        _ = view.label  # reads the data: what is wrong with them leaves no figure out, but ends here
    for name, drawing in drawings.items():
        try:
            changed = drawing.changed(**{key: common[key] for key in common if key in drawing.options(view)})
            if reason := changed.refuses(view):
                if changed.quiet and not by_name:
                    continue
                raise ValueError(reason)
            changed.check(view)
            drawn = changed.draw(view)
        except ValueError as error:
            reason = in_one_line(error) if isinstance(error, ValidationError) else str(error)
            if by_name:
                raise ConfigError(f"figure={name}: {reason}") from error
            log.warning("left out: %s: %s", name, reason)
            continue
        save(drawn, out / f"{name}.png")
        yield out / f"{name}.png"


def samples(config: DictConfig, view: View, out: Path) -> Iterator[Path]:
    """Write samples from the prior, or of the classes in `labels`, and yield the file or the folder.

    Those of a class are from p(z|c) in a conditional model, which takes the classes in turn where none is given; in
    another model they are from the Gaussian of the class.

    `samples.npz` holds `z` (N, D), `mean` and `sample` (N, C, H, W), which are E[x|z] and one x ~ p(x|z), float32, and
    `label` (N,) where they are of classes. As PNGs they are `samples/mean/` and `samples/sample/`, a file an image.
    """
    if not view.has_density:
        raise ConfigError(f"format={config.format} needs a prior to draw from, and an autoencoder has none")
    count = config.n or 64
    with view.undisturbed(config.seed or 0), build.blame("labels"):
        labels = np.repeat(view.numbers(config.labels or []), count)  # (N,), empty where there is no class
        if view.is_conditional and not len(labels):
            labels = np.resize(view.label.unique().numpy(), count)
        context = view.context(labels.tolist())
        if config.labels is None or context is not None:
            z = view.prior_sample(len(labels) or count, context)
        else:
            samples_of_classes = ClassSamples(labels=list(config.labels))
            if reason := samples_of_classes.refuses(view):
                raise ValueError(f"samples of a class need its Gaussian: {reason}")
            z = samples_of_classes.sample(view, count)[0].flatten(0, 1)
        images = {"mean": view.decode(z, context), "sample": view.decode(z, context, sampled=True)}
    if config.format == "npz":
        arrays: dict[str, Any] = {"z": z, **images, **({"label": labels} if len(labels) else {})}
        with replacing(out / "samples.npz") as beside, beside.open("wb") as file:
            np.savez_compressed(file, **arrays)
        yield out / "samples.npz"
        return
    kinds = [f"-{fit_for_a_path(view.class_names[label])}" for label in labels] or [""] * len(z)
    digits = len(str(len(z) - 1))
    for name, each in images.items():
        folder = out / "samples" / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("[0-9]*.png"):  # of samples before
            old.unlink()
        for number, (image, kind) in enumerate(zip(each, kinds, strict=True)):
            pixels = tiles(image[None, None], config.scale or 1)
            Image.fromarray(pixels).save(folder / f"{number:0{digits}d}{kind}.png")
    yield out / "samples"


def animations(folder: Path, names: Sequence[str], by_name: bool, out: Path) -> Iterator[Path]:
    """Make a GIF of the figures of the epochs that a training has drawn, and yield the files."""
    made = False
    for name in names:
        epochs = sorted((folder / name).glob("epoch-*.png"))
        if len(epochs) < 2:
            if by_name:
                raise DataError(
                    f"{folder / name} holds {len(epochs)} figures, and an animation needs two: train with "
                    f"callbacks.{name}.every_n_epochs=1"
                )
            continue
        frames = []
        for epoch in epochs:
            try:
                frames.append(Image.open(epoch).convert("RGB"))
            except OSError as error:
                raise DataError(f"{epoch} is damaged: {error}") from error
        size = (max(frame.width for frame in frames), max(frame.height for frame in frames))
        frames = [ImageOps.pad(frame, size, color="white", centering=(0, 0)) for frame in frames]
        times = [600] * (len(frames) - 1) + [2000]  # milliseconds; the last stands a while
        out.mkdir(parents=True, exist_ok=True)
        with replacing(out / f"{name}.gif") as beside:
            frames[0].save(beside, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
        made = True
        yield out / f"{name}.gif"
    if not made:
        raise DataError(
            f"{folder} holds no figure of two epochs: train with callbacks.reconstructions.every_n_epochs=1"
        )
