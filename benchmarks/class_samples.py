"""Classify samples of each class with a logistic regression on pixels: `python benchmarks/class_samples.py`.

The script trains `bernoulli_mlp` with 10 latent dimensions for 20 epochs, or loads an existing run (`--run`), and draws
samples of each class as in the `class_samples` figure. It prints the fraction of samples that the regression, which is
trained on real images only, assigns to their class.
"""

import argparse
import tempfile

import torch
from sklearn.linear_model import LogisticRegression

from vae_lab import figures, runs
from vae_lab.train import train
from vae_lab.view import View


def main() -> None:
    """Train or load a model, classify its samples and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="directory that contains MNIST/raw", default="data")
    parser.add_argument("--run", help="run directory of a run on MNIST to use instead of training")
    parser.add_argument("--each", type=int, default=200, help="number of samples per class")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.run is None:
            root = [f"data.root={options.root}", f"hydra.run.dir={folder}/run", f"seed={options.seed}"]
            trained = ["model=bernoulli_mlp", "latent_dim=10", "trainer.max_epochs=20", "data=mnist", "callbacks=none"]
            run = train([*trained, *root])
        else:
            run = runs.load(options.run)
    data = run.data
    data.setup()
    assert data.train is not None
    assert data.test is not None
    regression = LogisticRegression(max_iter=100, tol=1e-3)
    regression.fit(pixels(data.train.image / 255), data.train.label)
    print(f"test images: {regression.score(pixels(data.test.image / 255), data.test.label):.1%} told")
    view = View(run.module.vae, data, run.module.epoch)
    drawing = figures.ClassSamples(seed=options.seed)
    with view.undisturbed(drawing.seed):
        z, classes = drawing.sample(view, options.each)
        told = torch.from_numpy(regression.predict(pixels(view.decode(z).flatten(0, 1)))).view(len(classes), -1)
    right = (told == torch.tensor(classes).unsqueeze(1)).float().mean(1)
    for name, part in zip(classes, right.tolist(), strict=True):
        print(f"class {name}: {part:.1%}")
    print(f"class_samples: {right.mean():.1%} of {told.numel():,} images told, at least 80 % wanted")


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Return images (N, 1, 28, 28) as rows (N, 784)."""
    return images.flatten(1)


if __name__ == "__main__":
    main()
