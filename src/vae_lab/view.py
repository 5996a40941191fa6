"""A model as figures see it: what it makes of test images and of latents, without disturbing a training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from vae_lab.data import Batches, ImageData, Images, Raw, seed_device
from vae_lab.model import VAE, Batch

CHUNK = 500  # images or latents that go through the model at once


class Codes(NamedTuple):
    """Posteriors of N images, on the CPU: means, standard deviations (N, D), None for points, and labels (N,)."""

    mean: Tensor
    std: Tensor | None
    label: Tensor


@dataclass(frozen=True)
class View:
    """A model after some epoch, and the data that it is looked at with.

    Attributes:
        vae: the model.
        data: the data; figures read them when they first need them, and take the test split.
        epoch: how many the weights have seen.
        path: directory of the run, where the curves are; None without.
    """

    vae: VAE
    data: ImageData
    epoch: int
    path: Path | None = None

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
    def name(self) -> str:
        """The model in a few words: likelihood, network, kind, latent size and data."""
        parts = [type(part).__name__ for part in (self.vae.decoder.head, self.vae.encoder.network)]
        kind = "VAE" if self.has_density else "AE"
        words = " ".join(part.removesuffix("Encoder") for part in parts)
        return f"{words} {kind}, z = {self.latent_dim}, {type(self.data).__name__}, epoch {self.epoch}"

    @property
    def test(self) -> Images:
        """The test images.

        Raises:
            DataError: where they are missing or damaged.
        """
        if self.data.test is None:
            self.data.prepare_data()
            self.data.setup()
        assert self.data.test is not None
        return self.data.test

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

    def chosen(self, count: int, labels: Sequence[int] | None = None) -> Tensor:
        """Return the indices of up to `count` test images, one of each class in turn: the same in every epoch.

        Args:
            count: how many.
            labels: of these classes alone, in this order; None for all.
        """
        test = self.test
        classes = range(len(self.data.class_names)) if labels is None else labels
        of_class = [(test.label == each).nonzero().flatten() for each in classes]
        turns = (places[turn] for turn in range(count) for places in of_class if turn < len(places))
        return torch.tensor([int(place) for place, _ in zip(turns, range(count), strict=False)], dtype=torch.long)

    def numbers(self, labels: Sequence[int | str]) -> list[int]:
        """Return the numbers of classes that are given by number or by name.

        Raises:
            ValueError: for one that the data do not have.
        """
        names = self.data.class_names
        known = {**{str(number): number for number in range(len(names))}, **{name: k for k, name in enumerate(names)}}
        for label in labels:
            if str(label) not in known:
                listed = names if len(names) <= 20 else [*names[:3], "…", names[-1]]
                raise ValueError(f"{label} is no class of {type(self.data).__name__}: there are {', '.join(listed)}")
        return [known[str(label)] for label in labels]

    def batch(self, indices: Tensor) -> Batch:
        """Return test images at some indices (M,) as in the test: binarized, and with noise where the test has it."""
        return self._batch(self.test.part(indices))

    def batches(self) -> Iterator[Batch]:
        """Yield the whole test split, batch by batch, with the very noise that the test of one process has."""
        test = self.test
        for plan in Batches(len(test), self.data.batch_size, self.data.seed, shuffle=False):
            seed_device(plan.seed, self.device)
            yield self._batch(test.part(plan.indices))

    def _batch(self, images: Images) -> Batch:
        images = images.to(self.device)
        return self.data.batch(Raw(images.image, images.label, images.binary, 0), False, self.dtype)

    def codes(self, count: int) -> Codes:
        """Return the posteriors of the first `count` test images."""
        return self.encode(torch.arange(min(count, len(self.test))))

    @torch.no_grad()
    def encode(self, indices: Tensor) -> Codes:
        """Return the posteriors of test images at some indices (M,)."""
        means, stds = [], []
        for part in indices.split(CHUNK):
            q = self.vae.encode(self.batch(part).input)
            means.append(q.mean.float().cpu())
            if self.has_density:
                stds.append(q.stddev.float().cpu())
        return Codes(torch.cat(means), torch.cat(stds) if stds else None, self.test.label[indices].cpu())

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
