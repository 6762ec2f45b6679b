"""NRT as PETER's authors rebuilt it, the study's baseline: see `xrec_repro.methods.ids` and docs/baselines.md."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xrec_repro.methods.ids.base import IdsMethod, IdsSettings
from xrec_repro.plugins import Number, Positive

if TYPE_CHECKING:
    from xrec_repro.methods.ids.network import Network
    from xrec_repro.methods.ids.reader import Reader


@dataclass(frozen=True, kw_only=True)
class NrtSettings(IdsSettings):
    """Settings of NRT; the optimiser is Adam.

    Attributes:
        size: Width of the vectors of users, items and words.
        hidden: Width of the GRU and of the layers of the rating.
        layers: Of the rating, beyond the first.
        rating_weight: Factor of the rating's loss; 0: no rating is learnt, predicted, or part of the first state.
        l2_weight: Factor of the sum of squares of all parameters.
    """

    size: Positive
    hidden: Positive
    layers: Positive
    rating_weight: Number = 1.0
    l2_weight: Number = 0.0


class Nrt(IdsMethod):
    """A GRU whose first state is made of user, item, and the rating that is predicted of them."""

    Settings = NrtSettings
    predicts = frozenset({"ratings"})

    @property
    def rates(self) -> bool:
        """Whether it learns ratings."""
        return self.settings.rating_weight > 0

    def network(self, users: int, items: int, reader: "Reader") -> "Network":
        """Return the network with fresh weights."""
        from xrec_repro.methods.ids.recurrent import Nrt as Net

        own = self.settings
        sizes = {"size": own.size, "hidden": own.hidden, "layers": own.layers}
        scale = {"scale": reader.scale, "grades": reader.grades}
        weights = {"rating_weight": own.rating_weight, "l2_weight": own.l2_weight}
        return Net(users, items, len(reader.vocabulary), **sizes, **scale, **weights)


METHOD = Nrt
