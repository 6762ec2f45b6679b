"""Slurm's records: from sacct, from scontrol without accounting, and from the store when Slurm has forgotten."""

import json

import pytest

from xrec_repro.accounting.slurm import slurm_jobs
from xrec_repro.errors import DataError

SACCT = """\
11|run-a|rule_tune_wildcards_x|gpu|g1|TIMEOUT|1000|88|3600000
12|run-a|rule_tune_wildcards_x|gpu|g2|COMPLETED|1100|100|18446744073709551614
12|run-a|rule_tune_wildcards_x|gpu|g1|NODE_FAIL|1050|20|
13|run-a|rule_plot|cpu|c1|RUNNING|1300|5|
14|run-b|rule_tune_wildcards_x|gpu|g1|CANCELLED by 1000|900|7|0
15|run-a|rule_plot|cpu||CANCELLED|Unknown|0|
"""
SCONTROL = """\
JobId=11 JobName=run-a UserId=u(0) JobState=TIMEOUT Restarts=0 RunTime=00:01:28 StartTime=1000 Partition=gpu \
NodeList=g1 Comment=rule_tune_wildcards_x WorkDir=/a b
JobId=12 JobName=run-a JobState=COMPLETED Restarts=1 RunTime=1-00:01:40 StartTime=1100 Partition=gpu NodeList=g2 \
Comment=rule_tune_wildcards_x
JobId=13 JobName=run-a JobState=RUNNING Restarts=0 RunTime=00:00:05 StartTime=1300 Partition=cpu NodeList=c1
"""


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Slurm's commands, which print what a test gives them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def install(**printed: str) -> None:
        for name in ("sacct", "scontrol"):
            text = printed.get(name)
            body = f"cat <<'END'\n{text}END\n" if text is not None else "echo accounting is disabled >&2; exit 1\n"
            (folder / name).write_text(f"#!/bin/sh\n{body}")
            (folder / name).chmod(0o755)

    return install


def brief(jobs):
    return [(job.number, job.restart, job.state, job.node, job.elapsed_s, job.source) for job in jobs]


def test_sacct_tells_of_all_runs_of_the_same_submission(commands, tmp_path):
    commands(sacct=SACCT)
    found = slurm_jobs({"12"}, 0, tmp_path / "slurm.json")
    assert sorted(brief(found)) == [
        ("11", 0, "TIMEOUT", "g1", 88, "sacct"),
        ("12", 0, "NODE_FAIL", "g1", 20, "sacct"),
        ("12", 1, "COMPLETED", "g2", 100, "sacct"),
    ]
    assert {job.number: job.energy_j for job in found} == {"11": 3600000, "12": None}


def test_without_accounting_scontrol_tells(commands, tmp_path):
    commands(scontrol=SCONTROL)
    assert sorted(brief(slurm_jobs({"12"}, 0, tmp_path / "slurm.json"))) == [
        ("11", 0, "TIMEOUT", "g1", 88, "scontrol"),
        ("12", 1, "COMPLETED", "g2", 86500, "scontrol"),
    ]


def test_what_was_read_is_kept(commands, tmp_path):
    store = tmp_path / "slurm.json"
    commands(sacct=SACCT)
    before = slurm_jobs({"12"}, 0, store)
    commands()
    assert slurm_jobs({"12"}, 0, store) == before
    assert len(json.loads(store.read_text())) == 3


def test_slurm_is_not_asked_without_need_and_its_absence_is_no_error(commands, tmp_path, monkeypatch):
    commands(sacct=SACCT)
    assert slurm_jobs([], 0, tmp_path / "slurm.json") == []
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm_jobs({"12"}, 0, tmp_path / "slurm.json") == []
    assert not (tmp_path / "slurm.json").exists()


def test_a_store_that_is_something_else_is_named(tmp_path):
    (tmp_path / "slurm.json").write_text('[{"x": 1}]')
    with pytest.raises(DataError, match=r"slurm\.json: not a record of Slurm jobs .*delete it"):
        slurm_jobs({"1"}, 0, tmp_path / "slurm.json")


STRANGE = """\
JobId=90 JobName=of-somebody-else JobState=FAILED Restarts=0 RunTime=INVALID StartTime=1000 Partition=gpu NodeList=g1
JobId=91 JobName=of-somebody-else JobState=FAILED Restarts=x RunTime=00:00:10 StartTime=1000 Partition=gpu NodeList=g1
JobId=92 JobName=of-somebody-else JobState=FAILED RunTime=-1:00:00 StartTime=1000
JobId=93 JobName=of-somebody-else JobState=FAILED RunTime=\u00b2 StartTime=\u00b2
JobId=94 JobName=caf\xe9 JobId=11
JobId=95
"""


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_an_odd_job_of_somebody_else_is_passed_over(commands, tmp_path, caplog, encoding):
    commands(scontrol="")
    (tmp_path / "shown").write_bytes((STRANGE + SCONTROL).encode(encoding, "replace"))
    (tmp_path / "bin/scontrol").write_text(f"#!/bin/sh\ncat {tmp_path / 'shown'}\n")
    with caplog.at_level("INFO", logger="xrec_repro"):
        found = slurm_jobs({"11", "12"}, 0, tmp_path / "slurm.json")
    assert sorted(brief(found)) == [
        ("11", 0, "TIMEOUT", "g1", 88, "scontrol"),
        ("12", 1, "COMPLETED", "g2", 86500, "scontrol"),
    ]
    assert "scontrol: job 90 passed over: its state or the time that it ran is unreadable" in caplog.text


def test_odd_lines_of_sacct_are_passed_over(commands, tmp_path, caplog):
    odd = "90|x|c|gpu|g1|FAILED|1000|INVALID|\n91|x|c|gpu|g1| |1000|5|\n92|x|c|gpu|g1|FAILED|1000||\n93|a|b|c|\n"
    commands(sacct=odd + SACCT)
    with caplog.at_level("INFO", logger="xrec_repro"):
        found = slurm_jobs({"11", "12"}, 0, tmp_path / "slurm.json")
    assert {job.number for job in found} == {"11", "12"}
    assert caplog.text.count("sacct: job 9") == 3
