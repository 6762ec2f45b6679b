"""Putting an explainer together from the files of earlier stages and its settings."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xrec_repro.errors import ModelError
from xrec_repro.explainer.adapter import AdapterPair
from xrec_repro.explainer.bundle import load_adapter, new_adapter
from xrec_repro.explainer.injection import Injector
from xrec_repro.explainer.llm import LanguageModel, add_reserved_tokens, load_llm
from xrec_repro.explainer.prompts import PromptEncoder
from xrec_repro.explainer.tuning import Explainer
from xrec_repro.recommender.lightgcn import load_embeddings
from xrec_repro.seeding import torch_generator


def fresh_explainer(
    settings: dict[str, Any], domain: str, embeddings: Path, llm_folder: Path | None, seed: int, device: str
) -> Explainer:
    """Make an explainer whose adapters are yet to be tuned.

    Args:
        settings: Sections llm, prompt, embeddings, adapter and injection.
        domain: ``book`` or ``business``.
        embeddings: The recommender's, safetensors.
        llm_folder: Where a scratch model lies, else None.
        seed: The run's seed.
        device: ``cpu`` or ``cuda``.
    """
    llm = load_llm(settings["llm"], llm_folder, device)
    add_reserved_tokens(llm, settings["adapter"]["seed_tokens"])
    users, items = embedding_tables(embeddings, settings["embeddings"], seed)
    pair = new_adapter(llm, users.shape[1], settings["adapter"], seed)
    return _explainer(llm, pair, settings["injection"]["form"], domain, settings["prompt"]["template"], users, items)


def tuned_explainer(
    settings: dict[str, Any], adapter: Path, embeddings: Path, llm_folder: Path | None, seed: int, device: str
) -> Explainer:
    """Load an explainer with tuned adapters; injection, template and domain are those it was tuned with.

    Args:
        settings: Sections llm and embeddings.
        adapter: Folder of the adapter.
        embeddings: The recommender's, safetensors.
        llm_folder: Where a scratch model lies, else None.
        seed: The run's seed.
        device: ``cpu`` or ``cuda``.

    Raises:
        ModelError: Adapter, embeddings and language model do not fit each other.
    """
    llm = load_llm(settings["llm"], llm_folder, device)
    pair, saved = load_adapter(adapter, llm)
    users, items = embedding_tables(embeddings, settings["embeddings"], seed)
    if saved["shape"]["inputs"] != users.shape[1]:
        raise ModelError(
            f"{adapter}: the adapter reads embeddings of width {saved['shape']['inputs']}, {embeddings} has "
            f"{users.shape[1]}; tune it again with these embeddings"
        )
    return _explainer(llm, pair, saved["injection"]["form"], saved["domain"], saved["prompt"]["template"], users, items)


def embedding_tables(path: Path, kind: str, seed: int) -> tuple[Tensor, Tensor]:
    """Load the user and item tables, [users, inputs] and [items, inputs].

    Args:
        path: safetensors of the recommender.
        kind: ``lightgcn`` as trained; ``shuffled`` with permuted rows, a control that keeps their distribution.
        seed: Of the permutation.
    """
    users, items = load_embeddings(path)
    if kind == "shuffled":
        users = users[torch.randperm(len(users), generator=torch_generator(seed, "shuffled", "user"))]
        items = items[torch.randperm(len(items), generator=torch_generator(seed, "shuffled", "item"))]
    return users, items


def _explainer(
    llm: LanguageModel, pair: AdapterPair, form: str, domain: str, template: str, users: Tensor, items: Tensor
) -> Explainer:
    encoder = PromptEncoder(llm.tokenizer, domain, template, llm.context)
    return Explainer(llm, pair, Injector(llm.model, form), encoder, users, items)
