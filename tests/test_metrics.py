import numpy as np
import torch

from vae_lab.metrics import Sums, squared_error


def test_ragged_batches_give_the_mean_over_images() -> None:
    values = torch.rand(23, dtype=torch.float64)
    sums = Sums()
    for part in values.split(5):
        sums.add({"a": part, "b": 2 * part})
    means = sums.means()
    np.testing.assert_allclose([means["a"], means["b"]], [values.mean(), 2 * values.mean()], rtol=1e-14)
    assert sums.means() == {}


def test_many_float32_terms_keep_their_precision() -> None:
    sums = Sums()
    for _ in range(1000):
        sums.add({"a": torch.full((100,), 0.1)})
    np.testing.assert_allclose(sums.means()["a"], np.float32(0.1), rtol=1e-14)


def test_processes_add_up_before_the_division() -> None:
    sums = Sums()
    sums.add({"a": torch.tensor([1.0, 2.0])})
    other = torch.tensor([10.0, 1.0], dtype=torch.float64)  # one image, of 10, in the other process
    assert sums.means(lambda total: total + other) == {"a": 13 / 3}


def test_squared_error_is_numpys() -> None:
    mean, target = torch.rand(5, 3, 4, 4), torch.rand(5, 3, 4, 4)
    expected = ((mean.numpy() - target.numpy()) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(squared_error(mean, target), expected, rtol=1e-6)
