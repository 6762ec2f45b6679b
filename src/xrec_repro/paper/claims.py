"""The study's claims, judged by rules of the configuration: by the published numbers, and by this run's scores."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from xrec_repro.comparable import Comparable
from xrec_repro.errors import ConfigError
from xrec_repro.io import write_json, write_text
from xrec_repro.kinds import LABELS
from xrec_repro.metrics.columns import stated_column
from xrec_repro.paper.appendix import (
    COMPARISON_HEADS,
    EXPLORATORY,
    comparison_cells,
    comparison_note,
    run_notes,
)
from xrec_repro.paper.claims_evidence import Evidence, Findings, Least, PublishedNumbers, run_findings, systems_of
from xrec_repro.paper.render import number, p_value, text_table
from xrec_repro.published import load_stated_verdicts
from xrec_repro.scores import Run, load_runs
from xrec_repro.statistic_settings import Settings

PAPERS = ("xrec", "study")
Claims = Mapping[str, Any]  # the section `claims` of the configuration
_NAMES = {"original": "XRec paper", "study": "Study"}
_FINDINGS = {"original": "xrec", "study": "study"}
_SIDES = {1: "for", -1: "against", 0: "neither"}
_WORDS = ("Column", "System", "Other", "Speaks")
_PLAIN_HEADS = ("Value", "Other's", "p unpaired", "N", "Seed")
_UNPAIRED = (
    "p unpaired: Welch's test of the two means, for orientation. It decides nothing, and is too large where both "
    "systems find the same examples hard."
)
_INTRO = """# Claims

Each claim is judged three times by its rule (`claims.rules` of the configuration): by the numbers that the XRec paper
printed, by those that the study printed, and by this run's scores. Published numbers come without per-example scores,
so only the direction of their differences counts. A claim is *validated* if as many comparisons as the rule demands
speak for it, *rejected* if so many speak against it that this is out of reach, else *inconclusive*.
"""


def judge_claims(
    rows: Sequence[Mapping[str, Any]],
    claims_config: Claims,
    statistics_config: Mapping[str, Any],
    resources_folder: str | Path,
    out_json: str | Path,
    out_md: str | Path,
) -> None:
    """Judge every claim three times: by the XRec paper's numbers, by the study's, and by this run's scores.

    A comparison speaks for a claim, against it, or (equal numbers, or a difference that is not significant) for
    neither. A claim is ``validated`` if as many comparisons as its rule demands speak for it, ``rejected`` if so many
    speak against it that this cannot be reached, else ``inconclusive``; ``not testable`` without a comparison.

    Args:
        rows: The rows of the paper stage (see `scores.load_runs`).
        claims_config: The section ``claims`` of the configuration.
        statistics_config: Its section ``statistics``.
        resources_folder: The folder ``resources``.
        out_json: Where verdicts and all comparisons go, unrounded.
        out_md: Where the verdicts and the evidence go, for people.

    Raises:
        ConfigError: A rule names a published data set that no table has.
        DataError: A file is unusable, or two experiments cannot be compared.
    """
    systems, comparable = claims_config["systems"], Comparable(resources_folder)
    least = Least(claims_config["min_examples"], claims_config["min_texts"])
    published, stated = PublishedNumbers(resources_folder, systems), load_stated_verdicts(resources_folder)
    _check_datasets(claims_config, published.datasets)
    settings, runs = Settings.from_settings(statistics_config), load_runs(rows)
    judged = []
    for key, rule in claims_config["rules"].items():
        findings = {paper: published.findings(rule, paper) for paper in PAPERS}
        findings["run"] = run_findings(rule, systems, comparable, published, runs, settings, least)
        verdicts = {
            name: _paper_verdict(findings[paper], rule["hold"], *stated.get((key, paper), (None, None)))
            for paper, name in zip(PAPERS, ("original", "study"), strict=True)
        }
        verdicts["run"] = _run_verdict(findings["run"], rule["hold"], runs)
        judged.append(Judged(key, rule, findings, verdicts))
    record = {
        "statistics": asdict(settings),
        "min_examples": least.examples,
        "min_texts": least.texts,
        "claims": [
            {"claim": one.key, "name": one.rule["name"], "text": one.rule["text"], "rule": dict(one.rule)}
            | {"verdicts": one.verdicts}
            | {"comparisons": [_record(item) for found in one.findings.values() for item in found.evidence]}
            for one in judged
        ],
    }
    write_json(out_json, record)
    write_text(out_md, report(judged, runs, settings, least))


def verdict(outcomes: Sequence[int], hold: str | float) -> str:
    """Judge a claim by its comparisons.

    Args:
        outcomes: 1 for it, -1 against it, 0 neither.
        hold: How many must be for it: ``all``, ``majority`` (more than half) or a share.

    Returns:
        ``validated``, ``rejected``, ``inconclusive`` or ``not testable``.
    """
    total = len(outcomes)
    if not total:
        return "not testable"
    # A share such as 0.7 of 10 must not become 8 by a rounding error.
    needed = {"all": total, "majority": total // 2 + 1}.get(hold) or math.ceil(round(float(hold) * total, 9))
    if sum(one > 0 for one in outcomes) >= needed:
        return "validated"
    return "rejected" if sum(one >= 0 for one in outcomes) < needed else "inconclusive"


def _check_datasets(claims: Claims, datasets: Sequence[str]) -> None:
    for key, rule in claims["rules"].items():
        for name in rule["published_datasets"] or ():
            if name not in datasets:
                place = f"claims.rules.{key}.published_datasets"
                raise ConfigError(f"{place}: no table has {name!r}; known: {', '.join(datasets)}")


def _paper_verdict(found: Findings, hold: str | float, stated: str | None, where: str | None) -> dict[str, Any]:
    """Return what a paper says of a claim, and what its numbers say by the rule."""
    summary = _summary(found.evidence, hold)
    recomputed = summary["verdict"]
    del summary["verdict"], summary["by_direction"], summary["tested"]  # there is no test
    expected = "validated" if stated == "claimed" else stated
    agrees = None if stated is None or recomputed == "not testable" else recomputed == expected
    told = {"stated": stated, "where": where, "recomputed": recomputed, "agrees": agrees}
    return told | summary | {"gaps": dict(found.gaps)}


def _run_verdict(found: Findings, hold: str | float, runs: Sequence[Run]) -> dict[str, Any]:
    labels = dict.fromkeys(item.dataset for item in found.evidence)
    used = [run for run in runs if run.dataset_label in labels]
    by_dataset = {label: _summary([item for item in found.evidence if item.dataset == label], hold) for label in labels}
    return _summary(found.evidence, hold) | {
        "small": {run.dataset_label: LABELS[run.kind] for run in used if LABELS[run.kind]},
        "datasets": by_dataset,
        "gaps": dict(found.gaps),
    }


def _summary(evidence: Sequence[Evidence], hold: str | float) -> dict[str, Any]:
    counted = [item for item in evidence if not item.exploratory]
    outcomes = [item.outcome for item in counted]
    return {
        "verdict": verdict(outcomes, hold),
        "by_direction": verdict([item.direction for item in evidence], hold),
        "for": outcomes.count(1),
        "against": outcomes.count(-1),
        "neither": outcomes.count(0),
        "tested": sum(item.comparison is not None and item.comparison.p is not None for item in counted),
        "exploratory": len(evidence) - len(counted),
        "mixed_sources": sum(item.mixed for item in evidence),
    }


def _record(item: Evidence) -> dict[str, Any]:
    """Return evidence as one flat record; what a test says stands beside what it tested."""
    record = asdict(replace(item, comparison=None)) | {"difference": item.value - item.other_value}
    del record["comparison"]
    test = asdict(item.comparison) if item.comparison else {}
    return record | {key: value for key, value in test.items() if key not in record}


@dataclass(frozen=True)
class Judged:
    """A claim, the evidence from ``xrec``, ``study`` and ``run``, and the verdicts of these (`claims.judge_claims`)."""

    key: str
    rule: Mapping[str, Any]
    findings: dict[str, Findings]
    verdicts: dict[str, dict[str, Any]]


def report(judged: Sequence[Judged], runs: Sequence[Run], settings: Settings, least: Least) -> str:
    """Return claims.md."""
    parts = [_INTRO, _verdicts(judged, runs, settings)]
    disagreements = [line for one in judged for line in _disagreements(one)]
    if disagreements:
        parts += ["## Where statements and numbers disagree\n", "\n".join(disagreements) + "\n"]
    parts += [_section(one, settings, least) for one in judged]
    return "\n".join(parts)


def _verdicts(judged: Sequence[Judged], runs: Sequence[Run], settings: Settings) -> str:
    lines = []
    for one in judged:
        cells = [f"{one.key}: {one.rule['name']}"]
        for name in _NAMES:
            cells += [one.verdicts[name]["stated"] or "–", one.verdicts[name]["recomputed"]]
        run = one.verdicts["run"]
        marks = ["no test"] if run["datasets"] and not run["tested"] else []
        if run["small"]:
            partly = "" if len(run["small"]) == len(run["datasets"]) else "partly "
            marks.append(partly + " and ".join(dict.fromkeys(run["small"].values())))
        cells += [run["verdict"] + (f" ({', '.join(marks)})" if marks else ""), run["by_direction"]]
        lines.append(("", cells))
    notes = ["no test: only thresholds, or directions of differences from published numbers, could be judged."]
    heads = ["Claim"]
    for name in _NAMES.values():
        heads += [f"{name}: stated", f"{name}: by its numbers"]
    return text_table(
        "", [*heads, "This run", "This run: by directions alone"], [], lines, notes + run_notes(runs, settings)
    )


def _disagreements(one: Judged) -> Iterator[str]:
    for name, title in _NAMES.items():
        said = one.verdicts[name]
        if said["agrees"] is False:
            against = Counter(item.dataset for item in one.findings[_FINDINGS[name]].evidence if item.outcome < 0)
            places = ", ".join(f"{label} {count}" for label, count in against.items())
            yield (
                f"- {one.key}, {title}: stated as *{said['stated']}* ({said['where']}); by this rule its own numbers "
                f"make it *{said['recomputed']}*: {_counts(said)}{places and f' (against it: {places})'}."
            )


def _section(one: Judged, settings: Settings, least: Least) -> str:
    rule = f"{_rule_text(one.rule)} {_size_text(one.rule, least)}"
    parts = [f"## {one.key}: {one.rule['name']}\n\n{one.rule['text']}\n\n{rule}\n"]
    for name, title in _NAMES.items():
        parts += [f"### {title}\n", _paper_text(one.verdicts[name], one.findings[_FINDINGS[name]])]
    parts += ["### This run\n", _run_text(one.verdicts["run"], one.findings["run"], settings)]
    return "\n".join(parts)


def _rule_text(rule: Mapping[str, Any]) -> str:
    hold = rule["hold"]
    share = {"all": "all of them", "majority": "more than half of them"}.get(hold) or f"{float(hold):.0%} of them"
    systems, metrics = " and ".join(systems_of(rule)), ", ".join(rule["metrics"])
    if rule["kind"] == "unique":
        return f"Rule: {metrics} of {systems} is at least {rule['at_least']}; must hold for {share}."
    smaller = {stated_column(metric).smaller_is_better for metric in rule["metrics"]}
    better = "better" if len(smaller) > 1 else "lower" if True in smaller else "higher"
    aspects = " and a ".join(
        {"mean": f"{better} mean", "std": "lower standard deviation"}[name] for name in rule["aspects"]
    )
    against = ", ".join(rule["against"])
    return f"Rule: {systems} has a {aspects} than each of {against} on {metrics}; must hold for {share}."


def _size_text(rule: Mapping[str, Any], least: Least) -> str:
    """Say from how many examples on a score of this run counts, and why."""
    whole = ", ".join(metric for metric in rule["metrics"] if stated_column(metric).whole)
    text = f"Of this run, a score counts from {least.examples:,} scored examples on (claims.min_examples)"
    if whole and rule["kind"] == "unique":
        return text + (
            f"; {whole} falls with the number of texts, so it counts from {least.texts:,} texts on (claims.min_texts), "
            "or of as many as a paper printed it for, of the same system and data set: of few texts hardly one repeats."
        )
    return text + (f"; {whole} falls with the number of texts, and so compares at equal N alone." if whole else ".")


def _paper_text(said: Mapping[str, Any], found: Findings) -> str:
    stated = f"Stated as: {said['stated']} ({said['where']}). " if said["stated"] else "Nothing is stated. "
    text = f"{stated}By its numbers: {said['recomputed']}; {_counts(said)}."
    if said["mixed_sources"]:
        text += (
            f" {said['mixed_sources']} of the comparisons are between numbers of the two papers, which used different "
            "judges and checkpoints."
        )
    return "\n".join([text + "\n", *_plain_table(item for item in found.evidence if item.outcome < 1), *_gaps(said)])


def _run_text(said: Mapping[str, Any], found: Findings, settings: Settings) -> str:
    text = f"Verdict: {said['verdict']}; {_counts(said)}. By directions alone: {said['by_direction']}.\n"
    for label, part in said["datasets"].items():
        small = f" ({said['small'][label]}: says nothing of the published models)" if label in said["small"] else ""
        text += f"\n- {label}{small}: {part['verdict']}; {_counts(part)}."
    parts = [text + "\n"] if said["datasets"] else [text]
    tested = [item for item in found.evidence if item.comparison]
    if tested:
        lines = [(item.dataset, [*_sides(item), *comparison_cells(item.comparison)]) for item in tested]
        notes = [comparison_note(settings, said["tested"])] + [EXPLORATORY] * bool(said["exploratory"])
        parts.append(text_table("", _WORDS, COMPARISON_HEADS, lines, notes))
    return "\n".join([*parts, *_plain_table(item for item in found.evidence if not item.comparison), *_gaps(said)])


def _plain_table(evidence: Iterable[Evidence]) -> list[str]:
    """Return a table of comparisons without per-example scores, if there are any."""
    items = list(evidence)
    lines = []
    for item in items:
        seed = "–" if item.seed is None else str(item.seed)
        numbers = [number(item.value), number(item.other_value), p_value(item.p_unpaired), str(item.n), seed]
        lines.append((item.dataset, [*_sides(item), *numbers]))
    notes = [_UNPAIRED] if any(item.p_unpaired is not None for item in items) else []
    return [text_table("", _WORDS, _PLAIN_HEADS, lines, notes)] if items else []


def _counts(said: Mapping[str, Any]) -> str:
    exploratory = f", exploratory and not counted {said['exploratory']}" if said["exploratory"] else ""
    return f"comparisons for it {said['for']}, against it {said['against']}, neither {said['neither']}{exploratory}"


def _sides(item: Evidence) -> list[str]:
    column = item.metric if item.aspect == "mean" else f"{item.metric}_std"
    side = f"exploratory: {_SIDES[item.direction]}" if item.exploratory else _SIDES[item.outcome]
    return [column, item.system, item.other, side]


def _gaps(said: Mapping[str, Any]) -> list[str]:
    """List what could not be compared."""
    lines = [f"- {reason} ({count})" if count > 1 else f"- {reason}" for reason, count in said["gaps"].items()]
    return ["Not compared:\n\n" + "\n".join(lines) + "\n"] if lines else []
