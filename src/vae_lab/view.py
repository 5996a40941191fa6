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
from vae_lab.model import BaseVAE, Batch, kl_per_dimension
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
        mean: (N, D), or what stands for it: the center of the posterior.
        std: standard deviations (N, D); None for points, and where they have no closed form.
        kl: KL to the prior in nats (N, D); None for points, and where it does not factorise or has no closed form. That
            of a hierarchy is estimated from a sample, by `View.codes` alone.
        label: class of each image (N,).
        context: what a conditional model is conditioned on (N, ...); None for others.
    """

    mean: Tensor
    std: Tensor | None
    kl: Tensor | None
    label: Tensor
    context: Tensor | None


class History(NamedTuple):
    """The epochs of a training.

    Attributes:
        rows: the numbers of each epoch.
        kl: of each stochastic layer the KL of each latent (epochs, D) by stage, in nats; the name of an only layer is
            empty.
    """

    rows: Sequence[Mapping[str, float]]
    kl: Mapping[str, Mapping[str, Tensor]]


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

    vae: BaseVAE
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
        return self.vae.latent_dim

    @property
    def has_density(self) -> bool:
        """Whether the posterior is more than a point."""
        return self.vae.has_density

    @property
    def center(self) -> str:
        """What the encoder's place in latent space is called, such as `posterior mean`."""
        return self.vae.center_name

    @property
    def where(self) -> str:
        """The plural of `center`."""
        return f"{self.center}s"

    @property
    def name(self) -> str:
        """The model in its own words, the data and the epoch."""
        return f"{self.vae.name}, {type(self.data).__name__}, epoch {self.epoch}"

    @property
    def is_hierarchy(self) -> bool:
        """Whether there are several stochastic layers."""
        return len(self.vae.latent_dims) > 1

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
                reconstruction = self.reconstruct(batch)
                found.append(squared_error(reconstruction, batch.target).cpu())
        error, label = torch.cat(found), self.label.cpu()
        return Errors(error, label, class_means(error, label, len(self.class_names)))

    @property
    def has_standard_prior(self) -> bool:
        """Whether the prior is N(0, I), in a conditional model with the context of every class."""
        p = self.vae.latent_prior(self.context(self.label.unique().tolist()))
        if not (isinstance(p, Independent) and isinstance(p.base_dist, Normal)):
            return False
        return bool((p.mean == 0).all() and (p.stddev == 1).all())

    @cached_property
    def has_std(self) -> bool:
        """Whether the standard deviation of the posterior has a closed form."""
        with self.undisturbed(0):
            return self.encode(self.blank).std is not None

    @cached_property
    def is_conditional(self) -> bool:
        """Whether the model has a context."""
        return self.vae.context(self.blank) is not None

    @property
    def mean(self) -> str:
        """What a mean image is called: `E[x|z]`, or `E[x|z, c]` of a conditional model."""
        return "E[x|z, c]" if self.is_conditional else "E[x|z]"

    @property
    def blank(self) -> Batch:
        """A black image of the first class, for questions that do not depend on the data."""
        pixels = torch.zeros(1, *self.data.shape, device=self.device, dtype=self.dtype)
        return Batch(pixels, pixels, torch.zeros(1, dtype=torch.long, device=self.device))

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
        context = self.vae.context(batch)
        q = self.vae.encode(batch.input, context)
        prior = self.vae.latent_prior(context) if self.has_density else None
        kl = None if prior is None else kl_per_dimension(q, prior)
        try:
            std = q.stddev if self.has_density else None
        except NotImplementedError:  # torch's word for what has no closed form
            std = None
        found = (self.vae.center(q), std, kl)
        mean, std, kl = (None if each is None else each.float().cpu() for each in found)
        assert mean is not None
        assert batch.label is not None
        return Codes(mean, std, kl, batch.label.cpu(), None if context is None else context.cpu())

    def reconstruct(self, batch: Batch) -> Tensor:
        """Return the mean reconstruction of a batch from the posterior's center (B, C, H, W), on the model's device."""
        context = self.vae.context(batch)
        return self.vae.reconstruct(self.vae.encode(batch.input, context), context).mean

    def context(self, labels: Sequence[int]) -> Tensor | None:
        """Return the context (N, ...) of the first test image of each class of a list; None where there is none.

        Raises:
            ValueError: for a class without a test image.
        """
        if not self.is_conditional:
            return None
        classes = list(dict.fromkeys(labels))
        context = self.vae.context(self.batch(torch.cat([self.chosen(1, [label]) for label in classes])))
        assert context is not None
        return context[[classes.index(label) for label in labels]]

    @torch.no_grad()
    def codes(self, count: int) -> Codes:
        """Return the posteriors of `count` test images, evenly spread over the split, or of all that there are."""
        size = len(self.label)
        spread = torch.arange(size) if count >= size else torch.linspace(0, size - 1, count).round().long()
        parts = []
        for indices in spread.split(CHUNK):
            batch = self.batch(indices)
            codes = self.encode(batch)
            if self.is_hierarchy and self.has_density:
                layer = next(self.vae.draw(batch).layers())  # (1, B, D) where it factorises
                codes = codes._replace(kl=layer[0].float().cpu() if layer.dim() == 3 else None)
            parts.append(codes)
        return Codes._make(None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True))

    @torch.no_grad()
    def decode(self, z: Tensor, context: Tensor | None = None, sampled: bool = False) -> Tensor:
        """Return the images of latents (..., D): the mean of p(x|z), or one sample of it (..., C, H, W); on the CPU.

        Args:
            z: latents.
            context: of a conditional model, (N, ...) for N latents in their order, or (1, ...) for all of them.
            sampled: whether it is a sample.
        """
        images, flat = [], z.reshape(-1, z.shape[-1])
        if context is not None:
            context = context.expand(len(flat), *context.shape[1:]).to(self.device)
        for start in range(0, len(flat), CHUNK):
            chunk = slice(start, start + CHUNK)
            given = None if context is None else context[chunk]
            p = self.vae.decode(flat[chunk].to(self.device, self.dtype), given)
            images.append((p.sample() if sampled else p.mean).float().cpu())
        every = torch.cat(images)
        return every.view(*z.shape[:-1], *every.shape[1:])

    def prior_sample(self, count: int, context: Tensor | None = None) -> Tensor:
        """Return latents (count, D) from the prior, given contexts (count, ...) in a conditional model."""
        return self.vae.sample_prior(count, None if context is None else context.to(self.device)).float().cpu()
