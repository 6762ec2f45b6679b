"""A training step of LightGCN, ours and three others' in turn: same batch, same loss, same gradients."""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from graphs import yelp_edges
from harness import arguments, compare, record, run, seconds
from torch import Tensor, nn
from torch_geometric.nn.models import LightGCN as PeerLightGCN

from xrec_repro.recommenders.evaluate import BLOCK, inner_product, recall_ndcg
from xrec_repro.recommenders.factors import Factors
from xrec_repro.recommenders.sampling import NegativeSampler
from xrec_repro.seeding import numpy_rng, torch_generator

SETTINGS = {"dim": 64, "layers": 4, "combine": "sum", "regularise": "initial", "weight_decay": 1e-6}
BATCH, RATE = 1024, 1e-3


class CooLightGCN(nn.Module):
    """The way of XRec's code (encoder/models/lightgcn.py at 32d8697): what autograd makes of COO products.

    Like there, the matrix is not coalesced and stands in column order, layers are stacked and then added up, and rows
    are picked by indexing.
    """

    def __init__(self, adjacency: Tensor, table: Tensor, n_users: int) -> None:
        super().__init__()
        places = adjacency.indices()[:, adjacency.indices()[1].argsort(stable=True)]
        self.adjacency = torch.sparse_coo_tensor(places, adjacency.values(), adjacency.shape)
        self.table, self.n_users = nn.Parameter(table), n_users

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the final embeddings of users and items."""
        layers = [self.table]
        for _ in range(SETTINGS["layers"]):
            layers.append(torch.spmm(self.adjacency, layers[-1]))
        final = torch.stack(layers).sum(dim=0)
        return final[: self.n_users], final[self.n_users :]


def peers(model: Factors, edges: Tensor, n_users: int, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, tuple]:
    """Return claim -> (parameter, loss of the batch) of each peer."""
    users, positives, negatives = batch
    pairs = [torch.stack([users, items + n_users]) for items in (positives, negatives)]
    nodes = torch.cat([users, positives + n_users, negatives + n_users])
    start = model.table.detach()
    links = edges + torch.tensor([[0], [n_users]])
    both_ways = torch.cat([links, links.flip(0)], dim=1)

    def geometric(adjacency: Tensor, **options: bool) -> tuple[nn.Parameter, Callable[[], Tensor]]:
        peer = PeerLightGCN(len(start), SETTINGS["dim"], SETTINGS["layers"], alpha=1.0, **options)
        with torch.no_grad():
            peer.embedding.weight.copy_(start)

        def loss() -> Tensor:
            final = peer.get_embedding(adjacency)
            ranks = [(final[pair[0]] * final[pair[1]]).sum(dim=-1) for pair in pairs]
            # The peer divides its penalty by the batch size; ours is a sum.
            return peer.recommendation_loss(*ranks, node_id=nodes, lambda_reg=SETTINGS["weight_decay"] * len(users))

        return peer.embedding.weight, loss

    ours = model.adjacency  # with int32 indices, which torch-geometric's own conversion does not make
    csr = torch.sparse_csr_tensor(ours.crow_indices().long(), ours.col_indices().long(), ours.values(), ours.shape)
    coo = CooLightGCN(ours.to_sparse_coo().coalesce(), start.clone(), n_users)

    def coo_loss() -> Tensor:
        user, item = coo()
        differences = (user[users] * item[positives]).sum(dim=1) - (user[users] * item[negatives]).sum(dim=1)
        penalty = sum(coo.table[part].square().sum() for part in nodes.split(len(users)))
        return -torch.log(torch.sigmoid(differences)).mean() + SETTINGS["weight_decay"] * penalty

    return {
        "lightgcn_edge_index": geometric(both_ways),
        "lightgcn_csr": geometric(csr, normalize=False),
        "lightgcn_coo": (coo.table, coo_loss),
    }


def stepper(parameter: nn.Parameter, loss: Callable[[], Tensor], **options: bool) -> Callable[[], None]:
    """Return a whole training step: gradients cleared, loss, backward, Adam."""
    optimizer = torch.optim.Adam([parameter], lr=RATE, **options)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def check(ours: tuple, theirs: tuple, name: str) -> None:
    """Compare loss and gradient of both at the same weights."""
    losses, gradients = [], []
    for parameter, loss in (ours, theirs):
        value = loss()
        (gradient,) = torch.autograd.grad(value, parameter)
        losses.append(value)
        gradients.append(gradient)
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5, msg=lambda text: f"{name}, loss: {text}")
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5, msg=lambda text: f"{name}, gradient: {text}")


def product_facts(model: Factors, step_seconds: float) -> dict[str, float]:
    """Count the bytes that the sparse products of a step touch, and set them against a plain copy's."""
    adjacency, table = model.adjacency, model.table.detach()
    row = table.shape[1] * 4
    # Of every stored value: an index, the value, and the row that it multiplies; of every row: read, add, write.
    touched = adjacency.values().numel() * (8 + row) + len(table) * 3 * row
    large = torch.empty(2**26)
    copying = min(seconds(lambda: large.clone()) for _ in range(5))
    product = min(seconds(lambda: torch.addmm(table, adjacency, table)) for _ in range(9))
    copied = 2 * large.numel() * 4 / copying
    return {
        "ms of a sparse product": round(1e3 * product, 2),
        "share of the step in sparse products": round(2 * SETTINGS["layers"] * product / step_seconds, 2),
        "GB/s that a product touches (mostly in caches)": round(touched / product / 1e9, 1),
        "GB/s of a plain copy in memory": round(copied / 1e9, 1),
        "touched over copied": round(touched / product / copied, 2),
    }


def evaluation_facts(model: Factors, edges: Tensor) -> dict[str, float]:
    """Time Recall@20 of all users and say how large its largest matrix is."""
    scored = inner_product(*model.embeddings())
    start = time.perf_counter()
    recall_ndcg(*scored, edges[:, ::2], edges[:, 1::2], k=20)
    return {
        "seconds for Recall@20 of all users": round(time.perf_counter() - start, 2),
        "MB of scores at a time": round(BLOCK * scored[1][1] * 4 / 1e6, 1),
        "MB that users x items would take": round(scored[1][0] * scored[1][1] * 4 / 1e6, 1),
    }


def main(args: argparse.Namespace) -> None:
    """Check losses and gradients, then time the steps."""
    users, items, data = yelp_edges(args.smoke)
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    edges = torch.stack([torch.from_numpy(users), torch.from_numpy(items)])
    model = Factors(edges, n_users, n_items, **SETTINGS, generator=torch_generator(1, "benchmark init"))
    rows = torch.from_numpy(numpy_rng(1, "batch").permutation(len(users))[:BATCH])
    negatives = torch.from_numpy(NegativeSampler(users, items).draw(numpy_rng(1, "negatives")))
    batch = edges[0, rows], edges[1, rows], negatives[rows]
    mine = model.table, lambda: model.loss(*batch)
    others = peers(model, edges, n_users, batch)
    for name, other in others.items():
        check(mine, other, name)
    ours = stepper(*mine, fused=True)
    measured = {name: compare(ours, stepper(*other), args.rounds) for name, other in others.items()}
    step_seconds = statistics.median(second for times in measured.values() for second in times.ours)
    facts = {"optimizer": "ours fused, as in training; the peers' as it comes"}
    facts |= product_facts(model, step_seconds) | evaluation_facts(model, edges)
    for name, times in measured.items():
        record(args, name, times, data, facts)


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    return arguments(__doc__, rounds=15)


if __name__ == "__main__":
    run(main, options())
