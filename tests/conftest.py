"""Fixtures shared by all tests."""

import fcntl
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.dag.edits import copy_checkout

ROOT = Path(__file__).resolve().parents[1]


def need(path: Path) -> Path:
    if path.exists():
        return path
    message = f"{path.name} is not beside the checkout ({path})"
    if os.environ.get("XREC_REQUIRE_SHARED") == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of released data and golden numbers that lies beside the checkout."""
    return need(ROOT.parent / "shared")


def load_script(path: Path) -> ModuleType:
    """Return a script that lies in no package, e.g. docs/deviations.py, as a module; it finds those beside it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        spec.loader.exec_module(module)
    return module


def run(root: Path, folder: Path, *targets: str, overlays: list[Path] | None = None) -> str:
    """Run the workflow in a folder, by default the tiny one; return what Snakemake printed."""
    binaries = Path(sys.executable).parent
    command = [str(binaries / "snakemake"), "--snakefile", str(root / "Snakefile"), "--directory", str(folder)]
    command += ["--cores", "2", "--configfile", *map(str, overlays or [root / "tests/tiny.yaml"]), "--", *targets]
    environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def finished(root, tmp_path_factory) -> Path:
    """A copy of the checkout with a finished tiny run, made once for all processes of a session; none may change it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            copy_checkout(root, folder)
            run(folder, folder)
            (folder / "done").touch()
    return folder
