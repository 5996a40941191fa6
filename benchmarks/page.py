"""Write docs/benchmarks.md from the results of `bench.py`: `python benchmarks/page.py`."""

import json
from pathlib import Path
from statistics import mean
from textwrap import fill
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"

INTRODUCTION = """\
# Benchmarks

This page is generated from `benchmarks/results.json`. `make bench` measures the most important rows on your machine and
generates the page in a few minutes; `make bench ROWS=` measures all rows in about twenty minutes. Rows in which vae_lab
is slower are included.

**Measured on** {machine}; {when}, {revisions}, {data}.

The baseline is a bare PyTorch loop ([benchmarks/bare.py](../benchmarks/bare.py)) that uses neither vae_lab nor
Lightning nor torch.distributions. It starts with the same weights and uses the same number of threads. It keeps 54,000
images in memory as bytes, with a random permutation for each epoch and one indexing call for each batch, and uses the
KL in closed form, `binary_cross_entropy_with_logits` and fused Adam. It is compared with the ordinary `train`,
including curves, checkpoints, checks and a progress bar whose output is discarded. Both run in one process and
alternate after each epoch. Each ratio is the median over all epochs.
"""

MORE = ("parts", "start", "growth", "numbers", "figures")

SPEED = """\
## Seconds per epoch

{table}

A ratio below 1 means that vae_lab is faster than the bare loop, which always runs in float32 without compilation. `mlp`
is 784-500-500-2·20 with a mirrored decoder and batches of 128; `conv` is `conv_pooled` with batches of 50. "Validation"
is the ratio for the 6,000 validation images. The promised value is the largest acceptable ratio.{more}
"""

FASTER = """
The speed-up comes from the linear layers. On a CPU, torch multiplies float32 matrices with MKL, which does not use the
AVX-512 instructions of AMD processors. On these processors, vae_lab uses oneDNN instead
([onednn.py](../src/vae_lab/workarounds/onednn.py)); on all others, it uses torch's linear layer, as in the row "torch's
linear layer". All other float32 rows include this speed-up. `conv` also benefits from convolutions in the
`channels_last` memory format, which the bare loop does not use.
"""

PARTS = """\
## Time per step

The table shows the median time in microseconds for the phases of a step of `mlp`. The phases are separated at
Lightning's hooks, so each includes a small part of Lightning's loop. "Batch" is the time from the end of one step to
the start of the next. "Rest" is the time between the other phases: the loop and hooks, the sums for the curves, and
setting gradients to `None`, which the bare loop does in "backward".

{table}
"""

START = """\
## Start

The command reaches the end of the first step after {ours:.1f} s. This is {ratio:.2f} times the {imports:.1f} s that a
script needs to import torch, torchvision and pytorch_lightning and to create a Trainer (promised: at most 1.25,
{start_kept}). It includes {loading:.2f} s for reading and splitting MNIST (promised: at most 0.3 s, {loading_kept}).
"""

GROWTH = """\
## Growth

{table}

The table shows the time for the fastest epoch with a small network, and the smallest amount of memory in use after an
epoch, with 1, 2, 4 and 8 times {images:,} images of 784 bytes (promised: time per image within 10%, {epochs_kept}).
Over 200 epochs on `data=digits`, memory use changes from {first:.0f} to {last:.0f} MB ({change:+.1%}; promised: at
most 2%, {memory_kept}).
"""

NUMBERS = """\
## Equal results

With the same weights and random numbers, compilation changes the loss for a batch by at most {compiled:.1e} nats
(promised: at most 1e-4, {compiled_kept}). Rounding errors grow over thousands of steps, until two training runs differ
as much as two runs with different seeds.

The test ELBO of `mlp` for the best of {epochs} epochs, with seeds 0, 1, …, is {float32} nats in float32 and {bf16} nats
with `trainer.precision=bf16-mixed`. The means differ by {difference:+.2f} nats (promised: at most 0.5,
{bf16_kept}). The bare loop, which uses different random numbers, reaches {bare:.2f} nats after the last epoch.
"""

FIGURES = """\
## Figures

Training `mlp` for {epochs} epochs takes {seconds:.0f} s without figures. The default figures (`callbacks=default`) add
{drawn:.1f} s, or {share:.1%} (promised: at most 5%, {share_kept}). All other measurements on this page are without
figures. The table shows medians over the seeds, measured during training from the start of drawing a figure until its
file is written.

{table}
"""


def tables(results: dict[str, Any]) -> str:
    """Return the page, without sections for missing measurements."""
    machine = results["machine"]
    device = (
        machine["accelerator"] or f"{machine['processor']}, {machine['threads']} threads, {machine['instructions']}"
    )
    made_with = f"{machine['system']}, Python {machine['python']}, torch {machine['torch']}"
    entries = [*results.get("speed", {}).values(), *(results[name] for name in MORE if name in results)]
    when, revisions, data = (
        ", ".join(sorted({str(entry[key]) for entry in entries})) for key in ("date", "revision", "data")
    )
    revisions = f"revision{'s' if ', ' in revisions else ''} {revisions}"
    sections = [INTRODUCTION.format(machine=f"{device}; {made_with}", when=when, data=data, revisions=revisions)]
    if "speed" in results:
        sections.append(speed(results["speed"]))
        if machine["onednn"]:
            sections[-1] += FASTER
    if "parts" in results:
        sections.append(PARTS.format(table=parts(results["parts"])))
    if "start" in results:
        found = results["start"]
        more = {"start_kept": kept(found["ratio"] <= 1.25), "loading_kept": kept(found["loading"] <= 0.3)}
        sections.append(START.format(**found, **more))
    if "growth" in results:
        sections.append(growth(results["growth"]))
    if "numbers" in results:
        sections.append(numbers(results["numbers"]))
    if "figures" in results:
        sections.append(figures(results["figures"]))
    blocks = "\n".join(sections).rstrip().split("\n\n")
    lines = {"width": 120, "break_long_words": False, "break_on_hyphens": False}
    return "\n\n".join(block if block.startswith(("#", "|")) else fill(block, **lines) for block in blocks) + "\n"


def kept(holds: bool) -> str:
    """Return whether a promise is kept, in words."""
    return "kept" if holds else "**not kept**"


def speed(rows: dict[str, dict[str, Any]]) -> str:
    """Return the section on the seconds per epoch."""
    cells = [
        (
            f"{name}<br>`{row['command'].removeprefix('python -m vae_lab.train ')}`",
            f"{row['ours']:.2f}",
            f"{row['bare']:.2f}",
            f"**{row['ratio']:.2f}** ({row['range'][0]:.2f} to {row['range'][1]:.2f})",
            f"{row['promised']:.2f}, {kept(row['ratio'] <= row['promised'])}",
            f"{row['validation']:.2f}, {kept(row['validation'] <= 1.1)}",
            f"{row['pairs']} × {row['epochs']}" + ("" if row["part"] == 1 else f", {row['part']:.0%} of the images"),
        )
        for name, row in rows.items()
    ]
    heads = ("", "vae_lab", "bare loop", "ratio (range)", "promised", "validation (promised: 1.10)", "epochs")
    waited = [f'{row["warm_up"]:.0f} s for "{name}"' for name, row in rows.items() if row["warm_up"] is not None]
    warm_up = f" Compilation takes {' and '.join(waited)}; the epoch that includes it is excluded." if waited else ""
    in_bf16 = [row["bare in bf16"] for row in rows.values() if row["bare in bf16"] is not None]
    bf16 = f" In bfloat16, the bare loop takes {in_bf16[0]:.2f} times as long as in float32." if in_bf16 else ""
    return SPEED.format(table=table(heads, cells), more=bf16 + warm_up)


def parts(found: dict[str, dict[str, float]]) -> str:
    """Return the table for the phases of a step."""
    names = ["batch", "forward", "backward", "optimizer", "rest"]
    owners = {
        "bare": "bare loop",
        "ours": "vae_lab",
        "torch's linear layer": "with torch's linear layer",
        "compiled": "compiled",
        "bf16": "bf16",
    }
    cells = [(name, *(f"{found[owner].get(name, 0):.0f}" for owner in owners)) for name in names]
    cells.append(("total", *(f"{sum(found[owner].values()):.0f}" for owner in owners)))
    return table(("", *owners.values()), cells)


def growth(found: dict[str, Any]) -> str:
    """Return the section on growth."""
    seconds, memory, images = found["seconds"], found["bytes"], found["images"]
    cells = []
    for times in seconds:
        more = (memory[times] - memory["1"]) / 1e6
        images_take = (int(times) - 1) * images * found["bytes of one image"] / 1e6
        cells.append(
            (
                f"{times}×",
                f"{seconds[times]:.2f} s",
                f"{seconds[times] / seconds['1'] / int(times):.2f}",
                f"{memory[times] / 1e6:.0f} MB",
                f"{more:.0f} MB",
                f"{images_take:.0f} MB",
            )
        )
    heads = ("images", "epoch", "time per image, relative", "memory", "increase", "increase in image bytes")
    first, last = (found["long"][f"bytes after epoch {epoch}"] / 1e6 for epoch in (1, 200))
    even = all(abs(seconds[times] / seconds["1"] / int(times) - 1) <= 0.1 for times in seconds)
    return GROWTH.format(
        table=table(heads, cells),
        images=images,
        epochs_kept=kept(even),
        first=first,
        last=last,
        change=last / first - 1,
        memory_kept=kept(last / first <= 1.02),
    )


def numbers(found: dict[str, Any]) -> str:
    """Return the section on equal results."""
    difference = mean(found["bf16"]) - mean(found["float32"])
    return NUMBERS.format(
        compiled=found["compiled changes a loss by"],
        compiled_kept=kept(found["compiled changes a loss by"] <= 1e-4),
        epochs=found["epochs"],
        **{name: ", ".join(f"{elbo:.2f}" for elbo in found[name]) for name in ("float32", "bf16")},
        difference=difference,
        bf16_kept=kept(abs(difference) <= 0.5),
        bare=found["bare"],
    )


def figures(found: dict[str, Any]) -> str:
    """Return the section on the time that figures take."""
    rows = sorted(found["each"].items(), key=lambda row: -row[1])
    return FIGURES.format(
        epochs=found["epochs"],
        seconds=found["seconds"],
        drawn=sum(found["each"].values()),
        share=found["share"],
        share_kept=kept(found["share"] <= 0.05),
        table=table(("figure", "total seconds"), [(f"`{name}`", f"{seconds:.2f}") for name, seconds in rows]),
    )


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table with the first column left-aligned and the others right-aligned."""
    lines = [heads, ("---", *["---:"] * (len(heads) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(tables(json.loads((HERE / "results.json").read_text())))
    print(f"{PAGE.relative_to(HERE.parent)} has been written")
