"""Table 3: what training and generation took, and what they emitted, beside what the study prints."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xrec_repro.accounting.emissions import (
    ASSUMED,
    Hardware,
    find_hardware,
    load_hardware,
    published_totals,
    recompute_published_emissions,
)
from xrec_repro.accounting.jobs import total
from xrec_repro.errors import DataError
from xrec_repro.kinds import run_source, warnings
from xrec_repro.paper.render import Cell, Head, Line, Sheet, write_sheet
from xrec_repro.paper.rows import FEW_NOTE, Entry, dataset_blocks, elsewhere
from xrec_repro.published import PublishedRun, check_published_names, load_published_table1, load_published_table3
from xrec_repro.scores import place_of, refuse_repeats


@dataclass(frozen=True)
class _Phase:
    """Training or generation."""

    device: str  # what it ran on, for people
    seconds: float  # how long it took, by the clock of the job itself; summed over parts
    kw: float | None  # power of its node as a whole; None if it is not known
    stopped_early: bool = False  # whether training was stopped before its last example
    kg: float | None = None  # its emissions by equation 1, of CO2 equivalent; None if they are not known
    reason: str | None = None  # why they are not known
    slurm_seconds: float | None = None  # what Slurm counts for it, failed attempts included; None if it did not count
    failed: int = 0  # attempts that failed before
    energy_kwh: float | None = None  # metered, of the successful attempts; None if it was not
    share: float | None = None  # of the node's power that was charged, averaged over the time; None if published


@dataclass(frozen=True)
class _Cost:
    """A row of table 3."""

    block: str  # label of the data set
    experiment: str
    kind: str  # published, or one of `kinds.LABELS`
    seed: int | None  # None for published rows, which do not say
    few: bool  # whether only a part of the test set was explained
    train: _Phase | None  # None where nothing is trained
    generate: _Phase
    kg: float | None  # of CO2 equivalent, both phases by equation 1; None if not known
    kg_printed: float | None = None  # as published
    n_test: int | None = None  # examples explained; None for published rows

    @property
    def phases(self) -> list[_Phase]:
        """Those it has."""
        return [phase for phase in (self.train, self.generate) if phase]


def make_table3(
    entries: Sequence[Entry],
    published_as_by_dataset: Mapping[str, str | None],
    resources_folder: str | Path,
    emissions: Mapping[str, Any],
    out_csv: str | Path,
    out_md: str | Path,
    out_tex: str | Path,
    caption_notes: Sequence[str] = (),
    all_published: bool = False,
    jobs: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write table 3 as CSV, Markdown and LaTeX (needs booktabs and graphicx).

    Args:
        entries: One a data set, experiment and seed: dataset, dataset_label, experiment, experiment_label, seed,
            kind, few, n_test, stopped_early, train (the attempts at the tuning, or None without one) and generate
            (the attempts at the generation, of all its parts); attempts as `accounting.jobs.account` returns them.
        published_as_by_dataset: Data set -> its name in the published tables, or None.
        resources_folder: The folder ``resources``.
        emissions: carbon_intensity (kg/kWh), pue, sources (factor -> where it comes from), and maybe charge (share or
            node) and equivalents (label, kg and source of each).
        out_csv: Where the CSV file goes.
        out_md: Where the Markdown file goes.
        out_tex: Where the LaTeX file goes.
        caption_notes: More notes to print under the table.
        all_published: Whether to print the published rows of data sets that this run does not have, too.
        jobs: The attempts at all jobs of the run, for a note on the whole.

    Raises:
        ConfigError: A factor of the emissions is missing.
        DataError: No entry, one given twice, one without attempts, or an unknown name.
    """
    if not entries:
        raise DataError(f"{out_csv}: there is nothing to print; name an experiment in run.experiments")
    refuse_repeats(map(place_of, entries), "table 3: ")
    check_published_names(published_as_by_dataset, load_published_table1(resources_folder))
    recomputed = recompute_published_emissions(resources_folder, emissions)
    printed = list(zip(load_published_table3(resources_folder), recomputed, strict=True))
    rows = _rows(entries, published_as_by_dataset, printed, load_hardware(resources_folder), all_published)
    several_seeds = len({entry["seed"] for entry in entries}) > 1
    heads = _heads(rows)
    sheet = Sheet(
        label="table3",
        caption="Times and emissions of training and generation.",
        parts=[""],
        heads=heads,
        lines=[*(_line(row, several_seeds, heads) for row in rows), *_totals(rows, heads)],
        notes=[
            *_notes(rows, emissions, published_totals(resources_folder, recomputed)),
            *_run_notes(rows, jobs, emissions),
            *caption_notes,
        ],
    )
    write_sheet(sheet, [_record(row, emissions) for row in rows], out_csv, out_md, out_tex)


def _rows(
    entries: Sequence[Entry],
    published_as: Mapping[str, str | None],
    printed: Sequence[tuple[PublishedRun, Mapping[str, Any]]],
    hardware: Sequence[Hardware],
    all_published: bool,
) -> list[_Cost]:
    """Return the rows, data set by data set, published ones first."""
    recomputed = dict(printed)
    others = elsewhere(list(recomputed), published_as) if all_published else []
    rows = [_published_cost(run.dataset, run, recomputed[run], hardware) for run in others]
    for dataset, label, members in dataset_blocks(entries):
        beside = [pair for pair in printed if pair[0].dataset == published_as.get(dataset)]
        rows += [_published_cost(label, run, again, hardware) for run, again in beside]
        rows += [_measured_cost(label, entry) for entry in members]
    return rows


def _heads(rows: Sequence[_Cost]) -> list[Head]:
    """Return the columns: of those that are not always filled, the ones that a row fills."""
    phases = [phase for row in rows for phase in row.phases]
    heads = [Head("Experiment", number=False), Head("Source", number=False)]
    for name in ("Training", "Generation"):
        heads += [Head(f"{name}: device", name, "Device", number=False), Head(f"{name}: time", name, "Time")]
        if any(phase.slurm_seconds is not None for phase in phases):
            heads.append(Head(f"{name}: by Slurm", name, "By Slurm"))
    if any(phase.failed for phase in phases):
        heads.append(Head("Failed attempts", "Attempts", "Failed"))
    if any(phase.energy_kwh is not None for phase in phases):
        heads.append(Head("kWh metered", "kWh", "Metered"))
    heads.append(Head("kg CO₂e by eq. 1", "kg CO₂e", "By eq. 1"))
    if any(row.kg_printed is not None for row in rows):
        heads.append(Head("kg CO₂e as printed", "kg CO₂e", "As printed"))
    return heads


def _line(row: _Cost, several_seeds: bool, heads: Sequence[Head]) -> Line:
    source = "study" if row.kind == "published" else run_source(row.kind)
    source += f", seed {row.seed}" * (several_seeds and row.seed is not None)
    cells = {"Experiment": row.experiment + "†" * row.few, "Source": source}
    for name, phase in (("Training", row.train), ("Generation", row.generate)):
        cells[f"{name}: device"] = phase.device if phase else "none"
        cells[f"{name}: time"] = _clock(phase.seconds) + "‡" * phase.stopped_early if phase else "–"
        cells[f"{name}: by Slurm"] = _clock(phase.slurm_seconds) if phase else "–"
    cells["Failed attempts"] = "–" if row.kind == "published" else str(sum(phase.failed for phase in row.phases))
    cells["kWh metered"] = _amount(_sum([phase.energy_kwh for phase in row.phases]))
    cells |= {"kg CO₂e by eq. 1": _amount(row.kg), "kg CO₂e as printed": _amount(row.kg_printed)}
    return Line([Cell(cells[head.text]) for head in heads], row.block)


def _totals(rows: Sequence[_Cost], heads: Sequence[Head]) -> Iterator[Line]:
    """Yield a line a source: the times and emissions of its rows above."""
    for kind in dict.fromkeys(row.kind for row in rows):
        members = [row for row in rows if row.kind == kind]
        cells = dict.fromkeys((head.text for head in heads), "")
        cells |= {"Experiment": "Total of these rows", "Source": "study" if kind == "published" else run_source(kind)}
        for name, phases in (("Training", [r.train for r in members]), ("Generation", [r.generate for r in members])):
            present = [phase for phase in phases if phase]
            cells[f"{name}: time"] = _clock(math.fsum(phase.seconds for phase in present))
            cells[f"{name}: by Slurm"] = _clock(_sum([phase.slurm_seconds for phase in present]))
        if kind != "published":
            cells["Failed attempts"] = str(sum(phase.failed for row in members for phase in row.phases))
        cells["kWh metered"] = _amount(_sum([phase.energy_kwh for row in members for phase in row.phases]))
        known = [row.kg for row in members if row.kg is not None]
        bound = "≥ " * (0 < len(known) < len(members))
        cells["kg CO₂e by eq. 1"] = bound + _amount(math.fsum(known) if known else None)
        printed = [row.kg_printed for row in members if row.kg_printed is not None]
        cells["kg CO₂e as printed"] = _amount(math.fsum(printed) if printed else None)
        yield Line([Cell(cells[head.text]) for head in heads], None)


def _sum(values: Sequence[float | None]) -> float | None:
    """Return the sum, None where a part of it is not known."""
    return None if None in values or not values else math.fsum(values)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _amount(amount: float | None) -> str:
    if amount is None:
        return "–"
    return f"{amount:.2f}" if amount >= 0.1 or amount == 0 else f"{amount:#.2g}"


def _notes(rows: Sequence[_Cost], emissions: Mapping[str, Any], totals: Mapping[str, float]) -> list[str]:
    sources = emissions.get("sources") or {}
    intensity, pue = (
        f"{emissions[key]:g}{unit}" + (f" ({sources[key]})" if key in sources else "")
        for key, unit in (("carbon_intensity", " kg/kWh"), ("pue", ""))
    )
    notes = [
        "Times are h:mm:ss. In this run they are of whole jobs by their own clocks, loading included, of the attempt "
        "that succeeded (of all parts of a generation in parts, whose putting together is not in them); what "
        "experiments share (profiles, recommender, language model) is not in them either.",
        f"Equation 1 of the study: carbon intensity {intensity} times PUE {pue} times the power of one GPU and its "
        "host times the time.",
    ]
    phases = [phase for row in rows for phase in row.phases]
    powers = dict.fromkeys(f"{phase.device} {phase.kw:g} kW" for phase in phases if phase.kw is not None)
    notes += [f"Power of a node: {', '.join(powers)}."] if powers else []
    notes += _share_notes(rows, emissions)
    if any(phase.device.endswith(ASSUMED) for phase in phases):
        notes.append(
            f"{ASSUMED.capitalize()}: {sources.get('unknown_cpu_kw', 'as configured')}. "
            "State what your node draws in emissions.node_power_kw.cpu."
        )
    notes += [f"Emissions of this run: {reason}." for reason in dict.fromkeys(p.reason for p in phases) if reason]
    if any(row.kind == "published" for row in rows):
        notes.append(
            "What the study prints does not follow its equation: from its times, the equation gives "
            f"{totals['kg_equation1']:.2f} kg for all rows of its table; the printed cells sum to "
            f"{totals['kg_printed_cells']:.2f} kg, and its text says {totals['kg_printed']:.2f} kg."
        )
    if any(row.few and row.kind == "published" for row in rows):
        notes.append(
            "† In the study, a tenth of the test set: of all generation on MIG, so its caption says, "
            "though its tables 1 and 2 mark other rows."
        )
    if any(row.few and row.kind != "published" for row in rows):
        notes.append(FEW_NOTE)
    if any(phase.stopped_early for phase in phases):
        notes.append("‡ Training was stopped early.")
    return notes + warnings(row.kind for row in rows)


def _share_notes(rows: Sequence[_Cost], emissions: Mapping[str, Any]) -> list[str]:
    """Say which part of its node a job is charged."""
    shares = [phase.share for row in rows for phase in row.phases if phase.share is not None]
    own = [row for row in rows if row.kind != "published"]
    notes = []
    if emissions.get("charge") == "node":
        notes.append("A job is charged the whole node, as in the study, whatever else ran on it.")
    elif own:
        range_ = f" ({min(shares):.0%} to {max(shares):.0%} of the node's power)" if shares else ""
        notes.append(
            f"A job of this run is charged its share of the node, by the cores and GPUs that it had{range_}, so that "
            "jobs side by side add up to the node; the study charges all of it."
        )
    if any("MIG" in phase.device for row in rows for phase in row.phases):
        notes.append(
            "MIG: a slice of a GPU. What it draws is not known; the study charges it the whole node, an upper bound, "
            "and a share is that of its compute slices in the GPU's power."
        )
    return notes


def _run_notes(rows: Sequence[_Cost], jobs: Sequence[Mapping[str, Any]], emissions: Mapping[str, Any]) -> list[str]:
    """Say what was charged of this run, and what its emissions amount to."""
    measured = [row for row in rows if row.kind != "published"]
    phases = [phase for row in measured for phase in row.phases]
    notes = [_slurm_note(phases)]
    failed = sum(phase.failed for phase in phases)
    if failed:
        notes.append(f"Attempts at these jobs that failed or were killed: {failed}. They are charged like others.")
    if any(phase.energy_kwh is not None for phase in phases):
        notes.append(
            "kWh metered: by the counters of the GPUs and processors (costs/jobs.csv says which), of these the job's "
            "share, without the overhead of the centre, of the attempts that succeeded; not part of equation 1."
        )
    kg = _sum([row.kg for row in measured])
    for same in (emissions.get("equivalents") or []) if kg else []:
        amount = f"{kg / same['kg']:.3g} {same['label']}"
        notes.append(f"The {_amount(kg)} kg of this run's rows are {amount} ({same['source']}).")
    return notes + ([_whole_note(jobs)] if jobs else [])


def _slurm_note(phases: Sequence[_Phase]) -> str:
    counted = sum(phase.slurm_seconds is not None for phase in phases)
    if not counted:
        return "Slurm has no record of the jobs of these rows, so their own times are charged."
    some = f" ({counted} of the {len(phases)} here; the others are charged their own times)" * (counted < len(phases))
    return (
        "By Slurm: what Slurm counts for a job, its start-up and the attempts that failed included. Where there is "
        f"such a time, it is the one that is charged{some}."
    )


def _whole_note(jobs: Sequence[Mapping[str, Any]]) -> str:
    kg, failed = total(jobs, "kg_co2"), sum(job["outcome"] == "failed" for job in jobs)
    emitted = "emissions not known" if kg is None else f"{_amount(kg)} kg"
    return (
        f"The whole run, what experiments share and scores included: {len(jobs) - failed} jobs, {failed} failed "
        f"attempts, {_clock(total(jobs, 'charged_seconds'))} of jobs' time, {emitted}; by rule in costs/rules.csv."
    )


def _record(row: _Cost, emissions: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the CSV file."""
    record: dict[str, Any] = {"dataset": row.block, "experiment": row.experiment, "kind": row.kind, "seed": row.seed}
    record |= {"few": int(row.few), "n_test": row.n_test}
    for name, phase in (("train", row.train), ("generate", row.generate)):
        record |= {f"{name}_device": phase and phase.device, f"{name}_seconds": phase and phase.seconds}
        record |= {f"{name}_share": phase and phase.share}
        record |= {f"{name}_slurm_seconds": phase and phase.slurm_seconds, f"{name}_kg_co2": phase and phase.kg}
        measured = phase if row.kind != "published" else None
        record |= {f"{name}_failed_attempts": measured and measured.failed}
        record |= {f"{name}_energy_kwh": measured and measured.energy_kwh}
    record["train_stopped_early"] = int(row.train is not None and row.train.stopped_early)
    reasons = dict.fromkeys(phase.reason for phase in row.phases if phase.reason)
    record |= {"kg_co2": row.kg, "kg_co2_printed": row.kg_printed, "reason": "; ".join(reasons)}
    for same in emissions.get("equivalents") or []:
        record[same["label"]] = None if row.kg is None else row.kg / same["kg"]
    return record


def _published_cost(
    label: str, run: PublishedRun, recomputed: Mapping[str, Any], hardware: Sequence[Hardware]
) -> _Cost:
    """Return a row of the study's table 3, with what `recompute_published_emissions` says of it."""
    phases = [(run.train_gpu, run.train_seconds, run.train_early_stopped), (run.generate_gpu, run.generate_seconds)]
    train, generate = (
        _Phase(gpu, seconds, find_hardware(gpu, hardware).node_power_kw, *rest) if gpu else None
        for gpu, seconds, *rest in phases
    )
    return _Cost(
        block=label,
        experiment=run.experiment,
        kind="published",
        seed=None,
        few=run.generate_gpu == "MIG",  # so says the caption of the study's table 3
        train=train,
        generate=generate,
        kg=recomputed["kg_equation1"],
        kg_printed=run.co2_kg,
    )


def _measured_cost(label: str, entry: Entry) -> _Cost:
    """Return the row of an experiment of this run."""
    place = f"table 3: {place_of(entry)}"
    train = None
    if entry["train"] is not None:
        train = _phase(f"{place}: training", entry["train"], entry["stopped_early"])
    generate = _phase(f"{place}: generation", entry["generate"])
    parts = [phase.kg for phase in (train, generate) if phase]
    return _Cost(
        block=label,
        experiment=entry["experiment_label"],
        kind=entry["kind"],
        seed=entry["seed"],
        few=entry["few"],
        train=train,
        generate=generate,
        kg=None if None in parts else math.fsum(parts),
        n_test=entry["n_test"],
    )


def _phase(place: str, attempts: Sequence[Mapping[str, Any]], stopped_early: bool = False) -> _Phase:
    done = [attempt for attempt in attempts if attempt["outcome"] == "done"]
    if not done:
        raise DataError(f"{place}: no successful attempt is known; run the rule collect_jobs again")
    seconds = math.fsum(attempt["seconds"] for attempt in done)
    shares = [attempt["share"] for attempt in done]
    reasons = dict.fromkeys(attempt["reason"] for attempt in done if attempt["reason"])
    return _Phase(
        device=", ".join(dict.fromkeys(attempt["device"] for attempt in done)),
        seconds=seconds,
        kw=done[0]["power_kw"] if len({attempt["power_kw"] for attempt in done}) == 1 else None,
        stopped_early=stopped_early,
        kg=total(attempts, "kg_co2"),
        reason="; ".join(reasons) or None,
        slurm_seconds=total(attempts, "slurm_seconds"),
        failed=len(attempts) - len(done),
        energy_kwh=total(done, "energy_kwh"),
        share=None if None in shares else math.fsum(x["seconds"] * x["share"] for x in done) / (seconds or 1.0),
    )
