"""PETER and PETER+ (Li et al., 2021, github.com/lileipisces/PETER): a small transformer over ids and words."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xrec_repro.methods.ids.network import Network, start, text_loss
from xrec_repro.methods.ids.reader import Rows
from xrec_repro.methods.ids.words import PAD


@dataclass
class Cache:
    """What was read so far.

    Attributes:
        keys: Of each layer, [layers, B, heads, most positions, width of a head].
        values: Likewise.
        hidden: Which positions are padding, bool [B, most positions]; None where none can be.
        length: How many positions were read.
    """

    keys: Tensor
    values: Tensor
    hidden: Tensor | None
    length: int = 0


class Peter(Network):
    """PETER; with words that are given beside the ids, PETER+.

    Positions are the user, the item, the given words, ``<bos>`` and the text. The last layer's output at the user
    predicts the rating, at the item every word of the text at once (the context), at each word the next one.
    """

    def __init__(
        self,
        users: int,
        items: int,
        words: int,
        *,
        size: int,
        hidden: int,
        layers: int,
        heads: int,
        length: int,
        given: int = 0,
        dropout: float = 0.0,
        rating_weight: float = 0.1,
        context_weight: float = 1.0,
        mask: str = "peter",
    ) -> None:
        """Draw the weights.

        Args:
            users: Rows of the table of users.
            items: Rows of the table of items.
            words: V, of the vocabulary.
            size: Of all vectors.
            hidden: Of the feed-forward layers.
            layers: Of the transformer, which start as copies of one another.
            heads: Of attention.
            length: Words of a text at most.
            given: F, words that are given, padded.
            dropout: Everywhere.
            rating_weight: Factor of the rating's loss; without one nothing is predicted.
            context_weight: Factor of the context's.
            mask: ``peter``: the user sees the item; or ``left_to_right``.
        """
        super().__init__({"text": 1.0, "rating": rating_weight, "context": context_weight})
        self.length, self.given, self.scale = length, given, math.sqrt(size)
        self.user, self.item, self.word = (nn.Embedding(rows, size) for rows in (users, items, words))
        layer = nn.TransformerEncoderLayer(size, heads, hidden, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(size, words)
        self.rating = nn.Sequential(nn.Linear(size, size), nn.Sigmoid(), nn.Linear(size, 1)) if rating_weight else None
        for module in (self.user, self.item, self.word, self.out, *(self.rating or ())[::2]):
            start(module)
        total = self.first_word + length + 1
        self.register_buffer("positions", sinusoid(total, size), persistent=False)
        self.register_buffer("mask", attention_mask(total, mask), persistent=False)

    @property
    def first_word(self) -> int:
        """Position of ``<bos>``."""
        return 2 + self.given

    def embedded(self, rows: Rows, words: Tensor) -> Tensor:
        """Return the input of the first layer, [B, 2 + F + T, size], for words of the text, int64 [B, T]."""
        read = torch.cat([rows.given, words], 1)
        vectors = torch.cat([self.user(rows.user)[:, None], self.item(rows.item)[:, None], self.word(read)], 1)
        return self.dropout(vectors * self.scale + self.positions[: vectors.shape[1]])

    def padding(self, rows: Rows, words: Tensor) -> Tensor:
        """Return which positions no other may see, bool [B, 2 + F + T]."""
        return F.pad(torch.cat([rows.given, words], 1) == PAD, (2, 0))

    def encoded(self, rows: Rows, words: Tensor) -> Tensor:
        """Return the output of the last layer, [B, 2 + F + T, size]."""
        vectors = self.embedded(rows, words)
        total = vectors.shape[1]
        # Padding behind a text is seen by padding alone, so that it needs no mask of its own.
        padding = self.padding(rows, words) if self.given else None
        return self.encoder(vectors, self.mask[:total, :total], padding)

    def losses(self, rows: Rows) -> dict[str, Tensor]:
        """Return the losses of text, rating and context."""
        found, targets = self.encoded(rows, rows.text[:, :-1]), rows.text[:, 1:]
        losses = {"text": text_loss(found[:, self.first_word :], self.out, targets)}
        if "rating" in self.weights:
            losses["rating"] = F.mse_loss(self.rating(found[:, 0])[:, 0], rows.rating)
        if "context" in self.weights:
            # One distribution for all words but the last that a text has room for: <eos>, of the longest texts alone.
            targets = targets[:, : self.length]
            scores = torch.log_softmax(self.out(found[:, 1]), 1).gather(1, targets)
            losses["context"] = -scores[targets != PAD].mean()
        return losses

    # --- Decoding -----------------------------------------------------------------------------------------------------
    def begin(self, rows: Rows, steps: int) -> tuple[Cache, Tensor | None]:
        """Read the ids and the given words; return the cache, and the ratings [B] if they are learnt."""
        none = rows.text[:, :0]
        vectors, layer = self.embedded(rows, none), self.encoder.layers[0].self_attn
        batch, total = len(rows), self.first_word + steps
        room = (len(self.encoder.layers), batch, layer.num_heads, total, layer.head_dim)
        hidden = F.pad(self.padding(rows, none), (0, steps))
        state = Cache(vectors.new_zeros(room), vectors.new_zeros(room), hidden)
        found = self._read(state, vectors)
        return state, None if self.rating is None else self.rating(found[:, 0])[:, 0]

    def step(self, state: Cache, words: Tensor) -> Tensor:
        """Read a word each (`Network.step`); a ``<pad>`` is seen by no other position."""
        vectors = self.word(words)[:, None] * self.scale + self.positions[state.length]
        state.hidden[:, state.length] = words == PAD
        return self.out(self._read(state, vectors)[:, 0])

    def _read(self, state: Cache, vectors: Tensor) -> Tensor:
        """Read the next positions, [B, T, size], keep their keys and values, and return the last layer's output."""
        first, last = state.length, state.length + vectors.shape[1]
        state.length = last
        hidden = state.hidden[:, None, None, :last] | self.mask[first:last, :last]
        for number, layer in enumerate(self.encoder.layers):
            vectors = self._layer(layer, vectors, state, number, slice(first, last), ~hidden)
        return vectors

    def _layer(
        self, layer: nn.TransformerEncoderLayer, x: Tensor, state: Cache, number: int, new: slice, seen: Tensor
    ) -> Tensor:
        """Apply a layer of the encoder, in evaluation, to new positions that see what was read and each other."""
        attention = layer.self_attn
        joint = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
        heads = joint.view(*x.shape[:2], 3, attention.num_heads, attention.head_dim)
        query, state.keys[number][:, :, new], state.values[number][:, :, new] = heads.permute(2, 0, 3, 1, 4)
        keys, values = (kept[number][:, :, : new.stop] for kept in (state.keys, state.values))
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen)
        x = layer.norm1(x + attention.out_proj(mixed.transpose(1, 2).reshape(x.shape)))
        return layer.norm2(x + layer.linear2(F.relu(layer.linear1(x))))


def sinusoid(rows: int, size: int) -> Tensor:
    """Return Vaswani et al.'s positions, [rows, size]: sine in even columns, cosine in odd ones, base 10,000."""
    rates = torch.exp(torch.arange(0, size, 2) * (-math.log(10000.0) / size))
    angles = torch.arange(rows)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :size]


def attention_mask(total: int, kind: str) -> Tensor:
    """Return what no position may see, bool [total, total], [query, key]: what follows; ``peter`` shows 0 the 1."""
    mask = torch.ones(total, total, dtype=torch.bool).triu(1)
    mask[0, 1] = kind != "peter"
    return mask
