"""The frozen language model: loading, reserved tokens, and a fingerprint that shows it stayed frozen."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xrec_repro.errors import ConfigError, ModelError
from xrec_repro.explainer.prompts import RESERVED_TOKENS
from xrec_repro.lm.load import llm_place, load_causal
from xrec_repro.seeding import torch_generator

log = logging.getLogger("xrec_repro")


@dataclass
class LanguageModel:
    """A frozen causal language model with its tokenizer.

    Attributes:
        model: In evaluation mode; no parameter takes a gradient.
        tokenizer: Knows the reserved tokens once `add_reserved_tokens` ran.
        name: Where the weights came from, e.g. ``meta-llama/Llama-2-7b-chat-hf@f5db02d``.
        identity: What tells it from every other one: digest of a folder, or repository and revision.
    """

    model: Any
    tokenizer: Any
    name: str
    identity: str | None = None

    @property
    def hidden(self) -> int:
        """Width of the token embeddings."""
        return self.model.get_input_embeddings().embedding_dim

    @property
    def context(self) -> int:
        """Longest sequence in tokens."""
        return self.model.config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        """Device of the token embeddings."""
        return self.model.get_input_embeddings().weight.device


def load_llm(settings: dict[str, Any], folder: str | Path | None, device: str) -> LanguageModel:
    """Load the language model of the configuration.

    Args:
        settings: Section ``llm``.
        folder: Where the model lies that the workflow pretrained, or the user's own; None for other sources, and for
            ``source: local`` to take ``path``.
        device: ``cpu`` or ``cuda``.

    Raises:
        ModelError: It is not there, not what it should be, or cannot be loaded.
        ConfigError: 8 or 4 bits were asked for without their library or GPU.
    """
    place = llm_place(settings, folder)
    bits, options = settings["quantisation"], {}
    if bits != "none":
        options["quantization_config"] = _bits_and_bytes(bits, settings["dtype"], device)
    dtype, attention = getattr(torch, settings["dtype"]), settings["attention"]
    model, tokenizer = load_causal(place, "llm.path", dtype=dtype, attn_implementation=attention, **options)
    if bits == "none":
        model = model.to(device)
    return LanguageModel(freeze(model), tokenizer, place.name, place.identity)


def freeze(model: nn.Module) -> nn.Module:
    """Put a model in evaluation mode and stop gradients to its weights."""
    return model.eval().requires_grad_(False)


def _bits_and_bytes(bits: str, dtype: str, device: str) -> Any:
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if device != "cuda" or not is_bitsandbytes_available():
        raise ConfigError(
            f"llm.quantisation: {bits} needs a CUDA device and the package bitsandbytes; install it or set it to 'none'"
        )
    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def add_reserved_tokens(llm: LanguageModel, seed: int) -> None:
    """Make sure that the tokenizer and both embedding matrices hold the four reserved tokens.

    Missing ones are added with rows from N(0, σ²), σ the model's own initializer range, drawn from a named seed: the
    original code draws them unseeded and never saves them. Rows that a model already has are kept.
    """
    tokenizer, model = llm.tokenizer, llm.model
    known = tokenizer.get_vocab()
    missing = [token for token in RESERVED_TOKENS if token not in known]
    if missing:
        tokenizer.add_special_tokens(
            {"additional_special_tokens": list(RESERVED_TOKENS[:3]), "pad_token": RESERVED_TOKENS[3]}
        )
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        rows = reserved_rows(llm)
        for matrix, values in rows.items():
            generator = torch_generator(seed, "token rows", matrix)
            rows[matrix] = torch.randn(values.shape, generator=generator) * model.config.initializer_range
        set_reserved_rows(llm, rows)
    freeze(model)


def _matrices(llm: LanguageModel) -> dict[str, Tensor]:
    return {
        "input": llm.model.get_input_embeddings().weight,
        "output": llm.model.get_output_embeddings().weight,
    }


def reserved_rows(llm: LanguageModel) -> dict[str, Tensor]:
    """Copy the rows of the reserved tokens from the input and output matrix, [4, hidden] each."""
    ids = llm.tokenizer.convert_tokens_to_ids(list(RESERVED_TOKENS))
    return {name: matrix.data[ids].float().cpu().clone() for name, matrix in _matrices(llm).items()}


def set_reserved_rows(llm: LanguageModel, rows: dict[str, Tensor]) -> None:
    """Write the rows of the reserved tokens; with tied embeddings the input rows rule.

    Raises:
        ModelError: The rows are not as wide as the model.
    """
    ids = llm.tokenizer.convert_tokens_to_ids(list(RESERVED_TOKENS))
    for name in ("output", "input"):
        matrix = _matrices(llm)[name]
        if rows[name].shape[1] != matrix.shape[1]:
            raise ModelError(f"token rows are {rows[name].shape[1]} wide, the model's {name} matrix {matrix.shape[1]}")
        with torch.no_grad():
            matrix[ids] = rows[name].to(matrix.device, matrix.dtype)


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 over all weights in a fixed order, to show that a frozen model did not change."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
