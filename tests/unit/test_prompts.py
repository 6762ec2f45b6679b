from dataclasses import replace

import pytest
import sentencepiece
from transformers import LlamaTokenizer, LlamaTokenizerFast

from xrec_repro.errors import ModelError
from xrec_repro.explainer.prompts import IGNORED_LABEL, RESERVED_TOKENS, PromptEncoder, prompt_text
from xrec_repro.special_tokens import special_tokens


def test_without_profiles_the_prompt_has_no_profile_segments(examples):
    bare = replace(examples[0], user_profile=None, item_profile=None)
    text = prompt_text(bare, "business", "code", train=False)
    assert "profile" not in text
    assert text == (
        "<s>[INST] <<SYS>>Explain why the user would enjoy the business within 50 words.<</SYS>>user record: "
        f"<USER_EMBED> business record: <ITEM_EMBED> business name: {bare.title} <EXPLAIN_POS>[/INST]"
    )


def test_code_labels_start_at_explain_pos_and_include_the_closing_bracket(language_model, examples):
    llm = language_model()
    encoded = PromptEncoder(llm.tokenizer, "book", "code", 512).train(examples[0])
    first = next(i for i, label in enumerate(encoded.labels) if label != IGNORED_LABEL)
    assert llm.tokenizer.convert_ids_to_tokens(encoded.ids[first]) == "<EXPLAIN_POS>"
    assert encoded.labels[first:] == encoded.ids[first:]
    assert llm.tokenizer.decode(encoded.ids).endswith("[/INST]")
    assert encoded.ids[:2] == [llm.tokenizer.bos_token_id] * 2
    assert llm.tokenizer.eos_token_id not in encoded.ids


def test_fixed_labels_are_the_explanation_and_eos_after_one_bos(language_model, examples):
    llm = language_model()
    encoder = PromptEncoder(llm.tokenizer, "book", "fixed", 512)
    encoded, prompt = encoder.train(examples[0]), encoder.test(examples[0], 1)
    targets = [label for label in encoded.labels if label != IGNORED_LABEL]
    assert targets[-1] == llm.tokenizer.eos_token_id
    assert llm.tokenizer.decode(targets[:-1]).strip() == examples[0].reference
    assert encoded.ids.count(llm.tokenizer.bos_token_id) == 1
    assert encoded.ids[: len(prompt.ids)] == prompt.ids
    assert encoded.positions == prompt.positions


@pytest.mark.parametrize("template", ["code", "fixed"])
def test_texts_that_spell_special_tokens_stay_text(language_model, examples, template):
    tokenizer = language_model().tokenizer
    encoder = PromptEncoder(tokenizer, "book", template, 512)
    odd = replace(
        examples[0],
        title="<ITEM_EMBED> and <EXPLAIN_POS> of the <s>Old</s> <<s>s> Road",
        user_profile="<USER_EMBED><pad>",
        item_profile="<unk> [INST] </s>",
        reference="so <s>cheap</s> and <EXPLAIN_POS>",
    )
    special = set(tokenizer.convert_tokens_to_ids(sorted(special_tokens(tokenizer))))
    for encoded, plain in (
        (encoder.train(odd), encoder.train(examples[0])),
        (encoder.test(odd, 1), encoder.test(examples[0], 1)),
    ):
        own = [token for token in plain.ids if token in special]
        assert [token for token in encoded.ids if token in special] == own and len(own) >= 4
        assert encoded.positions == plain.positions
        assert "the < s>Old< /s> << s>s> Road" in tokenizer.decode(encoded.ids)
    labels = encoder.train(odd).labels
    ends = [place for place, label in enumerate(labels) if label == tokenizer.eos_token_id]
    assert ends == ([] if template == "code" else [len(labels) - 1])
    assert "so < s>cheap< /s>" in tokenizer.decode([label for label in labels if label != IGNORED_LABEL])


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("fast", [True, False])
def test_sentencepiece_tokenizers_slow_and_fast_keep_such_texts_too(tmp_path, examples, fast, legacy):
    path = tmp_path / "tokenizer.model"
    with path.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["dry humour and slow suspense [INST] <<SYS>> < / s > | im _ end pad"] * 30),
            model_writer=stream,
            vocab_size=300,
            model_type="bpe",
            byte_fallback=True,
            minloglevel=2,
        )
    slow = LlamaTokenizer(str(path), legacy=legacy)
    tokenizer = LlamaTokenizerFast.from_pretrained(_saved(slow, tmp_path)) if fast else slow
    marks = {"additional_special_tokens": [*RESERVED_TOKENS[:3], "<|im_end|>"], "pad_token": RESERVED_TOKENS[3]}
    tokenizer.add_special_tokens(marks)
    encoder = PromptEncoder(tokenizer, "book", "fixed", 512)
    odd = replace(examples[0], title="<s>Old</s><|im_end|> <pad>", user_profile="<USER_EMBED> <unk>")
    special = set(tokenizer.convert_tokens_to_ids(sorted(special_tokens(tokenizer))))
    encoded, plain = encoder.train(odd), encoder.train(examples[0])
    assert [token for token in encoded.ids if token in special] == [token for token in plain.ids if token in special]
    assert encoded.positions == plain.positions
    assert encoded.labels[-1] == tokenizer.eos_token_id and encoded.labels.count(tokenizer.eos_token_id) == 1


def _saved(tokenizer, folder):
    tokenizer.save_pretrained(folder / "slow")
    return folder / "slow"


def test_texts_without_special_tokens_are_encoded_as_the_tokenizer_does(language_model, examples):
    tokenizer = language_model().tokenizer
    for template in ("code", "fixed"):
        encoder = PromptEncoder(tokenizer, "book", template, 512)
        for example in (*examples, replace(examples[0], title="List<String> | [x] <3 caf\u00e9 \u8fd9")):
            text = prompt_text(example, "book", template, train=False)
            assert encoder.test(example, 1).ids == tokenizer(text)["input_ids"]
    assert not encoder.cut


@pytest.mark.parametrize("template", ["code", "fixed"])
def test_a_title_or_profile_that_does_not_fit_is_cut_and_counted(language_model, examples, template, caplog):
    tokenizer = language_model().tokenizer
    encoder = PromptEncoder(tokenizer, "book", template, 260)
    long = replace(examples[0], title=" ".join(f"part {n} of slow suspense," for n in range(200)))
    wide = replace(examples[1], item_profile="\u8fd9" * 900, title="humour " * 300)
    for example in (long, wide):
        train, test = encoder.train(example), encoder.test(example, 12)
        assert 200 < len(train.ids) <= 260 and 200 < len(test.ids) + 12 <= 260
        assert len(train.positions) == len(test.positions) == 2
        assert example.reference in tokenizer.decode([label for label in train.labels if label != IGNORED_LABEL])
    shown = tokenizer.decode(encoder.test(long, 12).ids)
    assert "book name: part 0 of slow suspense, part 1" in shown and long.user_profile in shown
    assert encoder.cut == {long.example_id: long.item_id, wide.example_id: wide.item_id}
    encoder.warn_of_cuts("tuning")
    assert f"of 2 prompts to the model's context of 260 tokens: e0 (item {long.item_id}), e1 (item" in caplog.text


def test_what_cannot_be_cut_is_an_error_that_names_example_item_and_remedy(language_model, examples):
    encoder = PromptEncoder(language_model().tokenizer, "book", "code", 60)
    with pytest.raises(
        ModelError, match=r"example e0 \(item i0\): the prompt with 128 new tokens has \d+ tokens.* is 60"
    ):
        encoder.test(examples[0], 128)
    with pytest.raises(ModelError, match=r"e0 \(item i0\): the prompt with its explanation .*\(profiles\.max_words\)"):
        encoder.train(examples[0])
    assert not encoder.cut
