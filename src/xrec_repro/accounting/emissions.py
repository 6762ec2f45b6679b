"""Emissions of jobs and of the published runs: carbon intensity x PUE x power x time (study, eq. 1).

The power is that of a node with one GPU, from ``resources/hardware.tsv``; which share of it a job is charged is decided
in `accounting.shares`. A slice of a GPU (MIG) is charged its `share` of the node; as in the study that is all of it, an
upper bound, because what a slice draws is not known. An unknown CPU is charged an assumed power, and said to be so; for
other unknown hardware the emissions are None, with a reason.
"""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xrec_repro.errors import ConfigError, DataError
from xrec_repro.io import require_file
from xrec_repro.published import PublishedRun, load_published_table3, published_number

ASSUMED = "power assumed"  # behind the name of a device of which nothing is known


@dataclass(frozen=True)
class Hardware:
    """A row of ``resources/hardware.tsv``.

    Attributes:
        pattern: Regular expression searched in the name of a device, as CUDA gives it.
        device: Name for people.
        node_power_kw: Of one GPU and its host, in kW.
        gpu_power_kw: Of the GPU alone, in kW.
        share: Part of the node that is charged, in (0, 1].
        source: Where the numbers come from.
    """

    pattern: str
    device: str
    node_power_kw: float
    gpu_power_kw: float
    share: float
    source: str


@dataclass(frozen=True)
class Power:
    """What a device draws.

    Attributes:
        device: Name for people.
        kw: Of its node as a whole, in kW, one GPU and its host; None if it is not known.
        reason: Why it is not known, and what to do about it.
        source: Where it comes from.
        gpu_kw: Of the GPU alone, or of the slice of it that the device is, in kW; 0 for a CPU.
        host_kw: Of all cores of the host, in kW; None if it is not known apart from the node's.
    """

    device: str
    kw: float | None
    reason: str | None = None
    source: str | None = None
    gpu_kw: float = 0.0
    host_kw: float | None = None


def emissions_kg(seconds: float, power_kw: float, carbon_intensity: float, pue: float) -> float:
    """Return the emissions of a job in kg of CO2 equivalent (study, eq. 1).

    Args:
        seconds: How long it ran.
        power_kw: Power of its node, in kW.
        carbon_intensity: Of the electricity, in kg/kWh.
        pue: Power usage effectiveness of the computing centre.

    Raises:
        DataError: A factor is negative or not finite.
    """
    factors = {"seconds": seconds, "power_kw": power_kw, "carbon_intensity": carbon_intensity, "pue": pue}
    for name, value in factors.items():
        if not math.isfinite(value) or value < 0:
            raise DataError(f"emissions: {name} is {value}; give a finite number, 0 or more")
    return carbon_intensity * pue * power_kw * seconds / 3600


def load_hardware(resources_folder: str | Path) -> list[Hardware]:
    """Read ``hardware.tsv``; of several patterns that match a device, the first counts.

    Raises:
        DataError: The file is missing or malformed.
    """
    path = Path(resources_folder) / "hardware.tsv"
    with require_file(path, "restore it from the repository").open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        for name in Hardware.__dataclass_fields__:
            if name not in (reader.fieldnames or []):
                raise DataError(f"{path}: column {name!r} is missing; restore it from the repository")
        return [_hardware(f"{path}: line {reader.line_num}", row) for row in reader]


def _hardware(place: str, row: Mapping[str, str | None]) -> Hardware:
    try:
        re.compile(row["pattern"] or "")
        numbers = {key: float(row[key] or "") for key in ("node_power_kw", "gpu_power_kw", "share")}
    except (re.error, ValueError) as error:
        raise DataError(f"{place}: {error}; correct the line") from error
    if not row["pattern"] or not all(0 < value < math.inf for value in numbers.values()) or numbers["share"] > 1:
        raise DataError(f"{place}: needs a pattern, positive powers and a share of at most 1; correct the line")
    return Hardware(row["pattern"], row["device"] or "", source=row["source"] or "", **numbers)


def find_hardware(name: str, hardware: Sequence[Hardware]) -> Hardware | None:
    """Return the first row whose pattern occurs in the name of a device, or None."""
    return next((row for row in hardware if re.search(row.pattern, name)), None)


def slice_of(name: str | None) -> float:
    """Return the part of its GPU that a device is, by the compute slices in its name (``MIG 3g.20gb``: 3/7).

    A GPU has seven of them, an A30 four (NVIDIA, Multi-Instance GPU User Guide).
    """
    found = re.search(r"\bMIG (\d)g\.", name or "")
    return min(1.0, int(found[1]) / (4 if "A30" in str(name) else 7)) if found else 1.0


def power_of(
    device: Mapping[str, Any],
    hardware: Sequence[Hardware],
    settings: Mapping[str, Any],
    detected: Mapping[str, Any] | None = None,
) -> Power:
    """Return what a device draws.

    Args:
        device: As in a provenance: kind (``cpu`` or ``cuda``) and name.
        hardware: The known devices.
        settings: Section ``emissions``; its optional ``node_power_kw`` (name or kind of a device -> kW) comes first,
            its optional ``unknown_cpu_kw`` last, for a CPU of which nothing else is known.
        detected: What codecarbon knows of a device that is not known otherwise: ``cpu`` and ``gpu``, each kw and
            source, or None. A GPU is charged with the CPU of its host.
    """
    kind, name = device["kind"], device["name"] or "unnamed"
    known = find_hardware(name, hardware)
    label = known.device if known else f"CPU ({name})" if kind == "cpu" else name
    stated = settings.get("node_power_kw") or {}
    for key in (name, kind):
        if key in stated:
            host = stated[key] if kind == "cpu" else None
            return Power(label, stated[key], source=f"emissions.node_power_kw.{key}", host_kw=host)
    part = slice_of(name)
    if known:
        gpu = known.gpu_power_kw * (known.share if known.share < 1 else part)  # a stated share was measured
        host = (known.node_power_kw - known.gpu_power_kw) * known.share
        return Power(label, known.node_power_kw * known.share, source=known.source, gpu_kw=gpu, host_kw=host)
    parts = [(detected or {}).get(name) for name in (("cpu", "gpu") if kind == "cuda" else ("cpu",))]
    if None not in parts:
        host, *gpus = (each["kw"] for each in parts)
        source = "; ".join(each["source"] for each in parts)
        return Power(label, host + sum(gpus), source=source, gpu_kw=sum(gpus) * part, host_kw=host)
    assumed = settings.get("unknown_cpu_kw") if kind == "cpu" else None
    if assumed is not None:
        source = f"emissions.unknown_cpu_kw: {(settings.get('sources') or {}).get('unknown_cpu_kw', 'stated')}"
        return Power(f"{label}, {ASSUMED}", assumed, source=source, host_kw=assumed)
    return Power(label, None, f"the power of {label} is not known; state it in emissions.node_power_kw.{kind}")


def job_emissions(
    seconds: float, device: Mapping[str, Any], hardware: Sequence[Hardware], settings: Mapping[str, Any]
) -> tuple[float | None, str | None]:
    """Return the emissions of a job that had its node to itself in kg of CO2 equivalent, or None and the reason.

    Args:
        seconds: How long it ran.
        device: As in a provenance: kind (``cpu`` or ``cuda``) and name.
        hardware: The known devices.
        settings: Section ``emissions``: carbon_intensity (kg/kWh), pue, and maybe node_power_kw.

    Raises:
        ConfigError: A setting is missing.
        DataError: A factor is negative or not finite.
    """
    power = power_of(device, hardware, settings)
    if power.kw is None:
        return None, power.reason
    return emissions_kg(seconds, power.kw, *emissions_factors(settings)), None


def emissions_factors(settings: Mapping[str, Any]) -> tuple[float, float]:
    """Return carbon intensity (kg/kWh) and PUE.

    Raises:
        ConfigError: One is missing.
    """
    for key in ("carbon_intensity", "pue"):
        if key not in settings:
            raise ConfigError(f"emissions.{key}: missing; config/config.yaml gives its default")
    return settings["carbon_intensity"], settings["pue"]


def recompute_published_emissions(resources_folder: str | Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Recompute the emissions in the study's table 3 from its own times by its own equation 1.

    Args:
        resources_folder: The folder ``resources``.
        settings: carbon_intensity (kg/kWh) and pue; the study's are 0.22 and 1.2.

    Returns:
        For each row of the table: dataset, experiment, train_gpu, train_seconds, generate_gpu, generate_seconds,
        kg_equation1, kg_printed, factor (printed / equation 1), and what explains most printed numbers:
        kg_gpu_only (equation 1 with the power of the GPU alone), kg_gpu_only_double (twice that) and
        factor_gpu_only (printed / kg_gpu_only).

    Raises:
        ConfigError: A setting is missing.
        DataError: A file is missing or malformed, or ``hardware.tsv`` lacks a GPU of the table.
    """
    hardware = load_hardware(resources_folder)
    rows = []
    for run in load_published_table3(resources_folder):
        node = _published_kg(run, hardware, settings, "node_power_kw")
        gpu = _published_kg(run, hardware, settings, "gpu_power_kw")
        rows.append(
            {
                "dataset": run.dataset,
                "experiment": run.experiment,
                "train_gpu": run.train_gpu,
                "train_seconds": run.train_seconds,
                "generate_gpu": run.generate_gpu,
                "generate_seconds": run.generate_seconds,
                "kg_equation1": node,
                "kg_printed": run.co2_kg,
                "factor": run.co2_kg / node,
                "kg_gpu_only": gpu,
                "kg_gpu_only_double": 2 * gpu,
                "factor_gpu_only": run.co2_kg / gpu,
            }
        )
    return rows


def published_totals(resources_folder: str | Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return kg_equation1 and kg_printed_cells, summed over `rows`, and kg_printed, the total that the study states.

    Args:
        resources_folder: The folder ``resources``.
        rows: From `recompute_published_emissions`.

    Raises:
        DataError: The file of published statements is missing or malformed.
    """
    return {
        "kg_equation1": math.fsum(row["kg_equation1"] for row in rows),
        "kg_printed_cells": math.fsum(row["kg_printed"] for row in rows),
        "kg_printed": published_number(resources_folder, "emissions_total_kg"),
    }


def _published_kg(run: PublishedRun, hardware: Sequence[Hardware], settings: Mapping[str, Any], power: str) -> float:
    """Return eq. 1 over training and generation; a MIG slice is the whole of an A100 node, as the study assumes."""
    phases = [(run.generate_gpu, run.generate_seconds)]
    if run.train_gpu is not None and run.train_seconds is not None:
        phases.append((run.train_gpu, run.train_seconds))
    kg = 0.0
    for gpu, seconds in phases:
        known = find_hardware(gpu, hardware)
        if known is None:
            raise DataError(f"hardware.tsv: no pattern matches {gpu!r} of study_table3.csv; restore it")
        kg += emissions_kg(seconds, getattr(known, power), *emissions_factors(settings))
    return kg
