"""Files that are either whole or absent, and readers that say what is wrong with a file and where."""

import errno
import glob
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xrec_repro.errors import DataError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_STALE_S = 3600


@contextmanager
def names_full_disk(path: str | Path) -> Iterator[None]:
    """Turn the many ways in which writing fails for want of space into one.

    Raises:
        DataError: The disk, a quota or the largest allowed file is full.
    """
    try:
        yield
    except Exception as error:
        # safetensors tells the system's number in its message alone.
        number = re.search(r"\(os error (\d+)\)", str(error))
        code = getattr(error, "errno", None) or (int(number[1]) if number else None)
        if code not in _FULL:
            raise
        raise DataError(
            f"{path}: cannot be written: {os.strerror(code)}; free some space (df, quota) and run the rule again: "
            "files and checkpoints that were whole still are"
        ) from error


def remove_scraps(path: str | Path) -> None:
    """Remove what killed writers of a file have left; for the one who alone writes it now."""
    for scrap in _scraps(Path(path)):
        shutil.rmtree(scrap, ignore_errors=True)


def _scraps(path: Path) -> Iterator[Path]:
    return path.parent.glob(f".{glob.escape(path.name)}.*.tmp")


def _scrap(path: Path) -> Path:
    """Make one of `_scraps`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that takes the name of `path` on success and is removed on failure.

    A reader therefore never sees half a file, whatever kills the writer. What a link names is written, not the link.
    The path lies in a folder of its own beside `path`, because libraries write beside what they write, too (safetensors
    a file of its own that it renames), and what a kill leaves of that must be found as well (`remove_scraps`).

    Raises:
        DataError: The disk is full, or nothing can be written there.
    """
    path = _writable(Path(path))
    with names_full_disk(path):
        with _names_obstacle(path):
            folder = _scrap(path)
        temporary = folder / path.name
        try:
            temporary.touch()
            yield temporary
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            with _names_obstacle(path):
                temporary.chmod(0o644)
                temporary.replace(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder` that takes its place when all is written, and is removed on failure.

    What killed writers left more than an hour ago goes: younger ones may be at work in a folder that jobs share.
    """
    for scrap in _scraps(folder):
        with suppress(FileNotFoundError):  # another job removed it first
            if time.time() - scrap.stat().st_mtime > _STALE_S:
                shutil.rmtree(scrap, ignore_errors=True)
    temporary = _scrap(folder)
    try:
        yield temporary
        temporary.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _writable(path: Path) -> Path:
    """Return the path behind links; refuse a folder, and a device, which a file that takes its name would remove."""
    with _names_obstacle(path):
        path = path.resolve() if path.is_symlink() else path
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no plain file"
            raise DataError(f"{path}: cannot be written: it is {kind}; name a file")
    return path


@contextmanager
def _names_obstacle(path: Path) -> Iterator[None]:
    """Turn what the system says of a place where nothing can be written into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise DataError(f"{path}: cannot be written: {error.strerror}; name a file in a folder of yours") from error


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file atomically, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: The file is missing or is not JSON.
    """
    path = require_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); delete it and run the rule again") from error


def require_file(path: str | Path, remedy: str = "check the path in the configuration") -> Path:
    """Return `path` if it is a file with content that can be read, else raise a `DataError` that gives the remedy."""
    path = Path(path)
    try:
        if path.is_dir():
            raise DataError(f"{path}: a folder, not a file; {remedy}")
        if not path.is_file():
            raise DataError(f"{path}: no such file; {remedy}")
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty; {remedy}")
        path.open("rb").close()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; {remedy}") from error
    return path


def write_table(path: str | Path, data: Any, schema: pa.Schema) -> None:
    """Write rows to Parquet atomically under a contract of `xrec_repro.contracts`.

    Args:
        path: Where to write.
        data: A pandas DataFrame, a dict of columns, a list of row dicts, or a pyarrow Table.
        schema: Column names and types; extra columns of `data` are dropped.

    Raises:
        DataError: A column of the schema is missing from `data`.
    """
    if isinstance(data, list):
        table = pa.Table.from_pylist(data, schema=schema)
    elif isinstance(data, pa.Table):
        table = data.select(schema.names).cast(schema)
    else:
        missing = [name for name in schema.names if name not in data]
        if missing:
            raise DataError(f"{path}: cannot be written, column {missing[0]!r} is missing")
        table = pa.table([pa.array(data[f.name], f.type, from_pandas=True) for f in schema], schema=schema)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_table(path: str | Path, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file under a contract.

    Args:
        path: The file.
        schema: The contract that the file must fulfil (more columns are allowed, and dropped).
        columns: Read only these columns of the contract.

    Raises:
        DataError: The file is missing, is not Parquet, is damaged, lacks a column or has it twice or of another type.
    """
    path = require_file(path, "run the rule that makes it")
    names = columns or schema.names
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        present = file.schema_arrow.names
        for name in names:
            if name not in present:
                raise DataError(f"{path}: column {name!r} is missing (found: {', '.join(present)})")
            if present.count(name) > 1:
                raise DataError(f"{path}: column {name!r} is there {present.count(name)} times; keep one")
        table = file.read(columns=names).select(names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole Parquet file; delete it and run the rule again") from error
    for name in names:
        try:
            cast = table[name].cast(schema.field(name).type)
        except pa.ArrowException as error:
            raise DataError(
                f"{path}: column {name!r} is {table[name].type}, not {schema.field(name).type}; run the rule again"
            ) from error
        table = table.set_column(names.index(name), schema.field(name), cast)
    return table.replace_schema_metadata()
