"""Finished rows of an unfinished stage, from which it goes on."""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from xrec_repro.identity import OTHER
from xrec_repro.io import names_full_disk, remove_scraps, write_text

log = logging.getLogger("xrec_repro")


class Partial:
    """JSON lines beside an output, appended as they come; used as a context.

    The first line names the identity; a file of another one is dropped, and the log says so. A last line that a kill
    cut off is dropped too, and the file rewritten to whole lines (atomically: a kill must not lose them).

    Args:
        path: The file; whoever writes the output removes it in the end (`remove`).
        identity: Digest of all that the rows depend on.

    Attributes:
        rows: Those that were finished before, and since.

    Raises:
        DataError: The disk is full.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self._identity = Path(path), identity
        self.rows = self._read()

    def __enter__(self) -> "Partial":
        remove_scraps(self.path)
        write_text(self.path, "".join(map(_line, [{"fingerprint": self._identity}, *self.rows])))
        self._stream = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.close()

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append finished rows; they are on the disk when this returns."""
        rows = list(rows)
        with names_full_disk(self.path):
            self._stream.writelines(map(_line, rows))
            self._stream.flush()
            os.fsync(self._stream.fileno())
        self.rows += rows

    def remove(self) -> None:
        """Remove the file: the output is written."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        rows = []
        # Not splitlines: texts may hold other ends of lines, which JSON leaves as they are.
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not isinstance(row, dict):
                break
            rows.append(row)
        if not rows or rows[0].get("fingerprint") != self._identity:
            log.warning("%s: %s; starting anew", self.path, OTHER)
            return []
        return rows[1:]


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
