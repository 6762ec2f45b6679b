"""LlamaScore with tiny local models: replies and expectations equal to unbatched brute force."""

import dataclasses
import functools
import itertools
import logging
import shutil
import string
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import fixed_model as fixed
from xrec_repro.errors import ConfigError, DataError, ModelError
from xrec_repro.metrics._judge import REMINDER, SYSTEM_PROMPT, question
from xrec_repro.metrics._local_chat import read_shared
from xrec_repro.metrics.llamascore import LlamaScore
from xrec_repro.metrics.registry import build_metric

SETTINGS = {
    "revision": None,
    "mode": "parse",
    "max_new_tokens": 6,
    "attempts": 3,
    "min_mass": 0.0,
    "dtype": "float32",
    "batch_size": 4,
}
COMMITS = ("a" * 40, "b" * 40)
EOS, UNK, TURN = "</s>", "<unk>", "<turn>"
WORDS = [UNK, EOS, TURN, *string.printable, *(str(n) for n in range(10, 101))]
# How each tokenizer cuts digits: one by one, whole numbers, or some numbers whole.
CUTS = {"digits": r"[\s\S]", "whole": r"\d+|[\s\S]", "mixed": r"100|[1-4]\d|[\s\S]"}

TURNS = "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '</s>' }}{% endfor %}"
PLAIN = TURNS + "{% if add_generation_prompt %}assistant:{% endif %}"
# A space before the reply, as in Llama 2's.
SPACED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' </s>' }}"
    "{% else %}{{ '[' + m['content'] + ']' }}{% endif %}{% endfor %}"
)
REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
DROPPING = PLAIN.replace("{{ m['role']", "{% if m['role'] == 'system' %}{% continue %}{% endif %}{{ m['role']")
NOT_ALTERNATING = (
    "{% if messages|length > 2 %}{{ raise_exception('Roles must alternate') }}{% endif %}" + PLAIN
)  # takes one question and no more
PREDICTIONS = [f"The user would {verb}." for verb in ("enjoy it", "buy", "adore the long and winding plot", "")] * 2
PREDICTIONS += [f"They say {n} of 100" for n in (3, 47, 100)]
REFERENCES = [f"It is {word}." for word in ("good", "a café", "cheap", "slow, but it does end", "x", "y", "z")]
REFERENCES += REFERENCES[:4]
NONE_EMPTY = {"empty_predictions": 0, "empty_references": 0}


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", True)


def save_tokenizer(folder: Path, cut: str, template: str | None) -> None:
    from tokenizers import Regex, Tokenizer, decoders
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token=UNK))
    raw.pre_tokenizer = Split(Regex(CUTS[cut]), "isolated")
    raw.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token=UNK, eos_token=EOS)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def make(folder: Path, cut: str = "digits", template: str | None = PLAIN, seed: int = 0, context: int = 1024) -> Path:
    """Save a random two-layer Llama whose distributions are far from flat."""
    from transformers import LlamaConfig, LlamaForCausalLM

    save_tokenizer(folder, cut, template)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_seq2seq(folder: Path, kind: str, cut: str = "digits", template: str = PLAIN, context: int = 1024) -> Path:
    """Save a random encoder-decoder: a BART whose replies are forced to begin with a token, or a T5."""
    from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

    save_tokenizer(folder, cut, template)
    torch.manual_seed(0)
    shared = {"vocab_size": len(WORDS), "d_model": 32, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    if kind == "bart":
        sizes = {
            f"{part}_{what}": number
            for part in ("encoder", "decoder")
            for what, number in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))
        }
        config = BartConfig(
            **shared, **sizes, max_position_embeddings=context, init_std=0.3, decoder_start_token_id=1, dropout=0.0
        )
        model = BartForConditionalGeneration(config)
        model.generation_config.forced_bos_token_id = WORDS.index(TURN)
        model.generation_config.forced_eos_token_id = None
    else:
        config = T5Config(
            **shared, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0, tie_word_embeddings=False
        )
        model = T5ForConditionalGeneration(config)
    with torch.no_grad():  # so that replies depend on the prompt
        for name, weight in model.named_parameters():
            if "EncDecAttention" in name or "encoder_attn" in name:
                weight.mul_(5)
    model.save_pretrained(folder)
    return folder


def make_chain(folder: Path, template: str, *replies: str) -> Path:
    """Save a Llama that looks at nothing but its last token and follows the given chains of characters.

    Attention and feed-forward layers add zero, so that the output is a table from the last token to the next.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    save_tokenizer(folder, "digits", template)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=len(WORDS) + len(WORDS) % 2,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        bos_token_id=None,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    index = {word: place for place, word in enumerate(WORDS)}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.zero_()
        model.model.embed_tokens.weight.fill_diagonal_(1.0)
        for reply in replies:
            chain = [*reply, EOS]
            for one, two in itertools.pairwise(chain):
                model.lm_head.weight[index[two], index[one]] = 1.0
    model.save_pretrained(folder)
    return folder


def llama(folder: Path | str, **changes) -> LlamaScore:
    return LlamaScore.from_settings({**SETTINGS, "model": str(folder), **changes}, "cpu")


def column(metric, predictions=PREDICTIONS, references=REFERENCES) -> np.ndarray:
    return metric.score(predictions, references).columns["llamascore"]


@functools.lru_cache
def load(folder: Path):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    loader = AutoModelForSeq2SeqLM if AutoConfig.from_pretrained(folder).is_encoder_decoder else AutoModelForCausalLM
    return loader.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def following(model, prompt: list[int], replies: list[list[int]]) -> torch.Tensor:
    """Return the logits after the prompt and after each token of replies of one length."""
    if not model.config.is_encoder_decoder:
        return model(torch.tensor([prompt + reply for reply in replies])).logits[:, len(prompt) - 1 :]
    forced = model.generation_config.forced_bos_token_id
    start = [model.config.decoder_start_token_id, *([] if forced is None else [forced])]
    decoded = torch.tensor([start + reply for reply in replies])
    encoded = model.get_encoder()(torch.tensor([prompt]))[0].expand(len(replies), -1, -1)
    return model(encoder_outputs=(encoded,), decoder_input_ids=decoded).logits[:, len(start) - 1 :]


@torch.no_grad()
def brute_force(folder: Path, prediction: str, reference: str, lead: str = "") -> tuple[float, float]:
    """Return score and mass from a whole pass over prompt and number for each number: no cache, no padding, no tree."""
    model, tokenizer = load(folder)
    prompt = tokenizer.apply_chat_template(question(prediction, reference), add_generation_prompt=True)
    numbers = [tokenizer(lead + str(k), add_special_tokens=False)["input_ids"] for k in range(101)]
    logp = {}
    for _, group in itertools.groupby(sorted(range(101), key=lambda k: len(numbers[k])), lambda k: len(numbers[k])):
        group = list(group)
        logits = following(model, prompt, [numbers[k] for k in group])
        logp |= zip(group, logits.double().log_softmax(dim=-1), strict=True)
    probability = []
    for k, tokens in enumerate(numbers):
        reach = sum(logp[k][i, token] for i, token in enumerate(tokens)).exp()
        goes_on = {n[len(tokens)] for n in numbers if n[: len(tokens)] == tokens and len(n) > len(tokens)}
        probability.append(float(reach * (1 - sum(logp[k][-1, token].exp() for token in goes_on))))
    mass = sum(probability)
    return sum(k * p for k, p in enumerate(probability)) / mass, mass


# --- Mode expected --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS)
def test_the_expectation_equals_brute_force_over_all_numbers(tmp_path, cut):
    folder = make(tmp_path / "judge", cut)
    pairs = list(zip(PREDICTIONS, REFERENCES, strict=True))[::2]
    scores = llama(folder, mode="expected").score(*zip(*pairs, strict=True))
    expected = np.array([brute_force(folder, *pair) for pair in pairs])
    np.testing.assert_allclose(scores.columns["llamascore"], expected[:, 0], rtol=1e-5)
    assert scores.counts == NONE_EMPTY | {"low_mass": 0, "number_mass": pytest.approx(expected[:, 1].mean(), rel=1e-5)}
    assert np.std(expected[:, 0]) > 0.5
    assert expected[:, 1].min() > 1e-5


def test_a_space_that_the_template_puts_before_a_reply_belongs_to_the_number(tmp_path):
    folder = make(tmp_path / "judge", "digits", SPACED)
    pairs = list(zip(PREDICTIONS, REFERENCES, strict=True))[:3]
    ours = column(llama(folder, mode="expected"), *zip(*pairs, strict=True))
    np.testing.assert_allclose(ours, [brute_force(folder, *pair, lead=" ")[0] for pair in pairs], rtol=1e-5)


def by_branches(monkeypatch) -> None:
    """Have everything read as for models that take no mask of one's own."""
    monkeypatch.setattr("xrec_repro.metrics.llamascore.read_shared", lambda *_: None)


@pytest.mark.parametrize(("cut", "passes"), [("whole", 1), ("digits", 10), ("mixed", 6)])
def test_the_number_of_forward_passes(tmp_path, monkeypatch, cut, passes):
    metric = llama(make(tmp_path / "judge", cut), mode="expected")
    calls = []
    metric._model.register_forward_pre_hook(lambda *_: calls.append(1))
    column(metric, PREDICTIONS[:4], REFERENCES[:4])
    assert len(calls) == 2  # what all prompts share, then all else
    by_branches(monkeypatch)
    column(metric, PREDICTIONS[:4], REFERENCES[:4])
    assert len(calls) == 2 + passes


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("cut", CUTS)
def test_one_pass_over_all_branches_equals_one_for_each(tmp_path, monkeypatch, cut, attention):
    metric = llama(make(tmp_path / "judge", cut), mode="expected", batch_size=5)
    metric._model.set_attn_implementation(attention)
    together = column(metric)
    by_branches(monkeypatch)
    np.testing.assert_allclose(together, column(metric), rtol=1e-6)


def test_a_shared_start_leaves_a_token_of_each_prompt(tmp_path):
    model = llama(make(tmp_path / "judge"))._model
    for prompts, length in (([[5, 6, 7, 8], [5, 6, 9]], 2), ([[5, 6, 7], [5, 6]], 1), ([[5, 6, 7]], 2)):
        assert read_shared(model, prompts).length == length
    assert read_shared(model, [[5, 6], [6, 6]]) is None
    assert read_shared(model, [[5, 6], [5]]) is None


def test_a_model_with_a_sliding_window_is_read_branch_by_branch(tmp_path):
    from transformers import MistralConfig, MistralForCausalLM

    save_tokenizer(tmp_path, "digits", PLAIN)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 64}
    ends = {"bos_token_id": None, "eos_token_id": 1, "initializer_range": 0.3}
    MistralForCausalLM(MistralConfig(vocab_size=len(WORDS), **sizes, **heads, **ends)).save_pretrained(tmp_path)
    metric, pairs = llama(tmp_path, mode="expected"), list(zip(PREDICTIONS, REFERENCES, strict=True))[:3]
    assert read_shared(metric._model, [[5, 6, 7], [5, 6, 8]]) is None
    expected = [brute_force(tmp_path, *pair)[0] for pair in pairs]
    np.testing.assert_allclose(column(metric, *zip(*pairs, strict=True)), expected, rtol=1e-5)


@pytest.mark.parametrize("cut", ["digits", "whole"])
def test_the_expectation_depends_on_neither_batch_nor_order(tmp_path, cut):
    folder = make(tmp_path / "judge", cut)
    whole = column(llama(folder, mode="expected", batch_size=1))
    for size in (2, 3, 64):
        np.testing.assert_allclose(column(llama(folder, mode="expected", batch_size=size)), whole, rtol=1e-5)
    order = np.random.default_rng(0).permutation(len(PREDICTIONS))
    mixed = column(llama(folder, mode="expected"), [PREDICTIONS[i] for i in order], [REFERENCES[i] for i in order])
    np.testing.assert_array_equal(mixed, column(llama(folder, mode="expected"))[order])


def test_a_certain_reply_is_its_own_expectation(tmp_path):
    folder = make_chain(tmp_path / "judge", PLAIN, ":85")
    scores = llama(folder, mode="expected", min_mass=0.1).score(["a"], ["b"])
    assert scores.counts["number_mass"] > 0.99
    np.testing.assert_allclose(scores.columns["llamascore"], 85, atol=0.1)


def test_too_little_mass_is_missing_and_counted(tmp_path, caplog):
    folder = make(tmp_path / "judge", "whole")
    masses = np.array([brute_force(folder, *pair)[1] for pair in zip(PREDICTIONS, REFERENCES, strict=True)])
    bar = float(np.median(masses)) * 1.0001
    with caplog.at_level(logging.WARNING, logger="xrec_repro"):
        scores = llama(folder, mode="expected", min_mass=bar).score(PREDICTIONS, REFERENCES)
    np.testing.assert_array_equal(np.isnan(scores.columns["llamascore"]), masses < bar)
    assert scores.counts["low_mass"] == (masses < bar).sum() > 0
    np.testing.assert_allclose(scores.replies["number_mass"], masses, rtol=1e-4)
    assert f"llamascore: {scores.counts['low_mass']} of 11 pairs" in caplog.text
    with pytest.raises(DataError, match="not one of 11 examples could be scored"):
        llama(folder, mode="expected", min_mass=1.0).score(PREDICTIONS, REFERENCES)


def test_a_tokenizer_without_numbers_is_refused(tmp_path):
    folder = make(tmp_path / "judge", "whole")
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"77":', '"7777":'))
    with pytest.raises(ModelError, match=r"cannot write '77' .*set metrics\.llamascore\.mode to parse"):
        column(llama(folder, mode="expected"))


def test_a_template_that_ends_within_a_number_is_refused(tmp_path):
    folder = make(tmp_path / "judge", "whole", PLAIN.replace("assistant:", "assistant:1"))
    with pytest.raises(ModelError, match=r"cannot write '0' as tokens of their own after the prompt"):
        column(llama(folder, mode="expected"))


# --- Mode parse -----------------------------------------------------------------------------------------------


def replies(metric):
    pairs = zip(PREDICTIONS, REFERENCES, strict=True)
    return metric._reply({row: question(*pair) for row, pair in enumerate(pairs)})


@torch.no_grad()
def test_replies_equal_unbatched_greedy_decoding(tmp_path):
    folder = make(tmp_path / "judge")
    model, tokenizer = load(folder)
    found = replies(llama(folder, max_new_tokens=12))
    for row, pair in enumerate(zip(PREDICTIONS, REFERENCES, strict=True)):
        prompt = tokenizer.apply_chat_template(question(*pair), add_generation_prompt=True)
        ids = list(prompt)
        while len(ids) < len(prompt) + 12 and (len(ids) == len(prompt) or ids[-1] != 1):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert found[row].text == tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
        assert found[row].truncated == (ids[-1] != 1)
    assert len({reply.text for reply in found.values()}) > 4


def test_replies_do_not_depend_on_the_batch(tmp_path):
    folder = make(tmp_path / "judge", seed=3)
    whole = replies(llama(folder, batch_size=1, max_new_tokens=12))
    for size in (2, 5, 64):
        assert replies(llama(folder, batch_size=size, max_new_tokens=12)) == whole


# The prompt ends in a letter that depends on the question, and so the model's replies do.
END = (
    "{% set text = messages[-1]['content'] %}{% if add_generation_prompt %}"
    "{% if messages|length > 2 %}{{ 'C' if 'alpha' in messages[1]['content'] else 'D' }}"
    "{% else %}{{ 'A' if 'alpha' in text else 'B' if 'beta' in text else 'E' }}{% endif %}{% endif %}"
)


def test_replies_are_parsed_asked_again_and_counted(tmp_path, caplog):
    folder = make_chain(tmp_path / "judge", TURNS + END, "A no", "Bx y", "C73%", "Dzw", "E85")
    metric = llama(folder)
    with caplog.at_level(logging.WARNING, logger="xrec_repro"):
        scores = metric.score(["gamma", "alpha", "beta", "gamma"], ["r"] * 4)
    np.testing.assert_array_equal(scores.columns["llamascore"], [85, 73, np.nan, 85])
    assert scores.counts == NONE_EMPTY | {"retried": 2, "unparsable": 1}
    assert "1 of 4 pairs are without a score: unparsable" in caplog.text
    assert scores.replies["reply"] == ["85", "73%", "zw", "85"] and scores.replies["asked"] == [1, 2, 3, 1]
    assert column(llama(folder, attempts=1), ["gamma", "alpha"], ["r"] * 2).tolist()[0] == 85
    assert np.isnan(column(llama(folder, attempts=1), ["gamma", "alpha"], ["r"] * 2)[1])


def test_a_number_cut_off_by_the_limit_is_no_score(tmp_path):
    folder = make_chain(tmp_path / "judge", PLAIN, ":85")
    assert column(llama(folder, max_new_tokens=3), ["a"], ["b"]).tolist() == [85.0]  # two digits and the end
    with pytest.raises(DataError, match="not one of 1 examples"):
        llama(folder, max_new_tokens=2, attempts=1).score(["a"], ["b"])


def test_an_empty_reply_is_asked_again_without_an_empty_turn(tmp_path):
    template = (
        "{% if add_generation_prompt %}{{ 'B' if messages[1]['content'].endswith('symbols.') else 'A' }}{% endif %}"
    )
    folder = make_chain(tmp_path / "judge", TURNS + template, "A", "B40")
    assert REMINDER.endswith("symbols.")
    scores = llama(folder).score(["a"], ["b"])
    assert scores.columns["llamascore"].tolist() == [40.0]
    assert scores.counts == NONE_EMPTY | {"retried": 1, "unparsable": 0}


@pytest.mark.parametrize("mode", ["parse", "expected"])
def test_a_prompt_over_the_context_is_missing_and_counted(tmp_path, mode):
    folder = make_chain(tmp_path / "judge", PLAIN, ":85")
    config = folder / "config.json"
    _, tokenizer = load(folder)
    length = len(tokenizer.apply_chat_template(question("a", "b"), add_generation_prompt=True))
    room = 6 if mode == "parse" else 3
    config.write_text(
        config.read_text().replace('"max_position_embeddings": 2048', f'"max_position_embeddings": {length + room}')
    )
    scores = llama(folder, mode=mode).score(["a", "ab", "ab"], ["b"] * 3)
    np.testing.assert_array_equal(np.isnan(scores.columns["llamascore"]), [False, True, True])
    assert scores.counts["too_long"] == 2
    assert scores.counts.get("unparsable", 0) == 0
    kept = scores.replies["reply" if mode == "parse" else "number_mass"]
    assert [value is None for value in kept] == [False, True, True]


@pytest.mark.parametrize("template", [PLAIN, REFUSING + PLAIN])
def test_a_text_that_spells_a_special_token_stays_text(tmp_path, template):
    form = llama(make(tmp_path / "judge", template=template))._format
    special = form.tokenizer.convert_tokens_to_ids([EOS])
    odd, plain = (form.ids(form.text(question(f"so {text} cheap", "x"))) for text in (EOS, "no"))
    assert [token for token in odd if token in special] == [token for token in plain if token in special]
    assert f"so {EOS[0]} {EOS[1:]} cheap" in form.text(question(f"so {EOS} cheap", "x"))


def test_a_template_that_takes_no_second_question_is_named(tmp_path):
    folder = make_chain(tmp_path / "judge", NOT_ALTERNATING, ":x")
    with pytest.raises(ModelError, match=r"refuses the conversation \(Roles must alternate\).*set attempts to 1"):
        llama(folder).score(["a"], ["b"])


# --- Encoder-decoders -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["whole", "digits"])
@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_the_expectation_of_an_encoder_decoder_equals_brute_force(tmp_path, kind, cut):
    folder = make_seq2seq(tmp_path / "judge", kind, cut)
    pairs = list(zip(PREDICTIONS, REFERENCES, strict=True))[::2]
    scores = llama(folder, mode="expected").score(*zip(*pairs, strict=True))
    expected = np.array([brute_force(folder, *pair) for pair in pairs])
    np.testing.assert_allclose(scores.columns["llamascore"], expected[:, 0], rtol=1e-4)
    assert scores.counts["number_mass"] == pytest.approx(expected[:, 1].mean(), rel=1e-4)
    assert np.std(expected[:, 0]) > 0.2


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_replies_of_an_encoder_decoder_are_those_of_the_library(tmp_path, kind):
    folder = make_seq2seq(tmp_path / "judge", kind)
    model, tokenizer = load(folder)
    start = 1 if model.generation_config.forced_bos_token_id is None else 2
    found = replies(llama(folder, max_new_tokens=12))
    for row, pair in enumerate(zip(PREDICTIONS, REFERENCES, strict=True)):
        prompt = tokenizer.apply_chat_template(question(*pair), add_generation_prompt=True, return_tensors="pt")
        whole = model.generate(prompt, max_new_tokens=12 + start - 1, do_sample=False, num_beams=1)[0].tolist()
        assert found[row].text == tokenizer.decode(whole[start:], skip_special_tokens=True)
        assert found[row].truncated == (whole[-1] != 1)
    assert len({reply.text for reply in found.values()}) > 4


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_an_encoder_decoder_does_not_depend_on_the_batch(tmp_path, kind):
    folder = make_seq2seq(tmp_path / "judge", kind, "mixed")
    alone = column(llama(folder, mode="expected", batch_size=1)), replies(llama(folder, batch_size=1))
    for size in (2, 5, 64):
        np.testing.assert_allclose(column(llama(folder, mode="expected", batch_size=size)), alone[0], rtol=1e-4)
        assert replies(llama(folder, batch_size=size)) == alone[1]


@pytest.mark.parametrize("mode", ["parse", "expected"])
def test_an_encoder_decoder_counts_prompt_and_reply_apart(tmp_path, mode):
    _, tokenizer = load(make_seq2seq(tmp_path / "any", "bart"))
    length = len(tokenizer.apply_chat_template(question("a", "b"), add_generation_prompt=True))
    metric = llama(make_seq2seq(tmp_path / "judge", "bart", context=length), mode=mode, attempts=1)
    asked = {row: question(prediction, "b") for row, prediction in enumerate(["a", "ab", "c"])}
    assert sorted(row for rows, _ in metric._batches(asked, 6) for row in rows) == [0, 2]
    assert list(metric._batches(asked, length)) == []  # the decoder would need one position more than there are


def test_an_encoder_decoder_without_a_start_token_is_named(tmp_path):
    folder = make_seq2seq(tmp_path / "judge", "t5")
    for name in ("config.json", "generation_config.json"):
        file = folder / name
        file.write_text(file.read_text().replace('"decoder_start_token_id": 0', '"decoder_start_token_id": null'))
    with pytest.raises(ModelError, match="judge: its generation configuration has no decoder_start_token_id"):
        column(llama(folder))


# --- Chat templates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [REFUSING + PLAIN, DROPPING], ids=["refuses", "drops"])
def test_a_system_text_that_the_template_does_not_show_goes_to_the_users_turn(tmp_path, template):
    metric = llama(make(tmp_path / "judge", template=template))
    system, user = (turn["content"] for turn in question("P", "R"))
    assert metric._format.text(question("P", "R")) == f"user:{SYSTEM_PROMPT}\n\n{user}</s>assistant:"
    assert "|system:in the user's turn|" in metric.signature
    assert np.isfinite(column(dataclasses.replace(metric, mode="expected"))).all()
    plain = llama(make(tmp_path / "plain"))
    assert "|system:own turn|" in plain.signature
    assert plain._format.text(question("P", "R")) == f"system:{system}</s>user:{user}</s>assistant:"


def test_a_template_with_todays_date_gets_a_fixed_one(tmp_path):
    today = "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    metric = llama(make(tmp_path / "judge", template=today + "{{ date_string }}" + PLAIN))
    assert metric._format.text(question("P", "R")).startswith("26 Jul 2024system:")


def test_a_model_without_a_template_or_with_a_broken_one_is_named(tmp_path):
    with pytest.raises(ModelError, match="llamascore: .*none has no chat template"):
        _ = llama(make(tmp_path / "none", template=None)).signature
    broken = "{{ raise_exception('never') }}"
    with pytest.raises(ModelError, match=r"broken: its chat template refuses the conversation \(never\)"):
        _ = llama(make(tmp_path / "broken", template=broken)).signature


def test_all_ends_of_the_generation_configuration_stop_a_reply(tmp_path):
    folder = make_chain(tmp_path / "judge", PLAIN, ":85")
    _, tokenizer = load(folder)
    eight = tokenizer.convert_tokens_to_ids("8")
    file = folder / "generation_config.json"
    file.write_text(file.read_text().replace('"eos_token_id": 1', f'"eos_token_id": [{eight}]'))
    metric = llama(folder)
    assert f"|ends:1,{eight}|" in metric.signature
    assert metric._reply({0: question("a", "b")})[0].text == ""


@pytest.mark.parametrize("special", [(), ("<think>", "</think>")])
def test_a_thought_is_no_score(tmp_path, special):
    folder = fixed.fixed_model(
        tmp_path / "judge", ["<think>", "2 texts.", "</think>", "85", fixed.END], special=special
    )
    assert column(llama(folder, max_new_tokens=8), ["a"], ["b"]) == [85]
    with pytest.raises(DataError, match="not one of 1 examples"):
        column(llama(folder, max_new_tokens=2, attempts=1), ["a"], ["b"])
    opened = fixed.fixed_model(tmp_path / "opened", ["2 texts.", fixed.END], opened="<think>")
    with pytest.raises(DataError, match="not one of 1 examples"):
        column(llama(opened, max_new_tokens=8, attempts=1), ["a"], ["b"])


# --- Signature and settings -----------------------------------------------------------------------------------


def test_signature_of_a_folder(tmp_path):
    import transformers

    metric = llama(make(tmp_path / "judge"))
    parts = dict(part.split(":", 1) for part in metric.signature.split("|")[1:])
    digests = {key: parts.pop(key) for key in ("model", "prompt", "template")}
    assert parts == {
        "rev": "-",
        "mode": "parse",
        "max_new_tokens": "6",
        "attempts": "3",
        "min_mass": "0.0",
        "dtype": "float32",
        "system": "own turn",
        "decoding": "greedy",
        "ends": "1",
        "shots": "0",
        "v": transformers.__version__,
    }
    assert digests["model"].startswith("judge@sha256:")
    assert {len(digests["prompt"]), len(digests["template"])} == {12}


def test_every_argument_but_the_neutral_ones_changes_the_signature(tmp_path, hub):
    folder, other = make(tmp_path / "judge"), make(tmp_path / "other" / "judge", seed=1)
    changed = {
        "model": (llama(folder), llama(other)),
        "revision": tuple(llama(hub, revision=commit) for commit in COMMITS),
        "mode": (llama(folder), llama(folder, mode="expected")),
        "max_new_tokens": (llama(folder), llama(folder, max_new_tokens=7)),
        "attempts": (llama(folder), llama(folder, attempts=4)),
        "min_mass": (llama(folder), llama(folder, min_mass=0.1)),
        "dtype": (llama(folder), llama(folder, dtype="bfloat16")),
    }
    fields = {field.name for field in dataclasses.fields(LlamaScore)}
    assert set(changed) == fields - {"batch_size", "device"}
    signatures = {metric.signature for pair in changed.values() for metric in pair}
    assert len(signatures) == 9  # the same plain folder stands in six of the pairs


def test_the_place_of_a_folder_is_not_in_the_signature_but_its_template_is(tmp_path):
    folder = make(tmp_path / "judge")
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "judge"))
    assert llama(copy).signature == llama(folder).signature
    save_tokenizer(copy, "digits", PLAIN.replace("assistant:", "judge:"))
    templates = [llama(f).signature.split("|template:")[1].split("|")[0] for f in (folder, copy)]
    assert templates[0] != templates[1]


@pytest.fixture
def hub(tmp_path, monkeypatch) -> str:
    """A repository with two commits in a cache of the hub."""
    snapshots = tmp_path / "cache" / "models--some--judge" / "snapshots"
    for seed, commit in enumerate(COMMITS):
        make(snapshots / commit, seed=seed)
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path / "cache"))
    return "some/judge"


def test_the_revision_of_a_hub_repository_is_honoured(hub, tmp_path):
    for seed, commit in enumerate(COMMITS):
        ours = column(llama(hub, revision=commit, mode="expected"))
        folder = make(tmp_path / str(seed), seed=seed)
        np.testing.assert_array_equal(ours, column(llama(folder, mode="expected")))


def test_the_number_format_is_used(tmp_path):
    metric = llama(make(tmp_path / "judge"), dtype="bfloat16", mode="expected")
    found = column(metric)
    assert metric._model.dtype == torch.bfloat16
    exact = column(llama(tmp_path / "judge", mode="expected"))
    assert 0 < np.abs(found - exact).max() < 10


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mode", "guess"),
        ("min_mass", 1.5),
        ("max_new_tokens", 0),
        ("attempts", 0),
        ("batch_size", 0),
        ("dtype", "int8"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(tmp_path, key, value):
    folder = make(tmp_path / "judge")
    with pytest.raises(ConfigError, match=rf"^metrics\.llamascore\.{key}: "):
        llama(folder, **{key: value})


def test_a_hub_repository_needs_a_commit_and_a_folder_none(tmp_path):
    with pytest.raises(ConfigError, match=r"metrics\.llamascore\.revision: .*40-digit commit"):
        llama("some/judge", revision="main")
    with pytest.raises(ConfigError, match="set the revision to null"):
        llama(make(tmp_path / "judge"), revision=COMMITS[0])


def test_a_repository_that_cannot_be_loaded_is_one_line(hub):
    with pytest.raises(ModelError, match="llamascore: some/other cannot be loaded") as caught:
        _ = llama("some/other", revision=COMMITS[0]).signature
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lacks", ["*token*", "*.safetensors", "config.json"])
def test_a_folder_without_all_files_is_named(tmp_path, lacks):
    whole = make(tmp_path / "whole")
    folder = shutil.copytree(whole, tmp_path / "judge", ignore=shutil.ignore_patterns(lacks))
    with pytest.raises(ModelError, match="judge") as caught:
        column(llama(folder))
    assert "\n" not in str(caught.value)


def test_the_registry_knows_it(tmp_path):
    settings = {**SETTINGS, "model": str(make(tmp_path / "judge"))}
    assert isinstance(build_metric("llamascore", settings, "cpu"), LlamaScore)
