"""What a forward pass is given while decoding: ready-made masks, and a cache whose rows move together."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings, strategies
from transformers import Gemma2Config, GPT2Config
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from tests.unit.conftest import SHAPES, make_examples
from tests.unit.test_generation import GREEDY
from xrec_repro.explainer.batching import attention_mask
from xrec_repro.explainer.decoding import _closed_up
from xrec_repro.explainer.generation import explain_batch
from xrec_repro.explainer.kv_cache import roomy_cache

OPENING, LENGTH = 4, 11
GAPS = (0, 3, 1)
FAMILIES = ("llama2", "mistral", "qwen2", "gemma")


def padded_tokens():
    """A mask of three prompts: what all begin with, then padding on the left of the others."""
    tokens = torch.ones(len(GAPS), LENGTH, dtype=torch.long)
    for row, gap in enumerate(GAPS):
        tokens[row, OPENING : OPENING + gap] = 0
    return tokens


def made_by_transformers(config, tokens, read, create):
    """The library's own mask for the last tokens, the others being in a cache."""
    length = tokens.shape[1]
    cache = roomy_cache(None, length)
    if length > read:
        cache.update(*(torch.zeros(len(tokens), 1, length - read, 2),) * 2, 0)
    return create(
        config=config,
        input_embeds=torch.zeros(len(tokens), read, 2),
        attention_mask=tokens,
        cache_position=torch.arange(length - read, length),
        past_key_values=cache,
    )


def with_kernel(config, kernel, **changed):
    config = type(config)(**config.to_dict() | changed)
    config._attn_implementation = kernel
    return config


def asked(config, tokens, read, **options):
    return attention_mask(SimpleNamespace(config=config, dtype=torch.float32), tokens, read, **options)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("shape", [*FAMILIES, "gpt2"])
def test_ready_made_masks_are_those_of_transformers(shape, kernel):
    config = with_kernel(GPT2Config() if shape == "gpt2" else SHAPES[shape], kernel)
    for read in (1, 2, LENGTH - OPENING):
        found = asked(config, padded_tokens(), read)
        want = made_by_transformers(config, padded_tokens(), read, create_causal_mask)
        assert found.dtype == want.dtype
        assert found.shape == (len(GAPS), 1, read, LENGTH)
        assert torch.equal(found, want)


def test_a_window_as_long_as_the_text_hides_nothing_and_a_shorter_one_is_left_to_transformers():
    config = with_kernel(SHAPES["mistral"], "sdpa", sliding_window=LENGTH)
    want = made_by_transformers(config, padded_tokens(), 1, create_sliding_window_causal_mask)
    assert torch.equal(asked(config, padded_tokens(), 1), want)
    tokens = padded_tokens()
    shorter = with_kernel(SHAPES["mistral"], "sdpa", sliding_window=LENGTH - 1)
    assert not torch.equal(made_by_transformers(shorter, tokens, 1, create_sliding_window_causal_mask), want)
    assert asked(shorter, tokens, 1) is tokens


def test_what_is_not_known_gets_the_mask_of_tokens():
    tokens = padded_tokens()
    for config in (with_kernel(SHAPES["llama2"], "flash_attention_2"), with_kernel(Gemma2Config(), "sdpa")):
        assert asked(config, tokens, 1) is tokens
        assert asked(config, torch.ones_like(tokens), 1, padded=False) is not None
    known = with_kernel(SHAPES["llama2"], "sdpa")
    assert asked(known, tokens, LENGTH) is tokens  # transformers has shorter ways for whole prompts
    assert asked(known, torch.ones_like(tokens), 1, padded=False) is None
    eager = asked(with_kernel(SHAPES["llama2"], "eager"), torch.ones_like(tokens), 1, padded=False)
    assert torch.equal(eager, torch.zeros(len(GAPS), 1, 1, LENGTH))


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("shape", [*FAMILIES, "llama3"])
def test_decoding_makes_no_mask_of_transformers(monkeypatch, explainer, shape, kernel):
    made = explainer(shape, "input")
    made.llm.model.set_attn_implementation(kernel)
    rows = make_examples(5)
    alone = [explain_batch(made, [example], GREEDY, 1)[0] for example in rows]
    given_masks = []
    handle = made.llm.model.register_forward_pre_hook(
        lambda _, args, options: given_masks.append(options["attention_mask"]), with_kwargs=True
    )
    together = explain_batch(made, rows, GREEDY, 1)
    handle.remove()
    assert together == alone
    assert len(given_masks) > 5
    assert all(mask is None or mask.ndim == 4 for mask in given_masks)
    monkeypatch.setattr("xrec_repro.explainer.decoding.attention_mask", lambda model, tokens, read, padded: tokens)
    assert explain_batch(made, rows, GREEDY, 1) == together


def test_a_window_shorter_than_the_text_gives_the_same_text_in_a_batch(monkeypatch, explainer):
    made = explainer("mistral", "input")
    monkeypatch.setattr(made.llm.model.config, "sliding_window", 40)
    rows = make_examples(6)
    alone = [explain_batch(made, [example], GREEDY, 1)[0] for example in rows]
    assert min(row.prompt_tokens for row in alone) > 40
    assert explain_batch(made, rows, GREEDY, 1) == alone


@settings(max_examples=40, deadline=None)
@given(strategies.lists(strategies.integers(0, 8), min_size=1, max_size=9, unique=True), strategies.booleans())
def test_rows_of_the_cache_move_together(rows, closed_up):
    cache = roomy_cache(None, 7)
    keys, values = (torch.randn(9, 2, 5, 3, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    cache.update(keys, values, 0)
    if closed_up:
        order = _closed_up(set(rows))
        assert sorted(order) == sorted(rows)
        # None moves that stands where a row is left.
        assert all(row == place for place, row in enumerate(order) if place in rows)
        rows = order
    cache.batch_select_indices(rows)
    more = torch.ones(len(rows), 2, 1, 3)
    found = cache.update(more, more, 0)
    assert torch.equal(found[0], torch.cat([keys[rows], more], dim=2))
    assert torch.equal(found[1], torch.cat([values[rows], more], dim=2))
