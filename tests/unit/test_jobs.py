"""The ledger of jobs: who stands behind a file, whose time counts, and equation 1 for each attempt by hand."""

import csv
import json

import pytest

from xrec_repro.accounting.emissions import load_hardware
from xrec_repro.accounting.jobs import account, attempts_of, by_rule, collect_jobs, job_records, total
from xrec_repro.accounting.slurm import SlurmJob
from xrec_repro.errors import DataError

EMISSIONS = {"carbon_intensity": 0.22, "pue": 1.2, "node_power_kw": {"cpu": 0.1}}
H100 = {"kind": "cuda", "name": "NVIDIA H100", "count": 1}
CPU = {"kind": "cpu", "name": "x86_64", "count": 0}


def record(rule="tune", start=100.0, end=200.0, device=H100, slurm=None, **changes) -> dict:
    base = {"rule": rule, "times": {"start": start, "end": end, "seconds": end - start}, "inputs": {}, "outputs": {}}
    return base | {"machine": {"node": "n", "device": device}, "slurm": slurm, "result": {}} | changes


def place(job: str, start=None, restart=0) -> dict:
    return {"job": job, "restart": restart, "partition": "gpu", "gpus": 1, "start": start}


def slurm_job(number: str, state="COMPLETED", elapsed=100, restart=0, comment="rule_tune", **changes) -> SlurmJob:
    fields = {"name": "run", "partition": "gpu", "node": "g1", "start": 90, "energy_j": None, "source": "sacct"}
    return SlurmJob(number, restart, comment=comment, state=state, elapsed_s=elapsed, **(fields | changes))


@pytest.fixture
def charge(root):
    return lambda records, told=(), settings=EMISSIONS: account(
        records, told, load_hardware(root / "resources"), settings
    )


def test_off_a_cluster_the_jobs_own_times_are_charged(charge):
    (line,) = charge({"p": record()})
    assert (line["seconds"], line["slurm_seconds"], line["charged_seconds"]) == (100.0, None, 100.0)
    assert line["kg_co2"] == pytest.approx(0.22 * 1.2 * 0.91 * 100 / 3600)
    assert (line["attempt"], line["outcome"], line["gpus"]) == (1, "done", 1)


def test_slurms_time_and_failed_attempts_are_charged(charge):
    failed = {"start": 20.0, "end": 60.0, "node": "g0", "slurm": place("1")}
    told = [slurm_job("1", "TIMEOUT", 48), slurm_job("2", energy_j=7.2e6, elapsed=107)]
    first, second = charge({"p": record(slurm=place("2"), failed_attempts=[failed])}, told)
    assert (first["outcome"], first["slurm_state"], first["seconds"]) == ("failed", "TIMEOUT", 40.0)
    assert (first["charged_seconds"], second["charged_seconds"]) == (48, 107)
    assert total([first, second], "kg_co2") == pytest.approx(0.22 * 1.2 * 0.91 * (48 + 107) / 3600)
    assert (first["attempt"], second["attempt"], second["slurm_energy_kwh"]) == (1, 2, 2.0)


def test_attempts_without_a_trace_are_known_by_their_comment(charge):
    told = [
        slurm_job("1", "FAILED", 30),
        slurm_job("2"),
        slurm_job("3", "FAILED", 99, comment="rule_other"),
        slurm_job("4", "FAILED", 99, name="another run"),
        slurm_job("2", "NODE_FAIL", 11, restart=1),
    ]
    lines = charge({"p": record(slurm=place("2"))}, told)
    assert sorted((x["outcome"], x["slurm_job"], x["charged_seconds"]) for x in lines) == [
        ("done", "2", 100),
        ("failed", "1", 30),
        ("failed", "2", 11),
    ]
    assert [x["seconds"] for x in lines if x["outcome"] == "failed"] == [None, None]


def test_a_group_of_jobs_shares_its_slurm_job_out(charge):
    records = {"a": record(end=130.0, slurm=place("2")), "b": record(start=130.0, end=220.0, slurm=place("2"))}
    told = [slurm_job("2", elapsed=240), slurm_job("1", "FAILED", elapsed=40)]
    lines = charge(records, told)
    assert [(x["provenance"], x["slurm_job"], x["charged_seconds"]) for x in lines] == [
        ("a", "1", 10), ("a", "2", 60), ("b", "1", 30), ("b", "2", 180),
    ]  # fmt: skip


def test_when_slurm_has_forgotten_its_start_still_counts(charge):
    failed = {"start": 20.0, "end": 60.0, "node": "g0", "slurm": place("1", start=13.0)}
    lines = charge({"p": record(slurm=place("2", start=93.0), failed_attempts=[failed])})
    assert [line["charged_seconds"] for line in lines] == [47.0, 107.0]
    assert "since Slurm's start" in lines[0]["slurm_source"]


def test_unknown_power_takes_what_codecarbon_detected_and_says_so(charge):
    unknown = {"kind": "cuda", "name": "Some GPU", "count": 1}
    detected = {"cpu": {"kw": 0.2, "source": "table"}, "gpu": {"kw": 0.3, "source": "power limit"}}
    metered = {"value": 0.02, "source": "NVML", "detected_power": detected}
    elsewhere = record(device=unknown, machine={"node": "other", "device": unknown})
    records = {"a": elsewhere, "b": record(device=unknown, energy_kwh=metered), "c": record(device=CPU)}
    plain, told, neighbour = charge(records, settings={"carbon_intensity": 0.22, "pue": 1.2})
    assert plain["kg_co2"] is None
    assert "emissions.node_power_kw.cuda" in plain["reason"]
    assert told["kg_co2"] == pytest.approx(0.264 * (0.2 + 0.3) * 100 / 3600)
    assert told["power_source"] == "table; power limit"
    assert told["kg_co2_metered"] == pytest.approx(0.264 * 0.02)
    assert neighbour["kg_co2"] == pytest.approx(0.264 * 0.2 * 100 / 3600)
    (known,) = charge({"a": record(energy_kwh=metered)})
    assert known["power_kw"] == 0.91


def test_sums_by_rule(charge):
    failed = {"start": 0.0, "end": 40.0, "node": "n", "slurm": None}
    records = {"a": record("x", device=CPU), "b": record("x", end=110.0, device=CPU, failed_attempts=[failed])}
    longest, other = by_rule(charge(records | {"c": record("y", end=300.0)}))
    assert (longest["rule"], other["rule"]) == ("y", "x")
    assert (other["jobs"], other["failed_attempts"], other["seconds"]) == (2, 1, 110.0)
    assert (other["charged_seconds"], other["charged_failed_seconds"]) == (150.0, 40.0)
    assert other["kg_co2"] == pytest.approx(0.264 * 0.1 * 150 / 3600)
    assert other["slurm_seconds"] is None


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of three jobs, the last from two parts, and a stranger beside them."""
    monkeypatch.chdir(tmp_path)

    def write(folder, made, inputs=(), **changes):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        paths = {str(i): {"path": path} for i, path in enumerate(inputs)}
        text = json.dumps(record(outputs={"o": {"path": f"{folder}/{made}"}}, inputs=paths, **changes))
        (tmp_path / folder / "provenance.json").write_text(text)

    write("data", "d", inputs=["raw/given.gz"], rule="read", device=CPU)
    write("gen/1", "e", inputs=["data/d"], rule="generate", end=130.0)
    write("gen/2", "e", inputs=["data/d"], rule="generate", end=150.0)
    parts = [f"gen/{i}/provenance.json" for i in (1, 2)]
    write("gen", "e", inputs=["data/d", "gen/1/e", "gen/2/e"], rule="gather", device=CPU, result={"parts": parts})
    write("stranger", "s", rule="old")
    return tmp_path


def test_the_jobs_behind_a_file(run):
    found = job_records(["gen/e"])
    assert found.keys() == {f"{folder}/provenance.json" for folder in ("data", "gen", "gen/1", "gen/2")}
    assert job_records(["data/provenance.json"]).keys() == {"data/provenance.json"}
    with pytest.raises(DataError, match=r"gen/x: there is no provenance\.json of it"):
        job_records(["gen/x"])


def test_the_ledger_of_a_run(run, root):
    made = collect_jobs(["gen/e"], root / "resources", EMISSIONS, "slurm.json", "jobs.json", "jobs.csv", "rules.csv")
    kg = 0.264 * (0.91 * (30 + 50) + 0.1 * 200) / 3600
    assert made == {"jobs": 4, "failed_attempts": 0, "slurm_attempts": 0, "kg_co2": pytest.approx(kg)}
    lines = json.loads((run / "jobs.json").read_text())
    assert total(attempts_of("gen/provenance.json", lines), "seconds") == 80.0
    assert total(attempts_of("gen/1/provenance.json", lines), "seconds") == 30.0
    with (run / "rules.csv").open() as stream:
        assert [(row["rule"], row["jobs"]) for row in csv.DictReader(stream)] == [
            ("gather", "1"), ("read", "1"), ("generate", "2"),
        ]  # fmt: skip
    assert len((run / "jobs.csv").read_text().splitlines()) == 5
    assert not (run / "slurm.json").exists()


@pytest.mark.parametrize("missing", ["times", "machine"])
def test_an_incomplete_provenance_is_named(charge, missing):
    broken = record()
    del broken[missing]
    with pytest.raises(DataError, match=f"p: lacks '{missing}'"):
        charge({"p": broken})
