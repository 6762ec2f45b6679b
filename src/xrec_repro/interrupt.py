"""Requests to stop (SIGTERM of a cluster, Ctrl-C), met where all that was done can be saved.

A loop that can be resumed runs under `stoppable` and asks after each step. Everywhere else in a job the same signals
end the process at once, by way of `SystemExit`, so that temporary files are removed.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xrec_repro.errors import XRecError

# At a time limit Slurm and the processes between it and a job each pass on the same request, within milliseconds.
_SAME_REQUEST_S = 2.0


class StoppedError(XRecError):
    """A run that was asked to stop and has saved what it had; started again, it goes on from there."""

    exit_code = 128 + signal.SIGTERM

    def __init__(self, done: str, where: Path) -> None:
        super().__init__(f"stopped as asked: {done} saved in {where}; run the rule again to go on from there")


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a stop was asked for; a second request ends the process.

    Outside the main thread, which alone can handle signals, nothing changes.
    """
    asked: list[float] = []

    def handle(number: int, frame: Any) -> None:
        asked.append(time.monotonic())
        if asked[-1] - asked[0] > _SAME_REQUEST_S:
            _end(number, frame)

    with _handler(handle):
        yield lambda: bool(asked)


@contextmanager
def ends_cleanly() -> Iterator[None]:
    """Turn a request to stop into `SystemExit`, which removes temporary files on its way; a second one just ends."""
    with _handler(_end):
        yield


def _end(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)


@contextmanager
def _handler(handle: Callable[[int, Any], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
