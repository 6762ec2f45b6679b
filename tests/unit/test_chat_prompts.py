"""Prompts through a tokenizer's own chat template, in the shapes of five families of models."""

from dataclasses import replace

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from xrec_repro.errors import ModelError
from xrec_repro.explainer.decoding import stop_tokens
from xrec_repro.explainer.prompts import IGNORED_LABEL, RESERVED_TOKENS, SYSTEM, PromptEncoder
from xrec_repro.lm.chat import ChatTemplate, Turns

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{% if m['role'] == 'system' %}{{ 'Today Date: ' + date_string + '\n\n' }}{% endif %}"
    "{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (  # the system message is lost, as in the first of its templates
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
# Family: template, BOS and EOS, further marks; what the prompt begins and ends with; what ends the turn.
_HEADER = ("<|start_header_id|>", "<|end_header_id|>")
SHAPES = {
    "smollm2": (CHATML, "<|im_start|>", "<|im_end|>", [],
                "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n",
                "<|im_end|>\n<|im_start|>assistant\n", "", "<|im_end|>"),
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|end_of_text|>", [*_HEADER, "<|eot_id|>"],
               "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n"
               "{system}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
               "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "", "<|eot_id|>"),
    "qwen3": (QWEN3, "<|endoftext|>", "<|im_end|>", ["<|im_start|>"],
              "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n",
              "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", "", "<|im_end|>"),
    "gemma": (GEMMA, "<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"],
              "<bos><start_of_turn>user\n{system}\n\n", "<end_of_turn>\n<start_of_turn>model\n", "", "<end_of_turn>"),
    "mistral": (MISTRAL, "<s>", "</s>", [], "<s>[INST] {system}\n\n", " [/INST]", " ", "</s>"),
}  # fmt: skip


def tokenizer_of(template: str | None, bos: str, eos: str, marks: list[str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer that knows marks, words with the space before them, and characters of all else."""
    characters = [chr(code) for code in (10, *range(32, 127))]
    backend = Tokenizer(models.BPE({token: place for place, token in enumerate(characters)}, []))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+|."), "isolated")
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, chat_template=template)
    made.add_special_tokens({"additional_special_tokens": [*marks, *RESERVED_TOKENS[:3]], "pad_token": "<pad>"})
    return made


@pytest.fixture(params=SHAPES)
def shape(request):
    template, bos, eos, marks, *rest = SHAPES[request.param]
    return tokenizer_of(template, bos, eos, marks), *rest


def test_prompt_positions_and_targets_in_every_shape(shape, examples):
    tokenizer, before, after, lead, end = shape
    encoder, one = PromptEncoder(tokenizer, "book", "chat", 4096), examples[0]
    fields = f"book name: {one.title} user profile: {one.user_profile} book profile: {one.item_profile} <EXPLAIN_POS>"
    opening = before.format(system=SYSTEM["book"])
    prompt = f"{opening}user record: <USER_EMBED> book record: <ITEM_EMBED> {fields}{after}"
    test, train = encoder.test(one, 1), encoder.train(one)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert test.ids == ids and test.labels == []
    # Golden positions: whatever stands before them, token by token.
    user = len(tokenizer(opening + "user record: ", add_special_tokens=False)["input_ids"])
    assert test.positions == train.positions == (user, user + 1 + len(" book record: "))
    assert [tokenizer.convert_ids_to_tokens(ids[place]) for place in test.positions] == ["<USER_EMBED>", "<ITEM_EMBED>"]
    answer = tokenizer(lead + one.reference + end, add_special_tokens=False)["input_ids"]
    assert train.ids == ids + answer
    assert train.labels == [IGNORED_LABEL] * len(ids) + answer
    assert answer[-1] == encoder.end == tokenizer.convert_tokens_to_ids(end)
    assert stop_tokens(tokenizer, False, encoder.end)[encoder.end] == "eos"


def test_without_records_and_profiles_the_fields_are_title_alone(shape, examples):
    tokenizer, before, after, *_ = shape
    bare = replace(examples[0], user_profile=None, item_profile=None)
    encoded = PromptEncoder(tokenizer, "business", "chat", 4096, records=False).test(bare, 1)
    assert encoded.positions == ()
    text = f"{before.format(system=SYSTEM['business'])}business name: {bare.title}{after}"
    assert encoded.ids == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_marks_in_titles_and_texts_stay_text(shape, examples):
    tokenizer, *_, end = shape
    odd = replace(examples[0], title=f"{end} <ITEM_EMBED>", reference=f"so {end} cheap")
    encoder = PromptEncoder(tokenizer, "book", "chat", 4096)
    special = set(tokenizer.all_special_ids)
    one = examples[0]
    for mine, plain in ((encoder.train(odd), encoder.train(one)), (encoder.test(odd, 1), encoder.test(one, 1))):
        assert [i for i in mine.ids if i in special] == [i for i in plain.ids if i in special]
        assert mine.positions == plain.positions
    assert encoder.train(odd).labels.count(encoder.end) == 1


def test_long_profiles_are_cut_so_that_the_explanation_and_its_end_fit(shape, examples):
    tokenizer, *_ = shape
    encoder = PromptEncoder(tokenizer, "book", "chat", 600)
    encoded = encoder.train(replace(examples[0], user_profile="slow suspense " * 200))
    assert 560 < len(encoded.ids) <= 600 and encoded.labels[-1] == encoder.end
    assert encoder.cut


def test_a_tokenizer_without_a_template_is_refused():
    with pytest.raises(ModelError, match="the language model has no chat template; choose a model that is tuned"):
        PromptEncoder(tokenizer_of(None, "<s>", "</s>", []), "book", "chat", 512)


def test_a_turn_that_ends_with_no_special_token_is_refused():
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    with pytest.raises(
        ModelError, match=r"ends a turn with '\\n', in which its tokenizer knows no special token; corr"
    ):
        PromptEncoder(tokenizer_of(template, "<s>", "</s>", []), "book", "chat", 512)


def test_a_template_that_refuses_the_conversation_is_refused():
    never = tokenizer_of("{{ raise_exception('only tools') }}", "<s>", "</s>", [])
    with pytest.raises(ModelError, match=r"m: its chat template refuses a user's message and an answer \(only tools\)"):
        Turns(ChatTemplate(never, "m"))
