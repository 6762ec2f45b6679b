"""PETER (Li et al., 2021), the study's baseline: see `xrec_repro.methods.ids` and docs/baselines.md."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xrec_repro.methods.ids.base import IdsMethod, IdsSettings
from xrec_repro.plugins import Number, Positive
from xrec_repro.setting_types import ShareBelowOne

if TYPE_CHECKING:
    import torch

    from xrec_repro.methods.ids.network import Network
    from xrec_repro.methods.ids.reader import Reader


@dataclass(frozen=True, kw_only=True)
class PeterSettings(IdsSettings):
    """Settings of PETER; the optimiser is SGD.

    Attributes:
        size: Width of all vectors; a multiple of `heads`.
        hidden: Width of the feed-forward layers.
        layers: Of the transformer.
        heads: Of attention.
        dropout: Everywhere.
        rating_weight: Factor of the rating's loss; 0: no rating is learnt or predicted.
        context_weight: Factor of the context's loss.
        mask: ``peter``, with which the user sees the item, or ``left_to_right``.
    """

    size: Positive
    hidden: Positive
    layers: Positive
    heads: Positive
    dropout: ShareBelowOne = 0.0
    rating_weight: Number = 0.1
    context_weight: Number = 1.0
    mask: Literal["peter", "left_to_right"] = "peter"


class Peter(IdsMethod):
    """A transformer that learns text, rating, and the words of the text from the item alone."""

    Settings = PeterSettings
    predicts = frozenset({"ratings"})

    @property
    def rates(self) -> bool:
        """Whether it learns ratings."""
        return self.settings.rating_weight > 0

    def network(self, users: int, items: int, reader: "Reader") -> "Network":
        """Return the network with fresh weights.

        Raises:
            ConfigError: The vectors cannot be shared among the heads.
        """
        from xrec_repro.errors import ConfigError
        from xrec_repro.methods.ids.transformer import Peter as Net

        own = self.settings
        if own.size % own.heads:
            raise ConfigError(
                f"methods.{self.run_name}.size: {own.size} is no multiple of heads, {own.heads}; make it one"
            )
        sizes = {"size": own.size, "hidden": own.hidden, "layers": own.layers, "heads": own.heads}
        shape = {"length": reader.words, "given": reader.given_words, "dropout": own.dropout, "mask": own.mask}
        rating = own.rating_weight if reader.scale else 0.0
        weights = {"rating_weight": rating, "context_weight": own.context_weight}
        return Net(users, items, len(reader.vocabulary), **sizes, **shape, **weights)

    def optimizer(self) -> "Callable[[list[torch.Tensor]], torch.optim.Optimizer]":
        """Return what makes the optimiser."""
        from functools import partial

        from torch.optim import SGD

        return partial(SGD, lr=self.settings.learning_rate)


METHOD = Peter
