"""User-defined components and model classes work with every command, without changes to vae_lab.

They are the files in `zoo/` and the examples in docs/extending.md.
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
    """A user-defined model.

    Attributes:
        options: overrides that select it.
        skipped: default figures that are skipped, each with the reason.
        extra: figures in addition to the default ones.
        terms: metrics in addition to the usual ones.
        center: name of the point of a posterior that figures decode.
    """

    options: Sequence[str]
    skipped: dict[str, str] = {}  # noqa: RUF012  never modified
    extra: Sequence[str] = ()
    terms: Sequence[str] = ()
    center: str = "posterior mean"


NO_QUANTILES = "z₁ of a hierarchical VAE has no standard normal prior; set reach"
CASES = {
    "two layers": Case(
        ["vae=two_layers", "vae.upper_dim=2", "vae.hidden=[16]", "prior=upper"],
        skipped={"manifold": NO_QUANTILES},
        terms=["val/kl_layer1", "val/kl_layer2"],
    ),
    "top-down, from scratch": Case(
        ["vae=top_down", "vae.upper_dim=2", "prior=upper"],
        skipped={"manifold": NO_QUANTILES},
        terms=["val/kl_layer1", "val/kl_layer2"],
    ),
    "conditional": Case(["vae=conditional"], extra=["transfer"]),
    "spline prior": Case(["prior=spline_flow", "prior.hidden=[16]"]),
    "inverse autoregressive posterior": Case(
        ["encoder=mlp_hidden", "posterior=inverse_autoregressive", "posterior.given=32", "posterior.hidden=[16]"],
        skipped={"class_samples": "the variance of the posterior has no closed form"},
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
    """Return a function that trains a small model on digits in the directory `name`; later options take precedence."""
    return lambda name, *options: train([searchpath, *SMALL, f"hydra.run.dir={tmp_path / name}", *options])


FAST = ("conditional",)


@pytest.mark.parametrize(
    "name", [each if each in FAST else pytest.param(each, marks=pytest.mark.slow) for each in CASES]
)
def test_model_works_with_every_command(name: str, small: Callable[..., Run], tmp_path: Path) -> None:
    case = CASES[name]
    run = small("run", "trainer.max_epochs=2", "callbacks=default", *case.options)
    half = small("half", "trainer.max_epochs=1", *case.options)
    resumed = train([f"resume={half.path}", "trainer.max_epochs=2"])

    found = runs.load(resumed.path, "last").module.state_dict()
    for key, weight in runs.load(run.path, "last").module.state_dict().items():
        assert torch.equal(weight, found[key]), key
    assert {folder.name for folder in (run.path / "figures").iterdir()} == (DEFAULT | {*case.extra}) - {*case.skipped}
    log = (run.path / "train.log").read_text()
    skipped = ", ".join(f"{figure} ({why})" for figure, why in case.skipped.items())
    assert f"skipped figures: {skipped}\n" in log if skipped else "skipped figures" not in log
    with (run.path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [line for line in log.splitlines() if "epoch 2/2 " in line]
    assert lines
    for term in case.terms:
        assert all(np.isfinite(float(row[term])) for row in rows)
        assert all(f" {term} " in line for line in lines)

    moved = shutil.move(run.path, tmp_path / "elsewhere")
    metrics = json.loads((moved / "metrics.json").read_text())
    numbers = evaluate([f"run={moved}", "device=cpu"])
    assert numbers == {key: metrics[key] for key in numbers}
    *_, file = generate([f"run={moved}", f"figure={['transition', *case.extra]}", "format=npz", "n=5"])
    for figure, why in case.skipped.items():
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


@pytest.mark.slow
def test_classifier_recognises_samples_of_conditional_model(small: Callable[..., Run]) -> None:
    """Training takes seconds, because only a trained model differs from one that ignores the label."""
    wide = ("encoder.hidden=[200]", "decoder.hidden=[200]", "optimizer.lr=3e-3", "trainer.max_epochs=30")
    run = small("run", "vae=conditional", "latent_dim=8", *wide)
    (file,) = generate([f"run={run.path}", "format=npz", "n=50", f"labels={[*range(10)]}"])
    train, test = ((images.image > 127).flatten(1).numpy() for images in (run.data.train, run.data.test))
    classifier = LogisticRegression(max_iter=2000).fit(train, run.data.train.label)
    assert classifier.score(test, run.data.test.label) > 0.9
    with np.load(file) as found:
        for kind in ("mean", "sample"):
            assert classifier.score(found[kind].reshape(500, -1), found["label"]) >= 0.9
    assert run.metrics["test/kl"] > 0.5  # the model also uses z


@torch.no_grad()
def test_figures_of_conditional_model_use_context_of_labels(small: Callable[..., Run]) -> None:
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
    assert cut(one_class, 3, 3).shape == (3, 3, 56, 56)  # a square grid, as without labels
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
    for row, end in ((0, 0), (2, 2)):  # linear path with the context of each end
        expected = view.decode(torch.stack([first, (first + last) / 2, last]), context[[end]])
        np.testing.assert_allclose(cut(between, 4, 5)[row, 1:-1], bytes_of(expected), atol=1)


def test_class_samples_need_variance_of_posterior(small: Callable[..., Run]) -> None:
    run = small("run", *CASES["inverse autoregressive posterior"].options, "trainer.max_epochs=0")
    with pytest.raises(
        ConfigError, match=r"labels: cannot sample from a Gaussian fitted to a class: the variance of the posterior"
    ):
        generate([f"run={run.path}", "format=npz", "labels=[3]"])


class ShiftedPrior(nn.Module):
    """p(z|c) with a mean that is not 0 for the classes 1, 2 and 3."""

    def forward(self, encode: Callable, context: torch.Tensor) -> Distribution:
        return Independent(Normal(3 * context[:, 1:4] @ torch.eye(3, 4), 1.0), 1)


def test_prior_is_standard_only_if_standard_for_every_class(small: Callable[..., Run]) -> None:
    view = small("run", "vae=conditional", "trainer.max_epochs=0").view()
    assert view.has_standard_prior
    view.vae.prior = ShiftedPrior()  # not standard for classes 1, 2 and 3
    assert not view.has_standard_prior


def test_traversals_of_hierarchical_vae_say_that_kl_is_estimated(small: Callable[..., Run]) -> None:
    view = small("run", *CASES["two layers"].options, "trainer.max_epochs=0").view()
    assert "estimated from one sample per image" in " ".join(words(figures.Traversals().draw(view))).replace("\n", " ")


def test_vamp_prior_is_initialised_with_training_images(small: Callable[..., Run]) -> None:
    run = small("run", "prior=vamp", "prior.components=200", "trainer.max_epochs=0")
    run.data.setup()
    images = (run.data.train.image > 127).float()
    inputs = runs.load(run.path, "last").module.vae.prior.inputs
    found = (inputs.unsqueeze(1) == images).flatten(2).all(-1)  # (200, N)
    assert found.any(1).all()
    assert found.any(0).sum() > 190  # different images
    with pytest.raises(
        ConfigError, match=r"^model: prior\.components=2000: must be at most 1294, the number of training images$"
    ):
        small("other", "prior=vamp", "prior.components=2000")


def test_init_from_data_receives_batches_of_first_epoch(
    small: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random noise, shifts and binarization in each step."""
    trained, given, objective = [], [], Elbo.__call__
    monkeypatch.setattr(Elbo, "__call__", lambda *call: trained.append(call[2]) or objective(*call))
    monkeypatch.setattr(StandardNormal, "init_from_data", lambda _, batches: given.extend(batches), raising=False)
    small("run", "data.binarize=dynamic", "noise=salt_and_pepper", "data.shift=1", "trainer.max_epochs=1")
    assert len(given) == len(trained) == 11
    for one, other in zip(given, trained, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


class WithoutWeights(Elbo):
    """Objective with optimizer options but without weights."""

    optimizer_options: ClassVar[dict] = {"lr": 0.1}


def test_weights_of_objective_have_own_optimizer_options(small: Callable[..., Run]) -> None:
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
    """Hierarchical VAE with incomplete `latent_dims`."""

    def __init__(self, *options: object, **more: object) -> None:
        super().__init__(*options, **more)
        self.latent_dims = self.latent_dims[:1]


def test_draw_that_contradicts_attributes_is_rejected(small: Callable[..., Run]) -> None:
    options = [*CASES["two layers"].options]
    with pytest.raises(ConfigError, match=r"^model: `draw` returns layers with sizes \[4, 2\], but latent_dims=\[4\]$"):
        small("run", *options, "vae._target_=test_zoo.Forgetful")
    with pytest.raises(ConfigError, match=r"^model: `draw` returns a prior, but TwoLayers\.has_density=False$"):
        small("run", *options, "posterior=point", "objective=reconstruction", "likelihood=gaussian")


def test_zuko_does_not_change_defaults_of_torch() -> None:
    assert Distribution._validate_args == __debug__
