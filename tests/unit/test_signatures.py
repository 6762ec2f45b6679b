"""Signatures of all metrics: a changed argument is a changed signature, of whatever metric there is.

A new metric needs an entry in `SETTINGS`, and a new field of text one in `OTHER`; the tests say so.
"""

import dataclasses
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from xrec_repro.metrics.base import Metric
from xrec_repro.metrics.registry import build_metric, metric_class, metric_names
from xrec_repro.neutral import neutral

COMMITS = ("a" * 40, "b" * 40)
REPOSITORIES = ("FacebookAI/roberta-base", "FacebookAI/roberta-large")  # bert-score has baselines of these names
HUB = {"model": REPOSITORIES[0], "revision": COMMITS[0]}

# Metric -> settings with which it can be built.
SETTINGS: dict[str, dict[str, Any]] = {
    "bartscore": {
        **HUB,
        "weights": None,
        "direction": "pred_to_ref",
        "max_length": 1024,
        "dtype": "float32",
        "batch_size": 4,
    },
    "bertscore": {**HUB, "layer": 2, "idf": False, "rescale": False, "batch_size": 64},
    "bleu": {"effective_order": True, "smoothing": "exp", "tokenizer": "13a", "lowercase": False},
    "bleurt": {**HUB, "max_length": 512, "dtype": "float32", "batch_size": 16},
    "distinct": {},
    "div": {},
    "faithfulness": {},
    "fcr": {},
    "fmr": {},
    "gptscore": {
        "base_url": "http://127.0.0.1:1/v1",
        "model": "gpt-3.5-turbo",
        "revision": None,
        "temperature": 1.0,
        "max_new_tokens": 16,
        "attempts": 3,
        "api_key_env": "KEY",
        "timeout_s": 60.0,
        "request_attempts": 5,
        "concurrency": 4,
        "cache": None,
    },
    "llamascore": {
        **HUB,
        "mode": "parse",
        "max_new_tokens": 16,
        "attempts": 3,
        "min_mass": 0.5,
        "dtype": "bfloat16",
        "batch_size": 8,
    },
    "mae": {},
    "rmse": {},
    "rouge": {"stemmer": False},
    "usr": {},
}
# Field, or metric and field -> another value, where no rule gives one. The first that fits is taken.
OTHER: dict[str, Any] = {
    "gptscore.model": "gpt-3.5-turbo-0125",
    "model": REPOSITORIES[1],
    "revision": COMMITS[1],
    "weights": "weights.pth",  # a file that the fixture writes
    "direction": "f",
    "dtype": "float16",
    "mode": "expected",
    "smoothing": "add-k",
    "tokenizer": "intl",
    "device": "cpu",
    "base_url": "http://127.0.0.1:2/v1",
    "api_key_env": "OTHER_KEY",
    "cache": "answers",
}
# Metric -> what beside batch_size and device changes no value. Only a test of the metric can tell; then list it here.
NEUTRAL = {"gptscore": {"base_url", "api_key_env", "timeout_s", "request_attempts", "concurrency", "cache"}}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A folder with the configuration and the tokenizer of a chat model of 3 layers, and weights that nobody loads."""
    from transformers import BertConfig, BertTokenizer

    folder = tmp_path_factory.mktemp("models") / "roberta-base"
    folder.mkdir()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n", encoding="utf-8")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.chat_template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    tokenizer.save_pretrained(folder)
    BertConfig(vocab_size=6, hidden_size=8, num_hidden_layers=3, num_attention_heads=2).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"one")
    return folder


@pytest.fixture(scope="module")
def cache(model, tmp_path_factory) -> Path:
    """A cache of the hub with two repositories of two commits each."""
    folder = tmp_path_factory.mktemp("cache")
    for repository in REPOSITORIES:
        for commit in COMMITS:
            shutil.copytree(model, folder / f"models--{repository.replace('/', '--')}" / "snapshots" / commit)
    return folder


@pytest.fixture(autouse=True)
def _offline(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", True)
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    Path("weights.pth").write_bytes(b"weights")


def build(name: str, **changes: Any) -> Metric:
    if name not in SETTINGS:
        pytest.fail(f"the metric {name!r} is new: give settings for it in SETTINGS of {Path(__file__).name}")
    return build_metric(name, {**SETTINGS[name], **changes})


def other(name: str, field: str, value: Any) -> Any:
    """Return another value of a field."""
    for key in (f"{name}.{field}", field):
        if key in OTHER:
            return OTHER[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 + 0.1
    pytest.fail(f"metrics.{name}.{field}: give another value than {value!r} in OTHER of {Path(__file__).name}")


def changed(name: str, field: str) -> tuple[str, str]:
    """Return the signature before and after a field has got another value."""
    metric = build(name)
    value = other(name, field, getattr(metric, field))
    assert value != getattr(metric, field)
    return metric.signature, dataclasses.replace(metric, **{field: value}).signature


def identical(name: str) -> set[str]:
    """Return the settings of a metric that change nothing, as it is set in `SETTINGS`."""
    found = neutral({"metrics": {name: SETTINGS.get(name, {})}})
    return set(found.get("metrics", {}).get(name, {}))


def fields(neutral: bool) -> list[tuple[str, str]]:
    return [
        (name, field.name)
        for name in metric_names()
        for field in dataclasses.fields(metric_class(name))
        if (field.name in metric_class(name).neutral | identical(name)) == neutral
    ]


@pytest.mark.parametrize(("name", "field"), fields(neutral=False))
def test_another_argument_is_another_signature(name, field):
    before, after = changed(name, field)
    assert before != after


@pytest.mark.parametrize(("name", "field"), fields(neutral=True))
def test_a_neutral_argument_is_not_in_the_signature(name, field):
    before, after = changed(name, field)
    assert before == after


@pytest.mark.parametrize("name", metric_names())
def test_nothing_is_neutral_but_what_is_known_to_be(name):
    assert metric_class(name).neutral == {"device"} | ({"base_url"} & NEUTRAL.get(name, set()))
    assert metric_class(name).neutral | identical(name) >= NEUTRAL.get(name, set())
    assert identical(name) <= {"batch_size"} | NEUTRAL.get(name, set())


@pytest.mark.parametrize("name", ["bartscore", "bleurt", "llamascore"])
def test_in_half_precision_the_batch_size_is_in_the_signature(name):
    one, other = (build(name, dtype="bfloat16", batch_size=size).signature for size in (1, 16))
    assert one != other
    assert "batch_size:16" in other
    assert build(name, dtype="float32", batch_size=1).signature == build(name, dtype="float32", batch_size=16).signature


def test_the_signature_of_bertscore_has_the_versions_that_its_package_prints():
    parts = build("bertscore").signature.split("|")
    assert {f"v:{version('bert-score')}", f"transformers:{version('transformers')}"} <= set(parts)


@pytest.mark.parametrize("name", metric_names())
def test_a_signature_begins_with_the_name_and_is_the_same_each_time(name):
    assert build(name).signature == build(name).signature
    assert build(name).signature.split("|")[0] == name


@pytest.mark.parametrize("name", [name for name in metric_names() if hasattr(metric_class(name), "_folder")])
def test_the_content_of_a_folder_is_in_the_signature_and_its_place_is_not(name, model, tmp_path):
    def signature(folder: Path) -> str:
        return build(name, model=str(folder), revision=None).signature

    moved = Path(shutil.copytree(model, tmp_path / "moved" / model.name))
    assert signature(moved) == signature(model)
    assert str(model.parent) not in signature(model)
    for file, content in (("model.safetensors", b"two"), ("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nb\n")):
        tuned = Path(shutil.copytree(model, tmp_path / file / model.name))
        (tuned / file).write_bytes(content)
        assert signature(tuned) != signature(model)


def test_the_tables_name_no_metric_and_no_field_that_is_gone():
    known = {*fields(neutral=True), *fields(neutral=False)}
    names, keys = {name for name, _ in known}, {field for _, field in known}
    assert set(SETTINGS) <= names
    assert set(OTHER) <= keys | {f"{name}.{field}" for name, field in known}
