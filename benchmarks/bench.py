"""Compare the speed of `train` with that of a bare PyTorch loop, in alternating epochs; run it with `make bench`.

    python benchmarks/bench.py --root data                      # all measurements, 20 minutes
    python benchmarks/bench.py mlp conv --root data --pairs 9   # two measurements, with more training runs

The script prints the results and adds them to a JSON file, from which `page.py` generates docs/benchmarks.md. If the
root directory does not contain MNIST, random images of the same shape are used.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import bare
import page
from in_turns import InTurns, Parts
from vae_lab.model import Batch
from vae_lab.runs.directory import revision
from vae_lab.train import train
from vae_lab.training import figures as drawing
from vae_lab.training.compiled import Compiled
from vae_lab.workarounds import onednn, variable

HERE = Path(__file__).resolve().parent
MLP = "model=bernoulli_mlp"
CONV = "model=bernoulli_conv encoder=conv_pooled decoder=conv_pooled data.batch_size=50"


@dataclass(frozen=True)
class Speed:
    """One comparison of vae_lab with the bare loop.

    Attributes:
        overrides: overrides for vae_lab.
        promised: largest allowed ratio of vae_lab's seconds to those of the bare loop.
        bare: options of `InTurns`.
        part: fraction of an epoch that is trained.
        warm_up: number of epochs at the start that are not measured.
        torchs_linear: whether to use torch's own linear layer, as on machines where oneDNN is not faster.
    """

    overrides: str
    promised: float
    bare: str = ""
    part: float = 1.0
    warm_up: int = 0
    torchs_linear: bool = False


SPEED = {
    "mlp": Speed(MLP, 1.05),
    "mlp, torch's linear layer": Speed(MLP, 1.05, part=0.5, torchs_linear=True),
    "dynamic": Speed(f"{MLP} data.binarize=dynamic", 1.05, "prepare: dynamic", part=0.5),
    "salt_and_pepper": Speed(f"{MLP} noise=salt_and_pepper", 1.05, "prepare: salt_and_pepper", part=0.5),
    "conv": Speed(CONV, 1.05, "model: Conv", part=0.3),
    "compiled": Speed(f"{MLP} compile=true", 0.80, part=0.5, warm_up=1),
    "bf16": Speed(f"{MLP} trainer.precision=bf16-mixed", 0.65, "bf16: true", part=0.5),
    "bf16, compiled": Speed(f"{MLP} trainer.precision=bf16-mixed compile=true", 0.65, part=0.5, warm_up=1),
}


def speed(row: Speed, root: Path, pairs: int, epochs: int, part: float = 1.0) -> dict[str, Any]:
    """Train `pairs` times for `epochs` epochs, alternating with the bare loop after each epoch."""
    measured: dict[str, list[float]] = {}
    warm_up = []
    for seed in range(pairs):
        overrides = [
            *row.overrides.split(),
            f"seed={seed}",
            f"trainer.max_epochs={epochs + row.warm_up}",
            f"trainer.limit_train_batches={row.part * part}",
            "trainer.enable_progress_bar=true",
            f"+callbacks.turns={{{', '.join(filter(None, ['_target_: in_turns.InTurns', row.bare]))}}}",
        ]
        with torchs_linear() if row.torchs_linear else silent():
            trained(overrides, root)
        for name, seconds in InTurns.seconds.items():
            measured[name] = measured.get(name, []) + seconds[row.warm_up :]
        warm_up.append(InTurns.seconds["train"][0])
    ratios, validation = (
        [ours / bares for ours, bares in zip(measured[name], measured[f"bare/{name}"], strict=True)]
        for name in ("train", "val")
    )
    ours = statistics.median(measured["train"])
    in_bf16 = zip(measured.get("bare bf16/train", []), measured["bare/train"], strict=False)
    return {
        "command": f"python -m vae_lab.train {row.overrides}",
        "ours": ours,
        "bare": statistics.median(measured["bare/train"]),
        "ratio": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "promised": row.promised,
        "validation": statistics.median(validation),
        "bare in bf16": statistics.median(a / b for a, b in in_bf16) if "bf16: true" in row.bare else None,
        "warm_up": max(warm_up) - ours if row.warm_up else None,
        "part": row.part * part,
        "pairs": pairs,
        "epochs": epochs,
    }


def start(root: Path, pairs: int) -> dict[str, Any]:
    """Compare the seconds to the end of the first step with a script that only has the same imports and a Trainer."""
    script = (
        "import time, torch, torchvision, pytorch_lightning\n"
        "pytorch_lightning.Trainer(logger=False, enable_checkpointing=False)\n"
        "print(time.time())"
    )
    ours, bares = [], []
    for _ in range(pairs):
        bares.append(until_printed([sys.executable, "-c", script]))
        with tempfile.TemporaryDirectory() as folder:
            first = "+callbacks.first={_target_: in_turns.FirstStep}"
            where = [f"data.root={root}", f"hydra.run.dir={folder}/run"]
            ours.append(until_printed([sys.executable, "-m", "vae_lab.train", MLP, *where, first]))
    from vae_lab.data import MNIST

    loading = []
    for _ in range(pairs):
        began = time.perf_counter()
        MNIST(root=root, shape=(1, 28, 28)).setup()
        loading.append(time.perf_counter() - began)
    return {
        "ours": statistics.median(ours),
        "imports": statistics.median(bares),
        "ratio": statistics.median(a / b for a, b in zip(ours, bares, strict=True)),
        "loading": statistics.median(loading),
    }


def growth(_: Path, pairs: int) -> dict[str, Any]:
    """Measure the seconds and memory per epoch with 1, 2, 4 and 8 times the images, and memory after 200 epochs."""
    small = ["encoder.hidden=[64]", "decoder.hidden=[64]", "data.val_fraction=0"]
    images, seconds, memory = 30_000, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for times in (1, 2, 4, 8):
            write_random_mnist(Path(folder) / str(times), images * times)
        turns: dict[int, list[list[float]]] = {1: [], 2: [], 4: [], 8: []}
        for _ in range(min(pairs, 2)):
            for times, found in turns.items():
                root, path = f"data.root={folder}/{times}", f"hydra.run.dir={folder}/run-{times}-{len(found)}"
                found += remembered([MLP, *small, root, path, "trainer.max_epochs=5"])[1:]
        for times, found in turns.items():
            memory[str(times)], seconds[str(times)] = (min(each) for each in zip(*found, strict=True))
        long = remembered([MLP, "data=digits", f"hydra.run.dir={folder}/long", "trainer.max_epochs=200"])
    return {
        "images": images,
        "seconds": seconds,
        "bytes": memory,
        "bytes of one image": 784,
        "long": {"bytes after epoch 1": long[0][0], "bytes after epoch 200": long[-1][0]},
    }


def parts(root: Path, _: int) -> dict[str, Any]:
    """Measure the phases of a step in microseconds, for several configurations of vae_lab and for the bare loop."""
    found = {}
    for name, option, prepare in (
        ("ours", [], silent),
        ("torch's linear layer", [], torchs_linear),
        ("compiled", ["compile=true"], silent),
        ("bf16", ["trainer.precision=bf16-mixed"], silent),
    ):
        with prepare():
            trained([MLP, *option, "trainer.max_epochs=2", "+callbacks.parts={_target_: in_turns.Parts}"], root)
        found[name], found["bare"] = Parts.medians("ours"), Parts.medians("bare")
    return found


def numbers(root: Path, _: int, epochs: int = 10, seeds: int = 3) -> dict[str, Any]:
    """Measure how much compilation changes a loss, and how much bfloat16 changes the test ELBO after ten epochs."""
    found: dict[str, list[float]] = {"float32": [], "bf16": []}
    for seed in range(seeds):
        for name, option in (("bf16", ["trainer.precision=bf16-mixed"]), ("float32", [])):
            with silent():
                run = trained([MLP, *option, f"seed={seed}", f"trainer.max_epochs={epochs}"], root)
            found[name].append(run.metrics["test/elbo"])
    torch.manual_seed(0)
    loop = bare.Bare(bare.MLP(), run.data.train.image)
    for _ in range(epochs):
        loop.train()
    module, differences = run.module, []
    compiled = Compiled(module.objective)
    for images in run.data.test.image.split(128)[:20]:
        x, _ = bare.threshold(images)
        losses = []
        for objective in (module.objective, compiled):
            torch.manual_seed(0)
            losses.append(objective(module.vae, Batch(x, x, torch.zeros(len(x))), 0)[0].item())
        differences.append(abs(losses[0] - losses[1]))
    return {
        "epochs": epochs,
        **found,
        "bare": loop.evaluate(run.data.test.image)["elbo"],
        "compiled changes a loss by": max(differences),
    }


def figures(root: Path, pairs: int, epochs: int = 20) -> dict[str, Any]:
    """Measure the seconds that each default figure adds to a training run, and the seconds without figures."""
    each: dict[str, list[float]] = {}
    shares, rest = [], []

    warned = drawing.warned

    @contextmanager
    def timed(name: str, epoch: int) -> Iterator[None]:
        began = time.perf_counter()
        with warned(name, epoch):
            yield
        seconds[name] = seconds.get(name, 0) + time.perf_counter() - began

    with patch.object(drawing, "warned", timed), silent():  # `warned` encloses all the work on a figure
        for seed in range(min(pairs, 3)):
            seconds: dict[str, float] = {}
            began = time.perf_counter()
            trained([MLP, "callbacks=default", f"seed={seed}", f"trainer.max_epochs={epochs}"], root)
            drawn = sum(seconds.values())
            rest.append(time.perf_counter() - began - drawn)
            shares.append(drawn / rest[-1])
            for name, found in seconds.items():
                each.setdefault(name, []).append(found)
    return {
        "epochs": epochs,
        "seconds": statistics.median(rest),
        "share": statistics.median(shares),
        "each": {name: statistics.median(found) for name, found in each.items()},
    }


# called with (root, pairs)
MORE = {"parts": parts, "start": start, "growth": growth, "numbers": numbers, "figures": figures}


def trained(overrides: list[str], root: Path) -> Any:
    """Train on MNIST in a temporary directory and return the run."""
    with tempfile.TemporaryDirectory() as folder:
        quick = ["callbacks=none", "data=mnist", f"data.root={root}", f"hydra.run.dir={folder}/run"]
        return train([*quick, *overrides])


def until_printed(command: list[str]) -> float:
    """Run a command that prints a time, and return the seconds from its start to that time."""
    began = time.time()
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=with_callbacks())
    return float(ended.stdout.split()[-1]) - began


def remembered(overrides: list[str]) -> list[list[float]]:
    """Train in a separate process, and return the memory in bytes and the seconds for each epoch."""
    memory = "+callbacks.memory={_target_: in_turns.Memory}"
    command = [sys.executable, "-m", "vae_lab.train", *overrides, "print_every=1000", memory]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=with_callbacks()).stdout
    return [list(map(float, line.split()[2:])) for line in said.splitlines() if line.startswith("memory ")]


def with_callbacks() -> dict[str, str]:
    """Return environment variables with which a process can import the callbacks in this directory."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}


@contextmanager
def silent() -> Iterator[None]:
    """Discard all output, including the progress bar."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@contextmanager
def torchs_linear() -> Iterator[None]:
    """Use torch's own linear layer, and discard all output."""
    before, onednn.FASTER = onednn.FASTER, False
    try:
        with silent():
            yield
    finally:
        onednn.FASTER = before


def write_random_mnist(root: Path, images: int) -> None:
    """Write files in the MNIST format with random images, the given number of them for training."""
    folder, random = root / "MNIST" / "raw", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name, count in (("train", images), ("t10k", 10_000)):
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            header = b"".join(number.to_bytes(4, "big") for number in (0x800 + len(shape), *shape))
            values = random.integers(0, 256 if len(shape) == 3 else 10, shape, dtype=np.uint8)
            (folder / f"{name}-{kind}-ubyte").write_bytes(header + values.tobytes())


def machine() -> dict[str, Any]:
    """Return a description of the machine."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), processor)
    return {
        "processor": processor,
        "onednn": onednn.FASTER and not torch.cuda.is_available(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Run the measurements, and print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"any of {', '.join([*SPEED, *MORE])}; all by default")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("VAE_LAB_DATA", "data")))
    parser.add_argument("--pairs", type=int, default=5, help="number of training runs per measurement")
    parser.add_argument("--epochs", type=int, default=3, help="number of epochs per training run")
    parser.add_argument("--part", type=float, default=1.0, help="fraction of each epoch to train, to save time")
    parser.add_argument("--json", type=Path, default=HERE / "results.json")
    options = parser.parse_args()
    wanted = options.what or [*SPEED, *MORE]
    unknown = [name for name in wanted if name not in (*SPEED, *MORE)]
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join([*SPEED, *MORE])}")
    results = json.loads(options.json.read_text()) if options.json.exists() else {}
    if results.get("machine") != (here := machine()):
        results = {"machine": here}
    with tempfile.TemporaryDirectory() as folder, variable("TORCHINDUCTOR_CACHE_DIR", f"{folder}/compiled"):
        root, images = options.root.absolute(), "MNIST"
        if not (root / "MNIST" / "raw").exists():
            root, images = Path(folder), "random images"
            write_random_mnist(root, 60_000)
        for name in wanted:
            if name in SPEED:
                found = speed(SPEED[name], root, options.pairs, options.epochs, options.part)
                results.setdefault("speed", {})[name] = found
            else:
                results[name] = found = MORE[name](root, options.pairs)
            found |= {"date": date.today().isoformat(), "revision": revision(), "data": images}
            print(f"{name}: {json.dumps(found)}", flush=True)
            options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(page.tables(results))


if __name__ == "__main__":
    main()
