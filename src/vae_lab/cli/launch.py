"""Run a command: one job or a sweep, errors as one line, exit codes. `--help` imports this file."""

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
    """Run a command on the configuration `conf/<command>.yaml`, or on each one of a sweep, and exit.

    What the user can mend ends in one line on stderr and the exit code of its kind; the traceback is in the run's log,
    and on the screen with HYDRA_FULL_ERROR=1.

    Args:
        module: full name of the module with the command's `run`, such as `vae_lab.commands.train`. It is imported when
            the command runs, because it is heavy.
    """
    name = module.rpartition(".")[2]
    asked = os.environ.get("HYDRA_FULL_ERROR")
    failures: list[Exception] = []

    def task(config: DictConfig) -> None:
        settings = HydraConfig.get()
        path = Path(settings.runtime.output_dir)
        try:
            with variable("HYDRA_FULL_ERROR", asked):  # what processes that the job starts are to see
                places = [each for each in settings.overrides.hydra if each.startswith("hydra.searchpath=")]
                check_values(config, ROOTS[name])
                import_module(module).run(config, path, [*settings.overrides.task, *places])
        except Exception as error:
            failures.append(error)
            begun = (path / "config.yaml").exists()  # by this run, which keeps its own log, or by another
            if settings.mode is RunMode.MULTIRUN:
                if not begun:
                    write_traceback(path / f"{name}.log", error)
                raise  # to Hydra, which goes on with the other jobs
            if not begun:
                NewFolders.remove()

    try:
        flags = get_args_parser().parse_known_args()[1]
        if flags:
            raise ConfigError(
                f"{flags[0]} is no flag, or stands behind one: flags such as -m come first, values without dashes after"
            )
        with variable("HYDRA_FULL_ERROR", "1"):  # Hydra then raises what it would print, and exit with
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)()
    except Exception as error:  # of a job of a sweep, which stands first among the failures, or before any job
        if isinstance(error, OSError) and not isinstance(error, HydraException):
            error = DataError(f"{error.filename} cannot be written: {error.strerror}")
        elif isinstance(error, ValueError):
            error = ConfigError(explain(error))
        failures.append(error)
    if not failures:
        sys.exit(0)
    first, code = failures[0], exit_code(failures[0])
    if asked == "1" or code == 1:
        traceback.print_exception(first)
    print(f"{name}: {explain(first)}", file=sys.stderr)
    sys.exit(code)


class NewFolders(Callback):
    """Remembers which folders Hydra is about to make for a run, so that they can go when it never begins."""

    paths: ClassVar[list[Path]] = []

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        path = Path(config.hydra.run.dir).absolute()
        NewFolders.paths[:] = [folder for folder in (path, *path.parents) if not folder.exists()]

    @classmethod
    def remove(cls) -> None:
        with suppress(OSError):  # of a folder that is not empty
            for folder in cls.paths:
                folder.rmdir()


def write_traceback(path: Path, error: Exception) -> None:
    with path.open("a") as file:
        traceback.print_exception(error, file=file)
