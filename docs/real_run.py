"""Write what a run of a real language model found: resources/measured/RUN/*.csv, and a page of docs from them.

``python docs/real_run.py results/xrec-small`` after ``make real``. Losses are computed here, on the run's test texts;
all else is read from the run. They are kept in RUN/losses.json, and not computed twice. With --losses they alone are
computed, which asks for no more than the texts that the run generated; on a GPU, if there is one. With --page the page
alone is written again, from the files under resources/measured.
"""

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_page import METRICS, PAGES, page

from xrec_repro.accounting.machine import processor_name
from xrec_repro.contracts import EXPLANATIONS
from xrec_repro.device import pick_device
from xrec_repro.errors import DataError, XRecError
from xrec_repro.estimates import clusters_of
from xrec_repro.examples import load_examples
from xrec_repro.explainer.tuning import held_out_losses
from xrec_repro.identity import digest_json, path_digest, versions
from xrec_repro.io import read_json, read_table, write_text
from xrec_repro.methods.base import Run
from xrec_repro.methods.driver import load_fitted, make_method
from xrec_repro.paper.render import number
from xrec_repro.progress import track
from xrec_repro.resampling import holm
from xrec_repro.seeding import numpy_rng
from xrec_repro.statistic_settings import Settings
from xrec_repro.statistics import compare_arrays

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "resources/measured"
UNTOUCHED = "no_embeddings"  # the experiment whose model nothing was taught
OTHERS = "others' vectors"
TEXTS, AT_ONCE = 5, 4  # texts of each data set; prompts read at once
# Experiments whose losses are compared with those of others that were trained as they were, but for one thing.
CONTROLS = {
    "xrec": ("no_profile", "no_injection", "fixed_moe"),
    "no_profile": ("no_profile_no_injection", "no_profile_fixed", "no_profile_shuffled"),
}
# What a text does, by its row.
HABITS = {
    "the_user": lambda row: row["prediction"].startswith("The user"),
    "to_the_reader": lambda row: bool(re.match(r"(I|You|Your)\b", row["prediction"])),
    "system_message": lambda row: "within 50 words" in row["prediction"],
    "cut_off": lambda row: row["finish_reason"] == "length",
}
Rows = list[dict[str, Any]]


def main() -> int:
    """Measure, and write the page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help=f"folder of a finished run: results/{', results/'.join(PAGES)}")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--losses", action="store_true", help="compute the losses alone")
    only.add_argument("--page", action="store_true", help="write the page alone, from resources/measured")
    chosen = parser.parse_args()
    if chosen.run.name not in PAGES:
        parser.error(f"{chosen.run}: has no page; those that have: {', '.join(PAGES)}")
    folder = MEASURED / chosen.run.name
    try:
        if chosen.losses:
            measured_losses(chosen.run)
            return 0
        if not chosen.page:
            keep(chosen.run, folder)
        write_text(ROOT / "docs" / PAGES[chosen.run.name][0], page(folder))
    except XRecError as error:
        print(f"docs/real_run.py: {error}; is {chosen.run} a finished run?", file=sys.stderr)
        return error.exit_code
    return 0


def keep(run: Path, folder: Path) -> None:
    """Write all numbers of a run, once all of them are there."""
    found = {one.__name__: one(run) for one in (scores, comparisons, form, habits, texts, losses)}
    record = origin(run)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in found.items():
        _write(folder / f"{name}.csv", rows)
    write_text(folder / "provenance.json", json.dumps(record, indent=2) + "\n")


def scores(run: Path) -> Rows:
    """Return the mean of each metric and experiment with its interval, from the run's statistics."""
    found = read_json(run / "paper/statistics/statistics.json")["estimates"]
    keys = ("dataset", "experiment", "label", "metric", "n", "mean", "mean_low", "mean_high", "std")
    return [{key: _short(row[key]) for key in keys} for row in found if row["metric"] in METRICS]


def comparisons(run: Path) -> Rows:
    """Return how each experiment differs from XRec in the mean of a metric."""
    found = read_json(run / "paper/statistics/statistics.json")["comparisons"]
    keys = ("dataset", "system", "other", "metric", "n", "value", "other_value", "difference", "low", "high", "p_holm")
    rows = [row for row in found if row["aspect"] == "mean" and row["metric"] in METRICS]
    return [{key: _short(row.get(key)) for key in keys} for row in rows]


def form(run: Path) -> Rows:
    """Return the share of texts that open as their reference does, or as any does."""
    rows = []
    for row in read_json(run / "paper/questions.json")["form"]:
        own, known = row["own"], row["known"]
        names = {"dataset": row["dataset"], "experiment": row["experiment"], "embeddings": row["embeddings_as"]}
        spread = {f"{kind}_{end}": _short(one[end]) for kind, one in (("own", own), ("known", known)) for end in own}
        rows.append(names | spread)
    return rows


def habits(run: Path) -> Rows:
    """Count what the texts of each experiment do, over its seeds; those of somebody else are the same in all."""
    rows = []
    for folder in sorted(path for dataset in _datasets(run) for path in (run / dataset).iterdir()):
        files = {path_digest(file): file for file in sorted(folder.glob("seed*/generation/explanations.parquet"))}
        made = [row for file in files.values() for row in read_table(file, EXPLANATIONS).to_pylist()]
        if made:
            counts = {name: sum(found(row) for row in made) for name, found in HABITS.items()}
            rows.append({"dataset": folder.parent.name, "experiment": folder.name, "texts": len(made)} | counts)
    return rows


def texts(run: Path) -> Rows:
    """Return some texts of each data set, drawn by a seed: reference and predictions of every experiment."""
    rows: Rows = []
    for dataset in _datasets(run):
        made = {}
        for file in sorted((run / dataset).glob("*/seed1/generation/explanations.parquet")):
            made[file.parents[2].name] = {r["example_id"]: r for r in read_table(file, EXPLANATIONS).to_pylist()}
        shown = set.intersection(*(set(one) for name, one in made.items() if name != "authors"))
        for example in numpy_rng(1, "real run", dataset).choice(sorted(shown), TEXTS, replace=False).tolist():
            some = {name: one[example] for name, one in made.items() if example in one}
            row = {"dataset": dataset, "example_id": example, "reference": next(iter(some.values()))["reference"]}
            rows.append(row | {name: one["prediction"] for name, one in some.items()})
    return rows


def origin(run: Path) -> dict[str, Any]:
    """Return where the numbers come from: commit, machine and versions of the run."""
    record = read_json(run / "paper/costs/jobs.provenance.json")
    tuned = [read_json(path) for path in run.glob("*/*/seed*/method/provenance.json")]
    return {
        "commit": record["code"]["commit"],
        "changed": record["code"]["dirty"],
        "seeds": sorted({one["seed"] for one in tuned}),
        "tuned_on": sorted({_where(one["machine"]["device"]["name"], one["packages"]) for one in tuned}),
        "losses_on": sorted({one["device"] for one in measured_losses(run)}),
        "packages": {name: version for name, version in record["packages"].items() if version},
        "processor_seconds": round(sum(_processor_seconds(path) for path in sorted(run.glob("**/benchmarks/*.tsv")))),
    }


def _where(device: str, packages: Mapping[str, str]) -> str:
    return f"{device} (torch {packages['torch']}, transformers {packages['transformers']})"


def _processor_seconds(benchmark: Path) -> float:
    with benchmark.open(encoding="utf-8", newline="") as stream:
        return sum(float(row["cpu_time"]) for row in csv.DictReader(stream, delimiter="\t"))


def losses(run: Path) -> Rows:
    """Return the loss of the test texts, in nats a token, and what it is less than that of another system.

    The others are the untouched model, with a prompt of the same profiles; the experiment itself, given the vectors of
    other users and items; and its `CONTROLS`. Each seed is compared with itself.
    """
    record = read_json(run / "paper/statistics/statistics.provenance.json")
    settings = Settings.from_settings(record["settings"]["statistics"])
    found: dict[tuple[str, str, str], Rows] = {}
    for one in measured_losses(run):
        found.setdefault((one["dataset"], one["experiment"], one["vectors"]), []).append(one)
    rows: Rows = []
    for (dataset, experiment, vectors), own in found.items():
        if vectors != "own":
            continue
        untouched = found.get((dataset, UNTOUCHED, "none"), [])
        others = {"untouched": [one for one in untouched if one["profiles"] == own[0]["profiles"]]}
        others[OTHERS] = found.get((dataset, experiment, "others"), [])
        others |= {other: found.get((dataset, other, "own"), []) for other in CONTROLS.get(experiment, ())}
        for less, other in others.items():
            # The same adapters read others' vectors: what trainings differ by cancels out, as far as it does.
            rule = replace(settings, runs="both") if less == OTHERS and settings.runs == "larger" else settings
            if other:
                rows.append({"dataset": dataset, "experiment": experiment, "less": less} | _change(own, other, rule))
    for row, corrected in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_holm"] = _short(float(corrected))
    return rows


def measured_losses(run: Path) -> Rows:
    """Compute the losses of each data set's test texts under every tuned experiment, own vectors and others', and none.

    Returns:
        A row for each of them and seed: its losses and users in the order of the texts, the device, and the digests of
        all that it was computed from. The file has it under the digest of the latter: a later call takes what still
        holds.
    """
    path = run / "losses.json"
    rows: dict[str, dict[str, Any]] = read_json(path) if path.exists() else {}
    cases = {digest_json(of): of for dataset in _datasets(run) for of in _cases(run / dataset)}
    if not cases:
        raise DataError(f"{run}: no experiment has written its texts")
    for digest, of in track(cases.items(), "losses", len(cases)):
        if digest not in rows:
            rows[digest] = of | _losses(run, of)
            write_text(path, json.dumps(rows) + "\n")
    return [rows[digest] for digest in cases]


def _cases(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what the losses of a data set are computed of: experiment, seed, vectors, profiles, and the inputs."""
    for path in sorted(folder.glob("*/seed*/generation/provenance.json")):
        record = read_json(path)
        inputs = {name: entry["sha256"] for name, entry in record["inputs"].items()}
        settings = record["settings"]
        about = {"dataset": folder.name, "experiment": path.parents[2].name, "seed": record["seed"]}
        about |= {"inputs": inputs, "settings": digest_json(settings)}
        if about["experiment"] == UNTOUCHED:
            yield from (about | {"vectors": "none", "profiles": shown} for shown in (True, False))
        if "weights" not in inputs:
            continue
        kinds = ("own", "others") if settings["embeddings"] == "trained" else ("own",)
        yield from (about | {"vectors": kind, "profiles": settings["profiles_shown"]} for kind in kinds)


def _losses(run: Path, of: Mapping[str, Any]) -> dict[str, Any]:
    device = pick_device("auto")
    every = load_examples(run / of["dataset"] / "shared/examples/examples.parquet", True)
    examples = [example for example in every if example.split == "test"]
    read = examples if of["profiles"] else [replace(one, user_profile=None, item_profile=None) for one in examples]
    written = run / of["dataset"] / of["experiment"] / f"seed{of['seed']}/generation/provenance.json"
    others = "shuffled" if of["vectors"] == "others" else None
    found = held_out_losses(_explainer(read_json(written), device, others), read, AT_ONCE)
    name = processor_name() if device == "cpu" else torch.cuda.get_device_name()
    where = _where(name, versions("torch", "transformers"))
    return {"device": where, "users": [one.user_id for one in examples], "losses": found}


def _explainer(record: Mapping[str, Any], device: str, embeddings: str | None) -> Any:
    """Return the explainer that wrote texts, from their provenance; with other embeddings than its own if set."""
    inputs = {name: Path(entry["path"]) for name, entry in record["inputs"].items()}
    settings = record["settings"] | ({"embeddings": embeddings} if embeddings else {})
    run = Run(seed=record["seed"], device=device, domain=settings["domain"], sections=settings, inputs=inputs)
    method = make_method(settings["method"], "write", run)
    method.load(load_fitted(inputs["weights"].parent) if "weights" in inputs else None)
    return method.explainer


def _change(own: Rows, other: Rows, settings: Settings) -> dict[str, Any]:
    """Return how the losses of an experiment differ from another's, its seeds paired, by the run's own statistics."""
    for key in ("users", "seed"):
        if [one[key] for one in own] != [one[key] for one in other]:
            raise DataError(f"{own[0]['experiment']} and {other[0]['experiment']}: losses of another {key}")
    after, before = (np.array([[one["losses"] for one in rows]]) for rows in (own, other))
    users = np.unique(own[0]["users"], return_inverse=True)[1]
    clusters = clusters_of(users, np.ones(len(users), dtype=bool), settings)
    facts = compare_arrays(after, before, settings, clusters)["mean", 0]
    each = [number(one) for one in (after - before).mean(axis=2)[0]]
    found = {"n": len(users), "before": facts["other_value"], "after": facts["value"], "change": facts["difference"]}
    found |= {"low": facts["low"], "high": facts["high"], "p": facts["p"], "p_holm": None}
    return {key: _short(value) for key, value in found.items()} | ({"seeds": ", ".join(each)} if len(each) > 1 else {})


def _datasets(run: Path) -> list[str]:
    return sorted(path.parent.name for path in run.glob("*/shared"))


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _write(path: Path, rows: Rows) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
