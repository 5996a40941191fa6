"""What the command lines share: from their arguments to a configuration, from an error to a line and an exit code.

Nothing heavy is imported here, so that `--help`, `--cfg job` and tab completion answer at once.
"""

import hashlib
import os
import re
import secrets
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from vae_lab.config import Config, Evaluate, Generate, Report
from vae_lab.errors import ConfigError, DataError, VaeLabError
from vae_lab.workarounds.hydra import share_config_store

PACKAGE = Path(__file__).resolve().parent
CONF = next(path for path in (PACKAGE / "conf", PACKAGE.parents[1] / "conf") if path.is_dir())  # a wheel, a checkout

Job = Callable[[DictConfig, Path, Sequence[str]], object]


def run_dir(resume: str | None, parent: str) -> str:
    """Return the directory of a run: its own when it goes on, else one that no other run has."""
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S.%f")
    return resume or f"{parent}/{now}-{secrets.token_hex(2)}"


def fit_for_a_path(name: str) -> str:
    """Return a name without what Hydra cannot take back on a command line."""
    return re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII).strip("-.")


def literal(value: Any) -> str:
    """Return a value as Hydra's command line takes it.

    >>> literal({"a": [1, None, True], "b": "x, y"})
    "{a: [1, null, true], b: 'x, y'}"
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(literal(each) for each in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if not isinstance(value, str):
        return str(value)
    plain = re.fullmatch(r"[A-Za-z_/][\w./-]*", value, re.ASCII) and value.lower() not in ("null", "true", "false")
    return value if plain and value.lower() not in ("nan", "inf") else QuotedString(value, Quote.single).with_quotes()


def job_dir(overrides: str) -> str:
    """Return a sweep's folder for one job: its overrides, without what Hydra cannot take back on a command line.

    What had to be replaced or cut is told apart by a checksum.
    """
    name = fit_for_a_path(overrides)[:110] or "defaults"
    return name if name == overrides else f"{name}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("run_dir", run_dir, use_cache=True, replace=True)
OmegaConf.register_new_resolver("job_dir", job_dir, replace=True)


def store_types() -> None:
    """Give Hydra the types of the roots of the command lines."""
    ConfigStore.instance().store("schema", Config)
    ConfigStore.instance().store("report_schema", Report)
    for name, root in {"evaluate_schema": Evaluate, "generate_schema": Generate}.items():
        node = OmegaConf.structured(root)
        node.data._set_flag("struct", False)  # data.root=… changes the run's own data, whose keys are known later
        ConfigStore.instance().store(name, node)


store_types()
share_config_store()


def compose(name: str, overrides: Sequence[str]) -> tuple[DictConfig, Path]:
    """Return what a command line would be given: the configuration, and the directory of its run.

    Raises:
        ConfigError: for an unknown option or key, or a value of the wrong type.
    """
    try:
        with no_job(), hydra.initialize_config_dir(str(CONF), job_name=name, version_base="1.3"):
            config = hydra.compose(name, list(overrides), return_hydra_config=True)
        path = Path(config.hydra.run.dir).absolute()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(explain(error)) from error
    with open_dict(config):
        del config["hydra"]
    return config, path


@contextmanager
def no_job() -> Iterator[None]:
    """Put the Hydra of the job that this runs in aside for a while: there can be only one at a time."""
    outer, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer


def launch(job: Job, name: str) -> NoReturn:
    """Run `job` on the configuration `conf/<name>.yaml`, or on each one of a sweep, and exit.

    What the user can mend ends in one line on stderr and the exit code of its kind; the traceback is in the run's log,
    and on the screen with HYDRA_FULL_ERROR=1.
    """
    asked = os.environ.get("HYDRA_FULL_ERROR")
    failures: list[Exception] = []

    def task(config: DictConfig) -> None:
        settings = HydraConfig.get()
        path = Path(settings.runtime.output_dir)
        try:
            with environment("HYDRA_FULL_ERROR", asked):  # what processes that the job starts are to see
                places = [each for each in settings.overrides.hydra if each.startswith("hydra.searchpath=")]
                job(config, path, [*settings.overrides.task, *places])
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
        with environment("HYDRA_FULL_ERROR", "1"):  # Hydra then raises what it would print, and exit with
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)()
    except Exception as error:  # of a job of a sweep, which stands first among the failures, or before any job
        if isinstance(error, OSError) and not isinstance(error, HydraException):
            error = DataError(f"{error.filename} cannot be written: {error.strerror}")
        elif isinstance(error, ValueError):
            error = ConfigError(explain(error))
        failures.append(error)
    if not failures:
        sys.exit(0)
    first = failures[0]
    code = exit_code(first)
    if asked == "1" or code == 1:
        traceback.print_exception(first)
    print(f"{name}: {explain(first)}", file=sys.stderr)
    sys.exit(code)


def in_a_job() -> bool:
    """Tell whether a command line started this, rather than Python."""
    return HydraConfig.initialized()


@contextmanager
def environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable for a while, or remove it where the value is None."""
    before = os.environ.pop(name, None)
    os.environ.update({} if value is None else {name: value})
    try:
        yield
    finally:
        os.environ.pop(name, None)
        os.environ.update({} if before is None else {name: before})


class NewFolders(Callback):
    """Remembers which folders Hydra is about to make for a run, so that they can go when it never begins."""

    paths: ClassVar[list[Path]] = []

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Look before Hydra makes them."""
        path = Path(config.hydra.run.dir).absolute()
        NewFolders.paths[:] = [folder for folder in (path, *path.parents) if not folder.exists()]

    @classmethod
    def remove(cls) -> None:
        """Remove those that are empty."""
        with suppress(OSError):
            for folder in cls.paths:
                folder.rmdir()


def exit_code(error: Exception) -> int:
    """Return what the shell is told: 1 for a fault of ours, else that of the error's kind."""
    if isinstance(error, VaeLabError):
        return error.exit_code
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return ConfigError.exit_code
    return 1


def explain(error: Exception) -> str:
    """Return one line that says what is wrong and, where Hydra knows, what there is to choose from."""
    cause = error.__cause__
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.parent_node is not None:
        return f"{cause.full_key} is no key: there are {', '.join(sorted(map(str, cause.parent_node)))}"
    text = str(error)
    if isinstance(error, OverrideParseException) and error.override not in text:
        text = f"{error.override}: {text}"
    if "Unknown function" in text:
        first, _, _ = text.partition("\n")
        text = f"{first}: a value with parentheses stands in quotes of its own, as in \"key='value(1)'\""
    if isinstance(cause, OmegaConfBaseException):
        text += f": {cause}"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        hints = r"In '\w+': |^\s*(full_key|object_type|reference_type|Config search path|provider=|See http).*$"
        text = re.sub(hints, "", text, flags=re.MULTILINE)
    return " ".join(text.split()) or type(error).__name__


def write_traceback(path: Path, error: Exception) -> None:
    """Add an error's traceback to a log."""
    with path.open("a") as file:
        traceback.print_exception(error, file=file)


def relative(path: Path) -> Path:
    """Return a path as seen from the working directory, where it lies below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def table(results: dict[str, float]) -> str:
    """Return `stage/name` numbers as a table of a row for each name and a column for each stage."""
    if not results:
        return "nothing was evaluated"
    stages, names = (list(dict.fromkeys(parts)) for parts in zip(*(key.split("/") for key in results), strict=True))
    width = max(len(name) for name in names) + 2
    rows = [" " * width + "".join(f"{stage:>12}" for stage in stages)]
    rows += [f"{name:{width}}" + "".join(f"{results[f'{stage}/{name}']:12.6g}" for stage in stages) for name in names]
    return "\n".join(rows)
