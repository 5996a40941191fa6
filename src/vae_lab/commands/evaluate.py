"""Evaluate a run on its own data or on different data."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from vae_lab import runs
from vae_lab.cli.compose import fit_for_a_path
from vae_lab.cli.text import relative, table
from vae_lab.figures import ClassMse, save
from vae_lab.metrics import ClassMeans
from vae_lab.runs import directory
from vae_lab.training.figures import write_table
from vae_lab.workarounds import lightning

log = logging.getLogger(__name__)


def run(config: DictConfig, *_: object) -> dict[str, float]:
    found = Path(config.run)
    changed = bool(config.data) or config.seed is not None
    if config.seed is None:
        config.seed = directory.stored_config(found).seed
    OmegaConf.resolve(config)
    tested = runs.load(found, config.checkpoint, config.device, {"seed": config.seed, **config.data})
    out = Path(config.out) if config.out else found / folder(config, changed)
    with directory.writable(out):
        out.mkdir(parents=True, exist_ok=True)
    device = next(tested.module.parameters()).device
    precision = tested.config.trainer.get("precision")
    with lightning.quiet(), lightning.environment():
        trainer = pl.Trainer(
            accelerator=device.type,
            devices=1 if device.index is None else [device.index],
            # a CPU does not support 16-mixed
            precision=None if device.type == "cpu" and precision == "16-mixed" else precision,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
        )
        trainer.test(tested.module, tested.data, verbose=False)
    numbers = dict(tested.module.numbers)

    view, figure = replace(tested, module=tested.module.to(device)).view(), ClassMse()
    with trainer.precision_plugin.forward_context():
        classes, drawn = view.errors.classes, figure.draw(view)
    with directory.writable(out):
        write_table(out / "class_mse.csv", classes, view.class_names)
        save(drawn, out / "class_mse.png")
        used = OmegaConf.to_container(tested.config.data, resolve=True)
        settings = {"checkpoint": config.checkpoint, "epoch": tested.module.epoch, "data": used}
        directory.write_json(out / "metrics.json", {**numbers, **settings})
    log.info(table(numbers))
    log.info(class_table(classes, view.class_names))
    log.info("results: %s", relative(out))
    return numbers


def folder(config: DictConfig, changed: bool) -> str:
    """Return the directory name for an evaluation, which depends on the checkpoint, seed and data."""
    kind = str(config.data.get("_target_", "")).rpartition(".")[2].lower()
    given = json.dumps([config.seed, OmegaConf.to_container(config.data)], sort_keys=True)
    parts = ["evaluation", kind, "" if config.checkpoint == "best" else config.checkpoint]
    parts += [hashlib.sha256(given.encode()).hexdigest()[:8]] if changed else []
    return "-".join(fit_for_a_path(part) for part in parts if part)


def class_table(classes: ClassMeans, names: Sequence[str]) -> str:
    width = max(len(name) for name in (*names, "mean over classes")) + 2
    rows = [f"{'class':{width}}{'images':>10}{'mse':>12}"]
    for name, mse, images in zip(names, classes.mean.tolist(), classes.images.tolist(), strict=True):
        rows.append(f"{name:{width}}{images:>10}" + (f"{mse:12.6g}" if images else f"{'n/a':>12}"))
    rows.append(f"{'mean over classes':{width}}{'':10}{float(classes.mean.nanmean()):12.6g}")
    return "\n".join(rows)
