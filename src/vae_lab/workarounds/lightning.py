"""Workarounds for Lightning."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from pytorch_lightning.profilers import PassThroughProfiler, Profiler

from vae_lab.workarounds import enabled

QUICK_HOOK_NAME = enabled("hook_name")


class QuickHookName:
    """`hook_name`: a base for LightningModules that notes the current hook without torch's search for modules.

    Lightning sets `_current_fx_name` forty times a step, and `nn.Module.__setattr__` looks at each value whether it is
    a parameter or a module. Without this, a step of a small MLP takes about 1 % longer.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if QUICK_HOOK_NAME and name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)


class QuickStateKey:
    """`state_key`: a base for ModelCheckpoints that works out its key in a checkpoint once.

    Lightning asks each checkpoint callback for its key at every hook of every step, and the key is a formatted string.
    Without this, a step of a small MLP takes about 1 % longer.
    """

    @cached_property
    def state_key(self) -> str:
        """Key of the callback's state in a checkpoint."""
        return super().state_key  # type: ignore[misc]


class NoProfiler(Profiler):
    """`profiler`: a profiler that measures nothing and shares one context.

    Lightning's own PassThroughProfiler creates a generator context forty times a step. Without this, a step of a small
    MLP takes about 2 % longer.
    """

    nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        """Return a context that does nothing."""
        return self.nothing

    def start(self, action_name: str) -> None:
        """Do nothing."""

    def stop(self, action_name: str) -> None:
        """Do nothing."""


def profiler() -> Profiler:
    """Return the profiler of a training that nobody profiles."""
    return NoProfiler() if enabled("profiler") else PassThroughProfiler()


@contextmanager
def environment() -> Iterator[None]:
    """`environment`: undo what Lightning sets for the whole process.

    `WANDB_MODE` and `trainer.deterministic` are restored: without that, an offline or deterministic run makes all later
    ones of the process so. `PYTORCH_NVML_BASED_CUDA_CHECK` is unset where there is no CUDA: without that, each
    optimizer step searches for NVIDIA's library.
    """
    if not enabled("environment"):
        yield
        return
    names = ("WANDB_MODE", "PYTORCH_NVML_BASED_CUDA_CHECK")
    before = {name: os.environ.get(name) for name in names}
    deterministic = torch.are_deterministic_algorithms_enabled()
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})
        torch.use_deterministic_algorithms(deterministic)


@contextmanager
def quiet() -> Iterator[None]:
    """`quiet`: silence messages that appear in every run and that nobody can act on.

    Without this, a training prints about twenty lines on tips, devices and workers before its first epoch.
    """
    if not enabled("quiet"):
        yield
        return
    levels = {
        "pytorch_lightning": logging.WARNING,
        "pytorch_lightning.profilers": logging.INFO,  # asked for by trainer.profiler
        "torch.utils.cpp_extension": logging.ERROR,  # the compiler's, about CUDA that is not used
    }
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    with warnings.catch_warnings():
        for said in (
            "does not have many workers",
            "smaller than the logging interval",
            "treespec",
            "is not empty",
            "sync_dist",
            "across ranks is zero",
            "could not find the monitored key",
            "Be aware that when using",
        ):
            warnings.filterwarnings("ignore", f".*{said}")
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)
