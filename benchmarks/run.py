"""Run all benchmarks one after the other, print the table of claims, write docs/benchmarks.md."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from claims import CLAIMS, FINDINGS
from harness import RESULTS, ratio_text, verdict
from report import PAGE, read_results, write_page

HERE = Path(__file__).resolve().parent
SCRIPTS = (*dict.fromkeys(claim.script for claim in CLAIMS.values()), *FINDINGS)


def run_scripts(commands: dict[str, Sequence[str]]) -> list[str]:
    """Run commands by name, each in a process of its own; return the names of those that failed."""
    failed = []
    for number, (name, command) in enumerate(commands.items(), start=1):
        print(f"[{number}/{len(commands)}] {name}", flush=True)
        start = time.perf_counter()
        code = subprocess.run(command, check=False).returncode
        print(f"    {time.perf_counter() - start:.0f} s" + (f", FAILED with code {code}" if code else ""), flush=True)
        failed += [name] if code else []
    return failed


def summary(results: Path, since: float, failed: Sequence[str]) -> str:
    """Return the table of claims: the ratio, its spread, and whether the goal is reached.

    Args:
        results: Where the scripts wrote.
        since: Seconds since 1970; what was written before is of another run.
        failed: Scripts that failed.
    """
    rows = [("claim", "ratio (spread)", "goal")]
    found = read_results(results)
    for name, claim in CLAIMS.items():
        path = results / f"{name}.json"
        if name in found and path.stat().st_mtime >= since:
            rows.append((name, ratio_text(found[name]), verdict(claim, found[name])))
        else:
            rows.append((name, "FAILED" if claim.script in failed else "not measured in this run", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> None:
    """Run the scripts named on the command line, or all; a missed goal is no failure."""
    chosen = sys.argv[1:] or SCRIPTS
    if unknown := set(chosen) - set(SCRIPTS):
        sys.exit(f"run.py: no benchmark {min(unknown)!r}; there are {', '.join(SCRIPTS)}")
    start = time.time()
    failed = run_scripts({name: [sys.executable, str(HERE / f"{name}.py")] for name in chosen})
    print(summary(RESULTS, start, failed))
    PAGE.write_text(write_page(read_results(RESULTS)), encoding="utf-8")
    print(f"{time.time() - start:.0f} s in all; {PAGE} is up to date")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
