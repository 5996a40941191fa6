from math import log, pi

import torch

from vae_lab.priors import StandardNormal


def test_standard_normal_log_prob_includes_all_constants(double: None) -> None:
    z = torch.randn(2, 5, 3)
    prior = StandardNormal(3)(lambda x: x)
    expected = -0.5 * (z.square().sum(-1) + 3 * log(2 * pi))
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-12, atol=1e-12)


def test_standard_normal_adds_nothing_to_checkpoint() -> None:
    assert StandardNormal(3).state_dict() == {}
