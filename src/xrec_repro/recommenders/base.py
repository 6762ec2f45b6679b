"""The contract of a recommender: its settings, what it is told, and what it gives back.

A module with a ``RECOMMENDER`` (a class derived from `Recommender`) is all that a recommender takes. The configuration
is checked with its `Settings` whenever the workflow is read, so heavy imports stand inside the methods that need them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from xrec_repro.plugins import Positive

if TYPE_CHECKING:
    from torch import Tensor

    from xrec_repro.recommenders.graph import InteractionGraph


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every recommender is told; one of its own adds fields (see `xrec_repro.plugins`).

    Attributes:
        dim: Width of its embeddings.
        k: Length of the rankings of Recall@k and NDCG@k.
    """

    dim: Positive
    k: Positive


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a recommender is told beside its settings.

    Attributes:
        name: Of its entry, for messages.
        seed: Of the run; draw by `xrec_repro.seeding`, a named stream each.
        device: ``cpu`` or ``cuda``.
        checkpoint: File beside the outputs in which an unfinished training may be kept; it goes when all is done.
        identity: Digest of all that the result depends on; a checkpoint of another one must not be resumed.
        inputs: Files and folders that `Recommender.needs` asked for, by name.
        on_epoch: Called after each epoch, and after its checkpoint, with the epoch's record.
    """

    name: str
    seed: int
    device: str = "cpu"
    checkpoint: Path | None = None
    identity: str = ""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    on_epoch: Callable[[dict[str, float | int]], None] = lambda record: None

    def key(self, setting: str) -> str:
        """Return where a setting stands in the configuration."""
        return f"recommenders.{self.name}.{setting}"


class Recommender:
    """What learns embeddings of users and items from a graph; the base of all.

    Attributes:
        Settings: The class of its settings.
        needs: What it reads beside the graph: ``release``, the folder of the released data set and the ``ids`` of its
            users and items here (contract `CORE_INTERACTIONS`).
        gpu: Whether it gains from a GPU.
    """

    Settings: ClassVar[type[Settings]] = Settings
    needs: ClassVar[frozenset[str]] = frozenset()
    gpu: ClassVar[bool] = False

    def __init__(self, settings: Settings, run: Run) -> None:
        self.settings, self.run = settings, run

    def fit(self, graph: "InteractionGraph") -> dict[str, Any]:
        """Learn from the train edges; val edges may decide when to stop.

        Returns:
            What to say of it in ``metrics.json``, of JSON types.
        """
        raise NotImplementedError

    def embeddings(self) -> "tuple[Tensor, Tensor]":
        """Return the final embeddings, [n_users, dim] and [n_items, dim]; rows beyond the graph's ids may follow."""
        raise NotImplementedError

    def scores(self, users: "Tensor") -> "Tensor":
        """Score all items for users, int64 [n]: a new tensor [n, n_items], higher is better; here by inner product."""
        user, item = self.embeddings()
        return user[users] @ item.T
