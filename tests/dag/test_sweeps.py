"""What a sweep adds to the graph, dry: its own jobs and its figure, and nothing to other tables and figures."""

import re
from pathlib import Path
from subprocess import CompletedProcess

import yaml

from tests.dag.test_dry_runs import dry_run, jobs

ALONE = {"run": {"experiments": ["glassbox/xrec"]}, "metrics": {"use": ["usr", "faithfulness"]}}
EXPERTS = {"base": "glassbox/xrec", "key": "adapter.experts", "values": [2, 8]}
WIDTH = {"base": "glassbox/xrec", "key": "recommenders.lightgcn.dim", "values": [16, 64]}


def plan(root: Path, folder: Path, config: dict, *targets: str, check: bool = True) -> CompletedProcess:
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(ALONE | config))
    return dry_run(root, folder, "--cores", "2", "--configfile", str(overlay), "--", *targets, check=check)


def inputs(done: CompletedProcess, rule: str) -> str:
    """Return the inputs of a rule's only job as Snakemake prints them."""
    return re.search(
        rf"^(?:local)?rule {rule}:\n    input: (.*)$", done.stdout + done.stderr, flags=re.MULTILINE
    ).group(1)


def test_a_sweep_adds_a_job_chain_a_value_and_its_figure(root, tmp_path):
    before = jobs(plan(root, tmp_path, {}))
    assert "plot_sweeps" not in before
    done = plan(root, tmp_path, {"sweeps": {"experts": EXPERTS, "width": WIDTH}})
    after = jobs(done)
    added = {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name)}
    each = {"train_recommender": 3, "train_method": 6, "generate_explanations": 6}  # of three seeds
    assert added == {"score_explanations": 2, "plot_sweeps": 1} | each
    for name in ("xrec", "xrec-experts-2", "xrec-width-16"):
        files = (f"results/demo/glassbox/{name}/seed1/{file}" for file in ("metrics/scores", "method/provenance"))
        assert all(file in inputs(done, "plot_sweeps") for file in files)
    for rule in ("make_table2", "make_table3", "plot_figure2", "judge_claims", "write_browser", "group_scores"):
        assert "glassbox/xrec/seed1" in inputs(done, rule)
        assert "xrec-" not in inputs(done, rule)


def test_a_table_shows_of_a_sweep_what_it_names(root, tmp_path):
    named = {"paper": {"tables": {"table2": ["xrec", "xrec-experts-2"]}}}
    done = plan(root, tmp_path, {"sweeps": {"experts": EXPERTS}} | named)
    assert "glassbox/xrec-experts-2/seed1" in inputs(done, "make_table2")
    assert "xrec-experts-2" not in inputs(done, "make_table3")


def test_the_figure_needs_its_members_alone(root, tmp_path):
    run = {"experiments": ["glassbox/xrec", "glassbox/no_profile"], "seeds": [1, 2]}
    sweeps = {"experts": EXPERTS | {"base": "glassbox/no_profile"}}
    done = plan(root, tmp_path, {"run": run, "sweeps": sweeps}, "plot_sweeps")
    found = jobs(done)
    assert (found["train_method"], found["score_explanations"]) == (4, 2)  # a job for both seeds
    assert "glassbox/xrec/" not in inputs(done, "plot_sweeps")


def test_the_overlay_runs_seven_experiments_beside_its_base(root, tmp_path):
    overlay = str(root / "config/sweeps.yaml")
    found = jobs(dry_run(root, tmp_path, "--cores", "2", "--configfile", overlay))
    assert found["train_method"] == found["generate_explanations"] == 8
    assert found["train_recommender"] == 4
    assert found["plot_sweeps"] == found["make_table2"] == 1


def test_the_switches_of_the_deviations_share_what_they_leave_alone(root, tmp_path):
    overlay = str(root / "config/deviations.yaml")
    found = jobs(dry_run(root, tmp_path, "--cores", "2", "--configfile", overlay))
    assert found["train_method"] == found["generate_explanations"] == 14
    assert found["train_recommender"] == 4  # the base, combine, regularise, negatives
    assert found["pretrain_lm"] == 1
    assert "plot_sweeps" not in found


def test_a_mistake_in_a_sweep_stops_with_one_line(root, tmp_path):
    done = plan(root, tmp_path, {"sweeps": {"experts": EXPERTS | {"key": "adapter.expert"}}}, check=False)
    assert done.returncode == 1
    message = "sweeps.experts.key: there is no setting adapter.expert (did you mean 'experts'?)"
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
