"""The jobs that a run stands on: their times by their own records and by Slurm's, and what they emitted.

One line is one attempt at a job. It is charged the time that Slurm counts (start-up included) where Slurm counted, and
its own otherwise, at the power of its share of the machine; attempts that failed are charged like others.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from xrec_repro.accounting.emissions import Hardware, emissions_factors, emissions_kg, load_hardware, power_of
from xrec_repro.accounting.shares import Share, shares_of
from xrec_repro.accounting.slurm import SlurmJob, slurm_jobs
from xrec_repro.errors import DataError
from xrec_repro.io import read_json, write_json, write_text
from xrec_repro.provenance import made_by

Line = dict[str, Any]
_DAY_S = 86400
_J_PER_KWH = 3.6e6
_COLUMNS = (
    "rule", "provenance", "attempt", "outcome", "node", "partition", "device", "gpus", "start", "end", "seconds",
    "slurm_job", "slurm_state", "slurm_seconds", "slurm_source", "charged_seconds", "power_kw", "power_source",
    "share", "share_source", "kg_co2", "reason", "energy_kwh", "energy_source", "kg_co2_metered", "slurm_energy_kwh",
)  # fmt: skip


def collect_jobs(
    targets: Sequence[str | Path],
    resources_folder: str | Path,
    emissions: Mapping[str, Any],
    store: str | Path,
    out_json: str | Path,
    out_csv: str | Path,
    out_rules: str | Path,
) -> dict[str, Any]:
    """Write a line for each attempt at each job behind some files, and their sums by rule.

    Args:
        targets: The files.
        resources_folder: The folder ``resources``.
        emissions: That section of the configuration.
        store: Where Slurm's records are kept once they were read (`slurm_jobs`).
        out_json: Where the lines go.
        out_csv: The same for people.
        out_rules: Where the sums go, as CSV.

    Returns:
        jobs, failed_attempts, slurm_attempts (with Slurm's time) and kg_co2 (None if that of a line is not known).

    Raises:
        ConfigError: A factor of the emissions is missing.
        DataError: A target or a provenance is missing or unusable.
    """
    records = job_records(targets)
    places = [attempt["slurm"] for record in records.values() for attempt in _own_attempts(record) if attempt["slurm"]]
    since = min((record["times"]["start"] for record in records.values()), default=0.0) - _DAY_S
    told = slurm_jobs({place["job"] for place in places}, since, store)
    lines = account(records, told, load_hardware(resources_folder), emissions)
    write_json(out_json, lines)
    write_text(out_csv, pd.DataFrame(lines, columns=_COLUMNS).to_csv(index=False, lineterminator="\n"))
    write_text(out_rules, pd.DataFrame(by_rule(lines)).to_csv(index=False, lineterminator="\n"))
    return {
        "jobs": len(records),
        "failed_attempts": sum(line["outcome"] == "failed" for line in lines),
        "slurm_attempts": sum(line["slurm_seconds"] is not None for line in lines),
        "kg_co2": total(lines, "kg_co2"),
    }


def total(lines: Iterable[Line], column: str) -> float | None:
    """Sum a column over lines; None if a line lacks it, or there is no line."""
    values = [line[column] for line in lines]
    return None if None in values or not values else math.fsum(values)


def job_records(targets: Sequence[str | Path]) -> dict[str, dict[str, Any]]:
    """Return the provenance of every job that files stand on, directly or not, by its path.

    Args:
        targets: Files that jobs of the workflow made.

    Raises:
        DataError: A target has no provenance, or one is not usable.
    """
    found: dict[str, dict[str, Any]] = {}
    waiting = [str(target) for target in targets]
    for target in waiting:
        if provenance_of(target) is None:
            raise DataError(f"{target}: there is no provenance.json of it; run the rule that makes it again")
    seen = set(waiting)
    while waiting:
        path = provenance_of(waiting.pop())
        if path is None or path in found:  # what nothing in the workflow made costs nothing here
            continue
        found[path] = record = read_json(path)
        made = {entry["path"] for entry in record["inputs"].values()} | set(parts_of(record))
        waiting += sorted(made - seen)
        seen |= made
    return {path: found[path] for path in sorted(found)}


def provenance_of(file: str) -> str | None:
    """Return the provenance of the job that made a file, or None; a provenance is its own."""
    path = Path(file)
    if path.name.endswith("provenance.json"):
        return file if path.is_file() else None
    made = made_by(path)
    return str(made[0]) if made else None


def parts_of(record: Mapping[str, Any]) -> list[str]:
    """Return the provenances of the parts that a job put together; none for a job that did all itself."""
    return record["result"].get("parts") or []


def attempts_of(provenance: str, lines: Sequence[Line]) -> list[Line]:
    """Return the attempts at a job; of one that put parts together, those at its parts.

    Args:
        provenance: Of the job.
        lines: From `collect_jobs`.
    """
    wanted = parts_of(read_json(provenance)) or [provenance]
    return [line for line in lines if line["provenance"] in wanted]


def account(
    records: Mapping[str, Mapping[str, Any]],
    told: Sequence[SlurmJob],
    hardware: Sequence[Hardware],
    emissions: Mapping[str, Any],
) -> list[Line]:
    """Return a line for each attempt.

    A Slurm job that ran several jobs of the workflow (a group) is shared out by their own times. An attempt that left
    no trace of its own, because it ended before it began to work, is known from Slurm: same run, same comment.

    Args:
        records: Path -> provenance.
        told: What Slurm recorded.
        hardware: The known devices.
        emissions: That section of the configuration.
    """
    lines = [line for path, record in records.items() for line in _lines(path, record)]
    runs = {(job.number, job.restart): job for job in told}
    members: dict[tuple[str, int], list[Line]] = defaultdict(list)
    for line in lines:
        if line["slurm_job"]:
            members[line["slurm_job"], line["_restart"]].append(line)
    for key, group in members.items():
        _add_slurm(group, runs.get(key))
    lines += _untraced(members, runs)
    lines.sort(key=lambda line: (line["provenance"], line["start"]))
    seen = _detections(records)
    for line, share in zip(lines, shares_of(lines, records, emissions.get("charge", "share")), strict=True):
        _charge(line, records[line["provenance"]], hardware, emissions, seen, share)
    return [{name: line[name] for name in _COLUMNS} for line in _counted(lines)]


def _own_attempts(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the attempts that a job's provenance tells of, the successful one last."""
    done = {"start": record["times"]["start"], "end": record["times"]["end"], "node": record["machine"]["node"]}
    return [*record.get("failed_attempts", []), done | {"slurm": record.get("slurm")}]


def _lines(path: str, record: Mapping[str, Any]) -> list[Line]:
    try:
        attempts = _own_attempts(record)
        lines = []
        for attempt in attempts:
            place = attempt["slurm"] or {}
            line: Line = dict.fromkeys(_COLUMNS) | {"rule": record["rule"], "provenance": path}
            line |= {name: attempt[name] for name in ("node", "start", "end")}
            line |= {"outcome": "failed", "seconds": attempt["end"] - attempt["start"]}
            line |= {"partition": place.get("partition"), "gpus": place.get("gpus"), "slurm_job": place.get("job")}
            line |= {"_restart": place.get("restart", 0), "_slurm_start": place.get("start")}
            lines.append(line)
        lines[-1] |= {"outcome": "done", "seconds": record["times"]["seconds"]}
        count = record["machine"]["device"]["count"]
        lines[-1]["gpus"] = count if lines[-1]["gpus"] is None else lines[-1]["gpus"]
        energy = record.get("energy_kwh") or {}
        lines[-1] |= {"energy_kwh": energy.get("value"), "energy_source": energy.get("source")}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: lacks {error}; run the rule again") from error
    return lines


def _add_slurm(group: Sequence[Line], job: SlurmJob | None) -> None:
    """Share one run of a Slurm job out among what it ran, by their own times."""
    starts = [line["_slurm_start"] for line in group if line["_slurm_start"] is not None]
    if job is None and not starts:
        return
    elapsed = job.elapsed_s if job else max(line["end"] for line in group) - min(starts)
    whole = math.fsum(line["seconds"] for line in group)
    for line in group:
        share = line["seconds"] / whole if whole else 1 / len(group)
        line |= {
            "slurm_seconds": elapsed * share,
            "slurm_source": job.source if job else "its own clock, since Slurm's start",
        }
        if job:
            line |= {"slurm_state": job.state, "partition": job.partition, "node": job.node}
            line["slurm_energy_kwh"] = job.energy_j / _J_PER_KWH * share if job.energy_j else None


def _untraced(
    members: Mapping[tuple[str, int], Sequence[Line]], runs: Mapping[tuple[str, int], SlurmJob]
) -> list[Line]:
    """Return lines for runs of Slurm jobs of which no attempt left a trace."""
    owners: dict[tuple[str, str], dict[str, Line]] = defaultdict(dict)
    for key, group in members.items():
        if key in runs:
            for line in group:
                owners[runs[key].name, runs[key].comment][line["provenance"]] = line
    found = []
    for key, job in runs.items():
        if key in members or job.state == "COMPLETED":  # a job that was completed and left no record is not ours
            continue
        group = [
            dict.fromkeys(_COLUMNS)
            | {name: owner[name] for name in ("rule", "provenance", "gpus")}
            | {"outcome": "failed", "start": job.start, "end": job.start + job.elapsed_s, "slurm_job": job.number}
            | {"seconds": owner["seconds"], "_slurm_start": job.start}
            for owner in owners[job.name, job.comment].values()
        ]
        _add_slurm(group, job)
        found += [line | {"seconds": None} for line in group]
    return found


def _detections(records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what metered jobs detected of their nodes' hardware; other jobs ran on the same nodes."""
    found: dict[str, dict[str, Any]] = {}
    for record in records.values():
        for part, power in ((record.get("energy_kwh") or {}).get("detected_power") or {}).items():
            if power:
                found.setdefault(record["machine"]["node"], {})[part] = power
    return found


def _charge(
    line: Line,
    record: Mapping[str, Any],
    hardware: Sequence[Hardware],
    emissions: Mapping[str, Any],
    detected: Mapping[str, Mapping[str, Any]],
    share: Share,
) -> None:
    """Charge an attempt its time at its share of the power of the device that the successful one used (eq. 1)."""
    machine = record["machine"]
    power = power_of(machine["device"], hardware, emissions, detected.get(machine["node"]))
    seconds = line["seconds"] if line["slurm_seconds"] is None else line["slurm_seconds"]
    intensity, pue = emissions_factors(emissions)
    line |= {"charged_seconds": seconds, "device": power.device, "power_kw": power.kw, "power_source": power.source}
    line |= {"reason": power.reason, "share": share.of_power(power), "share_source": share.source}
    if power.kw is not None:
        line["kg_co2"] = emissions_kg(seconds, power.kw * line["share"], intensity, pue)
    if line["energy_kwh"] is not None:
        line["energy_kwh"] = share.of_energy(record["energy_kwh"], machine["device"])
        line["kg_co2_metered"] = intensity * pue * line["energy_kwh"]


def _counted(lines: Iterable[Line]) -> list[Line]:
    """Number the attempts at each job."""
    counts: dict[str, int] = defaultdict(int)
    for line in lines:
        counts[line["provenance"]] += 1
        line["attempt"] = counts[line["provenance"]]
    return list(lines)


def by_rule(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Return the sums of each rule, the longest first.

    Returns:
        rule, jobs, failed_attempts, seconds (of successful attempts, by their own clocks), slurm_seconds,
        charged_seconds, charged_failed_seconds (of these, in attempts that failed), kg_co2, energy_kwh, devices and
        reason. A sum is None where a part of it is not known.
    """
    rules: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        rules[line["rule"]].append(line)
    rows = []
    for rule, members in rules.items():
        done = [line for line in members if line["outcome"] == "done"]
        failed = [line for line in members if line["outcome"] == "failed"]
        row = {"rule": rule, "jobs": len(done), "failed_attempts": len(failed), "seconds": total(done, "seconds")}
        row |= {name: total(members, name) for name in ("slurm_seconds", "charged_seconds", "kg_co2")}
        row |= {"charged_failed_seconds": total(failed, "charged_seconds") or 0.0}
        row |= {
            "energy_kwh": total(done, "energy_kwh"),
            "devices": "; ".join(dict.fromkeys(x["device"] for x in members)),
        }
        row["reason"] = "; ".join(dict.fromkeys(line["reason"] for line in members if line["reason"]))
        rows.append(row)
    return sorted(rows, key=lambda row: (-row["charged_seconds"], row["rule"]))
