"""A small judge, trained to reply to the judges' prompt with a number from 0 to 100."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast, set_seed

from xrec_repro.errors import ModelError
from xrec_repro.metrics._judge import HIGHEST, LOWEST, REMINDER, SYSTEM_PROMPT, question
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
from xrec_repro.seeding import derive_seed, torch_generator

log = logging.getLogger("xrec_repro")

# How often each kind of pair is shown (`Perturber`). No shuffled ones: a model of this size does not tell them from the
# reference in the time there is, and would give the reference itself less than a paraphrase. So it knows no word order.
SHARES = {
    "same": 0.15, "near": 0.25, "reframed": 0.2, "exchanged": 0.13, "other": 0.14, "shortened": 0.05, "noise": 0.08,
}  # fmt: skip
PAD, UNKNOWN, BOS, EOS, _ = PIECE_MARKS
# What `question` writes around the two texts. These and the two sentences of the protocol are one token each.
OPEN, BETWEEN, CLOSE = '{"prediction": "', '", "reference": "', '"}'
NUMBERS = [str(number) for number in range(LOWEST, HIGHEST + 1)]
# The template marks the words of the reference, so that they are other tokens than those of the prediction: what
# segment embeddings are to BERT. The letter is in no prompt, where letters outside ASCII come as escapes.
MARK = "\u01c0"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% set parts = message['content'].split('" + BETWEEN + "') %}"
    "{{ parts[0] }}{% if parts | length > 1 %}{{ '" + BETWEEN + MARK + "' + "
    "parts[1].replace(' ', ' " + MARK + "').replace('-', '-" + MARK + "') }}{% endif %}{{ eos_token }}{% endfor %}"
)
# Standard deviations at the start: a token is its word before all else, or no token finds its like in the other text.
WORD_SCALE, POSITION_SCALE, SIDE_SCALE = 0.5, 0.1, 0.2
NEIGHBOURS = 30.0  # numbers start near those that are this close
SPREAD = 3.0  # standard deviation of the numbers that may stand for a score
LOUDNESS = 0.1  # the decoder's last normalisation starts so low, or the first logits are in the tens
HINT_WEIGHT = 10.0


def train_judge(texts: Sequence[str], settings: Settings, out_folder: Path, fingerprint: str = "") -> dict[str, Any]:
    """Train a `BartForConditionalGeneration` to reply how far a prediction says what a reference says.

    It reads the judges' conversation (`question`) by its own chat template and replies with one number from 0 to 100,
    a token, and an end. It learns the score of `ContentModel.compare`, neighbouring numbers as likely as a normal
    distribution around it has them. Two heads that are thrown away teach the tokens of both texts, after the encoder,
    whether their word has a match in the other text, and whether that is the word itself.

    Args:
        texts: Explanations of the train split; nothing else is known of them.
        settings: Section ``scorers.judge``.
        out_folder: Where the model, its tokenizer and its chat template go.
        fingerprint: See `train_scorer`.

    Returns:
        Sizes and the loss over the training.

    Raises:
        DataError: There are no two different texts.
        ModelError: All prompts are longer than the context, or the loss is not finite.
    """
    seed = settings["seed"]
    texts, content = read_corpus(texts, seed, PIECE_MARKS)
    tokenizer = _tokenizer(texts, settings)
    pairs, ids, hints = _prompts(make_pairs(texts, content, settings, SHARES), tokenizer)
    set_seed(derive_seed(seed, "judge") % 2**32)
    model = _model(tokenizer, content, settings)
    heads = nn.ModuleList(nn.Linear(settings["hidden"], 1) for _ in range(2))
    equal = [np.stack([row[:, 0] == 1, row[:, 1] > 0], axis=1) for row in hints]
    numbers = torch.tensor(tokenizer.convert_tokens_to_ids(NUMBERS))
    scores = HIGHEST * torch.tensor([pair.comparison.score for pair in pairs])

    def loss_of(rows: list[int]) -> Tensor:
        prompts, said = pad([ids[row] for row in rows], tokenizer.pad_token_id), scores[rows]
        ends = torch.full((len(rows),), tokenizer.eos_token_id)
        read = torch.stack([ends, numbers[said.round().long()]], dim=1)  # the decoder starts with the end token
        output = model(prompts, (prompts != tokenizer.pad_token_id).long(), decoder_input_ids=read)
        loss = _reply_loss(*output.logits.unbind(dim=1), said, numbers, ends)
        for found, known in zip(heads, (hints, equal), strict=True):
            loss = loss + HINT_WEIGHT * hint_loss(found(output.encoder_last_hidden_state), [known[row] for row in rows])
        return loss

    losses = fit([model, heads], loss_of, list(map(len, ids)), settings, "judge", out_folder, fingerprint)
    save(model, tokenizer, out_folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    log.info("trained a judge of %d parameters on %d pairs, loss %.4f", parameters, len(pairs), losses[-1])
    return {"parameters": parameters, "texts": len(texts), "pairs": len(pairs), "losses": losses}


def _reply_loss(first: Tensor, second: Tensor, said: Tensor, numbers: Tensor, ends: Tensor) -> Tensor:
    """Return the cross-entropy of the two tokens of the replies: numbers around the scores `said`, and ends."""
    distances = (torch.arange(LOWEST, HIGHEST + 1) - said[:, None]) / SPREAD
    wanted = torch.zeros_like(first).index_add(1, numbers, torch.softmax(-(distances**2) / 2, dim=1))
    return F.cross_entropy(first, wanted) + F.cross_entropy(second, ends)


def _tokenizer(texts: Sequence[str], settings: Settings) -> PreTrainedTokenizerFast:
    plain = word_pieces(texts, settings["vocabulary"])
    marked = [MARK, *(MARK + piece for piece in plain if piece not in PIECE_MARKS and not piece.startswith("##"))]
    pieces = {piece: index for index, piece in enumerate([*plain, *marked])}
    raw = Tokenizer(models.WordPiece(pieces, unk_token=UNKNOWN))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=BOS,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        chat_template=CHAT_TEMPLATE,
        model_max_length=settings["context"],
    )
    phrases = (SYSTEM_PROMPT, REMINDER, OPEN, BETWEEN, CLOSE)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    tokenizer.add_tokens([AddedToken(number, single_word=True, normalized=False) for number in NUMBERS])
    return tokenizer


def _model(
    tokenizer: PreTrainedTokenizerFast, content: ContentModel, settings: Settings
) -> BartForConditionalGeneration:
    model = BartForConditionalGeneration(
        BartConfig(
            vocab_size=len(tokenizer),
            d_model=settings["hidden"],
            encoder_layers=settings["layers"],
            decoder_layers=1,
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
            forced_eos_token_id=None,
        )
    )
    start_embeddings(model.model.shared.weight, tokenizer, content, WORD_SCALE, settings["seed"])
    _start_marked_and_numbers(model.model.shared.weight, tokenizer, settings["seed"])
    nn.init.normal_(model.model.encoder.embed_positions.weight, std=POSITION_SCALE)
    for layer in model.model.encoder.layers:
        start_attention(layer.self_attn.q_proj, layer.self_attn.k_proj)
    nn.init.constant_(model.model.decoder.layers[-1].final_layer_norm.weight, LOUDNESS)
    return model


@torch.no_grad()
def _start_marked_and_numbers(table: Tensor, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """Let marked words start beside the same words unmarked, all by one step, and numbers beside their neighbours."""
    generator, pieces = torch_generator(seed, "judge embeddings"), tokenizer.get_vocab()
    step = SIDE_SCALE * torch.randn(table.shape[1], generator=generator)
    marked = [piece for piece in pieces if piece.startswith(MARK) and piece != MARK]
    table[[pieces[piece] for piece in marked]] = table[[pieces[piece.removeprefix(MARK)] for piece in marked]] + step
    places = torch.arange(len(NUMBERS)) / NEIGHBOURS
    own = torch.randn(len(NUMBERS), table.shape[1], generator=generator)
    curve = torch.exp(-((places[:, None] - places) ** 2)) @ own
    table[[pieces[number] for number in NUMBERS]] = WORD_SCALE * curve / curve.std(dim=1, keepdim=True)


def _prompts(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerFast
) -> tuple[list[Pair], list[list[int]], list[np.ndarray]]:
    """Return the pairs whose prompts fit into the context, the tokens of these, and the hints on each token."""
    asked = [question(pair.prediction, pair.reference) for pair in pairs]
    texts = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    encodings = tokenizer(texts, add_special_tokens=False).encodings
    fitting = [row for row, encoding in enumerate(encodings) if len(encoding.ids) <= tokenizer.model_max_length]
    if not fitting:
        raise ModelError(
            f"training judge: no prompt has at most {tokenizer.model_max_length} tokens; raise scorers.judge.context"
        )
    hints = [_hints(pairs[row], texts[row], encodings[row].offsets) for row in fitting]
    return [pairs[row] for row in fitting], [encodings[row].ids for row in fitting], hints


def _hints(pair: Pair, prompt: str, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return what the head should find at each token: (tokens, 2), nothing outside of the two texts."""
    comparison = pair.comparison
    first, second = prompt.index(OPEN) + len(OPEN), prompt.index(BETWEEN) + len(BETWEEN)
    sides = (
        (first, second - len(BETWEEN), comparison.predicted, comparison.predicted_weights),
        (second, prompt.rindex(CLOSE), comparison.referred, comparison.referred_weights),
    )
    hints = np.zeros((len(offsets), 2))
    for start, end, *known in sides:
        places = [place for place, (left, right) in enumerate(offsets) if start <= left and right <= end]
        hints[places] = word_hints([offsets[place][1] - start for place in places], prompt[start:end], *known)
    return hints
