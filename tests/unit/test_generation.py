import json

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings, strategies
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tests.unit.conftest import make_examples
from xrec_repro.contracts import EXPLANATIONS
from xrec_repro.errors import DataError, ModelError
from xrec_repro.examples import Example
from xrec_repro.explainer.decoding import Decoded, Sampler, nucleus, stop_tokens
from xrec_repro.explainer.generation import clean_text, explain_batch
from xrec_repro.methods import xrec_write
from xrec_repro.methods.driver import gather, write_explanations
from xrec_repro.methods.xrec_write import Writing
from xrec_repro.seeding import torch_generator
from xrec_repro.shards import Shard

GREEDY = {
    "subset": 1.0,
    "subset_seed": 42,
    "batch_size": 4,
    "max_new_tokens": 12,
    "decoding": "greedy",
    "temperature": 0.6,
    "top_k": 50,
    "top_p": 0.9,
}
SAMPLED = GREEDY | {"decoding": "sampled", "temperature": 1.5}


class Killed(BaseException):
    """Stands in for a kill: nothing in the library catches it."""


def write(explainer, examples, settings, seed, *files, **options):
    return write_explanations(Writing.of(explainer, settings, seed), examples, settings, *files, **options)


def run(explainer, examples, folder, settings, seed=1, **options):
    write(explainer, examples, settings, seed, folder / "partial.jsonl", folder / "out.parquet", **options)
    return pq.read_table(folder / "out.parquet")


@pytest.mark.parametrize("chosen", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_text_does_not_depend_on_the_batch(tmp_path, explainer, examples, chosen):
    tables = [run(explainer(), examples, tmp_path / str(n), chosen | {"batch_size": n}) for n in (1, 2, 7, 32)]
    assert all(table.equals(tables[0]) for table in tables)
    assert tables[0].schema.equals(EXPLANATIONS)
    assert tables[0]["example_id"].to_pylist() == [e.example_id for e in examples]
    assert len(set(tables[0]["prediction"].to_pylist())) > 5


@pytest.mark.gpu
@pytest.mark.parametrize("chosen", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("shape", ["llama2", "qwen2"])
def test_text_does_not_depend_on_the_batch_in_float32_on_a_gpu(tmp_path, explainer, shape, chosen):
    many = make_examples(96)

    def texts(size: int) -> list[str]:
        made = explainer(shape, "output" if shape == "llama2" else "input")
        made.llm.model.to("cuda"), made.adapters.to("cuda")
        longer = chosen | {"batch_size": size, "max_new_tokens": 48}
        return run(made, many, tmp_path / str(size), longer)["prediction"].to_pylist()

    alone = texts(1)
    assert len(set(alone)) > 50
    differing = {size: sum(a != b for a, b in zip(alone, texts(size), strict=True)) for size in (2, 7, 16, 32, 96)}
    assert not any(differing.values()), f"texts of {len(many)} that differ from batch 1: {differing}"


def test_sampled_text_depends_on_the_seed_and_on_nothing_else(tmp_path, explainer, examples):
    one, two = (run(explainer(), examples, tmp_path / str(seed), SAMPLED, seed) for seed in (1, 2))
    part = run(explainer(), examples[3:6], tmp_path / "part", SAMPLED, 1)
    assert one["prediction"].to_pylist() != two["prediction"].to_pylist()
    assert part["prediction"].to_pylist() == one["prediction"].to_pylist()[3:6]


def test_greedy_batches_equal_the_library_s_generate(explainer, examples, tmp_path):
    made = explainer()
    texts = run(made, examples, tmp_path, GREEDY)["prediction"].to_pylist()
    for example, text in zip(examples, texts, strict=True):
        encoded = made.encoder.test(example, 12)
        ids = torch.tensor([encoded.ids])
        with (
            torch.no_grad(),
            made.injector.prompt(made.adapt([example]), torch.tensor([encoded.positions]), ids.shape[1]),
        ):
            out = made.llm.model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=made.pad_id)
        want = clean_text(made.llm.tokenizer, Decoded(out[0, ids.shape[1] :].tolist(), ""), "code")
        assert text == want


@pytest.mark.parametrize("kill_after", [1, 2])
def test_a_killed_run_resumes_without_repeating(tmp_path, explainer, examples, kill_after):
    want = run(explainer(), examples, tmp_path / "whole", SAMPLED)
    batches = []

    def kill(done):
        batches.append(done)
        if len(batches) == kill_after:
            raise Killed

    with pytest.raises(Killed):
        run(explainer(), examples, tmp_path, SAMPLED, after_batch=kill)
    partial = tmp_path / "partial.jsonl"
    with partial.open("a") as stream:
        stream.write('{"example_id": "e8", "predic')
    again = []
    assert run(explainer(), examples, tmp_path, SAMPLED, after_batch=again.append).equals(want)
    assert len(again) == 3 - kill_after
    assert not partial.exists()


def test_a_partial_file_of_other_inputs_is_dropped(tmp_path, explainer, examples):
    row = {"example_id": "e0", "prediction": "stale"}
    (tmp_path / "partial.jsonl").write_text(json.dumps({"fingerprint": "old"}) + "\n" + json.dumps(row) + "\n")
    table = run(explainer(), examples, tmp_path, GREEDY, fingerprint="new")
    assert "stale" not in table["prediction"].to_pylist()


def run_shards(made, examples, folder, settings, count, **options):
    """Generate in shards, first to last, and gather; returns the parts and what was reported of the whole."""
    parts = []
    for number in range(1, count + 1):
        run(made, examples, folder / str(number), settings, shard=Shard(number, count), **options)
        parts.append(folder / str(number) / "out.parquet")
    return parts, gather(parts, examples, settings, folder / "out.parquet")


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    "chosen", [GREEDY | {"batch_size": 2, "subset": 0.8}, SAMPLED], ids=["greedy, subset", "sampled"]
)
def test_shards_give_the_bytes_of_the_whole(tmp_path, explainer, examples, chosen, count):
    whole = write(explainer(), examples, chosen, 1, tmp_path / "partial", tmp_path / "whole.parquet")
    parts, gathered = run_shards(explainer(), examples, tmp_path, chosen, count)
    assert gathered == whole
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    batches = -(-whole["explanations"] // chosen["batch_size"])
    filled = sum(pq.read_metadata(part).num_rows > 0 for part in parts)
    assert filled == min(count, batches)  # 3 or 4 batches: some of five shards have none
    assert all(pq.read_schema(part).equals(EXPLANATIONS) for part in parts)


def test_the_batches_of_shards_are_those_of_the_whole(tmp_path, explainer, examples, monkeypatch):
    seen = []
    plain = xrec_write.explain_batch
    monkeypatch.setattr(
        xrec_write, "explain_batch", lambda made, batch, *rest: seen.append(batch) or plain(made, batch, *rest)
    )
    run(explainer(), examples, tmp_path, GREEDY | {"batch_size": 2})
    whole, seen[:] = [*seen], []
    run_shards(explainer(), examples, tmp_path, GREEDY | {"batch_size": 2}, 3)
    assert len(whole) == 5
    assert seen == whole[0::3] + whole[1::3] + whole[2::3]


def test_a_shard_that_was_killed_resumes(tmp_path, explainer, examples):
    chosen = SAMPLED | {"batch_size": 2}
    run(explainer(), examples, tmp_path / "whole", chosen)

    def kill(done):
        raise Killed

    with pytest.raises(Killed):
        run(explainer(), examples, tmp_path / "1", chosen, shard=Shard(1, 2), after_batch=kill)
    again = []
    run_shards(explainer(), examples, tmp_path, chosen, 2, after_batch=again.append)
    assert again == [4, 5, 2, 4]  # of shard 1 two batches were left, shard 2 has two
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole/out.parquet").read_bytes()
    assert not list(tmp_path.rglob("partial*"))


def test_parts_that_are_not_the_whole_are_refused(tmp_path, explainer, examples):
    (one, two), _ = run_shards(explainer(), examples, tmp_path, GREEDY, 2)
    out = tmp_path / "again.parquet"
    with pytest.raises(DataError, match=r"again\.parquet: no shard has example e\d; generate all shards again"):
        gather([one], examples, GREEDY, out)
    with pytest.raises(DataError, match=r"1/out\.parquet: example e\d is in another shard too"):
        gather([one, two, one], examples, GREEDY, out)
    with pytest.raises(DataError, match=r"out\.parquet: example e\d was not to be explained"):
        gather([one, two], examples, GREEDY | {"subset": 0.5}, out)
    assert not out.exists()


def test_errors_name_the_place(tmp_path, explainer, examples):
    made = explainer()
    with pytest.raises(DataError, match="test split has no examples"):
        run(made, [], tmp_path, GREEDY)
    with pytest.raises(ModelError, match=r"example e\d \(item i\d\): the prompt with 600 new tokens"):
        run(made, examples, tmp_path, GREEDY | {"max_new_tokens": 600})


def test_text_ends_before_the_first_bracket(language_model):
    tokenizer = language_model().tokenizer
    ids = tokenizer("dry humour [/INST] more", add_special_tokens=False)["input_ids"]
    assert clean_text(tokenizer, Decoded(ids, "length"), "code") == "dry humour"
    assert clean_text(tokenizer, Decoded(ids, "length"), "fixed") == "dry humour [/INST] more"
    stops = stop_tokens(tokenizer, at_bracket=True)
    cut = next(i for i, token in enumerate(ids) if token in stops)
    assert clean_text(tokenizer, Decoded(ids[: cut + 1], "bracket"), "code") == "dry humour"
    assert stop_tokens(tokenizer, at_bracket=False) == {tokenizer.eos_token_id: "eos"}


def test_all_ends_of_the_generation_configuration_end_a_text(monkeypatch, explainer, examples):
    made, seen = explainer(template="fixed"), []
    tokenizer, model = made.llm.tokenizer, made.llm.model
    monkeypatch.setattr(
        "xrec_repro.explainer.generation.clean_text", lambda *given: (seen.append(given[1].ids), clean_text(*given))[1]
    )
    explain_batch(made, examples[:1], GREEDY, 1)
    (ids,) = seen
    place = next(place for place in range(2, len(ids)) if ids[place] not in ids[:place])
    for ends in ([tokenizer.eos_token_id, ids[place]], ids[place]):
        model.generation_config.eos_token_id = ends
        assert stop_tokens(tokenizer, False, ends) == {tokenizer.eos_token_id: "eos", ids[place]: "eos"}
        row = explain_batch(made, examples[:1], GREEDY, 1)[0]
        assert (row.finish_reason, row.new_tokens) == ("eos", place + 1)
        assert row.text == tokenizer.decode(ids[:place], skip_special_tokens=True).strip()


@settings(max_examples=60, deadline=None)
@given(
    strategies.integers(0, 10_000),
    strategies.floats(0.3, 2.0),
    strategies.integers(0, 40),
    strategies.floats(0.05, 1.0),
)
def test_nucleus_keeps_what_transformers_keeps(seed, temperature, top_k, top_p):
    logits = torch.randn(3, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    want = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        want = TopKLogitsWarper(top_k)(None, want)
    want = TopPLogitsWarper(top_p)(None, want).softmax(-1)
    probabilities, tokens = nucleus(logits, temperature, top_k, top_p)
    got = torch.zeros_like(want).scatter(1, tokens, probabilities)
    torch.testing.assert_close(got / got.sum(-1, keepdim=True), want, atol=1e-9, rtol=1e-9)


def test_sampling_follows_the_distribution():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    plain = {"decoding": "sampled", "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    sampler = Sampler(plain, 0, [str(i) for i in range(4000)])
    counts = sampler.choose(logits.expand(4000, -1)).bincount(minlength=3) / 4000
    torch.testing.assert_close(counts, torch.tensor([0.5, 0.3, 0.2]), atol=0.03, rtol=0)


# A prompt: words of the title, of the user's profile and of the item's.
PROMPT = strategies.tuples(strategies.integers(0, 3), strategies.integers(0, 90), strategies.integers(0, 30))


@pytest.mark.parametrize("chosen", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_fuzz_of_prompt_lengths_and_batch_compositions(monkeypatch, explainer, chosen):
    made = explainer()
    # Many tokens end a text here, so that rows leave the batch at different steps.
    stops = dict.fromkeys(range(0, len(made.llm.tokenizer), 9), "eos")
    monkeypatch.setattr("xrec_repro.explainer.generation.stop_tokens", lambda *_, **__: stops)
    stopped = set()

    @settings(max_examples=15, deadline=None)
    @given(strategies.lists(PROMPT, min_size=2, max_size=9), strategies.randoms(use_true_random=False))
    def check(sizes, random):
        texts = [[" ".join(random.choices(["dry", "humour", "a", "cosy"], k=n)) for n in size] for size in sizes]
        asked = [Example(f"e{i}", i % 7, i % 5, "u", "i", *parts, "", "test") for i, parts in enumerate(texts)]
        alone = [explain_batch(made, [example], chosen, 1)[0] for example in asked]
        assert explain_batch(made, asked, chosen, 1) == alone
        order = random.sample(range(len(asked)), len(asked))
        cut = random.randrange(1, len(asked))
        for part in (order[:cut], order[cut:]):
            assert explain_batch(made, [asked[i] for i in part], chosen, 1) == [alone[i] for i in part]
        stopped.update(row.new_tokens for row in alone)

    check()
    assert len(stopped) > 5


def test_draws_are_each_row_s_own_stream_whoever_leaves():
    sampler = Sampler(SAMPLED | {"top_k": 0, "top_p": 1.0, "temperature": 1.0}, 3, ["a", "b", "c"])
    streams = {key: torch_generator(3, "sampling", key) for key in "abc"}
    keys = list("abc")
    for step in range(150):
        if step == 70:
            sampler.keep([0, 2])
            keys = ["a", "c"]
        # Equal logits: the token is the draw's place among them.
        chosen = sampler.choose(torch.zeros(len(keys), 1000)).tolist()
        want = {key: torch.rand(1, generator=g, dtype=torch.float64).item() for key, g in streams.items()}
        assert chosen == pytest.approx([want[key] * 1000 for key in keys], abs=1.001)


@settings(max_examples=60, deadline=None)
@given(strategies.integers(0, 10_000), strategies.integers(1, 40), strategies.integers(1, 9))
def test_the_cut_of_equal_logits_is_that_of_a_stable_sort(seed, top_k, levels):
    logits = torch.randint(levels, (4, 30), generator=torch.Generator().manual_seed(seed)).float()
    want = logits.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    assert torch.equal(nucleus(logits, 0.7, top_k, 1.0)[1], want)
