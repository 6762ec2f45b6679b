"""Fetching the files that the manifest names, checked by hash and never half there."""

import csv
import difflib
import hashlib
import logging
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from xrec_repro.errors import DataError
from xrec_repro.identity import sha256_file
from xrec_repro.io import atomic_path, require_file
from xrec_repro.progress import track

log = logging.getLogger("xrec_repro")

COLUMNS = ("name", "file", "url", "revision", "sha256", "bytes", "licence", "description")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CHUNK = 2**20
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers worth another attempt


class Entry(NamedTuple):
    """One file of the manifest."""

    file: str
    url: str
    sha256: str
    bytes: int


class UnfinishedError(OSError):
    """A transfer that broke off and may succeed when tried again."""


def fetch(
    name: str,
    manifest: str | Path,
    folder: str | Path,
    copies: Sequence[str | Path] = (),
    attempts: int = 4,
    wait_s: float = 2.0,
    timeout_s: float = 60.0,
) -> dict[str, dict[str, Any]]:
    """Download the files of one manifest entry that are absent or differ from their hash.

    Args:
        name: Value of the manifest's column ``name``.
        manifest: Tab-separated table with the columns `COLUMNS`.
        folder: Where the files go.
        copies: Folders in which some of the files may lie already; what has the right hash is taken from there.
        attempts: Tries a file; only broken transfers and busy servers are tried again.
        wait_s: Seconds before the second attempt, doubled before each further one.
        timeout_s: Seconds without an answer after which an attempt counts as broken.

    Returns:
        file -> ``{"status": "present" | "copied" | "downloaded", "sha256": …, "bytes": …}``.

    Raises:
        DataError: The manifest is wrong, a server refuses, a transfer keeps breaking, or a hash differs.
    """
    entries = read_manifest(name, manifest)
    fetched = {}
    for entry in entries:
        target = Path(folder) / entry.file
        status = "present"
        if not _is(target, entry):
            copy = next((path for path in (Path(one) / entry.file for one in copies) if _is(path, entry)), None)
            status = "copied" if copy else "downloaded"
            with atomic_path(target) as temporary:
                if copy:
                    shutil.copyfile(copy, temporary)
                else:
                    _download(entry, temporary, attempts, wait_s, timeout_s)
            log.info("%s: %s from %s", target, status, copy or entry.url)
        fetched[entry.file] = {"status": status, "sha256": entry.sha256, "bytes": entry.bytes}
    return fetched


def _is(path: Path, entry: Entry) -> bool:
    return path.is_file() and sha256_file(path) == entry.sha256


def read_manifest(name: str, manifest: str | Path) -> list[Entry]:
    """Return the files of one manifest entry.

    Raises:
        DataError: The manifest lacks a column or the name, or a row of it cannot be used.
    """
    manifest = require_file(manifest)
    with manifest.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{manifest}: column {missing[0]!r} is missing; its columns are {', '.join(COLUMNS)}")
        rows = list(enumerate(reader, start=2))
    entries = [_check_row(f"{manifest}: line {line}", row) for line, row in rows if row["name"] == name]
    if not entries:
        known = sorted({row["name"] or "" for _, row in rows})
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known) or 'nothing'}"
        raise DataError(f"{manifest}: no entry {name!r}; {hint}")
    return entries


def _check_row(place: str, row: dict[str, str | None]) -> Entry:
    path = PurePosixPath(row["file"] or "")
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise DataError(f"{place}: file {row['file']!r} must be a path inside the folder")
    if not re.fullmatch(r"[0-9a-f]{64}", row["sha256"] or ""):
        raise DataError(f"{place}: sha256 {row['sha256']!r} is not 64 hex digits; run sha256sum on the file")
    if not re.fullmatch(r"[0-9]+", row["bytes"] or ""):
        raise DataError(f"{place}: bytes {row['bytes']!r} is not a number")
    url = urllib.parse.urlsplit(row["url"] or "")
    if url.scheme not in ("https", "file") and not (url.scheme == "http" and url.hostname in LOOPBACK):
        raise DataError(f"{place}: url {row['url']!r} must be https:// (http:// only to this machine) or file://")
    return Entry(str(path), url.geturl(), row["sha256"], int(row["bytes"]))


def _download(entry: Entry, path: Path, attempts: int, wait_s: float, timeout_s: float) -> None:
    """Download one file to `path`, trying again where that may help."""
    for attempt in range(1, attempts + 1):
        try:
            got = _transfer(entry, path, timeout_s)
            break
        except urllib.error.HTTPError as error:
            problem: Exception = error
            if error.code not in BUSY:
                raise DataError(f"{entry.url}: the server answers {error.code} {error.reason}") from error
        except (
            urllib.error.URLError,
            HTTPException,
            TimeoutError,
            ConnectionError,
            UnfinishedError,
        ) as error:
            problem = error
        if attempt == attempts:
            raise DataError(
                f"{entry.url}: not fetched in {attempts} attempts ({problem}); check the network, run again"
            ) from problem
        log.warning("%s: attempt %d of %d: %s", entry.url, attempt, attempts, problem)
        time.sleep(wait_s * 2 ** (attempt - 1))
    if got != entry.sha256:
        raise DataError(
            f"{entry.url}: wrong content: expected sha256 {entry.sha256}, got {got}; "
            f"the file has changed at its source, or the manifest is wrong"
        )


def _transfer(entry: Entry, path: Path, timeout_s: float) -> str:
    """Write the answer to `path` and return its SHA-256."""
    digest, received = hashlib.sha256(), 0
    with urllib.request.urlopen(entry.url, timeout=timeout_s) as answer, path.open("wb") as out:
        announced = answer.headers.get("Content-Length")
        for chunk in track(_chunks(answer), f"fetch {entry.file} (MiB)", total=-(-entry.bytes // CHUNK)):
            out.write(chunk)
            digest.update(chunk)
            received += len(chunk)
    if announced is not None and received < int(announced):
        raise UnfinishedError(f"{received} of {announced} bytes arrived")
    return digest.hexdigest()


def _chunks(answer: Any) -> Iterator[bytes]:
    while chunk := answer.read(CHUNK):
        yield chunk
