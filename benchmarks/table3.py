"""What the experiments of the study's table 3 would take at the rates that were measured on a GPU."""

import csv
from collections.abc import Mapping
from typing import Any

from harness import ROOT

from xrec_repro.accounting.emissions import emissions_factors, emissions_kg, find_hardware, load_hardware
from xrec_repro.config import load_config
from xrec_repro.published import load_published_table3

EXPLANATIONS, TRAIN_SAMPLES = 3_000, 95_841
RATES = ("gpu_tuning", "gpu_slots_all_exact")


def at_measured_rates(results: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each experiment with its hours and kilograms at those rates, beside the published ones.

    Args:
        results: By the name of their claim; those of `RATES` are read: how long an epoch of `TRAIN_SAMPLES` takes, and
            how long `EXPLANATIONS` texts; the GPU is that of the first.
    """
    tuning, generation = (results[name] for name in RATES)
    factors = emissions_factors(load_config(ROOT / "config" / "config.yaml")["emissions"])
    node = find_hardware(tuning["machine"]["gpu"] or "none", load_hardware(ROOT / "resources"))
    with (ROOT / "resources/published/datasets.csv").open(encoding="utf-8", newline="") as stream:
        samples = {row["dataset"]: int(row["train_texts"]) for row in csv.DictReader(stream) if row["train_texts"]}
    rows = []
    for published in load_published_table3(ROOT / "resources"):
        texts = samples.get(published.dataset, TRAIN_SAMPLES) if published.train_seconds else 0
        used = tuning["ours"] * texts / TRAIN_SAMPLES + generation["ours"]
        rows.append(
            {
                "experiment": f"{published.dataset}, {published.experiment}",
                "hours": round(used / 3600, 2),
                "kg": round(emissions_kg(used, node.node_power_kw, *factors), 3) if node else None,
                "published hours": round(((published.train_seconds or 0) + published.generate_seconds) / 3600, 2),
                "published kg": published.co2_kg,
            }
        )
    return rows
