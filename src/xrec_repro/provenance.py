"""Where a number came from: code digests that see imports, and one provenance.json a job."""

import ast
import hashlib
import os
import platform
import subprocess
import sys
import time
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from xrec_repro.accounting.attempts import Attempts, node_name
from xrec_repro.accounting.energy import Meter
from xrec_repro.errors import DataError
from xrec_repro.io import read_json, sha256_file, write_json

PACKAGE = Path(__file__).parent
REPORTED_PACKAGES = (
    "torch",
    "transformers",
    "torch-geometric",
    "numpy",
    "pyarrow",
    "snakemake",
    "bert-score",
    "bleurt-pytorch",
    "sacrebleu",
    "rouge-score",
    "bitsandbytes",
    "accelerate",
)


@lru_cache
def code_digest(script: str) -> str:
    """Digest a script together with all modules of this package that it imports, directly or not.

    Snakemake's own code trigger sees the script alone. The digest is over syntax trees without docstrings, so that
    comments, formatting and documentation do not rerun anything.

    Args:
        script: Path of a Python file.

    Returns:
        The first 16 hex digits of a SHA-256.
    """
    digest = hashlib.sha256()
    for path in sorted({Path(script), *_imports(Path(script))}, key=lambda p: p.name + str(p)):
        digest.update(path.stem.encode() + _read(path)[0])
    return digest.hexdigest()[:16]


@lru_cache
def _read(path: Path) -> tuple[bytes, tuple[str, ...]]:
    """Return the digest of a file's syntax tree, and the names it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: list[str] = []
    for node in ast.walk(tree):
        names += _imported_names(node)
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            first = body[0].value
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                body.pop(0)
    return hashlib.sha256(ast.dump(tree).encode()).digest(), tuple(names)


@lru_cache
def _imports(path: Path) -> frozenset[Path]:
    """Return the transitive imports of a file within this package."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        for module in map(_locate, _read(waiting.pop())[1]):
            if module and module not in found:
                found.add(module)
                waiting.append(module)
    return frozenset(found)


def _imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def _locate(name: str) -> Path | None:
    package, *parts = name.split(".")
    if package != PACKAGE.name or not parts:
        return None
    base = PACKAGE.joinpath(*parts)
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


class JobRecord:
    """What one job was: collected while it runs, written when it ends.

    Args:
        rule: Name of the rule.
        settings: The settings the job used.
        inputs: Name -> path of the files it reads.
        seed: The run's seed, if it draws anything.
        code: Its code digest.
        trace: Where attempts at the job leave their trace; None for none.
        unmetered: Why its energy is not metered; None to meter it.
    """

    def __init__(
        self,
        rule: str,
        settings: dict[str, Any],
        inputs: dict[str, Path],
        seed: int | None,
        code: str,
        trace: Path | None = None,
        unmetered: str | None = "not asked for",
    ) -> None:
        self.started = time.time()
        self._attempts = Attempts(trace, self.started) if trace else None
        self._meter = Meter(unmetered)
        self.record: dict[str, Any] = {
            "rule": rule,
            "settings": settings,
            "seed": seed,
            "code_digest": code,
            "inputs": {name: {"path": str(path), "sha256": _hash(path)} for name, path in inputs.items()},
        }

    @property
    def fingerprint(self) -> str:
        """Digest of settings, seed, code and input contents: what a checkpoint must match to be resumed."""
        hashes = {name: entry["sha256"] for name, entry in self.record["inputs"].items()}
        parts = [self.record["settings"], self.record["seed"], self.record["code_digest"], hashes]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def check_inputs(self) -> None:
        """Compare the inputs with what the jobs that made them recorded.

        Raises:
            DataError: An input is not the file that its job wrote: it was damaged, or edited.
        """
        for entry in self.record["inputs"].values():
            rule, recorded = _as_made(Path(entry["path"]))
            if recorded not in (None, entry["sha256"]):
                raise DataError(
                    f"{entry['path']}: not what {rule} made (SHA-256 is {str(entry['sha256'])[:8]}…, its provenance "
                    f"says {recorded[:8]}…): damaged or edited; delete it, or run `snakemake --forcerun {rule} …`"
                )

    def write(self, path: Path, outputs: dict[str, Path], result: dict[str, Any], device: str | None = None) -> None:
        """Write the provenance beside the outputs.

        Args:
            path: The provenance file.
            outputs: Name -> path of the files made.
            result: What the stage reports of itself.
            device: ``cpu`` or ``cuda``, as chosen for the job; None for a job that chose none. A GPU is recorded only
                if it was chosen and CUDA was started.
        """
        ended = time.time()
        earlier = self._attempts.earlier if self._attempts else []
        slurm = self._attempts.own["slurm"] if self._attempts else None
        self.record |= {
            "outputs": {name: {"path": str(p), "sha256": _hash(p)} for name, p in outputs.items()},
            "result": result,
            "times": {"start": self.started, "end": ended, "seconds": ended - self.started},
            "code": _git_state(),
            "packages": {name: _version(name) for name in REPORTED_PACKAGES},
            "machine": _machine(device),
            "slurm_job": os.environ.get("SLURM_JOB_ID")
            or {"value": None, "reason": "not run under Slurm (SLURM_JOB_ID is not set)"},
            "slurm": slurm,
            "attempt": len(earlier) + 1,
            "failed_attempts": earlier,
            "energy_kwh": self._meter.stop(),
        }
        write_json(path, self.record)
        if self._attempts:
            self._attempts.succeed()

    def abandon(self) -> None:
        """End the record of a job that failed."""
        self._meter.stop()
        if self._attempts:
            self._attempts.fail()


def _as_made(path: Path) -> tuple[str | None, str | None]:
    """Return the rule that made a file and the digest it recorded; (None, None) for a file of no job.

    A job's provenance lies in the folder of its outputs, under a name of its own where jobs share the folder.
    """
    for file in (path.with_name("provenance.json"), *sorted(path.parent.glob("*.provenance.json"))):
        record = read_json(file) if file.is_file() else {}
        for entry in record.get("outputs", {}).values():
            if Path(entry["path"]).name == path.name:
                return record["rule"], entry["sha256"]
    return None, None


def _hash(path: Path) -> str | None:
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    if path.is_dir():
        parts = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        joined = "".join(f"{p.relative_to(path)}:{sha256_file(p)}" for p in parts)
        return hashlib.sha256(joined.encode()).hexdigest()
    return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any]:
    def git(*words: str) -> str | None:
        done = subprocess.run(["git", *words], cwd=PACKAGE, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain")
    except FileNotFoundError:
        commit = status = None
    if commit is None:
        return {"commit": None, "reason": "not a git checkout, or git is not installed"}
    return {"commit": commit, "dirty": bool(status)}


def _machine(chosen: str | None) -> dict[str, Any]:
    device: dict[str, Any] = {"kind": "cpu", "name": platform.processor() or platform.machine(), "count": 0}
    # Only a job that loaded torch can have used a GPU; importing it here would slow every small rule. A job may also
    # have chosen the GPU and left it alone, for example because a server did the work.
    torch = sys.modules.get("torch")
    if chosen == "cuda" and torch is not None and torch.cuda.is_initialized():
        device = {"kind": "cuda", "name": torch.cuda.get_device_name(), "count": torch.cuda.device_count()}
    return {
        "node": node_name(),
        "python": platform.python_version(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "device": device,
    }
