"""A metric that fails takes nothing else with it: its reason stands where its scores would, until it is scored anew."""

import errno
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xrec_repro.errors import DataError, XRecError
from xrec_repro.interrupt import StoppedError
from xrec_repro.io import read_json
from xrec_repro.metrics.base import FAILED

log = logging.getLogger("xrec_repro")

_LONGEST = 400
_OF_THE_MACHINE = {errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EIO}
_MEMORY = re.compile(r"out of memory|(?:cannot|can't) allocate|not enough memory|bad_alloc|ALLOC_FAILED", re.IGNORECASE)


class Failure:
    """What became of a metric.

    Attributes:
        reason: Why it failed, in one line; None if it did not.
    """

    reason: str | None = None


@contextmanager
def failing(name: str, record: str | Path | None = None) -> Iterator[Failure]:
    """Run a metric; an error of its own ends the block and becomes `Failure.reason`.

    What is not the metric's own goes on as it is: a request to stop, memory or a disk that is full.

    Args:
        name: The metric, for the log.
        record: File that gets the reason as a further line. The number of its lines is a parameter of the rule, so
            that a failure makes the rule due again, and what was scored then does not.
    """
    failure = Failure()
    try:
        yield failure
    except Exception as error:
        failure.reason = reason_of(error)
        if failure.reason is None:
            raise
        if not isinstance(error, XRecError):
            log.exception("%s failed", name)
        if record is not None:
            with Path(record).open("a", encoding="utf-8") as stream:
                stream.write(f"{failure.reason}\n")


def reason_of(error: BaseException) -> str | None:
    """Return why a metric failed, in one line; None where the machine failed it, or a stop was asked for."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, StoppedError | MemoryError) or not isinstance(cause, Exception):
            return None
        if isinstance(cause, OSError) and cause.errno in _OF_THE_MACHINE:
            return None
        if isinstance(cause, RuntimeError) and _MEMORY.search(str(cause)):
            return None
        cause = cause.__cause__ or cause.__context__
    text = str(error) if isinstance(error, XRecError) else f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def refuse_failed(summaries: Iterable[str | Path]) -> None:
    """Check that no metric of a run failed.

    Args:
        summaries: ``<dataset>/<experiment>/seed<seed>/metrics/summary.json`` of all experiments and seeds.

    Raises:
        DataError: One did; a line for each metric and reason.
    """
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in map(Path, summaries):
        for name, cell in read_json(path).items():
            if FAILED in cell:
                found[name, cell[FAILED]].append("/".join(path.parts[-5:-2]))
    if found:
        lines = [f"{name} has no scores of {', '.join(places)}: {why}" for (name, why), places in found.items()]
        remedy = "all else is made; mend the cause and run the same command again, which scores it anew"
        raise DataError("\n".join(f"{line} ({remedy})" for line in lines))
