"""Seeds, files, provenance, environments: what all stages stand on."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import load_script
from xrec_repro import interrupt
from xrec_repro.contracts import GRAPH
from xrec_repro.errors import DataError
from xrec_repro.identity import sha256_file
from xrec_repro.interrupt import StoppedError, ends_cleanly, stoppable
from xrec_repro.io import (
    atomic_folder,
    atomic_path,
    names_full_disk,
    read_json,
    read_table,
    remove_scraps,
    require_file,
    write_json,
    write_table,
)
from xrec_repro.job import Job
from xrec_repro.provenance import JobRecord
from xrec_repro.seeding import derive_seed, numpy_rng, torch_generator


def test_streams_are_named_and_reproducible():
    assert derive_seed(1, "a", 2) == derive_seed(1, "a", 2)
    assert len({derive_seed(1, "a", 2), derive_seed(1, "a", 3), derive_seed(2, "a", 2), derive_seed(1, "a2")}) == 4
    assert derive_seed(1, "a", "b") != derive_seed(1, "ab")
    assert 0 <= derive_seed(0) < 2**63
    assert numpy_rng(3, "x").random() == numpy_rng(3, "x").random()
    assert torch_generator(3, "x").initial_seed() == derive_seed(3, "x")


def test_a_failed_write_leaves_the_old_file_and_no_scraps(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_text("half")
        temporary.with_name(".tmpX7UBo6").write_text("a library's own half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "old"


def test_tables_keep_their_contract(tmp_path):
    path = tmp_path / "graph.parquet"
    write_table(path, pd.DataFrame({"split": ["train"], "item": [2], "user": [1], "more": [0]}), GRAPH)
    assert read_table(path, GRAPH).schema.equals(GRAPH)
    with pytest.raises(DataError, match="column 'item' is missing"):
        write_table(path, {"user": [1], "split": ["train"]}, GRAPH)
    pd.DataFrame({"user": [1], "split": ["train"]}).to_parquet(path)
    with pytest.raises(DataError, match=r"graph.parquet: column 'item' is missing \(found: user, split\)"):
        read_table(path, GRAPH)
    pq.write_table(pa.table([pa.array([1])] * 3, names=["user", "item", "user"]), path)
    with pytest.raises(DataError, match=r"graph.parquet: column 'user' is there 2 times; keep one"):
        read_table(path, GRAPH, ["item", "user"])
    pq.write_table(pa.table({"user": [1], "item": ["a"], "split": ["train"]}), path)
    with pytest.raises(DataError, match=r"graph.parquet: column 'item' is string, not int32; run the rule again"):
        read_table(path, GRAPH)
    pq.write_table(pa.table({"user": [2**40]}), path)
    with pytest.raises(DataError, match=r"graph.parquet: column 'user' is int64, not int32"):
        read_table(path, GRAPH, ["user"])


def test_missing_empty_and_truncated_files_are_named(tmp_path):
    path = tmp_path / "graph.parquet"
    with pytest.raises(DataError, match="graph.parquet: no such file"):
        read_table(path, GRAPH)
    path.touch()
    with pytest.raises(DataError, match="the file is empty; do this"):
        require_file(path, "do this")
    write_table(path, {"user": range(99), "item": range(99), "split": ["train"] * 99}, GRAPH)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="not a whole Parquet file"):
        read_table(path, GRAPH)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match="x.json: not valid JSON"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("[" * 40_000)
    with pytest.raises(DataError, match="x.json: not valid JSON"):
        read_json(tmp_path / "x.json")
    with pytest.raises(DataError, match=f"{tmp_path}: a folder, not a file; check the path"):
        require_file(tmp_path)
    with pytest.raises(DataError, match="xx: cannot be read: File name too long; check the path"):
        require_file("x" * 300)


def test_a_damaged_middle_of_a_table_is_found(tmp_path):
    path = tmp_path / "graph.parquet"
    write_table(path, {"user": range(9999), "item": range(9999), "split": ["train"] * 9999}, GRAPH)
    content = bytearray(path.read_bytes())
    content[1000:3000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(DataError, match="graph.parquet: not a whole Parquet file; delete it and run the rule again"):
        read_table(path, GRAPH)


def append_lines(path):
    with names_full_disk(path), path.open("a") as stream:
        stream.write("x" * 500_000)
        stream.flush()


MANY = {"user": range(99999), "item": range(99999), "split": ["train"] * 99999}
WRITERS = {
    "table": lambda path: write_table(
        path, {"user": range(99999), "item": range(99999), "split": ["train"] * 99999}, GRAPH
    ),
    "json": lambda path: write_json(path, list(range(99999))),
    "lines": append_lines,
}


def write_tensors(path):
    with atomic_path(path) as temporary:
        save_file({"a": torch.ones(99999)}, temporary)


@pytest.fixture
def no_space():
    """Let files grow to 50 kB; a real refusal by the system, as a full disk is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # Python ignores the signal: writing fails
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("write", [*WRITERS.values(), write_tensors], ids=[*WRITERS, "tensors"])
def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path, no_space, write):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(DataError, match=r"file: cannot be written: File too large; free some space \(df, quota\)"):
        write(path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes().startswith(b"old")


@pytest.mark.parametrize("write", [*WRITERS.values(), write_tensors], ids=[*WRITERS, "tensors"])
def test_a_full_file_system_is_named(tmp_path, write):
    if os.geteuid() or os.system(f"mount -t tmpfs -o size=64k none {tmp_path} 2>/dev/null"):
        pytest.skip("cannot mount a small file system")
    try:
        with pytest.raises(DataError, match=r"file: cannot be written: No space left on device; free some space"):
            write(tmp_path / "file")
    finally:
        os.system(f"umount {tmp_path}")


def test_other_errors_of_writing_stay_what_they_are(tmp_path):
    with pytest.raises(OSError) as raised, names_full_disk(tmp_path):
        raise OSError(errno.EIO, "broken")
    assert raised.value.errno == errno.EIO


def test_scraps_of_killed_writers_go(tmp_path):
    for name in ("a.json", "b.json"):
        if not os.fork():
            try:
                with atomic_path(tmp_path / name) as temporary:
                    temporary.with_name(".tmpX7UBo6").touch()  # safetensors' own
                    os.kill(os.getpid(), signal.SIGKILL)
            finally:  # an error must not go on testing in a second process
                os._exit(1)
        os.wait()
    (tmp_path / "a.json").touch()
    assert len(list(tmp_path.rglob("*"))) == 7
    remove_scraps(tmp_path / "a.json")
    left = {p.name.rsplit(".", 2)[0] for p in tmp_path.iterdir()}
    assert left == {".b.json", "a"}


def test_a_folder_is_whole_or_as_it_was_and_stale_scraps_go(tmp_path):
    folder = tmp_path / "model"
    stale, young = tmp_path / ".model.x1.tmp", tmp_path / ".model.x2.tmp"
    for scrap in (stale, young):
        scrap.mkdir()
    os.utime(stale, (1, 1))
    for text in ("old", "new"):
        with atomic_folder(folder) as temporary:
            (temporary / text).touch()
    with pytest.raises(KeyboardInterrupt), atomic_folder(folder) as temporary:
        (temporary / "half").touch()
        raise KeyboardInterrupt
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")} == {"model", "model/new", ".model.x2.tmp"}
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_stop_is_asked_once_and_a_second_request_ends(monkeypatch):
    clock = iter([0.0, 0.1, 5.0])
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: next(clock))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as raised, stoppable() as stop_requested:
        assert not stop_requested()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # the same request, as Slurm passes it on
        assert stop_requested()
        signal.raise_signal(signal.SIGTERM)
    assert raised.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_request_elsewhere_removes_scraps(tmp_path):
    with pytest.raises(SystemExit) as raised, ends_cleanly(), atomic_path(tmp_path / "file"):
        signal.raise_signal(signal.SIGINT)
    assert raised.value.code == 130
    assert not list(tmp_path.iterdir())


def test_other_threads_leave_signals_alone():
    found = []

    def look():
        with stoppable() as stop_requested:
            found.append((signal.getsignal(signal.SIGTERM), stop_requested()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(signal.getsignal(signal.SIGTERM), False)]


def test_provenance_holds_what_a_number_came_from(tmp_path):
    (tmp_path / "in").write_text("x")
    (tmp_path / "out").write_text("y")
    record = JobRecord("some_rule", {"k": 1}, {"data": tmp_path / "in"}, 7, "abc")
    record.write(tmp_path / "provenance.json", {"result": tmp_path / "out"}, {"n": 3})
    written = json.loads((tmp_path / "provenance.json").read_text())
    assert written["inputs"]["data"]["sha256"] == sha256_file(tmp_path / "in")
    assert written["outputs"]["result"]["sha256"] == sha256_file(tmp_path / "out")
    assert (written["rule"], written["settings"], written["seed"], written["code_digest"]) == (
        "some_rule",
        {"k": 1},
        7,
        "abc",
    )
    assert written["times"]["end"] >= written["times"]["start"]
    assert written["packages"]["torch"].startswith("2.13")
    assert written["energy_kwh"]["value"] is None
    assert written["energy_kwh"]["reason"]


class Workflow:
    """A job as a workflow script is handed it."""

    rule = "some_rule"

    def __init__(self, folder, device):
        compute = {"device": device, "threads": torch.get_num_threads()}
        self.input, self.output, self.wildcards = {}, {"provenance": str(folder / "provenance.json")}, {}
        self.params = {"settings": {}, "code": "abc", "compute": compute}
        self.log = [str(folder / "log")]


@pytest.mark.parametrize(
    ("device", "asks", "started", "kind"),
    [
        ("auto", True, True, "cuda"),
        ("cuda", True, True, "cuda"),
        ("cpu", True, True, "cpu"),
        ("auto", False, True, "cpu"),  # a job that never asks for a device
        ("auto", True, False, "cpu"),  # a job that asks and then leaves the GPU alone
    ],
)
def test_provenance_names_the_gpu_of_jobs_that_used_it(tmp_path, monkeypatch, device, asks, started, kind):
    found = {"is_available": True, "is_initialized": started, "get_device_name": "Some GPU", "device_count": 2}
    for name, value in found.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=f"uuid {i}"))
    with Job(Workflow(tmp_path, device)) as job:
        assert not asks or job.device() == ("cpu" if device == "cpu" else "cuda")
    machine = read_json(tmp_path / "provenance.json")["machine"]
    recorded = machine["device"]
    assert recorded["kind"] == kind
    assert (recorded.get("uuids"), machine.get("gpus")) == (
        (["uuid 0", "uuid 1"], {"had": 2, "there": 2}) if kind == "cuda" else (None, None)
    )
    assert (recorded["name"] == "Some GPU", recorded["count"]) == (kind == "cuda", 2 if kind == "cuda" else 0)


def test_a_job_that_is_stopped_says_so_and_fails(tmp_path, capsys):
    state = tmp_path / "state"
    with pytest.raises(SystemExit) as raised, Job(Workflow(tmp_path, "cpu")):
        raise StoppedError("3 steps are", state)
    assert raised.value.code == 143
    line = f"stopped as asked: 3 steps are saved in {state}; run the rule again to go on from there"
    assert capsys.readouterr().err == f"some_rule: {line}\n"
    assert f"ERROR {line}" in (tmp_path / "log").read_text()
    with pytest.raises(SystemExit) as raised, Job(Workflow(tmp_path, "cpu")):
        signal.raise_signal(signal.SIGTERM)
    assert raised.value.code == 143
    assert "ERROR some_rule: ended by a signal; run the rule again" in (tmp_path / "log").read_text()
    assert not (tmp_path / "provenance.json").exists()


@pytest.fixture
def made(tmp_path):
    """Two files and a folder, made by two jobs that share the place; a job that reads them."""
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name * 100)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("w")
    JobRecord("make_a", {}, {}, None, "x").write(
        tmp_path / "provenance.json", {"a": tmp_path / "a.txt", "model": tmp_path / "model"}, {}
    )
    JobRecord("make_b", {}, {}, None, "x").write(tmp_path / "b.provenance.json", {"b": tmp_path / "b.txt"}, {})
    (tmp_path / "free.txt").write_text("of no job")
    reader = Workflow(tmp_path, "cpu")
    reader.input = {
        "a": str(tmp_path / "a.txt"),
        "both": [str(tmp_path / "b.txt"), str(tmp_path / "free.txt")],
        "model": str(tmp_path / "model"),
        "record": str(tmp_path / "provenance.json"),
    }
    (tmp_path / "out").mkdir()
    reader.output = {"provenance": str(tmp_path / "out/provenance.json")}
    return reader


@pytest.mark.parametrize(
    ("name", "damage", "rule"),
    [
        ("a.txt", lambda path: path.write_text("edited"), "make_a"),
        ("b.txt", lambda path: path.write_bytes(path.read_bytes()[:-1]), "make_b"),
        ("model", lambda path: (path / "weights").write_text("v"), "make_a"),
    ],
)
def test_an_input_that_is_not_what_its_job_wrote_stops_the_next(tmp_path, made, capsys, name, damage, rule):
    was = json.loads((tmp_path / ("b.provenance.json" if rule == "make_b" else "provenance.json")).read_text())
    recorded = next(entry["sha256"] for entry in was["outputs"].values() if entry["path"].endswith(name))
    damage(tmp_path / name)
    ran = []
    with pytest.raises(SystemExit) as raised, Job(made):
        ran.append("the stage")
    assert raised.value.code == 1
    assert not ran
    printed = capsys.readouterr().err
    now = re.search(r"SHA-256 is (\w{8})…", printed)[1]
    assert printed == (
        f"some_rule: {tmp_path / name}: not what {rule} made (SHA-256 is {now}…, its provenance says {recorded[:8]}…): "
        f"damaged or edited; delete it, or run `snakemake --forcerun {rule} …`\n"
    )
    assert not recorded.startswith(now)
    if name != "model":
        assert sha256_file(tmp_path / name).startswith(now)


def test_inputs_as_they_were_made_or_of_no_job_are_read(tmp_path, made):
    with Job(made):
        pass
    assert (tmp_path / "out/provenance.json").is_file()
    moved = tmp_path.with_name(tmp_path.name + "_moved")
    shutil.copytree(tmp_path, moved)
    made.input["a"] = str(moved / "a.txt")
    with Job(made):
        pass
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(SystemExit), Job(made):
        pass
    assert "provenance.json: not valid JSON" in Path(made.log[0]).read_text()


def test_conda_environment_has_the_same_pins_as_the_lock(root):
    module = load_script(root / "envs/generate.py")
    lock = (root / "requirements.lock").read_text()
    assert (root / "envs/xrec-repro.yaml").read_text() == module.conda_environment(lock)
    pins = [line for line in lock.splitlines() if not line.startswith("#")]
    assert len(pins) > 50
    assert all("==" in pin for pin in pins)


def test_every_dependency_is_pinned(root):
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = map(Requirement, project["dependencies"] + extras["dev"] + extras["smollm2"])
    locks = [(root / name).read_text() for name in ("requirements.lock", "requirements-smollm2.lock")]
    lines = [line for text in locks for line in text.splitlines()]
    pins = dict(line.split("==") for line in lines if "==" in line)
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in wanted:
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} does not admit the pin {version}"
