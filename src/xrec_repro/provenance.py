"""Where a number came from: one provenance.json a job."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xrec_repro.accounting.attempts import Attempts, node_name
from xrec_repro.accounting.energy import Meter
from xrec_repro.accounting.machine import gpu_uuids, part_of_machine, processor_name
from xrec_repro.errors import DataError
from xrec_repro.identity import digest_json, path_digest, versions
from xrec_repro.io import read_json, write_json
from xrec_repro.neutral import significant

PACKAGE = Path(__file__).parent
_ABOVE = 3  # of the scores of a metric, those of all seeds of an experiment lie in its folder
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
# What a training, or a text, may not be continued with another version of.
RESUMED_WITH = ("torch", "transformers")


class JobRecord:
    """What one job was: collected while it runs, written when it ends.

    Args:
        rule: Name of the rule.
        settings: The settings the job used, by section.
        inputs: Name -> path of the files it reads.
        seed: The run's seed, if it draws anything.
        code: Its code digest.
        trace: Where attempts at the job leave their trace; None for none.
        unmetered: Why its energy is not metered; None to meter it.
        threads: How many cores the job was given; None if that is not known.
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
        threads: int | None = None,
    ) -> None:
        self.started = time.time()
        self._code = _git_state()
        self._threads = threads
        self._attempts = Attempts(trace, self.started) if trace else None
        self._meter = Meter(unmetered)
        self.record: dict[str, Any] = {
            "rule": rule,
            "settings": settings,
            "seed": seed,
            "code_digest": code,
            "inputs": {name: {"path": str(path), "sha256": path_digest(path)} for name, path in inputs.items()},
        }

    def fingerprint(self, device: str | None, compute: dict[str, Any] | None = None) -> str:
        """Return the digest of all that decides the outputs: what a checkpoint must match to be resumed.

        Settings that change something, seed, code, the contents of the inputs (models included), the kind of device,
        the threads, and the versions of `RESUMED_WITH`.

        Args:
            device: ``cpu`` or ``cuda``, as chosen for the job.
            compute: Section ``compute``.
        """
        hashes = {name: entry["sha256"] for name, entry in self.record["inputs"].items()}
        parts = [significant(self.record["settings"]), self.record["seed"], self.record["code_digest"], hashes]
        return digest_json([*parts, device, (compute or {}).get("threads"), versions(*RESUMED_WITH)])

    def reads(self, path: Path) -> Path:
        """Record a further input under its name and return it."""
        self.record["inputs"][path.name] = {"path": str(path), "sha256": path_digest(path)}
        return path

    def check_inputs(self) -> None:
        """Compare the inputs with what the jobs that made them recorded.

        Raises:
            DataError: An input is not the file that its job wrote: it was damaged, or edited.
        """
        for entry in self.record["inputs"].values():
            made = made_by(entry["path"])
            if made and made[2] not in (None, entry["sha256"]):
                rule, recorded = made[1]["rule"], made[2]
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
            "outputs": {name: {"path": str(p), "sha256": path_digest(p)} for name, p in outputs.items()},
            "result": result,
            "times": {"start": self.started, "end": ended, "seconds": ended - self.started},
            "code": self._commits(),
            "packages": versions(*REPORTED_PACKAGES),
            "machine": _machine(device, self._threads),
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

    def _commits(self) -> dict[str, Any]:
        """Return the commit that the job's code was of when it started, and that at its end if it differs."""
        ended = _git_state()
        return self._code if ended == self._code else self._code | {"at_end": ended}

    def abandon(self) -> None:
        """End the record of a job that failed."""
        self._meter.stop()
        if self._attempts:
            self._attempts.fail()


def made_by(path: str | Path) -> tuple[Path, dict[str, Any], str | None] | None:
    """Return the provenance of the job that made a file: where it is, what it says, and the file's digest in it.

    It lies in the folder of the file or, of a job that writes into several, up to `_ABOVE` folders higher, under a name
    of its own where jobs share a folder. If several jobs have made the file, that of the last one counts. None for a
    file of no job.
    """
    path, found = Path(path), []
    for folder in list(path.parents)[: _ABOVE + 1]:
        place = path.relative_to(folder).parts
        for file in sorted(folder.glob("*provenance.json")):
            record = read_json(file)
            outputs = record.get("outputs") if isinstance(record, dict) and "rule" in record else None
            for entry in outputs.values() if isinstance(outputs, dict) else ():  # else a stranger's file of that name
                if isinstance(entry, dict) and Path(entry.get("path", "")).parts[-len(place) :] == place:
                    found.append((file, record, entry.get("sha256")))
    return max(found, key=lambda one: one[1].get("times", {}).get("end", 0.0), default=None)


def require_one_kind(records: Sequence[Path]) -> None:
    """Check that the parts of a whole were made on one kind of device, with one version of `RESUMED_WITH`.

    Args:
        records: The provenance of each part.

    Raises:
        DataError: Two differ: such parts would not have been one job's, either.
    """
    kinds: dict[tuple[str | None, ...], Path] = {}
    for path in records:
        record = read_json(path)
        installed = (record["packages"].get(name) for name in RESUMED_WITH)
        kinds.setdefault((record["machine"]["device"]["kind"], *installed), path)
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        shown = [", ".join(map(str, kind)) for kind in (one, other)]
        raise DataError(
            f"{second}: made with {shown[1]}, but {first} with {shown[0]} (device, {', '.join(RESUMED_WITH)}); "
            "make all parts anew in one way"
        )


def _git_state() -> dict[str, Any]:
    """Return the commit of this package's checkout; ``dirty``: a file that git tracks differs from it."""

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", *words], cwd=PACKAGE, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except FileNotFoundError:
        commit = status = None
    if commit is None:
        return {"commit": None, "reason": "not a git checkout, or git is not installed"}
    return {"commit": commit, "dirty": bool(status)}


def _machine(chosen: str | None, threads: int | None) -> dict[str, Any]:
    device: dict[str, Any] = {"kind": "cpu", "name": processor_name(), "count": 0}
    # Only a job that loaded torch can have used a GPU; importing it here would slow every small rule. A job may also
    # have chosen the GPU and left it alone, for example because a server did the work.
    torch = sys.modules.get("torch")
    if chosen == "cuda" and torch is not None and torch.cuda.is_initialized():
        device = {"kind": "cuda", "name": torch.cuda.get_device_name(), "count": torch.cuda.device_count()}
        device["uuids"] = gpu_uuids()
    return {
        "node": node_name(),
        "python": platform.python_version(),
        "system": platform.system(),
        "device": device,
        **part_of_machine(threads, device),
    }
