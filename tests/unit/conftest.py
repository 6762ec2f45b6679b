"""Small random models and examples for the explainer's tests."""

import copy
import random
from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForCausalLM, GemmaConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config

from xrec_repro.examples import Example
from xrec_repro.explainer.adapter import AdapterPair, MoEAdapter
from xrec_repro.explainer.explainer import Explainer
from xrec_repro.explainer.injection import Injector
from xrec_repro.explainer.llm import LanguageModel, add_reserved_tokens, freeze
from xrec_repro.explainer.pretrain import train_tokenizer
from xrec_repro.explainer.prompts import PromptEncoder

WIDTH, USERS, ITEMS = 8, 7, 5
SIZE = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}
SHAPES = {
    "llama2": LlamaConfig(**SIZE, **HEADS),
    "llama3": LlamaConfig(**SIZE, **GROUPED),
    "mistral": MistralConfig(**SIZE, **GROUPED),
    "qwen2": Qwen2Config(**SIZE, **GROUPED, tie_word_embeddings=True),
    "gemma": GemmaConfig(**SIZE, **HEADS, head_dim=16),
    "gpt2": GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4),
}


def make_examples(count: int, seed: int = 0) -> list[Example]:
    rng = random.Random(seed)

    def words(low: int, high: int) -> str:
        return " ".join(
            rng.choice(["dry", "humour", "slow", "suspense", "a", "cosy"]) for _ in range(rng.randint(low, high))
        )

    return [
        Example(
            f"e{i}",
            i % USERS,
            i % ITEMS,
            f"u{i}",
            f"i{i}",
            words(1, 4),
            words(3, 20),
            words(3, 20),
            words(2, 15),
            "test",
        )
        for i in range(count)
    ]


@pytest.fixture
def examples() -> list[Example]:
    return make_examples(9)


@pytest.fixture
def language_model() -> Callable[[str], LanguageModel]:
    """Make a tiny random model of a known shape, with reserved tokens."""

    def make(shape: str = "llama2", seed: int = 0) -> LanguageModel:
        tokenizer = train_tokenizer(["dry humour and slow suspense [INST] <<SYS>>"], 300, 512)
        torch.manual_seed(seed)
        config = copy.deepcopy(SHAPES[shape])  # a test may change its model's
        config.initializer_range = 0.2
        config.max_position_embeddings = 512
        config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        llm = LanguageModel(freeze(AutoModelForCausalLM.from_config(config)), tokenizer, shape)
        add_reserved_tokens(llm, seed=5)
        return llm

    return make


@pytest.fixture
def explainer(language_model) -> Callable[..., Explainer]:
    """Make an explainer around a tiny model, with random embeddings and adapters that matter."""

    def make(shape: str = "llama2", form: str = "output", template: str = "code", dropout: float = 0.2) -> Explainer:
        llm = language_model(shape)
        generator = torch.Generator().manual_seed(3)
        sides = [MoEAdapter(WIDTH, llm.hidden, experts=3, dropout=dropout).reset(generator) for _ in range(2)]
        with torch.no_grad():
            for side in sides:
                side.weight.mul_(40)
        tables = [torch.randn(n, WIDTH, generator=generator) for n in (USERS, ITEMS)]
        encoder = PromptEncoder(llm.tokenizer, "book", template, llm.context)
        return Explainer(llm, AdapterPair(*sides).eval(), Injector(llm.model, form), encoder, *tables)

    return make
