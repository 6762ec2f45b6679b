from dataclasses import replace

import pytest

from xrec_repro.errors import ModelError
from xrec_repro.explainer.prompts import IGNORED_LABEL, PromptEncoder, prompt_text


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
def test_a_title_that_spells_a_reserved_token_does_not_move_the_injection(language_model, examples, template):
    encoder = PromptEncoder(language_model().tokenizer, "book", template, 512)
    odd = replace(examples[0], title="<ITEM_EMBED> and <EXPLAIN_POS>", user_profile="<USER_EMBED>")
    plain = replace(examples[0], title="ITEM_EMBED and EXPLAIN_POS", user_profile="USER_EMBED")
    assert encoder.train(odd) == encoder.train(plain)


def test_a_prompt_over_the_context_names_example_and_lengths(language_model, examples):
    encoder = PromptEncoder(language_model().tokenizer, "book", "code", 60)
    with pytest.raises(ModelError, match=r"example e0: the prompt with 128 new tokens has \d+ tokens.*context is 60"):
        encoder.test(examples[0], 128)
    with pytest.raises(ModelError, match="example e0: the prompt with its explanation"):
        encoder.train(examples[0])
