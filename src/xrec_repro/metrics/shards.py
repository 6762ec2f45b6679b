"""A judge's scores in shards: a file of blocks from each, then the files that a single job would have written."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from xrec_repro.errors import DataError
from xrec_repro.io import read_json, write_json
from xrec_repro.metrics._blocks import Block, join_blocks, score_blocks
from xrec_repro.metrics.base import FAILED, summary
from xrec_repro.metrics.registry import build_metric
from xrec_repro.metrics.score import read_explanations, write_replies, write_scores
from xrec_repro.partial import Partial
from xrec_repro.shards import Shard


def score_shard(
    explanations_parquet: str | Path,
    name: str,
    metric_settings: Mapping[str, Any],
    shard: Shard,
    out_json: str | Path,
    device: str = "auto",
    kept: Partial | None = None,
) -> None:
    """Score a shard of the explanations by a judge.

    Args:
        explanations_parquet: File of contract `EXPLANATIONS`, all of them.
        name: One of `xrec_repro.shards.JUDGES`.
        metric_settings: The section ``metrics.<name>`` of the configuration.
        shard: Which part to score.
        out_json: Where signature and blocks go, for `gather_scores`; null where an example could not be scored.
        device: ``auto`` | ``cpu`` | ``cuda``.
        kept: Where blocks are kept until all are done.

    Raises:
        DataError: The explanations are missing, malformed or none.
        ConfigError: The metric or its settings are unknown.
    """
    metric = build_metric(name, metric_settings, device)
    given = read_explanations(explanations_parquet)
    with kept or nullcontext():
        scored = score_blocks(metric, given["prediction"], given["reference"], shard, kept)
    # By their ids: rows are places in a file that may be made anew meanwhile.
    blocks = [
        {name: value for name, value in block.as_json().items() if name != "rows"}
        | {"examples": [given["example_id"][row] for row in block.rows]}
        for block in scored
    ]
    write_json(out_json, {"signature": metric.signature, "blocks": blocks})


def gather_scores(
    explanations_parquet: str | Path,
    parts: Sequence[str | Path],
    out_scores_parquet: str | Path,
    out_summary_json: str | Path,
    out_replies_parquet: str | Path,
) -> None:
    """Join the shards of a judge's scores into the files that a single job would have written.

    Args:
        explanations_parquet: File of contract `EXPLANATIONS`, all of them.
        parts: Files of `score_shard`, all shards of one count.
        out_scores_parquet: See `score_explanations`.
        out_summary_json: Likewise.
        out_replies_parquet: Likewise.

    Raises:
        DataError: The parts were scored in different ways, have not each example once, scored none, or failed.
    """
    ids = read_explanations(explanations_parquet)["example_id"]
    rows, contents = {example: row for row, example in enumerate(ids)}, [read_json(part) for part in parts]
    blocks, missing = [], set(ids)
    for part, content in zip(parts, contents, strict=True):
        if FAILED in content:
            raise DataError(content[FAILED])
        if content["signature"] != contents[0]["signature"]:
            raise DataError(f"{part}: its signature is not that of {parts[0]}; score all shards again")
        for block in content["blocks"]:
            if not missing.issuperset(block["examples"]):
                example = min(set(block["examples"]) - missing)
                raise DataError(f"{part}: example {example} is in another shard too, or unknown; score all again")
            missing.difference_update(block["examples"])
            places = [rows[example] for example in block.pop("examples")]
            blocks.append(Block.of_json(block | {"rows": places}))
    if missing:
        raise DataError(f"{out_scores_parquet}: no shard has example {min(missing)}; score all shards again")
    scores = join_blocks(blocks, contents[0]["signature"], len(ids))
    write_replies(out_replies_parquet, ids, scores)
    write_scores(out_scores_parquet, ids, scores.columns)
    write_json(out_summary_json, summary(scores))
