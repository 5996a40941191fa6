"""Training from Python: results, reproducibility, resume, and the run directory."""

import copy
import csv
import json
import logging
import os
from collections.abc import Callable
from math import inf
from pathlib import Path
from shutil import which
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional

from conftest import CountingIO, needs_mnist, write_images
from vae_lab import runs
from vae_lab.cli.compose import compose
from vae_lab.data.batches import Batches, Plan
from vae_lab.data.images import Images
from vae_lab.errors import ConfigError, DataError, NonFiniteError
from vae_lab.model import VAE, Batch
from vae_lab.objectives import Elbo, Terms
from vae_lab.runs import Run
from vae_lab.train import train

SIZE = ["latent_dim=2", "encoder.hidden=[16]", "decoder.hidden=[16]"]
SMALL = ["data=digits", *SIZE, "trainer.max_epochs=2", "callbacks=none"]
Trainer = Callable[..., Run]


@pytest.fixture
def small(tmp_path: Path) -> Trainer:
    """Return a function that trains a small model on digits in the run directory `name`."""

    def run(*overrides: str, name: str = "run") -> Run:
        return train([*SMALL, f"hydra.run.dir={tmp_path / name}", *overrides])

    return run


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small model without further options."""
    return train([*SMALL, f"hydra.run.dir={tmp_path_factory.mktemp('plain') / 'run'}"])


def weights(run: Run, checkpoint: str = "last") -> dict[str, torch.Tensor]:
    return runs.load(run.path, checkpoint).module.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_training_equals_bare_loop_with_same_random_numbers(small: Trainer) -> None:
    run = small("seed=4")
    torch.manual_seed(4)
    module = runs.build_module(run.config)
    encoder, decoder = module.vae.encoder.network, module.vae.decoder.network
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    images = run.data.train.image
    for epoch in range(2):
        for indices, seed in Batches(len(images), 128, 4, shuffle=True, epoch=epoch):
            torch.manual_seed(seed)
            x = (images[indices] > 127).float()
            mean, log_variance = encoder(x).chunk(2, 1)
            z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
            reconstruction = functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
            optimizer.zero_grad()
            ((reconstruction + kl) / len(x)).backward()
            optimizer.step()
    trained = weights(run)
    for name, weight in module.state_dict().items():
        torch.testing.assert_close(trained[name], weight, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_reported_metrics_are_means_over_test_split(small: Trainer) -> None:
    run = small("posterior.scale=softplus", "data.batch_size=100")
    total = dict.fromkeys(("elbo", "kl", "log_likelihood", "mse"), 0.0)
    for indices, seed in Batches(len(run.data.test), 100, 0, shuffle=False):
        batch = run.data.batch(run.data.test[Plan(indices, seed)], training=False)
        torch.manual_seed(seed)
        q = run.module.vae.encode(batch.input)
        log_likelihood = run.module.vae.decode(q.rsample((1,))).log_prob(batch.target).sum()
        kl = 0.5 * (q.mean**2 + q.variance - 1 - q.variance.log()).sum()
        squared = (run.module.vae.decode(q.mean).mean - batch.target).square().mean((1, 2, 3)).sum()
        for name, value in (
            ("elbo", log_likelihood - kl),
            ("kl", kl),
            ("log_likelihood", log_likelihood),
            ("mse", squared),
        ):
            total[name] += value.item() / len(run.data.test)
    for name, value in total.items():
        assert run.metrics[f"test/{name}"] == pytest.approx(value, rel=1e-5)


def test_same_seed_gives_same_weights(small: Trainer) -> None:
    first, again, other = small(name="a"), small(name="b"), small("seed=1", name="c")
    assert same(weights(first), weights(again))
    assert not same(weights(first), weights(other))
    for name in ("test/elbo", "val/elbo"):
        assert first.metrics[name] == again.metrics[name]


def test_loader_workers_do_not_change_weights(small: Trainer) -> None:
    plain = small("data.binarize=dynamic", name="a")
    workers = small("data.binarize=dynamic", "data.num_workers=2", name="b")
    assert same(weights(plain), weights(workers))


def test_resumed_run_equals_uninterrupted_run(small: Trainer) -> None:
    options = ["data.binarize=dynamic", "encoder.dropout=0.1"]
    whole = small(*options, "trainer.max_epochs=5", name="whole")
    half = small(*options, "trainer.max_epochs=3", name="half")
    resumed = train([f"resume={half.path}", "trainer.max_epochs=5"])
    assert resumed.path == half.path
    assert same(weights(whole), weights(resumed))
    assert same(weights(whole, "best"), weights(resumed, "best"))
    assert resumed.metrics["test/elbo"] == whole.metrics["test/elbo"]
    without_time = [
        [{name: value for name, value in row.items() if name != "train/seconds"} for row in curves(run)]
        for run in (whole, resumed)
    ]
    assert without_time[0] == without_time[1]


@pytest.mark.parametrize(
    "scheduler",
    [
        ["scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=100"],
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (
                [
                    "scheduler=plateau",
                    "scheduler.monitor=validation",
                    "scheduler.patience=0",
                    "scheduler.threshold=100",
                ],
                ["scheduler=step", "scheduler.milestones=[2,4]"],
                ["scheduler=cosine", "scheduler.T_max=5"],
            )
        ),
    ],
)
def test_resumed_run_continues_scheduler(small: Trainer, scheduler: list[str]) -> None:
    options = [*scheduler, "data.rotation=15", "noise=salt_and_pepper", "likelihood=gaussian_shared"]
    whole = small(*options, "trainer.max_epochs=5", name="whole")
    half = small(*options, "trainer.max_epochs=3", name="half")
    resumed = train([f"resume={half.path}", "trainer.max_epochs=5"])
    assert same(weights(whole), weights(resumed))
    rates = [[float(row["train/lr"]) for row in curves(run)] for run in (whole, resumed)]
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 2
    assert rates[0][0] == 1e-3


def test_validation_plateau_counts_only_epochs_with_validation(small: Trainer) -> None:
    plateau = ["scheduler=plateau", "scheduler.monitor=validation", "scheduler.patience=0", "scheduler.threshold=1e6"]
    run = small(*plateau, "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=6")
    rates = [float(row["train/lr"]) for row in curves(run)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4])  # the count begins with the first validation


@pytest.mark.parametrize("monitor", ["training", "validation"])
def test_falling_loss_is_not_a_plateau(small: Trainer, monitor: str) -> None:
    plateau = ["scheduler=plateau", f"scheduler.monitor={monitor}", "scheduler.patience=0", "scheduler.threshold=0"]
    run = small(*plateau, "trainer.max_epochs=4")
    elbos = [float(row["val/elbo"]) for row in curves(run)]
    assert elbos == sorted(elbos)
    assert {float(row["train/lr"]) for row in curves(run)} == {1e-3}


def test_cosine_scheduler_cannot_resume_past_its_end(small: Trainer) -> None:
    run = small("scheduler=cosine")
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs=3: must be at most scheduler\.T_max=2"):
        train([f"resume={run.path}", "trainer.max_epochs=3"])


def test_metrics_of_unnormalised_likelihood_are_marked(small: Trainer) -> None:
    run = small("model=gaussian_mlp", "likelihood=cross_entropy")
    reported = {name.partition("/")[2] for name in run.metrics if name.startswith(("val/", "test/"))}
    assert reported == {"elbo_unnormalised", "log_likelihood_unnormalised", "kl", "mse"}
    assert not {"train/elbo", "val/elbo", "train/log_likelihood"} & curves(run)[0].keys()
    best = max(float(row["val/elbo_unnormalised"]) for row in curves(run))
    assert run.metrics["val/elbo_unnormalised"] == pytest.approx(best, rel=1e-6)
    assert run.metrics["checkpoint"] == "best.ckpt"
    assert "elbo " not in (run.path / "train.log").read_text()


def curves(run: Run) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_run_directory_contains_all_files_and_metrics(small: Trainer) -> None:
    run = small()
    files = {str(file.relative_to(run.path)) for file in run.path.rglob("*") if file.is_file()}
    expected = {"config.yaml", "metrics.csv", "metrics.json", ".hydra/config.yaml", ".hydra/overrides.yaml"}
    expected |= {".hydra/provenance.json", "report.html"}
    assert files == expected | {"checkpoints/best.ckpt", "checkpoints/last.ckpt", "train.log"}
    assert "results: " in (run.path / "train.log").read_text()
    stored = OmegaConf.to_container(OmegaConf.load(run.path / "config.yaml"), resolve=False)
    assert "${" not in json.dumps(stored)
    assert stored["prior"]["latent_dim"] == stored["latent_dim"] == 2
    rows = curves(run)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for name in ("train/loss", "val/elbo", "val/log_likelihood", "val/kl", "val/mse"):
        assert all(float(row[name]) < inf for row in rows)
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics == run.metrics
    for name in (
        "test/elbo",
        "test/log_likelihood",
        "test/kl",
        "test/mse",
        "seconds",
        "images_per_second",
        "version/torch",
    ):
        assert name in metrics
    assert metrics["epochs"] == 2
    assert metrics["test/elbo"] == pytest.approx(metrics["test/log_likelihood"] - metrics["test/kl"])


def test_checkpoints_contain_only_tensors_and_plain_values(small: Trainer) -> None:
    run = small()
    for name in ("best", "last"):
        torch.load(run.path / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_best_checkpoint_is_tested(small: Trainer) -> None:
    leaps = ["scheduler=step", "scheduler.milestones=[2]", "scheduler.gamma=10000"]  # the ELBO falls at the end
    run = small(*leaps, "trainer.max_epochs=4")
    elbos = [float(row["val/elbo"]) for row in curves(run)]
    assert max(elbos) != elbos[-1]
    assert run.metrics["val/elbo"] == pytest.approx(max(elbos), rel=1e-6)
    assert same(run.module.state_dict(), weights(run, "best"))


def test_autoencoder_reports_neither_elbo_nor_kl(small: Trainer) -> None:
    run = small("model=ae_mlp")
    reported = {name for name in run.metrics if name.startswith(("val/", "test/"))}
    assert reported == {f"{stage}/{name}" for stage in ("val", "test") for name in ("log_likelihood", "mse")}
    errors = [float(row["val/mse"]) for row in curves(run)]
    assert run.metrics["val/mse"] == pytest.approx(min(errors), rel=1e-6)


def test_last_checkpoint_is_tested_without_validation(small: Trainer) -> None:
    run = small("data.val_fraction=0")
    assert run.metrics["checkpoint"] == "last.ckpt"
    assert not (run.path / "checkpoints" / "best.ckpt").exists()
    assert "test/elbo" in run.metrics
    assert "val/elbo" not in run.metrics


def test_zero_epochs_evaluate_initial_weights(small: Trainer) -> None:
    run = small("trainer.max_epochs=0")
    assert run.metrics["steps"] == 0
    assert same(run.module.state_dict(), weights(run))


def test_completed_run_is_not_trained_again(small: Trainer) -> None:
    first = small()
    before = (first.path / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    again = small()
    assert again.metrics == first.metrics
    assert (first.path / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


def test_run_directory_with_other_options_is_rejected(small: Trainer) -> None:
    first = small()
    with pytest.raises(ConfigError, match="latent_dim was 2, is now 3"):
        small("latent_dim=3")
    assert runs.directory.stored_config(first.path).latent_dim == 2


def test_run_directory_with_other_data_root_is_rejected(tmp_path: Path, small: Trainer) -> None:
    options = ["data=folder", "data.shape=[1,8,8]", "data.batch_size=8", "likelihood=gaussian"]
    for name in ("cats", "dogs"):
        write_images(tmp_path / name / "train")
    small(*options, f"data.root={tmp_path / 'cats'}")
    with pytest.raises(ConfigError, match=r"data\.root was .*cats, is now .*dogs"):
        small(*options, f"data.root={tmp_path / 'dogs'}")


def test_option_missing_from_old_run_has_its_default(small: Trainer) -> None:
    run = small()
    config = OmegaConf.load(run.path / "config.yaml")
    del config["checkpoint_every"]
    OmegaConf.save(config, run.path / "config.yaml")
    assert runs.load(run.path).config.checkpoint_every is None


def test_resume_rejects_changed_options(small: Trainer) -> None:
    run = small()
    for change in ("model=ae_mlp", "latent_dim=3", "optimizer.lr=1e-4", "seed=1"):
        with pytest.raises(ConfigError, match=f"^{change.partition('=')[0]}: cannot be changed"):
            train([f"resume={run.path}", change])
    with pytest.raises(DataError, match="expected a run directory"):
        train([f"resume={run.path.parent}"])


def test_epoch_without_validation_has_no_validation_metrics(small: Trainer) -> None:
    run = small("trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4", "trainer.num_sanity_val_steps=1")
    assert [row["val/elbo"] != "" for row in curves(run)] == [False, True, False, True]
    assert all(row["train/loss"] for row in curves(run))


def test_moved_run_resumes_and_keeps_best_checkpoint(small: Trainer, tmp_path: Path) -> None:
    falling = ["objective.beta=0.001", "optimizer.lr=0.05"]  # the ELBO is highest after the second epoch
    whole = small(*falling, "trainer.max_epochs=4", name="whole")
    half = small(*falling, "trainer.max_epochs=3", name="half")
    moved = half.path.rename(tmp_path / "moved")
    resumed = train([f"resume={moved}", "trainer.max_epochs=4"])
    assert same(weights(whole, "best"), weights(resumed, "best"))
    assert same(weights(whole), weights(resumed))
    assert resumed.metrics["test/elbo"] == whole.metrics["test/elbo"]
    assert resumed.metrics["seconds"] > half.metrics["seconds"]


@pytest.mark.parametrize(
    ("truncate_to", "options", "expected"),
    [
        (100, ["trainer.max_epochs=5"], DataError),
        (None, ["trainer.max_epochs=1"], ConfigError),
        (None, ["trainer.max_epochs=5", "hydra.run.dir=elsewhere"], ConfigError),
        (None, ["data.root=elsewhere"], ConfigError),
        (None, ["trainer.precision=64-true", "trainer.max_epochs=5"], ConfigError),
    ],
)
def test_failed_resume_leaves_run_unchanged(
    small: Trainer, truncate_to: int | None, options: list[str], expected: type[Exception]
) -> None:
    run = small()
    if truncate_to is not None:
        last = run.path / "checkpoints" / "last.ckpt"
        last.write_bytes(last.read_bytes()[:truncate_to])
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    with pytest.raises(expected):
        train([f"resume={run.path}", *options])
    assert before == {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}


def test_weights_have_precision_of_run(small: Trainer) -> None:
    run = small("trainer.precision=64-true")
    assert {weight.dtype for weight in weights(run).values()} == {torch.float64}


@pytest.mark.parametrize(
    "options",
    [
        ["trainer.gradient_clip_val=1"],
        ["trainer.precision=bf16-mixed"],
        ["trainer.accumulate_grad_batches=2"],
        ["encoder.norm=BatchNorm1d", "decoder.norm=LayerNorm"],
        ["encoder.activation=[ELU]", "decoder.activation=Tanh"],
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (
                ["encoder.dropout=0.5"],
                ["posterior.scale=softplus"],
                ["objective.beta=2"],
                ["objective.warmup_steps=10"],
                ["objective.kl=sampled", "objective.samples=3"],
                ["optimizer=adamw"],
                ["data.binarize=dynamic"],
                ["data.binarize=static"],
                ["data.binarize_input=false"],
                ["data.batch_size=50"],
                ["data.rotation=15"],
                ["data.shift=1"],
                *([f"noise={noise}"] for noise in ("dropout", "salt_and_pepper", "gaussian", "masking")),
                *(
                    [f"likelihood={kind}"]
                    for kind in ("gaussian", "gaussian_shared", "gaussian_learned", "cross_entropy")
                ),
                ["scheduler=step", "scheduler.milestones=[1]"],
                ["scheduler=cosine"],
                ["encoder.init=kaiming", "decoder.init=kaiming"],
                ["decoder.init=xavier"],
            )
        ),
    ],
)
def test_options_change_weights(small: Trainer, plain: Run, options: list[str]) -> None:
    assert not same(weights(plain), weights(small(*options)))


def test_several_devices_need_command_line(small: Trainer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.devices"):
        small("trainer.devices=2", "trainer.accelerator=cpu")
    assert list(tmp_path.iterdir()) == []


def test_trained_module_can_be_copied(small: Trainer) -> None:
    run = small()
    assert same(copy.deepcopy(run.module).state_dict(), run.module.state_dict())


def test_compile_rejects_objective_with_weights(small: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vae_lab.objectives.Elbo", torch.nn.Identity)
    with pytest.raises(ConfigError, match=r"^compile=true: not supported for objectives with weights"):
        small("compile=true")


@pytest.mark.slow
@pytest.mark.skipif(which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    ("tolerance", "options"),
    [
        (1e-6, []),
        (
            1e-4,  # batch norm amplifies rounding
            [
                *("encoder.norm=BatchNorm1d", "encoder.dropout=0.2", "likelihood=gaussian_shared", "noise=dropout"),
                *("trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=5", "objective.samples=2"),
            ],
        ),
    ],
)
def test_compiled_training_gives_same_metrics(small: Trainer, tolerance: float, options: list[str]) -> None:
    plain, compiled = small(*options, name="plain"), small(*options, "compile=true", name="compiled")
    for name in ("test/elbo", "test/log_likelihood", "val/elbo"):
        assert compiled.metrics[name] == pytest.approx(plain.metrics[name], rel=tolerance)
    assert weights(plain).keys() == weights(compiled).keys()
    assert same(copy.deepcopy(compiled.module).state_dict(), weights(compiled, "best"))


def test_training_restores_process_state(small: Trainer) -> None:
    check, level = os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK"), logging.getLogger("pytorch_lightning").level
    small("trainer.deterministic=true")
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK") == check
    assert logging.getLogger("pytorch_lightning").level == level


@pytest.mark.slow
def test_failed_compilation_gives_one_line_error(small: Trainer) -> None:
    without = {"cpp.cxx": (None, "/no/such/compiler"), "force_disable_caches": True}
    with (
        torch._inductor.config.patch(without),
        pytest.raises(ConfigError, match=r"^compile=true: compilation failed: .*No working C\+\+ compiler"),
    ):
        small("compile=true", "latent_dim=3")


def test_images_too_large_for_device_are_reported(small: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    move = Images.to

    def full(images: Images, device: torch.device) -> Images:
        if len(images) > 128:  # more than a batch
            raise torch.OutOfMemoryError
        return move(images, device)

    monkeypatch.setattr(Images, "to", full)
    with pytest.raises(DataError, match=r"use data\.num_workers=2"):
        small()
    small("data.num_workers=2", name="other")


def test_user_defined_plugin_is_used(small: Trainer) -> None:
    CountingIO.saved = 0
    small("+trainer.plugins=[{_target_: conftest.CountingIO}]")
    assert CountingIO.saved > 0


def test_profiler_is_used(small: Trainer, caplog: pytest.LogCaptureFixture) -> None:
    small("trainer.profiler=simple")
    assert "run_training_batch" in caplog.text


def test_resume_without_validation_tests_last_checkpoint(small: Trainer) -> None:
    run = small()
    resumed = train([f"resume={run.path}", "trainer.max_epochs=3", "trainer.limit_val_batches=0"])
    assert resumed.metrics["checkpoint"] == "last.ckpt"
    assert same(resumed.module.state_dict(), weights(resumed, "last"))


def test_corrupt_config_is_reported(small: Trainer) -> None:
    run = small()
    for content in ("", "name: x", "a: [", "- 1"):
        (run.path / "config.yaml").write_text(content)
        with pytest.raises(DataError, match=r"config\.yaml: corrupt"):
            runs.load(run.path)


def test_run_without_evaluation_completes(small: Trainer) -> None:
    run = small("trainer.limit_val_batches=0", "trainer.limit_test_batches=0")
    assert not [name for name in run.metrics if name.startswith(("val/", "test/"))]


@pytest.mark.slow
@needs_mnist
@pytest.mark.parametrize("model", ["bernoulli_mlp", "gaussian_mlp", "ae_mlp"])
def test_training_on_mnist_reduces_loss(tmp_path: Path, model: str) -> None:
    short = [
        "trainer.limit_train_batches=30",
        "trainer.max_epochs=2",
        "callbacks=none",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    run = train([f"model={model}", "data=mnist", "latent_dim=2", *short])
    before, after = (float(row["train/loss"]) for row in curves(run))
    assert after < before
    assert run.metrics["test/mse"] < 0.1


def test_non_finite_loss_does_not_change_weights(
    small: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, seen = Elbo.__call__, []

    def poisoned(self: Elbo, vae: VAE, batch: Batch, step: int) -> tuple[torch.Tensor, Terms]:
        loss, terms = plain(self, vae, batch, step)
        if step == 5:
            seen.append((vae, {name: weight.clone() for name, weight in vae.state_dict().items()}))
            loss, terms["kl"] = loss * torch.nan, terms["kl"] * torch.nan
        return loss, terms

    monkeypatch.setattr(Elbo, "__call__", poisoned)
    with pytest.raises(NonFiniteError, match=r"^loss, kl: not finite at step 5 \(epoch 1\)"):
        small()
    ((vae, before),) = seen
    assert same(before, vae.state_dict())
    assert "NonFiniteError" in (tmp_path / "run" / "train.log").read_text()


def test_non_finite_evaluation_names_its_term() -> None:
    module = runs.build_module(compose("train", SMALL)[0])
    strategy = SimpleNamespace(reduce=lambda total, **_: total)
    module.trainer = trainer = SimpleNamespace(sanity_checking=False, global_step=3, strategy=strategy)
    module.evaluation.add({"kl": torch.ones(2), "mse": torch.tensor([1.0, inf])})
    with pytest.raises(NonFiniteError, match=rf"^val/mse: not finite after step {trainer.global_step}"):
        module.on_validation_epoch_end()
    assert not module.numbers
