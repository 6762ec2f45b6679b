"""Per-example scores of several files, joined on the examples that all of them have."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from xrec_repro.errors import DataError
from xrec_repro.io import read_table, require_file


def read_scores(path: str | Path, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Read scores.parquet: one float64 column a metric (all, or those named), index example_id.

    Raises:
        DataError: The file is missing or malformed, lacks a metric, or has an example twice or an infinite score.
    """
    try:
        names = pq.read_schema(require_file(path, "run the rule that makes it")).names
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a whole Parquet file; delete it and score again") from error
    wanted = [name for name in names if name != "example_id"] if metrics is None else list(metrics)
    schema = pa.schema([("example_id", pa.string()), *((name, pa.float64()) for name in wanted)])
    frame = read_table(path, schema).to_pandas().set_index("example_id")
    if frame.index.has_duplicates:
        example = frame.index[frame.index.duplicated()][0]
        raise DataError(f"{path}: example {example} occurs twice; make the file again")
    for name in wanted:
        infinite = frame.index[np.isinf(frame[name])]
        if len(infinite):
            raise DataError(f"{path}: {name} of example {infinite[0]} is infinite; look at its two texts")
    return frame


def join_scores(systems: Sequence[Sequence[str | Path]], metrics: Sequence[str]) -> tuple[np.ndarray, int]:
    """Read the scores of the same examples from several files.

    Args:
        systems: For each system the files of its seeds: as many for all.
        metrics: Which columns.

    Returns:
        Shape ``(systems, metrics, seeds, examples)``, NaN where one could not be scored, the examples in the order of
        their ids; and how many examples were left out because only some of the files have them.

    Raises:
        DataError: A file is unusable, or the files share no example.
    """
    frames = [[read_scores(path, metrics) for path in files] for files in systems]
    present = [set(frame.index) for seeds in frames for frame in seeds]
    common, every = sorted(set.intersection(*present)), set.union(*present)
    if not common:
        raise DataError(f"{systems[0][0]} and {systems[-1][-1]} have no example in common; score the same test set")
    scores = np.array([[frame.loc[common].to_numpy().T for frame in seeds] for seeds in frames])
    return scores.swapaxes(1, 2), len(every) - len(common)


def same_examples(scores: np.ndarray) -> list[tuple[list[int], np.ndarray]]:
    """Group metrics by the examples that have a score in all systems and seeds.

    Args:
        scores: From `join_scores`.

    Returns:
        The metrics' numbers, and a mask of shape ``(examples,)``, for each group.

    Raises:
        DataError: A metric has no such example.
    """
    kept = ~np.isnan(scores).any(axis=(0, 2))
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, row in enumerate(kept):
        if not row.any():
            raise DataError("statistics: no example is scored for all systems and seeds; score them again")
        groups[row.tobytes()].append(i)
    return [(chosen, kept[chosen[0]]) for chosen in groups.values()]
