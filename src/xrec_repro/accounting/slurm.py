"""What Slurm itself recorded of the jobs of a run, kept in a file for the time when it has forgotten them.

``sacct`` is asked first; where a cluster keeps no accounts, ``scontrol`` knows jobs for some minutes after their end.
"""

import logging
import os
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from xrec_repro.errors import DataError
from xrec_repro.io import read_json, write_json

log = logging.getLogger("xrec_repro")

_UNFINISHED = {"PENDING", "RUNNING", "SUSPENDED", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED"}
_FIELDS = (
    "JobIDRaw",
    "JobName",
    "Comment",
    "Partition",
    "NodeList",
    "State",
    "Start",
    "ElapsedRaw",
    "ConsumedEnergyRaw",
)
_MOST_J = 1e15  # Slurm prints "no value" as a number near 2^64
_PATIENCE_S = 60


@dataclass(frozen=True)
class SlurmJob:
    """A run of a job that has ended.

    Attributes:
        number: Of the job.
        restart: How often Slurm had requeued it before.
        name: Of the submitting run: Snakemake names all its jobs alike.
        comment: What the job is: Snakemake writes rule and wildcards.
        partition: Where it ran.
        node: Likewise.
        state: How it ended.
        start: Seconds since 1970.
        elapsed_s: From its start to its end, start-up included.
        energy_j: Measured by Slurm, in J; None if it measures none.
        source: ``sacct`` or ``scontrol``.
    """

    number: str
    restart: int
    name: str
    comment: str
    partition: str
    node: str
    state: str
    start: int
    elapsed_s: int
    energy_j: int | None
    source: str


def slurm_jobs(numbers: Collection[str], since: float, store: str | Path) -> list[SlurmJob]:
    """Return what is known of jobs, and of others that the same run submitted, and add it to the store.

    Args:
        numbers: Of the jobs; without any, Slurm is not asked.
        since: Seconds since 1970, before the first of them started.
        store: A JSON file of what was read before; where Slurm no longer answers, it does.

    Raises:
        DataError: The store is not what this function writes.
    """
    if not numbers:
        return []
    found = {(job.number, job.restart): job for job in _read_store(store)}
    kept = dict(found)
    asked = _sacct(since)
    accounted = {job.number for job in asked}
    if not accounted.issuperset(numbers):
        asked += [job for job in _scontrol() if job.number not in accounted]
    names = {job.name for job in [*found.values(), *asked] if job.number in numbers}
    found |= {(job.number, job.restart): job for job in asked if job.number in numbers or job.name in names}
    if found != kept:
        write_json(store, [asdict(job) for job in found.values()])
    return list(found.values())


def _read_store(path: str | Path) -> list[SlurmJob]:
    if not Path(path).is_file():
        return []
    try:
        return [SlurmJob(**entry) for entry in read_json(path)]
    except TypeError as error:
        raise DataError(f"{path}: not a record of Slurm jobs ({error}); delete it") from error


def _ask(*command: str) -> list[str]:
    """Return the lines a command of Slurm prints, none if it is missing, fails or hangs; times are in epoch seconds."""
    environment = os.environ | {"SLURM_TIME_FORMAT": "%s"}
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=_PATIENCE_S, env=environment)
    except (OSError, subprocess.SubprocessError):
        return []
    # Other people's jobs may have any name.
    return done.stdout.decode("utf-8", errors="replace").split("\n")


def _sacct(since: float) -> list[SlurmJob]:
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since))
    lines = _ask(
        "sacct", "-X", "-D", "--noheader", "--parsable2", f"--starttime={start}", f"--format={','.join(_FIELDS)}"
    )
    rows = [dict(zip(_FIELDS, line.split("|"), strict=True)) for line in lines if line.count("|") == len(_FIELDS) - 1]
    return list(_numbered(_job(row, "sacct") for row in rows))


def _scontrol() -> list[SlurmJob]:
    jobs = []
    for line in _ask("scontrol", "--oneliner", "show", "jobs"):
        shown = dict(re.findall(r"(\S+?)=(\S*)", line))
        if "JobId" in shown:
            row = {field: shown.get(field, "") for field in ("JobName", "Comment", "Partition", "NodeList")}
            row |= {"JobIDRaw": shown["JobId"], "State": shown.get("JobState", ""), "Start": shown.get("StartTime", "")}
            row |= {"ElapsedRaw": _seconds(shown.get("RunTime", "")), "ConsumedEnergyRaw": ""}
            job = _job(row, "scontrol")
            restarts = shown.get("Restarts", "")
            jobs += [replace(job, restart=int(restarts) if _is_count(restarts) else 0)] if job else []
    return jobs


def _job(row: Mapping[str, Any], source: str) -> SlurmJob | None:
    """Return a job, or None if it has not ended, never ran, or Slurm itself does not know its times."""
    state = next(iter(row["State"].split()), "")
    if state in _UNFINISHED or not _is_count(row["Start"]):
        return None
    if not state or not _is_count(row["ElapsedRaw"]):
        log.info("%s: job %s passed over: its state or the time that it ran is unreadable", source, row["JobIDRaw"])
        return None
    energy = int(row["ConsumedEnergyRaw"]) if _is_count(row["ConsumedEnergyRaw"]) else 0
    return SlurmJob(
        number=row["JobIDRaw"],
        restart=0,
        name=row["JobName"],
        comment=row["Comment"],
        partition=row["Partition"],
        node=row["NodeList"],
        state=state,
        start=int(row["Start"]),
        elapsed_s=int(row["ElapsedRaw"]),
        energy_j=energy if 0 < energy < _MOST_J else None,
        source=source,
    )


def _numbered(jobs: Iterable[SlurmJob | None]) -> Iterator[SlurmJob]:
    """Yield jobs with their restarts: after a requeue, sacct lists the same number once more."""
    runs = defaultdict(list)
    for job in jobs:
        if job:
            runs[job.number].append(job)
    for members in runs.values():
        for restart, job in enumerate(sorted(members, key=lambda one: one.start)):
            yield replace(job, restart=restart)


def _is_count(text: str) -> bool:
    """Whether a text is a whole number of plain digits, and of a size that a counter of Slurm has."""
    return text.isascii() and text.isdigit() and len(text) <= 20


def _seconds(text: str) -> str:
    """Read a time as Slurm prints it, [days-]hours:minutes:seconds; what is none (INVALID) stays what it is."""
    parts = re.fullmatch(r"(?:(\d{1,6})-)?(\d{1,6}):(\d\d):(\d\d)", text, re.ASCII)
    if not parts:
        return text
    days, hours, minutes, rest = (int(part or 0) for part in parts.groups())
    return str(((days * 24 + hours) * 60 + minutes) * 60 + rest)
