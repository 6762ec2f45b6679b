"""Edits of a checkout, a configuration or a machine, and the rules that each makes due in a finished run."""

import contextlib
import os
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PARTS = ("Snakefile", "config", "envs", "profiles", "resources", "src", "tests/tiny.yaml", "workflow")


@dataclass(frozen=True)
class Edit:
    """What changes, and what it makes due.

    Attributes:
        id: Name for people.
        due: The rules that have to run again.
        files: File of the checkout -> (what stands in it, what takes its place); None for the first appends.
        overlay: Configuration laid over the run's own.
        own: Files of the run's folder whose content changes, their time stamps and sizes kept.
        library: Package that has another version.
        touched: Files of the checkout with a new time stamp.
    """

    id: str
    due: frozenset[str] | set[str]
    files: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    overlay: dict[str, Any] = field(default_factory=dict)
    own: tuple[str, ...] = ()
    library: str | None = None
    touched: tuple[str, ...] = ()


def copy_checkout(root: Path, to: Path) -> Path:
    """Copy what a run needs of a checkout, as a fresh clone has it: every file is new."""
    for part in PARTS:
        (to / part).parent.mkdir(parents=True, exist_ok=True)
        if (root / part).is_dir():
            shutil.copytree(
                root / part,
                to / part,
                copy_function=shutil.copyfile,
                ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
            )
        else:
            shutil.copyfile(root / part, to / part)
    return to


def snakemake(checkout: Path, arguments: list[str], printed: Path, library: str | None = None) -> None:
    """Run Snakemake in this process, which nothing of the library was imported into; its output goes to a file."""
    stream = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.chdir(checkout)
    sys.path.insert(0, str(checkout / "src"))
    if library:
        other = printed.parent / f"{library.replace('-', '_')}-99.9.dist-info"
        other.mkdir()
        (other / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: 99.9\n")
        sys.path.insert(0, str(other.parent))
    from snakemake.cli import main

    main(["--cores", "2", *arguments])


def due_rules(text: str) -> set[str]:
    """Read the table of jobs that Snakemake prints."""
    table = re.findall(r"^(\w+) +\d+$", text.split("Job stats")[-1], flags=re.MULTILINE)
    return set(table) - {"all", "total", "job"}


@contextlib.contextmanager
def applied(edit: Edit, checkout: Path):
    """Apply an edit of files and take it back."""
    before = {path: path.read_bytes() for path in (checkout / name for name in edit.files)}
    own = {path: (path.read_bytes(), path.stat()) for path in (checkout / name for name in edit.own)}
    try:
        for name, (old, new) in edit.files.items():
            text = (checkout / name).read_text()
            assert old is None or text.count(old) == 1, f"{edit.id}: {old!r} stands {text.count(old)} times in {name}"
            (checkout / name).write_text(text + new if old is None else text.replace(old, new))
        for path, (content, stat) in own.items():
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        for name in edit.touched:
            (checkout / name).touch()
        yield
    finally:
        for path, content in before.items():
            path.write_bytes(content)
        for path, (content, stat) in own.items():
            path.write_bytes(content)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
