"""Audit of the study's runs: emissions, how much of the data they saw, and which of them there were."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from xrec_repro.accounting.emissions import recompute_published_emissions
from xrec_repro.audit.facts import Finding, Sources, listing, published

# Name -> the emissions of a row of `recompute_published_emissions`, in kg.
_HYPOTHESES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "equation 1": lambda row: row["kg_equation1"],
    "twice the GPU's power": lambda row: 2 * row["kg_gpu_only"],
    "once the GPU's power": lambda row: row["kg_gpu_only"],
}
_UNIT = 0.01  # kg, the last digit of the printed cells


def check_runs(sources: Sources, settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the findings about the runs of the study's table 3.

    Args:
        sources: The files.
        settings: carbon_intensity (kg/kWh) and pue, for equation 1.

    Raises:
        DataError: A file of ``resources`` is missing or malformed.
    """
    yield from _emissions(sources, settings)
    yield _text_split(sources)
    yield _early_stop(sources)
    yield _run_count(sources)
    yield _appendix_runs(sources)


def explain_emissions(row: Mapping[str, Any]) -> tuple[str, float]:
    """Return the hypothesis that comes closest to a printed cell, and what is left, in kg.

    Args:
        row: From `recompute_published_emissions`.
    """
    name = min(_HYPOTHESES, key=lambda name: abs(row["kg_printed"] - _HYPOTHESES[name](row)))
    return name, row["kg_printed"] - _HYPOTHESES[name](row)


def _emissions(sources: Sources, settings: Mapping[str, Any]) -> Iterator[Finding]:
    rows = recompute_published_emissions(sources.resources, settings)
    files = (*published("study_table3", "statements"), "resources/hardware.tsv")
    stated = sources.number("emissions_total_kg")
    where = sources.source("emissions_total_kg")
    total = math.fsum(row["kg_equation1"] for row in rows)
    details = []
    for row in rows:
        name, rest = explain_emissions(row)
        close = "rounds to it" if abs(rest) <= _UNIT / 2 else "within 0.01" if abs(rest) < 1.5 * _UNIT else "not it"
        detail = {"dataset": row["dataset"], "experiment": row["experiment"], "printed kg": row["kg_printed"]}
        detail |= {"equation 1 kg": row["kg_equation1"], "factor": row["factor"]}
        details.append(detail | {"closest": name, "left over kg": rest, "match": close})
    yield Finding(
        id="emissions-total",
        title="Emissions of all experiments",
        method=f"Equation 1 with the printed times: {settings['carbon_intensity']:g} kg/kWh, PUE {settings['pue']:g}, "
        "power of one node of the GPU named (a MIG slice as a whole A100 node, as the study assumes).",
        files=files,
        printed=f"{stated:.2f} kg ({where})",
        computed=f"{total:.2f} kg; printed is {stated / total:.2f} times that",
        verdict="agrees" if abs(total - stated) <= len(rows) * _UNIT / 2 else "differs",
        comment="The printed times and the printed formula do not give the printed emissions.",
        details=tuple(details),
    )
    yield _emission_cells(details, files)
    cells = math.fsum(row["kg_printed"] for row in rows)
    yield Finding(
        id="emissions-sum",
        title="The total of table 3's own cells",
        method="Sum of the printed cells; each is rounded, so that the sum may be off by half a unit a cell.",
        files=files,
        printed=f"{stated:.2f} kg ({where})",
        computed=f"{cells:.2f} kg",
        verdict="agrees" if abs(cells - stated) <= (len(rows) + 1) * _UNIT / 2 else "differs",
        comment="The difference is explained by rounding." if abs(cells - stated) > _UNIT / 2 else "",
    )


def _emission_cells(details: Sequence[Mapping[str, Any]], files: tuple[str, ...]) -> Finding:
    def count(name: str, *matches: str) -> int:
        return sum(row["closest"] == name and row["match"] in matches for row in details)

    parts = [
        f"{name}: {count(name, 'rounds to it')} cells and {count(name, 'within 0.01')} within 0.01 kg"
        for name in _HYPOTHESES
    ]
    unexplained = [f"{row['dataset']} {row['experiment']}" for row in details if row["match"] == "not it"]
    return Finding(
        id="emissions-cells",
        title="What the cells of table 3 were computed with",
        method="For each cell the closest of: equation 1 as printed, and the same with the power of the GPU alone, "
        "once or twice. The rows stand under emissions-total.",
        files=files,
        printed="equation 1 (study section 3.7)",
        computed=listing([*parts, f"none of them: {len(unexplained)}"]),
        verdict="agrees" if count("equation 1", "rounds to it") == len(details) else "differs",
        comment=f"Not explained: {listing(unexplained)}.",
    )


# --- Sizes and times --------------------------------------------------------------------------------------


def implied_texts(train: int, val: int, share: float) -> list[int]:
    """Return the numbers of texts that scikit-learn's split turns into these train and val sizes.

    Args:
        train: Texts for training.
        val: Texts for validation: the first half of the rest.
        share: Of the texts for training.
    """
    found = []
    for size in range(train, math.ceil(train / share) + 3):
        rest = math.ceil(round((1 - share) * size, 9))
        if size - rest == train and rest - math.ceil(rest / 2) == val:
            found.append(size)
    return found


def _text_split(sources: Sources) -> Finding:
    share, details = sources.number("share_of_train_texts"), []
    for row in sources.datasets:
        train, val, test, pairs = (int(row[key]) for key in ("train_texts", "val_texts", "test_texts", "interactions"))
        sizes = implied_texts(train, val, share)
        details.append(
            {
                "dataset": row["dataset"],
                "train": train,
                "val": val,
                "test": test,
                "texts before the split": sizes[0] if sizes else 0,
                "test before it was cut": sizes[0] - train - val if sizes else 0,
                "share of all interactions": sizes[0] / pairs if sizes else 0,
            }
        )
    fit = sum(detail["texts before the split"] > 0 for detail in details)
    return Finding(
        id="text-split",
        title="Sizes of the sets of texts",
        method=f"Which number of texts the published code ({share:g} for training, the rest halved) turns into the "
        "printed training and validation sizes.",
        files=published("datasets", "statements"),
        printed=listing(f"{d['dataset']} {d['train']:,} / {d['val']:,} / {d['test']:,}" for d in details),
        computed=f"{fit} of {len(details)} fit; "
        + listing(f"{d['dataset']} {d['texts before the split']:,} texts" for d in details),
        verdict="agrees" if fit == len(details) else "differs",
        comment="The printed test sets are a part of those that the split gives; how it was drawn is not printed.",
        details=tuple(details),
    )


def _early_stop(sources: Sources) -> Finding:
    sizes = {row["dataset"]: int(row["train_texts"]) for row in sources.datasets}
    least = sources.number("early_stop_enabled_after")
    trained = [row for row in sources.facts("study_table3") if row["train_seconds"]]
    rates: dict[str, list[float]] = {}
    for row in trained:
        if row["train_early_stopped"] == "0":
            rates.setdefault(row["train_gpu"], []).append(float(row["train_seconds"]) / sizes[row["dataset"]])
    details, unknown = [], 0
    for row in trained:
        if row["train_early_stopped"] == "0":
            continue
        if row["train_gpu"] not in rates:
            unknown += 1
            continue
        alone = float(row["train_seconds"]) / sizes[row["dataset"]]
        low, high = alone / max(rates[row["train_gpu"]]), alone / min(rates[row["train_gpu"]])
        place = {"dataset": row["dataset"], "experiment": row["experiment"]}
        details.append(place | {"at least": f"{low:.0%}", "at most": f"{min(high, 1):.0%}", "possible": high >= least})
    early = sum(not detail["possible"] for detail in details)
    return Finding(
        id="early-stopping",
        title="How much of the training set the early-stopped runs saw",
        method="Printed time over the time of a whole pass, by the seconds a sample (fastest and slowest) of the whole "
        "passes on the same GPU. Stopping is possible from the stated share on.",
        files=published("study_table3", "datasets", "statements"),
        printed=f"stopping from {least:.0%} on ({sources.source('early_stop_enabled_after')})",
        computed=listing(f"{d['dataset']} {d['experiment']} {d['at least']} to {d['at most']}" for d in details),
        verdict="differs" if early else "agrees",
        comment=f"{unknown} runs on a slice have no whole pass to compare with. Runs that saw a part of the data stand "
        "beside runs that saw all of it.",
        details=tuple({**detail, "possible": "yes" if detail["possible"] else "no"} for detail in details),
    )


def _run_count(sources: Sources) -> Finding:
    stated, extensions = (int(sources.number(f"{kind}_experiments")) for kind in ("reproduction", "extension"))
    runs = len(sources.facts("study_table3"))
    return Finding(
        id="experiment-count",
        title="Number of reproduction experiments",
        method=f"Rows of table 3 less the {extensions} extensions.",
        files=published("study_table3", "statements"),
        printed=f"{stated} ({sources.source('reproduction_experiments')})",
        computed=f"{runs - extensions}",
        verdict="agrees" if stated == runs - extensions else "differs",
        comment="The section itself lists two on three data sets and two on two.",
    )


def _appendix_runs(sources: Sources) -> Finding:
    dataset = sources.statements("appendix_a_dataset")[0]["value"]
    shown = [row["value"] for row in sources.statements("appendix_a_experiment")]
    known = {row["experiment"] for row in sources.facts("study_table3") if row["dataset"] == dataset}
    missing = [name for name in shown if name not in known]
    return Finding(
        id="appendix-runs",
        title="Experiments behind the examples of appendix A",
        method="Whether table 3 lists the experiments whose texts are shown.",
        files=published("study_table3", "statements"),
        printed=f"{dataset}: {listing(shown)} ({sources.source('appendix_a_dataset')})",
        computed=f"table 3 has of {dataset} only: {listing(sorted(known))}",
        verdict="differs" if missing else "agrees",
        comment=f"Not listed, so without time, emissions or scores: {listing(missing)}.",
    )
