"""PEPLER: what its texts depend on, how a killed training goes on, and what it refuses. (Its numbers: golden.)"""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from tests.unit.conftest import make_examples
from xrec_repro.errors import ConfigError, DataError, ModelError
from xrec_repro.explainer.llm import load_llm
from xrec_repro.explainer.pretrain import train_tokenizer
from xrec_repro.methods import pepler_fit
from xrec_repro.methods.base import Run
from xrec_repro.methods.driver import fit, gather, load_fitted, make_method, write_explanations
from xrec_repro.methods.pepler import PeplerSettings
from xrec_repro.methods.pepler_model import Features, Words, first_vectors
from xrec_repro.shards import Shard
from xrec_repro.training import Plan

LLM = {"source": "local", "dtype": "float32", "attention": "sdpa", "quantisation": "none"}
GENERATION = {"subset": 1.0, "subset_seed": 42, "batch_size": 4, "max_new_tokens": 12, "decoding": "greedy"}
GENERATION |= {"temperature": 1.5, "top_k": 50, "top_p": 0.9}
SMALL = {"name": "pepler", "kind": "pepler", "epochs": 2, "batch_size": 4, "words": 30, "tokens": "own"}
KINDS = {
    "continuous": {},
    "added tokens": {"tokens": "added", "stage1": "vectors"},
    "mlp": {"rating": "mlp", "rating_hidden": 6, "stage1": "none"},
    "mf": {"rating": "mf", "rating_weight": 0.01},
    "discrete": {"prompt": "discrete", "stage1": "none", "prompt_words": 6},
}


class Killed(BaseException):
    """Stands in for a kill: nothing in the library catches it."""


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(request, tmp_path_factory):
    """A tiny random language model with its tokenizer."""
    path = tmp_path_factory.mktemp("model") / request.param
    tokenizer = train_tokenizer(["dry humour and slow suspense is a cosy thing"], 300, 128)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"vocab_size": len(tokenizer), "initializer_range": 0.2, **ends}
    if request.param == "gpt2":
        config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=128, **sizes)
    else:
        heads = {"num_attention_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 128}
        config = LlamaConfig(hidden_size=16, intermediate_size=24, **heads, **sizes)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def examples():
    """Return 28 examples: 14 of train, 5 of val, 9 of test; the last user is in the test split alone."""
    found = []
    for row, example in enumerate(make_examples(28)):
        split = "train" if row < 14 else "val" if row < 19 else "test"
        found.append(replace(example, split=split, rating=1.0 + row % 5, feature=["plot", "style", "wit"][row % 3]))
    return [*found[:-1], replace(found[-1], user=9)]


def make(folder, stage="fit", generation=GENERATION, **own):
    run = {"sections": {"llm": LLM | {"path": folder}, "generation": generation}, "seed": 3}
    more = {key: own.pop(key) for key in ("checkpoint", "identity", "sections") if key in own}
    return make_method(SMALL | own, stage, Run(**run | more))


def trained(folder, place, **own):
    report = fit(make(folder, **own), examples(), place)
    return report, load_fitted(place)


def explain(folder, fitted, out, size=4, shard=None, generation=GENERATION, **own):
    method, rows = make(folder, "write", generation, **own), [e for e in examples() if e.split == "test"]
    method.load(fitted)
    settings, more = generation | {"batch_size": size}, {"shard": shard} if shard else {}
    report = write_explanations(method, rows, settings, out.with_suffix(".partial"), out, **more)
    return report, pq.read_table(out)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_and_ratings_do_not_depend_on_batch_or_shard(folder, tmp_path, kind):
    own = KINDS[kind]
    report, fitted = trained(folder, tmp_path / "method", **own)
    stages = ["all"] if own.get("stage1") == "none" else [own.get("stage1", "words"), "all"]
    assert list(report["stages"]) == stages and report["train_examples"] == 14
    for decoding in ("greedy", "sampled"):
        generation = GENERATION | {"decoding": decoding}
        tables = [
            explain(folder, fitted, tmp_path / f"{decoding}{n}.parquet", n, generation=generation, **own)[1]
            for n in (1, 2, 7, 32)
        ]
        assert all(table.equals(tables[0]) for table in tables)
        shards = [Shard.parse(f"{n}-of-2") for n in (1, 2)]
        for shard in shards:
            explain(folder, fitted, tmp_path / f"{shard}.parquet", 2, shard, generation, **own)
        parts, out = [tmp_path / f"{shard}.parquet" for shard in shards], tmp_path / "all.parquet"
        gather(parts, [e for e in examples() if e.split == "test"], generation, out)
        assert pq.read_table(out).equals(tables[0])
    assert len(set(tables[0]["prediction"].to_pylist())) > 4
    ratings = tables[0]["rating"].to_pylist()
    assert all(isinstance(rating, float) for rating in ratings) if "rating" in own else set(ratings) == {None}


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_texts_are_those_of_reading_the_whole_prefix_again(folder, tmp_path, kind, kernel):
    own = KINDS[kind] | {"sections": {"llm": LLM | {"path": folder, "attention": kernel}, "generation": GENERATION}}
    fitted = make(folder, **own).fit([e for e in examples() if e.split != "test"])
    (method := make(folder, "write", **own)).load(fitted)
    rows = [e for e in examples() if e.split == "test"]
    module, prompts = method.module, method._prompts(rows)
    texts = method.write(rows)
    with torch.no_grad():
        prefix = prompts if kind == "continuous" else module.lm.get_input_embeddings()(prompts)
        ids = torch.full((len(rows), 1), method.words.bos)
        for _ in range(GENERATION["max_new_tokens"]):
            logits = module.logits(prefix, ids, torch.ones_like(ids), 1)[:, -1]
            ids = torch.cat([ids, logits.argmax(1, keepdim=True)], 1)
    assert [one.text for one in texts] == [method.words.written(row) for row in ids[:, 1:].tolist()]
    ends = [method.words.eos in row for row in ids[:, 1:].tolist()]
    assert [one.finish_reason for one in texts] == ["eos" if end else "length" for end in ends]
    assert {one.prompt_tokens for one in texts} == {3 if kind == "continuous" else 7}


@pytest.mark.parametrize("unseen", ["mean", "random"])
def test_users_and_items_that_training_never_saw_are_counted(folder, tmp_path, unseen):
    rows, own = examples(), {"unseen": unseen}
    _, fitted = trained(folder, tmp_path / "method")
    report, table = explain(folder, fitted, tmp_path / "out.parquet", **own)
    seen = {e.user for e in rows if e.split == "train"}
    assert report["unseen_users"] == sum(e.user not in seen for e in rows if e.split == "test") == 1
    assert report["unseen_items"] == 0
    assert len(fitted.tensors["users"]) == 7  # no row of the user that is in the test split alone
    (method := make(folder, "write", **own)).load(fitted)
    width = fitted.tensors["users"].shape[1]
    first, mean = first_vectors("user", [9], width, 3)[0], fitted.tensors["users"].mean(0)
    torch.testing.assert_close(method._vector("user", 9).detach(), mean if unseen == "mean" else first)
    assert method._vector("user", 3).equal(fitted.tensors["users"][3])
    assert not fitted.tensors["users"].isclose(first_vectors("user", range(7), width, 3)).all(1).any()
    assert table.num_rows == 9


def test_an_entity_of_the_validation_split_alone_is_not_trained(folder, tmp_path):
    rows = [replace(e, user=7) if e.split == "val" else e for e in examples()]
    fitted = make(folder).fit([e for e in rows if e.split != "test"])
    table = fitted.tensors["users"].detach()
    assert table[7].equal(first_vectors("user", [7], table.shape[1], 3)[0])
    assert 7 not in fitted.facts["known"]["user"]


@pytest.mark.parametrize("kind", ["continuous", "mlp"])
@pytest.mark.parametrize("at", [2, 5, 12])
def test_a_killed_training_ends_in_the_same_bytes(folder, tmp_path, monkeypatch, caplog, kind, at):
    monkeypatch.setattr(pepler_fit, "CHECKPOINT_EVERY", 3)
    own = KINDS[kind]
    trained(folder, tmp_path / "whole", **own)
    step, count = pepler_fit.AdamW.step, 0

    def killed(self, closure=None):
        nonlocal count
        count += 1
        if count == at:
            raise Killed
        return step(self, closure)

    place, kept = tmp_path / "again", {"checkpoint": tmp_path / "checkpoint.safetensors", "identity": "x"}
    monkeypatch.setattr(pepler_fit.AdamW, "step", killed)
    steps = 8 if kind == "mlp" else 16  # 14 examples, two epochs, one or two stages
    if at <= steps:
        with pytest.raises(Killed):
            trained(folder, place, **own, **kept)
    monkeypatch.setattr(pepler_fit.AdamW, "step", step)
    with caplog.at_level("INFO"):
        trained(folder, place, **own, **kept)
    assert ("resumed" in caplog.text) == (3 < at <= steps)
    for name in ("weights.safetensors", "method.json", "training.parquet"):
        assert (place / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not list(tmp_path.glob("checkpoint*"))


def test_as_many_examples_are_learnt_as_asked_for(folder, tmp_path):
    report, fitted = trained(folder, tmp_path / "method", max_examples=3)
    assert report["train_examples"] == 3
    assert fitted.facts["known"] == {"user": [0, 1, 2], "item": [0, 1, 2]}


def test_pools_have_each_example_once_and_like_lengths_together():
    rows = [(0, 0, None, [0] * (row * 7 % 40), None) for row in range(1003)]
    made = pepler_fit.Prompting(torch.nn.Linear(1, 1), rows, rows, 4, 0, pools=True)
    plan = Plan(name="tuning", rate_key="", seed=1, epochs=2, batch_size=4, optimizer=torch.optim.SGD)
    first, second = (made.batches(epoch, plan) for epoch in range(2))
    assert first != second and first == made.batches(0, plan)
    for batches in (first, second):
        assert sorted(row for batch in batches for row in batch) == list(range(1003))
        assert len(batches) == made.steps(plan) and sorted(map(len, batches)) == [3] + [4] * 250
        spread = [max(lengths) - min(lengths) for lengths in ([len(rows[row][3]) for row in b] for b in batches)]
        assert sum(spread) / len(spread) < 2


def test_the_curve_counts_examples_over_both_stages(folder, tmp_path):
    report, _ = trained(folder, tmp_path / "method")
    curve = pq.read_table(tmp_path / "method/training.parquet").to_pylist()
    assert [row["step"] for row in curve] == list(range(1, 17))
    assert curve[-1]["examples"] == 2 * 2 * 14
    for stage in report["stages"].values():
        assert stage["epochs"] == 2 and stage["stopped_by"] == "epochs" and stage["val_loss"] == stage["val_text"] > 0


def test_texts_are_cut_special_tokens_are_text_and_empty_ones_have_an_end(folder):
    for tokens in ("own", "added"):
        llm = load_llm(LLM | {"path": folder}, None, "cpu")
        words = Words(llm, PeplerSettings(words=3, tokens=tokens), 1)
        for text in ("", "dry humour, slow suspense", f"{llm.tokenizer.eos_token} {llm.tokenizer.bos_token}", "   "):
            ids = words.text(text)
            assert ids[0] == words.bos and ids[-1] == words.eos
            assert not {words.bos, words.eos, words.pad} & set(ids[1:-1])
            assert len(ids) <= 5 + 3 * (tokens == "added")
        assert words.written([*words.text("dry")[1:], words.bos]) == "dry"
        assert words.written([]) == ""


def test_a_prompt_of_features_names_shared_ones_twice_or_once():
    users, items = {"1": ["wit", "plot"]}, {"2": ["plot", "style"]}
    pair, stranger = (replace(make_examples(1)[0], user=user, item=2) for user in (1, 8))
    assert Features(users, items, "twice").prompt(pair) == ["plot", "wit", "plot", "style"]
    assert Features(users, items, "once").prompt(pair) == ["plot", "wit", "style"]
    assert Features(users, items, "twice").prompt(stranger) == ["plot", "style"]
    assert Features({}, {}, "twice").prompt(stranger) == []


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"prompt": "discrete"}, "a discrete prompt has no vectors of users and items"),
        ({"repo": "x/y"}, "give repo and its revision together"),
        ({"repo": "x/y", "revision": "1" * 40, "model": "z"}, "give repo and its revision together, or model"),
        ({"stage1": "word"}, r"methods.pepler.stage1: 'word' is not one of"),
    ],
)
def test_settings_that_do_not_go_together_are_told(folder, own, message):
    with pytest.raises(ConfigError, match=message):
        make(folder, **own)


@pytest.mark.parametrize(
    ("own", "change", "error", "message"),
    [
        ({}, {"split": "train"}, DataError, "stops by its validation loss, and the split val is empty"),
        ({}, {"user": -1}, DataError, "example e0: user -1 is no index"),
        ({}, {"item": None}, DataError, "example e0: item None is no index"),
        ({"rating": "mf"}, {"rating": None}, DataError, "have no rating, which the method needs"),
        ({"prompt": "discrete", "stage1": "none"}, {"feature": None}, DataError, "have no feature, which the method"),
        ({"words": 500}, {"reference": "dry humour " * 200}, ModelError, "longest text with its prompt has 5.. tokens"),
    ],
)
def test_examples_that_it_cannot_learn_from_are_told(folder, tmp_path, own, change, error, message):
    rows = [replace(e, **change) for e in examples()]
    with pytest.raises(error, match=message):
        fit(make(folder, **own), rows, tmp_path)


def test_a_model_that_it_cannot_train_or_write_with_is_told(folder, tmp_path):
    quantised = {"llm": LLM | {"path": folder, "quantisation": "8bit"}}
    with pytest.raises(ConfigError, match=r"llm.quantisation: PEPLER trains the weights"):
        fit(make(folder, sections=quantised), examples(), tmp_path)
    _, fitted = trained(folder, tmp_path / "method")
    with pytest.raises(ModelError, match="a prompt with 500 new tokens has 503 tokens, the context of .* is 128"):
        explain(folder, fitted, tmp_path / "out.parquet", generation=GENERATION | {"max_new_tokens": 500})
    fitted.facts["llm"] = "another"
    with pytest.raises(ModelError, match="trained with another language model"):
        explain(folder, fitted, tmp_path / "out.parquet")


def test_a_model_of_its_own_wins_over_that_of_the_section(folder, tmp_path):
    elsewhere = {"llm": LLM | {"path": "nowhere", "quantisation": "8bit"}, "generation": GENERATION}
    run = Run(seed=3, sections=elsewhere, inputs={"model": folder})
    report = fit(make_method(SMALL | {"model": str(folder)}, "fit", run), examples(), tmp_path / "own")
    assert report == trained(folder, tmp_path / "section")[0]
    assert (tmp_path / "own/weights.safetensors").read_bytes() == (
        tmp_path / "section/weights.safetensors"
    ).read_bytes()
