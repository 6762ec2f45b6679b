"""Answers of chat models on disk: one JSON line each, appended as soon as it is there."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xrec_repro.errors import DataError


class AnswerCache:
    """Answers by key, kept in ``answers.jsonl`` so that no prompt is paid for twice.

    Threads of one process and processes on one machine may append at the same time: each line is written
    under a lock of the file. A line that a killed process left unfinished counts as absent.

    Args:
        folder: Folder of the file; made when absent.

    Raises:
        DataError: A finished line of the file is not an answer.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "answers.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._thread_lock = threading.Lock()
        self._answers: dict[str, str] = {}
        with self._locked() as handle, os.fdopen(os.dup(handle), "rb") as stream:
            self._answers.update(self._parse(stream.read()))

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> str:
        return self._answers[key]

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, key: str, answer: str) -> None:
        """Remember an answer and append it to the file."""
        line = json.dumps({"key": key, "answer": answer}) + "\n"
        with self._locked() as handle:
            _cut_unfinished_line(handle)
            os.write(handle, line.encode("ascii"))
            self._answers[key] = answer

    @contextmanager
    def _locked(self) -> Iterator[int]:
        with self._thread_lock:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield handle
            finally:
                os.close(handle)

    def _parse(self, content: bytes) -> Iterator[tuple[str, str]]:
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record = json.loads(line)
                key, answer = record["key"], record["answer"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{self.path}:{number}: not a cached answer; delete that line") from error
            if not isinstance(key, str) or not isinstance(answer, str):
                raise DataError(f"{self.path}:{number}: not a cached answer; delete that line")
            yield key, answer


def _cut_unfinished_line(handle: int) -> None:
    """Truncate the file after its last line end, so that a new line cannot be glued to half a one."""
    size = end = os.fstat(handle).st_size
    while end and os.pread(handle, 1, end - 1) != b"\n":
        end -= 1
    if end < size:
        os.ftruncate(handle, end)
