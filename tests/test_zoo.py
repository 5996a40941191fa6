"""What users add lives a whole life by the command line's arguments alone; vae_lab knows nothing of it.

It is the files of `zoo/`, and those that docs/extending.md shows.
"""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn.functional import one_hot

from conftest import ROOT
from test_drawing import bytes_of, cut, words
from vae_lab import figures, runs
from vae_lab.errors import ConfigError
from vae_lab.evaluate import evaluate
from vae_lab.generate import generate
from vae_lab.objectives import Elbo
from vae_lab.priors import StandardNormal
from vae_lab.report import report
from vae_lab.runs import Run
from vae_lab.train import train
from zoo.models import TwoLayers

SMALL = ["data=digits", "latent_dim=4", "encoder.hidden=[32]", "decoder.hidden=[32]", "callbacks=none"]
DEFAULT = {"class_mse", "class_samples", "curves", "interpolation", "latent_bars", "latent_map", "manifold"}
DEFAULT |= {"reconstructions", "samples", "traversals"}


class Case(NamedTuple):
    """A model of a user's.

    Attributes:
        options: that choose it.
        left_out: default figures that make no sense for it, each with its reason.
        drawn: figures that only such a model has.
        terms: numbers that only such a model has.
        center: what stands for a posterior.
    """

    options: Sequence[str]
    left_out: dict[str, str] = {}  # noqa: RUF012  not changed
    drawn: Sequence[str] = ()
    terms: Sequence[str] = ()
    center: str = "posterior mean"


NO_QUANTILES = "z₁ of a hierarchical VAE has no standard normal prior; set reach"
CASES = {
    "two layers": Case(
        ["vae=two_layers", "vae.upper_dim=2", "vae.hidden=[16]", "prior=upper"],
        left_out={"manifold": NO_QUANTILES},
        terms=["val/kl_layer1", "val/kl_layer2"],
    ),
    "top-down, from scratch": Case(
        ["vae=top_down", "vae.upper_dim=2", "prior=upper"],
        left_out={"manifold": NO_QUANTILES},
        terms=["val/kl_layer1", "val/kl_layer2"],
    ),
    "conditional": Case(["vae=conditional"], drawn=["transfer"]),
    "spline prior": Case(["prior=spline_flow", "prior.hidden=[16]"]),
    "inverse autoregressive posterior": Case(
        ["encoder=mlp_hidden", "posterior=inverse_autoregressive", "posterior.given=32", "posterior.hidden=[16]"],
        left_out={"class_samples": "the variance of the posterior has no closed form"},
        center="transformed base mean",
    ),
    "vamp prior": Case(["prior=vamp", "prior.components=20"]),
    "beta-tc": Case(["objective=beta_tc", "objective.images=1294"], terms=["train/total_correlation"]),
    "free bits": Case(["objective=free_bits"], terms=["train/kl_floored"]),
    "factor": Case(
        ["objective=factor", "objective.hidden=[16]"], terms=["train/total_correlation", "train/discriminator"]
    ),
}


@pytest.fixture
def searchpath(mine: Path) -> str:
    return f"hydra.searchpath=[file://{mine / 'conf'},file://{ROOT / 'tests' / 'zoo' / 'conf'}]"


@pytest.fixture
def small(searchpath: str, tmp_path: Path) -> Callable[..., Run]:
    """Train a small model on digits in a folder of some name; later options beat earlier ones."""
    return lambda name, *options: train([searchpath, *SMALL, f"hydra.run.dir={tmp_path / name}", *options])


FAST = ("two layers", "conditional")


@pytest.mark.parametrize(
    "name", [each if each in FAST else pytest.param(each, marks=pytest.mark.slow) for each in CASES]
)
def test_a_whole_life(name: str, small: Callable[..., Run], tmp_path: Path) -> None:
    case = CASES[name]
    run = small("run", "trainer.max_epochs=2", "callbacks=default", *case.options)
    half = small("half", "trainer.max_epochs=1", *case.options)
    resumed = train([f"resume={half.path}", "trainer.max_epochs=2"])

    found = runs.load(resumed.path, "last").module.state_dict()
    for key, weight in runs.load(run.path, "last").module.state_dict().items():
        assert torch.equal(weight, found[key]), key
    assert {folder.name for folder in (run.path / "figures").iterdir()} == (DEFAULT | {*case.drawn}) - {*case.left_out}
    said = (run.path / "train.log").read_text()
    left_out = ", ".join(f"{figure} ({why})" for figure, why in case.left_out.items())
    assert f"skipped figures: {left_out}\n" in said if left_out else "skipped figures" not in said
    with (run.path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [line for line in said.splitlines() if "epoch 2/2 " in line]
    assert lines
    for term in case.terms:
        assert all(np.isfinite(float(row[term])) for row in rows)
        assert all(f" {term} " in line for line in lines)

    moved = shutil.move(run.path, tmp_path / "elsewhere")
    metrics = json.loads((moved / "metrics.json").read_text())
    numbers = evaluate([f"run={moved}", "device=cpu"])
    assert numbers == {key: metrics[key] for key in numbers}
    *_, file = generate([f"run={moved}", f"figure={['transition', *case.drawn]}", "format=npz", "n=5"])
    for figure, why in case.left_out.items():
        with pytest.raises(ConfigError, match=rf"^figure={figure}: {why}$"):
            generate([f"run={moved}", f"figure={figure}"])
    with np.load(file) as samples:
        assert samples["z"].shape == (5, 4)
        assert np.isfinite(samples["mean"]).all()
    page = report([f"run={moved}"]).read_text()
    assert f">{run.module.vae.name}, Digits<" in page
    assert f"squared error per pixel of the reconstruction from the {case.center}" in page
    for term in case.terms:
        assert f"<code>{term.partition('/')[2]}</code>" in page
    view = runs.load(moved).view()
    assert view.center == case.center


def test_samples_of_a_conditional_model_are_recognised_by_their_class(small: Callable[..., Run]) -> None:
    """It trains for seconds: a model that ignores the label has to be told from one that has learned it."""
    wide = ("encoder.hidden=[200]", "decoder.hidden=[200]", "optimizer.lr=3e-3", "trainer.max_epochs=30")
    run = small("run", "vae=conditional", "latent_dim=8", *wide)
    (file,) = generate([f"run={run.path}", "format=npz", "n=50", f"labels={[*range(10)]}"])
    train, test = ((images.image > 127).flatten(1).numpy() for images in (run.data.train, run.data.test))
    judge = LogisticRegression(max_iter=2000).fit(train, run.data.train.label)
    assert judge.score(test, run.data.test.label) > 0.9
    with np.load(file) as found:
        for kind in ("mean", "sample"):
            assert judge.score(found[kind].reshape(500, -1), found["label"]) >= 0.9
    assert run.metrics["test/kl"] > 0.5  # z is used as well


@torch.no_grad()
def test_figures_of_a_conditional_model_choose_its_context(small: Callable[..., Run]) -> None:
    view = small("run", "vae=conditional", "latent_dim=2", "trainer.max_epochs=1").view()
    indices = torch.cat([view.chosen(1, [k]) for k in (2, 5, 7)])
    codes, context = view.encode(view.batch(indices)), one_hot(torch.tensor([2, 5, 7]), 10).float()
    assert torch.equal(codes.context, context)
    assert torch.equal(view.context([7, 2, 7]), context[[2, 0, 2]])

    transfer = figures.Transfer(labels=[2, 5, 7]).draw(view)
    for row, tiles in enumerate(cut(transfer, 3, 4)):
        shown = [view.batch(indices).target[row], *view.decode(codes.mean[[row]].expand(3, -1), context)]
        np.testing.assert_allclose(tiles, bytes_of(torch.stack(shown)), atol=1)
    assert {"image", "2", "5", "7"} <= set(words(transfer))

    one_class = figures.Samples(n=7, labels=[5]).draw(view)
    assert cut(one_class, 3, 3).shape == (3, 3, 56, 56)  # a square, as without classes
    samples = figures.Samples(n=6, labels=[2, 5, 7]).draw(view)
    with view.undisturbed(0):
        expected = view.decode(torch.randn(6, 2), context.repeat_interleave(2, 0))
    np.testing.assert_allclose(cut(samples, 3, 2).reshape(6, 56, 56), bytes_of(expected), atol=1)

    manifold = figures.Manifold(n=4, reach=1.0, labels=[5, 7]).draw(view)
    z = torch.tensor([[[-1.0, 1.0], [1.0, 1.0]], [[-1.0, -1.0], [1.0, -1.0]]])
    for place in (0, 1):
        expected = view.decode(z, context[[1 + place]])
        np.testing.assert_allclose(cut(manifold, 2, 2, gap=0, place=place), bytes_of(expected), atol=1)

    between = figures.Interpolation(labels=[2, 7], steps=3).draw(view)
    rows = [f"{path}, c of {name}" for name in ("2", "7") for path in ("linear", "spherical")]
    assert [text for text in words(between) if text in rows] == rows
    first, last = codes.mean[[0, 2]]
    for row, end in ((0, 0), (2, 2)):  # linear, with the context of either end
        expected = view.decode(torch.stack([first, (first + last) / 2, last]), context[[end]])
        np.testing.assert_allclose(cut(between, 4, 5)[row, 1:-1], bytes_of(expected), atol=1)


def test_samples_of_a_class_need_its_gaussian(small: Callable[..., Run]) -> None:
    run = small("run", *CASES["inverse autoregressive posterior"].options, "trainer.max_epochs=0")
    with pytest.raises(
        ConfigError, match=r"labels: cannot sample from the Gaussian of a class: the variance of the posterior"
    ):
        generate([f"run={run.path}", "format=npz", "labels=[3]"])


class Elsewhere(nn.Module):
    """p(z|c) = N(3c, I) for the first latents."""

    def forward(self, encode: Callable, context: torch.Tensor) -> Distribution:
        return Independent(Normal(3 * context[:, 1:4] @ torch.eye(3, 4), 1.0), 1)


def test_circles_are_the_prior_of_every_class(small: Callable[..., Run]) -> None:
    view = small("run", "vae=conditional", "trainer.max_epochs=0").view()
    assert view.has_standard_prior
    view.vae.prior = Elsewhere()  # standard for class 0 alone
    assert not view.has_standard_prior


def test_traversals_say_that_a_layers_kl_is_an_estimate(small: Callable[..., Run]) -> None:
    view = small("run", *CASES["two layers"].options, "trainer.max_epochs=0").view()
    assert "estimated from one sample per image" in " ".join(words(figures.Traversals().draw(view))).replace("\n", " ")


def test_a_vamp_prior_starts_from_training_images(small: Callable[..., Run]) -> None:
    run = small("run", "prior=vamp", "prior.components=200", "trainer.max_epochs=0")
    run.data.setup()
    images = (run.data.train.image > 127).float()
    inputs = runs.load(run.path, "last").module.vae.prior.inputs
    found = (inputs.unsqueeze(1) == images).flatten(2).all(-1)  # (200, N)
    assert found.any(1).all()
    assert found.any(0).sum() > 190  # not one image again and again
    with pytest.raises(
        ConfigError, match=r"^model: prior\.components=2000: must be at most 1294, the number of training images$"
    ):
        small("other", "prior=vamp", "prior.components=2000")


def test_what_starts_from_data_sees_the_batches_of_the_first_epoch(
    small: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With noise and pixels that are drawn anew in each step."""
    trained, given, objective = [], [], Elbo.__call__
    monkeypatch.setattr(Elbo, "__call__", lambda *call: trained.append(call[2]) or objective(*call))
    monkeypatch.setattr(StandardNormal, "init_from_data", lambda _, batches: given.extend(batches), raising=False)
    small("run", "data.binarize=dynamic", "noise=salt_and_pepper", "data.shift=1", "trainer.max_epochs=1")
    assert len(given) == len(trained) == 11
    for one, other in zip(given, trained, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


class WithoutWeights(Elbo):
    """An objective that has options for weights, and has none."""

    optimizer_options: ClassVar[dict] = {"lr": 0.1}


def test_weights_of_an_objective_have_options_of_their_own(small: Callable[..., Run]) -> None:
    run = small("run", "objective=factor", "trainer.max_epochs=1", "optimizer.lr=2e-3")
    first, second = run.module.optimizers().param_groups
    assert (first["lr"], second["lr"], [*second["betas"]]) == (2e-3, 1e-4, [0.5, 0.9])
    assert len(second["params"]) == len([*run.module.objective.parameters()]) > 0
    options = "objective.optimizer_options"
    with pytest.raises(ConfigError, match=rf"^{options}\.lr=-1: must be greater than 0$"):
        small("other", "objective=factor", f"{options}.lr=-1")
    with pytest.raises(
        ConfigError, match=r"^objective: an objective with `optimizer_options` must be a torch\.nn\.Module"
    ):
        small("other", "objective._target_=test_zoo.WithoutWeights")
    with pytest.raises(ConfigError, match=rf"^{options}: .*unexpected keyword argument 'rate'"):
        small("other", "objective=factor", f"+{options}.rate=1")
    with pytest.raises(ConfigError, match=rf"^{options}: Invalid beta parameter at index 1: 1\.9"):
        small("other", "objective=factor", f"{options}.betas=[0.5,1.9]")


class Forgetful(TwoLayers):
    """A hierarchy that does not say its sizes."""

    def __init__(self, *options: object, **more: object) -> None:
        super().__init__(*options, **more)
        self.latent_dims = self.latent_dims[:1]


def test_a_model_that_does_not_draw_what_it_says_is_refused(small: Callable[..., Run]) -> None:
    options = [*CASES["two layers"].options]
    with pytest.raises(ConfigError, match=r"^model: `draw` returns layers of sizes \[4, 2\], but latent_dims=\[4\]$"):
        small("run", *options, "vae._target_=test_zoo.Forgetful")
    with pytest.raises(ConfigError, match=r"^model: `draw` returns a prior, but TwoLayers\.has_density=False$"):
        small("run", *options, "posterior=point", "objective=reconstruction", "likelihood=gaussian")


def test_zuko_leaves_torch_as_it_was() -> None:
    assert Distribution._validate_args == __debug__
