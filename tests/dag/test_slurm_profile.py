"""The Slurm profile against the workflow's rules. Snakemake ignores misspelt ones in silence."""

import os
import re
import sys
from pathlib import Path

import pytest
import yaml
import yte

from tests import forks
from xrec_repro.shards import JUDGES

SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
CLASSES = {
    "cpu": {"slurm_partition": "c"},
    "gpu": {"slurm_partition": "g", "gpu": 1},
    "mig": {"slurm_partition": "m", "gpu": 1},
}
RENAMED = {"XREC_PARTITION_CPU": "c", "XREC_PARTITION_GPU": "g", "XREC_PARTITION_MIG": "m"}


@pytest.fixture(scope="module")
def every_metric(root, tmp_path_factory) -> Path:
    """An overlay that scores by all metrics and asks a chat model, so that each has its rule."""
    config = yaml.safe_load((root / "config/config.yaml").read_text())
    metrics = {"use": [name for name in config["metrics"] if name != "use"]}
    metrics["llamascore"] = {"model": "any", "revision": "a" * 40}  # with the run's own it has no rule
    overlay = tmp_path_factory.mktemp("overlay") / "overlay.yaml"
    chat = {"model": "any", "revision": "a" * 40}
    profiles = {"profiles": {"backend": "chat", "references": "chat", "chat": chat}}
    overlay.write_text(yaml.safe_dump({"metrics": metrics, "defaults": profiles}))
    return overlay


@pytest.fixture(scope="module")
def shards(every_metric) -> Path:
    """The same, with generation and judging in shards."""
    overlay = every_metric.with_name("shards.yaml")
    scatter = {"run": {"seeds": [1]}, "scatter": {"generation": 3, "judging": 2}}
    overlay.write_text(yaml.safe_dump(yaml.safe_load(every_metric.read_text()) | scatter))
    return overlay


def snakemake(root: Path, overlay: Path, *options: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XREC_", "SBATCH"))}
    environment |= {"PATH": f"{Path(SNAKEMAKE).parent}{os.pathsep}{os.environ['PATH']}", **variables}
    done = forks.snakemake(root, *options, "--nolock", "--configfile", str(overlay), environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def load_profile(root: Path, monkeypatch, **variables: str) -> dict:
    for name in (*RENAMED, "SBATCH_ACCOUNT", "XREC_SHARDS_PER_JOB"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with (root / "profiles/slurm/config.yaml").open() as stream:
        return yte.process_yaml(stream, require_use_yte=True)


def planned(root: Path, overlay: Path, folder: Path, attempt: int, profile: str = "slurm") -> dict[str, dict[str, str]]:
    """Dry-run everything through a profile; return the resources of each rule's jobs."""
    options = ["--profile", profile, "--dry-run", "--forceall", "--directory", str(folder), "--attempt", str(attempt)]
    if profile != "slurm":
        options += ["--cores", "2", "--resources", "gpu=1"]
    printed = snakemake(root, overlay, *options, **RENAMED)
    blocks = re.findall(r"^rule (\w+):\n(?:    .*\n)*?    resources: (.*)$", printed, flags=re.MULTILINE)
    return {rule: dict(re.findall(r"(\w+)=([^,]*)", resources)) for rule, resources in blocks}


@pytest.fixture(scope="module")
def first(root, every_metric, tmp_path_factory) -> dict[str, dict[str, str]]:
    return planned(root, every_metric, tmp_path_factory.mktemp("first"), 1)


def test_all_rules_that_the_profile_names_exist(root, every_metric, shards, monkeypatch):
    whole, in_shards = (set(snakemake(root, overlay, "--list-rules").split()) for overlay in (every_metric, shards))
    rules = whole | in_shards
    assert whole - in_shards == {"generate_explanations", "score_gptscore", "score_llamascore"}
    named = set(load_profile(root, monkeypatch)["set-resources"])
    assert named - rules == set()
    assert {"score_gptscore", "fetch_release", "import_release", "make_table1"} <= rules - named


def test_a_rule_has_a_gpu_class_where_its_script_asks_for_a_device(root, monkeypatch):
    """With compute.device: cuda, such a rule stops on a node without a GPU."""
    several = {
        "score_metric": {
            *(f"score_{name}" for name in JUDGES),
            *(f"score_{name}_shard" for name in JUDGES),
        },
        "generate_explanations": {"generate_explanations", "generate_shard"},
        **{name: {f"{name}_by_model"} for name in ("generate_profiles", "generate_references")},
    }
    scripts = [path for path in (root / "workflow/scripts").glob("*.py") if "job.device()" in path.read_text()]
    wanted = set().union(*(several.get(path.stem, {path.stem}) for path in scripts))
    wanted -= {"score_gptscore", "score_gptscore_shard"}  # their model is a server's
    classes = load_profile(root, monkeypatch, **RENAMED)["set-resources"]
    assert {rule for rule, entry in classes.items() if entry.get("gpu")} == wanted
    assert classes["train_method"] == CLASSES["gpu"]
    assert all(entry == CLASSES["mig"] for rule, entry in classes.items() if rule != "train_method")


def test_what_runs_on_the_cpu_asks_for_no_gpu(root, tmp_path):
    jobs = planned(root, root / "config/config.yaml", tmp_path, 1)
    rules = {"pretrain_lm", "train_bart", "train_bleurt", "train_judge", "generate_profiles", "generate_references"}
    assert {jobs[rule]["slurm_partition"] for rule in rules} == {"c"}
    assert not any("gpu" in jobs[rule] for rule in rules)


@pytest.mark.parametrize("profiles", ["extractive", "chat"])
def test_jobs_that_use_a_gpu_take_turns_on_one_machine(root, every_metric, tmp_path, monkeypatch, profiles):
    overlay, config = tmp_path / "cuda.yaml", yaml.safe_load(every_metric.read_text())
    config |= {
        "compute": {"device": "cuda"},
        "defaults": {"profiles": {"backend": profiles, "chat": {"model": "any", "revision": "a" * 40}}},
    }
    overlay.write_text(yaml.safe_dump(config))
    jobs = planned(root, overlay, tmp_path, 1, "profiles/default")
    classes = load_profile(root, monkeypatch)["set-resources"]
    wanted = {rule for rule, entry in classes.items() if entry.get("gpu") and rule in jobs}
    assert ("generate_profiles_by_model" in wanted) == (profiles == "chat")
    assert {rule for rule, resources in jobs.items() if resources.get("gpu") == "1"} == wanted


def test_each_job_is_submitted_in_the_class_of_its_rule(root, first, shards, tmp_path, monkeypatch):
    classes = load_profile(root, monkeypatch, **RENAMED)["set-resources"]
    first = first | planned(root, shards, tmp_path, 1)
    for rule, resources in first.items():
        if rule != "all":
            entry = classes.get(rule, CLASSES["cpu"])
            assert resources["slurm_partition"] == entry["slurm_partition"], rule
            assert resources.get("gpu", "0") == str(entry.get("gpu", 0)), rule
    assert set(classes) <= set(first)
    assert {resources["slurm_partition"] for rule, resources in first.items() if rule != "all"} == {"c", "g", "m"}


def test_memory_and_time_limit_grow_by_attempt(root, every_metric, first, tmp_path):
    second = planned(root, every_metric, tmp_path, 2)
    for rule, resources in first.items():
        if rule != "all":
            for name in ("mem_mb", "runtime"):
                assert int(second[rule][name]) == 2 * int(resources[name]), (rule, name)


def test_full_size_asks_for_what_its_page_says(root, tmp_path):
    """The page's table, row by row: the largest time and memory of its rules, and their class."""
    jobs = planned(root, root / "config/paper.yaml", tmp_path, 1)
    del jobs["all"]
    page = (root / "docs/reproduce-the-paper.md").read_text(encoding="utf-8")
    rows = [
        line.strip("|").split("|")
        for line in page.partition("| rule | jobs |")[2].partition("\n\n")[0].splitlines()[2:]
    ]
    assert len(rows) == 9
    rest = set(jobs)
    for rule, _, job_class, _, time, memory, _ in rows:
        names = set(re.findall(r"`(\w+)`", rule)) or rest
        rest = rest - names
        hours, unit = time.split()
        found = [jobs[name] for name in names]
        assert max(int(one["runtime"]) for one in found) == int(hours) * {"h": 60, "min": 1}[unit], rule
        assert max(int(one["mem_mb"]) for one in found) == int(memory.split()[0]) * 1000, rule
        partition = {"cpu": "c", "MIG": "m", "H100": "g"}[job_class.strip().split(",")[0]]
        assert {one["slurm_partition"] for one in found} == {partition}, rule
    assert rest == set()


def test_what_asks_for_a_chat_model_here_asks_for_its_memory(root, tmp_path):
    overlay, model = tmp_path / "chat.yaml", {"model": "any", "revision": "a" * 40}
    for url, memory in ((None, 32000), ("http://localhost:8000/v1", 4000)):
        chat = {"backend": "chat", "chat": model | {"base_url": url}}
        overlay.write_text(yaml.safe_dump({"defaults": {"profiles": chat}}))
        jobs = planned(root, overlay, tmp_path, 1)
        rule = "generate_profiles" if url else "generate_profiles_by_model"
        assert (jobs[rule]["mem_mb"], jobs["train_method"]["mem_mb"]) == (str(memory), "4000")


def test_retries_stand_in_the_profile_and_in_no_rule(root, monkeypatch):
    """A rule's own retries would also run inside the Slurm job, with the same memory."""
    assert load_profile(root, monkeypatch)["retries"] > 0
    for path in [root / "Snakefile", *(root / "workflow/rules").glob("*.smk")]:
        assert not re.search(r"^\s*retries:", path.read_text(), flags=re.MULTILINE), path


def test_a_partition_is_named_once_and_by_variable(root, monkeypatch):
    for name in ("genoa", "gpu_h100", "gpu_mig"):
        assert (root / "profiles/slurm/config.yaml").read_text().count(f'"{name}"') == 1
    usual = load_profile(root, monkeypatch)
    assert usual["default-resources"]["slurm_partition"] == "genoa"
    assert usual["set-resources"]["train_method"]["slurm_partition"] == "gpu_h100"
    assert "slurm_account" not in usual["default-resources"]
    renamed = load_profile(root, monkeypatch, **RENAMED, SBATCH_ACCOUNT="study")
    places = [renamed["default-resources"], *renamed["set-resources"].values()]
    assert {place["slurm_partition"] for place in places} == {"c", "g", "m"}
    assert renamed["default-resources"]["slurm_account"] == "study"


def test_as_many_shards_share_a_job_as_the_variable_says(root, shards, tmp_path, monkeypatch):
    assert not {"groups", "resources"} & set(load_profile(root, monkeypatch))
    options = ["--profile", "slurm", "--dry-run", "--forceall", "--directory", str(tmp_path)]
    printed = snakemake(root, shards, *options, **RENAMED, XREC_SHARDS_PER_JOB="3")
    blocks = re.findall(r"Group job (\w+) .*\n((?:\n|    .*\n)+)", printed)
    found = [(group, len(re.findall(r"^    rule (\w+):$", block, flags=re.MULTILINE))) for group, block in blocks]
    # Six experiments, one seed: 18 shards of generation in threes, 12 of the local judge in threes.
    assert sorted(found) == [("generation", 3)] * 6 + [("llamascore", 3)] * 4
    assert "rule score_gptscore_shard" in printed
