from dataclasses import replace

import pytest
from safetensors.torch import save_file
from torch import allclose, randn, tensor
from transformers import LlamaForCausalLM

from xrec_repro.errors import DataError, ModelError
from xrec_repro.explainer.assemble import embedding_tables
from xrec_repro.explainer.pretrain import (
    CONTRAST,
    SUMMED_UP,
    Document,
    Pretraining,
    _llama,
    _others,
    pretrain,
    pretraining_texts,
    train_tokenizer,
)
from xrec_repro.explainer.prompts import RESERVED_TOKENS
from xrec_repro.identity import sha256_file
from xrec_repro.profiles.chat import ChatBackend
from xrec_repro.profiles.writer import chat_writer

SCRATCH = {
    "vocabulary": 320, "hidden": 16, "layers": 1, "heads": 2, "intermediate": 24, "context": 400,
    "epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "seed": 3, "templates": ["code", "fixed"],
}  # fmt: skip


def test_the_forms_hold_the_explanation_and_no_reserved_token(examples):
    texts = pretraining_texts(examples[0], "book", ["code", "fixed"])
    assert len(texts) == 8 and len(set(texts)) == 6
    assert all(examples[0].reference in text for text in texts)
    assert not any(token in text for text in texts for token in RESERVED_TOKENS)
    assert [examples[0].user_profile in text for text in texts] == [False] * 2 + [True] * 2 + [False] * 2 + [True] * 2
    record = "user record: <unk> book record: <unk> book name:"
    assert [record in text for text in texts] == [True] * 6 + [False] * 2
    assert pretraining_texts(examples[0], "book", ["fixed"]) == texts[1::2]


def test_a_record_is_in_brief_what_its_explanation_and_a_few_others_say(examples):
    tokenizer = train_tokenizer([example.reference for example in examples], 320, 400)
    model = LlamaForCausalLM(_llama(SCRATCH, tokenizer))
    ids = [tokenizer.bos_token_id, tokenizer.unk_token_id, 9, tokenizer.unk_token_id]
    with_records, without = Document(ids, 1), Document([7, 8], 1)
    trainee = Pretraining(model, tokenizer, [[with_records]] * len(examples), examples)
    read = trainee._read([(0, with_records), (1, without)], tensor([ids, [7, 8, 2, 2]]))
    weight = model.get_input_embeddings().weight

    def mean(some):
        tokens = [i for e in some for i in tokenizer(f" {e.reference}", add_special_tokens=False)["input_ids"]]
        return weight[tokens].mean(dim=0)

    for place, key in ((1, "user"), (3, "item")):
        same = [e for e in examples if getattr(e, key) == getattr(examples[0], key)][: SUMMED_UP + 1]
        assert allclose(read[0, place], CONTRAST * mean(same) + (1 - CONTRAST) * mean(examples), atol=1e-5)
    assert read[0, 2].equal(weight[9]) and read[1, :2].equal(weight[[7, 8]])


def test_records_sum_up_the_next_others_and_never_the_example_itself():
    assert _others([5, 6, 5, 5]) == [[2, 3], [], [3, 0], [0, 2]]
    many = _others([1] * 20)
    assert all(len(set(others)) == SUMMED_UP and place not in others for place, others in enumerate(many))
    assert many[19] == list(range(SUMMED_UP))


def test_the_same_seed_gives_the_same_bytes(tmp_path, examples):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        losses = pretrain(examples, "book", SCRATCH | {"seed": seed}, tmp_path / name, tmp_path / "state")[
            "epoch_losses"
        ]
        assert losses[1] < losses[0]
    first, again, other = (sha256_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert first == again != other
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_errors_name_the_key(tmp_path, examples):
    with pytest.raises(DataError, match="train split has no examples"):
        pretrain([], "book", SCRATCH, tmp_path, tmp_path / "state")
    with pytest.raises(ModelError, match="raise llm.scratch.context, now 20"):
        pretrain(examples, "book", SCRATCH | {"context": 20}, tmp_path, tmp_path / "state")
    long = [replace(e, reference=e.reference * 200) for e in examples]
    with pytest.raises(ModelError, match="the longest text has"):
        pretrain(long, "book", SCRATCH, tmp_path, tmp_path / "state")


def test_an_overlong_title_is_left_out_and_named(tmp_path, examples, caplog):
    tomes = [replace(e, title="Collected Tomes " * 300) if e.item_id == "i3" else e for e in examples]
    report = pretrain(tomes, "book", SCRATCH, tmp_path / "a", tmp_path / "state")
    assert (report["left_out"], report["examples"], report["longest"] <= 400) == (1, len(examples) - 1, True)
    assert "1 of 9 examples are longer than llm.scratch.context, 400 tokens: those of 1 items (i3)" in caplog.text
    assert "left_out" not in pretrain(examples, "book", SCRATCH, tmp_path / "b", tmp_path / "state")


@pytest.mark.parametrize("epochs", [1, 9, 10, 11])
def test_any_number_of_steps_can_be_trained(tmp_path, examples, epochs):
    settings = SCRATCH | {"epochs": epochs, "batch_size": len(examples)}
    assert len(pretrain(examples, "book", settings, tmp_path / "a", tmp_path / "state")["epoch_losses"]) == epochs


def test_special_tokens_that_a_text_spells_are_learnt_as_text(tmp_path, examples):
    marked = [replace(e, title="<s>Old</s> <unk>", reference=f"<EXPLAIN_POS> {e.reference}</s>") for e in examples]
    texts = pretraining_texts(marked[0], "book", ["code", "fixed"])
    assert all("book name: < s>Old< /s> < unk>" in text and "< EXPLAIN_POS>" in text for text in texts)
    tokenizer = train_tokenizer(texts, 320, 400)
    for ids in tokenizer([text.replace("<unk> book record: <unk>", "") for text in texts])["input_ids"]:
        assert [token for token in ids if token in tokenizer.all_special_ids] == [tokenizer.bos_token_id]


def test_shuffled_embeddings_are_a_seeded_permutation(tmp_path):
    path = tmp_path / "embeddings.safetensors"
    save_file({"user": randn(50, 4), "item": randn(40, 4)}, path)
    users, items = embedding_tables(path, "trained", 0, 1)
    shuffled, again, other = (embedding_tables(path, "shuffled", 0, seed)[0] for seed in (1, 1, 2))
    assert sorted(shuffled.tolist()) == sorted(users.tolist())
    assert shuffled.equal(again)
    assert not shuffled.equal(users)
    assert not shuffled.equal(other)
    assert items.shape == (40, 4)
    unit = embedding_tables(path, "shuffled", 0, 1, "unit")
    assert [table.square().mean().item() for table in unit] == pytest.approx([1, 1])
    assert (unit[0] / unit[0][0, 0]).allclose(shuffled / shuffled[0, 0], rtol=1e-4)


def test_the_chat_backend_is_made_where_it_is_set(tmp_path):
    chat = {
        "base_url": "http://127.0.0.1:9/v1",
        "model": "m",
        "api_key_env": "NO_SUCH_KEY",
        "timeout_s": 1,
        "attempts": 1,
    }
    settings = {"backend": "chat", "references": "published", "chat": chat, "max_words": 50, "seed": 1}
    assert isinstance(chat_writer(settings, "backend", "book", "amazon", tmp_path, "cpu"), ChatBackend)
    assert chat_writer(settings, "references", "book", "amazon", tmp_path, "cpu") is None
