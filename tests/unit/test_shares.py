"""Jobs side by side are charged what their machine draws, and no more: by arithmetic, and by two jobs that run."""

import os
import subprocess
import sys
import time

import pytest

from xrec_repro.accounting import machine
from xrec_repro.accounting.emissions import load_hardware, power_of, slice_of
from xrec_repro.accounting.jobs import account, job_records, total
from xrec_repro.accounting.machine import part_of_machine, processor_name
from xrec_repro.accounting.shares import own_parts
from xrec_repro.accounting.slurm import SlurmJob
from xrec_repro.device import Gpu

EMISSIONS = {"carbon_intensity": 1.0, "pue": 1.0, "charge": "share", "unknown_cpu_kw": 0.085}  # kg are then kWh
CPU = {"kind": "cpu", "name": "x86_64", "count": 0}
HOUR = 3600.0


def h100(*uuids: str) -> dict:
    return {"kind": "cuda", "name": "NVIDIA H100", "count": max(1, len(uuids)), "uuids": list(uuids)}


def record(start=0.0, end=HOUR, cores=(1, 2), gpus=None, device=CPU, node="n", **changes) -> dict:
    machine = {"node": node, "device": device, "cores": dict(zip(("had", "there"), cores, strict=True))}
    machine |= {"gpus": dict(zip(("had", "there"), gpus, strict=True))} if gpus else {}
    base = {"rule": "r", "times": {"start": start, "end": end, "seconds": end - start}, "inputs": {}, "outputs": {}}
    return base | {"machine": machine, "slurm": None, "result": {}} | changes


@pytest.fixture
def charge(root):
    def charged(*records, told=(), **settings):
        named = {f"p{i}": one for i, one in enumerate(records)}
        return account(named, told, load_hardware(root / "resources"), EMISSIONS | settings)

    return charged


def test_two_jobs_side_by_side_are_charged_the_machine_once(charge):
    lines = charge(record(), record())
    assert total(lines, "kg_co2") == pytest.approx(0.085)
    assert [line["share"] for line in lines] == [0.5, 0.5]
    assert {line["share_source"] for line in lines} == {"1 of 2 cores"}
    assert total(charge(record(), record(), charge="node"), "kg_co2") == pytest.approx(2 * 0.085)


def test_a_job_alone_is_charged_its_half(charge):
    assert charge(record())[0]["kg_co2"] == pytest.approx(0.085 / 2)
    assert charge(record(cores=(2, 2)))[0]["kg_co2"] == pytest.approx(0.085)


def test_more_threads_than_cores_are_divided_moment_by_moment(charge):
    """The first has the machine for an hour, both for the next, the second for the third."""
    lines = charge(record(0, 2 * HOUR, (2, 2)), record(HOUR, 3 * HOUR, (2, 2)))
    assert [line["kg_co2"] for line in lines] == pytest.approx([1.5 * 0.085, 1.5 * 0.085])
    assert lines[0]["share_source"] == "2 of 2 cores (shared with other jobs)"
    elsewhere = charge(record(cores=(2, 2)), record(cores=(2, 2), node="other"))
    assert total(elsewhere, "kg_co2") == pytest.approx(2 * 0.085)


def test_jobs_on_their_own_gpus_add_up_to_the_node(charge):
    """0.91 kW are a GPU of 0.70 and a host of 0.21."""
    lines = charge(*(record(device=h100(str(i)), cores=(16, 64), gpus=(1, 4)) for i in range(4)))
    assert total(lines, "kg_co2") == pytest.approx(4 * 0.70 + 0.21)
    assert lines[0]["share"] == pytest.approx((0.70 + 0.21 / 4) / 0.91)
    assert lines[0]["share_source"] == "16 of 64 cores, 1 of 4 GPUs"
    (alone,) = charge(record(device=h100("0"), cores=(64, 64), gpus=(1, 1)))
    assert alone["kg_co2"] == pytest.approx(0.91)


def test_jobs_on_one_gpu_divide_it(charge):
    one = {"device": h100("0"), "cores": (1, 2), "gpus": (1, 1)}
    assert total(charge(record(**one), record(**one)), "kg_co2") == pytest.approx(0.91)
    beside = charge(record(**one), record(), node_power_kw={"cpu": 0.21})
    assert total(beside, "kg_co2") == pytest.approx(0.91), "a job on the processor beside one on the GPU"


def test_a_stated_node_is_divided_by_its_gpus(charge):
    lines = charge(*(record(device=h100(x), gpus=(1, 4)) for x in "ab"), node_power_kw={"cuda": 3.0})
    assert [line["share"] for line in lines] == [0.25, 0.25]
    assert total(lines, "kg_co2") == pytest.approx(1.5)
    assert charge(record(device=h100("a"), gpus=(1, 4)), node_power_kw={"cuda": 3.0}, charge="node")[0]["share"] == 1


def test_slices_of_a_gpu_add_up_to_it(charge, root):
    slices = [h100(x) | {"name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb"} for x in "abcdefg"]
    lines = charge(*(record(device=one, cores=(1, 7), gpus=(1, 7)) for one in slices))
    assert total(lines, "kg_co2") == pytest.approx(0.91)
    assert [slice_of(name) for name in ("NVIDIA A100 MIG 3g.20gb", "NVIDIA A30 MIG 2g.12gb", "NVIDIA H100", None)] == [
        pytest.approx(3 / 7), 0.5, 1.0, 1.0,
    ]  # fmt: skip
    assert power_of(slices[0], load_hardware(root / "resources"), {}).kw == 0.91, "as a whole, as in the study"


def test_provenance_that_does_not_say_is_charged_whole(charge):
    old = record()
    old["machine"]["cores"] = 2  # as it was written before
    (line,) = charge(old)
    assert (line["kg_co2"], line["share"]) == (pytest.approx(0.085), 1.0)
    assert line["share_source"] == "whole machine: its provenance does not say what the job had of it"


def test_a_slurm_job_is_charged_its_allocation_once(charge):
    """Two members of one job, side by side: its time is shared out, and both had the same 16 cores."""
    place = {"job": "1", "restart": 0, "partition": "c", "gpus": None, "start": 0.0}
    told = [SlurmJob("1", 0, "run", "c", "c", "n", "COMPLETED", 0, 3600, None, "sacct")]
    lines = charge(*(record(cores=(64, 64), slurm=place) for _ in range(2)), told=told)
    assert total(lines, "kg_co2") == pytest.approx(0.085)


def test_metered_energy_is_shared_likewise(charge):
    both = {"value": 3.0, "parts": {"NVML": 1.0, "RAPL": 2.0}, "source": "s"}
    on_gpu = record(device=h100("0"), gpus=(1, 1), energy_kwh=both)
    on_cpu = record(energy_kwh=both)
    gpu, cpu = charge(on_gpu, on_cpu)
    assert (gpu["energy_kwh"], cpu["energy_kwh"]) == (1.0 + 2.0 / 2, 2.0 / 2)
    assert total([gpu, cpu], "energy_kwh") == both["value"]
    assert gpu["kg_co2_metered"] == gpu["energy_kwh"]
    assert [line["energy_kwh"] for line in charge(on_gpu, on_gpu)] == [1.0 / 2 + 2.0 / 2] * 2
    assert charge(on_gpu, charge="node")[0]["energy_kwh"] == 3.0


def test_parts_of_moments():
    assert own_parts([(0, 10, 1), (10, 20, 1)]) == [1, 1]
    assert own_parts([(0, 10, 0.3), (0, 10, 0.7)]) == [1, 1]
    assert own_parts([(0, 10, 1), (0, 10, 3)]) == [0.25, 0.25]
    assert own_parts([(0, 4, 1), (2, 4, 1), (5, 5, 1)]) == [0.75, 0.5, 1.0]
    assert own_parts([]) == []
    late = 1.7e9 + 0.1
    assert own_parts([(late, late + 0.7, 1), (late + 0.7, late + 1.3, 1)]) == [1, 1]


JOB = """\
import sys, time
from pathlib import Path
from xrec_repro.job import Job

class Workflow:
    rule, threads, wildcards, input = "some_rule", int(sys.argv[2]), {}, {}
    output = {"made": f"{sys.argv[1]}/made", "provenance": f"{sys.argv[1]}/provenance.json"}
    params, log = {"settings": {}, "code": "abc"}, [f"{sys.argv[1]}/log"]

with Job(Workflow()) as job:
    job.output.made.write_text("")
    others = Path(sys.argv[1]).parent
    while len(list(others.glob("*/made"))) < 2:
        time.sleep(0.01)
    time.sleep(float(sys.argv[3]))
"""


@pytest.mark.parametrize("all_cores", [True, False])
def test_two_jobs_that_run_side_by_side(root, tmp_path, monkeypatch, all_cores):
    """Two processes with all cores each are charged the time the machine was busy; with half each, half of theirs."""
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    there = os.cpu_count()
    threads = there if all_cores else max(1, there // 2)
    started = []
    for i, pause in enumerate((0.3, 0.6)):
        (tmp_path / str(i)).mkdir()
        started.append(subprocess.Popen([sys.executable, "-c", JOB, str(i), str(threads), str(pause)]))
        time.sleep(0.1)
    assert [process.wait(60) for process in started] == [0, 0]
    records = job_records(["0/made", "1/made"])
    machines = [one["machine"] for one in records.values()]
    usable = machine._usable_cores()
    assert [one["cores"] for one in machines] == [{"had": min(threads, usable), "there": there}] * 2
    lines = account(records, [], load_hardware(root / "resources"), EMISSIONS)
    times = [one["times"] for one in records.values()]
    busy = max(t["end"] for t in times) - min(t["start"] for t in times)
    both = min(t["end"] for t in times) - max(t["start"] for t in times)
    share = min(threads, usable) / there
    assert both >= 0.3
    expected = (min(1.0, 2 * share) * both + share * (busy - both)) * 0.085 / 3600
    assert total(lines, "kg_co2") == pytest.approx(expected, rel=1e-5)
    assert total(lines, "kg_co2") <= busy * 0.085 / 3600 * (1 + 1e-5)


@pytest.fixture
def no_slurm(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(machine, "list_gpus", lambda: (Gpu("0", "a"), Gpu("1", "b", (Gpu("c", "c"), Gpu("d", "d")))))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(machine, "_usable_cores", lambda: 8.0)


def test_the_threads_of_the_rule_are_what_a_job_had(no_slurm):
    assert part_of_machine(2, CPU) == {"cores": {"had": 2, "there": 64}}
    assert part_of_machine(16, CPU) == {"cores": {"had": 8.0, "there": 64}}, "it may use no more"
    assert part_of_machine(None, CPU) == {"cores": {"had": 8.0, "there": 64}}
    assert part_of_machine(2, h100("a"))["gpus"] == {"had": 1, "there": 3}


def test_under_slurm_it_is_the_allocation_of_the_node(no_slurm, monkeypatch, tmp_path):
    for name, value in {"SLURMD_NODENAME": "g1", "SLURM_JOB_CPUS_PER_NODE": "16(x2)", "PATH": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    assert part_of_machine(2, CPU) == {"cores": {"had": 16, "there": 64}}, "as the system counts"
    script = tmp_path / "scontrol"
    script.write_text('#!/bin/sh\n[ "$4" = g1 ] && echo "NodeName=g1 CPUTot=128 Gres=gpu:h100:4(S:0),gpu:a100:2 X=1"\n')
    script.chmod(0o755)
    assert part_of_machine(2, h100("a")) == {"cores": {"had": 16, "there": 128}, "gpus": {"had": 1, "there": 6}}


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_control_groups_limit_the_cores(tmp_path, monkeypatch, files, limit):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine._usable_cores(tmp_path) == (limit or 3)


def test_the_processor_is_named_as_the_system_lists_it(tmp_path):
    listed = tmp_path / "cpuinfo"
    listed.write_text("processor\t: 0\nmodel name\t: A Processor 9000 \nmodel name\t: Another\n", encoding="utf-8")
    assert processor_name(listed) == "A Processor 9000"
    listed.write_text("processor\t: 0\nCPU implementer\t: 0x41\n", encoding="utf-8")
    assert processor_name(listed) == processor_name(tmp_path / "none") != ""
