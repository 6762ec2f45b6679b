"""Progress for people: a bar on a terminal, a log line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
log = logging.getLogger("xrec_repro")


def track(items: Iterable[T], what: str, total: int | None = None, every_s: float = 30.0) -> Iterator[T]:
    """Iterate over `items` and show how far it is.

    Args:
        items: What to iterate over.
        what: A word or two for the display.
        total: Number of items where `items` has no length.
        every_s: Seconds between two log lines when standard error is not a terminal.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total)
        return
    started = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= every_s:
            last = now
            log.info("%s: %d/%s, %.1f/s", what, count, total or "?", count / (now - started))
