"""The tiny workflow on a CUDA device against the CPU; `make gpu-test` runs it."""

import copy
import importlib
import json

import pytest
import torch


@pytest.fixture
def workflow(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return importlib.import_module("gpu_workflow")


@pytest.mark.gpu
def test_the_workflow_on_cuda_agrees_with_the_cpu(workflow, tmp_path):
    """Jobs, devices, scores of the same texts, texts without tuning, verdicts; `pytest -s` shows the numbers."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    workflow.make_runs(tmp_path)
    found = workflow.compare(tmp_path)
    print(workflow.table(found))
    assert not workflow.wrong(found)


def test_a_run_equals_itself_and_what_differs_is_told(workflow, finished, tmp_path):
    for name in ("cuda", "cpu", "cross"):
        (tmp_path / name).symlink_to(finished)
    found = workflow.compare(tmp_path)
    jobs, others = found["jobs of the two runs"]
    assert jobs == others > 40
    assert [row["largest difference"] for row in found["scores of the same texts"]] == [0] * 6
    assert all(row["equal"] == row["texts"] > 20 for row in found["texts of the two runs"])
    if not torch.cuda.is_available():
        assert workflow.wrong(found) == [f"{rule} did not run where it should" for rule in sorted(workflow.ON_GPU)]
    other = copy.deepcopy(found)
    other["jobs that ran on the GPU"] = [{"rule": rule, "device": "NVIDIA H200"} for rule in workflow.ON_GPU]
    assert workflow.wrong(other) == []
    other["jobs of the two runs"] = [61, 60]
    other["scores of the same texts"][0]["largest difference"] = float("nan")
    del other["scores of the same texts"][-1]
    for row in other["texts of the two runs"]:
        row["equal"] -= 1
    text = "\n".join(workflow.wrong(other))
    for line in ("other numbers of jobs", "bartscore differs by nan", "no llamascore", "texts without tuning differ"):
        assert line in text
    assert "bertscore_f1" in workflow.table(found)


def test_directions_of_inconclusive_claims_do_not_count(workflow, tmp_path):
    paper = tmp_path / "results/tiny/paper"
    paper.mkdir(parents=True)
    runs = {"claim1": ("inconclusive", "validated"), "claim2": ("validated", "rejected")}
    found = [
        {"claim": name, "verdicts": {"run": {"verdict": verdict, "by_direction": direction}}}
        for name, (verdict, direction) in runs.items()
    ]
    (paper / "claims.json").write_text(json.dumps({"claims": found}))
    assert workflow.claims(tmp_path) == {"claim1": ("inconclusive", ""), "claim2": ("validated", "rejected")}
