"""Every attempt leaves a trace, whatever ends it."""

import json
import os
import subprocess
import sys
import time

import pytest

from xrec_repro.accounting import attempts
from xrec_repro.accounting.attempts import Attempts, slurm_place
from xrec_repro.errors import DataError
from xrec_repro.io import read_json
from xrec_repro.job import Job


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)


class Workflow:
    """A job as a workflow script is handed it."""

    rule = "some_rule"

    def __init__(self, folder):
        self.input, self.output, self.wildcards = {}, {"provenance": str(folder / "provenance.json")}, {}
        self.params = {"settings": {}, "code": "abc"}
        self.log = [str(folder / "logs/some_rule.log")]


def test_failed_attempts_are_in_the_provenance_of_the_next_success(tmp_path):
    trace = tmp_path / "logs/some_rule.attempts.json"
    for error in (DataError("no"), KeyError("x")):
        with pytest.raises((SystemExit, KeyError)), Job(Workflow(tmp_path)):
            raise error
    assert len(read_json(trace)) == 2
    with Job(Workflow(tmp_path)):
        assert len(read_json(trace)) == 3
    assert not trace.exists()
    written = read_json(tmp_path / "provenance.json")
    assert written["attempt"] == 3
    first, second = written["failed_attempts"]
    assert first["start"] <= first["end"] <= second["start"] <= second["end"] <= written["times"]["start"] + 0.1
    with Job(Workflow(tmp_path)):
        pass
    again = read_json(tmp_path / "provenance.json")
    assert (again["attempt"], again["failed_attempts"]) == (1, []), "those before the last success are its own"


def test_an_attempt_that_was_killed_ended_when_its_trace_was_last_renewed(tmp_path):
    trace = tmp_path / "a.attempts.json"
    code = (
        "import sys, time; from xrec_repro.accounting import attempts; attempts.BEAT_S = 0.05\n"
        "attempts.Attempts(sys.argv[1], time.time()); print('on', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(trace)], stdout=subprocess.PIPE)
    process.stdout.readline()
    started = trace.stat().st_mtime
    while trace.stat().st_mtime <= started + 0.2:
        time.sleep(0.02)
    process.kill()
    process.wait()
    killed = time.time()
    (attempt,) = Attempts(trace, killed).earlier
    assert attempt["end"] > started + 0.2
    assert attempt["end"] <= killed + 0.1
    assert attempt["start"] < attempt["end"]


def test_a_broken_trace_does_not_stop_a_job(tmp_path):
    trace = tmp_path / "a.attempts.json"
    trace.write_text("[{")
    one = Attempts(trace, time.time())
    assert one.earlier == []
    trace.unlink()
    one._touch()
    one.fail()
    one.succeed()


def test_slurm_says_where_a_job_runs(monkeypatch, tmp_path):
    assert slurm_place() is None
    told = {"JOB_ID": "12", "JOB_PARTITION": "gpu_mig", "GPUS_ON_NODE": "1", "RESTART_COUNT": "2"}
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("PATH", str(tmp_path))
    place = {"job": "12", "restart": 2, "partition": "gpu_mig", "gpus": 1, "start": None}
    assert slurm_place() == place
    script = tmp_path / "scontrol"
    script.write_text('#!/bin/sh\n[ "$SLURM_TIME_FORMAT" = %s ] && echo "JobId=12 StartTime=1700 EndTime=1800"\n')
    script.chmod(0o755)
    assert slurm_place() == place | {"start": 1700.0}
    monkeypatch.setenv("SLURM_JOB_START_TIME", "1699")
    assert slurm_place()["start"] == 1699.0


def test_the_provenance_names_the_slurm_job(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_START_TIME", "1699")
    monkeypatch.setenv("SLURMD_NODENAME", "gcn1")
    with Job(Workflow(tmp_path)):
        pass
    written = json.loads((tmp_path / "provenance.json").read_text())
    assert written["slurm_job"] == "7"
    assert written["slurm"] == {"job": "7", "restart": 0, "partition": None, "gpus": None, "start": 1699.0}
    assert written["machine"]["node"] == attempts.node_name() == "gcn1"
