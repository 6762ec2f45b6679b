"""Audit of the published scores: sizes of test sets, and what the numbers can be at all."""

import importlib.util
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xrec_repro.audit.facts import SCORE_TABLES, STD, Finding, ScoreRow, Sources, listing, published, run_name
from xrec_repro.errors import DataError

_JUDGES = ("gptscore", "llamascore")  # scores from 0 to 100
_HALF_UNIT = 0.5e-4  # of the four decimals of most columns
_BASELINE = ("roberta-large", "17")  # model and layer


def check_tables(sources: Sources) -> Iterator[Finding]:
    """Yield the findings about the published scores.

    Raises:
        DataError: A file of ``resources/published`` is missing or malformed.
    """
    yield _subset_marks(sources)
    yield _usr_grid(sources)
    yield _rescaled(sources)
    yield _judge_spread(sources)
    yield _shift(sources)
    yield _configurations(sources)


# --- Subsets ----------------------------------------------------------------------------------------------


def _test_sizes(sources: Sources) -> tuple[int, int]:
    """Return the examples of a subset and of a whole test set."""
    return int(sources.number("subset_examples")), max(int(row["test_texts"]) for row in sources.datasets)


def _paces(sources: Sources, gpu: str, few: int, full: int) -> list[dict[str, Any]]:
    """Return, for each experiment of tables 1 and 2, the marked N, the GPU and the time an example took."""
    runs = {(row["dataset"], row["experiment"]): row for row in sources.facts("study_table3")}
    rows: dict[tuple[str, str], ScoreRow] = {}
    for row in (*sources.scores("study_table1"), *sources.scores("study_table2")):
        if row.reported_by == "study":
            rows.setdefault((row.dataset, run_name(row.model)), row)
    details = []
    for (dataset, experiment), row in rows.items():
        if (dataset, experiment) not in runs:
            raise DataError(f"study_table3.csv: no row {dataset}/{experiment}; restore it from the repository")
        run = runs[dataset, experiment]
        seconds = float(run["generate_seconds"])
        rule = (run["generate_gpu"] == gpu) == (row.n_test == few)
        details.append(
            {
                "dataset": dataset,
                "experiment": experiment,
                "GPU": run["generate_gpu"],
                "N marked": row.n_test,
                f"s/example at {few}": seconds / few,
                f"s/example at {full}": seconds / full,
                "as the caption says": "yes" if rule else "no",
            }
        )
    return details


def _subset_marks(sources: Sources) -> Finding:
    gpu, (few, full) = sources.statements("subset_gpu")[0]["value"], _test_sizes(sources)
    details = _paces(sources, gpu, few, full)
    wrong = [detail for detail in details if detail["as the caption says"] == "no"]
    names = [f"{detail['dataset']} {detail['experiment']}" for detail in wrong]
    pace = [detail[f"s/example at {detail['N marked']}"] for detail in details if detail not in wrong]
    odd = [detail[f"s/example at {detail['N marked']}"] for detail in wrong]
    scored = {(detail["dataset"], detail["experiment"]) for detail in details}
    runs = [(row["dataset"], row["experiment"]) for row in sources.facts("study_table3")]
    unscored = [f"{dataset} {name}" for dataset, name in runs if (dataset, name) not in scored]
    return Finding(
        id="subset-marks",
        title="† (a tenth of the test set) against the GPU and the time of generation",
        method=f"Premise: all generation on {gpu}, and no other, used {few} of {full} examples (the caption states the "
        "first half). Seconds an example follow from table 3 for either size.",
        files=published("study_table1", "study_table2", "study_table3", "statements", "datasets"),
        printed=f"{len(details)} experiments in tables 1 and 2, {sum(d['N marked'] == few for d in details)} marked †",
        computed=f"{len(wrong)} contradict: {listing(names)}",
        verdict="differs" if wrong else "agrees",
        comment=f"At the marked N the others took {min(pace):.1f} to {max(pace):.1f} s an example and these "
        f"{listing(f'{seconds:.1f}' for seconds in odd)}. In no table of scores, so without a printed N: "
        f"{listing(unscored)}.",
        details=tuple(details),
    )


def _fits_grid(printed: str, size: int) -> bool:
    """Return whether a count out of `size` rounds to the printed ratio."""
    value = float(printed)
    return abs(round(value * size) / size - value) <= _HALF_UNIT + 1e-12


def _usr_grid(sources: Sources) -> Finding:
    few, full = _test_sizes(sources)
    sizes = {few: full, full: few}
    details, wrong = [], 0
    for row in (*sources.scores("study_table1"), *sources.scores("study_table2")):
        if row.n_test not in sizes:
            continue
        here, there = (_fits_grid(row.printed["usr"], size) for size in (row.n_test, sizes[row.n_test]))
        wrong += not here
        if row.reported_by == "study" and here != there:
            place = {"dataset": row.dataset, "model": row.model, "USR": row.printed["usr"], "N marked": row.n_test}
            fits = {f"possible with {size}": _fits_grid(row.printed["usr"], size) for size in (few, full)}
            details.append(place | {key: "yes" if fit else "no" for key, fit in fits.items()})
    return Finding(
        id="usr-grid",
        title="Which test set sizes the printed USR allow",
        method="USR is a count of texts over N: a printed value that no count out of N rounds to excludes that N.",
        files=published("study_table1", "study_table2", "statements", "datasets"),
        printed="N as marked",
        computed=f"{wrong} rows are impossible with the marked N; {len(details)} rows of the study only with it",
        verdict="differs" if wrong else "agrees",
        comment="The rows listed were scored on the marked N, whatever the caption of table 3 says.",
        details=tuple(details),
    )


# --- What scores can be -----------------------------------------------------------------------------------


def _all_rows(sources: Sources) -> list[ScoreRow]:
    """Return the rows of all tables, each once."""
    rows = sources.scores("xrec_table1")
    rows += [row for row in sources.scores("study_table1") if row.reported_by == "study"]
    known = {(row.dataset, run_name(row.model)) for row in rows if row.reported_by == "study"}
    return rows + [row for row in sources.scores("study_table2") if (row.dataset, run_name(row.model)) not in known]


def read_baselines() -> dict[tuple[str, str], tuple[float, ...]]:
    """Return bert-score's English baselines: (model, layer) -> precision, recall, F1; none if it is not installed."""
    spec = importlib.util.find_spec("bert_score")
    if spec is None or spec.origin is None:
        return {}
    found = {}
    folder = Path(spec.origin).parent / "rescale_baseline" / "en"
    for path in sorted(folder.rglob("*.tsv")):
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            layer, *values = line.split(",")
            found[path.relative_to(folder).with_suffix("").as_posix(), layer] = tuple(map(float, values))
    return found


def f1_above_mean(row: ScoreRow, baseline: Sequence[float] = (0.0, 0.0, 0.0)) -> float:
    """Return by how much the mean F1 exceeds the mean of mean precision and recall, less what rounding allows.

    F1 is at most the arithmetic mean of precision and recall in every example, hence on average. A positive value
    says that the columns are not raw, or rescaled with another baseline.

    Args:
        row: With printed BERTScore columns.
        baseline: Precision, recall, F1 with which the columns were rescaled; zeros for raw columns.
    """
    names = ("bertscore_p", "bertscore_r", "bertscore_f1")
    precision, recall, f1 = (row[name] * (1 - b) + b for name, b in zip(names, baseline, strict=True))
    slack = _HALF_UNIT * (2 - baseline[2] - (baseline[0] + baseline[1]) / 2)
    return f1 - (precision + recall) / 2 - slack


def _rescaled(sources: Sources) -> Finding:
    rows = [row for row in _all_rows(sources) if "bertscore_f1" in row.printed]
    raw = [row.reported_by for row in rows if f1_above_mean(row) > 0]
    breaks = {key: sum(f1_above_mean(row, values) > 0 for row in rows) for key, values in read_baselines().items()}
    undone = breaks.get(_BASELINE)
    by_paper = ", ".join(f"{raw.count(name)} of {name}" for name in dict.fromkeys(row.reported_by for row in rows))
    stated = next(row for row in sources.facts("configurations") if row["metric"] == "bertscore")
    return Finding(
        id="bertscore-rescaled",
        title="BERTScore: precision, recall and F1",
        method="In no example does F1 exceed the mean of precision and recall, so neither do the averages. Counted: "
        f"rows that break this as printed, and with bert-score's baseline of {_BASELINE[0]}, layer {_BASELINE[1]}, "
        "undone. (The harmonic mean of two averages is not the average F1, so F1 itself cannot be recomputed.)",
        files=published(*SCORE_TABLES, "configurations"),
        printed=f"{stated['configuration']} ({stated['source']})",
        computed=f"{len(raw)} of {len(rows)} rows break it as printed ({by_paper}); with the baseline undone "
        + (f"{undone}" if breaks else "not checked, bert-score is not installed"),
        verdict="not checked" if undone is None else "agrees" if raw and not undone else "differs",
        comment="Raw scores cannot break it. This does not tell one model from another: no row breaks it with "
        f"{sum(not count for count in breaks.values())} of bert-score's {len(breaks)} baselines.",
    )


def _judge_spread(sources: Sources) -> Finding:
    details = []
    for row in _all_rows(sources):
        for judge in _JUDGES:
            if judge in row.printed:
                bound = math.sqrt(row[judge] * (100 - row[judge]))
                place = {"table": row.table, "dataset": row.dataset, "model": row.model, "judge": judge}
                details.append(place | {"std": row[judge + STD], "largest possible": bound})
    wrong = [detail for detail in details if detail["std"] > detail["largest possible"] + 0.01]
    share = max(detail["std"] / detail["largest possible"] for detail in details)
    return Finding(
        id="judge-std",
        title="Standard deviations of the judges' scores",
        method="Scores from 0 to 100 with mean m have a standard deviation of at most sqrt(m (100 - m)).",
        files=published(*SCORE_TABLES),
        printed=f"{len(details)} pairs of mean and std",
        computed=f"{len(wrong)} are impossible; the largest is {share:.0%} of the bound",
        verdict="differs" if wrong else "agrees",
        comment="A mean and a std that no scores from 0 to 100 have." if wrong else "Nothing implausible.",
        details=tuple(wrong),
    )


# --- Configurations ---------------------------------------------------------------------------------------


def _shift(sources: Sources) -> Finding:
    rows = sources.scores("study_table1")
    metrics = [m for m in ("bertscore_f1", "bartscore", "bleurt") if all(m in row.printed for row in rows)]
    details, separated = [], []
    for metric in metrics:
        ours = {(row.dataset, row.model): row for row in rows if row.reported_by == "study"}
        theirs = {(row.dataset, row.model): row for row in rows if row.reported_by == "xrec"}
        shifts = [
            (ours[key][metric] - theirs[key][metric]) / theirs[key][metric + STD] for key in ours if key in theirs
        ]
        above = sum(
            min(row[metric] for row in ours.values() if row.dataset == dataset)
            > max(row[metric] for row in theirs.values() if row.dataset == dataset)
            for dataset in {row.dataset for row in rows}
        )
        separated += [metric] * (above == len({row.dataset for row in rows}))
        details.append(
            {
                "metric": metric,
                "smallest shift (stds)": min(shifts),
                "largest shift (stds)": max(shifts),
                "data sets where both reproductions beat every row of the XRec paper": above,
            }
        )
    return Finding(
        id="separated-columns",
        title="Columns in which the two papers' scores lie apart",
        method="Study minus XRec paper for the same model, in standard deviations over examples; and whether all of "
        "the study's rows lie above all of the XRec paper's, baselines included.",
        files=published("study_table1"),
        printed="one column each for both papers' rows, ranked together",
        computed=f"separated in every data set: {listing(separated)}",
        verdict="differs" if separated else "agrees",
        comment="One metric that moves where the others do not was computed otherwise: marks in its column rank "
        "configurations, not models."
        if separated
        else "",
        details=tuple(details),
    )


def _configurations(sources: Sources) -> Finding:
    rows = sources.facts("configurations")
    return Finding(
        id="configurations",
        title="What the two papers scored with",
        method="",
        files=published("configurations"),
        printed=f"{len(rows)} statements",
        computed="–",
        verdict="not checked",
        comment="Not checked: documented from the sources below; scoring the released predictions with either "
        "checkpoint needs models that are not at hand.",
        details=tuple(rows),
    )
