"""Jobs on a machine with several GPUs: each takes its own, whatever ends it frees it, and only then do they share."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from xrec_repro import device
from xrec_repro.device import Gpu, parse_gpus, pick_device, reserve_gpus, take_gpus, visible_gpus
from xrec_repro.errors import ConfigError

TWO = (Gpu("0", "GPU-aa11"), Gpu("1", "GPU-bb22"))
SLICES = (Gpu("MIG-c1", "MIG-c1"), Gpu("MIG-c2", "MIG-c2"))
PRINTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aa11)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bb22)
  MIG 3g.20gb     Device  0: (UUID: MIG-c1)
  MIG 3g.20gb     Device  1: (UUID: MIG-c2)
"""
# A process that takes GPUs of a list, prints what it got, and keeps it until its input ends.
TAKER = """\
import json, sys
from pathlib import Path
from xrec_repro.device import Gpu, take_gpus
folder, count, *names = sys.argv[1:]
taken = take_gpus([Gpu(str(i), name) for i, name in enumerate(names)], int(count), Path(folder))
print(json.dumps([[gpu.uuid, others] for gpu, others in taken]), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def taker(tmp_path):
    """Start processes that take GPUs; all end with the test."""
    started = []

    def start(*names: str, count: int = 1) -> subprocess.Popen:
        command = [sys.executable, "-c", TAKER, str(tmp_path), str(count), *names]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def got(process: subprocess.Popen) -> list[tuple[str, int]]:
    return [tuple(pair) for pair in json.loads(process.stdout.readline())]


def test_jobs_side_by_side_take_each_a_gpu(taker):
    """Started at once, they choose at once; no two may choose the same."""
    jobs = [taker("A", "B", "C", "D") for _ in range(4)]
    assert sorted(got(job) for job in jobs) == [[(name, 0)] for name in "ABCD"]


@pytest.mark.parametrize("end", ["kill", "terminate", "leave"])
def test_a_gpu_is_free_again_whatever_ends_its_job(taker, end):
    first, second = taker("A", "B"), None
    assert got(first) == [("A", 0)]
    if end == "leave":
        first.communicate("")
    else:
        getattr(first, end)()
        first.wait()
    second = taker("A", "B")
    assert got(second) == [("A", 0)]


def test_where_all_are_taken_the_least_loaded_is_shared(taker):
    jobs = [taker("A", "B") for _ in range(4)]
    taken = dict(zip(range(4), map(got, jobs), strict=True))
    assert sorted(name for ((name, _),) in taken.values()) == ["A", "A", "B", "B"]
    assert sorted(others for ((_, others),) in taken.values()) == [0, 0, 1, 1]
    # The first job on B ends and leaves its file free, but the second is still there: A, with none, comes first.
    on = {name: [job for job, ((had, _),) in zip(jobs, taken.values(), strict=True) if had == name] for name in "AB"}
    gone = [*on["A"], next(job for job in on["B"] if taken[jobs.index(job)] == [("B", 0)])]
    for job in gone:
        job.kill()
        job.wait()
    assert got(taker("B", "A")) == [("A", 0)]


def test_a_job_may_ask_for_several(taker):
    assert got(taker("A", "B", "C", count=2)) == [("A", 0), ("B", 0)]
    assert got(taker("A", "B", "C", count=2)) == [("C", 0), ("A", 1)]
    assert got(taker("A", "B", "C", count=9)) == [("B", 1), ("C", 1), ("A", 2)]


def test_gpus_and_their_slices_are_listed():
    assert parse_gpus(PRINTED) == (TWO[0], Gpu("1", "GPU-bb22", SLICES))
    assert parse_gpus("No devices were found\n") == ()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (None, ("0", "MIG-c1", "MIG-c2")),
        ("0", ("0",)),
        ("1", ("MIG-c1", "MIG-c2")),
        ("1,0,1", ("MIG-c1", "MIG-c2", "0")),
        ("GPU-aa", ("0",)),
        ("MIG-c2", ("MIG-c2",)),
        ("0,7,1", ("0",)),
        ("-1", ()),
        ("", ()),
        ("GPU-", ("0", "MIG-c1", "MIG-c2")),
    ],
)
def test_only_what_is_visible_is_taken(names, found):
    assert tuple(gpu.name for gpu in visible_gpus(parse_gpus(PRINTED), names)) == found


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with two GPUs, of which this process holds none, outside of Slurm."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it
        monkeypatch.delenv(name)
    monkeypatch.setattr(device, "list_gpus", lambda: TWO)
    monkeypatch.setattr(device, "LOCKS", tmp_path)
    for name in ("_held", "_said"):
        monkeypatch.setattr(device, name, [])
    yield tmp_path
    for lock in device._held:
        os.close(lock)


def visible() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_a_process_reserves_once_and_hides_the_rest(machine, taker):
    assert got(taker("GPU-aa11")) == [("GPU-aa11", 0)]
    reserve_gpus()
    reserve_gpus()
    assert (visible(), os.environ["CUDA_DEVICE_ORDER"]) == ("1", "PCI_BUS_ID")
    assert device._said == ["GPU 1 (GPU-bb22) is reserved"]
    assert got(taker("GPU-bb22")) == [("GPU-bb22", 1)], "this process holds it"


def test_what_the_user_made_visible_is_respected(machine, monkeypatch, taker):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert got(taker("GPU-bb22")) == [("GPU-bb22", 0)]
    reserve_gpus()
    assert visible() == "1"
    assert "CUDA_DEVICE_ORDER" not in os.environ, "the user's index, in the user's order"
    assert device._said == ["GPU 1 (GPU-bb22) is shared with 1 other job, as all are taken"]


def test_a_gpu_that_slurm_gave_is_left_alone(machine, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    reserve_gpus()
    assert (visible(), list(machine.iterdir())) == ("1", [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # an allocation of two in which several jobs run
    reserve_gpus()
    assert visible() == "0"


def test_no_gpu_and_no_place_for_locks_are_no_errors(machine, monkeypatch):
    monkeypatch.setattr(device, "LOCKS", machine / "absent")
    reserve_gpus()
    assert visible() is None
    assert "no GPU is reserved, so jobs may meet on one: " in device._said[0]
    monkeypatch.setattr(device, "list_gpus", lambda: ())
    reserve_gpus()
    assert device._held == []


def test_a_started_cuda_cannot_be_moved(machine, monkeypatch):
    started = types.SimpleNamespace(cuda=types.SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "torch", started)
    reserve_gpus()
    assert visible() is None


def test_locks_are_opened_to_others_whatever_the_mask(machine):
    before = os.umask(0o077)
    try:
        take_gpus(TWO, 1, machine)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in machine.iterdir()} == {0o644}


def test_the_device_is_resolved_after_the_reservation(machine, monkeypatch, caplog):
    seen = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: seen.append(visible()) or True)
    caplog.set_level("INFO")
    assert (pick_device("cpu"), seen, visible()) == ("cpu", [], None)
    assert (pick_device("auto"), pick_device("cuda")) == ("cuda", "cuda")
    assert seen == ["0", "0"], "CUDA reads the variable when it is first asked"
    assert [record.message for record in caplog.records] == ["GPU 0 (GPU-aa11) is reserved"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    with pytest.raises(ConfigError, match=r"compute\.device: 'cuda' is asked for but torch sees no GPU"):
        pick_device("cuda")


def test_importing_it_does_not_import_torch():
    code = "import sys, xrec_repro.device, xrec_repro.job; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nvidias_tool_is_asked_and_may_be_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    device.list_gpus.cache_clear()
    assert device.list_gpus() == ()
    tool = Path(tmp_path / "nvidia-smi")
    tool.write_text(f'#!/bin/sh\n[ "$1" = -L ] && printf "%s" "{PRINTED}"\n')
    tool.chmod(0o755)
    device.list_gpus.cache_clear()
    assert [gpu.name for gpu in device.list_gpus()] == ["0", "1"]
    device.list_gpus.cache_clear()
