"""Draw figures of a finished run, or write samples: `python -m vae_lab.generate run=outputs/vae/… figure=samples`."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vae_lab.commandline import compose, fit_for_a_path, launch, relative
from vae_lab.config import Generate, check_values
from vae_lab.errors import ConfigError, DataError

if TYPE_CHECKING:  # heavy, and not for --help
    from vae_lab.callbacks import Drawing
    from vae_lab.view import View

log = logging.getLogger(__name__)

COMMON = ("labels", "n", "scale", "seed")  # for every figure that has such an option


def generate(overrides: Sequence[str] = ()) -> list[Path]:
    """Do as the command line does, and return the files that were written.

    Args:
        overrides: what would stand on the command line, such as `["run=outputs/vae/…", "figure=[samples,manifold]"]`.

    Raises:
        ConfigError: for a value that cannot work, or a figure that does not fit the model.
        DataError: where the run, its checkpoint or its data are missing or damaged.
    """
    return run(compose("generate", overrides)[0])


def run(config: DictConfig) -> list[Path]:
    """Write what a configuration asks for, and return the files."""
    check_values(config, Generate)
    names, by_name = wanted(config)

    from vae_lab import runs
    from vae_lab.view import View

    found = Path(config.run)
    if OmegaConf.is_interpolation(config.data, "seed"):  # of other data: the run's, whatever the figures'
        config.data.seed = runs.stored_config(found).seed
    OmegaConf.resolve(config)
    out = Path(config.out) if config.out else found / "generated"
    if config.animate:
        runs.stored_config(found)  # or it is no run
        with runs.writable(out):
            return [said(file) for file in animations(found / "figures", names, by_name, out)]
    made = runs.load(found, config.checkpoint, config.device, config.data)
    view = View(made.module.vae, made.data, made.module.epoch, found)
    with runs.blame("labels"):
        view.numbers(config.labels or [])
    with runs.writable(out):
        out.mkdir(parents=True, exist_ok=True)
        files = [said(file) for file in figures(config, names, by_name, view, out)]
        return files + ([] if config.format is None else [said(samples(config, view, out))])


def wanted(config: DictConfig) -> tuple[list[str], bool]:
    """Return the names of the figures, and whether they were asked for by name.

    Raises:
        ConfigError: for one that there is not.
    """
    there = [name for name, options in config.figures.items() if options is not None]
    asked = config.figure
    useless = [key for key in ("format", *COMMON) if config[key] is not None]
    if config.animate and useless:
        raise ConfigError(f"animate=true makes GIFs of figures that are there, and has no use for {useless[0]}")
    if asked is None and config.format is not None:
        return [], False
    if asked is None or asked == "all":
        if not there:
            raise ConfigError("figures is empty, so there is nothing to draw")
        return there, False
    names = list(asked) if OmegaConf.is_list(asked) else [asked]
    for name in names or ["[]"]:
        if name not in there:
            raise ConfigError(f"figure={name} must be all, or of {', '.join(there)}")
    return names, True


def figures(config: DictConfig, names: Sequence[str], by_name: bool, view: "View", out: Path) -> Iterator[Path]:
    """Draw figures, and yield the file of each; what was not asked for by name is left out where it does not fit.

    Raises:
        ConfigError: for a figure that was asked for by name and does not fit, or an option that none of them has.
    """
    from vae_lab.callbacks import write

    drawings = {name: described(config, name) for name in names}
    common = {key: config[key] for key in COMMON if config[key] is not None}
    taken = {name: {key for key in common if hasattr(drawing, key)} for name, drawing in drawings.items()}
    useless = common.keys() - set().union(*taken.values())
    if useless and drawings and config.format is None:
        raise ConfigError(
            f"{min(useless)}={common[min(useless)]} is an option of none of the figures {', '.join(names)}"
        )
    if not by_name:
        assert view.test is not None  # read, so that none is left out for want of data
    for name, drawing in drawings.items():
        try:
            changed = replace(drawing, **{key: common[key] for key in taken[name]})
            reason = changed.refuses(view)
            if reason is not None:
                raise ValueError(reason)
            changed.check(view)
            figure = changed.draw(view)
        except ValueError as error:
            if by_name:
                raise ConfigError(f"figure={name}: {error}") from error
            log.warning("left out: %s: %s", name, error)
            continue
        write(figure, out / f"{name}.png")
        yield out / f"{name}.png"


def described(config: DictConfig, name: str) -> "Drawing":
    """Return what draws a figure, as its own options describe it.

    Raises:
        ConfigError: where they do not describe a figure.
    """
    from vae_lab import callbacks, runs

    drawing = runs.build_each(OmegaConf.create({"figures": {name: config.figures[name]}}), "figures")[name]
    if not isinstance(drawing, callbacks.Drawing):
        raise ConfigError(f"figures.{name}._target_={config.figures[name]._target_} is no figure")
    return drawing


def samples(config: DictConfig, view: "View", out: Path) -> Path:
    """Write samples from the prior, or of the classes in `labels`, and return the file or the folder.

    `samples.npz` holds `z` (N, D), `mean` and `sample` (N, C, H, W), which are E[x|z] and one x ~ p(x|z), float32, and
    `label` (N,) where classes were asked for. As PNGs they are `samples/mean/` and `samples/sample/`, a file an image.

    Raises:
        ConfigError: for an autoencoder, which has no prior.
    """
    import numpy as np
    import torch
    from PIL import Image

    from vae_lab import callbacks, runs
    from vae_lab.figures import tiles
    from vae_lab.files import replacing

    if not view.has_density:
        raise ConfigError(f"format={config.format} needs a prior to draw from, and an autoencoder has none")
    count, labels = config.n or 64, None
    with view.undisturbed(config.seed or 0), runs.blame("labels"):
        if config.labels is None:
            z = view.prior_sample(count)
        else:
            chosen, classes = callbacks.ClassSamples(labels=config.labels).sample(view, count)
            z, labels = chosen.flatten(0, 1), torch.tensor(classes).repeat_interleave(count)
        images = {"mean": view.decode(z), "sample": view.decode(z, sampled=True)}
    if config.format == "npz":
        arrays: dict[str, Any] = {"z": z.numpy(), **{name: each.numpy() for name, each in images.items()}}
        if labels is not None:
            arrays["label"] = labels.numpy()
        with replacing(out / "samples.npz") as beside, beside.open("wb") as file:
            np.savez_compressed(file, **arrays)
        return out / "samples.npz"
    names = view.class_names if labels is not None else []
    kinds = [""] * len(z) if labels is None else [f"-{fit_for_a_path(names[label])}" for label in labels]
    digits = len(str(len(z) - 1))
    for name, each in images.items():
        folder = out / "samples" / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("[0-9]*.png"):  # of samples before
            old.unlink()
        for number, (image, kind) in enumerate(zip(each, kinds, strict=True)):
            pixels = tiles(image[None, None], config.scale or 1)
            Image.fromarray(pixels).save(folder / f"{number:0{digits}d}{kind}.png")
    return out / "samples"


def animations(folder: Path, names: Sequence[str], by_name: bool, out: Path) -> Iterator[Path]:
    """Make a GIF of the figures of the epochs that a training has drawn, and yield the files.

    Raises:
        DataError: where a figure that was asked for by name, or every one, is there for fewer than two epochs.
    """
    from PIL import Image, ImageOps

    from vae_lab.files import replacing

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


def said(file: Path) -> Path:
    """Return a path, after telling it to the user."""
    log.info("%s", relative(file.absolute()))
    return file


def main() -> None:
    """Run the command line."""
    launch(lambda config, *_: run(config), "generate")


if __name__ == "__main__":
    main()
