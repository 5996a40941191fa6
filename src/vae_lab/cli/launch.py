"""Run a command as a single job or as a sweep. This module is imported for `--help`, so it must not import torch."""

import os
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from vae_lab.cli.compose import CONF
from vae_lab.cli.errors import exit_code, explain
from vae_lab.cli.schema import ROOTS, check_values
from vae_lab.errors import ConfigError, DataError
from vae_lab.workarounds import variable


def launch(module: str) -> NoReturn:
    """Run a command with the configuration `conf/<command>.yaml`, once or for each job in a sweep, and exit.

    A user error is printed to stderr as one line, and its class determines the exit code. The traceback is written to
    the run's log and, if HYDRA_FULL_ERROR=1, also printed.

    Args:
        module: full name of the module that defines the command's `run` function, such as `vae_lab.commands.train`. It
            is imported only when the command runs, because importing it takes a few seconds.
    """
    name = module.rpartition(".")[2]
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    failures: list[Exception] = []

    def task(config: DictConfig) -> None:
        settings = HydraConfig.get()
        path = Path(settings.runtime.output_dir)
        try:
            with variable("HYDRA_FULL_ERROR", full_error):  # for processes that the job starts
                search_paths = [each for each in settings.overrides.hydra if each.startswith("hydra.searchpath=")]
                check_values(config, ROOTS[name])
                import_module(module).run(config, path, [*settings.overrides.task, *search_paths])
        except Exception as error:
            failures.append(error)
            # if the file exists, this run writes its own log, or the directory is another run's
            begun = (path / "config.yaml").exists()
            if settings.mode is RunMode.MULTIRUN:
                if not begun:
                    write_traceback(path / f"{name}.log", error)
                raise  # Hydra continues with the other jobs
            if not begun:
                NewFolders.remove()

    try:
        flags = get_args_parser().parse_known_args()[1]
        if flags:
            raise ConfigError(
                f"{flags[0]}: unexpected argument; put flags such as -m before all overrides, and write key=value"
            )
        with variable("HYDRA_FULL_ERROR", "1"):  # makes Hydra raise errors instead of printing them and exiting
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)()
    except Exception as error:  # raised before any job, or by a job, whose error is already in `failures`
        if isinstance(error, OSError) and not isinstance(error, HydraException):
            error = DataError(f"{error.filename}: cannot be written: {error.strerror}")
        elif isinstance(error, ValueError):
            error = ConfigError(explain(error, sys.argv[1:]))
        failures.append(error)
    if not failures:
        sys.exit(0)
    first, code = failures[0], exit_code(failures[0])
    if full_error == "1" or code == 1:
        traceback.print_exception(first)
    print(f"{name}: {explain(first, sys.argv[1:])}", file=sys.stderr)
    sys.exit(code)


class NewFolders(Callback):
    """A Hydra callback that records the directories created for a run and removes them if the run never starts."""

    paths: ClassVar[list[Path]] = []

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        path = Path(config.hydra.run.dir).absolute()
        NewFolders.paths[:] = [folder for folder in (path, *path.parents) if not folder.exists()]

    @classmethod
    def remove(cls) -> None:
        with suppress(OSError):  # directories that are not empty remain
            for folder in cls.paths:
                folder.rmdir()


def write_traceback(path: Path, error: Exception) -> None:
    with path.open("a") as file:
        traceback.print_exception(error, file=file)
