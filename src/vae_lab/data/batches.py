"""The order of the images in an epoch and the random seed for each step."""

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler


class Stream(IntEnum):
    """Purposes for which random numbers are drawn, each with its own seeds, derived from the numbers in parentheses."""

    SPLIT = 1  # (seed)
    TRAINING = 2  # order: (seed, epoch); steps: (seed, epoch, rank)
    EVALUATION = 3  # steps: (seed, rank)
    BINARIZATION = 4  # (training or test); independent of `seed`
    TEST_SPLIT = 5  # (); independent of `seed`


class Plan(NamedTuple):
    """Indices (B,) of the images in one step, and the seed for the random numbers in that step."""

    indices: Tensor
    seed: int


class Batches(Sampler[Plan]):
    """Yields the plan for each step of an epoch. A plan depends only on the seed, the epoch, the rank and the step.

    With multiple processes, each gets an equal share of the images. With shuffling, images that cannot be shared
    equally are omitted from the epoch, and a trailing batch of one image is merged into the batch before it, because
    batch norm needs a variance. Without shuffling, as in testing, no image is omitted.

    Args:
        size: number of images.
        batch_size: number of images per step and process.
        seed: seed for the order and the steps.
        shuffle: whether the order is random and differs between epochs; otherwise, all epochs have the same order and
            seeds.
        epoch: first epoch; for later epochs, Lightning calls `set_epoch`.
        rank: index of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        *,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.size, self.batch_size, self.seed, self.shuffle = size, batch_size, seed, shuffle
        self.epoch, self.rank, self.world_size = epoch, rank, world_size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def share(self) -> slice:
        """The slice of the image order that is assigned to this process."""
        whole = self.size - self.size % self.world_size if self.shuffle else self.size
        return slice(self.rank, whole, self.world_size)

    def __len__(self) -> int:
        steps, rest = divmod(len(range(self.size)[self.share]), self.batch_size)
        return steps + (rest > 1 or (rest == 1 and not (self.shuffle and steps)))

    def __iter__(self) -> Iterator[Plan]:
        if self.shuffle:
            stream, place = Stream.TRAINING, [self.seed, self.epoch]
            order = torch.randperm(self.size, generator=generator(stream, *place))
        else:
            stream, place = Stream.EVALUATION, [self.seed]
            order = torch.arange(self.size)
        batches = list(order[self.share].split(self.batch_size))
        if len(batches) > len(self):
            batches[-2:] = [torch.cat(batches[-2:])]
        yield from map(Plan, batches, seeds(len(batches), stream, *place, self.rank))


def seeds(count: int, stream: Stream, *numbers: int) -> list[int]:
    """Return `count` 63-bit seeds that depend on the stream and the numbers."""
    # the length is included because SeedSequence ignores trailing zeros
    sequence = np.random.SeedSequence((stream, len(numbers), *numbers))
    return (sequence.generate_state(count, np.uint64) >> np.uint64(1)).tolist()


def generator(stream: Stream, *numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(*seeds(1, stream, *numbers))


def split_off_test(size: int, fraction: float, train: bool) -> Tensor:
    """Return the indices of the training or test split for a data set that has no separate test split."""
    order = torch.randperm(size, generator=generator(Stream.TEST_SPLIT))
    count = max(1, int(fraction * size))
    return order[count:] if train else order[:count]
