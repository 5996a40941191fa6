"""`compile=true`: an objective by torch.compile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vae_lab.errors import ConfigError
from vae_lab.model import BaseVAE, Batch
from vae_lab.objectives import Terms


class Compiled:
    """An objective whose forward and backward pass are compiled, for batches as large as the first that it sees.

    Others, such as the rest at the end of an epoch, go without: compiling takes longer than they do.

    Args:
        objective: any other.
    """

    def __init__(self, objective: Callable[[BaseVAE, Batch, int], tuple[Tensor, Terms]]) -> None:
        self.objective = self.compiled = objective
        self.size = 0  # of the batches that it is compiled for

    def __call__(self, vae: BaseVAE, batch: Batch, step: int) -> tuple[Tensor, Terms]:
        size = len(batch.target)
        if not self.size:
            self.size = size
            torch.compiler.reset()  # a process keeps so much of what it has compiled, and what is more goes without
            # the compiler's own generator of random numbers would give others than the objective draws uncompiled
            self.compiled = torch.compile(self.objective, options={"fallback_random": True})
        return (self.compiled if size == self.size else self.objective)(vae, batch, step)


@contextmanager
def compiling() -> Iterator[None]:
    """Say in one line why something cannot be compiled."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = str(getattr(error, "inner_exception", error)).strip().partition("\n")[0]
        raise ConfigError(f"compile=true does not work here: {reason}") from error
