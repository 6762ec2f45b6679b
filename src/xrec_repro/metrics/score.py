"""Scoring of files: texts in, one summary out; and the two metric stages of the workflow."""

import csv
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xrec_repro.contracts import EXAMPLES, EXPLANATIONS, REPLIES, TRUTH
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.io import read_json, read_table, require_file, write_json, write_table, write_text
from xrec_repro.metrics._batches import problems
from xrec_repro.metrics._blocks import check_scored, join_blocks, score_blocks
from xrec_repro.metrics._failures import failing
from xrec_repro.metrics.base import (
    ABSENT,
    FAILED,
    AbsentError,
    Features,
    Metric,
    Ratings,
    Scores,
    Summary,
    has_scores,
    summary,
)
from xrec_repro.metrics.registry import build_metric
from xrec_repro.partial import Partial
from xrec_repro.shards import JUDGES, WHOLE
from xrec_repro.text_files import read_texts

log = logging.getLogger("xrec_repro")


def score_files(
    predictions: str | Path,
    references: str | Path,
    names: Sequence[str],
    metrics_config: Mapping[str, Mapping[str, Any]],
    device: str = "auto",
    out: str | Path | None = None,
) -> Summary:
    """Score a file of predictions against a file of references.

    Args:
        predictions: The generated texts (see `read_texts`).
        references: As many reference texts, in the same order; may be the same file, with both columns.
        names: The metrics, e.g. ``["usr", "bertscore"]``.
        metrics_config: The section ``metrics`` of the configuration.
        device: ``auto`` | ``cpu`` | ``cuda``.
        out: Where the scores of every example go, ``.parquet`` or ``.csv``, unrounded: example_id (the row, from 1)
            and a column a metric, NaN or empty where there is no score; of a judge also ``<metric>_reply``, or
            ``<metric>_number_mass`` where it reads probabilities. None writes none.

    Returns:
        Column -> mean, std, n, signature, missing, counts (`metrics.base.summary`); of a metric that failed, its name
        -> ``failed``: the reason.

    Raises:
        DataError: A file cannot be used, or they differ in length.
        ConfigError: A metric or its settings are unknown.
    """
    if out is not None and Path(out).suffix not in (".parquet", ".csv"):
        raise DataError(f"{out}: unknown kind of file {Path(out).suffix!r}; let it end in .parquet or .csv")
    if not names:
        raise ConfigError("metrics: none chosen; name at least one")
    metrics = [build_metric(name, _section(metrics_config, name), device) for name in names]
    texts, expected = read_texts(predictions, "prediction"), read_texts(references, "reference")
    if len(texts) != len(expected):
        raise DataError(
            f"{predictions} has {len(texts)} texts but {references} has {len(expected)}; "
            "give one reference for each prediction, in the same order"
        )
    result: Summary = {}
    columns: dict[str, Any] = {}
    for metric in metrics:
        with failing(metric.name) as failure:
            scores = _score(metric, texts, expected)
            for name in ("reply", "number_mass"):
                if name in scores.replies:
                    column = f"{metric.name}_{name}"
                    columns[column] = pa.array(scores.replies[name], REPLIES.field(name).type)
                    check_scored(scores, f"{out}, column {column}" if out else "--out FILE writes them")
            result |= summary(scores)
            columns |= scores.columns
        if failure.reason:
            result[metric.name] = {FAILED: failure.reason}
    if out is not None:
        _write_examples(Path(out), columns, len(texts))
    return result


def _score(
    metric: Metric,
    predictions: Sequence[str],
    references: Sequence[str],
    kept: Partial | None = None,
    **more: Any,
) -> Scores:
    if metric.name not in JUDGES:
        return metric.score(predictions, references, **more)
    with kept or nullcontext():
        blocks = score_blocks(metric, predictions, references, WHOLE, kept)
    return join_blocks(blocks, metric.signature, len(predictions))


def _write_examples(path: Path, columns: Mapping[str, Any], count: int) -> None:
    ids = list(map(str, range(1, count + 1)))
    if path.suffix == ".parquet":
        write_scores(path, ids, columns)
        return
    # A reply may hold a bare carriage return, which the writer leaves unquoted by itself and readers take for an end.
    quoting = csv.QUOTE_NONNUMERIC if any(isinstance(values, pa.Array) for values in columns.values()) else 0
    table = _table(ids, columns).to_pandas()
    write_text(path, table.to_csv(index=False, lineterminator="\n", quoting=quoting))


def _section(metrics_config: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return metrics_config.get(name) or {}


def score_explanations(
    explanations_parquet: str | Path,
    name: str,
    metric_settings: Mapping[str, Any],
    out_scores_parquet: str | Path,
    out_summary_json: str | Path,
    device: str = "auto",
    truth_parquet: str | Path | None = None,
    kept: Partial | None = None,
    out_replies_parquet: str | Path | None = None,
    examples_parquet: str | Path | None = None,
    built: Metric | None = None,
) -> Scores:
    """Score one metric for the explanations of an experiment.

    Where these have nothing of what the metric needs, the scores have no column, and the summary says why
    (``absent``).

    Args:
        explanations_parquet: File of contract `EXPLANATIONS`.
        name: The metric.
        metric_settings: The section ``metrics.<name>`` of the configuration.
        out_scores_parquet: Where example_id and the metric's float64 columns go, unrounded; NaN where an example
            could not be scored.
        out_summary_json: Where column -> mean, std, n, signature, missing, counts goes.
        device: ``auto`` | ``cpu`` | ``cuda``.
        truth_parquet: File of contract `TRUTH`, for metrics that need true reasons.
        kept: Where a judge keeps what it has scored until all is done.
        out_replies_parquet: Where a judge's replies go, contract `REPLIES`; None for other metrics.
        examples_parquet: File of contract `EXAMPLES`, for metrics that need ratings or features.
        built: The metric as it was built before, with its model loaded; None builds it.

    Raises:
        DataError: The explanations are missing, malformed or none, a pair has no true reasons, or a judge scored none.
        ConfigError: The metric or its settings are unknown.
    """
    metric = built or build_metric(name, metric_settings, device)
    columns, more = read_explanations(explanations_parquet), {}
    try:
        if "truth" in metric.needs and truth_parquet is not None:
            more["truths"] = _read_truths(truth_parquet, list(zip(columns["user_id"], columns["item_id"], strict=True)))
        if "rating" in metric.needs and examples_parquet is not None:
            more["ratings"] = _read_ratings(explanations_parquet, examples_parquet, columns["example_id"])
        if "feature" in metric.needs and examples_parquet is not None:
            more["features"] = _read_features(examples_parquet, columns["example_id"])
        scores = _score(metric, columns["prediction"], columns["reference"], kept, **more)
    except AbsentError as why:
        log.warning("%s is left out: %s", name, why)
        _write_reason(columns["example_id"], name, {ABSENT: str(why)}, out_scores_parquet, out_summary_json)
        return Scores({}, metric.signature)
    if metric.name in JUDGES:
        write_replies(out_replies_parquet, columns["example_id"], scores)
    write_scores(out_scores_parquet, columns["example_id"], scores.columns)
    write_json(out_summary_json, summary(scores))
    return scores


def write_replies(path: str | Path, ids: Sequence[str], scores: Scores) -> None:
    """Write a judge's replies under the contract `REPLIES`, and check its scores.

    Raises:
        DataError: It scored none; the file is there for people to see why.
    """
    (values,) = scores.columns.values()
    known = {name: scores.replies.get(name, [None] * len(ids)) for name in REPLIES.names}
    write_table(path, known | {"example_id": ids, "score": values}, REPLIES)
    # Without the run, so that the same reason in many experiments is said once.
    check_scored(scores, "/".join(Path(path).parts[-3:]))


def write_failure(
    explanations_parquet: str | Path,
    name: str,
    reason: str,
    out_scores_parquet: str | Path,
    out_summary_json: str | Path,
    out_replies_parquet: str | Path | None = None,
) -> None:
    """Write the files of a metric that failed: examples without a column, the reason, and no replies of a judge.

    Replies that are there stay: those of a judge that scored none of them.

    Raises:
        DataError: The explanations themselves cannot be read, which is no failure of the metric.
    """
    log.error("%s has no scores: %s", name, reason)
    ids = read_explanations(explanations_parquet)["example_id"]
    _write_reason(ids, name, {FAILED: reason}, out_scores_parquet, out_summary_json)
    if out_replies_parquet is not None and not Path(out_replies_parquet).exists():
        write_table(out_replies_parquet, [], REPLIES)


def _write_reason(
    ids: Sequence[str], name: str, cell: Mapping[str, str], out_scores_parquet: str | Path, out_summary_json: str | Path
) -> None:
    write_scores(out_scores_parquet, ids, {})
    write_json(out_summary_json, {name: cell})


def read_explanations(path: str | Path) -> dict[str, list[str]]:
    """Read what metrics need of a file of contract `EXPLANATIONS`, by column.

    Raises:
        DataError: It is missing, malformed or empty, an example occurs twice, or a value is missing.
    """
    names = ["example_id", "user_id", "item_id", "reference", "prediction"]
    columns = read_table(path, EXPLANATIONS, names).to_pydict()
    if not columns["example_id"]:
        raise DataError(f"{path}: there is no explanation in it; run the rule that makes it")
    for column, values in columns.items():
        if None in values:
            row = values.index(None)
            raise DataError(
                f"{path}: row {row + 1} (example {columns['example_id'][row]}) has no {column}; "
                "generate the explanations again"
            )
    _check_unique(path, columns["example_id"])
    return columns


def _read_truths(path: str | Path, pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    table = read_table(path, TRUTH, ["user_id", "item_id", "reasons"]).to_pydict()
    reasons = dict(zip(zip(table["user_id"], table["item_id"], strict=True), table["reasons"], strict=True))
    for user, item in pairs:
        if not reasons.get((user, item)):
            raise DataError(
                f"{path}: it has no reason why user {user} chose item {item}; generate the world and all after it again"
            )
    return [reasons[pair] for pair in pairs]


def _read_ratings(explanations: str | Path, examples: str | Path, ids: Sequence[str]) -> Ratings:
    predicted = read_table(explanations, EXPLANATIONS, ["rating"]).column("rating").to_pylist()
    known = _read_known(examples, "rating")
    true = [known.get(example) for example in ids]
    for what, ratings in (("the method predicted", predicted), ("the data have", true)):
        if set(ratings) == {None}:
            raise AbsentError(f"{what} no rating of any of {len(ids)} examples")
    return Ratings(predicted, true, min(known.values()), max(known.values()))


def _read_features(examples: str | Path, ids: Sequence[str]) -> Features:
    known = _read_known(examples, "feature")
    true = [known.get(example) for example in ids]
    if set(true) == {None}:
        raise AbsentError(f"the data have no feature of any of {len(ids)} examples")
    return Features(true, frozenset(known.values()))


def _read_known(examples: str | Path, column: str) -> dict[str, Any]:
    """Return example_id -> value of a column, of the examples of all splits that have one."""
    rows = read_table(examples, EXAMPLES, ["example_id", column]).to_pydict()
    pairs = zip(rows["example_id"], rows[column], strict=True)
    return {example: value for example, value in pairs if value is not None}


def merge_scores(
    parts: Sequence[tuple[str | Path, str | Path]], out_scores: str | Path, out_summary: str | Path
) -> None:
    """Join the files of several metrics (see `score_explanations`) on example_id.

    Args:
        parts: Pairs of a scores file and its summary file; the first gives the order of the examples.
        out_scores: Where example_id and all columns go.
        out_summary: Where column -> mean, std, n, signature, missing, counts goes; of a metric without scores, its
            name -> ``failed`` or ``absent``: the reason.

    Raises:
        DataError: The parts are of different examples, share a column, or a summary is not of its scores.
    """
    if not parts:
        raise DataError(f"{out_scores}: no metric to merge; name one in metrics.use")
    ids: list[str] = []
    columns: dict[str, Any] = {}
    summaries: Summary = {}
    for scores_file, summary_file in parts:
        part_ids, part = _read_scores(scores_file)
        ids = ids or part_ids
        if set(part_ids) != set(ids):
            example = min(set(part_ids) ^ set(ids))
            raise DataError(
                f"{scores_file}: not of the same examples as {parts[0][0]} ({example} is in one only); "
                "score both from the same explanations"
            )
        stated = read_json(summary_file)
        if not isinstance(stated, dict) or {name for name, cell in stated.items() if has_scores(cell)} != set(part):
            raise DataError(f"{summary_file}: its metrics are not the columns of {scores_file}; score it again")
        for column in part:
            if column in columns:
                raise DataError(f"{scores_file}: column {column!r} comes from another metric too; name one once")
        rows = {example: row for row, example in enumerate(part_ids)}
        columns |= {name: [values[rows[example]] for example in ids] for name, values in part.items()}
        summaries |= stated
    write_scores(out_scores, ids, columns)
    write_json(out_summary, summaries)


def _read_scores(path: str | Path) -> tuple[list[str], dict[str, list[float]]]:
    try:
        names = pq.read_schema(require_file(path, "score the metric first")).names
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole Parquet file; delete it and score again") from error
    metrics = [name for name in names if name != "example_id"]
    columns = read_table(path, _schema(metrics)).to_pydict()
    ids = columns.pop("example_id")
    _check_unique(path, ids)
    return ids, columns


def _check_unique(path: str | Path, ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        twice = next(example for row, example in enumerate(ids) if example in ids[:row])
        raise DataError(f"{path}: example {twice} occurs twice; make the file again")


def write_scores(path: str | Path, ids: Sequence[str], columns: Mapping[str, Any]) -> None:
    """Write example_id and float64 columns, NaN where there is no score; what is an array already stays as it is."""
    table = _table(ids, columns)
    write_table(path, table, table.schema)


def _table(ids: Sequence[str], columns: Mapping[str, Any]) -> pa.Table:
    # Not from lists: NaN would become null, and a reader would have two kinds of missing.
    arrays = {
        name: values if isinstance(values, pa.Array) else pa.array(values, pa.float64())
        for name, values in columns.items()
    }
    return pa.table({"example_id": pa.array(ids, pa.string()), **arrays})


def _schema(metrics: Any) -> pa.Schema:
    return pa.schema([("example_id", pa.string()), *((name, pa.float64()) for name in metrics)])


def format_scores(result: Summary) -> str:
    """Return a summary as aligned lines: name, mean, (std, n, what is missing or was not read whole), signature.

    A metric without scores has no line.
    """
    rows = []
    for name, cell in result.items():
        if not has_scores(cell):
            continue
        std = "-" if cell["std"] is None else f"{cell['std']:.4f}"
        missing = f", missing {cell['missing']}" if cell["missing"] else ""
        unread = "".join(f", {key.replace('_', ' ')} {number}" for key, number in problems(cell["counts"]).items())
        rows.append((name, f"{cell['mean']:.4f}", f"(std {std}, n {cell['n']}{missing}{unread})", cell["signature"]))
    widths = [max(len(row[i]) for row in rows) for i in range(3)] if rows else []
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].ljust(widths[2]), row[3]]) for row in rows
    )
