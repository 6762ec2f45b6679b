"""The statistical appendix, and how estimates and comparisons look in any report."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xrec_repro.errors import DataError
from xrec_repro.estimates import Estimate, estimates
from xrec_repro.io import write_json, write_text
from xrec_repro.kinds import warnings
from xrec_repro.paper.render import number, p_value, span, text_table
from xrec_repro.run_effects import scope_note
from xrec_repro.scores import Run, load_runs
from xrec_repro.statistic_settings import Settings
from xrec_repro.statistics import Comparison, compare_to_reference

EXPLORATORY = (
    "Exploratory: no primary metric (`statistics.primary`). p is as it is, not corrected for the number of comparisons "
    "(so no p Holm), and decides nothing; where so many are looked at, some are small by chance."
)
COMPARISON_HEADS = ("Difference", "Interval", "p", "p runs", "p Holm", "Effect", "Wins", "N")
FEWEST_EFFECTIVE = 50
UNSURE = (
    f"‡ Few texts decide this standard deviation: n over the kurtosis is less than {FEWEST_EFFECTIVE}, and such an "
    "interval holds the truth less often than it says. Look at the texts far off (examples.md counts broken ones)."
)
USERS = {"user": " (those of a user together)", "none": ""}
DECISIONS = {1: "better", -1: "worse", 0: "–"}
_FINDINGS = ("dataset", "experiment", "label", "kind", "few", "seeds")


def write_statistics(
    rows: Iterable[Mapping[str, Any]], statistics_config: Mapping[str, Any], out_json: str | Path, out_md: str | Path
) -> None:
    """Write every estimate with its interval, and every comparison with the reference experiment.

    Args:
        rows: As for `scores.load_runs`.
        statistics_config: The section ``statistics`` of the configuration.
        out_json: Where all numbers go, unrounded.
        out_md: Where two tables for people go.

    Raises:
        ConfigError: The section is unusable.
        DataError: There is no row, or files are unusable or cannot be compared.
    """
    settings, rows = Settings.from_settings(statistics_config), list(rows)
    if not rows:
        raise DataError(f"{out_json}: there is nothing to describe; name an experiment in run.experiments")
    runs = load_runs(rows)
    found = [(run, estimates(run.files, list(run.signatures), settings, run.corpus, run.texts)) for run in runs]
    compared = compare_to_reference(rows, settings.reference, settings)
    record = {
        "settings": asdict(settings),
        "estimates": [
            {key: getattr(run, key) for key in _FINDINGS} | asdict(one) | {"signature": run.signatures[one.metric]}
            for run, ones in found
            for one in ones
        ],
        "comparisons": [
            {"dataset": dataset, "exploratory": not settings.is_primary(one.metric)} | asdict(one)
            for (dataset, _, _), one in compared.items()
        ],
    }
    write_json(out_json, record)
    write_text(out_md, _estimates_table(found, settings) + "\n" + _comparisons_table(runs, compared, settings))


def _is_unsure(one: Estimate) -> bool:
    return one.std is not None and one.effective_n < FEWEST_EFFECTIVE


def comparison_cells(one: Comparison) -> list[str]:
    """Return the cells under `COMPARISON_HEADS`."""
    wins = "–" if one.superiority is None else f"{one.superiority:.1%}"
    effect = one.d_z if one.aspect == "mean" else one.ratio
    p_values = [p_value(p) for p in (one.p, one.p_runs, one.p_holm)]
    return [number(one.difference), span(one.low, one.high), *p_values, number(effect), wins, str(one.n)]


def comparison_note(settings: Settings, family: int) -> str:
    """Return what the columns under `COMPARISON_HEADS` are, for so many tests, and whether they can decide at all."""
    which = "" if settings.primary is None else f" of primary metrics ({', '.join(settings.primary) or 'none'})"
    note = (
        f"Interval: {settings.confidence:.0%}, {settings.interval} bootstrap. p: two-sided, paired {settings.test} "
        f"test{USERS[settings.clusters]}, or p runs, the t-test of what trainings differ by, if that is larger; the "
        "interval reaches as far as either's. "
        f"Holm: corrected for all {family} tests{which}. A difference counts at alpha {settings.alpha} "
        f"(correction: {settings.correction}). Effect: d_z of means, ratio of standard deviations. Wins: share of "
        "examples where the first scores higher, ties counting half. N: examples scored for both."
    )
    draws = settings.permutations if settings.test == "permutation" else settings.bootstrap_samples
    if settings.correction == "holm" and 2 / (draws + 1) * family > settings.alpha:
        key = "permutations" if settings.test == "permutation" else "bootstrap_samples"
        note += f" Warning: {draws} draws are too few to reach alpha after this correction; raise statistics.{key}."
    return note


def run_notes(runs: Iterable[Run], settings: Settings) -> list[str]:
    """Return what must be said of these runs: demo, subsets, seeds."""
    runs = list(runs)
    notes = warnings(run.kind for run in runs)
    notes += [scope_note({len(run.seeds) for run in runs}, settings.runs)] if runs else []
    if any(run.few for run in runs):
        notes.append("† Only a part of the test set was explained; comparisons are on the examples in common.")
    if any(len(run.seeds) > 1 for run in runs):
        notes.append("Means and standard deviations are averages over the seeds; a comparison pairs the seeds, too.")
    return notes


def _estimates_table(found: Sequence[tuple[Run, Sequence[Estimate]]], settings: Settings) -> str:
    bounds = f"{settings.confidence:.0%} interval"
    how = "; its interval: studentised, of its logarithm" if settings.interval == "bca" else ""
    lines = []
    signatures: dict[str, dict[str, None]] = defaultdict(dict)
    for run, ones in found:
        for one in ones:
            signatures[run.signatures[one.metric]][one.metric] = None
            mean = [number(one.mean), span(one.mean_low, one.mean_high)]
            std = [number(one.std), span(one.std_low, one.std_high) + "‡" * _is_unsure(one)]
            cells = [_marked(run), one.metric, *mean, *std, number(one.seed_sd), str(one.n), str(one.missing)]
            lines.append((run.dataset_label, cells))
    notes = [
        f"Intervals: {settings.interval} bootstrap over examples{USERS[settings.clusters]}, "
        f"{settings.bootstrap_samples} samples. They do not "
        f"tell how a newly trained model would score: the sd over seeds does. Std: over examples (population){how}.",
        "Scores of a whole set of texts, such as USR, have none: their examples are not independent.",
        *([UNSURE] if any(map(_is_unsure, (one for _, ones in found for one in ones))) else []),
        *run_notes((run for run, _ in found), settings),
    ]
    return text_table(
        "Scores, and how sure they are.",
        ["Experiment", "Metric"],
        ["Mean", bounds, "Std", bounds, "Sd over seeds", "N", "Missing"],
        lines,
        notes,
        {signature: ", ".join(metrics) for signature, metrics in signatures.items()},
    )


def _comparisons_table(
    runs: Sequence[Run], compared: Mapping[tuple[str, str, str], Comparison], settings: Settings
) -> str:
    if not compared:
        return f"No data set has both {settings.reference} and another experiment: nothing is compared.\n"
    named = {(run.dataset, run.experiment): run for run in runs}
    parts: dict[bool, list[tuple[str, Sequence[str]]]] = {True: [], False: []}
    for (dataset, experiment, column), one in compared.items():
        run, primary = named[dataset, experiment], settings.is_primary(one.metric)
        decision = DECISIONS[one.decision(settings)] if primary else "exploratory"
        parts[primary].append((run.dataset_label, [_marked(run), column, decision, *comparison_cells(one)]))
    family = sum(one.p is not None and settings.is_primary(one.metric) for one in compared.values())
    caption, note = f"Differences from {settings.reference}", comparison_note(settings, family)
    sizes = "Scores of a whole set of texts fall with its size: those of sets of two sizes are not compared."
    words = ["Experiment", "Column", "Decision"]
    tables = []
    if parts[True]:
        tables.append(text_table(f"{caption}.", words, COMPARISON_HEADS, parts[True], [note, sizes]))
    if parts[False]:
        notes = [EXPLORATORY] if parts[True] else [EXPLORATORY, note, sizes]
        tables.append(text_table(f"{caption}, exploratory.", words, COMPARISON_HEADS, parts[False], notes))
    return "\n".join(tables)


def _marked(run: Run) -> str:
    return run.label + ("†" if run.few else "")
