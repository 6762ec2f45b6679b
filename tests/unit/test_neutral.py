"""Each setting that is declared to change nothing changes nothing: byte for byte, or up to float32 rounding."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.chat_server import ChatServer
from tests.unit.conftest import make_examples
from tests.unit.test_generation import SAMPLED
from tests.unit.test_generation import run as generated
from tests.unit.test_scorers import METRICS, TEXTS
from tests.unit.test_scorers import SETTINGS as SCORER
from tests.unit.test_tuning import SETTINGS as TUNING
from xrec_repro.explainer.bundle import pack
from xrec_repro.explainer.tuning import tune
from xrec_repro.methods.base import Fitted
from xrec_repro.methods.driver import save_fitted
from xrec_repro.metrics.registry import build_metric, metric_class, metric_names
from xrec_repro.neutral import NEUTRAL, ROUNDING
from xrec_repro.profiles.chat import ChatBackend
from xrec_repro.profiles.records import ReviewText
from xrec_repro.scorers import train_scorer

GPTSCORE = {
    "model": "m", "revision": "r1", "temperature": 0.0, "max_new_tokens": 8, "attempts": 1,
    "api_key_env": "NO_KEY_HERE", "timeout_s": 9.0, "request_attempts": 2, "concurrency": 3, "cache": None,
}  # fmt: skip
CHAT = {
    "model": "m", "revision": "r1", "temperature": 0.0, "max_new_tokens": 60, "attempts": 2,
    "api_key_env": "NO_KEY_HERE", "timeout_s": 9.0, "concurrency": 3,
}  # fmt: skip
OTHER = {
    "generation.batch_size": (1, 2, 7),
    "generation.invariance": ("exact", "fast"),
    "tuning.checkpoint_every": (1, 5),
    "tuning.micro_batch_size": (1, 2),
    "tuning.activation_checkpointing": (True,),
    "metrics.*.batch_size": (1, 3),
    "metrics.gptscore.base_url": (None,),  # another server
    "metrics.gptscore.api_key_env": ("ANOTHER_KEY",),
    "metrics.gptscore.timeout_s": (5.0,),
    "metrics.gptscore.request_attempts": (1,),
    "metrics.gptscore.concurrency": (1,),
    "metrics.gptscore.cache": ("cache",),
    "profiles.chat.base_url": (None,),  # another server
    "profiles.chat.api_key_env": ("ANOTHER_KEY",),
    "profiles.chat.timeout_s": (5.0,),
    "profiles.chat.concurrency": (1,),
}


def cases(section):
    keys = [key for key in OTHER if key.startswith(section)]
    return [pytest.param(key.rpartition(".")[2], value, id=f"{key}={value}") for key in keys for value in OTHER[key]]


def test_every_declared_setting_is_tried_here():
    assert set(OTHER) == set(NEUTRAL)
    assert set(NEUTRAL) >= ROUNDING


@pytest.mark.parametrize(("key", "value"), cases("generation."))
def test_texts(tmp_path, explainer, examples, key, value):
    want, found = (
        generated(explainer(), examples, tmp_path / name, SAMPLED | change)
        for name, change in (("a", {}), ("b", {key: value}))
    )
    assert found.equals(want)
    assert len(set(want["prediction"].to_pylist())) > 5


def adapters(made, folder, change):
    losses = tune(made, make_examples(9), TUNING | change, 1, folder / "checkpoint")
    tensors, facts = pack(made.adapters, made.llm, {})
    save_fitted(folder, Fitted(tensors=tensors, facts=facts))
    return losses, load_file(folder / "weights.safetensors")


@pytest.mark.parametrize(("key", "value"), cases("tuning."))
def test_adapters(tmp_path, explainer, key, value):
    """Up to rounding holds for a few steps; many amplify it, as they do the last bits of another processor."""
    tolerance = 1e-4 if f"tuning.{key}" in ROUNDING else 0
    want, found = (adapters(explainer(), tmp_path / name, change) for name, change in (("a", {}), ("b", {key: value})))
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(want[0]), atol=tolerance, rtol=0)
    for name, tensor in want[1].items():
        torch.testing.assert_close(found[1][name], tensor, atol=tolerance * 100, rtol=0)
    if not tolerance:
        assert (tmp_path / "a/weights.safetensors").read_bytes() == (tmp_path / "b/weights.safetensors").read_bytes()


BATCHED = {name: (scorer, given) for scorer, (name, given) in METRICS.items()} | {"bertscore": (None, {})}


def test_all_metrics_with_batches_are_tried():
    assert {name for name in metric_names() if "batch_size" in metric_class(name).__dataclass_fields__} == set(BATCHED)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scorers")

    def model(kind):
        if kind is None:
            return "minilm"
        if not (folder / kind).is_dir():
            train_scorer(kind, TEXTS, SCORER, folder / kind)
        return str(folder / kind)

    return model


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize(("key", "value"), cases("metrics.*."))
def test_scores(scorer, name, key, value):
    kind, given = BATCHED[name]
    given = given or {"layer": 6, "idf": False, "rescale": False}
    settings = {**given, "model": scorer(kind), "revision": None, "batch_size": 16}
    predictions, references = [f"{text} And more." for text in TEXTS[:9]], [*TEXTS[20:28], "Short."]
    want, found = (
        build_metric(name, settings | change, "cpu").score(predictions, references) for change in ({}, {key: value})
    )
    assert found.signature == want.signature
    for column, values in want.columns.items():
        np.testing.assert_allclose(found.columns[column], values, atol=2e-5, rtol=0)


@pytest.fixture
def servers(monkeypatch):
    monkeypatch.setenv("ANOTHER_KEY", "k")
    with ChatServer() as one, ChatServer() as two:
        yield one, two


@pytest.mark.parametrize(("key", "value"), cases("metrics.gptscore."))
def test_served_scores(servers, tmp_path, monkeypatch, key, value):
    monkeypatch.setattr("tests.chat_server.answer", lambda body: str(len(json.dumps(body["messages"])) % 101))
    changed = {key: servers[1].url if key == "base_url" else str(tmp_path) if key == "cache" else value}
    want, found = (
        build_metric("gptscore", {**GPTSCORE, "base_url": servers[0].url} | change).score(TEXTS[:9], TEXTS[20:29])
        for change in ({}, changed)
    )
    assert found.signature == want.signature
    assert len(set(want.columns["gptscore"])) > 2
    np.testing.assert_array_equal(found.columns["gptscore"], want.columns["gptscore"])


@pytest.mark.parametrize(("key", "value"), cases("profiles.chat."))
def test_written_texts(servers, tmp_path, key, value):
    value = servers[1].url if key == "base_url" else value
    want, found = (
        ChatBackend({**CHAT, "base_url": servers[0].url} | change, "business", tmp_path / name, 50).references(
            [ReviewText(text) for text in TEXTS[:9]]
        )
        for name, change in (("a", {}), ("b", {key: value}))
    )
    assert found == want
    assert len(set(want)) == 9
