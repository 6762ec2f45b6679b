"""What trains a network that explains from ids: its losses, and those of the validation split."""

from collections.abc import Sequence

import torch
from torch import Tensor

from xrec_repro.methods.ids.network import Network
from xrec_repro.methods.ids.reader import Rows
from xrec_repro.training import Plan, Trainee


class Explaining(Trainee):
    """A network, and the examples that it learns to explain."""

    def __init__(
        self, network: Network, train: Rows, val: Rows, *, batch_size: int, unseen: str = "mean", in_order: bool = False
    ) -> None:
        """Put them together.

        Args:
            network: On the device of the rows.
            train: What it learns.
            val: What decides when to stop; may be empty if it is not asked for.
            batch_size: Of `val`.
            unseen: ``mean``: unknown users and items have the known ones' mean; ``random``: what was drawn.
            in_order: Whether the first epoch takes the rows in their order, as the authors' does.
        """
        self.module, self.rows = network, len(train)
        self.train, self.val = train, val.batches(batch_size)
        self.unseen, self.in_order = unseen, in_order

    def batches(self, epoch: int, plan: Plan) -> Sequence[Sequence[int]]:
        """Return the batches of an epoch."""
        if epoch or not self.in_order:
            return super().batches(epoch, plan)
        return [range(start, min(start + plan.batch_size, self.rows)) for start in range(0, self.rows, plan.batch_size)]

    def loss(self, batch: Sequence[int]) -> Tensor:
        """Return the loss of a batch for each of its rows: it is a mean over their words, not over them."""
        rows = self.train.take(list(batch))
        return self.module.total(self.module.losses(rows)).expand(len(rows))

    @torch.no_grad()
    def settle(self) -> None:
        """Give unknown users and items their rows."""
        if self.unseen == "mean":
            self.module.settle()

    def held_out(self) -> dict[str, float]:
        """Return the validation losses: of text and rating together, unweighted, then one by one.

        Each is the mean over batches, weighted by their rows, as the authors have it.
        """
        self.settle()
        sums: dict[str, float] = {}
        for rows in self.val:
            for name, loss in self.module.losses(rows).items():
                sums[name] = sums.get(name, 0.0) + loss.item() * len(rows)
        count = sum(map(len, self.val))
        found = {f"val_{name}": value / count for name, value in sums.items() if name != "l2"}
        return {"val_loss": found["val_text"] + found.get("val_rating", 0.0)} | found
