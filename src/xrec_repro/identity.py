"""The one answer to "is this the same?": of code, files, models and libraries (of settings: `neutral`).

Stages, caches, checkpoints and signatures ask here. The Snakefile, which is parsed again in every job, imports this
module: it must stay free of heavy imports.
"""

import ast
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from xrec_repro.errors import ModelError

PACKAGE = Path(__file__).parent
OTHER = "of other settings, code, data, models, libraries or device"  # what is said of what cannot go on

# --- Code ---------------------------------------------------------------------------------------------------------
# How jobs are run, watched and recorded. No digest of code sees these modules; raise the number by hand when a change
# in them changes what a stage writes.
RUNTIME_VERSION = 1
RUNTIME = frozenset(
    {
        *("accounting.attempts", "accounting.energy", "accounting.machine", "checkpoint", "device", "partial"),
        *("checks", "errors", "identity", "interrupt", "io", "job", "neutral", "progress", "provenance"),
    }
)
_DATA = "PACKAGE_DATA"  # a module's own list of the files it reads, as patterns beside it
_MOST_SOURCES = 2000  # remembered at a time, the last that were new
_new_sources: list[str] = []


@lru_cache
def code_digest(*files: str) -> str:
    """Digest scripts together with all modules of this package that they import, and the package data these read.

    Snakemake's own code trigger sees the time stamp of the script alone. The digest is over syntax trees without
    docstrings, log lines and the texts of raised errors: comments, formatting, documentation and messages rerun
    nothing. `RUNTIME` modules stay out. A module that reads files of the package names them in a tuple of patterns,
    ``PACKAGE_DATA``, relative to its folder.

    Args:
        files: Paths of Python files.

    Returns:
        The first 16 hex digits of a SHA-256.
    """
    digest = hashlib.sha256(str(RUNTIME_VERSION).encode())
    for path in sorted(set(map(Path, files)).union(*map(_imports, map(Path, files))), key=lambda p: (p.name, str(p))):
        tree, _, patterns = _read(path)
        digest.update(path.stem.encode() + tree)
        for data in sorted(file for pattern in patterns for file in path.parent.glob(pattern)):
            digest.update(data.name.encode() + hashlib.sha256(data.read_bytes()).digest())
    if _new_sources:
        _keep_note(_sources_note(), dict(list(_sources().items())[-_MOST_SOURCES:]))
        _new_sources.clear()
    return digest.hexdigest()[:16]


class _Silent(ast.NodeTransformer):
    """Removes what says something and decides nothing: docstrings, calls of ``log``, the texts of errors."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        value = node.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return None
        called = value.func.value if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) else None
        return None if isinstance(called, ast.Name) and called.id == "log" else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        exc = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(exc=exc, cause=None)


@lru_cache
def _read(path: Path) -> tuple[bytes, tuple[str, ...], tuple[str, ...]]:
    """Return the digest of a file's syntax tree, the names it imports, and the patterns of its package data.

    That takes seconds for all of this package, and the Snakefile is parsed again in every job of a cluster: it is
    remembered by the file's content.
    """
    source = path.read_bytes()
    key = hashlib.sha256(source).hexdigest()
    if key not in _sources():
        tree = ast.parse(source)
        names = dict.fromkeys(name for node in ast.walk(tree) for name in _imported_names(node))
        patterns = list(literal(tree, _DATA, ()))
        _sources()[key] = [hashlib.sha256(_shown(_Silent().visit(tree)).encode()).hexdigest(), list(names), patterns]
        _new_sources.append(key)
    digest, names, patterns = _sources()[key]
    return bytes.fromhex(digest), tuple(names), tuple(patterns)


@lru_cache
def _sources() -> dict[str, list[Any]]:
    """Return what is remembered of sources, by the SHA-256 of their bytes; to be added to."""
    try:
        kept = json.loads(_sources_note().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _sources_note() -> Path:
    """Return the file of `_sources`: one for each version of this module, which knows how they are read."""
    return digest_cache() / f"sources-{_hash_file(Path(__file__))[:16]}.json"


def _shown(node: Any) -> str:
    """Write a syntax tree the same in all versions of Python: what is empty, or new and empty, is left out."""
    if isinstance(node, ast.JoinedStr):  # Python 3.12 began with empty strings behind what is formatted
        node = ast.JoinedStr([part for part in node.values if getattr(part, "value", None) != ""])
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return f"{type(node).__name__}({','.join(f'{name}={_shown(value)}' for name, value in fields)})"
    return f"[{','.join(map(_shown, node))}]" if isinstance(node, list) else repr(node)


def literal(tree: ast.Module, name: str, default: Any) -> Any:
    """Return the literal that a module assigns to a name at its top level, without importing the module."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return ast.literal_eval(node.value)
    return default


@lru_cache
def _imports(path: Path) -> frozenset[Path]:
    """Return the transitive imports of a file within its package and this one, less what is `RUNTIME`."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        here = waiting.pop()
        for module in (_locate(name, here) for name in _read(here)[1]):
            if module and module not in found:
                found.add(module)
                waiting.append(module)
    return frozenset(found)


def _imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def _locate(name: str, here: Path) -> Path | None:
    """Return the file of a module of this package, or of one beside a user's own module (`xrec_repro.plugins`)."""
    package, *parts = name.split(".")
    if package == PACKAGE.name:
        roots = [PACKAGE.parent] if parts and ".".join(parts) not in RUNTIME else []
    else:
        roots = [] if here.is_relative_to(PACKAGE) else list(here.parents)[:3]
    bases = [root.joinpath(package, *parts) for root in roots]
    return next((p for base in bases for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


# --- Files and models ---------------------------------------------------------------------------------------------
# What decides the outputs of a model folder: its weights, its shape and its tokenizer.
_MODEL_FILES = (
    *("*.safetensors", "*.bin", "*.gguf", "*.model", "config.json", "generation_config.json", "token*.json"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.*", "vocab.*", "merges.txt"),
)
_WEIGHTS = (".safetensors", ".bin", ".gguf")
REMEMBERED_FROM = 64 * 2**20  # bytes: smaller files are simply read
_SAMPLES, _SAMPLE = 32, 32 * 2**10  # places of a large file, and bytes at each, that are read all the same
_SETTLED_NS = 2 * 10**9  # a file that changed less than this ago may change again within the same tick of its clock


def sha256_file(path: str | Path) -> str:
    """Return the hex SHA-256 of a file's bytes; a large file is read once, as long as it is the same.

    The digest of a file of at least `REMEMBERED_FROM` bytes is remembered in the user's cache folder by path, size,
    inode and the times of its last changes, of which the one of the inode (ctime) cannot be set back. Where even that
    says nothing (some network file systems), samples of the content at `_SAMPLES` places must agree too.
    """
    path = Path(path)
    return _remembered(path) if path.stat().st_size >= REMEMBERED_FROM else _hash_file(path)


def _hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remembered(path: Path) -> str:
    path = path.resolve()
    note = digest_cache() / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"
    seen = _looks(path)
    try:
        kept = json.loads(note.read_text(encoding="utf-8"))
        if kept["looks"] == seen and isinstance(kept["sha256"], str):
            return kept["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing remembered, or nothing that can be read: hash it
    digest = _hash_file(path)
    # Not where the file was written to a moment ago or meanwhile: its times might not tell the next change.
    if seen == _looks(path) and time.time_ns() - max(seen["mtime"], seen["ctime"]) > _SETTLED_NS:
        _keep_note(note, {"path": str(path), "looks": seen, "sha256": digest})
    return digest


def _keep_note(note: Path, content: Mapping[str, Any]) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        scrap = note.with_name(f".{note.name}.{os.getpid()}.{time.time_ns()}.tmp")
        scrap.write_text(json.dumps(content), encoding="utf-8")
        scrap.replace(note)
    except OSError:
        pass  # a home that cannot be written to costs time, not correctness


def digest_cache() -> Path:
    """Return the folder in which digests of large files are remembered (``$XDG_CACHE_HOME/xrec-repro/digests``)."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # a user without a home, as in some containers
        base = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
    return base / "xrec-repro/digests"


def _looks(path: Path) -> dict[str, Any]:
    """Return what tells a file from others without reading all of it."""
    stat = path.stat()
    samples = hashlib.sha256()
    with path.open("rb") as stream:
        for place in range(_SAMPLES):
            stream.seek((stat.st_size - _SAMPLE) * place // (_SAMPLES - 1))
            samples.update(stream.read(_SAMPLE))
    times = {"mtime": stat.st_mtime_ns, "ctime": stat.st_ctime_ns}
    return {"size": stat.st_size, "inode": stat.st_ino, **times, "samples": samples.hexdigest()}


def digest_json(value: Any) -> str:
    """Return a short hex digest of a JSON-serialisable value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def path_digest(path: str | Path) -> str | None:
    """Return the digest of a file, of a model (`model_digest`) or of all files of another folder; None if absent."""
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        return None
    if (path / "config.json").is_file() and _weights(_model_files(path)):
        return model_digest(path)
    return _folder_digest(path, (p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")))


def model_digest(folder: str | Path) -> str:
    """Return the digest of a model: of its weights, configuration and tokenizer files, whatever its folder is called.

    Raises:
        ModelError: The folder holds no weights.
    """
    folder = Path(folder)
    files = _model_files(folder)
    if not _weights(files):
        raise ModelError(f"{folder}: no model weights here (*.safetensors, *.bin or *.gguf); check the path")
    return _folder_digest(folder, files)


def _model_files(folder: Path) -> set[Path]:
    return {path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()}


def _weights(files: Iterable[Path]) -> bool:
    return any(path.suffix in _WEIGHTS for path in files)


def _folder_digest(folder: Path, files: Iterable[Path]) -> str:
    listed = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def places_digest(places: Mapping[str, str | Path | None]) -> dict[str, str | None]:
    """Return the digests of the user's own files and models by name, for the parameters of a rule.

    With them a rule reruns when their content changes, and not when only their times do. What is absent has no digest:
    Snakemake then names the missing input.
    """
    return {name: path_digest(place) if place else None for name, place in places.items()}


class Told:
    """What a job is told although nothing depends on it, in the parameters of its rule.

    Snakemake compares parameters of built-in types alone, so that an edit of this reruns nothing.

    Attributes:
        value: Anything that pickles.
    """

    def __init__(self, value: Any) -> None:
        self.value = value


# --- Libraries ----------------------------------------------------------------------------------------------------
def versions(*packages: str) -> dict[str, str | None]:
    """Return the installed version of each package, None where it is not installed."""
    return {name: _version(name) for name in packages}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def libraries_of(module: str | Path) -> dict[str, str | None]:
    """Return the versions of the packages that a module lists in ``LIBRARIES``, without importing it."""
    tree = ast.parse(Path(module).read_text(encoding="utf-8"))
    return versions(*literal(tree, "LIBRARIES", ()))
