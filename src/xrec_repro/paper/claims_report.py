"""claims.md: the verdicts in one table, then the evidence behind each."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xrec_repro.metrics.columns import stated_column
from xrec_repro.paper.appendix import (
    COMPARISON_HEADS,
    EXPLORATORY,
    comparison_cells,
    comparison_note,
    number,
    p_value,
    run_notes,
    text_table,
)
from xrec_repro.paper.claims_evidence import Evidence, Findings, Least, systems_of
from xrec_repro.paper.runs import Run
from xrec_repro.paper.statistics import Settings

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


@dataclass(frozen=True)
class Judged:
    """A claim, the evidence from ``xrec``, ``study`` and ``run``, and the verdicts of these (`claims.judge_claims`)."""

    key: str
    rule: Mapping[str, Any]
    findings: dict[str, Findings]
    verdicts: dict[str, dict[str, Any]]


def report(judged: Sequence[Judged], runs: Sequence[Run], settings: Settings, least: Least) -> str:
    """Return claims.md."""
    parts = [_INTRO, _verdicts(judged, runs)]
    disagreements = [line for one in judged for line in _disagreements(one)]
    if disagreements:
        parts += ["## Where statements and numbers disagree\n", "\n".join(disagreements) + "\n"]
    parts += [_section(one, settings, least) for one in judged]
    return "\n".join(parts)


def _verdicts(judged: Sequence[Judged], runs: Sequence[Run]) -> str:
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
    return text_table("", [*heads, "This run", "This run: by directions alone"], [], lines, notes + run_notes(runs))


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
