"""`compile=true`: compilation of the objective with `torch.compile`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vae_lab.errors import ConfigError
from vae_lab.model import BaseVAE, Batch
from vae_lab.objectives import Terms


class Compiled:
    """Compiles the forward and backward passes of an objective for batches of the same size as the first.

    Batches of any other size, such as the trailing batch of an epoch, run without compilation, because compiling for
    them would cost more time than it saves.

    Args:
        objective: the objective to compile.
    """

    def __init__(self, objective: Callable[[BaseVAE, Batch, int], tuple[Tensor, Terms]]) -> None:
        self.objective = self.compiled = objective
        self.size = 0  # batch size for which the objective is compiled

    def __call__(self, vae: BaseVAE, batch: Batch, step: int) -> tuple[Tensor, Terms]:
        size = len(batch.target)
        if not self.size:
            self.size = size
            torch.compiler.reset()  # the number of compiled versions per process is limited
            # draw the same random numbers as the uncompiled objective
            self.compiled = torch.compile(self.objective, options={"fallback_random": True})
        return (self.compiled if size == self.size else self.objective)(vae, batch, step)


@contextmanager
def compiling() -> Iterator[None]:
    """Convert a compilation error to a one-line ConfigError."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = str(getattr(error, "inner_exception", error)).strip().partition("\n")[0]
        raise ConfigError(f"compile=true: compilation failed: {reason}") from error
