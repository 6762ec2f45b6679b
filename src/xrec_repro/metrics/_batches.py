"""Batches of texts of like length, the same whatever the order of the rows."""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from xrec_repro.progress import track

log = logging.getLogger("xrec_repro")

# With what the counts begin that tell how far a score can be trusted: of texts without anything, cut, without a word
# that the metric reads, of unknown tokens alone; then those of single metrics.
PROBLEMS = ("empty", "truncated", "wordless", "unreadable", "too_long", "unparsable", "low_mass", "named_nothing")


def length_sorted(size: int, *texts: Sequence[str]) -> list[list[int]]:
    """Return the rows in batches, from short to long.

    Sorted by length to waste little on padding, then by the texts themselves: the batches, and with them the last
    bits of a score, depend on which rows there are and not on their order.

    Args:
        size: Rows in a batch; the last one may have fewer.
        texts: One or more columns of equal length; a row's length is the sum of theirs in characters.
    """
    rows = list(zip(*texts, strict=True))
    order = sorted(range(len(rows)), key=lambda row: (sum(map(len, rows[row])), rows[row]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def score_pairs(
    left: Sequence[str],
    right: Sequence[str],
    size: int,
    what: str,
    score: Callable[[list[str], list[str]], np.ndarray],
) -> np.ndarray:
    """Score pairs of texts batch by batch, each different pair once.

    Args:
        left: First texts; at least one.
        right: As many second texts.
        size: Pairs in a batch; not more are encoded at once.
        what: A word for the progress display.
        score: From the two sides of a batch to an array of shape ``(batch, …)``.

    Returns:
        What `score` returned, shape ``(pairs, …)``, in the order given.
    """
    places: dict[tuple[str, str], int] = {}
    where = [places.setdefault(pair, len(places)) for pair in zip(left, right, strict=True)]
    firsts, seconds = zip(*places, strict=True)
    batches = length_sorted(size, firsts, seconds)
    found = np.concatenate(
        [score([firsts[row] for row in rows], [seconds[row] for row in rows]) for rows in track(batches, what)]
    )
    values = np.empty_like(found)
    values[np.concatenate(batches)] = found
    return values[where]


def count_texts(
    what: str, holds: Callable[[str], bool], predictions: Sequence[str], references: Sequence[str] | None = None
) -> dict[str, int]:
    """Return ``{what}_predictions`` and ``{what}_references``: of how many texts something holds.

    Args:
        what: One of `PROBLEMS`.
        holds: Whether it holds of a text.
        predictions: The generated texts.
        references: The references; None for a metric that does not read them.
    """
    sides = {"predictions": predictions, "references": references}
    return {f"{what}_{side}": sum(map(holds, texts)) for side, texts in sides.items() if texts is not None}


def count_empty(predictions: Sequence[str], references: Sequence[str] | None = None) -> dict[str, int]:
    """Return how many predictions and references have nothing but white space."""
    return count_texts("empty", lambda text: not text or text.isspace(), predictions, references)


def problems(counts: Mapping[str, float]) -> dict[str, float]:
    """Return those of a metric's counts that tell of texts it could not read or not read whole, above zero."""
    return {key: number for key, number in counts.items() if number and key.startswith(PROBLEMS)}


def warn_of(counts: Mapping[str, int], metric: str, what: str) -> None:
    """Log a line for each count above zero: `metric`, how many, of what, and `what` became of them."""
    for key, number in counts.items():
        if number:
            log.warning("%s: %d %s %s", metric, number, key.replace("_", " "), what)
