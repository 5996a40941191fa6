"""Run `python -m <module>` in a fork of a process that has already imported torch and Lightning.

This saves the five seconds of the imports. Directory, environment, arguments, output and exit code are as in a new
process. Environment variables that Python or a library reads on start-up need a new process.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["vae_lab.commands.train", "vae_lab.commands.generate", "vae_lab.commands.report"])


def run(
    module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], output: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a module in `folder`, and redirect its output to two files in the directory `output`.

    Raises:
        subprocess.TimeoutExpired: after `timeout` seconds; the process is killed.
    """
    files = [output / "stdout", output / "stderr"]
    process = CONTEXT.Process(target=_main, args=(module, arguments, folder, dict(environment), files))
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        raise subprocess.TimeoutExpired([module, *arguments], timeout)
    assert process.exitcode is not None
    return subprocess.CompletedProcess(arguments, process.exitcode, *(file.read_text() for file in files))


def _main(
    module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], files: Sequence[Path]
) -> None:
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    sys.path[:] = [str(folder), *(place for place in sys.path if Path(place).name not in ("tests", "docs"))]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
