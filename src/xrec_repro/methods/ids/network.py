"""What the networks have in common: the contract of losses and of decoding, and the loss of a text."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xrec_repro.methods.ids.reader import Rows
from xrec_repro.methods.ids.words import PAD


class Network(nn.Module):
    """A network that explains from ids.

    Attributes:
        weights: Loss -> its factor in what training minimises; a loss of factor 0 is not computed.
        entities: The tables of users and of items, whose last row is that of all unknown ones.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = {name: weight for name, weight in weights.items() if weight}

    @property
    def entities(self) -> tuple[nn.Embedding, nn.Embedding]:
        """The tables of users and items."""
        return self.user, self.item

    def losses(self, rows: Rows) -> dict[str, Tensor]:
        """Return the losses of a batch by name, each a mean, of those in `weights`."""
        raise NotImplementedError

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return what training minimises."""
        return sum(weight * losses[name] for name, weight in self.weights.items())

    def begin(self, rows: Rows, steps: int) -> tuple[Any, Tensor | None]:
        """Return a state from which `step` goes on, for so many steps, and the predicted ratings [B], if any."""
        raise NotImplementedError

    def step(self, state: Any, words: Tensor) -> Tensor:
        """Read a word each, int64 [B]; change the state and return the scores of the next words, [B, V]."""
        raise NotImplementedError

    @torch.no_grad()
    def settle(self) -> None:
        """Give unknown users and items the mean of the known ones' rows."""
        for table in self.entities:
            table.weight[-1] = table.weight[:-1].mean(0)


def text_loss(hidden: Tensor, out: nn.Linear, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of the next words, averaged over all of a batch that are no ``<pad>``.

    Args:
        hidden: [B, T, H].
        out: From H to the vocabulary; applied where there is a target alone.
        targets: int64 [B, T].
    """
    real = targets != PAD
    return F.cross_entropy(out(hidden[real]), targets[real])


def start(module: nn.Linear | nn.Embedding, bound: float = 0.1) -> None:
    """Draw weights uniformly from [-bound, bound], biases 0."""
    nn.init.uniform_(module.weight, -bound, bound)
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)
