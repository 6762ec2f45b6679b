"""Dry runs of every overlay: which jobs there are, and what an edit reruns."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.forks import snakemake

SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))


def dry_run(root: Path, folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    done = snakemake(root, "--directory", str(folder), "--dry-run", *arguments)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def jobs(done: subprocess.CompletedProcess) -> dict[str, int]:
    """Read the table of jobs that Snakemake prints."""
    found = re.findall(r"^(\w+) +(\d+)$", (done.stdout + done.stderr).split("Job stats")[-1], flags=re.MULTILINE)
    return {name: int(count) for name, count in found if name != "total"}


SHARED_STAGES = ["filter_kcore", "split_interactions", "generate_profiles", "generate_references", "pretrain_lm"]


PAPER_RULES = [
    *("make_table1", "make_table2", "make_table3", "plot_figure2", "plot_figure3", "plot_figure4", "plot_embeddings"),
    *("judge_claims", "write_statistics", "audit_published", "pick_examples", "group_scores", "write_browser"),
    *("collect_jobs", "plot_costs", "check_metrics", "write_questions"),
]


def test_the_demo_runs_six_experiments_on_one_world(root, tmp_path):
    found = jobs(dry_run(root, tmp_path, "--cores", "2"))
    assert all(found[name] == 1 for name in [*SHARED_STAGES, "make_glassbox", "read_reviews"])
    assert all(found[name] == 1 for name in [*PAPER_RULES, "train_bart", "train_bleurt", "train_judge"])
    assert found["score_by_models"] == found["score_explanations"] == 6
    assert found["train_recommender"] == 3, "one a seed"
    assert found["generate_explanations"] == 3 * 6
    assert found["train_method"] == 3 * 5
    assert not {"import_release", "score_gptscore"} & set(found)


def released(root, folder: Path, download: bool = True) -> str:
    """Return the overlay of the released data, whose folders are to lie in a folder."""
    config = yaml.safe_load((root / "config/xrec-small.yaml").read_text())
    for name, dataset in config["datasets"].items():
        dataset["paths"]["folder"] = str(folder / name)
        dataset["download"] = dataset["download"] if download else None
    (folder / "overlay.yaml").write_text(yaml.safe_dump(config))
    return str(folder / "overlay.yaml")


def test_the_released_data_need_no_reader(root, tmp_path):
    found = jobs(dry_run(root, tmp_path, "--cores", "2", "--configfile", released(root, tmp_path)))
    assert found["import_release"] == found["train_recommender"] == found["fetch_release"] == 2
    assert found["train_method"] == 8
    assert not {"pretrain_lm", "train_bart", "train_judge"} & set(found)
    assert not {"make_glassbox", "read_reviews"} & set(found)


def test_the_same_jobs_are_planned_whatever_a_machine_sees(root, tmp_path):
    overlay = released(root, tmp_path)
    without = jobs(dry_run(root, tmp_path, "--cores", "2", "--configfile", overlay))
    for name in ("amazon", "yelp"):
        (tmp_path / name).mkdir()
    (tmp_path / "shared/data/xrec").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    assert jobs(dry_run(root, tmp_path / "run", "--cores", "2", "--configfile", overlay)) == without


def test_a_folder_without_a_download_is_read_as_it_is(root, tmp_path):
    overlay = released(root, tmp_path, download=False)
    done = dry_run(root, tmp_path, "--cores", "2", "--configfile", overlay, check=False)
    assert "Missing input files for rule import_release" in done.stdout + done.stderr
    for name in ("amazon", "yelp"):
        (tmp_path / name).mkdir()
    assert "fetch_release" not in jobs(dry_run(root, tmp_path, "--cores", "2", "--configfile", overlay))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "metrics: {bertscore: {layer: 3}}\nmetrics: {bleu: {lowercase: true}}\n",
            "yaml: metrics: given twice",
        ),
        ("defaults: {tuning: {learning_rate: .nan}}\n", "defaults.tuning.learning_rate: nan is not a number"),
    ],
)
def test_what_snakemake_reads_by_itself_is_checked_again(root, tmp_path, text, message):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(text)
    done = dry_run(root, tmp_path, "--cores", "1", "--configfile", str(overlay), check=False)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_slurm_profile_resolves_as_typed(root):
    environment = os.environ | {"PATH": f"{Path(SNAKEMAKE).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [SNAKEMAKE, "--profile", "slurm", "-n", "--nolock", "--forceall", "all"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert jobs(done)["train_method"] == 3 * 5


def test_a_mistake_in_the_configuration_stops_with_one_line(root, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("experiments: {no_profile: {overrides: {promt: {profiles: false}}}}")
    done = dry_run(root, tmp_path, "--cores", "1", "--configfile", str(overlay), check=False)
    assert done.returncode == 1
    assert "experiments.no_profile.overrides.promt: unknown key (did you mean 'prompt'?)" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_without_a_score_by_example_no_groups_are_drawn(root, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("metrics: {use: [usr]}")
    found = jobs(dry_run(root, tmp_path, "--cores", "2", "--configfile", str(overlay)))
    assert {"plot_figure2", "write_questions"} <= set(found)
    assert not {"plot_figure4", "group_scores"} & set(found)


@pytest.mark.parametrize("seeds", [[1], [1, 2, 3]])
def test_seeds_repeat_what_draws_randomness_and_nothing_else(root, tmp_path, seeds):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"run": {"seeds": seeds}}))
    found = jobs(dry_run(root, tmp_path, "--cores", "2", "--configfile", str(overlay)))
    assert found["train_recommender"] == len(seeds)
    assert found["train_method"] == 5 * len(seeds)
    assert found["generate_explanations"] == 6 * len(seeds)
    assert found["score_by_models"] == found["score_explanations"] == 6
    assert all(found[name] == 1 for name in SHARED_STAGES)


def test_shards_are_jobs_of_their_own_and_nothing_else_changes(root, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"run": {"seeds": [1]}, "scatter": {"generation": 4, "judging": 3}}))
    single = tmp_path / "single.yaml"
    single.write_text("run: {seeds: [1]}")
    whole, found = (
        jobs(dry_run(root, tmp_path, "--cores", "2", "--configfile", str(path))) for path in (single, overlay)
    )
    shards = {"generate_shard": 24, "gather_explanations": 6, "score_llamascore_shard": 18, "gather_llamascore": 6}
    kept = {rule: count for rule, count in whole.items() if rule != "generate_explanations"}
    assert found == kept | shards
    assert not set(shards) & set(whole)


@pytest.mark.parametrize("target", ["demo", "real"])
def test_the_commands_of_the_makefile_resolve(root, target):
    printed = subprocess.run(
        ["make", "--no-print-directory", "-n", target], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    command = shlex.split(printed.strip().splitlines()[-1])
    assert command[0].endswith("snakemake")
    environment = os.environ | {"PATH": f"{Path(SNAKEMAKE).parent}{os.pathsep}{os.environ['PATH']}"}
    dry = [SNAKEMAKE, "--dry-run", "--nolock", "--forceall", *command[1:]]
    done = subprocess.run(dry, cwd=root, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert jobs(done)["make_table1"] == 1
