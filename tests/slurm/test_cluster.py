"""The demo through `--profile slurm`, on real daemons: `make slurm-test` starts a cluster and runs this."""

import csv
import getpass
import os
import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yte

from tests.slurm.faults.sitecustomize import BALLAST_MB
from tests.slurm.records import FINAL, Record, read_records, table
from xrec_repro.io import read_json

pytestmark = pytest.mark.slurm
SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
ACCOUNTING = os.environ.get("ACCOUNTING", "0") != "0"
TUNING = ("train_method", "glassbox_xrec_1")
ADAPTER = "results/slurm/glassbox/xrec/seed1/method"
CPU_KW = 0.1  # as tests/slurm/overlay.yaml states it
SHARE = 1 / 4  # one CPU a job (`compute.threads`) of the four that tests/slurm/cluster.sh gives each node
LOCAL = {"check_metrics", "collect_jobs", "make_table1", "make_table2", "make_table3", "pick_examples"}  # not submitted
PATIENCE_S = 1200  # it takes a quarter of that on two free cores


@pytest.fixture(scope="module")
def cluster() -> Path:
    """The folder of the cluster that tests/slurm/run.sh started."""
    if "XREC_CLUSTER" not in os.environ:
        pytest.skip("no cluster: `make slurm-test` starts one")
    return Path(os.environ["XREC_CLUSTER"])


def overlays(root: Path) -> list[str]:
    return ["--configfile", str(root / "tests/tiny.yaml"), str(root / "tests/slurm/overlay.yaml")]


@pytest.fixture(scope="module")
def environment(root, cluster) -> dict[str, str]:
    """Of a user of this cluster; Slurm's two variables and the first are read by the profile or by Slurm itself."""
    subprocess.run(
        "scontrol create reservation ReservationName=booked StartTime=now Duration=60 Nodes=ALL "
        f"Users={getpass.getuser()}".split(), check=True
    )  # fmt: skip
    return os.environ | {
        "PATH": f"{Path(SNAKEMAKE).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{root / 'tests/slurm/faults'}{os.pathsep}{root / 'src'}",
        "XREC_PARTITION_CPU": "cpu",
        "SBATCH_RESERVATION": "booked",
        **({"SBATCH_ACCOUNT": "study"} if ACCOUNTING else {}),
    }


def shorten_limit(folder: Path) -> bool:
    """Once tuning has saved a checkpoint, lower its job's time limit to the least there is; True when done."""
    if not (folder / ADAPTER / "checkpoint.safetensors").is_file():
        return False
    job = next(r for r in read_records() if (r.rule, r.wildcards) == TUNING)
    subprocess.run(["scontrol", "update", f"JobId={job.number}", "TimeLimit=1"], check=True)
    return True


@pytest.fixture(scope="module")
def folder(root, cluster, environment, tmp_path_factory) -> Path:
    """The folder of the finished run."""
    folder = tmp_path_factory.mktemp("run")
    command = [SNAKEMAKE, "--profile", "slurm", "--directory", str(folder), *overlays(root)]
    command += ["--slurm-init-seconds-before-status-checks", "4", "--slurm-logdir", str(folder / "slurm_logs")]
    printed, started, shortened = folder / "snakemake.txt", time.monotonic(), False
    with printed.open("w") as stream:
        run = subprocess.Popen([*command, "--", "all"], cwd=root, stdout=stream, stderr=stream, env=environment)
        try:
            while run.poll() is None and time.monotonic() < started + PATIENCE_S:
                shortened = shortened or shorten_limit(folder)
                time.sleep(0.5)
        finally:
            run.terminate()
            run.wait()
    print(f"\n{table(read_records())}\n{time.monotonic() - started:.0f} s in all")
    assert run.returncode == 0, printed.read_text()[-8000:]
    return folder


@pytest.fixture(scope="module")
def records(folder) -> list[Record]:
    return read_records()


@pytest.fixture(scope="module")
def attempts(records) -> dict[tuple[str, str], list[Record]]:
    """The attempts at each job, in order."""
    found = defaultdict(list)
    for record in records:
        found[record.rule, record.wildcards].append(record)
    return dict(found)


def test_the_run_is_complete(root, folder, environment):
    assert "| XRec |" in (folder / "results/slurm/paper/tables/table1.md").read_text()
    command = [SNAKEMAKE, "--profile", "slurm", "--directory", str(folder), *overlays(root), "--dry-run", "--", "all"]
    again = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment, check=True)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_each_rule_ran_in_its_partition_with_its_gpus(root, records, environment, monkeypatch):
    monkeypatch.setenv("XREC_PARTITION_CPU", environment["XREC_PARTITION_CPU"])
    with (root / "profiles/slurm/config.yaml").open() as stream:
        profile = yte.process_yaml(stream, require_use_yte=True)
    places = {"cpu": ("cpu01", ""), "gpu_h100": ("h100n01", "gpu:h100:1"), "gpu_mig": ("mign01", "gpu:1g.10gb:1")}
    for record in records:
        partition = profile["set-resources"].get(record.rule, profile["default-resources"])["slurm_partition"]
        assert (record.partition, record.node, record.gpus) == (partition, *places[partition]), record
    assert {record.partition for record in records} == set(places)


def test_every_attempt_but_the_provoked_ones_succeeded_at_once(attempts):
    repeated = {job: [r.state for r in tries] for job, tries in attempts.items() if len(tries) > 1}
    assert repeated == {
        TUNING: ["TIMEOUT", "COMPLETED"],
        ("score_explanations", "glassbox_no_profile"): ["FAILED", "COMPLETED"],
    }
    assert all(tries[-1].state == "COMPLETED" for tries in attempts.values())


def test_a_job_killed_for_its_memory_is_retried_with_more(folder, attempts):
    first, second = attempts["score_explanations", "glassbox_no_profile"]
    assert first.memory_mb < BALLAST_MB < second.memory_mb == 2 * first.memory_mb
    assert second.limit_s == 2 * first.limit_s
    log = folder / f"slurm_logs/rule_score_explanations/glassbox_no_profile/{first.number}.log"
    assert "exceeded" in log.read_text().lower()


def test_a_job_killed_at_its_time_limit_resumes(folder, attempts):
    first, second = attempts[TUNING]
    assert (first.limit_s, second.limit_s) == (60, 2 * 720 * 60)
    assert first.elapsed_s >= 60
    log = (folder / ADAPTER / "../logs/train_method.log").read_text()
    done = int(re.search(r"resumed tuning after step (\d+)", log)[1])
    steps = pq.read_table(folder / ADAPTER / "training.parquet").num_rows
    print(f"\ntuning: killed by Slurm after {first.elapsed_s} s, resumed after step {done} of {steps}")
    assert 0 < done < steps
    assert not list(folder.rglob("checkpoint.*"))


def test_the_resumed_adapter_is_that_of_an_undisturbed_run(root, folder, environment, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    options = ["--cores", "1", "--force", "--directory", str(tmp_path), *overlays(root)]
    undisturbed = environment | {"PYTHONPATH": str(root / "src")}
    subprocess.run(
        [SNAKEMAKE, *options, "--", f"{ADAPTER}/weights.safetensors"],
        cwd=root, env=undisturbed, check=True, capture_output=True,
    )  # fmt: skip
    log = tmp_path / ADAPTER / "../logs/train_method.log"
    assert "resumed" not in log.read_text()
    for name in ("weights.safetensors", "training.parquet"):
        assert (tmp_path / ADAPTER / name).read_bytes() == (folder / ADAPTER / name).read_bytes(), name


def test_the_provenance_names_the_job_and_its_node(folder, records):
    by_number = {str(record.number): record for record in records}
    found = [read_json(path) for path in folder.rglob("*provenance.json")]
    beside = [provenance for provenance in found if isinstance(provenance["slurm_job"], dict)]
    assert {provenance["rule"] for provenance in beside} == LOCAL
    found = [provenance for provenance in found if provenance not in beside]
    assert len(found) == sum(record.state == "COMPLETED" for record in records)
    for provenance in found:
        record = by_number[provenance["slurm_job"]]
        assert (record.rule, record.node) == (provenance["rule"], provenance["machine"]["node"])
        assert provenance["times"]["seconds"] <= record.elapsed_s + 1
        assert provenance["machine"]["cores"] == {"had": 1, "there": 4}


def test_table_3_charges_what_slurm_counted_failed_attempts_included(root, folder, attempts):
    """By hand: Slurm's seconds, then equation 1 with a job's share of the power that is stated."""
    with (folder / "results/slurm/paper/tables/table3.csv").open() as stream:
        rows = {row["experiment"]: row for row in csv.DictReader(stream) if row["kind"] == "demo"}
    for label, experiment in (("XRec", "xrec"), ("XRec w/o profile", "no_profile")):
        kg = 0.0
        for rule, phase in (("train_method", "train"), ("generate_explanations", "generate")):
            tries = attempts[rule, f"glassbox_{experiment}_1"]
            counted, own = float(rows[label][f"{phase}_slurm_seconds"]), float(rows[label][f"{phase}_seconds"])
            print(f"\n{label}, {phase}: own {own:.1f} s, Slurm's {counted:.0f} s, {len(tries)} attempts", end="")
            assert counted == pytest.approx(sum(record.elapsed_s for record in tries), abs=1)
            assert own < tries[-1].elapsed_s + 1
            assert int(rows[label][f"{phase}_failed_attempts"]) == len(tries) - 1
            kg += 0.22 * 1.2 * CPU_KW * SHARE * counted / 3600
        assert float(rows[label]["kg_co2"]) == pytest.approx(kg)


def test_the_ledger_has_every_attempt_behind_the_scores(folder, attempts):
    """Also the one that died before it could leave a trace of its own."""
    lines = read_json(folder / "results/slurm/paper/costs/jobs.json")
    ledger = sorted((line["rule"], line["slurm_job"], line["slurm_seconds"]) for line in lines)
    rules = {line["rule"] for line in lines}
    slurm = sorted(
        (record.rule, str(record.number), record.elapsed_s)
        for (rule, _), tries in attempts.items()
        if rule in rules
        for record in tries
    )
    assert [line[:2] for line in ledger] == [record[:2] for record in slurm]
    assert [line[2] for line in ledger] == pytest.approx([record[2] for record in slurm], abs=1)
    untraced = [line for line in lines if line["seconds"] is None]
    assert [line["rule"] for line in untraced] == ["score_explanations"]
    assert all(line["node"] and line["partition"] and line["slurm_state"] for line in lines)


def test_the_logs_of_all_attempts_are_kept(folder, records):
    for record in records:
        assert (folder / f"slurm_logs/rule_{record.rule}/{record.wildcards}/{record.number}.log").is_file(), record


def test_the_log_of_completed_jobs_says_the_same(cluster, records):
    """Slurm's job completion file, which it writes when a job ends and keeps for good."""
    lines = (cluster / "log/jobcomp.txt").read_text().splitlines()
    completed = {int(fields["JobId"]): fields for fields in (dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines)}
    assert set(completed) == {record.number for record in records}
    for record in records:
        fields = completed[record.number]
        assert record.state in FINAL
        assert (fields["JobState"], fields["Partition"], fields["NodeList"]) == (
            record.state, record.partition, record.node,
        )  # fmt: skip
        assert fields["ReservationName"] == "booked"


@pytest.mark.skipif(not ACCOUNTING, reason="the cluster keeps no accounts; ACCOUNTING=1 does")
def test_sacct_says_the_same(records):
    names = ["JobIDRaw", "Comment", "Partition", "NodeList", "State", "Account", "ElapsedRaw"]
    command = ["sacct", "-X", "-D", "--noheader", "--parsable2", f"--format={','.join(names)}"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = {int(line.split("|")[0]): dict(zip(names, line.split("|"), strict=True)) for line in printed.splitlines()}
    assert set(rows) == {record.number for record in records}
    for record in records:
        row = rows[record.number]
        assert (row["Partition"], row["NodeList"], row["State"]) == (record.partition, record.node, record.state)
        assert row["Comment"].startswith(f"rule_{record.rule}")
        assert row["Account"] == "study"
        assert abs(int(row["ElapsedRaw"]) - record.elapsed_s) <= 1
