"""What counts as the same: code, files, models, settings, libraries."""

import ast
import json
import os
import time
from pathlib import Path

import pytest

from xrec_repro import identity
from xrec_repro.errors import DataError, ModelError
from xrec_repro.identity import (
    Told,
    code_digest,
    digest_json,
    libraries_of,
    model_digest,
    path_digest,
    places_digest,
    sha256_file,
    versions,
)
from xrec_repro.metrics.registry import metric_names
from xrec_repro.neutral import neutral, significant
from xrec_repro.partial import Partial
from xrec_repro.provenance import JobRecord, require_one_kind


def test_digest_json_ignores_key_order():
    assert digest_json({"a": 1, "b": [2]}) == digest_json({"b": [2], "a": 1}) != digest_json({"a": 1, "b": [3]})


# --- Code ---------------------------------------------------------------------------------------------------------
FIRST = """
import logging
from xrec_repro import progress
from xrec_repro.second import value

PACKAGE_DATA = ("words/*.txt",)
log = logging.getLogger("xrec_repro")


def check(number):
    log.info("checked %d", number)
    if number > value:
        raise ValueError(f"{number} is too many") from None
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of a few modules and a script that imports one; returns its folder and how to digest the script."""
    root = tmp_path / "xrec_repro"
    (root / "words").mkdir(parents=True)
    (root / "words/a.txt").write_text("a word")
    (root / "first.py").write_text(FIRST)
    (root / "second.py").write_text('"""Doc."""\nvalue = 1\n')
    (root / "third.py").write_text("value = 3\n")
    (root / "progress.py").write_text("from xrec_repro import third\n")
    (tmp_path / "script.py").write_text("from xrec_repro.first import check\n")
    monkeypatch.setattr(identity, "PACKAGE", root)

    def digest():
        for cached in (identity.code_digest, identity._read, identity._imports):
            cached.cache_clear()
        return code_digest(str(tmp_path / "script.py"))

    yield root, digest
    code_digest.cache_clear()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("second.py", "value = 1", "value = 1  # why"),
        ("second.py", "Doc.", "Another doc."),
        ("third.py", "value = 3", "value = 4"),
        ("progress.py", "import third", "import second"),
        ("first.py", "checked %d", "has been checked: %d"),
        ("first.py", '    log.info("checked %d", number)\n', ""),
        ("first.py", "is too many", "is more than allowed"),
    ],
    ids=["comment", "docstring", "a module behind the runtime", "the runtime", "a log line", "no log line", "an error"],
)
def test_what_says_something_or_runs_the_job_is_no_part_of_the_code(package, file, old, new):
    root, digest = package
    before = digest()
    assert old in (root / file).read_text()
    (root / file).write_text((root / file).read_text().replace(old, new))
    assert digest() == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("second.py", "value = 1", "value = 2"),
        ("first.py", "number > value", "number >= value"),
        ("first.py", "raise ValueError", "raise TypeError"),
        ("words/a.txt", "a word", "another word"),
    ],
)
def test_what_decides_is_part_of_the_code(package, file, old, new):
    root, digest = package
    before = digest()
    (root / file).write_text((root / file).read_text().replace(old, new))
    assert digest() != before


def test_the_digest_of_code_is_the_same_in_all_versions_of_python(tmp_path):
    """``ast.dump`` differs between 3.11, 3.12 and 3.13."""
    source = "def f(a: int, *b, c=1, **d) -> str:\n    return f'{a!r:>{c}}' + [x async for x in b if x][0]\n"
    (tmp_path / "script.py").write_text(source + "class C(Exception):\n    x: int = 0\n    def g(self): ...\n")
    assert code_digest(str(tmp_path / "script.py")) == "9001d6caf0360771"


def test_a_further_file_of_the_package_data_counts(package):
    root, digest = package
    before = digest()
    (root / "words/b.txt").write_text("b")
    assert digest() != before


def test_the_runtime_and_the_declared_data_exist():
    for name in identity.RUNTIME:
        assert identity.PACKAGE.joinpath(*name.split(".")).with_suffix(".py").is_file(), name
    declared = {}
    for path in identity.PACKAGE.rglob("*.py"):
        for pattern in identity.literal(ast.parse(path.read_text()), "PACKAGE_DATA", ()):
            declared[path.name] = sorted(path.parent.glob(pattern))
    assert set(declared) == {"prompts.py", "browse.py"}
    data = {p for p in identity.PACKAGE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert data == {path for paths in declared.values() for path in paths}, "package data that no module declares"


# --- Files and models ---------------------------------------------------------------------------------------------
@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that counts as large, settled long ago, and the list of files that were hashed in full."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "REMEMBERED_FROM", 2**16)
    monkeypatch.setattr(identity, "_SETTLED_NS", 0)
    hashed, original = [], identity._hash_file
    monkeypatch.setattr(identity, "_hash_file", lambda path: hashed.append(path) or original(path))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(os.urandom(2**18))
    time.sleep(0.01)  # a clock that ticks more slowly than that would make the tests below fail, not lie
    return path, hashed


def test_a_large_file_is_hashed_once(large):
    path, hashed = large
    assert sha256_file(path) == sha256_file(path) == sha256_file(path)
    assert hashed == [path]


@pytest.mark.parametrize("place", [0, 100_000, -1])
def test_other_content_is_found_although_size_inode_and_mtime_lie(large, place):
    path, hashed = large
    before, stat = sha256_file(path), path.stat()
    with path.open("r+b") as stream:
        content = bytearray(stream.read())
        content[place] ^= 1
        stream.seek(0)
        stream.write(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = path.stat()
    assert (again.st_size, again.st_ino, again.st_mtime_ns) == (stat.st_size, stat.st_ino, stat.st_mtime_ns)
    assert sha256_file(path) != before
    assert len(hashed) == 2


def test_other_content_is_found_where_the_inodes_clock_lies_too(large, monkeypatch):
    path, _ = large
    before, looks = sha256_file(path), identity._looks(path)
    path.write_bytes(os.urandom(2**18))
    honest = identity._looks
    monkeypatch.setattr(identity, "_looks", lambda p: looks | {"samples": honest(p)["samples"]})
    assert sha256_file(path) != before


def test_a_file_that_changed_a_moment_ago_is_not_remembered(large, monkeypatch):
    path, hashed = large
    monkeypatch.setattr(identity, "_SETTLED_NS", 10**12)
    assert sha256_file(path) == sha256_file(path)
    assert hashed == [path, path]


def test_a_broken_memory_and_a_home_that_cannot_be_written_cost_time_alone(large, monkeypatch, tmp_path):
    path, hashed = large
    digest = sha256_file(path)
    for note in identity.digest_cache().iterdir():
        note.write_text("{")
    assert sha256_file(path) == digest
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert sha256_file(path) == digest
    assert len(hashed) == 3


def test_a_user_without_a_home_costs_time_alone(large, monkeypatch):
    path, hashed = large
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.setattr(identity.tempfile, "gettempdir", lambda: str(path.parent))
    assert sha256_file(path) == sha256_file(path)
    assert hashed == [path]


def model(folder: Path, weights: bytes = b"w") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_model_is_its_content_wherever_it_lies(tmp_path):
    one, moved, other = (model(tmp_path / name, w) for name, w in (("a", b"w"), ("b/c", b"w"), ("d", b"v")))
    (moved / "README.md").write_text("read me")
    assert path_digest(one) == path_digest(moved) == model_digest(one) != path_digest(other)
    (one / "generation_config.json").write_text("{}")
    assert model_digest(one) != model_digest(moved)
    with pytest.raises(ModelError, match="no model weights here"):
        model_digest(tmp_path / "b")


def test_places_have_digests_and_what_is_absent_has_none(tmp_path):
    one = model(tmp_path / "a")
    assert places_digest({"llm": one, "gone": tmp_path / "gone", "none": None}) == {
        "llm": model_digest(one),
        "gone": None,
        "none": None,
    }


# --- Settings -----------------------------------------------------------------------------------------------------
SETTINGS = {
    "generation": {"batch_size": 4, "temperature": 0.6},
    "tuning": {"checkpoint_every": 10, "micro_batch_size": 2, "epochs": 1, "early_stopping": {}},
    "llm": {"source": "hub", "repo": "a/b", "revision": "c", "path": None, "dtype": "float32", "scratch": {"seed": 1}},
}


def test_what_changes_nothing_is_left_out_in_float32():
    assert significant(SETTINGS) == {
        "generation": {"temperature": 0.6},
        "tuning": {"epochs": 1, "early_stopping": {}},
        "llm": {"source": "hub", "repo": "a/b", "revision": "c", "dtype": "float32"},
    }


def test_in_half_precision_batch_sizes_count():
    half = SETTINGS | {"llm": SETTINGS["llm"] | {"dtype": "bfloat16"}}
    assert significant(half)["generation"] == SETTINGS["generation"]
    assert set(significant(half)["tuning"]) == {"micro_batch_size", "epochs", "early_stopping"}
    metric = {"metrics": {"bleurt": {"batch_size": 4, "dtype": "float16"}}}
    assert significant(metric) == metric


def test_in_half_precision_slots_count_unless_texts_are_exact():
    def left(**changed):
        llm = {"source": "local", "dtype": "bfloat16", "quantisation": "none"}
        return set(
            significant({"generation": {"batch_size": 4, "invariance": "exact"} | changed, "llm": llm})["generation"]
        )

    assert left() == {"invariance"}
    assert left(invariance="fast") == {"invariance", "batch_size"}


@pytest.mark.parametrize(
    "settings", [SETTINGS, {"metrics": {"usr": {}}}, {"metrics": {"bertscore": {"batch_size": 2}}}]
)
def test_the_two_parts_make_the_whole(settings):
    from xrec_repro.config import merge

    assert merge(significant(settings), neutral(settings)) == settings
    assert neutral(significant(settings)) == {}


def test_a_job_is_told_what_nothing_depends_on(tmp_path):
    assert Told([1]).value == [1]
    assert not isinstance(Told([1]), (int, float, str, list, tuple, dict, set, bytes))


# --- Fingerprints -------------------------------------------------------------------------------------------------
def test_a_fingerprint_follows_all_that_decides(tmp_path, monkeypatch):
    (tmp_path / "in").write_text("x")
    weights = model(tmp_path / "llm")

    def fingerprint(settings=1, seed=1, code="a", device="cpu", threads=1, batch=4, dtype="float32"):
        chosen = {"k": settings, "generation": {"batch_size": batch}, "llm": {"dtype": dtype}}
        record = JobRecord("rule", chosen, {"data": tmp_path / "in", "llm": weights}, seed, code)
        return record.fingerprint(device, {"device": "auto", "threads": threads})

    base = fingerprint()
    assert fingerprint() == fingerprint(batch=8) == base
    others = [fingerprint(settings=2), fingerprint(seed=2), fingerprint(code="b"), fingerprint(device="cuda")]
    others += [fingerprint(threads=2), fingerprint(dtype="bfloat16"), fingerprint(dtype="bfloat16", batch=8)]
    monkeypatch.setattr("xrec_repro.provenance.versions", lambda *names: dict.fromkeys(names, "9.9"))
    others.append(fingerprint())
    monkeypatch.undo()
    (tmp_path / "in").write_text("z")
    others.append(fingerprint())
    (tmp_path / "in").write_text("x")
    (weights / "model.safetensors").write_bytes(b"v")
    others.append(fingerprint())
    assert len({base, *others}) == len(others) + 1


def made_on(folder: Path, kind: str, torch: str = "2.13.0") -> Path:
    folder.mkdir()
    record = {"machine": {"device": {"kind": kind}}, "packages": {"torch": torch, "transformers": "4.57.6"}}
    (folder / "provenance.json").write_text(json.dumps(record))
    return folder / "provenance.json"


def test_parts_that_were_made_in_two_ways_are_no_whole(tmp_path):
    one, same = made_on(tmp_path / "a", "cpu"), made_on(tmp_path / "b", "cpu")
    require_one_kind([one, same])
    for other in (made_on(tmp_path / "c", "cuda"), made_on(tmp_path / "d", "cpu", "2.14.1")):
        with pytest.raises(DataError, match=rf"{other.parent.name}/provenance.json: made with .*{one}"):
            require_one_kind([one, same, other])


@pytest.mark.parametrize(
    "content", ["[]", '{"outputs": ["x"]}', '{"rule": "r", "outputs": {"a": "x"}}', '{"rule": "r"}']
)
def test_a_strangers_provenance_beside_an_input_is_passed_over(tmp_path, content):
    (tmp_path / "x").write_text("data")
    (tmp_path / "provenance.json").write_text(content)
    JobRecord("rule", {}, {"x": tmp_path / "x"}, None, "c").check_inputs()


@pytest.mark.parametrize("rest", ["[1]", "5", "null", '"text"'])
def test_what_is_no_row_ends_a_partial_file(tmp_path, rest):
    with Partial(tmp_path / "p", "id") as kept:
        kept.add([{"n": 1}])
    with (tmp_path / "p").open("a") as stream:
        stream.write(f"{rest}\n{json.dumps({'n': 2})}\n")
    assert Partial(tmp_path / "p", "id").rows == [{"n": 1}]
    (tmp_path / "p").write_text(f"{rest}\n")
    assert Partial(tmp_path / "p", "id").rows == []


# --- Libraries ----------------------------------------------------------------------------------------------------
def test_versions_are_those_installed():
    assert versions("pytest", "no-such-package") == {"pytest": pytest.__version__, "no-such-package": None}


def test_libraries_of_a_module_are_read_without_importing_it(tmp_path):
    module = tmp_path / "metric.py"
    module.write_text("import no_such_module\nLIBRARIES = ('pytest',)\n")
    assert libraries_of(module) == {"pytest": pytest.__version__}
    module.write_text("x = 1\n")
    assert libraries_of(module) == {}


def test_every_library_in_a_signature_is_declared(root):
    for path in (root / f"src/xrec_repro/metrics/{name}.py" for name in metric_names()):
        text = path.read_text()
        assert ("versions(" in text) == ("LIBRARIES = " in text), path.name
        assert all(libraries_of(path).values()), f"{path.name} names a package that is not installed"
        assert "importlib.metadata" not in text, path.name


def test_provenance_takes_the_commit_at_the_start(tmp_path, monkeypatch):
    states = iter(
        [{"commit": "a", "dirty": False}, {"commit": "b", "dirty": False}] + [{"commit": "b", "dirty": True}] * 2
    )
    monkeypatch.setattr("xrec_repro.provenance._git_state", lambda: next(states))
    for expected in (
        {"commit": "a", "dirty": False, "at_end": {"commit": "b", "dirty": False}},
        {"commit": "b", "dirty": True},
    ):
        JobRecord("rule", {}, {}, None, "x").write(tmp_path / "provenance.json", {}, {})
        assert json.loads((tmp_path / "provenance.json").read_text())["code"] == expected


def test_what_a_source_says_is_remembered_by_its_content(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, parse, parsed = tmp_path / "one.py", ast.parse, []
    monkeypatch.setattr("xrec_repro.identity.ast.parse", lambda text: parsed.append(text) or parse(text))

    def digest() -> str:
        for cached in (identity.code_digest, identity._read, identity._imports, identity._sources):
            cached.cache_clear()
        return identity.code_digest(str(source))

    source.write_text("X = 1\n")
    first = digest()
    assert digest() == first and len(parsed) == 1
    source.write_text("X = 2\n")
    assert digest() != first and len(parsed) == 2
    source.write_text("X = 1\n")
    assert digest() == first and len(parsed) == 2
    (note,) = (tmp_path / "cache/xrec-repro/digests").glob("sources-*.json")
    note.write_text("{")
    assert digest() == first and len(parsed) == 3
