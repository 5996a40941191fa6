"""A model as figures see it: what it makes of test images and of latents, without disturbing a training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from vae_lab.data import Batches, ImageData, Images, Plan, Raw, seed_device
from vae_lab.model import VAE, Batch, in_words, kl_per_dimension

CHUNK = 500  # images or latents that go through the model at once


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

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, or their numbers where they have none.

        Raises:
            DataError: where the images are missing or damaged.
        """
        assert self.test is not None  # read, and so the names are known
        return self.data.class_names

    def names(self, indices: Tensor) -> list[str]:
        """Return the names of the classes of test images at some indices (M,)."""
        return [self.class_names[label] for label in self.test.label[indices].tolist()]

    def chosen(self, count: int, labels: Sequence[int] | None = None) -> Tensor:
        """Return the indices of up to `count` test images, one of each class in turn: the same in every epoch.

        Args:
            count: how many.
            labels: of these classes alone, in this order; None for all.

        Raises:
            ValueError: where there is none of these classes.
        """
        test, names = self.test, self.class_names
        classes = range(len(names)) if labels is None else list(dict.fromkeys(labels))
        of_class = [(test.label == each).nonzero().flatten() for each in classes]
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
        """Return test images at some indices (M,) as in the test: binarized, and with noise where the test has it."""
        images = self.test.part(indices).to(self.device)
        return self.data.batch(Raw(images.image, images.label, images.binary, 0), False, self.dtype)

    def plans(self) -> Batches:
        """Return the steps of the test of one process, which is the whole split."""
        return Batches(len(self.test), self.data.batch_size, self.data.seed, shuffle=False)

    def planned(self, plan: Plan) -> Batch:
        """Return the images of a step of the test, with the very noise that they have there."""
        seed_device(plan.seed, self.device)
        return self.batch(plan.indices)

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
        size = len(self.test)
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
