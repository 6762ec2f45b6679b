"""Judging in blocks of pairs, each as if it were alone, so that shards of the blocks give the bits of the whole.

Batches of a judge cannot be dealt to shards as they are: which pairs are asked again, and so what is in the batches of
the second attempt, depends on all replies to the first. Blocks are cut from the texts alone.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from xrec_repro.errors import DataError
from xrec_repro.interrupt import StoppedError, stoppable
from xrec_repro.metrics._batches import length_sorted
from xrec_repro.metrics.base import Metric, Scores, with_found
from xrec_repro.partial import Partial
from xrec_repro.shards import Shard

log = logging.getLogger("xrec_repro")

_PAIRS = 64  # in a block, rounded up to whole batches: enough to fill the batches of repeated questions


@dataclass(frozen=True)
class Block:
    """The scores of some pairs.

    Attributes:
        number: Place among the blocks of the corpus.
        rows: Their rows, ascending.
        columns: Column name -> float64 array of shape ``(rows,)``; NaN where a pair could not be scored.
        counts: As in `Scores`, of these pairs.
        found: What of the signature only the scoring told (`Scored`).
        replies: As in `Scores`, of these pairs; JSON types.
    """

    number: int
    rows: list[int]
    columns: dict[str, np.ndarray]
    counts: Mapping[str, float]
    found: Mapping[str, Any] = field(default_factory=dict)
    replies: Mapping[str, list[Any]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it in JSON types, null for NaN."""
        columns = {
            name: [None if math.isnan(value) else value for value in values.tolist()]
            for name, values in self.columns.items()
        }
        return {**vars(self), "columns": columns}

    @classmethod
    def of_json(cls, kept: Mapping[str, Any]) -> "Block":
        """Return what `as_json` was made of."""
        columns = {name: np.array(values, dtype=np.float64) for name, values in kept["columns"].items()}
        return cls(**{**kept, "columns": columns})


def score_blocks(
    metric: Metric,
    predictions: Sequence[str],
    references: Sequence[str],
    shard: Shard,
    kept: Partial | None = None,
) -> list[Block]:
    """Score a shard's blocks of the corpus.

    Args:
        metric: A judge.
        predictions: All generated texts.
        references: As many references.
        shard: Which blocks to score.
        kept: Where blocks are kept as they are done, and some may be already.

    Raises:
        StoppedError: A stop was asked for; what was done is in `kept`.
    """
    numbered = shard.deal(list(enumerate(_cut(metric, predictions, references))))
    if numbered and not hasattr(metric, "batch_size"):  # nothing joins its pairs: all at once, its requests overlap
        numbered = [(numbered[0][0], sorted(chain.from_iterable(rows for _, rows in numbered)))]
    # Blocks that were cut otherwise, for batches of another size, are scored again.
    cut = dict(numbered)
    found = map(Block.of_json, kept.rows if kept else [])
    blocks = {block.number: block for block in found if cut.get(block.number) == block.rows}
    if blocks:
        log.info("resumed %s after %d of %d blocks", metric.name, len(blocks), len(numbered))
    with stoppable() if kept else nullcontext(lambda: False) as stop_requested:
        for number, rows in numbered:
            if number in blocks:
                continue
            scored = metric.scored([predictions[i] for i in rows], [references[i] for i in rows])
            columns = {name: np.asarray(values, dtype=np.float64) for name, values in scored.columns.items()}
            blocks[number] = Block(number, rows, columns, scored.counts, scored.found, scored.replies)
            if kept:
                kept.add([blocks[number].as_json()])
            if stop_requested():
                raise StoppedError(f"{len(blocks)} of {len(numbered)} blocks of pairs are", kept.path)
    return [blocks[number] for number, _ in numbered]


def join_blocks(blocks: Iterable[Block], signature: str, pairs: int) -> Scores:
    """Join all blocks of a corpus, in whatever order they come; `check_scored` tells whether there is any score.

    Raises:
        DataError: Different models answered.
    """
    blocks = sorted(blocks, key=lambda block: block.number)
    found = next((block.found for block in blocks if any(block.found.values())), blocks[0].found)
    for block in blocks:
        for key, value in block.found.items():
            if value not in (None, found.get(key)):
                raise DataError(
                    f"{', '.join(blocks[0].columns)}: {key} {found.get(key)} in some shards and {value} in others; "
                    "scores of two models do not mix: name the model exactly and score all shards again"
                )
    columns = {name: np.full(pairs, np.nan) for name in blocks[0].columns}
    replies: dict[str, list[Any]] = {name: [None] * pairs for name in blocks[0].replies}
    for block in blocks:
        for name, values in block.columns.items():
            columns[name][block.rows] = values
        for name, kept in block.replies.items():
            for row, value in zip(block.rows, kept, strict=True):
                replies[name][row] = value
    return Scores(columns, with_found(signature, found), counts=_join_counts(blocks), replies=replies)


def check_scored(scores: Scores, place: str) -> None:
    """Check that a judge scored an example, and log how many it did not.

    Args:
        scores: Of `join_blocks`.
        place: Where its replies are, for people to look at.

    Raises:
        DataError: It scored none.
    """
    for name, values in scores.columns.items():
        missing = int(np.isnan(values).sum())
        if missing == len(values):
            raise DataError(f"{name}: not one of {missing} examples could be scored; look at a few replies: {place}")
        if missing:
            log.warning("%s: %d of %d examples have no score; the replies: %s", name, missing, len(values), place)


def _join_counts(blocks: Iterable[Block]) -> dict[str, float]:
    """Add what is counted (integers), and average what is a mean over the pairs that were read, all but `too_long`."""
    joined: dict[str, float] = {}
    weights: dict[str, int] = {}
    for block in blocks:
        read = len(block.rows) - block.counts.get("too_long", 0)
        for name, value in block.counts.items():
            weight = read if isinstance(value, float) else 1
            joined[name] = joined.get(name, 0) + value * weight
            weights[name] = weights.get(name, 0) + (read if isinstance(value, float) else 0)
    return {name: value / weights[name] if weights[name] else value for name, value in joined.items()}


def _cut(metric: Metric, predictions: Sequence[str], references: Sequence[str]) -> list[list[int]]:
    """Return the rows of each block: pairs of like length, equal ones together so that none is judged twice."""
    equal: dict[tuple[str, str], list[int]] = {}
    for row, pair in enumerate(zip(predictions, references, strict=True)):
        equal.setdefault(pair, []).append(row)
    pairs: list[Any] = list(equal)
    batch = getattr(metric, "batch_size", 1)
    places = length_sorted(batch * -(-_PAIRS // batch), *zip(*pairs, strict=True))
    return [sorted(chain.from_iterable(equal[pairs[place]] for place in block)) for block in places]
