"""Stages that are killed and started again end in the bytes of an undisturbed run."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from tests.e2e import kill_stages
from tests.e2e.kill_stages import STAGES, make_texts, outputs
from tests.forks import fork_server
from xrec_repro.contracts import EXAMPLES, EXPLANATIONS, GRAPH
from xrec_repro.identity import model_digest
from xrec_repro.io import write_table

SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
RESUMED = {
    "recommender": r"resumed training lightgcn after step (\d+)",
    "llm": r"resumed pretraining after step (\d+)",
    "tuning": r"resumed tuning after step (\d+)",
    "generation": r"resumed generation after (\d+) examples",
    "pepler_tuning": r"resumed (?:prompt )?tuning after step (\d+)",
    "pepler_texts": r"resumed generation after (\d+) examples",
    "scorer": r"resumed training judge after step (\d+)",
    "judging": r"resumed llamascore after (\d+) of",
}


@pytest.fixture(scope="module")
def forks():
    return fork_server(*kill_stages.PRELOAD)


@pytest.fixture(scope="module")
def world(forks, tmp_path_factory) -> Path:
    """Inputs of all stages, and their outputs of undisturbed runs."""
    folder = tmp_path_factory.mktemp("world")
    make_texts(folder)
    for name in STAGES:
        assert attempt(forks, name, folder, folder / name) == 0, (folder / name / "log").read_text()
    return folder


def attempt(forks, name, world, folder, moment=None, delay=None, edit=None) -> int:
    """Start a stage as Snakemake would, kill it after a delay; return how the process ended."""
    folder.mkdir(exist_ok=True)
    for path in outputs(name, folder).values():  # Snakemake removes what a failed job leaves of these
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    process = forks.Process(target=kill_stages.run, args=(name, world, folder, moment, edit))
    process.start()
    process.join(delay)
    if process.exitcode is None:
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode


def files(folder: Path) -> dict[str, str]:
    """Return the sizes and digests of a stage's files but those that tell of its run."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    told = ("log", "provenance.json")
    return {name: f"{len(c)} {hashlib.sha256(c).hexdigest()[:16]}" for name, c in found.items() if name not in told}


def kill_at_random(forks, name, world, folder, kills) -> int:
    """Kill a stage at so many random moments, starting over where it ends before; return how often it got that far."""
    want, rng, finished = files(world / name), random.Random(f"kills of {name}"), 0
    started = time.monotonic()
    assert attempt(forks, name, world, folder) == 0
    length = time.monotonic() - started
    shutil.rmtree(folder)
    hits = 0
    while hits < kills:
        code = attempt(forks, name, world, folder, delay=rng.uniform(0, length))
        assert code in (0, -signal.SIGKILL), (folder / "log").read_text()
        hits += code != 0
        if code == 0:
            finished += 1
            assert files(folder) == want
            shutil.rmtree(folder)
    assert attempt(forks, name, world, folder) == 0
    assert files(folder) == want
    return finished + 1


@pytest.mark.parametrize("name", ["tuning", "generation", "pepler_tuning", "pepler_texts"])
def test_ten_kills_at_random_moments_change_no_byte(forks, world, tmp_path, capsys, name):
    finished = kill_at_random(forks, name, world, tmp_path / name, kills=10)
    with capsys.disabled():
        print(f"\n{name}: 10 SIGKILLs while it ran, over {finished} runs; every result is that of an undisturbed run")


@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("name", list(STAGES))
def test_a_kill_while_state_is_written_loses_one_interval_at_most(forks, world, tmp_path, name, at):
    # The first file that is synced is the trace of attempts, the second the first state.
    assert attempt(forks, name, world, tmp_path, (signal.SIGKILL, at)) == -signal.SIGKILL
    assert attempt(forks, name, world, tmp_path) == 0
    resumed = re.findall(RESUMED[name], (tmp_path / "log").read_text())
    # A recommender is evaluated every three epochs of four steps.
    first = {"generation": 2, "pepler_texts": 2, "judging": 1, "recommender": 12}.get(name, 3)
    # Rows are in the file before it syncs; a checkpoint is renamed after that.
    states = max(at - 2, 0)
    assert resumed == ([str(states * first)] if states else [])
    assert files(tmp_path) == files(world / name)


@pytest.mark.parametrize(("name", "number"), [*((name, signal.SIGTERM) for name in STAGES), ("tuning", signal.SIGINT)])
def test_a_job_asked_to_stop_saves_and_goes_on_later(forks, world, tmp_path, name, number):
    assert attempt(forks, name, world, tmp_path, (number, 3)) == 143
    log = (tmp_path / "log").read_text()
    said = re.search(r"stopped as asked: (\d+) .* saved in (\S+); run the rule again to go on from there", log)
    assert Path(said[2]).is_file()
    assert not any(path.exists() for path in outputs(name, tmp_path).values())
    assert attempt(forks, name, world, tmp_path) == 0
    assert re.findall(RESUMED[name], (tmp_path / "log").read_text()) == [said[1]]
    assert files(tmp_path) == files(world / name)


@pytest.fixture(scope="module")
def other_world(world, tmp_path_factory) -> Path:
    """The same with other weights of the language model, and another text; of no job, so that no provenance objects."""
    folder = tmp_path_factory.mktemp("other") / "world"
    shutil.copytree(world, folder, ignore=shutil.ignore_patterns("provenance.json"))
    # Else the adapter would say that it is of the other model, and it is the partial file that is asked here.
    adapter = folder / "tuning/method.json"
    adapter.write_text(json.dumps(json.loads(adapter.read_text()) | {"llm_identity": None}))
    weights = folder / "llm/model/model.safetensors"
    tensors = load_file(weights)
    save_file({name: value + 1e-3 for name, value in tensors.items()}, weights, {"format": "pt"})
    pepler = folder / "pepler_tuning/method.json"
    pepler.write_text(json.dumps(json.loads(pepler.read_text()) | {"llm": model_digest(folder / "llm/model")}))
    judge = folder / "scorer/model/model.safetensors"
    save_file({name: value + 1e-3 for name, value in load_file(judge).items()}, judge, {"format": "pt"})
    told = pq.read_table(folder / "generation/explanations.parquet")
    write_table(folder / "generation/explanations.parquet", told.take([*range(1, len(told)), 0]), EXPLANATIONS)
    rows = pq.read_table(folder / "examples.parquet").to_pylist()
    rows = [row | {"reference": f"{row['reference']} so"} for row in rows]
    write_table(folder / "examples.parquet", rows, EXAMPLES)
    graph = pq.read_table(folder / "graph.parquet")
    write_table(folder / "graph.parquet", graph.take([*range(1, len(graph)), 0]), GRAPH)
    return folder


OF_A_MODEL = ("tuning", "generation", "judging")


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        *((name, edit) for name in STAGES for edit in ("code", "library", "inputs")),
        *((name, "device") for name in STAGES if name not in ("llm", "scorer")),  # which train on the CPU alone
        *((name, edit) for name in OF_A_MODEL for edit in ("dtype", "setting", "weights")),
        ("recommender", "setting"),
    ],
)
def test_a_killed_stage_of_something_else_starts_anew_and_says_so(forks, world, other_world, tmp_path, name, edit):
    assert attempt(forks, name, world, tmp_path / name, (signal.SIGKILL, 4)) == -signal.SIGKILL
    place = world
    if edit == "inputs":
        place = other_world
    elif edit == "weights":
        place = tmp_path / "world"
        shutil.copytree(world, place, ignore=shutil.ignore_patterns("provenance.json"))
        model = "scorer/model" if name == "judging" else "llm/model"
        shutil.rmtree(place / model)
        shutil.copytree(other_world / model, place / model)
        shutil.copyfile(other_world / "tuning/method.json", place / "tuning/method.json")
    assert attempt(forks, name, place, tmp_path / name, edit=edit) == 0, (tmp_path / name / "log").read_text()
    log = (tmp_path / name / "log").read_text()
    assert not re.search(RESUMED[name], log)
    assert len(re.findall("of other settings, code, data, models, libraries or device; starting anew", log)) == 1
    assert attempt(forks, name, place, tmp_path / "whole", edit=edit) == 0
    assert files(tmp_path / name) == files(tmp_path / "whole")


@pytest.mark.parametrize("name", OF_A_MODEL)
def test_a_killed_stage_goes_on_with_settings_that_change_nothing(forks, world, tmp_path, name):
    assert attempt(forks, name, world, tmp_path, (signal.SIGKILL, 4)) == -signal.SIGKILL
    assert attempt(forks, name, world, tmp_path, edit="neutral") == 0
    log = (tmp_path / "log").read_text()
    # A judge's blocks are of four pairs whatever its batches are.
    assert re.findall(RESUMED[name], log) == [{"tuning": "6", "generation": "4", "judging": "2"}[name]]
    if name == "generation":
        assert files(tmp_path) == files(world / name)


SLOW_JOB = """
import time
from pathlib import Path
from xrec_repro.interrupt import StoppedError, stoppable
from xrec_repro.job import Job

with Job(snakemake) as job:
    state = Path("state")
    job.output.result.write_text("half")
    with stoppable() as stop_requested:
        while not state.exists():
            Path("running").touch()
            time.sleep(0.05)
            if stop_requested():
                state.touch()
                raise StoppedError("7 steps are", state)
    state.unlink()
    job.output.result.write_text("whole")
"""
SLOW_RULE = """
rule slow:
    output: result="result", provenance="provenance.json"
    log: "log"
    params: settings={}, code="x"
    script: "slow.py"
"""


@pytest.fixture
def slow(root, tmp_path) -> list[str]:
    """A workflow of one job that runs until it is asked to stop; the command that runs it."""
    prefix = re.search(r"^shell\.prefix\(.*\)$", (root / "workflow/rules/common.smk").read_text(), re.MULTILINE)[0]
    # A command after the script's keeps bash in its place, as versions before 5.1 always stay.
    (tmp_path / "Snakefile").write_text(f"{prefix}\nshell.suffix('; true')\n{SLOW_RULE}")
    (tmp_path / "slow.py").write_text(SLOW_JOB)
    return [SNAKEMAKE, "--directory", str(tmp_path), "--snakefile", str(tmp_path / "Snakefile"), "--cores", "1"]


def test_snakemake_keeps_the_state_of_a_stopped_job_and_refuses_a_second_run(slow, tmp_path):
    first = subprocess.Popen(slow, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        while not (tmp_path / "running").exists():
            assert first.poll() is None, first.stdout.read()
            time.sleep(0.05)
        # Without the option, which profiles/default sets, Snakemake asks for it before it looks at the lock.
        second = subprocess.run([*slow, "--rerun-incomplete"], capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert "Directory cannot be locked" in second.stderr
        assert "--unlock" in second.stderr
        assert first.poll() is None, "the second run disturbed the first"
    finally:
        os.killpg(first.pid, signal.SIGTERM)  # Slurm signals all processes of a step, too
    printed, _ = first.communicate()
    assert first.returncode == 1
    assert "slow: stopped as asked: 7 steps are saved in state; run the rule again to go on from there" in printed
    assert (tmp_path / "state").exists()
    assert not (tmp_path / "result").exists()
    again = subprocess.run(slow, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "result").read_text() == "whole"
    assert not (tmp_path / "state").exists()


def workflow(root, folder, *options):
    target = "results/tiny/glassbox/xrec/seed1/generation/explanations.parquet"
    command = [SNAKEMAKE, "--snakefile", str(root / "Snakefile"), "--directory", str(folder), "--cores", "1"]
    return [*command, *options, "--configfile", str(root / "tests/tiny.yaml"), "--", target]


@pytest.mark.slow
def test_the_workflow_survives_a_stop_and_a_power_cut(root, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(workflow(root, whole), check=True, capture_output=True)
    own = "results/tiny/glassbox/xrec/seed1"
    for state, number in (
        ("../../shared/llm/model", signal.SIGKILL),
        ("method/checkpoint.safetensors", signal.SIGTERM),
        ("generation/explanations.partial.jsonl", signal.SIGKILL),
    ):
        run = subprocess.Popen(
            workflow(root, cut), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        while run.poll() is None and not (cut / own / state).exists():
            time.sleep(0.01)
        assert run.poll() is None, run.communicate()
        os.killpg(run.pid, number)
        run.communicate()
        subprocess.run(workflow(root, cut, "--unlock"), check=True, capture_output=True)
    subprocess.run(workflow(root, cut, "--rerun-incomplete"), check=True, capture_output=True)
    for name in ("method/weights.safetensors", "method/training.parquet", "generation/explanations.parquet"):
        assert (cut / own / name).read_bytes() == (whole / own / name).read_bytes(), name
    assert "resumed generation" in (cut / own / "logs/generate_explanations.log").read_text()
    assert not [p for p in cut.rglob("*") if p.suffix == ".tmp" or "checkpoint" in p.name or "partial" in p.name]
