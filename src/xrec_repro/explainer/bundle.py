"""What is kept of adapters: their weights, the rows of the reserved tokens, and the settings that made them."""

from typing import Any

import torch

from xrec_repro.errors import ModelError
from xrec_repro.explainer.adapter import AdapterPair, MoEAdapter, state_from_authors
from xrec_repro.explainer.llm import LanguageModel, add_reserved_tokens, reserved_rows, set_reserved_rows
from xrec_repro.methods.base import Fitted
from xrec_repro.seeding import torch_generator

_ROWS = "token_rows."


def new_adapter(llm: LanguageModel, inputs: int, settings: dict[str, Any], seed: int) -> AdapterPair:
    """Make freshly drawn adapters for a model.

    Args:
        llm: The language model they will feed.
        inputs: Width of the recommender's embeddings.
        settings: Section ``adapter``.
        seed: The run's seed.
    """
    options = {key: settings[key] for key in ("experts", "dropout", "noise_epsilon", "gate", "gate_noise")}
    pair = AdapterPair(*(MoEAdapter(inputs, llm.hidden, **options) for _ in range(2)))
    for side in ("user", "item"):
        getattr(pair, side).reset(torch_generator(seed, "adapter", side), settings["bias_std"])
    return pair.to(llm.device)


def pack(pair: AdapterPair, llm: LanguageModel, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors and facts that are needed to use adapters with the same language model.

    Args:
        pair: The adapters.
        llm: The model they were tuned with: the rows of its reserved tokens are kept along.
        config: Settings to keep: at least ``injection``, ``prompt`` and ``domain``.
    """
    tensors = dict(pair.state_dict()) | {f"{_ROWS}{name}": rows for name, rows in reserved_rows(llm).items()}
    shape = pair.user.shape | {"dropout": pair.user.dropout, "noise_epsilon": pair.user.noise_epsilon}
    return tensors, {"shape": shape, "llm": llm.name, "llm_identity": llm.identity, **config}


def unpack(fitted: Fitted, llm: LanguageModel) -> AdapterPair:
    """Return adapters in evaluation mode for a language model, and give it their reserved tokens.

    Args:
        fitted: What `pack` returned.
        llm: The model; its reserved rows are overwritten by the saved ones.

    Raises:
        ModelError: The adapter is not as wide as the model, or was tuned with another one.
    """
    facts, shape = fitted.facts, fitted.facts["shape"]
    if shape["outputs"] != llm.hidden:
        raise ModelError(
            f"the adapter is {shape['outputs']} wide, the language model {llm.name} {llm.hidden}; use the model it was "
            f"tuned with ({facts['llm']})"
        )
    if None not in (llm.identity, facts.get("llm_identity")) and llm.identity != facts["llm_identity"]:
        raise ModelError(
            f"the adapter was tuned with another language model ({facts['llm']}, {facts['llm_identity'][:16]}) than "
            f"{llm.name} ({llm.identity[:16]}); tune it again, or use that model"
        )
    add_reserved_tokens(llm, seed=0)
    set_reserved_rows(llm, {name: fitted.tensors[f"{_ROWS}{name}"] for name in ("input", "output")})
    return adapters_of(fitted).to(llm.device)


def adapters_of(fitted: Fitted) -> AdapterPair:
    """Return adapters alone, in evaluation mode and on the CPU."""
    shape = fitted.facts["shape"]
    pair = AdapterPair(MoEAdapter(**shape), MoEAdapter(**shape))
    pair.load_state_dict({name: value for name, value in fitted.tensors.items() if not name.startswith(_ROWS)})
    return pair.eval()


def load_authors_adapter(user_state: dict[str, torch.Tensor], item_state: dict[str, torch.Tensor]) -> AdapterPair:
    """Build adapters from two state dicts of the original code (``user_converter``, ``item_converter``)."""
    sides = []
    for state in map(state_from_authors, (user_state, item_state)):
        experts, outputs, inputs = state["weight"].shape
        side = MoEAdapter(inputs, outputs, experts)
        side.load_state_dict(state)
        sides.append(side)
    return AdapterPair(*sides)
