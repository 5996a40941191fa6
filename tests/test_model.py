import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, StudentT, kl_divergence

from conftest import IMAGE, LATENT, make_batch, make_vae
from vae_lab import posteriors
from vae_lab.likelihoods import Gaussian
from vae_lab.model import VAE, Batch, Conditional, Draw, kl_per_dimension
from vae_lab.networks import MLP, ConvDecoder, ConvEncoder


def test_draw_has_expected_shapes() -> None:
    draw = make_vae().draw(make_batch(6), samples=5)
    assert draw.z.shape == (5, 6, LATENT)
    assert draw.q.batch_shape == (6,)
    assert draw.p.batch_shape == (5, 6)
    for value in (draw.log_likelihood, draw.log_prior, draw.log_posterior):
        assert value.shape == (5, 6)
    assert draw.kl.shape == (6, LATENT)


def test_densities_are_computed_on_first_access(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = []
    log_prob = Normal.log_prob
    monkeypatch.setattr(Normal, "log_prob", lambda self, value: evaluated.append(self) or log_prob(self, value))
    draw = make_vae().draw(make_batch())
    assert draw.kl is draw.kl
    assert not evaluated
    assert draw.log_prior is draw.log_prior
    assert draw.log_posterior is draw.log_posterior
    assert len(evaluated) == 2


def test_access_under_no_grad_keeps_gradients() -> None:
    vae, batch = make_vae(), make_batch()
    draws = []
    for access_first in (False, True):
        torch.manual_seed(0)
        draw = vae.draw(batch, samples=3)
        if access_first:
            with torch.no_grad():
                _ = draw.log_prior, draw.log_posterior, draw.kl
        weights = [draw.log_prior.sum(), draw.log_posterior.sum(), draw.kl.sum()]
        draws.append(torch.autograd.grad(sum(weights), list(vae.encoder.parameters())))
    for accessed, plain in zip(*draws, strict=True):
        assert torch.equal(accessed, plain)


class LearnedPrior(torch.nn.Module):
    """Prior with a learned mean."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(LATENT))

    def forward(self, encode: callable) -> Independent:
        return Independent(Normal(self.mean, torch.ones(LATENT)), 1)


def test_draw_under_no_grad_builds_no_graph() -> None:
    with torch.no_grad():
        draw = make_vae(prior=LearnedPrior()).draw(make_batch())
    assert not draw.log_prior.requires_grad
    assert not draw.kl.requires_grad


def test_draw_scores_its_own_samples(double: None) -> None:
    vae, batch = make_vae(), make_batch()
    draw = vae.draw(batch, samples=2)
    assert torch.equal(draw.log_posterior, vae.encode(batch.input).log_prob(draw.z))
    assert torch.equal(draw.log_likelihood, vae.decode(draw.z).log_prob(batch.target))
    for k in range(2):  # samples are decoded independently
        torch.testing.assert_close(vae.decode(draw.z[k]).mean, draw.p.mean[k])


def test_point_posterior_has_neither_densities_nor_kl() -> None:
    draw = make_vae(posteriors.Point(), Gaussian()).draw(make_batch(binary=False))
    assert draw.log_prior is draw.log_posterior is draw.kl is None
    assert draw.log_likelihood.shape == (1, 6)


def test_input_is_encoded_and_target_is_scored() -> None:
    vae, batch = make_vae(posteriors.Point()), make_batch()
    other = batch._replace(input=1 - batch.input)
    assert torch.equal(vae.draw(batch).p.mean[0], vae.reconstruct(vae.encode(batch.input)).mean)
    assert not torch.equal(vae.draw(batch).p.mean, vae.draw(other).p.mean)
    assert torch.equal(
        vae.draw(other).log_likelihood[0], vae.decode(vae.encode(other.input).mean).log_prob(batch.target)
    )


def test_analytic_kl_equals_formula_and_torch(double: None) -> None:
    mean, scale = torch.randn(7, 4), torch.rand(7, 4) + 0.1
    q, p = Independent(Normal(mean, scale), 1), Independent(Normal(torch.zeros(4), torch.ones(4)), 1)
    kl = kl_per_dimension(q, p)
    formula = 0.5 * (mean**2 + scale**2 - 1 - 2 * scale.log())
    torch.testing.assert_close(kl, formula, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kl.sum(-1), kl_divergence(q, p), rtol=1e-12, atol=1e-12)


def test_analytic_kl_equals_mean_over_samples(double: None) -> None:
    torch.manual_seed(0)
    vae, batch = make_vae(), make_batch(1)
    q, prior = vae.encode(batch.input), vae.prior(vae.encode)
    z = q.sample((200_000,))
    difference = q.log_prob(z) - prior.log_prob(z)
    error = difference.std() / len(z) ** 0.5
    assert (difference.mean() - kl_per_dimension(q, prior).sum()).abs() < 5 * error


def test_kl_without_closed_form_or_factorisation_is_none() -> None:
    factorised = Independent(Normal(torch.zeros(1, 2), torch.ones(1, 2)), 1)
    full = MultivariateNormal(torch.zeros(1, 2), torch.eye(2))
    point = posteriors.Point()(torch.zeros(1, 2))
    assert kl_per_dimension(factorised, full) is None
    assert kl_per_dimension(full, full) is None
    assert kl_per_dimension(point, factorised) is None


class Learned(posteriors.Normal):
    """Head with a learned shift."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(()))

    def forward(self, parameters: torch.Tensor) -> torch.distributions.Distribution:
        return super().forward(parameters + self.shift)


def test_detach_stops_only_gradients_of_parameters_and_head() -> None:
    vae, batch = make_vae(Learned()), make_batch()
    torch.manual_seed(1)
    draw = vae.draw(batch, samples=2, detach=True)
    torch.manual_seed(1)
    assert torch.equal(vae.draw(batch, samples=2).log_posterior, draw.log_posterior)
    z = draw.z.detach().requires_grad_()
    vae.encoder.distribution(vae.encoder.outputs(batch.input), detach=True).log_prob(z).sum().backward()
    assert z.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in vae.encoder.parameters())
    draw.log_posterior.sum().backward()  # only through the samples
    assert all(weight.grad is not None for weight in vae.encoder.parameters())


def test_detached_draw_runs_encoder_once() -> None:
    vae, batch = make_vae(), make_batch()
    calls = []
    vae.encoder.network.register_forward_hook(lambda *_: calls.append(1))
    vae.draw(batch, samples=3, detach=True)
    assert len(calls) == 1


@pytest.mark.parametrize("leading", [(), (4,), (3, 4)])
def test_conditional_accepts_any_leading_axes(leading: tuple[int, ...]) -> None:
    conditional = Conditional(MLP, posteriors.Normal(), IMAGE, (2,))
    q = conditional(torch.rand(*leading, *IMAGE))
    assert q.batch_shape == leading
    assert q.event_shape == (2,)


def test_heads_compute_in_float32_under_autocast() -> None:
    vae, batch = make_vae(), make_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert vae.encoder.outputs(batch.input).dtype == torch.bfloat16
        draw = vae.draw(batch)
    assert {draw.log_likelihood.dtype, draw.log_posterior.dtype, draw.kl.dtype, draw.p.mean.dtype} == {torch.float32}


@pytest.mark.parametrize("network", [MLP, ConvEncoder])
@pytest.mark.parametrize(("given", "event"), [((1, 8, 8), (2,)), ((3,), (1, 8, 8))])
def test_conditional_accepts_context_with_any_leading_axes(network: type, given: tuple, event: tuple) -> None:
    if network is ConvEncoder and len(given) == 1:
        network = ConvDecoder
    conditional = Conditional(
        network, Gaussian() if len(event) > 1 else posteriors.Normal(), given, event, context_dim=4
    )
    x, context = torch.rand(3, 5, *given), torch.rand(5, 4)
    mean = conditional(x, context).mean
    assert mean.shape == (3, 5, *event)
    for k, b in ((0, 0), (2, 3)):
        torch.testing.assert_close(conditional(x[k, b], context[b]).mean, mean[k, b])
    assert not torch.allclose(conditional(x, context.flip(0)).mean, mean)
    with pytest.raises(ValueError, match=r"the context is missing; it must have shape \[5, 4\]"):
        conditional(x)
    for wrong in (torch.rand(5, 3), torch.rand(4), torch.rand(1, 4), torch.rand(3, 4)):
        with pytest.raises(ValueError, match=r"the context must have shape \[5, 4\], but has"):
            conditional(x, wrong)


class GivenLabel(VAE):
    """Conditional model with p(x|z, c), q(z|x, c) and p(z|c) for a label c in {0, 1, 2}."""

    class Prior(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Linear(3, LATENT)

        def forward(self, encode: callable, context: torch.Tensor) -> Independent:
            return Independent(Normal(self.mean(context), torch.tensor(0.1)), 1)

    def __init__(self) -> None:
        encoder = Conditional(MLP, posteriors.Normal(), IMAGE, (LATENT,), context_dim=3)
        decoder = Conditional(MLP, Gaussian(), (LATENT,), IMAGE, context_dim=3)
        super().__init__(encoder, decoder, self.Prior())

    def context(self, batch: Batch) -> torch.Tensor:
        return nn.functional.one_hot(batch.label, 3).to(batch.input)


def test_context_reaches_posterior_likelihood_and_prior(double: None) -> None:
    vae, batch = GivenLabel(), make_batch(6)._replace(label=torch.tensor([0, 1, 2, 0, 1, 2]))
    assert make_vae().context(batch) is None
    c = vae.context(batch)
    draw = vae.draw(batch, samples=2)
    torch.testing.assert_close(draw.q.mean, vae.encode(batch.input, c).mean)
    torch.testing.assert_close(draw.p.mean, vae.decode(draw.z, c).mean)
    torch.testing.assert_close(draw.log_prior, vae.latent_prior(c).log_prob(draw.z))
    expected = kl_divergence(draw.q.base_dist, Normal(vae.prior.mean(c), torch.tensor(0.1)))
    torch.testing.assert_close(draw.kl, expected)
    z = vae.sample_prior(3000, c[:3].repeat(1000, 1)).unflatten(0, (1000, 3))
    assert (z.mean(0) - vae.prior.mean(c[:3])).abs().max() < 0.02
    assert vae.sample_prior(5, c[:1]).shape == (5, LATENT)
    torch.testing.assert_close(vae.reconstruct(draw.q, c).mean, vae.decode(draw.q.mean, c).mean)


def test_head_can_define_center_of_posterior_without_closed_form_mean() -> None:
    class NoMean(posteriors.Normal):
        def forward(self, parameters: torch.Tensor) -> torch.distributions.Distribution:
            return torch.distributions.TransformedDistribution(super().forward(parameters), [])

    batch = make_batch()
    vae = make_vae(NoMean())
    with pytest.raises(
        NotImplementedError, match="NoMean: the mean of TransformedDistribution has no closed form; over"
    ):
        vae.reconstruct(vae.encode(batch.input))
    NoMean.center = lambda _, q: q.base_dist.mean
    NoMean.center_name = "base mean"
    assert vae.center_name == "base mean"
    assert vae.reconstruct(vae.encode(batch.input)).mean.shape == (6, *IMAGE)


def test_posterior_and_prior_of_different_sizes_are_rejected() -> None:
    q, p = (Independent(Normal(torch.zeros(2, size), torch.ones(size)), 1) for size in (3, 1))
    one = torch.zeros(2)
    draw = Draw(z=(q.sample(),), q=(q,), p=p, log_likelihood=one, prior=(p,))
    with pytest.raises(ValueError, match=r"posterior has size \[3\], but the prior has size \[1\]"):
        list(draw.layers())


def test_joint_layers_have_one_kl_per_sample() -> None:
    size = torch.eye(3).expand(2, 3, 3)
    q, p = (MultivariateNormal(torch.full((2, 3), mean), size) for mean in (0.0, 1.0))
    z, one = q.sample(torch.Size([4])), torch.zeros(4, 2)
    (layer,) = Draw(z=(z,), q=(q,), p=p, log_likelihood=one, prior=(p,)).layers()
    torch.testing.assert_close(layer, q.log_prob(z) - p.log_prob(z))
    assert layer.shape == (4, 2)


def test_kl_without_closed_form_is_none() -> None:
    q = Independent(Normal(torch.zeros(2, 3), torch.ones(3)), 1)
    assert kl_per_dimension(q, Independent(StudentT(torch.full((2, 3), 4.0)), 1)) is None


def test_hierarchical_vae_must_override_sample_prior() -> None:
    vae = make_vae()
    vae.latent_dims = (LATENT, 2)
    with pytest.raises(NotImplementedError, match=r"^VAE: .*`sample_prior`"):
        vae.sample_prior(1)
