import copy
import inspect
from pathlib import Path
from types import ModuleType

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vae_lab import data, likelihoods, networks, noise, objectives, posteriors, priors, runs, schedulers
from vae_lab.commandline import CONF, compose
from vae_lab.config import RULES, binarization, check
from vae_lab.errors import ConfigError
from vae_lab.module import VAEModule

OPTIONS = [f"{file.parent.name}={file.stem}" for file in sorted(CONF.glob("*/*.yaml")) if not file.stem.startswith("_")]
NEEDS = {  # what an option does not stand without
    "posterior=point": ["objective=reconstruction"],
    "data=folder": ["data.root=images", "data.shape=[1,28,28]"],
    "data=cifar10": ["likelihood=gaussian"],
}


def composed(*overrides: str) -> DictConfig:
    return compose("train", overrides)[0]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_builds(option: str) -> None:
    config = composed(option, *NEEDS.get(option, []))
    OmegaConf.resolve(config)
    check(config)
    assert isinstance(runs.build_module(config), VAEModule)
    runs.build_data(config)


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.startswith("model=")])
@pytest.mark.parametrize("images", [option for option in OPTIONS if option.startswith("data=")])
def test_every_model_fits_every_data_set(option: str, images: str) -> None:
    options = NEEDS["data=folder"] if images == "data=folder" else []
    config = composed(option, images, *options)
    if images == "data=cifar10" and "bernoulli" in option:
        with pytest.raises(ConfigError, match="colours"):
            check(config)
        return
    check(config)
    if images == "data=digits" and "conv_cifar10" in option:
        with pytest.raises(ConfigError, match="too deep for 8×8 pixels"):
            runs.build_module(config)
        return
    runs.build_module(config)


# the groups in which the classes of a file have their YAMLs, and whether nothing else has one there
GROUPS = {
    networks: (["encoder", "decoder"], True),
    posteriors: (["posterior"], True),
    likelihoods: (["likelihood"], True),
    priors: (["prior"], True),
    objectives: (["objective"], True),
    data: (["data"], True),
    noise: (["noise"], False),  # no noise is torch.nn.Identity
    schedulers: (["scheduler"], False),  # most are torch's own
}


@pytest.mark.parametrize("module", GROUPS)
def test_every_part_has_a_yaml_in_the_groups_of_its_file(module: ModuleType) -> None:
    kinds = (nn.Module, objectives.Elbo, objectives.Reconstruction, data.ImageData, schedulers.Plateau)
    parts = {
        f"{module.__name__}.{name}"
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__.startswith(module.__name__) and issubclass(value, kinds)
        if not inspect.isabstract(value) and value is not noise.Noise
    }
    groups, alone = GROUPS[module]
    options = [f"{group}={file.stem}" for group in groups for file in (CONF / group).glob("[!_]*.yaml")]
    targets = {composed(option)[option.partition("=")[0]].get("_target_") for option in options}
    assert parts
    assert parts <= targets
    assert targets == parts or not alone


def test_the_command_line_beats_the_model_and_the_model_the_defaults() -> None:
    assert composed("model=gaussian_mlp").likelihood._target_.endswith("Gaussian")
    assert composed("model=gaussian_mlp", "likelihood=bernoulli").likelihood._target_.endswith("Bernoulli")
    assert composed("likelihood=bernoulli", "model=gaussian_mlp").likelihood._target_.endswith("Bernoulli")


@pytest.mark.parametrize(
    ("command", "option"),
    [("train", "experiment=nonsense"), ("generate", "data=nonsense"), ("evaluate", "data=nonsense")],
)
def test_a_group_that_may_be_empty_still_refuses_what_is_not_there(command: str, option: str) -> None:
    with pytest.raises(ConfigError, match=r"Could not find .*nonsense"):
        compose(command, [option])


def test_experiments_come_from_a_folder_of_the_user(tmp_path: Path) -> None:
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
def test_binarization_follows_the_likelihood(options: list[str], expected: str) -> None:
    assert binarization(composed(*options)) == expected


NETWORK_KEYS = [
    f"{network}.{key}"
    for network in ("encoder", "decoder")
    for key in (
        *("channels", "kernel", "stride", "pool", "activate_output"),
        *("linear.hidden", "linear.dropout", "linear.activate_output", "linear.init"),
        *("linear.activation", "linear.norm", "linear.order"),
    )
]
PLATEAU = [f"scheduler.{key}" for key in ("monitor", "factor", "patience", "threshold", "cooldown", "min_lr")]
LISTS = {  # what no list and no number of a network may be
    "hidden": ["3", "[0]", "[abc]", "[1.5]", "null"],
    "channels": ["3", "[]", "[0]", "[abc]", "[1.5]"],
    "kernel": ["0", "abc", "[0]", "1.5", "null"],
    "stride": ["0", "abc", "[0]", "1.5", "null"],
    "pool": ["0", "abc", "[0]", "1.5", "null"],
    "dropout": ["1", "-0.1", "abc", "[1]", "null"],
    "activate_output": ["no", "1", "null"],
    "init": ["he", "null", "1"],
    "activation": ["true", "1", "[1]"],
    "norm": ["true", "1", "[1]"],
    "order": ["null", "norm", "[1]"],
}

REFUSED = {
    "name": ["a/b", "''", "'a=b'", "'a b'"],
    "latent_dim": ["0", "-3"],
    "seed": ["-1", "4294967296"],
    "print_every": ["0"],
    "resume": ["''"],
    "data.shape": ["5", "null", "[1,8]", "[1,0,8]"],
    "data.batch_size": ["0", "1.5", "abc", "true", "null"],
    "data.val_fraction": ["1", "1.0", "-0.1", "1.5", "abc", ".nan"],
    "data.binarize": ["maybe", "true", "0.5"],
    "data.binarize_input": ["no", "'False'", "0"],
    "data.seed": ["-1", "1.5"],
    "data.num_workers": ["-1"],
    "checkpoint_every": ["0", "-1"],
    "data.root": ["null", "5", "''"],
    "data.classes": ["0", "abc"],
    "data.test_fraction": ["0", "1", "abc", "null"],
    "data.skip_unreadable": ["no", "1"],
    "data.rotation": ["-1", "181", "abc", "null"],
    "data.shift": ["-1", "1.5", "abc"],
    "noise.p": ["-0.1", "1.1", "abc", "true"],
    "noise.amount": ["-0.1", "1.1", "abc"],
    "noise.side": ["-0.1", "1.1", "abc"],
    "noise.std": ["-0.1", "abc", ".inf"],
    "noise.eval": ["no", "1", "'False'"],
    **{
        f"{network}.{key}": values
        for network in ("encoder", "decoder")
        for key, values in LISTS.items()
        if key != "pool"
    },
    "encoder.pool": LISTS["pool"],
    **{
        f"{network}.linear.{key}": LISTS[key]
        for network in ("encoder", "decoder")
        for key in ("hidden", "activation", "norm", "dropout", "order", "activate_output", "init")
    },
    "likelihood.scale": ["0", "-1", "abc"],
    "likelihood.min_scale": ["0", "-1", "abc"],
    "scheduler.monitor": ["val", "true"],
    "scheduler.factor": ["0", "1", "abc"],
    "scheduler.gamma": ["0", "-1", "abc"],
    "scheduler.patience": ["-1", "1.5"],
    "scheduler.cooldown": ["-1", "1.5"],
    "scheduler.milestones": ["6", "[0]", "[abc]", "null"],
    "scheduler.T_max": ["-1", "1.5"],
    **{f"scheduler.{key}": ["-1", "abc"] for key in ("threshold", "min_lr", "eta_min")},
    "objective.beta": ["-1", "abc", ".inf"],
    "objective.warmup_steps": ["-1", "1.5"],
    "objective.samples": ["0", "2.5"],
    "optimizer.weight_decay": ["-1", "abc"],
    "optimizer.lr": ["0", "-1", "abc", ".nan"],
    "trainer.max_epochs": ["-1", "2.5", "null"],
    "trainer.accumulate_grad_batches": ["0", "null"],
    "trainer.check_val_every_n_epoch": ["0", "1.5"],
    "trainer.precision": ["bf16-true", "16-true", "foo", "32"],
}


# where a key is that the parts of gaussian_mlp on MNIST do not have
HAS = {
    "data.test_fraction": ["data=folder", "data.root=images"],
    "data.skip_unreadable": ["data=folder", "data.root=images"],
    "noise.p": ["noise=dropout"],
    "noise.eval": ["noise=dropout"],
    "noise.amount": ["noise=salt_and_pepper"],
    "noise.side": ["noise=masking"],
    "noise.std": ["noise=gaussian"],
    "likelihood.min_scale": ["likelihood=gaussian_learned"],
    "scheduler.milestones": ["scheduler=step"],
    "scheduler.gamma": ["scheduler=step"],
    "scheduler.T_max": ["scheduler=cosine"],
    "scheduler.eta_min": ["scheduler=cosine"],
    **{key: ["encoder=conv", "decoder=conv"] for key in NETWORK_KEYS},
    **{key: ["scheduler=plateau"] for key in PLATEAU},
}


@pytest.mark.parametrize("key", REFUSED)
def test_values_that_cannot_work_are_refused_by_name(key: str) -> None:
    config = composed("model=gaussian_mlp", *HAS.get(key, []))
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for value in REFUSED[key]])
    for value in (override.value() for override in overrides):
        changed = copy.deepcopy(config)
        OmegaConf.update(changed, key, value, force_add=True)
        with pytest.raises(ConfigError, match=rf"^{key}=.* must be ") as refusal:
            check(changed)
        assert "\n" not in str(refusal.value), value


def test_the_users_own_parts_know_their_values_themselves() -> None:
    check(composed("noise._target_=collections.OrderedDict", "+noise.p=17"))
    with pytest.raises(ConfigError, match=r"noise\.p"):
        check(composed("noise=dropout", "noise.p=17"))
    check(composed("encoder._target_=collections.OrderedDict", "+encoder.linear={norm:3}"))
    with pytest.raises(ConfigError, match=r"data\.batch_size"):  # what all data sets share is checked for them
        check(composed("data._target_=collections.OrderedDict", "data.batch_size=0"))


def test_every_rule_refuses_something() -> None:
    assert REFUSED.keys() == RULES.keys()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["latent_dim=abc"], "latent_dim=abc.*Integer"),
        (["latent_dim=2.5"], r"latent_dim=2\.5"),
        (["model=foo"], "model/foo.*ae_mlp.*bernoulli_mlp.*gaussian_mlp"),
        (["latent_dims=2"], "latent_dims is no key.*latent_dim,"),
        (["encoder.hiden=[3]"], "encoder.hiden is no key.*hidden"),
        (["name=a=b"], "name=a=b"),
        (["encoder.norm=GroupNorm(8)"], r"encoder\.norm=GroupNorm\(8\).*quotes of its own"),
        (["noise=null"], "override must be"),
        (["data=digits", "data.root=x"], "data.root is no key.*batch_size"),
    ],
)
def test_what_does_not_exist_is_told_with_what_does(options: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as refusal:
        composed(*options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["model=bernoulli_mlp", "data.binarize=none"], r"data\.binarize=none.*threshold.*likelihood=gaussian"),
        (["model=bernoulli_mlp", "data.shape=[3,8,8]"], "colours.*likelihood=gaussian"),
        (["data=folder"], r"^data\.root has no value"),
        (["likelihood=cross_entropy", "data.binarize=dynamic"], "likelihood=bernoulli"),
        (["scheduler=plateau", "scheduler.monitor=validation", "data.val_fraction=0"], "needs a validation"),
        (["scheduler=plateau", "scheduler.monitor=validation", "trainer.limit_val_batches=0"], "needs a validation"),
        (["scheduler=cosine", "scheduler.T_max=5", "trainer.max_epochs=6"], r"scheduler\.T_max=5"),
        (["trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1"], "optimizer.fused=false"),
        (["data=_images"], "^data has no _target_"),
        (["posterior=point"], "posterior=normal, or objective=reconstruction"),
        (["likelihood._target_=vae_lab.likelihoods.Cauchy"], "likelihood._target_=vae_lab.likelihoods.Cauchy"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(options: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        check(composed(*options))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["encoder.activation=Foo"], "^encoder: activation=Foo"),
        (["prior.latent_dim=3"], "^model: .*size"),
        (["optimizer.betas=[2,3]"], "^optimizer: .*beta"),
        (["posterior.scale=foo"], "^posterior: scale=foo"),
        (["likelihood=gaussian", "likelihood.mean=foo"], "^likelihood: mean=foo"),
        (["objective.kl=exact"], "^objective: kl=exact"),
        (["encoder=conv", "encoder.channels=[4,4,4,4,4]"], "^encoder: .*too deep for 28×28 pixels.*that fits is 4"),
        (["decoder=conv_cifar10", "data=digits"], "^decoder: .*too deep for 8×8 pixels.*that fits is 3"),
        (
            [
                "scheduler=plateau",
                "scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",
                "~scheduler.monitor",
            ],
            "^scheduler: .*take scheduler=plateau",
        ),
        (["encoder=conv", "encoder.norm=LayerNorm"], r"^encoder: norm=LayerNorm.*GroupNorm\(1\)"),
        (["encoder=conv", "encoder.activation=[ReLU]"], "^encoder: activation=.*or 2: one for each layer"),
        (["encoder.norm=BatchNorm2d"], "^model: "),
        (["encoder=conv_mnist", "data.batch_size=1"], "^data.batch_size=1 leaves a batch norm nothing"),
        (["likelihood=gaussian_shared", "likelihood.scale=0.001"], "^likelihood: scale=0.001 must be above min_scale"),
    ],
)
def test_what_a_part_refuses_names_the_part(options: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        runs.build_module(composed(*options))
