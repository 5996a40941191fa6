"""Interface between figures and a model: posteriors, reconstructions and samples, without side effects on training."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from vae_lab.errors import did_you_mean
from vae_lab.metrics import ClassMeans, class_means, squared_error
from vae_lab.model import BaseVAE, Batch, kl_per_dimension
from vae_lab.noise import seed_device

CHUNK = 500  # images or latents per pass through the model


class Data(Protocol):
    """The data that a view needs: the test images, with the binarization and noise used in testing."""

    shape: tuple[int, ...]
    noise: nn.Module

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""

    @property
    def test_label(self) -> Tensor:
        """Class of each test image (N,). The images are read on first use."""

    def test_batch(self, indices: Tensor, device: torch.device, dtype: torch.dtype) -> Batch:
        """Return the test images at the given indices (M,)."""

    def test_batches(self, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Tensor, Batch]]:
        """Yield the indices and images for each test step; noise, if any, is that used in testing."""


class Codes(NamedTuple):
    """Posteriors of N images, on the CPU.

    Attributes:
        mean: posterior means (N, D), or the posterior's `center` if its mean has no closed form.
        std: standard deviations (N, D); None for a point posterior or if they have no closed form.
        kl: KL(q‖p(z)) in nats (N, D); None for a point posterior, or if the KL does not factorise or has no closed
            form. For a hierarchical VAE, only `View.codes` sets `kl`, which it estimates from one sample.
        label: class of each image (N,).
        context: context of a conditional model (N, ...); None for other models.
    """

    mean: Tensor
    std: Tensor | None
    kl: Tensor | None
    label: Tensor
    context: Tensor | None


class History(NamedTuple):
    """The metrics for all epochs of a run.

    Attributes:
        rows: metrics for each epoch, by name.
        kl: KL for each latent dimension (epochs, D) in nats, by stochastic layer and split. If there is only one
            layer, its name is empty.
    """

    rows: Sequence[Mapping[str, float]]
    kl: Mapping[str, Mapping[str, Tensor]]


class Errors(NamedTuple):
    """The squared error (N,) and class (N,) of each test image, and the mean error for each class."""

    error: Tensor
    label: Tensor
    classes: ClassMeans


@dataclass(frozen=True)
class View:
    """A model after a given epoch, and the data on which figures evaluate it.

    Args:
        vae: the model.
        data: the data; figures use the test split, which is read on first use.
        epoch: number of epochs for which the model has been trained.
        history: function that returns the metrics for all epochs; None if there are no metrics.
    """

    vae: BaseVAE
    data: Data
    epoch: int
    history: Callable[[], History] | None = None

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.vae.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the model's weights."""
        return next(self.vae.parameters()).dtype

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions D."""
        return self.vae.latent_dim

    @property
    def has_density(self) -> bool:
        """Whether the posterior has a density; false for a point posterior."""
        return self.vae.has_density

    @property
    def center(self) -> str:
        """Singular noun, such as `posterior mean`, for the latents that represent a posterior."""
        return self.vae.center_name

    @property
    def where(self) -> str:
        """`center`, in the plural."""
        return f"{self.center}s"

    @property
    def name(self) -> str:
        """Description of the model, the data and the epoch, used in titles."""
        return f"{self.vae.name}, {type(self.data).__name__}, epoch {self.epoch}"

    @property
    def is_hierarchy(self) -> bool:
        """Whether the model is a hierarchical VAE."""
        return len(self.vae.latent_dims) > 1

    @property
    def label(self) -> Tensor:
        """Class of each test image (N,).

        Raises:
            DataError: if the images are missing or corrupt.
        """
        return self.data.test_label

    @cached_property
    def errors(self) -> Errors:
        """Squared error between each test image and its mean reconstruction, in the order of the split."""
        found = []
        with self.undisturbed(0):
            for _, batch in self.data.test_batches(self.device, self.dtype):
                reconstruction = self.reconstruct(batch)
                found.append(squared_error(reconstruction, batch.target).cpu())
        error, label = torch.cat(found), self.label.cpu()
        return Errors(error, label, class_means(error, label, len(self.class_names)))

    @property
    def has_standard_prior(self) -> bool:
        """Whether the prior is N(0, I); for a conditional model, whether it is N(0, I) for every class."""
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
        """Symbol for a mean image: `E[x|z]`, or `E[x|z, c]` for a conditional model."""
        return "E[x|z, c]" if self.is_conditional else "E[x|z]"

    @property
    def blank(self) -> Batch:
        """A batch with one black image of the first class, used to inspect the model without reading data."""
        pixels = torch.zeros(1, *self.data.shape, device=self.device, dtype=self.dtype)
        return Batch(pixels, pixels, torch.zeros(1, dtype=torch.long, device=self.device))

    @contextmanager
    def undisturbed(self, seed: int) -> Iterator[None]:
        """Disable gradients, set evaluation mode and a seed, and restore module modes and random state on exit."""
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
        """Names of the classes, or their numbers if they have no names.

        Raises:
            DataError: if the images are missing or corrupt.
        """
        _ = self.label  # the names are known only after the data are read
        return self.data.class_names

    def names(self, indices: Tensor) -> list[str]:
        """Return the class names of the test images at the given indices (M,)."""
        return [self.class_names[label] for label in self.label[indices].tolist()]

    def chosen(self, count: int, labels: Sequence[int] | None = None) -> Tensor:
        """Return the indices of up to `count` test images, taken from each class in turn.

        The images are the same in every epoch.

        Args:
            count: maximum number of images.
            labels: classes to choose from, in this order; None for all.

        Raises:
            ValueError: if the test split has no images of these classes.
        """
        label, names = self.label, self.class_names
        classes = range(len(names)) if labels is None else list(dict.fromkeys(labels))
        of_class = [(label == each).nonzero().flatten() for each in classes]
        turns = (places[turn] for turn in range(count) for places in of_class if turn < len(places))
        found = [int(place) for place in islice(turns, count)]
        if not found:
            raise ValueError(f"the test split has no images of class {', '.join(names[each] for each in classes)}")
        return torch.tensor(found)

    def numbers(self, labels: Sequence[int | str]) -> list[int]:
        """Return the class numbers for classes given by number or name.

        Raises:
            ValueError: if a class does not exist.
        """
        if not labels:
            return []
        names = self.class_names
        known = {**{str(number): number for number in range(len(names))}, **{name: k for k, name in enumerate(names)}}
        for label in labels:
            if str(label) not in known:
                numbers = f"; expected a number from 0 to {len(names) - 1}"
                hint = numbers if str(label).lstrip("-").isdecimal() else did_you_mean(str(label), names)
                raise ValueError(f"unknown class '{label}' in {type(self.data).__name__}{hint or numbers}")
        return [known[str(label)] for label in labels]

    def batch(self, indices: Tensor) -> Batch:
        """Return the test images at the given indices (M,)."""
        return self.data.test_batch(indices, self.device, self.dtype)

    @torch.no_grad()
    def encode(self, batch: Batch) -> Codes:
        """Return the posteriors for a batch."""
        context = self.vae.context(batch)
        q = self.vae.encode(batch.input, context)
        prior = self.vae.latent_prior(context) if self.has_density else None
        kl = None if prior is None else kl_per_dimension(q, prior)
        try:
            std = q.stddev if self.has_density else None
        except NotImplementedError:  # no closed form in torch
            std = None
        found = (self.vae.center(q), std, kl)
        mean, std, kl = (None if each is None else each.float().cpu() for each in found)
        assert mean is not None
        assert batch.label is not None
        return Codes(mean, std, kl, batch.label.cpu(), None if context is None else context.cpu())

    def reconstruct(self, batch: Batch) -> Tensor:
        """Return mean reconstructions (B, C, H, W) of a batch from the posterior's `center`, on the model's device."""
        context = self.vae.context(batch)
        return self.vae.reconstruct(self.vae.encode(batch.input, context), context).mean

    def context(self, labels: Sequence[int]) -> Tensor | None:
        """Return the context (N, ...) of the first test image of each class in `labels`; None if there is no context.

        Raises:
            ValueError: if a class has no test images.
        """
        if not self.is_conditional:
            return None
        classes = list(dict.fromkeys(labels))
        context = self.vae.context(self.batch(torch.cat([self.chosen(1, [label]) for label in classes])))
        assert context is not None
        return context[[classes.index(label) for label in labels]]

    @torch.no_grad()
    def codes(self, count: int) -> Codes:
        """Return the posteriors for up to `count` test images, evenly spaced over the split."""
        size = len(self.label)
        spread = torch.arange(size) if count >= size else torch.linspace(0, size - 1, count).round().long()
        parts = []
        for indices in spread.split(CHUNK):
            batch = self.batch(indices)
            codes = self.encode(batch)
            if self.is_hierarchy and self.has_density:
                layer = next(self.vae.draw(batch).layers())  # (1, B, D) if it factorises
                codes = codes._replace(kl=layer[0].float().cpu() if layer.dim() == 3 else None)
            parts.append(codes)
        return Codes._make(None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True))

    @torch.no_grad()
    def decode(self, z: Tensor, context: Tensor | None = None, sampled: bool = False) -> Tensor:
        """Return images (..., C, H, W) on the CPU for latents (..., D): the mean of p(x|z), or one sample x ~ p(x|z).

        Args:
            z: latents.
            context: context of a conditional model: (N, ...) for N latents, or (1, ...) shared by all latents.
            sampled: whether to return a sample instead of the mean.
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
        """Return latents (count, D) sampled from the prior. A conditional model requires contexts (count, ...)."""
        return self.vae.sample_prior(count, None if context is None else context.to(self.device)).float().cpu()
