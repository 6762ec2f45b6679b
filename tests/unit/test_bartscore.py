"""BARTScore: equal to its formula evaluated pair by pair, whatever the batches; a signature that covers every field."""

import dataclasses
import json
import logging
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from xrec_repro.errors import ConfigError, ModelError
from xrec_repro.metrics.bartscore import BartScore
from xrec_repro.metrics.registry import metric_class
from xrec_repro.special_tokens import special_tokens, speller

SETTINGS = {
    "revision": None,
    "weights": None,
    "direction": "pred_to_ref",
    "max_length": 48,
    "dtype": "float32",
    "batch_size": 64,
}
COMMITS = ("a" * 40, "b" * 40)
PREDICTIONS = ["a good book", "the user would enjoy it", "x", "A café; 日本!", "they  like <mask> it", "war and peace"]
REFERENCES = ["the book is good", "it", "the user likes books of war", "a cheap café", "a <pad> b", "a good book"]
POSITIONS = 64


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", True)


def tokenizer(folder: Path):
    """Return BART's own (slow) tokenizer over all bytes and a few merges."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import BartTokenizer

    merges = ["t h", "th e", "Ġ the", "o o", "b oo", "boo k", "Ġ book", "a n", "an d", "Ġ and"]
    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet())]
    words += [merge.replace(" ", "") for merge in merges] + ["<mask>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return BartTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def network(seed: int, words: int, **changes):
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(seed)
    config = BartConfig(
        vocab_size=words,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=POSITIONS,
        init_std=0.4,
        **changes,
    )
    model = BartForConditionalGeneration(config).eval()
    model.final_logits_bias.normal_()  # zero in all published models, but part of the formula
    return model


def tiny(folder: Path, seed: int = 0) -> Path:
    """Save a BART of 16 dimensions that reads at most 64 tokens."""
    reader = tokenizer(folder)
    network(seed, len(reader)).save_pretrained(folder)
    reader.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny(tmp_path_factory.mktemp("models") / "bart")


def bart(folder: Path | str, **changes) -> BartScore:
    return BartScore.from_settings({**SETTINGS, "model": str(folder), **changes}, "cpu")


def values(metric: BartScore, predictions=PREDICTIONS, references=REFERENCES) -> np.ndarray:
    return metric.score(predictions, references).columns["bartscore"]


def formula(folder: Path, source: str, target: str) -> float:
    """Evaluate the original's formula with labels, for one pair, token by token."""
    from transformers import BartForConditionalGeneration, BartTokenizer

    model = BartForConditionalGeneration.from_pretrained(folder).eval()
    reader = BartTokenizer.from_pretrained(folder)
    spell = speller(special_tokens(reader))  # "<pad>" and "<mask>" are texts like any other
    given, wanted = (
        reader(spell(text), max_length=SETTINGS["max_length"], truncation=True, return_tensors="pt")["input_ids"]
        for text in (source, target)
    )
    with torch.no_grad():
        logits = model(input_ids=given, labels=wanted).logits[0].double()
    padding = model.config.pad_token_id
    total = 0.0
    for place, token in enumerate(wanted[0].tolist()):
        if token != padding:
            scores = logits[place].tolist()
            total += scores[token] - math.log(sum(math.exp(score) for score in scores))
    return total / wanted.shape[1]


def test_is_the_metric_of_its_name():
    assert metric_class("bartscore") is BartScore


def test_equals_the_formula_pair_by_pair(folder):
    expected = [formula(folder, *pair) for pair in zip(PREDICTIONS, REFERENCES, strict=True)]
    np.testing.assert_allclose(values(bart(folder)), expected, atol=1e-5, rtol=0)
    assert np.std(expected) > 0.05
    assert max(expected) < 0


def test_equals_the_negative_loss_of_the_model(folder):
    from transformers import AutoTokenizer, BartForConditionalGeneration

    reader, model = AutoTokenizer.from_pretrained(folder), BartForConditionalGeneration.from_pretrained(folder)
    given, wanted = (reader(text, return_tensors="pt")["input_ids"] for text in ("a good book", "it is the end"))
    with torch.no_grad():
        loss = model.eval()(input_ids=given, labels=wanted).loss.item()
    np.testing.assert_allclose(values(bart(folder), ["a good book"], ["it is the end"]), [-loss], atol=1e-5, rtol=0)


@pytest.mark.parametrize("direction", ["pred_to_ref", "f"])
def test_does_not_depend_on_the_batch_size(folder, direction):
    whole = values(bart(folder, direction=direction))
    for size in (1, 2, 5):
        other = bart(folder, direction=direction, batch_size=size)
        np.testing.assert_allclose(values(other), whole, atol=1e-5, rtol=0)
        assert other.signature == bart(folder, direction=direction).signature


def test_does_not_depend_on_the_order_of_the_rows(folder):
    metric = bart(folder, batch_size=4)
    predictions, references = PREDICTIONS * 2, REFERENCES * 2
    order = np.random.default_rng(0).permutation(len(predictions))
    shuffled = values(metric, [predictions[i] for i in order], [references[i] for i in order])
    np.testing.assert_array_equal(shuffled, values(metric, predictions, references)[order])


def test_directions(folder):
    there, back = values(bart(folder)), values(bart(folder, direction="ref_to_pred"))
    np.testing.assert_allclose(back, values(bart(folder), REFERENCES, PREDICTIONS), atol=1e-6, rtol=0)
    np.testing.assert_allclose(values(bart(folder, direction="f")), (there + back) / 2, atol=1e-6, rtol=0)
    assert np.abs(there - back).max() > 0.05


def test_an_empty_text_is_scored_by_its_special_tokens_and_counted(folder, caplog):
    with caplog.at_level(logging.WARNING, logger="xrec_repro"):
        scores = bart(folder).score(["", "a book", " \n"], ["a good book", "", "it"])
    pairs = [("", "a good book"), ("a book", ""), (" \n", "it")]
    np.testing.assert_allclose(scores.columns["bartscore"], [formula(folder, *p) for p in pairs], atol=1e-5, rtol=0)
    assert scores.counts == {
        "empty_predictions": 2,
        "empty_references": 1,
        "truncated_predictions": 0,
        "truncated_references": 0,
    }
    assert "bartscore: 2 empty predictions scored by their special tokens alone" in caplog.text


def test_long_texts_are_cut_and_counted(folder, caplog):
    fits = "x" * (SETTINGS["max_length"] - 2)  # and two special tokens
    predictions, references = [fits, fits + "yz", fits + "yz", "a"], ["a book", "it", "it", fits + "y"]
    with caplog.at_level(logging.WARNING, logger="xrec_repro"):
        scores = bart(folder, batch_size=2).score(predictions, references)
    cut = values(bart(folder), [fits, fits, fits, "a"], ["a book", "it", "it", fits])
    np.testing.assert_allclose(scores.columns["bartscore"], cut, atol=1e-5, rtol=0)
    assert scores.counts["truncated_predictions"] == 2
    assert scores.counts["truncated_references"] == 1
    assert "bartscore: 2 truncated predictions cut to 48 tokens" in caplog.text


def test_half_precision_is_near_and_named(folder):
    half = bart(folder, dtype="bfloat16")
    np.testing.assert_allclose(values(half), values(bart(folder)), rtol=0.05)
    assert "|dtype:bfloat16|" in half.signature


def test_signature_of_a_folder(folder):
    import transformers

    head, model, *rest = bart(folder).signature.split("|")
    assert head == "bartscore"
    assert model.startswith("model:bart@sha256:")
    assert rest == [
        "rev:-",
        "weights:-",
        "direction:pred_to_ref",
        "max_length:48",
        "dtype:float32",
        f"transformers:{transformers.__version__}",
    ]


def test_every_argument_but_the_neutral_ones_changes_the_signature(folder, tmp_path):
    other = tiny(tmp_path / "bart", seed=1)
    changed = {
        "model": str(other),
        "weights": str(other / "model.safetensors"),
        "direction": "f",
        "max_length": 47,
        "dtype": "float16",
    }
    signatures = {key: bart(folder, **{key: value}).signature for key, value in changed.items()}
    pinned = [bart("some/bart", revision=commit).signature for commit in COMMITS]
    fields = {field.name for field in dataclasses.fields(BartScore)}
    assert {*changed, "revision"} == fields - {"batch_size", "device"}
    assert len({*signatures.values(), *pinned, bart(folder).signature}) == len(changed) + 3


def test_the_content_of_the_weights_is_in_the_signature_and_their_place_is_not(folder, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for place, bias in (("a/w.safetensors", 0.0), ("b/w.safetensors", 0.0), ("b/v.safetensors", 1.0)):
        save_file({"final_logits_bias": torch.full((1, 3), bias)}, tmp_path / place)
    (tmp_path / "c").mkdir()
    shutil.copy(tmp_path / "b" / "v.safetensors", tmp_path / "c" / "w.safetensors")
    same = [bart(folder, weights=str(tmp_path / place / "w.safetensors")).signature for place in "abc"]
    assert same[0] == same[1] != same[2]


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_additional_weights_replace_those_of_the_model(folder, tmp_path, form):
    other = tiny(tmp_path / "other", seed=1)
    if form == "pth":  # as bart_score.pth: all names, the tied ones too
        weights = tmp_path / "bart_score.pth"
        torch.save(network(1, len(tokenizer(other))).state_dict(), weights)
    else:  # as save_pretrained writes them: one name for what is tied
        weights = other / "model.safetensors"
    np.testing.assert_array_equal(values(bart(folder, weights=str(weights))), values(bart(other)))
    assert np.abs(values(bart(other)) - values(bart(folder))).max() > 0.1


def test_weights_that_are_not_there_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"metrics\.bartscore\.weights: .*absent\.pth: no such file"):
        bart(folder, weights=str(tmp_path / "absent.pth"))


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_weights_that_would_run_code_are_refused_and_run_none(folder, tmp_path):
    torch.save({"final_logits_bias": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pth")
    with pytest.raises(ModelError, match=r"bomb\.pth is neither a state dict of torch\.save nor of safetensors"):
        values(bart(folder, weights=str(tmp_path / "bomb.pth")))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors"])
def test_weights_that_are_no_weights_are_refused(folder, tmp_path, name):
    (tmp_path / name).write_text("<html>quota exceeded</html>")
    with pytest.raises(ModelError, match="neither a state dict") as caught:
        values(bart(folder, weights=str(tmp_path / name)))
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(folder, tmp_path):
    state = network(1, len(tokenizer(tmp_path))).state_dict()
    whole = {name: tensor.clone() for name, tensor in state.items()}
    part = {name: tensor for name, tensor in whole.items() if "encoder.layers.1.fc1.bias" not in name}
    untied = {name: tensor for name, tensor in whole.items() if not name.endswith(("shared.weight", "tokens.weight"))}
    cases = {
        "more": (whole | {"epoch": torch.zeros(1)}, "holds epoch, which the model has not"),
        "less": (part, r"has no model\.encoder\.layers\.1\.fc1\.bias"),
        "head": ({name: tensor for name, tensor in untied.items() if name != "lm_head.weight"}, "has no model.shared"),
        "wide": (whole | {"model.encoder.layers.1.fc1.bias": torch.zeros(33)}, "has other shapes than the model"),
        "list": ([1, 2], "holds <class 'list'>"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(ModelError, match=message) as caught:
            values(bart(folder, weights=str(tmp_path / f"{name}.pth")))
        assert "\n" not in str(caught.value)
    torch.save(untied, tmp_path / "untied.pth")  # lm_head stands for all that is tied to it
    np.testing.assert_array_equal(
        values(bart(folder, weights=str(tmp_path / "untied.pth"))), values(bart(tiny(tmp_path / "bart", 1)))
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"direction": "both"}, r"metrics\.bartscore\.direction: 'both' is not known; .*pred_to_ref, ref_to_pred, f"),
        ({"dtype": "int8"}, r"metrics\.bartscore\.dtype: 'int8' is not known; use one of: float32"),
        ({"model": "/absent/bart"}, r"metrics\.bartscore\.model: /absent/bart: no such folder"),
        ({"model": "facebook/bart-large-cnn"}, r"metrics\.bartscore\.revision: None .*40-digit commit"),
        ({"model": "facebook/bart-large-cnn", "revision": "main"}, r"metrics\.bartscore\.revision: 'main'"),
        ({"revision": COMMITS[0]}, r"metrics\.bartscore\.revision: .*set the revision to null"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        BartScore.from_settings({**SETTINGS, "model": str(folder), **changes})


def test_more_tokens_than_the_model_reads_are_refused(folder):
    with pytest.raises(ConfigError, match=r"metrics\.bartscore\.max_length: 65, but .* reads at most 64 tokens"):
        values(bart(folder, max_length=65))
    assert np.isfinite(values(bart(folder, max_length=64), ["x" * 99], ["y" * 99])).all()


def test_a_model_of_another_architecture_is_refused(folder, tmp_path):
    from transformers import BartConfig, BertConfig, BertModel, MBartConfig, MBartForConditionalGeneration

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=50, **size)).save_pretrained(tmp_path / "bert")
    # mBART has the names of BART and would load with only a warning.
    shape = BartConfig.from_pretrained(folder).to_diff_dict()
    shape.pop("model_type")
    MBartForConditionalGeneration(MBartConfig(**shape)).save_pretrained(tmp_path / "mbart")
    for name in ("bert", "mbart"):
        with pytest.raises(
            ModelError, match=rf"bartscore: .* is a {name} model; set metrics\.bartscore\.model to a bart"
        ):
            values(bart(tmp_path / name))


def test_a_model_without_a_part_of_its_weights_is_refused(folder, tmp_path):
    broken = Path(shutil.copytree(folder, tmp_path / "bart"))
    settings = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(settings | {"decoder_layers": 3}))
    with pytest.raises(ModelError, match=r"has no weights for model\.decoder\.layers\.2"):
        values(bart(broken))


def test_a_tokenizer_that_does_not_belong_to_the_model_is_refused(folder, tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": 1, "<unk>": 2}, unk_token="<unk>"))
    for name, padding, message in (
        ("padding", "<unk>", "pads with token 1 but its tokenizer with 2"),
        ("bare", "<pad>", "adds no special tokens"),
    ):
        other = Path(shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns("*token*", "*.txt")))
        (other / "vocab.json").unlink()
        PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", pad_token=padding).save_pretrained(other)
        with pytest.raises(ModelError, match=message):
            values(bart(other))


def test_the_revision_of_a_hub_repository_is_honoured(tmp_path, monkeypatch):
    snapshots = tmp_path / "cache" / "models--some--bart" / "snapshots"
    folders = [tiny(snapshots / commit, seed) for seed, commit in enumerate(COMMITS)]
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path / "cache"))
    for commit, place in zip(COMMITS, folders, strict=True):
        metric = bart("some/bart", revision=commit)
        np.testing.assert_array_equal(values(metric), values(bart(place)))
        assert f"|model:some/bart|rev:{commit}|" in metric.signature
    with pytest.raises(ModelError, match="bartscore: some/other cannot be loaded") as caught:
        values(bart("some/other", revision=COMMITS[0]))
    assert "\n" not in str(caught.value)
