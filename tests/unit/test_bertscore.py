"""BERTScore: equal to the package's own, whatever the batches; a signature that covers every argument."""

import dataclasses
import logging
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from xrec_repro.errors import ConfigError, ModelError
from xrec_repro.metrics._batches import problems
from xrec_repro.metrics.bertscore import BertScore

SETTINGS = {
    "model": "minilm",
    "revision": None,
    "layer": 6,
    "idf": False,
    "rescale": False,
    "batch_size": 64,
}
COLUMNS = ("bertscore_p", "bertscore_r", "bertscore_f1")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += ["the", "user", "would", "enjoy", "a", "book", "of", "war", "and", "peace"]
COMMITS = ("a" * 40, "b" * 40)
PREDICTIONS = [
    f"The user would {verb} this {noun} because it is {why}."
    for verb, noun in (("enjoy", "book"), ("buy", "novel"), ("like", "restaurant"), ("love", "café"))
    for why in ("good", "a moving story about war, love and loss", "close", "cheap and cheerful", "new; 日本")
]
REFERENCES = [
    f"The user {verb} it for the {what}" + " and the rest of it" * (i % 4)
    for i, (verb, what) in enumerate(
        (v, w) for v in ("praises", "would buy") for w in ["plot", "staff", "end", "price", "art"] * 2
    )
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", True)


@pytest.fixture(scope="module")
def minilm() -> BertScore:
    return BertScore.from_settings(SETTINGS, "cpu")


def tiny(folder: Path, seed: int = 0) -> Path:
    """Save a 3-layer BERT of 16 dimensions that reads at most 24 tokens."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def small(folder: Path | str, **changes) -> BertScore:
    return BertScore.from_settings({**SETTINGS, "model": str(folder), "layer": 2, **changes}, "cpu")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> str:
    """A repository with two commits in a cache of the hub."""
    snapshots = tmp_path / "cache" / "models--some--bert" / "snapshots"
    for seed, commit in enumerate(COMMITS):
        tiny(snapshots / commit, seed)
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path / "cache"))
    return "some/bert"


def values(scores) -> np.ndarray:
    return np.stack([scores.columns[name] for name in COLUMNS], axis=1)


def package(predictions, references, folder, layer, **options) -> np.ndarray:
    from bert_score import score

    result = score(predictions, references, model_type=str(folder), num_layers=layer, device="cpu", **options)
    return torch.stack(result, dim=1).double().numpy()


def test_equals_the_package_on_minilm(minilm):
    assert len(PREDICTIONS) == len(REFERENCES) == 20
    expected = package(PREDICTIONS, REFERENCES, minilm._folder, 6, batch_size=1)
    np.testing.assert_allclose(values(minilm.score(PREDICTIONS, REFERENCES)), expected, atol=1e-5, rtol=0)
    assert expected.std(axis=0).min() > 0.01


def test_equals_the_package_in_batches_where_no_token_is_unlike_all_others(minilm):
    predictions = [f"The user would enjoy the book because it is {word}." for word in "abcdefghijklmnopqrst"]
    references = [f"They would buy the book because it is {word}." for word in "tsrqponmlkjihgfedcba"]
    expected = package(predictions, references, minilm._folder, 6)
    np.testing.assert_allclose(values(minilm.score(predictions, references)), expected, atol=1e-5, rtol=0)


def test_a_checkpoint_without_a_weight_of_a_layer_that_is_read_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny(tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    made = SETTINGS | {"model": str(folder), "layer": 2}
    with pytest.raises(ModelError, match=r"has no weights for encoder\.layer\.0\.output\.dense\.weight"):
        BertScore.from_settings(made, "cpu").score(["a book"], ["the book"])


def test_does_not_depend_on_the_batch_size(minilm):
    minilm = dataclasses.replace(minilm, layer=2)
    whole = values(minilm.score(PREDICTIONS, REFERENCES))
    for size in (1, 7):
        other = dataclasses.replace(minilm, batch_size=size)
        assert other.signature == minilm.signature
        np.testing.assert_allclose(values(other.score(PREDICTIONS, REFERENCES)), whole, atol=1e-5, rtol=0)


def test_does_not_depend_on_the_order_of_the_rows(minilm):
    metric = dataclasses.replace(minilm, batch_size=3, layer=2)
    order = np.random.default_rng(0).permutation(20)
    shuffled = metric.score([PREDICTIONS[i] for i in order], [REFERENCES[i] for i in order])
    np.testing.assert_array_equal(values(shuffled), values(metric.score(PREDICTIONS, REFERENCES))[order])


def test_a_text_against_itself_scores_one(minilm):
    scores = values(minilm.score(PREDICTIONS, PREDICTIONS))
    np.testing.assert_allclose(scores, 1.0, atol=1e-5)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_lower_layer_equals_the_package(tmp_path, layer):
    folder = tiny(tmp_path / "bert")
    predictions, references = ["the user would enjoy", "a book"], ["a book of war", "peace and war"]
    ours = values(small(folder, layer=layer).score(predictions, references))
    np.testing.assert_allclose(ours, package(predictions, references, folder, layer), atol=1e-5, rtol=0)


def test_idf_weights_come_from_the_references_as_in_the_package(tmp_path):
    folder = tiny(tmp_path / "bert")
    predictions = ["the user would enjoy war", "a book of peace", "the book"]
    references = ["a book of war", "peace and war of the user", "the user would enjoy"]
    ours = values(small(folder, idf=True, batch_size=1).score(predictions, references))
    expected = package(predictions, references, folder, 2, idf=True, nthreads=0)
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=0)
    plain = values(small(folder).score(predictions, references))
    assert np.abs(plain - ours).max() > 1e-4


def test_an_empty_text_scores_zero_and_is_counted(minilm, caplog):
    with caplog.at_level(logging.WARNING, logger="xrec_repro"):
        scores = minilm.score(["", "a good book", " \n", "x"], ["a book", "a book", "a book", ""])
    assert values(scores)[[0, 2, 3]].tolist() == [[0.0] * 3] * 3
    assert values(scores)[1].min() > 0.5
    assert problems(scores.counts) == {"empty_predictions": 2, "empty_references": 1}
    assert "2 empty predictions" in caplog.text


def test_texts_of_unknown_tokens_alone_are_counted(minilm, caplog):
    scores = minilm.score(["\N{SLICE OF PIZZA}", "\u4e2d", "a book"], ["\N{HOT BEVERAGE}", "\u4e2d", "a book"])
    assert problems(scores.counts) == {"unreadable_predictions": 1, "unreadable_references": 1}
    assert "bertscore: 1 unreadable predictions scored by unknown tokens alone" in caplog.text


def test_texts_that_spell_special_tokens_stay_text(minilm):
    odd = ["a [SEP] book [MASK] [PAD] [CLS]", "[SEP]"]
    plain = ["a [ SEP ] book [ MASK ] [ PAD ] [ CLS ]", "[ SEP ]"]
    np.testing.assert_array_equal(values(minilm.score(odd, ["x"] * 2)), values(minilm.score(plain, ["x"] * 2)))
    assert not problems(minilm.score(odd, odd).counts)


def test_long_texts_are_cut_at_the_longest_input_of_the_model_and_counted(tmp_path, caplog):
    folder = tiny(tmp_path / "bert")
    settings = folder / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace('"model_max_length"', '"ignored"'))
    metric = small(folder)
    assert "|trunc:24|" in metric.signature
    start = "the user would enjoy a book of war and peace " * 2 + "the user"  # 22 tokens and two special ones
    longer = [start + " and war" * 40]
    scores = metric.score(longer, ["a book"])
    np.testing.assert_array_equal(values(scores), values(metric.score([start], ["a book"])))
    assert problems(scores.counts) == {"truncated_predictions": 1}
    assert "bertscore: 1 truncated predictions cut to 24 tokens" in caplog.text
    assert not problems(metric.score([start, start], ["a book", start]).counts)


def test_rescaling_uses_the_baseline_of_the_packages_file(tmp_path):
    folder = tiny(tmp_path / "mine")
    predictions, references = ["the user would enjoy", "a book"], ["a book of war", "peace and war"]
    plain = values(small(folder).score(predictions, references))
    rescaled = values(small(folder, rescale="roberta-base").score(predictions, references))
    import bert_score

    file = Path(bert_score.__file__).parent / "rescale_baseline" / "en" / "roberta-base.tsv"
    baseline = np.loadtxt(file, delimiter=",", skiprows=1)[2, 1:]
    np.testing.assert_allclose(rescaled, (plain - baseline) / (1 - baseline), rtol=1e-12)
    assert np.abs(rescaled - plain).max() > 0.1
    assert "|rescale:roberta-base|" in small(folder, rescale="roberta-base").signature


def test_a_folder_with_a_famous_name_does_not_get_the_famous_baseline(tmp_path):
    folder = tiny(tmp_path / "roberta-base")
    with pytest.raises(
        ConfigError, match=r"rescale: true, but what a folder is called \(.*roberta-base\) does not tell"
    ):
        small(folder, rescale=True)
    with pytest.raises(ConfigError, match="has no baseline for 'roberta-huge'"):
        small(folder, rescale="roberta-huge")


def test_rescaling_a_model_without_baseline_is_refused():
    with pytest.raises(ConfigError, match=r"metrics\.bertscore\.rescale: .*no baseline for 'minilm'.*roberta-large"):
        BertScore.from_settings({**SETTINGS, "rescale": True})


def test_the_papers_setting_finds_its_baseline():
    for model in ("roberta-large", "FacebookAI/roberta-large"):
        settings = {**SETTINGS, "model": model, "revision": COMMITS[0], "layer": 17, "rescale": True}
        assert BertScore.from_settings(settings)._baseline_name == "roberta-large"


def test_signature_of_the_default():
    signature = BertScore.from_settings(SETTINGS).signature
    head, model, *rest = signature.split("|")
    assert (head, model.split("@")[0]) == ("bertscore", "model:minilm")
    assert rest == [
        "rev:-",
        "layer:6",
        "idf:no",
        "rescale:no",
        "dtype:float32",
        "trunc:512",
        "padding:excluded",
        f"transformers:{version('transformers')}",
        f"v:{version('bert-score')}",
    ]


def test_every_argument_but_the_neutral_ones_changes_the_signature(tmp_path, hub):
    folder, other = tiny(tmp_path / "roberta-base", 1), tiny(tmp_path / "other" / "roberta-base", 2)
    changed = {
        "model": (small(folder), small(other)),
        "revision": tuple(small(hub, revision=commit) for commit in COMMITS),
        "layer": (small(folder), small(folder, layer=3)),
        "idf": (small(folder), small(folder, idf=True)),
        "rescale": (small(folder), small(folder, rescale="roberta-base")),
    }
    fields = {field.name for field in dataclasses.fields(BertScore)}
    assert set(changed) == fields - {"batch_size", "device"}
    signatures = [metric.signature for pair in changed.values() for metric in pair]
    for one, two in changed.values():
        assert one.signature != two.signature
    assert len(set(signatures)) == 7  # the same plain folder stands in four of the pairs


def test_the_place_of_a_folder_is_not_in_the_signature_but_its_tokenizer_is(tmp_path):
    folder = tiny(tmp_path / "bert")
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "bert"))
    assert small(copy).signature == small(folder).signature
    changed = Path(shutil.copytree(folder, tmp_path / "changed" / "bert"))
    (changed / "vocab.txt").write_text("\n".join([*WORDS[:5], *reversed(WORDS[5:])]))
    assert small(changed).signature != small(folder).signature


def test_the_revision_of_a_hub_repository_is_honoured(hub, tmp_path):
    texts = ["the user would enjoy"], ["a book of war"]
    ours = [values(small(hub, revision=commit).score(*texts)) for commit in COMMITS]
    folders = [tiny(tmp_path / str(seed), seed) for seed in (0, 1)]
    for value, folder in zip(ours, folders, strict=True):
        np.testing.assert_array_equal(value, values(small(folder).score(*texts)))
    assert np.abs(ours[0] - ours[1]).max() > 1e-3


def test_a_hub_repository_needs_a_commit():
    for revision in (None, "main", "a" * 39):
        with pytest.raises(ConfigError, match=r"metrics\.bertscore\.revision: .*40-digit commit"):
            BertScore.from_settings({**SETTINGS, "model": "roberta-large", "revision": revision})


def test_a_revision_beside_a_folder_is_refused():
    with pytest.raises(ConfigError, match="set the revision to null"):
        BertScore.from_settings({**SETTINGS, "revision": COMMITS[0]})


def test_a_missing_folder_is_not_taken_for_a_repository(tmp_path):
    with pytest.raises(ConfigError, match=r"metrics\.bertscore\.model: .*no such folder"):
        small(tmp_path / "absent")


def test_a_repository_that_cannot_be_loaded_is_one_line(hub):
    with pytest.raises(ModelError, match="bertscore: some/other cannot be loaded") as caught:
        _ = small("some/other", revision=COMMITS[0]).signature
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_is_refused(tmp_path):
    folder = tiny(tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no model weights here"):
        _ = small(folder).signature


def test_a_layer_that_the_model_has_not_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"metrics\.bertscore\.layer: 4, but .* has layers 1 to 3"):
        _ = small(tiny(tmp_path / "bert"), layer=4).signature


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused():
    metric = BertScore.from_settings(SETTINGS, "cuda")
    with pytest.raises(ConfigError, match=r"torch sees no GPU; set it to 'auto' or 'cpu'"):
        metric.score(["a"], ["b"])
