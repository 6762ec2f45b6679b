"""Share of a finished run that went to Snakemake, process starts and imports, from its logs and benchmark files.

Starts are what lies between the start of a job's process and its first line in the log, after the imports. Metrics
import transformers later, when they know which model to load: the time of that import, measured here, is taken from
their work. Snakemake's own time is that of a dry run (it starts and builds the graph) and the time in which no job ran.
"""

import argparse
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd
from harness import ROOT, Skipped, arguments, limit, record, run, seconds

ALLOWED = 0.10
LATE = ("train_method", "generate_explanations", "score_by_models")  # rules that import transformers late
LATE_IMPORT = (
    "import sys, time, torch; from xrec_repro.job import _Sparing; sys.meta_path.insert(0, _Sparing); "
    "s = time.perf_counter(); import transformers.modeling_utils; print(time.perf_counter() - s)"
)
LONGEST = 60  # seconds without a job; a longer pause lies between two calls of Snakemake
LINE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) INFO (\w+) (starts|done)\b")


@dataclass(frozen=True)
class JobTimes:
    """A job's seconds since 1970: its process starts, its work starts, its work is done."""

    rule: str
    process: float
    work: float
    done: float


def jobs(folder: Path) -> Iterator[JobTimes]:
    """Read the jobs of a run; one whose log or benchmark file is missing or not whole is left out."""
    for log in sorted(folder.rglob("logs/*.log")):
        table = log.parent.with_name("benchmarks") / f"{log.stem}.tsv"
        marks = [match for line in log.read_text(encoding="utf-8").splitlines() if (match := LINE.match(line))]
        starts = [match for match in marks if match[4] == "starts"]
        if not table.is_file() or not starts or marks[-1][4] != "done":
            continue
        wall = float(pd.read_csv(table, sep="\t")["s"].iloc[0])
        start, done = _seconds(starts[-1]), _seconds(marks[-1])
        yield JobTimes(starts[-1][3], min(done - wall, start), start, done)


def _seconds(match: re.Match) -> float:
    return datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").timestamp() + int(match[2]) / 1000


def idle(found: list[JobTimes], longest: float) -> float:
    """Return the seconds in which no job ran; longer pauses lie between runs and are left out."""
    total, end = 0.0, found[0].process
    for job in sorted(found, key=lambda job: job.process):
        if 0 < job.process - end < longest:
            total += job.process - end
        end = max(end, job.done)
    return total


def shares(found: list[JobTimes], dry_run: float, late_import: float) -> dict[str, float]:
    """Return how many seconds went to work, to starts and imports, and to Snakemake."""
    late = late_import * sum(job.rule in LATE for job in found)
    return {
        "work": sum(job.done - job.work for job in found) - late,
        "starts and first imports": sum(job.work - job.process for job in found),
        "late imports": late,
        "Snakemake while nothing ran": idle(found, LONGEST),
        "Snakemake before the first job": dry_run,
    }


def _dry_run() -> None:
    snakemake = Path(sys.executable).with_name("snakemake")
    command = [snakemake, "--profile", "profiles/default", "--dry-run", "--quiet", "all", "--", "all"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)


def _late_import() -> float:
    done = subprocess.run([sys.executable, "-c", LATE_IMPORT], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main(args: argparse.Namespace) -> None:
    """Add up the jobs of the run."""
    if args.smoke:
        # Two jobs side by side, then one: 10 + 6 + 4 s of work, of which 0.5 s are a late import;
        # 1 + 1 + 1 s of starts, 2 s in which nothing ran.
        found = [JobTimes("a", 0, 1, 11), JobTimes("score_by_models", 2, 3, 9), JobTimes("c", 13, 14, 18)]
        dry_run, late = 1.0, 0.5
    else:
        found, dry_run = list(jobs(args.run)), seconds(_dry_run)
        late = statistics.median(_late_import() for _ in range(3))
    if not found:
        raise Skipped(f"{args.run}: no finished run; make demo first")
    used = shares(found, dry_run, late)
    share = 1 - used["work"] / sum(used.values())
    slowest = sorted(found, key=lambda job: job.process - job.work)[:3]
    facts = {
        "share in percent": round(100 * share, 1),
        "jobs": len(found),
        **{f"seconds: {name}": round(value, 1) for name, value in used.items()},
        "longest starts": ", ".join(f"{job.rule} {job.work - job.process:.1f} s" for job in slowest),
    }
    data = "two jobs and one" if args.smoke else f"logs and benchmark files of {len(found)} jobs of the demo"
    record(args, "overhead", limit(share, ALLOWED), data, facts)


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--run", type=Path, default=ROOT / "results" / "demo", help="folder of the run")
    return parser


if __name__ == "__main__":
    run(main, options())
