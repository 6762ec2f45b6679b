"""What all benchmarks share: timing ours and the peer in turn, and writing down what came out.

A claim is one line of `claims.CLAIMS` and one file ``results/<name>.json``. Its ratio is the peer's time over ours (for
a claim about a limit: the limit over what was used), so that more is better and the goal is a lower bound.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claims import CLAIMS, Claim

from xrec_repro.accounting.machine import processor_name

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Call = Callable[[], Any]


class Skipped(Exception):  # noqa: N818 (not an error)
    """A benchmark cannot run here; the message says why."""


@dataclass(frozen=True)
class Times:
    """Seconds of each round; the rounds of ours and of the peer alternate."""

    ours: list[float]
    peer: list[float]

    @property
    def ratios(self) -> list[float]:
        """The peer's time over ours, round by round."""
        return [peer / ours for ours, peer in zip(self.ours, self.peer, strict=True)]


def compare(ours: Call, peer: Call, rounds: int, warm_up: bool = True) -> Times:
    """Time two calls in turn; who goes first changes from round to round."""
    if warm_up:
        ours(), peer()
    times = Times([], [])
    for number in range(rounds):
        turns = [(ours, times.ours), (peer, times.peer)]
        for call, found in turns if number % 2 else reversed(turns):
            found.append(seconds(call))
    return times


def seconds(call: Call) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def microseconds(calls: Sequence[Callable[[], Any]]) -> float:
    """Return the median time of one of some calls made in turn: on a GPU those of a CUDA graph, replayed."""
    import torch

    if not torch.cuda.is_available():
        return round(sum(map(seconds, calls)) / len(calls) * 1e6, 1)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        calls[0]()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    times = []
    for _ in range(7):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(), graph.replay(), end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return round(statistics.median(times) * 1e3 / len(calls), 1)


def limit(used: float, allowed: float) -> Times:
    """Write a claim about a limit as one round: what is allowed over what was used."""
    return Times([used], [allowed])


def arguments(doc: str, rounds: int) -> argparse.ArgumentParser:
    """Make the parser of a script: ``--rounds``, ``--threads``, ``--smoke`` and ``--results``."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds of ours and the peer (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=_cores(), help="CPU threads of both (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round: whether it runs, not how fast")
    parser.add_argument("--results", type=Path, help="where to write <name>.json (default: benchmarks/results)")
    return parser


def run(
    main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, words: Sequence[str] | None = None
) -> None:
    """Parse, set the threads, run; a skipped benchmark says why and ends with 0, a wrong result ends with 1.

    Args:
        main: What to run.
        parser: See `arguments`.
        words: The command line; None for the one that the script was called with.
    """
    args = parser.parse_args(words)
    if args.smoke:
        args.rounds = 1
    elif args.results is None:
        args.results = RESULTS
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    torch.set_num_threads(args.threads)
    script = main.__module__ if main.__module__ != "__main__" else Path(sys.argv[0]).stem
    try:
        main(args)
    except Skipped as reason:
        print(f"{script}: skipped: {reason}")
    except AssertionError as error:
        sys.exit(f"{script}: the results differ, so times mean nothing: {error}")


def record(args: argparse.Namespace, name: str, times: Times, data: str, facts: dict[str, Any] | None = None) -> None:
    """Print a claim's median ratio with its spread, and write them down.

    Args:
        args: Of the script; with ``--smoke`` and without ``--results`` nothing is written.
        name: A key of `CLAIMS`.
        times: Of the rounds.
        data: What was measured on.
        facts: Anything else that a reader of the number needs.
    """
    claim = CLAIMS[name]
    found = {
        "ratio": _short(statistics.median(times.ratios)),
        "spread": [_short(min(times.ratios)), _short(max(times.ratios))],
        "rounds": len(times.ratios),
        "ours": _short(statistics.median(times.ours)),
        "peer": _short(statistics.median(times.peer)),
        "data": data,
        "facts": facts or {},
    }
    print(f"{name}: {ratio_text(found)}" + ("" if args.smoke else f"; goal {verdict(claim, found)}"), flush=True)
    write(args, name, found)


def write(args: argparse.Namespace, name: str, found: dict[str, Any]) -> None:
    """Write down what was found, with the machine, the day and the commit.

    Args:
        args: Of the script; with ``--smoke`` and without ``--results`` nothing is written.
        name: A key of `CLAIMS` or of `FINDINGS`.
        found: Its result; at least ``data``, what was measured on, and ``facts``.
    """
    if args.results is None:
        return
    origin = {"machine": machine(args.threads), "date": time.strftime("%Y-%m-%d", time.gmtime()), **_commit()}
    entry = {"name": name, **found, "smoke": args.smoke, **origin}
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / f"{name}.json").write_text(dumps(entry) + "\n", encoding="utf-8")


def dumps(value: Any, indent: str = "") -> str:
    """Write JSON in which a list, or a dictionary in one, takes one line if it fits."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or (indent and len(indent + line) <= 400):
        return line
    inner = indent + "  "
    if isinstance(value, list):
        items, (left, right) = [dumps(one, inner) for one in value], "[]"
    else:
        items, (left, right) = [f"{json.dumps(key)}: {dumps(one, inner)}" for key, one in value.items()], "{}"
    return f"{left}\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}{right}"


def ratio_text(entry: dict[str, Any]) -> str:
    """Write the ratio of a result, with its spread where there was more than one round."""
    ratio = f"{entry['ratio']:.3g}"
    if entry["rounds"] == 1:
        return ratio
    low, high = entry["spread"]
    return f"{ratio} ({low:.3g} to {high:.3g})"


def verdict(claim: Claim, entry: dict[str, Any]) -> str:
    """Say whether the goal is reached, else by how much it is missed."""
    if claim.goal is None:
        return "none"
    reached = entry["ratio"] >= claim.goal
    return f"{claim.goal:g}: " + ("reached" if reached else f"missed, {claim.goal / entry['ratio']:.3g} times short")


def machine(threads: int) -> dict[str, Any]:
    """Describe the machine, and how busy it was beside the benchmark."""
    import torch
    import transformers

    return {
        "cpu": processor_name(),
        "cores": _cores(),
        "threads": threads,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _commit() -> dict[str, Any]:
    def git(*words: str) -> str | None:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    # Results and the page that is made of them change while benchmarks run: they make nothing dirty.
    changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs/benchmarks.md")
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}


def _short(value: float) -> float:
    return float(f"{value:.4g}")
