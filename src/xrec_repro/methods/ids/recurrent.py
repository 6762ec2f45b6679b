"""Att2Seq and NRT as PETER's authors rebuilt them (github.com/lileipisces): a recurrent decoder that ids start."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xrec_repro.methods.ids.network import Network, start, text_loss
from xrec_repro.methods.ids.reader import Rows


class Recurrent(Network):
    """A decoder of words, whose first state users and items make."""

    word: nn.Embedding
    rnn: nn.LSTM | nn.GRU
    out: nn.Linear

    def first(self, rows: Rows) -> tuple[Any, Tensor | None]:
        """Return the first state of the decoder, and the predicted ratings [B], if any."""
        raise NotImplementedError

    def decoded(self, state: Any, words: Tensor) -> Tensor:
        """Return the outputs [B, T, H] for words that are given, int64 [B, T]."""
        return self.rnn(self.word(words), state)[0]

    def begin(self, rows: Rows, steps: int) -> tuple[list[Any], Tensor | None]:
        """Return a state of `step`, and ratings."""
        state, rating = self.first(rows)
        return [state], rating

    def step(self, state: list[Any], words: Tensor) -> Tensor:
        """Read a word each (`Network.step`)."""
        hidden, state[0] = self.rnn(self.word(words)[:, None], state[0])
        return self.out(hidden[:, 0])


class Att2Seq(Recurrent):
    """Att2Seq (Dong et al., 2017) without attention and without the rating as an attribute, as rebuilt.

    ``h_0 = tanh(W [user; item] + b)``, cut into the layers' first hidden states; their cells start at 0.
    """

    def __init__(
        self, users: int, items: int, words: int, *, size: int, hidden: int, layers: int, dropout: float = 0.0
    ) -> None:
        """Draw the weights.

        Args:
            users: Rows of the table of users.
            items: Rows of the table of items.
            words: V, of the vocabulary.
            size: Of a user's and an item's vector.
            hidden: Of the LSTM and a word's vector.
            layers: Of the LSTM.
            dropout: Between these.
        """
        super().__init__({"text": 1.0})
        self.user, self.item = nn.Embedding(users, size), nn.Embedding(items, size)
        self.start = nn.Linear(2 * size, layers * hidden)
        self.word = nn.Embedding(words, hidden)
        self.rnn = nn.LSTM(hidden, hidden, layers, dropout=dropout if layers > 1 else 0.0, batch_first=True)
        self.out = nn.Linear(hidden, words)
        for module in (self.user, self.item, self.start):
            start(module)
        for module in (self.word, self.out):
            start(module, 0.08)

    def first(self, rows: Rows) -> tuple[tuple[Tensor, Tensor], None]:
        """Return hidden and cell states, [layers, B, hidden] each."""
        found = torch.tanh(self.start(torch.cat([self.user(rows.user), self.item(rows.item)], 1)))
        hidden = found.view(len(rows), self.rnn.num_layers, -1).transpose(0, 1).contiguous()
        return (hidden, torch.zeros_like(hidden)), None

    def losses(self, rows: Rows) -> dict[str, Tensor]:
        """Return the loss of the text."""
        hidden = self.decoded(self.first(rows)[0], rows.text[:, :-1])
        return {"text": text_loss(hidden, self.out, rows.text[:, 1:])}


class Nrt(Recurrent):
    """NRT (Li et al., 2017) without its review words and beam search, as rebuilt.

    ``rating = MLP([user; item])`` with sigmoids; ``h_0 = tanh(W [user; item; onehot(rating)] + b)`` of the predicted
    rating, clamped to the scale and truncated, through which no gradient goes.
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
        scale: tuple[float, float] | None,
        grades: int,
        rating_weight: float = 1.0,
        l2_weight: float = 0.0,
    ) -> None:
        """Draw the weights.

        Args:
            users: Rows of the table of users.
            items: Rows of the table of items.
            words: V, of the vocabulary.
            size: Of the vectors of users, items and words.
            hidden: Of the GRU and of the layers of the rating.
            layers: Of the rating beyond the first.
            scale: The lowest and the highest rating; None: no rating is learnt, and all have the same one-hot.
            grades: Length of the one-hot vector.
            rating_weight: Factor of the rating's loss.
            l2_weight: Factor of the sum of squares of all parameters.
        """
        super().__init__({"text": 1.0, "rating": rating_weight if scale else 0.0, "l2": l2_weight})
        self.scale, self.grades = scale, grades
        self.user, self.item = nn.Embedding(users, size), nn.Embedding(items, size)
        if scale:
            widths = [2 * size, *[hidden] * (layers + 1)]
            self.rating = nn.ModuleList(nn.Linear(*pair) for pair in zip(widths, [*widths[1:], 1], strict=True))
        self.start = nn.Linear(2 * size + grades, hidden)
        self.word = nn.Embedding(words, size)
        self.rnn = nn.GRU(size, hidden, batch_first=True)
        self.out = nn.Linear(hidden, words)
        for module in (self.user, self.item, *(self.rating if scale else ()), self.start, self.word, self.out):
            start(module)

    def first(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """Return the hidden state, [1, B, hidden], and the ratings as they come, [B]."""
        pair = torch.cat([self.user(rows.user), self.item(rows.item)], 1)
        rating, grade = None, torch.zeros_like(rows.user)
        if self.scale:
            found = pair
            for layer in self.rating[:-1]:
                found = torch.sigmoid(layer(found))
            rating = self.rating[-1](found)[:, 0]
            grade = (rating.detach().clamp(*self.scale) - self.scale[0]).long()
        graded = torch.cat([pair, F.one_hot(grade, self.grades).to(pair.dtype)], 1)
        return torch.tanh(self.start(graded))[None], rating

    def losses(self, rows: Rows) -> dict[str, Tensor]:
        """Return the losses of text and rating, and the sum of squares."""
        state, rating = self.first(rows)
        found = {"text": text_loss(self.decoded(state, rows.text[:, :-1]), self.out, rows.text[:, 1:])}
        if "rating" in self.weights:
            found["rating"] = F.mse_loss(rating, rows.rating)
        if "l2" in self.weights:
            found["l2"] = sum(parameter.square().sum() for parameter in self.parameters())
        return found
