"""Write docs/benchmarks.md from benchmarks/results/*.json alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from claims import CLAIMS, FINDINGS, Claim
from harness import RESULTS, ROOT, ratio_text
from table3 import RATES, at_measured_rates

PAGE = ROOT / "docs" / "benchmarks.md"
Results = Mapping[str, dict[str, Any]]

HEAD = """# Benchmarks

`make bench` runs every script of `benchmarks/`, each measuring ours and a named peer in turn in one process, after
checking that both give the same result. A ratio is the peer's time over ours (for a limit: the limit over what was
used), so more is better and a goal is a lower bound; it is the median of several rounds, with the smallest and the
largest in brackets. What is measured against nothing stands at the end. This page is written from
`benchmarks/results/*.json` alone (`make bench`, `make docs`).
"""
NOT_MEASURED = {
    "gpu": "The GPU benchmarks have not been run. On a machine with a CUDA device of 40 GB or more and the released "
    "Amazon texts beside the checkout (or under `$XREC_SHARED`): `.venv/bin/python benchmarks/gpu.py`.",
}


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the results in a folder by the name of their claim."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def write_page(results: Results) -> str:
    """Return the page: the table of all claims, then what was measured for each."""
    rows = [_row(claim, results.get(name)) for name, claim in CLAIMS.items()]
    head = ["claim", "measured against", "goal", "ratio", "reached"]
    parts = [HEAD, _table([head, *rows])]
    scripts = {name: claim.script for name, claim in CLAIMS.items()} | {name: name for name in FINDINGS}
    missing = dict.fromkeys(script for name, script in scripts.items() if name not in results)
    for script in missing:
        parts.append(NOT_MEASURED.get(script, f"Not measured yet: `.venv/bin/python benchmarks/{script}.py`.") + "\n")
    parts += [_section(name, claim, results[name]) for name, claim in CLAIMS.items() if name in results]
    parts += [_finding(name, title, results[name]) for name, title in FINDINGS.items() if name in results]
    if all(name in results for name in RATES):
        parts.append(_table3(results))
    return "\n".join(parts)


def _table3(results: Results) -> str:
    rows = at_measured_rates(results)
    cells = [[_shown(value) for value in row.values()] for row in rows]
    text = "An epoch of all texts at the rate of gpu_tuning, and 3,000 explanations at that of gpu_slots_all_exact:"
    total = f"Together {sum(row['hours'] for row in rows):.1f} hours; the study's took "
    total += f"{sum(row['published hours'] for row in rows):.0f}."
    head = ["## The study's table 3 at these rates", "", text, ""]
    return "\n".join([*head, _table([list(rows[0]), *cells]), total, ""])


def _row(claim: Claim, entry: dict[str, Any] | None) -> list[str]:
    goal = "–" if claim.goal is None else f"at least {claim.goal:g}"
    if entry is None:
        return [claim.title, claim.peer, goal, "not measured", "–"]
    return [claim.title, claim.peer, goal, ratio_text(entry), _reached(claim, entry)]


def _reached(claim: Claim, entry: dict[str, Any]) -> str:
    if claim.goal is None:
        return "–"
    return "yes" if entry["ratio"] >= claim.goal else f"no, {claim.goal / entry['ratio']:.3g} times short"


def _section(name: str, claim: Claim, entry: dict[str, Any]) -> str:
    lines = [f"## {name}", "", f"{claim.title}, against {claim.peer}: {ratio_text(entry)}.", ""]
    if claim.goal is not None and entry["ratio"] < claim.goal and claim.why:
        lines += [f"Why the goal is missed: {claim.why}", ""]
    numbers = f"- ours {entry['ours']:g}, peer {entry['peer']:g}{_unit(claim)}"
    return "\n".join(lines + _measured(claim.script, entry, [numbers])) + "\n"


def _finding(name: str, title: str, entry: dict[str, Any]) -> str:
    return "\n".join([f"## {name}", "", f"{title}.", "", *_measured(name, entry, [])]) + "\n"


def _measured(script: str, entry: dict[str, Any], numbers: list[str]) -> list[str]:
    lines = [f"- data: {entry['data']}", *numbers]
    tables = {key: value for key, value in entry["facts"].items() if _is_table(value)}
    lines += [f"- {key}: {_shown(value)}" for key, value in entry["facts"].items() if key not in tables]
    lines += [f"- machine: {_machine(entry['machine'])}", f"- commit: {_commit(entry)}, `benchmarks/{script}.py`"]
    lines[-1] += f", {entry['date']}" if "date" in entry else ""
    notes = [f"- {note}" for note in entry.get("notes", [])]
    lines += ["", *notes] if notes else []
    for key, value in tables.items():
        columns = list(dict.fromkeys(column for row in value for column in row))
        cells = ([_shown(row[c]) if c in row else "" for c in columns] for row in value)
        lines += ["", f"{key}:", "", _table([columns, *cells]).rstrip()]
    return lines


def _unit(claim: Claim) -> str:
    if claim.peer.startswith("a limit of"):
        return " (what was used, and what is allowed)"
    return " seconds (medians)"


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _shown(value: Any) -> str:
    if value is None or value in ([], {}):
        return "–" if value is None else "none"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_shown(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _machine(machine: dict[str, Any]) -> str:
    parts = [machine["gpu"], machine["cpu"], f"{machine['cores']} cores", f"{machine['threads']} threads"]
    parts += [f"load {machine['load'][0]}" if machine["load"] else None]
    parts += [f"torch {machine['torch']}", f"transformers {machine['transformers']}"]
    return ", ".join(filter(None, parts))


def _commit(entry: dict[str, Any]) -> str:
    if entry["commit"] is None:
        return "unknown"
    return entry["commit"][:12] + (" with uncommitted changes" if entry["dirty"] else "")


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(write_page(read_results(RESULTS)), encoding="utf-8")
