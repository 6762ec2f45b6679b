"""Examples in the manner of the study's appendices A, B and D, picked by a rule; and broken outputs, named and counted.

The study reports broken outputs for the model without injection ("numerical sequences", section 4.1 and appendix B).
The rules look at the form of a text only, never at its meaning, and would rather miss a bad text than flag a good one:
their limits are such that none of the 6,000 released references of Amazon-books and Yelp but one is flagged.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from xrec_repro.contracts import EXPLANATIONS
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.io import read_table, write_json, write_text
from xrec_repro.kinds import warnings
from xrec_repro.markdown import RIGHT, markdown_table
from xrec_repro.metrics.columns import known_columns
from xrec_repro.scores import read_scores, reason_of
from xrec_repro.seeding import numpy_rng

# Rule -> what it does; the order among equals is drawn with the seed.
RULES = {
    "random": "drawn with seed {seed}",
    "difference": "the largest differences of {metric} between the variants, best minus worst",
    "broken": "broken outputs, those first that are broken in most variants and for most reasons",
}
_COLUMNS = ["example_id", "user_id", "item_id", "reference", "prediction", "finish_reason"]
# Reason -> what it means, in the order in which reasons are listed.
REASONS = {
    "empty": "no text at all",
    "no_letters": "text without a single letter",
    "digit_run": "6 or more digits in a row, or 4 or more numbers with no word between them",
    "repetition": (
        "one word 4 times or a phrase 3 times in a row, the same sentence twice, the same characters 6 times in a row, "
        "or more than half of all sequences of four words a repetition"
    ),
    "template_marker": "a remnant of the prompt's template, such as [/INST] or <EXPLAIN_POS>, or another tag",
    "foreign_characters": "control or replacement characters, or 5 or more letters of another script than Latin",
    "cut_off": "the end is no end of a sentence, and generation did not end by itself",
}
_DIGIT_RUN = re.compile(r"\d{6,}|\d+(?:[\W_]+\d+){3,}")
# Explanations are cut at their first "[", so that of a marker in brackets its end alone may be left.
_MARKER = re.compile(r"\[/?INST\b|/INST\]|</?SYS>|<SYS\b|^[^\[]*\]|</?[A-Za-z]\w*>")
_CHARACTERS = re.compile(r"([^\W\d_]\S{0,7}?)\1{5,}")
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_LONGEST_LOOP = 12  # words
_SENTENCE_END = (".", "!", "?", "…")
_CLOSING = "\"'”’)]*"


@dataclass(frozen=True)
class _Variant:
    row: Mapping[str, Any]
    texts: pd.DataFrame  # index example_id
    scores: pd.Series | None  # of the metric, index example_id


def pick_examples(
    rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], out_json: str | Path, out_md: str | Path
) -> None:
    """Count broken outputs, and pick examples that show several variants side by side.

    Examples are picked among those that every variant of the section has, from the first seed of each.

    Args:
        rows: One a data set, experiment and seed: dataset, dataset_label, experiment, experiment_label, seed, kind,
            explanations (file of contract `EXPLANATIONS`), scores (scores.parquet), which ``difference`` needs, and
            maybe failed (metric without scores -> why): of its variants none differs.
        settings: ``seed``; ``metric``, for the rule ``difference``; and ``sections``, each with title, experiments
            (their names; null for all), rule (see `RULES`) and count, a data set.
        out_json: Where all that is known goes: rules, broken (one entry a row) and sections.
        out_md: Where the same goes for people.

    Raises:
        DataError: There are no rows, a file is unusable, or variants disagree on an example's reference.
        ConfigError: A rule is unknown.
    """
    if not rows:
        raise DataError(f"{out_md}: there is no explanation to show; name an experiment in run.experiments")
    for section in settings["sections"]:
        if section["rule"] not in RULES:
            known = ", ".join(RULES)
            raise ConfigError(
                f"paper.examples.sections: {section['title']!r}: no rule {section['rule']!r}; known: {known}"
            )
    result: dict[str, Any] = {"reasons": REASONS, "broken": [], "sections": []}
    first: dict[tuple[str, str], tuple[Mapping[str, Any], pd.DataFrame]] = {}
    for row in rows:
        key, texts = (row["dataset"], row["experiment"]), _read(row)
        if key not in first or row["seed"] < first[key][0]["seed"]:
            first[key] = row, texts
        result["broken"].append(_identity(row) | {"seed": row["seed"], "kind": row["kind"]} | _broken(texts))
    for section in settings["sections"]:
        for dataset in dict.fromkeys(row["dataset"] for row in rows):
            result["sections"].append(_section(section, dataset, first, settings))
    write_json(out_json, result)
    write_text(out_md, _markdown(result))


def _identity(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("dataset", "dataset_label", "experiment", "experiment_label")}


def _read(row: Mapping[str, Any]) -> pd.DataFrame:
    path = row["explanations"]
    texts = read_table(path, EXPLANATIONS, _COLUMNS).to_pandas().set_index("example_id")
    if texts.empty or texts.index.has_duplicates or texts[["reference", "prediction"]].isna().any(axis=None):
        raise DataError(f"{path}: empty, or an example has no text or occurs twice; generate the explanations again")
    return texts


def _broken(texts: pd.DataFrame) -> dict[str, Any]:
    counts = count_broken(texts["prediction"].tolist(), texts["finish_reason"])
    return {"n": len(texts), "any": counts.pop("any"), "counts": counts}


def _section(
    section: Mapping[str, Any],
    dataset: str,
    first: Mapping[tuple[str, str], tuple[Mapping[str, Any], pd.DataFrame]],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a section shows of one data set."""
    own = {experiment: entry for (name, experiment), entry in first.items() if name == dataset}
    wanted = list(own) if section["experiments"] is None else list(section["experiments"])
    variants = [_variant(*own[name], section, settings) for name in wanted if name in own]
    dataset_label = next(iter(own.values()))[0]["dataset_label"]
    result = {
        "title": section["title"],
        "dataset": dataset,
        "dataset_label": dataset_label,
        "rule": RULES[section["rule"]].format(**settings),
        "absent": [name for name in wanted if name not in own],
        "candidates": 0,
        "examples": [],
    }
    if not variants:
        return result
    common = set.intersection(*(set(variant.texts.index) for variant in variants))
    if not common:
        raise DataError(
            f"examples: {section['title']!r}: the variants of {dataset} share no example; generate them anew"
        )
    ranked = _ranked(sorted(common), variants, section, settings, dataset)
    examples = [_example(example, variants) for example in ranked[: section["count"]]]
    return result | {"candidates": len(ranked), "examples": examples}


def _variant(
    row: Mapping[str, Any], texts: pd.DataFrame, section: Mapping[str, Any], settings: Mapping[str, Any]
) -> _Variant:
    scores = None
    metric = settings["metric"]
    left_out = metric in known_columns() and metric not in row.get("summary", (metric,))
    if section["rule"] == "difference" and not left_out and reason_of(metric, row.get("failed", {})) is None:
        scores = read_scores(row["scores"], [metric])[metric]
    return _Variant(row, texts, scores)


def _ranked(
    examples: Sequence[str],
    variants: Sequence[_Variant],
    section: Mapping[str, Any],
    settings: Mapping[str, Any],
    dataset: str,
) -> list[str]:
    """Return the candidates, best first; equal ones in an order drawn with the seed."""
    rng = numpy_rng(settings["seed"], "examples", section["title"], dataset)
    drawn = [examples[place] for place in rng.permutation(len(examples))]
    if section["rule"] == "random":
        return drawn
    if section["rule"] == "broken":
        faults = {example: [len(_faults(variant, example)) for variant in variants] for example in drawn}
        weights = {example: (sum(map(bool, found)), sum(found)) for example, found in faults.items() if any(found)}
    else:
        scored = {n: variant.scores for n, variant in enumerate(variants) if variant.scores is not None}
        scores = pd.DataFrame(scored).reindex(drawn if len(scored) > 1 else []).dropna()
        weights = (scores.max(axis=1) - scores.min(axis=1)).to_dict()
    return sorted((example for example in drawn if example in weights), key=weights.__getitem__, reverse=True)


def _faults(variant: _Variant, example: str) -> list[str]:
    return broken_reasons(variant.texts.at[example, "prediction"], variant.texts.at[example, "finish_reason"])


def _example(example: str, variants: Sequence[_Variant]) -> dict[str, Any]:
    shown = variants[0].texts.loc[example]
    for variant in variants:
        if variant.texts.at[example, "reference"] != shown["reference"]:
            raise DataError(
                f"{variant.row['explanations']}: example {example} has another reference than in "
                f"{variants[0].row['explanations']}; generate both from the same split"
            )
    return {
        "example_id": example,
        "user_id": shown["user_id"],
        "item_id": shown["item_id"],
        "reference": shown["reference"],
        "variants": [
            {
                "experiment": variant.row["experiment"],
                "experiment_label": variant.row["experiment_label"],
                "seed": variant.row["seed"],
                "prediction": variant.texts.at[example, "prediction"],
                "finish_reason": variant.texts.at[example, "finish_reason"],
                "broken": _faults(variant, example),
                "score": None if variant.scores is None else float(variant.scores[example]),
            }
            for variant in variants
        ],
    }


def _markdown(result: Mapping[str, Any]) -> str:
    lines = ["# Examples and broken outputs", ""]
    for warning in warnings(row["kind"] for row in result["broken"]):
        lines += [warning, ""]
    seen = [reason for reason in REASONS if any(row["counts"][reason] for row in result["broken"])]
    rows = [["Data set", "Experiment", "Seed", "N", "Broken", *seen]]
    for row in result["broken"]:
        counts = [row["seed"], row["n"], row["any"], *(row["counts"][reason] for reason in seen)]
        rows.append([row["dataset_label"], row["experiment_label"], *counts])
    lines += [
        "## Broken outputs",
        "",
        *_table(rows, [":---"] * 2 + [RIGHT] * (len(rows[0]) - 2)),
        "",
        "What each reason means (one text may have several; form is judged, never meaning):",
        "",
    ]
    lines += [f"- {_plain(reason)}: {_plain(meaning)}" for reason, meaning in REASONS.items()]
    for section in result["sections"]:
        lines += _section_lines(section)
    return "\n".join(lines) + "\n"


def _section_lines(section: Mapping[str, Any]) -> list[str]:
    examples = section["examples"]
    lines = ["", f"## {_plain(section['title'])}: {_plain(section['dataset_label'])}", ""]
    lines.append(
        f"{len(examples)} of {section['candidates']} examples, picked by this rule: {_plain(section['rule'])}."
    )
    if section["absent"]:
        lines.append(f"Not part of this run: {_plain(', '.join(section['absent']))}.")
    for example in examples:
        scored = any(variant["score"] is not None for variant in example["variants"])
        ids = f"Example {example['example_id']}: user {example['user_id']}, item {example['item_id']}"
        rows = [["", "Text", "Score", "Broken"], ["Reference", example["reference"], "", ""]]
        for variant in example["variants"]:
            faults = ", ".join(variant["broken"])
            rows.append([variant["experiment_label"], variant["prediction"], _score(variant["score"]), faults])
        rows = rows if scored else [[*cells[:2], cells[3]] for cells in rows]
        lines += ["", f"**{_plain(ids)}**", "", *_table(rows, [":---"] * len(rows[0]))]
    return lines


def _score(score: float | None) -> str:
    return "–" if score is None else f"{score:.4f}"


def _table(rows: Sequence[Sequence[Any]], rules: Sequence[str]) -> list[str]:
    """Return a table of plain cells, the first row being its headings."""
    heads, *body = [[_plain(str(value)) for value in row] for row in rows]
    return markdown_table(heads, body, rules)


def _plain(text: str) -> str:
    """Escape a text, whatever a model wrote: it must neither leave its cell nor become markup."""
    lines = (re.sub(r"([\\`*_<>\[\]|#&~$])", r"\\\1", line.strip()) for line in text.splitlines())
    return re.sub(r"[\x00-\x1f\x7f]", "\ufffd", "<br>".join(line for line in lines if line))


def broken_reasons(text: str, finish_reason: str | None = None) -> list[str]:
    """Name what is wrong with a generated text.

    Args:
        text: The text.
        finish_reason: Why generation ended (contract ``EXPLANATIONS``), or None where that is not known.

    Returns:
        Keys of `REASONS`, in their order; empty for a text with no fault of form.
    """
    if not text.strip():
        return ["empty"]
    found = {
        "no_letters": not any(character.isalpha() for character in text),
        "digit_run": _DIGIT_RUN.search(text) is not None,
        "repetition": _repeats(text),
        "template_marker": _MARKER.search(text) is not None,
        "foreign_characters": _is_noise(text),
        "cut_off": finish_reason in ("length", None) and not _ends(text),
    }
    return [reason for reason in REASONS if found.get(reason)]


def count_broken(texts: Sequence[str], finish_reasons: Iterable[str | None] | None = None) -> dict[str, int]:
    """Count broken texts.

    Args:
        texts: Generated texts.
        finish_reasons: As many reasons why generation ended, if known.

    Returns:
        ``any`` (texts with a reason or more), then reason -> texts, every key of `REASONS` included.
    """
    ends = [None] * len(texts) if finish_reasons is None else finish_reasons
    reasons = [broken_reasons(text, end) for text, end in zip(texts, ends, strict=True)]
    counts = Counter(reason for row in reasons for reason in row)
    return {"any": sum(map(bool, reasons)), **{reason: counts[reason] for reason in REASONS}}


def _ends(text: str) -> bool:
    return text.rstrip().rstrip(_CLOSING).endswith(_SENTENCE_END)


def _repeats(text: str) -> bool:
    words = [word.lower() for word in _WORD.findall(text)]
    sentences = [part.strip().lower() for part in _SENTENCE.split(text) if len(part.split()) >= 4]
    fours = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return (
        _CHARACTERS.search(text) is not None
        or len(set(sentences)) < len(sentences)
        or 2 * len(set(fours)) < len(fours)
        or any(_has_loop(words, size, 4 if size == 1 else 3) for size in range(1, _LONGEST_LOOP + 1))
    )


def _has_loop(words: Sequence[str], size: int, times: int) -> bool:
    """Tell whether `size` words stand `times` times in a row: then a stretch equals itself shifted by `size`."""
    needed, run = size * (times - 1), 0
    for first, second in zip(words, words[size:], strict=False):
        run = run + 1 if first == second else 0
        if run == needed:
            return True
    return False


def _is_noise(text: str) -> bool:
    kinds = Counter(_kind(character) for character in text if not (character.isascii() and character.isprintable()))
    return kinds["control"] > 0 or kinds["foreign"] >= 5


def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if character == "\ufffd" or (category in ("Cc", "Cn", "Co", "Cs") and not character.isspace()):
        return "control"
    return "foreign" if category[0] == "L" and "LATIN" not in unicodedata.name(character, "") else "other"
