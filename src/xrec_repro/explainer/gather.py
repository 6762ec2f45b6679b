"""The explanations of all shards in one file. Runs on any node: it needs no model, and no torch."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xrec_repro.contracts import EXPLANATIONS
from xrec_repro.errors import DataError
from xrec_repro.examples import Example, draw_subset
from xrec_repro.io import read_table, write_table


def gather_explanations(
    parts: Sequence[Path], examples: Sequence[Example], settings: dict[str, Any], out: Path
) -> dict[str, Any]:
    """Join the files of all shards of a generation into the one that a single job would have written.

    Args:
        parts: Parquet, contract EXPLANATIONS, one a shard.
        examples: The test split, as the shards read it.
        settings: Section ``generation``.
        out: Parquet, contract EXPLANATIONS, in the order of the examples.

    Returns:
        What `explainer.generation.generate` returns, less ``cut_prompts``, which each shard's record has.

    Raises:
        DataError: An example is in no part, or in two, or a part has one that was not to be explained.
    """
    wanted = [example.example_id for example in draw_subset(examples, settings["subset"], settings["subset_seed"])]
    rows: dict[str, dict[str, Any]] = {}
    unknown = set(wanted)
    for part in parts:
        for row in read_table(part, EXPLANATIONS).to_pylist():
            if row["example_id"] not in unknown:
                problem = "is in another shard too" if row["example_id"] in rows else "was not to be explained"
                raise DataError(f"{part}: example {row['example_id']} {problem}; generate all shards again")
            unknown.remove(row["example_id"])
            rows[row["example_id"]] = row
    if unknown:
        raise DataError(f"{out}: no shard has example {min(unknown)}; generate all shards again")
    found = [rows[example] for example in wanted]
    write_table(out, found, EXPLANATIONS)
    reasons = Counter(row["finish_reason"] for row in found)
    return {"explanations": len(found), "test_examples": len(examples), "finish_reasons": dict(sorted(reasons.items()))}
