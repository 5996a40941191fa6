import inspect
import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from types import ModuleType

import pytest
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.optim import Adam
from torch.optim.lr_scheduler import LRScheduler

from vae_lab import data, likelihoods, networks, noise, objectives, posteriors, priors, runs
from vae_lab.cli.compose import CONF, compose
from vae_lab.errors import ConfigError
from vae_lab.model import VAE, Draw, Head, Parts
from vae_lab.runs.build import binarization
from vae_lab.train import train
from vae_lab.training import schedulers
from vae_lab.training.module import VAEModule

OPTIONS = [f"{file.parent.name}={file.stem}" for file in sorted(CONF.glob("*/*.yaml")) if not file.stem.startswith("_")]
NEEDS = {  # further overrides that a component requires
    "posterior=point": ["objective=reconstruction"],
    "data=folder": ["data.root=images", "data.shape=[1,28,28]"],
    "data=cifar10": ["likelihood=gaussian"],
}


def composed(*overrides: str) -> DictConfig:
    return compose("train", overrides)[0]


def together(groups: Iterable[str]) -> list[list[str]]:
    """Return lists of overrides, with at most one component of each group, that cover all components."""
    columns = [[option for option in OPTIONS if option.startswith(f"{group}=")] for group in groups]
    return [[*filter(None, row)] for row in zip_longest(*columns)]


# Experiments are tested in test_experiments.py. A model preset would be overridden by the components in MODELS.
MODELS = ("encoder", "decoder", "posterior", "likelihood", "prior", "objective")
OTHERS = sorted({option.partition("=")[0] for option in OPTIONS} - {"experiment", *MODELS})


@pytest.mark.parametrize("options", [*together(OTHERS), *together(MODELS)], ids=" ".join)
def test_components_compose_and_build(options: list[str]) -> None:
    config = composed(*options, *(each for option in options for each in NEEDS.get(option, [])))
    OmegaConf.resolve(config)
    assert isinstance(runs.build_module(config), VAEModule)
    runs.build_data(config)


@pytest.mark.slow
@pytest.mark.parametrize("option", [option for option in OPTIONS if option.startswith("model=")])
@pytest.mark.parametrize("images", [option for option in OPTIONS if option.startswith("data=")])
def test_preset_builds_with_every_data_set_it_supports(option: str, images: str) -> None:
    options = NEEDS["data=folder"] if images == "data=folder" else []
    config = composed(option, images, *options)
    if images == "data=cifar10" and "bernoulli" in option:
        with pytest.raises(ConfigError, match="colour images are not supported"):
            runs.build_module(config)
        return
    if images == "data=digits" and "conv_cifar10" in option:
        with pytest.raises(ConfigError, match=r"channels=.*: must specify at most 3 layers for images of 8×8 pixels"):
            runs.build_module(config)
        return
    runs.build_module(config)


class Unstated(Head):
    """A likelihood that does not declare its `support`."""

    def forward(self, parameters: Tensor) -> Distribution:
        return Independent(Normal(parameters, 1.0), 3)


# the config groups of the classes in each module, and whether they contain no other classes
GROUPS = {
    networks: (["encoder", "decoder"], True),
    posteriors: (["posterior"], True),
    likelihoods: (["likelihood"], True),
    priors: (["prior"], True),
    objectives: (["objective"], True),
    data: (["data"], True),
    noise: (["noise"], False),  # noise=none is torch.nn.Identity
    schedulers: (["scheduler"], False),  # scheduler=none has no class
}


@pytest.mark.slow
@pytest.mark.parametrize("module", GROUPS)
def test_every_class_has_yaml_in_its_config_groups(module: ModuleType) -> None:
    kinds = (nn.Module, objectives.Elbo, objectives.Reconstruction, data.ImageData, LRScheduler)
    classes = {
        f"{module.__name__}.{name}"
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__.startswith(module.__name__) and issubclass(value, kinds)
        if not inspect.isabstract(value) and value is not noise.Noise
    }
    groups, exclusive = GROUPS[module]
    options = [f"{group}={file.stem}" for group in groups for file in (CONF / group).glob("[!_]*.yaml")]
    targets = {composed(each, *NEEDS.get(each, []))[each.partition("=")[0]].get("_target_") for each in options}
    assert classes
    assert classes <= targets
    assert targets == classes or not exclusive


def test_override_precedes_preset_and_preset_precedes_default() -> None:
    assert composed("model=gaussian_mlp").likelihood._target_.endswith("Gaussian")
    assert composed("model=gaussian_mlp", "likelihood=bernoulli").likelihood._target_.endswith("Bernoulli")
    assert composed("likelihood=bernoulli", "model=gaussian_mlp").likelihood._target_.endswith("Bernoulli")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train", "experiment=nonsense"),
        ("train", "callbacks=[curves,nonsense]"),
        ("generate", "data=nonsense"),
        ("evaluate", "data=nonsense"),
    ],
)
def test_unknown_component_or_preset_is_rejected(command: str, option: str) -> None:
    with pytest.raises(ConfigError, match=r"nonsense: unknown"):
        compose(command, [option])


def test_user_defined_experiment_is_found(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: gaussian_mlp\nlatent_dim: 7\n"
    )
    found = f"hydra.searchpath=[file://{tmp_path}]"
    assert composed(found, "experiment=mine").latent_dim == 7
    config = composed(found, "experiment=mine", "model=bernoulli_mlp", "latent_dim=3")
    assert config.latent_dim == 3
    assert config.likelihood._target_.endswith("Bernoulli")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["model=bernoulli_mlp"], "threshold"),
        (["model=gaussian_mlp"], "none"),
        (["model=ae_mlp"], "none"),
        (["model=gaussian_mlp", "likelihood=bernoulli"], "threshold"),
        (["model=gaussian_mlp", "data.binarize=static"], "static"),
        (["model=bernoulli_mlp", "data.binarize=dynamic"], "dynamic"),
    ],
)
def test_binarization_depends_on_likelihood(options: list[str], expected: str) -> None:
    assert binarization(composed(*options)) == expected


CONV = ["encoder=conv", "decoder=conv"]
FOLDER = ["data=folder", "data.root=images", "data.shape=[1,8,8]"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["name=a/b"], "name=a/b: must be a name of letters, digits"),
        (["latent_dim=0"], "latent_dim=0: must be greater than 0"),
        (["seed=4294967296"], "seed=4294967296: must be less than 4294967296"),
        (["print_every=0"], "print_every=0: must be greater than 0"),
        (["checkpoint_every=-1"], "checkpoint_every=-1: must be greater than 0"),
        (["resume=''"], "resume=: must be a string of 1 or more characters"),
        (["data.shape=5"], "data.shape=5: must be a list"),
        (["data.shape=[1,8]"], "data.shape=[1, 8]: must be a list of 3 or more values"),
        (["data.shape=[1,0,8]"], "data.shape[1]=0: must be greater than 0"),
        (["data.batch_size=true"], "data.batch_size=true: must be a whole number"),
        (["data.val_fraction=1.5"], "data.val_fraction=1.5: must be a whole number or less than 1"),
        (["data.val_fraction=1"], "data.val_fraction=1: must be less than 1 or at least 2"),
        (["data.binarize=maybe"], "data.binarize=maybe: must be none, threshold, dynamic or static"),
        (["data.binarize_input='False'"], "data.binarize_input=false: must be true or false"),
        (["data.rotation=181"], "data.rotation=181: must be at most 180"),
        (["data=mnist", "data.root=null"], "data.root=null: must be a string"),
        ([*FOLDER, "data.test_fraction=1"], "data.test_fraction=1: must be less than 1"),
        (["noise=dropout", "noise.p=1.1"], "noise.p=1.1: must be at most 1"),
        (["noise=gaussian", "noise.std=inf"], "noise.std=inf: must be a finite number"),
        (["noise=masking", "noise.eval=1"], "noise.eval=1: must be true or false"),
        (["encoder.hidden=[0]"], "encoder.hidden[0]=0: must be greater than 0"),
        (["encoder.hidden=null"], "encoder.hidden=null: must be a list"),
        (["decoder.dropout=1"], "decoder.dropout=1: must be a list or less than 1"),
        (["encoder.norm=1"], "encoder.norm=1: must be a string or a list"),
        (["encoder.order=norm"], "encoder.order=norm: must be a list"),
        (["encoder.init=he"], "encoder.init=he: must be default, kaiming or xavier"),
        (["+encoder.width=3"], "encoder.width: unknown option"),
        ([*CONV, "encoder.channels=[]"], "encoder.channels=[]: must be a list of 1 or more values"),
        ([*CONV, "encoder.kernel=1.5"], "encoder.kernel=1.5: must be a whole number or a list"),
        ([*CONV, "encoder.pool=[0]"], "encoder.pool[0]=0: must be greater than 0"),
        ([*CONV, "decoder.linear.hidden=[abc]"], "decoder.linear.hidden[0]=abc: must be a whole number"),
        (["encoder.activation=Foo"], "encoder.activation=Foo"),
        (["posterior.scale=foo"], "posterior.scale=foo: must be log_variance or softplus"),
        (["likelihood=gaussian", "likelihood.scale=-1"], "likelihood.scale=-1: must be greater than 0"),
        (["likelihood=gaussian", "likelihood.mean=foo"], "likelihood.mean=foo: must be sigmoid or identity"),
        (["prior.latent_dim=0"], "prior.latent_dim=0: must be greater than 0"),
        (["objective.beta=inf"], "objective.beta=inf: must be a finite number"),
        (["objective.kl=exact"], "objective.kl=exact: must be analytic or sampled"),
        (["optimizer.lr=0"], "optimizer.lr=0: must be greater than 0"),
        (["optimizer.lr=inf"], "optimizer.lr=inf: must be a finite number"),
        (["optimizer.betas=[2,3]"], "optimizer: Invalid beta"),
        (["optimizer.weight_decay=-1"], "optimizer.weight_decay=-1: must be at least 0"),
        (["scheduler=step", "scheduler.milestones=6"], "scheduler.milestones=6: must be a list"),
        (["scheduler=step", "scheduler.gamma=-1"], "scheduler.gamma=-1: must be greater than 0"),
        (["scheduler=cosine", "scheduler.T_max=1.5"], "scheduler.T_max=1.5: must be a whole number"),
        (["scheduler=plateau", "scheduler.factor=1"], "scheduler.factor=1: must be less than 1"),
        (["trainer.max_epochs=null"], "trainer.max_epochs=null: must be a whole number"),
        (["trainer.precision=8"], "trainer.precision=8: must be 32-true, 64-true, 16-mixed or bf16-mixed"),
        (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0: must be greater than 0"),
        (["trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch=0: must be greater than 0"),
        # values that Lightning rejects
        (["trainer.accelerator=nonsense"], "trainer: You selected an invalid accelerator"),
        (["trainer.accelerator=cpu", "trainer.devices=0"], "trainer: `Trainer(devices=0)` value is not a valid input"),
        (["trainer.max_time=abc"], "trainer: `Timer(duration='abc')` is not a valid duration"),
        (["trainer.strategy=nonsense"], "trainer: You selected an invalid strategy"),
        (["trainer.gradient_clip_algorithm=x"], "trainer: `gradient_clip_algorithm` x is invalid"),
        (["+callbacks.stop={monitor: val/elbo}"], "callbacks.stop: missing `_target_`"),
    ],
)
def test_invalid_value_is_rejected_with_its_key(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}") as raised:
        train(["data=digits", "callbacks=none", *options])
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("trainer.val_check_interval=1000", "trainer: `val_check_interval` (1000) must be less than"),
        (
            "+callbacks.stop={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/foo}",
            "trainer: Early stopping conditioned on metric `val/foo` which is not available",
        ),
    ],
)
def test_lightning_error_during_training_is_one_line(option: str, message: str, tmp_path: Path) -> None:
    small = ["data=digits", "callbacks=none", "encoder.hidden=[4]", "decoder.hidden=[4]", "trainer.max_epochs=1"]
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        train([*small, option, f"hydra.run.dir={tmp_path}"])
    assert "Traceback" in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (["latent_dim=abc"], "^latent_dim=abc: must be a whole number$"),
        (["latent_dim=2.5"], r"latent_dim=2\.5"),
        (["model=ae_mpl"], r"^model=ae_mpl: unknown preset; did you mean 'ae_mlp'\?$"),
        (
            ["likelihood=foo"],
            "^likelihood=foo: unknown component; expected one of bernoulli, cross_entropy, gaussian, ",
        ),
        (["latent_dims=2"], r"^unknown key 'latent_dims'; did you mean 'latent_dim'\?$"),
        (["encoder.hiden=[3]"], r"^unknown key 'encoder.hiden'; did you mean 'encoder.hidden'\?$"),
        (["name=a=b"], "name=a=b"),
        (
            ["encoder.norm=GroupNorm(8)"],
            r"^encoder\.norm=GroupNorm\(8\): .* must be quoted, as in \"encoder\.norm='GroupNorm\(8\)'\"$",
        ),
        (["noise=null"], "^noise=null: expected <group>=<component>$"),
        (["data=digits", "data.root=x"], "^unknown key 'data.root'; --help lists the keys$"),
    ],
)
def test_mistyped_override_is_rejected_with_suggestion(options: list[str], pattern: str) -> None:
    with pytest.raises(ConfigError, match=pattern) as raised:
        composed(*options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (["model=bernoulli_mlp", "data.binarize=none"], r"data\.binarize=none.*threshold.*likelihood=gaussian"),
        (["model=bernoulli_mlp", "data.shape=[3,8,8]"], "colour images.*likelihood=gaussian"),
        (["likelihood=cross_entropy", "data.binarize=dynamic"], "likelihood=bernoulli"),
        (["scheduler=plateau", "scheduler.monitor=validation", "data.val_fraction=0"], "requires validation"),
        (["scheduler=plateau", "scheduler.monitor=validation", "trainer.limit_val_batches=0"], "requires validation"),
        (["scheduler=cosine", "scheduler.T_max=5", "trainer.max_epochs=6"], r"scheduler\.T_max=5"),
        (["trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1"], "optimizer.fused=false"),
        (["data=_images"], "^data: missing `_target_`"),
        (["posterior=point"], "posterior=normal or objective=reconstruction"),
        (["likelihood._target_=vae_lab.likelihoods.Cauchy"], "likelihood._target_=vae_lab.likelihoods.Cauchy"),
        (
            ["likelihood._target_=torch.nn.Identity"],
            "^likelihood._target_=torch.nn.Identity: must derive from vae_lab.Head",
        ),
        (
            [
                "likelihood=gaussian",
                "likelihood._target_=test_config.Unstated",
                "~likelihood.scale",
                "~likelihood.mean",
            ],
            "`support`",
        ),
        (["prior.latent_dim=3"], "^model: .*size"),
        (
            ["encoder=conv", "encoder.channels=[4,4,4,4,4]"],
            r"^encoder\.channels=.*: must specify at most 4 .* 28×28 pixels",
        ),
        (
            ["decoder=conv_cifar10", "data=digits"],
            r"^decoder\.channels=.*: must specify at most 3 .* 8×8 pixels",
        ),
        (
            [
                "scheduler=plateau",
                "scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",
                "~scheduler.monitor",
            ],
            "^scheduler: .*use scheduler=plateau",
        ),
        (["encoder=conv", "encoder.norm=LayerNorm"], r"^encoder\.norm=LayerNorm: .*GroupNorm\(1\)"),
        (
            ["encoder=conv", "encoder.activation=[ReLU]"],
            r"^encoder\.activation=.*: must be a single value or a list .*2 in total",
        ),
        (["encoder.norm=BatchNorm2d"], "^model: "),
        (["encoder=conv_mnist", "data.batch_size=1"], "^data.batch_size=1: must be at least 2"),
        (
            ["likelihood=gaussian_shared", "likelihood.scale=0.001"],
            r"^likelihood\.scale=0.001: must be greater than min_scale",
        ),
    ],
)
def test_incompatible_components_are_rejected(options: list[str], pattern: str) -> None:
    with pytest.raises(ConfigError, match=pattern):
        runs.build_module(composed(*options))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("broken.Part", "cannot be imported: RuntimeError: reason: broken$"),
        ("package.without.Part", "cannot be imported: ModuleNotFoundError: No module named 'not_there'$"),
        ("nowhere.Part", "cannot be imported: ModuleNotFoundError: No module named 'nowhere'$"),
        ("vae_lab.likelihoods.Bernouli", "not found in vae_lab.likelihoods; did you mean 'Bernoulli'?"),
        ("dict", "No module named 'dict'"),
        ("vae_lab.likelihoods.", "not found in vae_lab.likelihoods$"),
        ("''", "Empty path"),
    ],
)
def test_class_that_fails_to_import_is_reported_with_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, reason: str
) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('reason: broken')")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "without.py").write_text("import not_there")
    monkeypatch.syspath_prepend(tmp_path)
    pattern = rf"_target_=.*: .*{reason}"
    config = composed(f"likelihood._target_={target}")
    with pytest.raises(ConfigError, match=rf"^likelihood\.{pattern}"):
        runs.build_module(config)
    with pytest.raises(ConfigError, match=rf"^callbacks\.mine\.{pattern}"):
        runs.build_each(OmegaConf.create({"callbacks": {"mine": config.likelihood}}), "callbacks")


def test_interrupted_import_raises_keyboard_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interrupted.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        runs.build.class_of({"_target_": "interrupted.Part"})


@pytest.mark.parametrize("component", ["text", [1], {"n": 3}, {"_target_": None}])
def test_component_without_target_is_rejected(component: object) -> None:
    with pytest.raises(ConfigError, match=r"^callbacks\.mine: missing `_target_`"):
        runs.build_each(OmegaConf.create({"callbacks": {"mine": component}}), "callbacks")


class OneForAll(VAE):
    """A model whose log-likelihood is one value for the batch, instead of one for each image."""

    def draw(self, *options: object, **more: object) -> Draw:
        draw = super().draw(*options, **more)
        return replace(draw, log_likelihood=draw.log_likelihood.mean(1, keepdim=True))


def one_for_all(parts: Parts) -> VAE:
    return OneForAll(parts.make_encoder(), parts.make_decoder(), parts.prior)


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("torch.nn.Identity", r"^vae\._target_=torch\.nn\.Identity: "),
        ("test_config.one_for_all", "^model: log_likelihood: "),
    ],
)
def test_model_that_violates_its_interface_is_rejected(target: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        runs.build_module(composed(f"vae._target_={target}"))


class OwnOptimizer(Adam):
    """An optimizer whose rules may differ from those of torch."""


@pytest.mark.parametrize(
    ("target", "option"),
    [
        ("optimizer._target_=test_config.OwnOptimizer", "optimizer.lr=0"),
        ("trainer._target_=test_config.OwnTrainer", "trainer.max_epochs=-1"),
    ],
)
def test_user_defined_classes_have_their_own_constraints(target: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"^{option}: "):
        runs.build_module(composed(option))
    assert isinstance(runs.build_module(composed(target, option)), VAEModule)
