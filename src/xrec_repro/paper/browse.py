"""One page, without a server, on which a person reads explanations side by side: texts, scores, true reasons."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from xrec_repro.contracts import EXAMPLES, EXPLANATIONS, TRUTH
from xrec_repro.data.glassbox import find_aspects
from xrec_repro.data.glassbox_words import ASPECTS
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.io import read_json, read_table, write_text
from xrec_repro.kinds import warnings
from xrec_repro.metrics.columns import stated_column
from xrec_repro.paper.examples import REASONS, broken_reasons
from xrec_repro.paper.rows import dataset_blocks
from xrec_repro.paper.style import metric_label
from xrec_repro.scores import place_of, read_scores, refuse_repeats
from xrec_repro.seeding import numpy_rng

Row = Mapping[str, Any]
PACKAGE_DATA = ("browse.html",)
_DIGITS = 6  # significant ones of the scores in the page


def write_browser(
    rows: Iterable[Row], out_html: str | Path, title: str, run: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Write one HTML file that holds the explanations of a run, its own style and script, and needs nothing else.

    Texts stand in it as data and reach the page as text only. The same input gives the same bytes.

    Args:
        rows: One a data set, experiment and seed: ``dataset``, ``dataset_label``, ``experiment``,
            ``experiment_label``, ``seed``, ``kind``; the paths ``explanations`` (contract ``EXPLANATIONS``),
            ``scores``, ``summary``; and paths or None: ``examples`` (contract ``EXAMPLES``) and ``truth`` (contract
            ``TRUTH``).
        out_html: Where the page goes.
        title: Its heading.
        run: Name of the run.
        settings: ``max_examples`` (of a data set, or None for all) and ``seed`` of the draw, if one is needed.

    Returns:
        Data set -> examples on the page, and how many there are in all.

    Raises:
        ConfigError: `settings` are out of range.
        DataError: There is nothing to browse, or files are missing, malformed, or of different examples.
    """
    limit = settings["max_examples"]
    if limit is not None and limit < 1:
        raise ConfigError(f"browse.max_examples: {limit}; give a positive number, or null for all examples")
    blocks = [_block(label, members, settings) for _, label, members in dataset_blocks(list(rows))]
    if not blocks:
        raise DataError(f"{out_html}: there is nothing to browse; name an experiment in run.experiments")
    names = [{"key": block["key"], "label": block["label"]} for block in blocks]
    page = {"title": title, "run": run, "flags": REASONS, "datasets": names}
    data = [f'<script type="application/json" id="page">{_json(page)}</script>']
    data += [f'<script type="application/json" class="dataset">{_json(block)}</script>' for block in blocks]
    write_text(out_html, _fill(title, "\n".join(data)))
    return {block["key"]: {"examples": len(block["ids"]), "of": block["total"]} for block in blocks}


def _fill(title: str, data: str) -> str:
    """Return the page. Its policy allows its own style and script, by their digests, and no request at all."""
    template = resources.files("xrec_repro.paper").joinpath(*PACKAGE_DATA).read_text(encoding="utf-8")
    policy = ["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"]
    for tag in ("style", "script"):
        content = template.split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        policy.append(f"{tag}-src 'sha256-{digest}'")
    parts = {"policy": "; ".join(policy), "title": html.escape(title), "data": data}
    # In one pass, so that a mark within a title or a text stays what it is.
    return re.sub(r"@@(policy|title|data)@@", lambda mark: parts[mark[1]], template)


def _json(value: Any) -> str:
    """Return JSON for a script element: without any "<", no text can end the element or open a comment."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


@dataclass(frozen=True)
class _Variant:
    row: Row
    place: str
    texts: dict[str, dict[str, Any]]  # example_id -> row of EXPLANATIONS
    scores: pd.DataFrame
    summary: dict[str, dict[str, Any]]


def _block(label: str, rows: Sequence[Row], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that the page knows of a data set; lists run over its examples."""
    variants = [_read_variant(row) for row in rows]
    refuse_repeats(map(place_of, rows))
    examples = _union(variants)
    ids = _draw(list(examples), variants, settings)
    chosen = [examples[example] for example in ids]
    block = {
        "key": rows[0]["dataset"],
        "label": label,
        "total": len(examples),
        "warnings": warnings(row["kind"] for row in rows),
        "seed": settings["seed"],
        "ids": ids,
        "users": [example["user_id"] for example in chosen],
        "items": [example["item_id"] for example in chosen],
        "references": [example["reference"] for example in chosen],
        "metrics": _metrics(variants),
        **_context(rows[0], ids),
    }
    reasons = _read_reasons(rows[0]["truth"], chosen)
    block["variants"] = [_columns(variant, ids, reasons) for variant in variants]
    if reasons is not None:
        block["reasons"] = reasons
        block["marks"] = {"references": _marks_of(block["references"], reasons)}
        # What else a profile names is no mistake, so that only true reasons are marked in it.
        for name in ("user_profiles", "item_profiles"):
            if block[name] is not None:
                block["marks"][name] = [[m for m in marks if m[-1]] for marks in _marks_of(block[name], reasons)]
    return block


def _read_variant(row: Row) -> _Variant:
    place = place_of(row)
    rows = read_table(row["explanations"], EXPLANATIONS).to_pylist()
    texts = {example["example_id"]: example for example in rows}
    for example in rows:
        for column in ("example_id", "user_id", "item_id", "reference", "prediction"):
            if example[column] is None:
                raise DataError(
                    f"{row['explanations']}: example {example['example_id']} has no {column}; "
                    "generate the explanations again"
                )
    if len(texts) < len(rows) or not rows:
        raise DataError(f"{row['explanations']}: an example occurs twice, or there is none; make the file again")
    scores, summary = read_scores(row["scores"]), read_json(row["summary"])
    strange = sorted(set(scores.index) - set(texts))
    if strange:
        raise DataError(f"{row['scores']}: example {strange[0]} is not in {row['explanations']}; score it again")
    for metric in scores:
        if not isinstance(summary, dict) or not {"mean", "std", "n", "signature"} <= set(summary.get(metric) or ()):
            raise DataError(f"{row['summary']}: {metric} needs mean, std, n and signature; score it again")
    return _Variant(row, place, texts, scores, summary)


def _union(variants: Sequence[_Variant]) -> dict[str, dict[str, Any]]:
    """Return every example that a variant explains, in order of appearance."""
    examples: dict[str, dict[str, Any]] = {}
    for variant in variants:
        for key, example in variant.texts.items():
            known = examples.setdefault(key, example)
            for column in ("user_id", "item_id", "reference"):
                if known[column] != example[column]:
                    raise DataError(
                        f"{variant.place}: example {key} has not the {column} that it has in {variants[0].place}; "
                        "generate both from the same test set"
                    )
    return examples


def _draw(ids: Sequence[str], variants: Sequence[_Variant], settings: Mapping[str, Any]) -> list[str]:
    """Return the examples of the page in their order: if they are too many a draw, most explained ones first."""
    limit = settings["max_examples"]
    if limit is None or len(ids) <= limit:
        return list(ids)
    drawn = numpy_rng(settings["seed"], "browse", variants[0].row["dataset"]).permutation(len(ids)).tolist()
    drawn.sort(key=lambda number: -sum(ids[number] in variant.texts for variant in variants))
    return [ids[number] for number in sorted(drawn[:limit])]


def _metrics(variants: Sequence[_Variant]) -> list[dict[str, Any]]:
    """Return each metric with its signature and its range over all examples of the data set."""
    found: dict[str, dict[str, Any]] = {}
    for variant in variants:
        for metric, scores in variant.scores.items():
            cell = variant.summary[metric]
            known = found.setdefault(
                metric, {"signature": cell["signature"], "whole": cell["std"] is None, "range": []}
            )
            if known["signature"] != cell["signature"]:
                raise DataError(
                    f"{variant.place}: {metric} would mix {known['signature']!r} and {cell['signature']!r}; "
                    "score all with the same settings"
                )
            scored = scores.dropna()
            bounds = [*known["range"], scored.min(), scored.max()] if len(scored) else known["range"]
            known["range"] = [min(bounds), max(bounds)] if bounds else []
    return [
        {"key": metric, "label": metric_label(metric), "smaller": stated_column(metric).smaller_is_better}
        | {**known, "range": [_short(bound) for bound in known["range"]]}
        for metric, known in found.items()
    ]


def _short(score: float) -> float | None:
    return None if pd.isna(score) else float(f"{score:.{_DIGITS}g}")


def _context(row: Row, ids: Sequence[str]) -> dict[str, list[str | None] | None]:
    """Return titles and profiles of the examples; None for what the run has no file of."""
    if row["examples"] is None:
        return dict.fromkeys(("titles", "user_profiles", "item_profiles"))
    columns = {"titles": "title", "user_profiles": "user_profile", "item_profiles": "item_profile"}
    table = read_table(row["examples"], EXAMPLES, ["example_id", *columns.values()]).to_pandas().set_index("example_id")
    known = table.reindex(ids)
    return {name: [None if pd.isna(text) else text for text in known[column]] for name, column in columns.items()}


def _read_reasons(path: str | Path | None, examples: Sequence[Row]) -> list[dict[str, list[str]]] | None:
    """Return each example's true reasons, those that its review names, and those that the item's description shows."""
    if path is None:
        return None
    truths = {(truth["user_id"], truth["item_id"]): truth for truth in read_table(path, TRUTH).to_pylist()}
    for example in examples:
        if (example["user_id"], example["item_id"]) not in truths:
            raise DataError(
                f"{path}: it has no reason why user {example['user_id']} chose item {example['item_id']}; "
                "generate the world and all after it again"
            )
    found = [truths[example["user_id"], example["item_id"]] for example in examples]
    return [{"all": one["reasons"], "named": one["named"], "shown": one["in_profiles"]} for one in found]


def _columns(variant: _Variant, ids: Sequence[str], reasons: Sequence[Row] | None) -> dict[str, Any]:
    """Return a variant's texts and numbers; None at the examples that it does not have."""
    rows = [variant.texts.get(example) for example in ids]
    texts = [row and row["prediction"] for row in rows]
    scores = variant.scores.reindex(ids)
    columns = {
        "experiment": variant.row["experiment"],
        "label": variant.row["experiment_label"],
        "seed": variant.row["seed"],
        "kind": variant.row["kind"],
        "n": len(variant.texts),
        "summary": {
            metric: {"mean": _short(variant.summary[metric]["mean"]), "n": variant.summary[metric]["n"]}
            for metric in scores
        },
        "texts": texts,
        "flags": [[] if row is None else broken_reasons(row["prediction"], row["finish_reason"]) for row in rows],
        "scores": {metric: [_short(score) for score in values] for metric, values in scores.items()},
    }
    for name in ("prompt_tokens", "new_tokens", "finish_reason"):
        columns[name] = [row and row[name] for row in rows]
    if reasons is not None:
        columns["marks"] = _marks_of(texts, reasons)
    return columns


def _marks_of(texts: Sequence[str | None], reasons: Sequence[Row]) -> list[list[list[Any]]]:
    return [_marks(text or "", frozenset(one["all"])) for text, one in zip(texts, reasons, strict=True)]


def _marks(text: str, true: frozenset[str]) -> list[list[Any]]:
    """Return where a text names aspects: start and end as JavaScript counts (in UTF-16 units), aspect, is it true?"""
    marks = []
    for match in _form_pattern().finditer(text):
        (aspect,) = find_aspects(match.group())
        start = _utf16_length(text[: match.start()])
        marks.append([start, start + _utf16_length(match.group()), aspect, aspect in true])
    return marks


def _utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


@lru_cache
def _form_pattern() -> re.Pattern[str]:
    """Return what `find_aspects` looks for; it tells what a text names, but not where."""
    forms = sorted((form for forms in ASPECTS for form in forms), key=len, reverse=True)
    alternatives = "|".join(r"\s+".join(map(re.escape, form.split())) for form in forms)
    return re.compile(rf"(?<![\w-])(?:{alternatives})(?![\w-])", re.IGNORECASE)
