"""A trace of every attempt at a job, so that those that were killed are counted too.

The file ``{log}.attempts.json`` beside a job's log lists the attempts since the last success. Each adds itself when it
starts; while it runs, the file's modification time is renewed, and so tells when a killed attempt ended.
"""

import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from xrec_repro.errors import DataError
from xrec_repro.io import read_json, remove_scraps, write_json

BEAT_S = 10.0


def node_name() -> str:
    """Return the name of this machine, by Slurm if it gave it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def slurm_place() -> dict[str, Any] | None:
    """Return what Slurm says of the job that this process runs in, or None outside of one.

    Returns:
        job (number, as text), restart (how often Slurm requeued it), partition, gpus (on this node, as Slurm counts
        them), and start (seconds since 1970, start-up of the job included); those that Slurm does not tell are None.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return None
    gpus = os.environ.get("SLURM_GPUS_ON_NODE")
    return {
        "job": job,
        "restart": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        "partition": os.environ.get("SLURM_JOB_PARTITION"),
        "gpus": int(gpus) if gpus and gpus.isdigit() else None,
        "start": _slurm_start(job),
    }


def _slurm_start(job: str) -> float | None:
    """Return when Slurm started a running job: from the environment (new versions) or the controller."""
    told = os.environ.get("SLURM_JOB_START_TIME", "")
    if told.isdigit():
        return float(told)
    try:
        shown = subprocess.run(
            ["scontrol", "--oneliner", "show", "job", job],
            capture_output=True, text=True, check=True, timeout=10, env=os.environ | {"SLURM_TIME_FORMAT": "%s"},
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\bStartTime=(\d+)\b", shown)
    return float(found[1]) if found else None


class Attempts:
    """The attempts at a job, this one the last.

    Attributes:
        own: This attempt: start, node, slurm (from `slurm_place`).
        earlier: Those before it that did not succeed, each with its end besides: at most `BEAT_S` too early.

    Args:
        path: The file of the trace.
        start: When this attempt started, in seconds since 1970.
    """

    def __init__(self, path: str | Path, start: float) -> None:
        self._path = Path(path)
        remove_scraps(self._path)
        self.earlier = _read(self._path)
        self.own: dict[str, Any] = {"start": start, "node": node_name(), "slurm": slurm_place()}
        write_json(self._path, [*self.earlier, self.own])
        self._over = threading.Event()
        self._beat = threading.Thread(target=self._renew, name="attempts", daemon=True)
        self._beat.start()

    def _renew(self) -> None:
        while not self._over.wait(BEAT_S):
            self._touch()

    def _touch(self) -> None:
        try:
            os.utime(self._path)
        except OSError:  # the folder was removed, or the file system is gone: the job will find out by itself
            self._over.set()

    def fail(self) -> None:
        """End this attempt without success; the trace stays, for the next."""
        self._end()
        self._touch()

    def succeed(self) -> None:
        """End this attempt; whoever writes its provenance has `earlier`, so the trace goes."""
        self._end()
        self._path.unlink(missing_ok=True)

    def _end(self) -> None:
        self._over.set()
        self._beat.join()


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the attempts in a trace; the last of them ended when the file was last touched."""
    try:
        found = read_json(path) if path.is_file() else []
        last = path.stat().st_mtime if found else time.time()
    except (DataError, OSError):  # a broken trace must not stop the job
        return []
    for attempt in found:
        attempt.setdefault("end", max(attempt["start"], last))
    return found
