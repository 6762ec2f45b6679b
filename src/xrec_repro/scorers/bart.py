"""A small BART, trained by denoising."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import processors
from torch import Tensor
from torch.nn import functional as F
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast, set_seed

from xrec_repro.scorers.content import ContentModel
from xrec_repro.scorers.tokenizer import byte_pairs
from xrec_repro.scorers.training import (
    Settings,
    fit,
    make_pairs,
    pad,
    read_corpus,
    save,
    start_attention,
    start_embeddings,
)
from xrec_repro.seeding import derive_seed

log = logging.getLogger("xrec_repro")

# How often each kind of noise stands for the source (`Perturber`). Sources that say something else teach what a text
# is worth where its source tells nothing of it, foreign ones that unlike sources have unlike targets.
SHARES = {
    "same": 0.12, "near": 0.15, "reframed": 0.28, "exchanged": 0.1, "other": 0.1, "shortened": 0.05, "foreign": 0.2,
}  # fmt: skip
BOS, PAD, EOS, UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"
WORD_SCALE = 0.5
NOT_A_TARGET = -100


def train_bart(texts: Sequence[str], settings: Settings, out_folder: Path, fingerprint: str = "") -> dict[str, Any]:
    """Train a `BartForConditionalGeneration` to write a reference from a text that says much, little or none of it.

    Its log-likelihood of a reference given a prediction (BARTScore) then rises with what the prediction says of it.

    Args:
        texts: Explanations of the train split; nothing else is known of them.
        settings: Section ``scorers.bart``.
        out_folder: Where the model goes.
        fingerprint: See `train_scorer`.

    Returns:
        Sizes and the loss over the training.

    Raises:
        DataError: There are no two different texts.
        ModelError: The loss is not finite.
    """
    seed = settings["seed"]
    texts, content = read_corpus(texts, seed, (BOS, PAD, EOS, UNKNOWN))
    tokenizer = _tokenizer(texts, settings)
    pairs = make_pairs(texts, content, settings, SHARES)
    sources, targets = (
        tokenizer([getattr(pair, side) for pair in pairs], truncation=True, max_length=settings["context"])["input_ids"]
        for side in ("prediction", "reference")
    )
    set_seed(derive_seed(seed, "bart") % 2**32)
    model = _model(tokenizer, content, settings)

    def loss_of(rows: list[int]) -> Tensor:
        ids, labels = pad([sources[row] for row in rows], tokenizer.pad_token_id), [targets[row] for row in rows]
        wanted = pad(labels, NOT_A_TARGET)
        logits = model(input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long(), labels=wanted).logits
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=NOT_A_TARGET)

    lengths = [len(s) + len(t) for s, t in zip(sources, targets, strict=True)]
    losses = fit([model], loss_of, lengths, settings, "bart", out_folder, fingerprint)
    save(model, tokenizer, out_folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    log.info("trained a BART of %d parameters on %d pairs, loss %.4f", parameters, len(pairs), losses[-1])
    return {"parameters": parameters, "texts": len(texts), "pairs": len(pairs), "losses": losses}


def _tokenizer(texts: Sequence[str], settings: Settings) -> PreTrainedTokenizerFast:
    bpe = byte_pairs(texts, settings["vocabulary"], [BOS, PAD, EOS, UNKNOWN])
    marks = [(mark, bpe.token_to_id(mark)) for mark in (BOS, EOS)]
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=settings["context"],
    )


def _model(
    tokenizer: PreTrainedTokenizerFast, content: ContentModel, settings: Settings
) -> BartForConditionalGeneration:
    model = BartForConditionalGeneration(
        BartConfig(
            vocab_size=len(tokenizer),
            d_model=settings["hidden"],
            encoder_layers=settings["layers"],
            decoder_layers=settings["layers"],
            encoder_attention_heads=settings["heads"],
            decoder_attention_heads=settings["heads"],
            encoder_ffn_dim=2 * settings["hidden"],
            decoder_ffn_dim=2 * settings["hidden"],
            max_position_embeddings=settings["context"],
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.eos_token_id,
            forced_eos_token_id=tokenizer.eos_token_id,
        )
    )
    start_embeddings(model.model.shared.weight, tokenizer, content, WORD_SCALE, settings["seed"])
    # A token of the decoder starts by looking for its like in the source, and by taking over what it finds.
    for layer in model.model.decoder.layers:
        start_attention(layer.encoder_attn.q_proj, layer.encoder_attn.k_proj)
        start_attention(layer.encoder_attn.v_proj, layer.encoder_attn.out_proj)
    return model
