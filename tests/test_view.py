import random

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from vae_lab import runs
from vae_lab.runs import Run
from vae_lab.view import View


@pytest.fixture
def view(digits_run: Run) -> View:
    return View(digits_run.module.vae, digits_run.data, epoch=2)


def test_undisturbed_restores_model_and_random_state(view: View) -> None:
    view.vae.train()
    view.vae.decoder.eval()
    modes = [module.training for module in view.vae.modules()]
    torch.manual_seed(7)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    with view.undisturbed(seed=3):
        assert not any(module.training for module in view.vae.modules())
        assert not torch.is_grad_enabled()
        first = torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    assert [module.training for module in view.vae.modules()] == modes
    assert torch.is_grad_enabled()
    with view.undisturbed(seed=3):
        assert torch.equal(torch.rand(5), first)
    view.vae.eval()


def test_undisturbed_restores_model_after_error(view: View) -> None:
    view.vae.train()
    with pytest.raises(KeyError), view.undisturbed(seed=0):
        raise KeyError
    assert all(module.training for module in view.vae.modules())
    view.vae.eval()


def test_chosen_images_alternate_between_classes(view: View) -> None:
    label = view.label
    chosen = view.chosen(23)
    assert label[chosen].tolist() == [*range(10), *range(10), 0, 1, 2]
    for each in range(10):
        indices = (label == each).nonzero().flatten()
        assert chosen[label[chosen] == each].tolist() == indices[: 2 + (each < 3)].tolist()
    assert label[view.chosen(5, [8, 3])].tolist() == [8, 3, 8, 3, 8]
    assert len(view.chosen(10_000)) == len(label)
    assert view.chosen(10_000).unique().numel() == len(label)


def test_subset_of_sorted_split_has_every_class(digits_run: Run) -> None:
    run = runs.load(digits_run.path)
    run.data.setup()
    run.data.test = run.data.test.part(run.data.test.label.argsort())
    for count in (3, 50, 300, 359):
        label = View(run.module.vae, run.data, 2).codes(count).label
        assert len(label) == count
        assert label.unique().numel() == min(count, 10)


def test_class_without_test_images_is_reported(digits_run: Run) -> None:
    run = runs.load(digits_run.path)
    run.data.setup()
    run.data.test = run.data.test.part((run.data.test.label != 9).nonzero().flatten())
    view = View(run.module.vae, run.data, 2)
    assert len(view.chosen(1000)) == len(run.data.test)
    with pytest.raises(ValueError, match="the test split has no images of class 9"):
        view.chosen(3, [9])


def test_labels_can_be_numbers_or_names(view: View) -> None:
    assert view.numbers([3, "7"]) == [3, 7]
    with pytest.raises(ValueError, match="unknown class '12' in Digits; expected a number from 0 to 9"):
        view.numbers([3, 12])


def test_codes_and_images_equal_outputs_of_model(view: View) -> None:
    indices = torch.arange(359)
    batch = view.batch(indices)
    assert torch.equal(batch.target, (view.data.test.image > 127).float())
    with torch.no_grad():
        q = view.vae.encode(batch.target)
        codes = view.encode(batch)
        torch.testing.assert_close(codes.mean, q.mean)
        torch.testing.assert_close(codes.std, q.stddev)
        kl = torch.distributions.kl_divergence(Normal(q.mean, q.stddev), Normal(0.0, 1.0))
        torch.testing.assert_close(codes.kl, kl)
        assert torch.equal(codes.label, view.label)
        for name, values in view.codes(10_000)._asdict().items():
            torch.testing.assert_close(values, getattr(codes, name))
        z = torch.randn(3, 500, 3)  # decoded in several batches
        torch.testing.assert_close(view.decode(z), view.vae.decode(z).mean)
        assert set(view.decode(z, sampled=True).unique().tolist()) == {0.0, 1.0}


def test_batches_contain_test_split(view: View) -> None:
    batches = [batch for _, batch in view.data.test_batches(view.device, view.dtype)]
    assert torch.equal(torch.cat([batch.label for batch in batches]), view.label)
    assert [len(batch.label) for batch in batches] == [128, 128, 103]


def test_standard_prior_is_recognised(view: View) -> None:
    assert view.has_standard_prior
    other = View(view.vae, view.data, 0)
    original = other.vae.prior
    for prior in (Normal(torch.zeros(3), 2 * torch.ones(3)), Normal(torch.ones(3), torch.ones(3))):
        other.vae.prior = Prior(prior)
        assert not other.has_standard_prior
    other.vae.prior = original


class Prior(torch.nn.Module):
    def __init__(self, base: Normal) -> None:
        super().__init__()
        self.base = base

    def forward(self, encode: callable) -> Independent:
        return Independent(self.base, 1)


def test_view_has_name_and_epoch_of_run(view: View, digits_run: Run) -> None:
    assert view.name == "Bernoulli MLP VAE, z = 3, Digits, epoch 2"
    assert view.epoch == digits_run.module.epoch


def test_view_has_precision_of_weights(digits_run: Run) -> None:
    run = runs.load(digits_run.path)
    run.module.double()
    view = View(run.module.vae, run.data, 2)
    assert view.batch(torch.arange(3)).input.dtype == torch.float64
    with torch.no_grad():
        assert view.decode(torch.zeros(4, 3)).shape == (4, 1, 8, 8)
