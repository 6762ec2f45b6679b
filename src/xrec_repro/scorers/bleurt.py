"""A small BLEURT, trained by regression on perturbed texts."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bleurt_pytorch import BleurtConfig, BleurtForSequenceClassification, BleurtTokenizer
from tokenizers import Encoding
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import set_seed

from xrec_repro.scorers.content import ContentModel
from xrec_repro.scorers.perturb import Pair
from xrec_repro.scorers.tokenizer import PIECE_MARKS, word_pieces
from xrec_repro.scorers.training import (
    Settings,
    fit,
    hint_loss,
    make_pairs,
    pad,
    read_corpus,
    save,
    start_attention,
    start_embeddings,
    word_hints,
)
from xrec_repro.seeding import derive_seed

log = logging.getLogger("xrec_repro")

# How often each kind of pair is shown (`Perturber`).
SHARES = {
    "same": 0.12, "near": 0.25, "reframed": 0.2, "exchanged": 0.13, "other": 0.12, "shortened": 0.05, "shuffled": 0.05,
    "noise": 0.08,
}  # fmt: skip
# Standard deviations at the start: a token is its word before all else, or no token finds its like in the other text.
WORD_SCALE, POSITION_SCALE, SEGMENT_SCALE = 0.5, 0.1, 0.2


def train_bleurt(texts: Sequence[str], settings: Settings, out_folder: Path, fingerprint: str = "") -> dict[str, Any]:
    """Train a `BleurtForSequenceClassification` to tell how far a prediction says what a reference says.

    It learns the score of `ContentModel.compare` by its squared error. As in BLEURT, the model reads ``[CLS] reference
    [SEP] prediction [SEP]``. A head that is thrown away teaches the tokens, after the layer before the last, whether
    their word has a match in the other text.

    Args:
        texts: Explanations of the train split; nothing else is known of them.
        settings: Section ``scorers.bleurt``.
        out_folder: Where the model goes.
        fingerprint: See `train_scorer`.

    Returns:
        Sizes and the loss over the training.

    Raises:
        DataError: There are no two different texts.
        ModelError: The loss is not finite.
    """
    seed = settings["seed"]
    texts, content = read_corpus(texts, seed, PIECE_MARKS)
    tokenizer = _tokenizer(texts, settings)
    pairs = make_pairs(texts, content, settings, SHARES)
    inputs = tokenizer(
        [pair.reference for pair in pairs],
        [pair.prediction for pair in pairs],
        truncation=True,
        max_length=settings["context"],
    )
    set_seed(derive_seed(seed, "bleurt") % 2**32)
    model = _model(tokenizer, content, settings)
    head = nn.Linear(settings["hidden"], 1)
    lengths = [len(row) for row in inputs["input_ids"]]
    targets = torch.tensor([pair.comparison.score for pair in pairs])
    hints = [_hints(pair, encoding) for pair, encoding in zip(pairs, inputs.encodings, strict=True)]

    def loss_of(rows: list[int]) -> Tensor:
        ids, segments = (pad([inputs[key][row] for row in rows]) for key in ("input_ids", "token_type_ids"))
        mask = pad([[1] * lengths[row] for row in rows])
        output = model(input_ids=ids, token_type_ids=segments, attention_mask=mask, output_hidden_states=True)
        loss = F.mse_loss(output.logits[:, 0], targets[rows])
        return loss + hint_loss(head(output.hidden_states[-2]), [hints[row] for row in rows])

    losses = fit([model, head], loss_of, lengths, settings, "bleurt", out_folder, fingerprint)
    save(model, tokenizer, out_folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    log.info("trained a BLEURT of %d parameters on %d pairs, loss %.4f", parameters, len(pairs), losses[-1])
    return {"parameters": parameters, "texts": len(texts), "pairs": len(pairs), "losses": losses}


def _tokenizer(texts: Sequence[str], settings: Settings) -> BleurtTokenizer:
    pieces = word_pieces(texts, settings["vocabulary"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(pieces) + "\n", encoding="utf-8")
        return BleurtTokenizer(str(path), model_max_length=settings["context"])


def _model(tokenizer: Any, content: ContentModel, settings: Settings) -> BleurtForSequenceClassification:
    model = BleurtForSequenceClassification(
        BleurtConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings["hidden"],
            num_hidden_layers=settings["layers"],
            num_attention_heads=settings["heads"],
            intermediate_size=2 * settings["hidden"],
            max_position_embeddings=settings["context"],
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    embeddings = model.bleurt.embeddings
    start_embeddings(embeddings.word_embeddings.weight, tokenizer, content, WORD_SCALE, settings["seed"])
    nn.init.normal_(embeddings.position_embeddings.weight, std=POSITION_SCALE)
    nn.init.normal_(embeddings.token_type_embeddings.weight, std=SEGMENT_SCALE)
    for layer in model.bleurt.encoder.layer[:-1]:
        start_attention(layer.attention.self.query, layer.attention.self.key)
    return model


def _hints(pair: Pair, encoding: Encoding) -> np.ndarray:
    """Return what the head should find at each token: (tokens, 2), nothing at special tokens."""
    comparison = pair.comparison
    sides = (
        (pair.reference, comparison.referred, comparison.referred_weights),
        (pair.prediction, comparison.predicted, comparison.predicted_weights),
    )
    hints = np.zeros((len(encoding.ids), 2))
    for side, known in enumerate(sides):
        places = [place for place, sequence in enumerate(encoding.sequence_ids) if sequence == side]
        hints[places] = word_hints([encoding.offsets[place][1] for place in places], *known)
    return hints
