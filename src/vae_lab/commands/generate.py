"""Draw figures for a run, or write samples."""

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
from vae_lab.errors import ConfigError, DataError, did_you_mean
from vae_lab.figures import ClassSamples, Figure, save, tiles
from vae_lab.files import replacing
from vae_lab.runs import build, build_each, directory, load
from vae_lab.view import View

log = logging.getLogger(__name__)

COMMON = ("labels", "n", "scale", "seed")  # options that apply to all figures that support them


def run(config: DictConfig, *_: object) -> list[Path]:
    found = Path(config.run)
    stored = directory.stored_config(found)
    # different data use the seed of the run, not that of the figures
    if OmegaConf.is_interpolation(config.data, "seed"):
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
    """Return the configurations of all figures by name: those from the command, and user-defined ones from the run."""
    described: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, each in config.figures.items():
        if each is not None:
            (described if OmegaConf.is_dict(each) and "_target_" in each else options)[name] = each
    for name, each in stored.callbacks.items():
        if build.class_of(each, Figure) and (name not in config.figures or name in options):
            described[name] = OmegaConf.merge(each, options.pop(name, {}))
    if options:
        raise ConfigError(f"figures.{min(options)}: unknown figure{did_you_mean(min(options), described)}")
    return described


def wanted(config: DictConfig, names: list[str]) -> tuple[list[str], bool]:
    """Return the names of the figures to draw, and whether the user named them explicitly."""
    figure = config.figure
    useless = [key for key in ("format", *COMMON) if config[key] is not None]
    if config.animate and useless:
        raise ConfigError(f"{useless[0]}={config[useless[0]]}: not supported with animate=true")
    if figure is None and config.format is not None:
        return [], False
    if figure is None or figure == "all":
        if not names:
            raise ConfigError("figures={}: must not be empty")
        return names, False
    chosen = list(figure) if OmegaConf.is_list(figure) else [figure]
    if not chosen:
        raise ConfigError("figure=[]: must name at least one figure")
    for name in chosen:
        if name not in names:
            raise ConfigError(f"figure={name}: unknown figure{did_you_mean(str(name), ['all', *names])}")
    return chosen, True


def figures(
    config: DictConfig, described: dict[str, DictConfig], by_name: bool, view: View, out: Path
) -> Iterator[Path]:
    """Draw figures and yield their files; raise a ConfigError if a figure named by the user does not fit the model."""
    out.mkdir(parents=True, exist_ok=True)
    drawings = build_each(OmegaConf.create({"figures": described}), "figures")
    for name, drawing in drawings.items():
        if not isinstance(drawing, Figure):
            raise ConfigError(
                f"figures.{name}._target_={described[name]._target_}: must derive from vae_lab.figures.Figure"
            )
    values: Any = OmegaConf.to_container(config)
    common = {key: values[key] for key in COMMON if values[key] is not None}
    useless = common.keys() - {key for drawing in drawings.values() for key in drawing.options(view)}
    if useless and drawings and config.format is None:
        key = min(useless)
        raise ConfigError(f"{key}={common[key]}: not an option of {', '.join(drawings)}")
    if not by_name:
        _ = view.label  # read the data, so that an error in them is not mistaken for a figure that does not fit
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
            log.warning("skipped %s: %s", name, reason)
            continue
        save(drawn, out / f"{name}.png")
        yield out / f"{name}.png"


def samples(config: DictConfig, view: View, out: Path) -> Iterator[Path]:
    """Write samples from the prior, or for the classes in `labels`, and yield the output file or directory.

    For a conditional model, z is sampled from p(z|c); if `labels` is null, the samples cycle through all classes. For
    any other model, `labels` selects classes, and z is sampled from a Gaussian fitted to each class.

    `samples.npz` contains the float32 arrays `z` (N, D), `mean` (N, C, H, W), which is E[x|z], and `sample`
    (N, C, H, W), which is drawn from p(x|z). If the samples have classes, it also contains `label` (N,). PNG files, one
    per image, are written to `samples/mean/` and `samples/sample/`.
    """
    if not view.has_density:
        raise ConfigError(f"format={config.format}: must be null for an autoencoder, which has no prior")
    count = config.n or 64
    with view.undisturbed(config.seed or 0), build.blame("labels"):
        labels = np.repeat(view.numbers(config.labels or []), count)  # (N,), empty without classes
        if view.is_conditional and not len(labels):
            labels = np.resize(view.label.unique().numpy(), count)
        context = view.context(labels.tolist())
        if config.labels is None or context is not None:
            z = view.prior_sample(len(labels) or count, context)
        else:
            samples_of_classes = ClassSamples(labels=list(config.labels))
            if reason := samples_of_classes.refuses(view):
                raise ValueError(f"cannot sample from a Gaussian fitted to a class: {reason}")
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
        for old in folder.glob("[0-9]*.png"):  # from earlier samples
            old.unlink()
        for number, (image, kind) in enumerate(zip(each, kinds, strict=True)):
            pixels = tiles(image[None, None], config.scale or 1)
            Image.fromarray(pixels).save(folder / f"{number:0{digits}d}{kind}.png")
    yield out / "samples"


def animations(folder: Path, names: Sequence[str], by_name: bool, out: Path) -> Iterator[Path]:
    """Create a GIF of each figure from the images drawn during training, and yield the files."""
    made = False
    for name in names:
        epochs = sorted((folder / name).glob("epoch-*.png"))
        if len(epochs) < 2:
            if by_name:
                raise DataError(
                    f"{folder / name}: too few images for an animation ({len(epochs)} found, 2 required); train with "
                    f"callbacks.{name}.every_n_epochs=1"
                )
            continue
        frames = []
        for epoch in epochs:
            try:
                frames.append(Image.open(epoch).convert("RGB"))
            except OSError as error:
                raise DataError(f"{epoch}: corrupt: {error}") from error
        size = (max(frame.width for frame in frames), max(frame.height for frame in frames))
        frames = [ImageOps.pad(frame, size, color="white", centering=(0, 0)) for frame in frames]
        times = [600] * (len(frames) - 1) + [2000]  # milliseconds; the last frame is shown longer
        out.mkdir(parents=True, exist_ok=True)
        with replacing(out / f"{name}.gif") as beside:
            frames[0].save(beside, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
        made = True
        yield out / f"{name}.gif"
    if not made:
        raise DataError(
            f"{folder}: contains no figure drawn in 2 or more epochs; train with "
            "callbacks.reconstructions.every_n_epochs=1"
        )
