"""The configuration of the study at full scale, and its page, against the published tables."""

import csv
import re
import subprocess
import sys

import pytest

from xrec_repro.config import experiment_pairs, load_config, settings
from xrec_repro.config_rules import check_config
from xrec_repro.data.download import read_manifest
from xrec_repro.errors import ConfigError
from xrec_repro.metrics.registry import build_metric
from xrec_repro.published import load_published_table1, load_published_table2, load_published_table3, study_name

STOPPING = {"start": 1 / 5, "patience": 1 / 10, "window": 10}  # study, section 3.6
TENTH = 300
COMMIT = re.compile(r"[0-9a-f]{40}")
UNPINNED = "bleurt"


@pytest.fixture(scope="module")
def config(root):
    return load_config(root / "config/config.yaml", root / "config/paper.yaml")


@pytest.fixture(scope="module")
def pairs(config):
    """Published data set and experiment -> the settings that it runs with."""
    found = {}
    for dataset, experiment in experiment_pairs(config):
        name = config["datasets"][dataset]["published_as"], config["experiments"][experiment]["label"]
        assert name not in found
        found[name] = settings(config, dataset, experiment)
    return found


@pytest.fixture(scope="module")
def published(root):
    return {(run.dataset, study_name(run.experiment)): run for run in load_published_table3(root / "resources")}


@pytest.fixture(scope="module")
def tested(root):
    """Published data set and experiment -> test examples that tables 1 and 2 print."""
    rows = [*load_published_table1(root / "resources"), *load_published_table2(root / "resources")]
    return {(row.dataset, study_name(row.model)): row.n_test for row in rows if row.reported_by == "study"}


def test_it_is_valid(config):
    check_config(config)


def test_its_experiments_are_those_of_table_3(pairs, published):
    assert len(pairs) == 12
    assert set(pairs) == set(published)


def test_tuning_stops_early_where_table_3_says_so(pairs, published):
    for name, chosen in pairs.items():
        if published[name].train_gpu is None:
            assert chosen["embeddings"]["as"] == "none", name
        wanted = STOPPING if published[name].train_early_stopped else None
        assert chosen["tuning"]["early_stopping"] == wanted, name


def test_a_tenth_is_explained_where_tables_1_and_2_say_so(pairs, published, tested):
    assert len(set(pairs) - set(tested)) == 2
    for name, chosen in pairs.items():
        tenth = tested[name] == TENTH if name in tested else published[name].generate_gpu == "MIG"
        assert chosen["generation"]["subset"] == (0.1 if tenth else 1.0), name


def test_each_experiment_is_what_its_label_says(pairs):
    for (_, label), chosen in pairs.items():
        assert chosen["prompt"]["profiles"] == ("prof" not in label)
        assert (chosen["injection"]["form"] == "none") == ("inj" in label)
        wanted = "none" if "embed" in label else "fixed" if "fixed" in label else "trained"
        assert chosen["embeddings"] == {"of": "released", "as": wanted, "tuned_by": None}


def test_rows_are_compared_with_the_published_rows_of_their_label(config):
    for _, experiment in experiment_pairs(config):
        entry = config["experiments"][experiment]
        assert study_name(entry["published_model"]) == entry["label"]


def test_all_share_the_settings_of_the_study(pairs):
    for chosen in pairs.values():
        released = {"graph": "released", "texts": "released", "mode": "independent", "max_texts": None}
        assert released.items() <= chosen["split"].items()
        graph = {"dim": 64, "layers": 4, "combine": "sum", "negatives": "fixed", "epochs": 300, "patience": 10}
        graph |= {"learning_rate": 1e-3, "batch_size": 1024, "weight_decay": 1e-6, "regularise": "propagated"}
        assert graph.items() <= chosen["recommenders"]["lightgcn_xrec"].items()
        assert chosen["recommenders"]["released"]["dim"] == graph["dim"]
        assert {"epochs": 1, "batch_size": 1, "learning_rate": 1e-4}.items() <= chosen["tuning"].items()
        assert {"experts": 8, "dropout": 0.2, "noise_epsilon": 0.01}.items() <= chosen["adapter"].items()
        sampled = {"decoding": "sampled", "temperature": 0.6, "top_p": 0.9, "top_k": 50, "max_new_tokens": 128}
        assert sampled.items() <= chosen["generation"].items()
        assert chosen["generation"]["batch_size"] == 1
        assert chosen["prompt"]["template"] == "code"
        assert (chosen["llm"]["source"], chosen["llm"]["quantisation"]) == ("hub", "8bit")
        assert (chosen["profiles"]["backend"], chosen["profiles"]["references"]) == ("published", "published")


def test_the_comments_beside_the_experiments_are_those_of_table_3(root, config, published, tested):
    text = (root / "config/paper.yaml").read_text()
    for dataset, experiment in experiment_pairs(config):
        name = config["datasets"][dataset]["published_as"], config["experiments"][experiment]["label"]
        comment = re.search(rf"- {dataset}/{experiment} +# (.+)", text)[1]
        assert " ".join(comment.split()) == described(published[name], tested.get(name))


def described(run, tested):
    tenth = tested == TENTH if tested else run.generate_gpu == "MIG"
    tuned = f"tuned {run.train_gpu} {clock(run.train_seconds)}" if run.train_gpu else "not tuned"
    explained = f"explained {run.generate_gpu} {clock(run.generate_seconds)}"
    return tuned + " *" * run.train_early_stopped + " " + explained + " †" * tenth


def clock(seconds):
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def test_every_model_is_pinned_or_refused(config):
    """What could not be looked up must stop the scoring, in words that say what to fill in."""
    assert COMMIT.fullmatch(config["defaults"]["llm"]["revision"])
    for name in config["metrics"]["use"]:
        section = config["metrics"][name]
        if "model" not in section:
            continue
        if COMMIT.fullmatch(section["revision"]):
            build_metric(name, section)
        else:
            assert name == UNPINNED
            with pytest.raises(ConfigError, match=rf"metrics\.{name}\.revision: .*huggingface\.co.*40-digit commit"):
                build_metric(name, section)
            build_metric(name, section | {"revision": "0" * 40})


def test_scores_are_made_with_the_published_configuration(config):
    metrics = config["metrics"]
    assert set(metrics["use"]) == {"llamascore", "bertscore", "bartscore", "bleurt", "usr", "bleu", "rouge", "distinct"}
    judge = {"model": "meta-llama/Llama-3.1-8B-Instruct", "dtype": "bfloat16", "mode": "parse"}
    judge["revision"] = "0e9e39f249a16976918f6564b8830bc894c89659"
    assert judge.items() <= metrics["llamascore"].items()
    bert = build_metric("bertscore", metrics["bertscore"])
    assert (bert.layer, bert.rescale, bert.idf, bert._baseline_name) == (17, True, False, "roberta-large")
    assert {"direction": "pred_to_ref", "weights": None, "max_length": 1024}.items() <= metrics["bartscore"].items()
    assert metrics["bleurt"]["max_length"] == 512


@pytest.mark.parametrize("dataset", ["amazon", "yelp", "google"])
def test_downloads_hold_all_that_the_split_reads(root, config, dataset):
    entry, manifest = config["datasets"][dataset]["download"], root / "resources/manifest.tsv"
    with manifest.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    files = {row["file"]: row for row in rows if row["name"] == entry}
    assert {"trn.pkl", "val.pkl", "tst.pkl", "total_val.csv", "total_tst.csv"} <= set(files)
    assert {"total_trn.csv", "para_dict.pickle"} & set(files)
    for file, row in files.items():
        assert row["url"].endswith(f"/data/{dataset}/{file}")
        assert COMMIT.fullmatch(row["revision"]) and row["revision"] in row["url"]
        same = [other for other in rows if other["url"] == row["url"]]
        assert {(other["sha256"], other["bytes"]) for other in same} == {(row["sha256"], row["bytes"])}
    assert len(read_manifest(entry, manifest)) == len(files)


@pytest.mark.parametrize("name", ["costs", "expected"])
def test_the_page_prints_what_its_commands_print(root, name):
    page = (root / "docs/reproduce-the-paper.md").read_text(encoding="utf-8")
    code = re.search(rf"<!-- {name} -->\n```python\n(.+?)```", page, flags=re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    words = " ".join(page.split())
    lines = done.stdout.splitlines()
    assert len(lines) >= 10
    for line in lines:
        assert line in words


def test_the_page_names_every_model_and_its_commit(root, config):
    page = (root / "docs/reproduce-the-paper.md").read_text(encoding="utf-8")
    llm = config["defaults"]["llm"]
    metrics = [config["metrics"][name] for name in config["metrics"]["use"]]
    models = {llm["repo"]: llm["revision"]} | {m["model"]: m["revision"] for m in metrics if "model" in m}
    assert len(models) == 5
    for model, revision in models.items():
        pinned = bool(COMMIT.fullmatch(revision))
        assert (f"`{model}` @ `{revision}`" if pinned else f"`{model}`") in page
