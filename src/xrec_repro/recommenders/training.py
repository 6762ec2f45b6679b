"""What Bayesian personalised ranking trains: factors, their triples, and the validation Recall@k."""

import torch
from torch import Tensor

from xrec_repro.errors import DataError, ModelError
from xrec_repro.recommenders.base import Run
from xrec_repro.recommenders.evaluate import inner_product, recall_ndcg
from xrec_repro.recommenders.factors import Factors
from xrec_repro.recommenders.graph import InteractionGraph
from xrec_repro.recommenders.pairwise import PairwiseSettings
from xrec_repro.recommenders.sampling import NegativeSampler
from xrec_repro.seeding import numpy_rng
from xrec_repro.training import Plan, Trainee


class Ranking(Trainee):
    """Factors, and the edges that they learn to rank."""

    higher = True

    def __init__(self, graph: InteractionGraph, model: Factors, settings: PairwiseSettings, run: Run) -> None:
        """Index the edges.

        Args:
            graph: The split graph.
            model: With its initial embeddings.
            settings: Of the training.
            run: Name, seed and device.

        Raises:
            DataError: No val edges, or a user has all train items.
            ModelError: The device is not there.
        """
        if graph.edges["val"].shape[1] == 0:
            raise DataError(
                f"no val edges, by which recommenders.{run.name} stops early; give split.ratios a validation share"
            )
        if torch.device(run.device).type == "cuda" and not torch.cuda.is_available():
            raise ModelError("compute.device is cuda, but torch finds no CUDA device; set it to cpu or auto")
        self.settings, self.run = settings, run
        self.edges = {name: edges.to(run.device) for name, edges in graph.edges.items()}
        users, items = graph.edges["train"].numpy()
        self.module, self.rows = model.to(run.device), len(users)
        self.sampler = NegativeSampler(users, items)

    def batches(self, epoch: int, plan: Plan) -> tuple[Tensor, ...]:
        """Return the train edges with a negative each, in batches of triples int64 [B, 3]."""
        seed, number, device = self.run.seed, epoch + 1, self.run.device
        drawn = self.sampler.draw_epoch(self.settings.negatives, seed, number)
        order = torch.from_numpy(numpy_rng(seed, "order", number).permutation(len(drawn))).to(device)
        triples = torch.stack([*self.edges["train"], torch.from_numpy(drawn).to(device)], dim=1)
        return triples[order].split(plan.batch_size)

    def loss(self, batch: Tensor) -> Tensor:
        """Return the loss of a batch of triples."""
        return self.module.loss(*batch.T)

    def held_out(self) -> dict[str, float]:
        """Return Recall@k and NDCG@k on the val edges."""
        scored = inner_product(*self.module.embeddings())
        found = recall_ndcg(*scored, self.edges["train"], self.edges["val"], self.settings.k)
        return {f"val_{name}": found[name] for name in ("recall", "ndcg")}
