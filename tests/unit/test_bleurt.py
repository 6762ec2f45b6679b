"""BLEURT: equal to bleurt-pytorch pair by pair, whatever the batches; a signature that covers every field."""

import dataclasses
import itertools
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from xrec_repro.errors import ConfigError, ModelError
from xrec_repro.metrics._batches import problems
from xrec_repro.metrics.bleurt import Bleurt, _fit
from xrec_repro.metrics.registry import metric_class
from xrec_repro.special_tokens import special_tokens, speller

SETTINGS = {"revision": None, "max_length": 24, "dtype": "float32", "batch_size": 64}
COMMITS = ("a" * 40, "b" * 40)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += ["the", "user", "would", "enjoy", "a", "book", "of", "war", "and", "peace", "##s", "."]
PREDICTIONS = [
    "a book",
    "The users would enjoy war and peace.",
    "unknown",
    "peace",
    "a user and a book of war",
    "[SEP]",
]
REFERENCES = ["the user would enjoy a book of war", "the user", "a book", "peace", "war and peace", "the book"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", True)


def save(folder: Path, tokenizer, seed: int, **changes) -> Path:
    """Save a BLEURT of 16 dimensions that reads at most 32 tokens, with its tokenizer."""
    from bleurt_pytorch import BleurtConfig, BleurtForSequenceClassification

    torch.manual_seed(seed)
    config = BleurtConfig(
        **{
            "vocab_size": len(tokenizer),
            "embedding_size": 8,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 32,
            "initializer_range": 0.4,
            **changes,
        }
    )
    BleurtForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny(folder: Path, seed: int = 0, **changes) -> Path:
    """Save a BLEURT with word pieces, as BLEURT-Tiny has them."""
    from bleurt_pytorch.bleurt.tokenization_bleurt_fast import BleurtTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return save(folder, BleurtTokenizerFast(str(folder / "vocab.txt")), seed, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny(tmp_path_factory.mktemp("models") / "bleurt-tiny")


@pytest.fixture(scope="module")
def sentencepiece_folder(tmp_path_factory) -> Path:
    """A BLEURT with a SentencePiece model, as BLEURT-20 and its distilled forms have it."""
    from bleurt_pytorch.bleurt.tokenization_bleurt_sp import BleurtSPTokenizer
    from sentencepiece import SentencePieceTrainer

    place = tmp_path_factory.mktemp("pieces")
    special = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}
    names = {"pad_piece": "[PAD]", "unk_piece": "[UNK]", "bos_piece": "[CLS]", "eos_piece": "[SEP]"}
    SentencePieceTrainer.train(
        sentence_iterator=iter(REFERENCES * 4),
        model_prefix=str(place / "spm"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
        **special,
        **names,
    )
    return save(place / "bleurt-20", BleurtSPTokenizer(str(place / "spm.model")), 3)


def bleurt(folder: Path | str, **changes) -> Bleurt:
    return Bleurt.from_settings({**SETTINGS, "model": str(folder), **changes}, "cpu")


def values(metric: Bleurt, predictions=PREDICTIONS, references=REFERENCES) -> np.ndarray:
    return metric.score(predictions, references).columns["bleurt"]


def package(folder: Path, prediction: str, reference: str) -> float:
    """Score one pair as the package's README does, without padding."""
    from bleurt_pytorch import BleurtForSequenceClassification, BleurtTokenizer

    model = BleurtForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = BleurtTokenizer.from_pretrained(folder)
    with torch.no_grad():
        inputs = tokenizer([reference], [prediction], padding="longest", return_tensors="pt")
        return model(**inputs).logits.item()


def by_hand(folder: Path, prediction: list[str], reference: list[str]) -> float:
    """Score words that the vocabulary has, in the layout of BLEURT's own encoding."""
    from bleurt_pytorch import BleurtForSequenceClassification

    left, right = ["[CLS]", *reference, "[SEP]"], [*prediction, "[SEP]"]
    ids = torch.tensor([[WORDS.index(word) for word in left + right]])
    segments = torch.tensor([[0] * len(left) + [1] * len(right)])
    with torch.no_grad():
        model = BleurtForSequenceClassification.from_pretrained(folder).eval()
        return model(input_ids=ids, token_type_ids=segments).logits.item()


def test_is_the_metric_of_its_name():
    assert metric_class("bleurt") is Bleurt


@pytest.mark.parametrize("kind", ["folder", "sentencepiece_folder"])
def test_equals_the_package_pair_by_pair(kind, request):
    place = request.getfixturevalue(kind)
    predictions, references = PREDICTIONS[:1] + PREDICTIONS[2:], REFERENCES[:1] + REFERENCES[2:]
    metric = bleurt(place, max_length=32)
    spell = speller(special_tokens(metric._tokenizer))  # "[SEP]" is a text like any other
    expected = [package(place, spell(one), spell(other)) for one, other in zip(predictions, references, strict=True)]
    scores = metric.score(predictions, references)
    assert scores.counts["truncated_pairs"] == 0
    np.testing.assert_allclose(scores.columns["bleurt"], expected, atol=1e-5, rtol=0)
    assert np.std(expected) > 0.05


def test_the_reference_comes_first(folder):
    prediction, reference = ["a", "book"], ["the", "user", "would", "enjoy", "peace"]
    found = values(bleurt(folder), [" ".join(prediction)], [" ".join(reference)])
    np.testing.assert_allclose(found, [by_hand(folder, prediction, reference)], atol=1e-6, rtol=0)
    assert abs(found[0] - by_hand(folder, reference, prediction)) > 0.01


@pytest.mark.parametrize("kind", ["folder", "sentencepiece_folder"])
def test_does_not_depend_on_the_batch_size(kind, request):
    metric = bleurt(request.getfixturevalue(kind))
    for size in (1, 2, 5):
        other = dataclasses.replace(metric, batch_size=size)
        np.testing.assert_allclose(values(other), values(metric), atol=1e-5, rtol=0)
        assert other.signature == metric.signature


def test_does_not_depend_on_the_order_of_the_rows(folder):
    metric = bleurt(folder, batch_size=4)
    predictions, references = PREDICTIONS * 2, REFERENCES * 2
    order = np.random.default_rng(0).permutation(len(predictions))
    shuffled = values(metric, [predictions[i] for i in order], [references[i] for i in order])
    np.testing.assert_array_equal(shuffled, values(metric, predictions, references)[order])


@pytest.mark.parametrize("kind", ["folder", "sentencepiece_folder"])
def test_empty_texts_are_scored_and_counted(kind, request, caplog):
    place = request.getfixturevalue(kind)
    predictions, references = ["", "a book", " \n", ""], ["the user", "", "war", ""]
    with caplog.at_level(logging.WARNING, logger="xrec_repro"):
        scores = bleurt(place).score(predictions, references)
    expected = [package(place, *pair) for pair in zip(predictions, references, strict=True)]
    np.testing.assert_allclose(scores.columns["bleurt"], expected, atol=1e-5, rtol=0)
    assert problems(scores.counts) == {"empty_predictions": 3, "empty_references": 2}
    assert "bleurt: 3 empty predictions scored as they are" in caplog.text


def test_an_empty_prediction_leaves_the_reference_alone(folder):
    found = values(bleurt(folder), [""], ["war and peace"])
    np.testing.assert_allclose(found, [by_hand(folder, [], ["war", "and", "peace"])], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("predicted", "referred"), [(40, 5), (5, 40), (30, 31), (31, 30), (30, 30), (11, 11), (60, 10), (40, 11)]
)
def test_a_long_pair_loses_the_end_of_its_longer_text(folder, predicted, referred):
    rng = np.random.default_rng(predicted)
    prediction, reference = (rng.choice(WORDS[5:15], size).tolist() for size in (predicted, referred))
    scores = bleurt(folder).score([" ".join(prediction), "a"], [" ".join(reference), "a"])
    while len(prediction) + len(reference) > SETTINGS["max_length"] - 3:
        (reference if len(reference) > len(prediction) else prediction).pop()
    assert scores.counts["truncated_pairs"] == 1
    np.testing.assert_allclose(
        scores.columns["bleurt"][:1], [by_hand(folder, prediction, reference)], atol=1e-5, rtol=0
    )


def test_cutting_equals_popping_one_by_one():
    for left, right, room in itertools.product(range(9), range(9), range(12)):
        reference, prediction = list(range(left)), list(range(right))
        fitted = _fit(reference, prediction, room)
        while len(reference) + len(prediction) > room:
            (reference if len(reference) > len(prediction) else prediction).pop()
        assert fitted == (reference, prediction)


def test_truncated_pairs_are_counted_row_by_row(folder, caplog):
    longer = "war and peace " * 9
    with caplog.at_level(logging.WARNING, logger="xrec_repro"):
        scores = bleurt(folder, batch_size=2).score([longer, "a", longer, "a"], ["a", longer, "a", "a"])
    assert scores.counts["truncated_pairs"] == 3
    assert "bleurt: 3 truncated pairs cut to 24 tokens" in caplog.text
    exact = " ".join(["war"] * 10), " ".join(["peace"] * 11)  # 24 tokens with the special ones
    assert bleurt(folder).score(*([text] for text in exact)).counts["truncated_pairs"] == 0


def test_half_precision_is_near_and_named(folder):
    half = bleurt(folder, dtype="bfloat16")
    np.testing.assert_allclose(values(half), values(bleurt(folder)), atol=0.1)
    assert "|dtype:bfloat16|" in half.signature


def test_signature_of_a_folder(folder):
    import transformers

    head, model, *rest = bleurt(folder).signature.split("|")
    assert head == "bleurt"
    assert model.startswith("model:bleurt-tiny@sha256:")
    assert rest == [
        "rev:-",
        "max_length:24",
        "dtype:float32",
        "bleurt-pytorch:0.0.1",
        f"transformers:{transformers.__version__}",
    ]


def test_every_argument_but_the_neutral_ones_changes_the_signature(folder, tmp_path):
    changed = {"model": str(tiny(tmp_path / "bleurt-tiny", seed=1)), "max_length": 23, "dtype": "float16"}
    signatures = [bleurt(folder, **{key: value}).signature for key, value in changed.items()]
    pinned = [bleurt("some/bleurt", revision=commit).signature for commit in COMMITS]
    fields = {field.name for field in dataclasses.fields(Bleurt)}
    assert {*changed, "revision"} == fields - {"batch_size", "device"}
    assert len({*signatures, *pinned, bleurt(folder).signature}) == len(changed) + 3


def test_the_pieces_of_the_tokenizer_are_in_the_signature(sentencepiece_folder, tmp_path):
    changed = Path(shutil.copytree(sentencepiece_folder, tmp_path / "bleurt-20"))
    assert bleurt(changed).signature == bleurt(sentencepiece_folder).signature
    other = Path(shutil.copytree(sentencepiece_folder, tmp_path / "other" / "bleurt-20"))
    (other / "spm.model").write_bytes((changed / "spm.model").read_bytes()[:-1])
    assert bleurt(other).signature != bleurt(sentencepiece_folder).signature


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int8"}, r"metrics\.bleurt\.dtype: 'int8' is not known; use one of: float32"),
        ({"model": "/absent/bleurt"}, r"metrics\.bleurt\.model: /absent/bleurt: no such folder"),
        ({"model": "lucadiliello/BLEURT-20-D12"}, r"metrics\.bleurt\.revision: None .*40-digit commit"),
        ({"revision": COMMITS[0]}, r"metrics\.bleurt\.revision: .*set the revision to null"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        Bleurt.from_settings({**SETTINGS, "model": str(folder), **changes})


def test_more_tokens_than_the_model_reads_are_refused(folder):
    with pytest.raises(ConfigError, match=r"metrics\.bleurt\.max_length: 33, but .* reads at most 32 tokens"):
        values(bleurt(folder, max_length=33))


def test_a_model_of_another_architecture_is_refused(folder, tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    bert = BertForSequenceClassification(BertConfig(vocab_size=len(WORDS), num_labels=1, **size))
    bert.save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match=r"bleurt: .* is a bert model; set metrics\.bleurt\.model to a bleurt model"):
        values(bleurt(tmp_path / "bert"))


def test_a_model_with_another_head_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"two cannot be loaded .*size mismatch") as caught:
        values(bleurt(tiny(tmp_path / "two", num_labels=2)))
    assert "\n" not in str(caught.value)


def test_a_model_without_a_part_of_its_weights_is_refused(folder, tmp_path):
    broken = Path(shutil.copytree(folder, tmp_path / "bleurt"))
    settings = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"has no weights for bleurt\.encoder\.layer\.2") as caught:
        values(bleurt(broken))
    assert "\n" not in str(caught.value)


def test_a_folder_without_tokenizer_is_refused(folder, tmp_path):
    bare = Path(shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*", "vocab*")))
    with pytest.raises(ModelError, match=r"bleurt: .* cannot be loaded .*set metrics\.bleurt\.model") as caught:
        values(bleurt(bare))
    assert "\n" not in str(caught.value)


def test_the_revision_of_a_hub_repository_is_honoured(tmp_path, monkeypatch):
    snapshots = tmp_path / "cache" / "models--some--bleurt" / "snapshots"
    folders = [tiny(snapshots / commit, seed) for seed, commit in enumerate(COMMITS)]
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path / "cache"))
    for commit, place in zip(COMMITS, folders, strict=True):
        metric = bleurt("some/bleurt", revision=commit)
        np.testing.assert_array_equal(values(metric), values(bleurt(place)))
        assert f"|model:some/bleurt|rev:{commit}|" in metric.signature
