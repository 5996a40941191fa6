"""Hold `vae_lab.train` to `plain_vae.py`, in turns: the test ELBO, and the seconds of an epoch's training steps.

python benchmarks/against_plain.py --root data --epochs 10 --pairs 1    # the numbers
python benchmarks/against_plain.py --root data --epochs 3 --pairs 5     # the speed
"""

import argparse
import csv
import statistics
import tempfile
from pathlib import Path

import plain_vae
from vae_lab.train import train


def ours(root: str, epochs: int, seed: int) -> dict[str, float]:
    """Train the same model by vae_lab; returns the same numbers."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["model=bernoulli_mlp", "latent_dim=20", "data=mnist", f"data.root={root}", f"seed={seed}"]
        run = train([*overrides, f"trainer.max_epochs={epochs}", f"hydra.run.dir={folder}/run"])
        with (run.path / "metrics.csv").open(newline="") as file:
            seconds = statistics.median(float(row["train/seconds"]) for row in csv.DictReader(file))
    return {**{name: value for name, value in run.metrics.items() if name.startswith("test/")}, "seconds": seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="vae_lab against plain PyTorch")
    parser.add_argument("--root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=1)
    options = parser.parse_args()
    root, ratios = str(Path(options.root).absolute()), []
    sides = {"plain": plain_vae.run, "vae_lab": ours}
    for seed in range(options.pairs):
        results = {}
        for side in sorted(sides, reverse=seed % 2 == 1):  # in turns: whoever comes first may find a cooler machine
            results[side] = sides[side](root, options.epochs, seed)
        plain, mine = results["plain"], results["vae_lab"]
        print(f"seed {seed}                     plain      vae_lab")
        for name in plain:
            print(f"  {name:20} {plain[name]:12.6g} {mine[name]:12.6g}")
        ratios.append(mine["seconds"] / plain["seconds"])
    print(f"seconds, vae_lab / plain: median {statistics.median(ratios):.3f} of {[round(r, 3) for r in ratios]}")
