"""What the metrics with a model share: where a model is, what a signature says of it, and batches of like length."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from xrec_repro.config import load_config
from xrec_repro.errors import ConfigError, ModelError
from xrec_repro.identity import model_digest
from xrec_repro.lm.load import (
    load_pretrained,
    local_folder,
    require_revision,
    shown_file,
    shown_model,
)
from xrec_repro.metrics._batches import count_empty, length_sorted, score_pairs, warn_of
from xrec_repro.metrics._models import load_network, torch_device, torch_dtype
from xrec_repro.metrics.registry import build_metric, metric_names

KEY = "metrics.some"
COMMIT = "0123456789abcdef" * 2 + "01234567"
TEXTS = ["bb", "a", "", "dddd", "a", "ccc", "b", "aaaa"]


def files(folder: Path, **contents: str) -> Path:
    folder.mkdir(parents=True)
    for name, content in ({"model.safetensors": "w", "config.json": "{}"} | contents).items():
        (folder / name).write_text(content)
    return folder


def test_the_shared_modules_are_no_metrics():
    assert not [name for name in metric_names() if "models" in name or "batches" in name]


def test_a_folder_is_a_folder_and_a_name_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = files(tmp_path / "org" / "model")
    assert local_folder("org/model", KEY) == local_folder(str(folder), KEY) == folder
    assert local_folder("org/other", KEY) is None
    assert local_folder("roberta-large", KEY) is None


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = files(tmp_path / "model")
    assert local_folder("~/model", KEY) == folder


@pytest.mark.parametrize("model", ["/absent", "./absent", "../absent", "~/absent", "models/of/mine"])
def test_a_path_without_folder_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"metrics\.some\.model: .*(absent|mine): no such folder"):
        local_folder(model, KEY)


def test_a_repository_needs_a_commit_and_a_folder_none(tmp_path):
    require_revision("org/model", COMMIT, None, KEY)
    require_revision("x", None, tmp_path, KEY)
    for revision in (None, "main", COMMIT[:-1], COMMIT[:-1] + "g", COMMIT.upper()):
        with pytest.raises(ConfigError, match=r"metrics\.some\.revision: .*'org/model'; give the 40-digit commit"):
            require_revision("org/model", revision, None, KEY)
    with pytest.raises(ConfigError, match=r"metrics\.some\.revision: 'x' is a local folder; set the revision to null"):
        require_revision("x", COMMIT, tmp_path, KEY)


@pytest.mark.parametrize("metric", ["bartscore", "bleurt", "llamascore", "bertscore"])
def test_scratch_is_said_to_lie_in_a_run(root, tmp_path, monkeypatch, metric):
    monkeypatch.chdir(tmp_path)
    settings = load_config(root / "config/config.yaml")["metrics"][metric] | {"model": "scratch"}
    where = {"bartscore": "bart", "bleurt": "bleurt", "llamascore": "judge", "bertscore": None}[metric]
    said = rf"it lies in results/<run>/scorers/{where}/model;" if where else "this metric has none;"
    key = f"metrics.{metric}.model"
    with pytest.raises(ConfigError, match=rf"^{key}: 'scratch' is a model that .*{said} outside a run set {key} to a"):
        build_metric(metric, settings, "cpu")


def test_the_digest_is_of_what_decides_the_outputs(tmp_path):
    digest = model_digest(files(tmp_path / "a"))
    assert model_digest(files(tmp_path / "b", **{"README.md": "read me", "training_log.txt": "x"})) == digest
    changes = {
        "model.safetensors": "v",
        "config.json": "[]",
        "generation_config.json": "{}",
        "tokenizer.json": "{}",
        "tokenizer_config.json": "{}",
        "chat_template.jinja": "x",
        "vocab.txt": "x",
        "merges.txt": "x",
        "spm.model": "x",
    }
    others = {model_digest(files(tmp_path / f"c{i}", **{name: changes[name]})) for i, name in enumerate(changes)}
    assert len(others | {digest}) == len(changes) + 1


def test_a_folder_without_weights_has_no_digest(tmp_path):
    folder = files(tmp_path / "a")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no model weights here"):
        model_digest(folder)


def test_how_a_model_is_shown(tmp_path):
    folder = files(tmp_path / "some" / "bart")
    shown = f"bart@sha256:{model_digest(folder)[:12]}"
    assert shown_model(str(folder), None, folder) == shown
    assert shown_model("alias", None, folder) == shown.replace("bart", "alias")
    assert shown_model("org/model", COMMIT, None) == f"org/model@{COMMIT}"
    assert shown_model("org/model", None, None) == "org/model"


def test_how_a_file_is_shown(tmp_path):
    (tmp_path / "w.pth").write_text("abc")  # SHA-256 of abc, from FIPS 180-2
    assert shown_file(tmp_path / "w.pth") == "w.pth@sha256:ba7816bf8f01"


class Loader:
    """Stands for a class of transformers."""

    def __init__(self, error: Exception | None = None):
        self.error = error

    def from_pretrained(self, model, **options):
        if self.error:
            raise self.error
        return model, options


def test_the_revision_is_passed_on_for_a_repository_only(tmp_path):
    assert load_pretrained(Loader(), "org/model", COMMIT, KEY, use_fast=False) == (
        "org/model",
        {"revision": COMMIT, "use_fast": False},
    )
    assert load_pretrained(Loader(), tmp_path, None, KEY) == (str(tmp_path), {})


@pytest.mark.parametrize(
    "error",
    [
        OSError("not here\nnor there"),
        ValueError("no such type\n"),
        KeyError("weights"),
        TypeError("not NoneType"),
        RuntimeError("size\n\tmismatch " * 99),
        pickle.UnpicklingError(""),
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_line(error):
    with pytest.raises(ModelError) as caught:
        load_pretrained(Loader(error), "org/model", COMMIT, KEY)
    message = str(caught.value)
    assert message.startswith("some: org/model cannot be loaded (")
    assert message.endswith("or set metrics.some.model to a folder that holds it")
    assert "()" not in message
    assert "\n" not in message
    assert len(message) < 350


def test_a_network_is_refused_where_transformers_would_draw_weights_at_random(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification, BertModel, RobertaModel

    config = BertConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    torch.manual_seed(0)
    encoder = BertModel(config)
    encoder.save_pretrained(tmp_path)
    loaded = load_network(BertModel, tmp_path, None, KEY, 16)
    assert not loaded.training
    assert all(
        torch.equal(mine, theirs) for mine, theirs in zip(loaded.parameters(), encoder.parameters(), strict=True)
    )
    with pytest.raises(ModelError, match=r"some: .* has no weights for classifier\.bias; set metrics\.some\.model to"):
        load_network(BertForSequenceClassification, tmp_path, None, KEY, 16)
    with pytest.raises(ModelError, match=r"some: .* is a bert model; set metrics\.some\.model to a roberta model"):
        load_network(RobertaModel, tmp_path, None, KEY, 16)
    with pytest.raises(ConfigError, match=r"metrics\.some\.max_length: 17, but .* reads at most 16 tokens"):
        load_network(BertModel, tmp_path, None, KEY, 17)
    with pytest.raises(ModelError, match="some: .* cannot be loaded"):
        load_network(BertModel, tmp_path / "absent", None, KEY, 16)


def test_number_formats():
    assert [torch_dtype(name, KEY) for name in ("float32", "bfloat16")] == [torch.float32, torch.bfloat16]
    with pytest.raises(
        ConfigError, match=r"metrics\.some\.dtype: 'float64' is not known; use one of: float32, float16"
    ):
        torch_dtype("float64", KEY)


def test_devices(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert torch_device("auto") == torch_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"compute\.device: 'cuda' is asked for but torch sees no GPU; set it to"):
        torch_device("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert torch_device("auto") == torch.device("cuda")


def test_batches_hold_every_row_once_from_short_to_long():
    batches = length_sorted(3, TEXTS)
    assert [len(batch) for batch in batches] == [3, 3, 2]
    rows = [row for batch in batches for row in batch]
    assert [TEXTS[row] for row in rows] == ["", "a", "a", "b", "bb", "ccc", "aaaa", "dddd"]
    assert sorted(rows) == list(range(len(TEXTS)))


def test_batches_hold_the_same_texts_whatever_the_order():
    left, right = TEXTS, TEXTS[::-1]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(TEXTS))
        columns = [[texts[i] for i in order] for texts in (left, right)]
        found = [[tuple(column[row] for column in columns) for row in batch] for batch in length_sorted(3, *columns)]
        assert found == [[(left[row], right[row]) for row in batch] for batch in length_sorted(3, left, right)]


def test_pairs_are_scored_once_each_and_put_in_their_places():
    seen = []

    def score(left, right):
        seen.append(list(zip(left, right, strict=True)))
        return np.array([[len(a) - len(b), len(a)] for a, b in seen[-1]], dtype=float)

    left, right = TEXTS * 2, [*TEXTS[::-1], *TEXTS[::-1]]
    found = score_pairs(left, right, 3, "some", score)
    np.testing.assert_array_equal(found, [[len(a) - len(b), len(a)] for a, b in zip(left, right, strict=True)])
    assert max(map(len, seen)) == 3
    assert sorted(pair for batch in seen for pair in batch) == sorted(set(zip(left, right, strict=True)))
    flat = score_pairs(left, right, 5, "some", lambda a, b: np.array([len(text) for text in a]))
    assert flat.tolist() == [len(text) for text in left]


def test_empty_texts_are_counted_and_a_warning_names_what_happened(caplog):
    counts = count_empty(["", " \n", "a"], ["b", "c", "d"])
    assert counts == {"empty_predictions": 2, "empty_references": 0}
    with caplog.at_level(logging.WARNING, logger="xrec_repro"):
        warn_of(counts, "some", "scored as they are")
    assert [record.getMessage() for record in caplog.records] == ["some: 2 empty predictions scored as they are"]
