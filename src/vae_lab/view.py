"""A model as figures see it: what it makes of test images and of latents, without disturbing a training."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from vae_lab.metrics import ClassMeans, class_means, squared_error
from vae_lab.model import VAE, Batch, in_words, kl_per_dimension
from vae_lab.noise import seed_device

CHUNK = 500  # images or latents that go through the model at once


class Data(Protocol):
    """What a view needs of a data set: its test images, binarized and noisy as the test has them."""

    shape: tuple[int, ...]
    noise: nn.Module

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""

    @property
    def test_label(self) -> Tensor:
        """Class of each test image (N,); reads the images where that is not done yet."""

    def test_batch(self, indices: Tensor, device: torch.device, dtype: torch.dtype) -> Batch:
        """Return test images at some indices (M,)."""

    def test_batches(self, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Tensor, Batch]]:
        """Yield the indices and the images of each step of the test, with the noise that they have there."""


class Codes(NamedTuple):
    """Posteriors of N images, on the CPU.

    Attributes:
        mean: (N, D).
        std: standard deviations (N, D); None for points.
        kl: KL to the prior in nats (N, D); None for points, and where it has no closed form.
        label: class of each image (N,).
    """

    mean: Tensor
    std: Tensor | None
    kl: Tensor | None
    label: Tensor


class History(NamedTuple):
    """The epochs of a training: a row of numbers for each, and the KL of each latent (epochs, D) by stage, in nats."""

    rows: Sequence[Mapping[str, float]]
    kl: Mapping[str, Tensor]


class Errors(NamedTuple):
    """The squared error of every test image (N,), its class (N,), and the means of the classes."""

    error: Tensor
    label: Tensor
    classes: ClassMeans


@dataclass(frozen=True)
class View:
    """A model after some epoch, and the data that it is looked at with.

    Args:
        vae: the model.
        data: the data; figures take the test split, which is read when it is first needed.
        epoch: how many epochs the weights have seen.
        history: returns the numbers of the epochs; None where there are none.
    """

    vae: VAE
    data: Data
    epoch: int
    history: Callable[[], History] | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.vae.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights."""
        return next(self.vae.parameters()).dtype

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions D."""
        return self.vae.decoder.in_shape[0]

    @property
    def has_density(self) -> bool:
        """Whether the posterior is more than a point."""
        return self.vae.encoder.has_density

    @property
    def where(self) -> str:
        """What the encoder's place in latent space is called."""
        return "posterior means" if self.has_density else "codes"

    @property
    def name(self) -> str:
        """The model in a few words: likelihood, network, kind, latent size and data."""
        likelihood, network = (type(part).__name__ for part in (self.vae.decoder.head, self.vae.encoder.network))
        words = in_words(likelihood, network, self.has_density, self.latent_dim)
        return f"{words}, {type(self.data).__name__}, epoch {self.epoch}"

    @property
    def label(self) -> Tensor:
        """Class of each test image (N,).

        Raises:
            DataError: where the images are missing or damaged.
        """
        return self.data.test_label

    @cached_property
    def errors(self) -> Errors:
        """Squared error of the mean reconstruction of every test image, in the order of the split."""
        found = []
        with self.undisturbed(0):
            for _, batch in self.data.test_batches(self.device, self.dtype):
                reconstruction = self.vae.reconstruct(self.vae.encode(batch.input))
                found.append(squared_error(reconstruction.mean, batch.target).cpu())
        error, label = torch.cat(found), self.label.cpu()
        return Errors(error, label, class_means(error, label, len(self.class_names)))

    @property
    def has_standard_prior(self) -> bool:
        """Whether the prior is N(0, I)."""
        p = self.vae.prior(self.vae.encode)
        normal = isinstance(p, Independent) and isinstance(p.base_dist, Normal)
        return normal and bool((p.mean == 0).all() and (p.stddev == 1).all())

    @contextmanager
    def undisturbed(self, seed: int) -> Iterator[None]:
        """Evaluate, without gradients and with random numbers from a seed, and leave everything as it was."""
        modes = [(module, module.training) for module in self.vae.modules()]
        device = self.device
        where = {"devices": []} if device.type == "cpu" else {"devices": [device], "device_type": device.type}
        with torch.random.fork_rng(**where), torch.no_grad():
            seed_device(seed, device)
            self.vae.eval()
            try:
                yield
            finally:
                for module, training in modes:
                    module.training = training

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, or their numbers where they have none.

        Raises:
            DataError: where the images are missing or damaged.
        """
        _ = self.label  # reads the data, which tells the names
        return self.data.class_names

    def names(self, indices: Tensor) -> list[str]:
        """Return the names of the classes of test images at some indices (M,)."""
        return [self.class_names[label] for label in self.label[indices].tolist()]

    def chosen(self, count: int, labels: Sequence[int] | None = None) -> Tensor:
        """Return the indices of up to `count` test images, one of each class in turn: the same in every epoch.

        Args:
            count: how many.
            labels: of these classes alone, in this order; None for all.

        Raises:
            ValueError: where there is none of these classes.
        """
        label, names = self.label, self.class_names
        classes = range(len(names)) if labels is None else list(dict.fromkeys(labels))
        of_class = [(label == each).nonzero().flatten() for each in classes]
        turns = (places[turn] for turn in range(count) for places in of_class if turn < len(places))
        found = [int(place) for place in islice(turns, count)]
        if not found:
            raise ValueError(f"the test split has no image of {', '.join(names[each] for each in classes)}")
        return torch.tensor(found)

    def numbers(self, labels: Sequence[int | str]) -> list[int]:
        """Return the numbers of classes that are given by number or by name.

        Raises:
            ValueError: for one that the data do not have.
        """
        if not labels:
            return []
        names = self.class_names
        known = {**{str(number): number for number in range(len(names))}, **{name: k for k, name in enumerate(names)}}
        for label in labels:
            if str(label) not in known:
                listed = names if len(names) <= 20 else [*names[:3], "…", names[-1]]
                raise ValueError(f"{label} is no class of {type(self.data).__name__}: there are {', '.join(listed)}")
        return [known[str(label)] for label in labels]

    def batch(self, indices: Tensor) -> Batch:
        """Return test images at some indices (M,)."""
        return self.data.test_batch(indices, self.device, self.dtype)

    @torch.no_grad()
    def encode(self, batch: Batch) -> Codes:
        """Return the posteriors of a batch."""
        q = self.vae.encode(batch.input)
        assert batch.label is not None
        if not self.has_density:
            return Codes(q.mean.float().cpu(), None, None, batch.label.cpu())
        kl = kl_per_dimension(q, self.vae.prior(self.vae.encode))
        known = None if kl is None else kl.float().cpu()
        return Codes(q.mean.float().cpu(), q.stddev.float().cpu(), known, batch.label.cpu())

    def codes(self, count: int) -> Codes:
        """Return the posteriors of `count` test images, evenly spread over the split, or of all that there are."""
        size = len(self.label)
        spread = torch.arange(size) if count >= size else torch.linspace(0, size - 1, count).round().long()
        parts = [self.encode(self.batch(indices)) for indices in spread.split(CHUNK)]
        mean, std, kl, label = (None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True))
        assert mean is not None
        assert label is not None
        return Codes(mean, std, kl, label)

    @torch.no_grad()
    def decode(self, z: Tensor, sampled: bool = False) -> Tensor:
        """Return the images of latents (..., D): the mean of p(x|z), or one sample of it (..., C, H, W); on the CPU."""
        images = []
        for part in z.reshape(-1, z.shape[-1]).split(CHUNK):
            p = self.vae.decode(part.to(self.device, self.dtype))
            images.append((p.sample() if sampled else p.mean).float().cpu())
        flat = torch.cat(images)
        return flat.view(*z.shape[:-1], *flat.shape[1:])

    def prior_sample(self, count: int) -> Tensor:
        """Return latents (count, D) from the prior."""
        return self.vae.prior(self.vae.encode).sample(torch.Size([count])).float().cpu()
