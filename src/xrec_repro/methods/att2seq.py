"""Att2Seq as PETER's authors rebuilt it, the study's baseline: see `xrec_repro.methods.ids` and docs/baselines.md."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xrec_repro.methods.ids.base import IdsMethod, IdsSettings
from xrec_repro.plugins import Positive
from xrec_repro.setting_types import ShareBelowOne

if TYPE_CHECKING:
    from xrec_repro.methods.ids.network import Network
    from xrec_repro.methods.ids.reader import Reader


@dataclass(frozen=True, kw_only=True)
class Att2SeqSettings(IdsSettings):
    """Settings of Att2Seq; the optimiser is Adam.

    Attributes:
        size: Width of a user's and an item's vector.
        hidden: Width of the LSTM and of a word's vector.
        layers: Of the LSTM.
        dropout: Between these.
    """

    size: Positive
    hidden: Positive
    layers: Positive
    dropout: ShareBelowOne = 0.0


class Att2Seq(IdsMethod):
    """An LSTM whose first state is made of user and item."""

    Settings = Att2SeqSettings

    def network(self, users: int, items: int, reader: "Reader") -> "Network":
        """Return the network with fresh weights."""
        from xrec_repro.methods.ids.recurrent import Att2Seq as Net

        own = self.settings
        sizes = {"size": own.size, "hidden": own.hidden, "layers": own.layers, "dropout": own.dropout}
        return Net(users, items, len(reader.vocabulary), **sizes)


METHOD = Att2Seq
