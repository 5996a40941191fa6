import numpy as np
import torch

from vae_lab.metrics import Sums, class_means, squared_error


def test_metric_is_mean_over_images_despite_trailing_batch() -> None:
    values = torch.rand(23, dtype=torch.float64)
    sums = Sums()
    for batch in values.split(5):
        sums.add({"a": batch, "b": 2 * batch})
    means = sums.means()
    np.testing.assert_allclose([means["a"], means["b"]], [values.mean(), 2 * values.mean()], rtol=1e-14)
    assert sums.means() == {}


def test_vector_terms_are_averaged_elementwise() -> None:
    values, vectors = torch.rand(23, dtype=torch.float64), torch.rand(23, 3, dtype=torch.float64)
    sums = Sums()
    for value, vector in zip(values.split(5), vectors.split(5), strict=True):
        kept = sums.add({"a": value, "v": vector, "b": 2 * value})
        assert torch.equal(kept["v"], vector)
    means = sums.means()
    np.testing.assert_allclose([means["a"], means["b"]], [values.mean(), 2 * values.mean()], rtol=1e-14)
    np.testing.assert_allclose(means["v"], vectors.mean(0), rtol=1e-14)


def test_class_means_do_not_depend_on_order_of_images() -> None:
    term, label = torch.rand(1000), torch.randint(5, (1000,))
    label[label == 3] = 2
    order = torch.randperm(1000)
    found, again = class_means(term, label, 6), class_means(term[order], label[order], 6)
    expected = [term.numpy()[label == each].mean(dtype=np.float64) for each in (0, 1, 2, 4)]
    np.testing.assert_allclose(found.mean[[0, 1, 2, 4]], expected, rtol=1e-12)
    np.testing.assert_allclose(found.mean, again.mean, rtol=1e-12)
    assert found.mean[[3, 5]].isnan().all()
    assert found.images.tolist() == np.bincount(label, minlength=6).tolist()


def test_sum_of_many_float32_values_keeps_precision() -> None:
    sums = Sums()
    for _ in range(1000):
        sums.add({"a": torch.full((100,), 0.1)})
    np.testing.assert_allclose(sums.means()["a"], np.float32(0.1), rtol=1e-14)


def test_processes_are_summed_before_division() -> None:
    sums = Sums()
    sums.add({"a": torch.tensor([1.0, 2.0])})
    other = torch.tensor([10.0, 1.0], dtype=torch.float64)  # the other process has one image, with value 10
    assert sums.means(lambda total: total + other) == {"a": 13 / 3}


def test_squared_error_equals_numpy() -> None:
    mean, target = torch.rand(5, 3, 4, 4), torch.rand(5, 3, 4, 4)
    expected = ((mean.numpy() - target.numpy()) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(squared_error(mean, target), expected, rtol=1e-6)
