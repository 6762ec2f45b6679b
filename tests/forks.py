"""Processes that start at once, since a server from which they are forked has imported what they need."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

SNAKEMAKE = ("snakemake.cli", "snakemake.api", "snakemake.dag", "snakemake.persistence.file", "pandas", "jsonschema")
_preloaded: list[tuple[str, ...]] = []


def fork_server(*modules: str) -> ForkServerContext:
    """Return a context whose processes have these modules; another server, with those of other tests, is stopped."""
    context = multiprocessing.get_context("forkserver")
    if _preloaded[-1:] != [modules]:
        forkserver._forkserver._stop()
        context.set_forkserver_preload(list(modules))
        _preloaded.append(modules)
    return context


def snakemake(root: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess:
    """Run Snakemake in a folder as from the command line, but for the second that it takes to be imported."""
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder) / "stdout", Path(folder) / "stderr"
        target = (root, list(arguments), dict(environment or os.environ), printed)
        process = fork_server(*SNAKEMAKE).Process(target=_run, args=target)
        process.start()
        process.join()
        return subprocess.CompletedProcess(
            ["snakemake", *arguments], process.exitcode, *(path.read_text() for path in printed)
        )


def _run(root: Path, arguments: list[str], environment: dict[str, str], printed: tuple[Path, Path]) -> None:
    for number, path in enumerate(printed, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(root)
    sys.argv = ["snakemake", *arguments]
    from snakemake.cli import main

    main()
