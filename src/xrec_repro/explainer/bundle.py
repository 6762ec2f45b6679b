"""An adapter on disk: safetensors weights, the rows of the reserved tokens, and the settings that made it."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from xrec_repro.errors import DataError, ModelError
from xrec_repro.explainer.adapter import AdapterPair, MoEAdapter, state_from_authors
from xrec_repro.explainer.llm import LanguageModel, add_reserved_tokens, reserved_rows, set_reserved_rows
from xrec_repro.io import atomic_path, read_json, require_file, write_json
from xrec_repro.seeding import torch_generator

WEIGHTS, CONFIG = "adapter.safetensors", "adapter.json"


def new_adapter(llm: LanguageModel, inputs: int, settings: dict[str, Any], seed: int) -> AdapterPair:
    """Make freshly drawn adapters for a model.

    Args:
        llm: The language model they will feed.
        inputs: Width of the recommender's embeddings.
        settings: Section ``adapter``.
        seed: The run's seed.
    """
    options = {key: settings[key] for key in ("experts", "dropout", "noise_epsilon", "gate", "gate_noise")}
    sides = {
        side: MoEAdapter(inputs, llm.hidden, **options).reset(torch_generator(seed, "adapter", side))
        for side in ("user", "item")
    }
    return AdapterPair(**sides).to(llm.device)


def save_adapter(folder: str | Path, pair: AdapterPair, llm: LanguageModel, config: dict[str, Any]) -> None:
    """Save adapters with all that is needed to use them with the same language model.

    Args:
        folder: Where to write ``adapter.safetensors`` and ``adapter.json``.
        pair: The adapters.
        llm: The model they were tuned with: the rows of its reserved tokens are saved along.
        config: Settings to keep: at least ``injection``, ``prompt`` and ``domain``.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in pair.state_dict().items()}
    tensors |= {f"token_rows.{name}": rows.contiguous() for name, rows in reserved_rows(llm).items()}
    with atomic_path(Path(folder) / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    shape = pair.user.shape | {"dropout": pair.user.dropout, "noise_epsilon": pair.user.noise_epsilon}
    write_json(Path(folder) / CONFIG, {"shape": shape, "llm": llm.name, "llm_identity": llm.identity, **config})


def load_adapter(folder: str | Path, llm: LanguageModel) -> tuple[AdapterPair, dict[str, Any]]:
    """Load adapters for a language model, and give it their reserved tokens.

    Args:
        folder: A folder that `save_adapter` wrote.
        llm: The model; its reserved rows are overwritten by the saved ones.

    Returns:
        The adapters in evaluation mode, and the settings saved with them.

    Raises:
        DataError: A file is missing or damaged.
        ModelError: The adapter is not as wide as the model, or was tuned with another one.
    """
    config, tensors = _read(folder)
    shape, path = config["shape"], Path(folder) / WEIGHTS
    if shape["outputs"] != llm.hidden:
        raise ModelError(
            f"{path}: the adapter is {shape['outputs']} wide, the language model {llm.name} {llm.hidden}; "
            f"use the model it was tuned with ({config['llm']})"
        )
    if None not in (llm.identity, config.get("llm_identity")) and llm.identity != config["llm_identity"]:
        raise ModelError(
            f"{path}: tuned with another language model ({config['llm']}, {config['llm_identity'][:16]}) than "
            f"{llm.name} ({llm.identity[:16]}); tune it again, or use that model"
        )
    add_reserved_tokens(llm, seed=0)
    set_reserved_rows(llm, {name: tensors.pop(f"token_rows.{name}") for name in ("input", "output")})
    pair = AdapterPair(MoEAdapter(**shape), MoEAdapter(**shape))
    pair.load_state_dict(tensors)
    return pair.to(llm.device).eval(), config


def read_adapter(folder: str | Path) -> tuple[AdapterPair, dict[str, Any]]:
    """Read adapters alone, in evaluation mode and on the CPU, and the settings saved with them.

    Raises:
        DataError: A file is missing or damaged.
    """
    config, tensors = _read(folder)
    pair = AdapterPair(MoEAdapter(**config["shape"]), MoEAdapter(**config["shape"]))
    pair.load_state_dict({name: value for name, value in tensors.items() if not name.startswith("token_rows.")})
    return pair.eval(), config


def _read(folder: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    config = read_json(Path(folder) / CONFIG)
    path = require_file(Path(folder) / WEIGHTS, "tune the explainer first")
    try:
        return config, load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path}: not a whole safetensors file; delete it and tune again") from error


def load_authors_adapter(user_state: dict[str, torch.Tensor], item_state: dict[str, torch.Tensor]) -> AdapterPair:
    """Build adapters from two state dicts of the original code (``user_converter``, ``item_converter``)."""
    sides = []
    for state in map(state_from_authors, (user_state, item_state)):
        experts, outputs, inputs = state["weight"].shape
        side = MoEAdapter(inputs, outputs, experts)
        side.load_state_dict(state)
        sides.append(side)
    return AdapterPair(*sides)
