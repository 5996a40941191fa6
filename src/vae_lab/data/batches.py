"""Which images make a step, in which order, and the seed of all that is random in it."""

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler


class Stream(IntEnum):
    """What a random stream is for; different uses never share one."""

    SPLIT = 1  # (seed)
    TRAINING = 2  # order: (seed, epoch); steps: (seed, epoch, rank)
    EVALUATION = 3  # steps: (seed, rank)
    BINARIZATION = 4  # (training or test): the same pixels whatever the seed
    TEST_SPLIT = 5  # (): the same images whatever the seed


class Plan(NamedTuple):
    """Which images make one step (B,), and the seed of all that is random in it."""

    indices: Tensor
    seed: int


class Batches(Sampler[Plan]):
    """Plans the steps of an epoch: the order is a function of (seed, epoch), each step's randomness of its place in it.

    Of several processes each gets its part of the order. Shuffled, the few images that would leave the processes with
    different numbers of steps are left out of the epoch; in plain order, as for a test, none is. Shuffled, a rest of
    one image joins the step before: alone it has no variance for a batch norm.

    Args:
        size: number of images.
        batch_size: images of a step, for each process.
        seed: of the order and of the steps.
        shuffle: whether the order is random and new in each epoch, or plain and the same, with the same seeds, in all.
        epoch: where to begin; Lightning calls `set_epoch` from then on.
        rank: which process this is.
        world_size: how many there are.
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
        """This process's part of an order."""
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
    """Return so many 63-bit seeds, of their own for each stream and each list of numbers."""
    # the length, because SeedSequence takes a list and the same list with zeros behind it for one
    sequence = np.random.SeedSequence((stream, len(numbers), *numbers))
    return (sequence.generate_state(count, np.uint64) >> np.uint64(1)).tolist()


def generator(stream: Stream, *numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(*seeds(1, stream, *numbers))


def split_off_test(size: int, fraction: float, train: bool) -> Tensor:
    """Return the indices of the training or the test part of images that come without a test split of their own."""
    order = torch.randperm(size, generator=generator(Stream.TEST_SPLIT))
    count = max(1, int(fraction * size))
    return order[count:] if train else order[:count]
