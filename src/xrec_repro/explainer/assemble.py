"""Putting an explainer together from the files of earlier stages and its settings."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xrec_repro.embedding_file import load_embeddings, swapped_users
from xrec_repro.errors import ModelError
from xrec_repro.explainer.adapter import AdapterPair
from xrec_repro.explainer.bundle import new_adapter, unpack
from xrec_repro.explainer.explainer import Explainer
from xrec_repro.explainer.injection import Injector
from xrec_repro.explainer.llm import LanguageModel, add_reserved_tokens, load_llm
from xrec_repro.explainer.prompts import PromptEncoder
from xrec_repro.methods.base import Fitted
from xrec_repro.seeding import torch_generator

_ANY_INDEX = 2**31 - 1


def fresh_explainer(
    settings: dict[str, Any], domain: str, embeddings: Path | None, llm_folder: Path | None, seed: int, device: str
) -> Explainer:
    """Make an explainer whose adapters are yet to be tuned.

    Args:
        settings: Sections llm, prompt, embeddings, adapter and injection, and embedding_width.
        domain: ``book`` or ``business``.
        embeddings: The recommender's, safetensors; None where its embeddings are not used.
        llm_folder: Where a scratch model lies, else None.
        seed: The run's seed.
        device: ``cpu`` or ``cuda``.
    """
    llm = load_llm(settings["llm"], llm_folder, device)
    add_reserved_tokens(llm, settings["adapter"]["seed_tokens"])
    users, items = _tables(embeddings, settings, settings["adapter"], seed)
    pair = new_adapter(llm, users.shape[1], settings["adapter"], seed)
    return _explainer(llm, pair, settings["injection"], domain, settings["prompt"]["template"], users, items)


def untuned_explainer(settings: dict[str, Any], domain: str, llm_folder: Path | None, device: str) -> Explainer:
    """Make an explainer without embeddings: the language model reads titles and profiles alone, nothing is tuned.

    Args:
        settings: Sections llm, prompt and adapter.
        domain: ``book`` or ``business``.
        llm_folder: Where a scratch model lies, else None.
        device: ``cpu`` or ``cuda``.
    """
    llm = load_llm(settings["llm"], llm_folder, device)
    add_reserved_tokens(llm, settings["adapter"]["seed_tokens"])  # for the padding token
    encoder = PromptEncoder(llm.tokenizer, domain, settings["prompt"]["template"], llm.context, records=False)
    return Explainer(llm, None, Injector(llm.model, "none"), encoder, None, None)


def tuned_explainer(
    settings: dict[str, Any], fitted: Fitted, embeddings: Path | None, llm_folder: Path | None, seed: int, device: str
) -> Explainer:
    """Load an explainer with tuned adapters; injection, template and domain are those it was tuned with.

    Args:
        settings: Sections llm and embeddings, and embedding_width.
        fitted: What tuning left.
        embeddings: The recommender's, safetensors; None where its embeddings are not used.
        llm_folder: Where a scratch model lies, else None.
        seed: The run's seed.
        device: ``cpu`` or ``cuda``.

    Raises:
        ModelError: Adapter, embeddings and language model do not fit each other.
    """
    llm = load_llm(settings["llm"], llm_folder, device)
    pair, saved = unpack(fitted, llm), fitted.facts
    users, items = _tables(embeddings, settings, saved.get("adapter", {}), seed)
    if saved["shape"]["inputs"] != users.shape[1]:
        raise ModelError(
            f"the adapter reads embeddings of width {saved['shape']['inputs']}, {embeddings} has "
            f"{users.shape[1]}; tune it again with these embeddings"
        )
    return _explainer(llm, pair, saved["injection"], saved["domain"], saved["prompt"]["template"], users, items)


def _tables(embeddings: Path | None, settings: dict[str, Any], adapter: dict[str, Any], seed: int) -> Any:
    width, inputs = settings["embedding_width"], adapter.get("inputs", "given")
    return embedding_tables(embeddings, settings["embeddings"], width, seed, inputs)


def embedding_tables(
    path: Path | None, kind: str, width: int, seed: int, inputs: str = "given"
) -> tuple[Tensor, Tensor]:
    """Load the user and item tables, [users, inputs] and [items, inputs].

    Args:
        path: safetensors of the recommender; None for ``fixed``.
        kind: ``trained``; ``shuffled`` with permuted rows, a control that keeps their distribution;
            ``swapped``, each user with another's row (`embedding_file.swapped_users`), items as they are;
            ``fixed``, one standard normal vector for all users and one for all items (study, section 4.3).
        width: Of the ``fixed`` vectors.
        seed: Of the permutation, or of the vectors.
        inputs: ``given``, or ``unit``: each table is scaled to mean square 1, as the ``fixed`` vectors have by draw.
    """
    if kind == "fixed":
        # A view without memory of its own: any index has the same row.
        vectors = [torch.randn(width, generator=torch_generator(seed, "fixed", side)) for side in ("user", "item")]
        return tuple(vector.expand(_ANY_INDEX, -1) for vector in vectors)
    users, items = load_embeddings(path)
    if kind == "swapped":
        users = users[swapped_users(len(users), seed)]
    if kind == "shuffled":
        users = users[torch.randperm(len(users), generator=torch_generator(seed, "shuffled", "user"))]
        items = items[torch.randperm(len(items), generator=torch_generator(seed, "shuffled", "item"))]
    if inputs == "unit":
        users, items = (table / table.square().mean().sqrt() for table in (users, items))
    return users, items


def _explainer(
    llm: LanguageModel,
    pair: AdapterPair,
    injection: dict[str, Any],
    domain: str,
    template: str,
    users: Tensor,
    items: Tensor,
) -> Explainer:
    encoder = PromptEncoder(llm.tokenizer, domain, template, llm.context)
    return Explainer(llm, pair, Injector(llm.model, **injection), encoder, users, items)
