"""The command docs/kernels.py: what it reads of a finished run, and the table that it makes of several."""

import json

import pytest

from tests.conftest import load_script


@pytest.fixture(scope="module")
def kernels(root):
    """The command as a module."""
    return load_script(root / "docs/kernels.py")


def _write(path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def finished(kernels, tmp_path):
    """A folder with the files of a run that the command reads: F1 of XRec .5 and .6, of all others .2 and .25."""
    run = kernels.place("two threads", tmp_path)
    claims = [{"claim": name, "verdicts": {"run": {"verdict": "inconclusive"}}} for name in ("claim2", *kernels.CLAIMS)]
    _write(run / "paper/claims.json", {"claims": claims})
    record = {"code": {"commit": "0123456789abcdef"}, "outputs": {"model": {"sha256": "aa"}}}
    _write(run / "glassbox/shared/llm/provenance.json", record | {"result": {"epoch_losses": [1.5, 0.375]}})
    for place, seed in enumerate((1, 2)):
        for name in kernels.SCORED:
            f1 = (0.5, 0.6)[place] if name == "xrec" else (0.2, 0.25)[place]
            _write(run / f"glassbox/{name}/seed{seed}/metrics/summary.json", {"faithfulness_f1": {"mean": f1}})
        result = {"validation_loss": 0.4 + place / 10}
        _write(run / f"glassbox/xrec/seed{seed}/method/provenance.json", record | {"result": result})
    return run


def test_a_row_has_each_seed_and_the_verdicts(kernels, finished):
    found = kernels.row("two threads", finished)
    assert (found["pretraining"], found["loss"], found["xrec"]) == ([0.375], [0.4, 0.5], [0.5, 0.6])
    assert found["fixed_moe"] == [0.2, 0.25] and found["claim4"] == "inconclusive"
    assert (found["commits"], found["weights"]) == (["0123456"], "aa")


def test_the_table_names_machine_and_commit_and_fills_the_page(kernels, finished, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(kernels, "run", lambda name, folder, cores: asked.append((name, cores)) or finished)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(kernels, "processor_name", lambda: "A Processor")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- kernels -->\nold\n<!-- /kernels -->\nafter\n", encoding="utf-8")
    assert kernels.main(["--folder", str(tmp_path), "--cores", "3", "--write", str(page)]) == 0
    assert [name for name, _ in asked] == [kernels.NATIVE, "two threads", "scalar"]  # AVX2 is as installed
    text = capsys.readouterr().out
    row = "| two threads | 0.375 | 0.400 0.500 | 0.500 0.600 | 0.200 0.250 | 0.200 0.250 | 0.200 0.250 | 0.200 0.250 |"
    assert f"{row} inconclusive | inconclusive |" in text
    assert "Machine: A Processor, " in text and "Commit: 0123456." in text and "2.4 to 2.4 times" in text
    assert page.read_text(encoding="utf-8") == f"before\n<!-- kernels -->\n\n{text}<!-- /kernels -->\nafter\n"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--write", "needs a line <!-- kernels --> and a line <!-- /kernels --> after it"),
        ("--folder", "is a file; name a folder for the runs"),
    ],
)
def test_what_would_end_without_a_table_is_said_before_the_runs(kernels, tmp_path, monkeypatch, capsys, option, said):
    monkeypatch.setattr(kernels, "run", lambda *_: pytest.fail("trained first"))
    page = tmp_path / "page.md"
    page.write_text("nothing", encoding="utf-8")
    assert kernels.main([option, str(page)]) != 0
    assert f"docs/kernels.py: {page}: {said}" in capsys.readouterr().err


def test_each_run_has_its_kernels_and_threads(kernels, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(kernels.subprocess, "run", lambda command, env, check: calls.append((command, env)))
    assert kernels.run("scalar", tmp_path) == tmp_path / "scalar/results/demo"
    assert kernels.run("two threads", tmp_path) == tmp_path / "two-threads/results/demo"
    (first, scalar), (second, two) = calls
    assert scalar["ATEN_CPU_CAPABILITY"] == "default" and "ATEN_CPU_CAPABILITY" not in two
    assert scalar["CUDA_VISIBLE_DEVICES"] == "" and first[-1] == second[-1] == "results/demo/paper/claims.json"
    assert "threads: 2" in (tmp_path / "two-threads/threads.yaml").read_text(encoding="utf-8")
