"""k-core of the released Yelp graph, ours and networkx's in turn."""

import argparse

import networkx as nx
import numpy as np
from graphs import yelp_edges
from harness import arguments, compare, record, run, seconds

from xrec_repro.data.kcore import kcore_mask


def main(args: argparse.Namespace) -> None:
    """Compare the edges of both cores, then the times."""
    users, items, data = yelp_edges(args.smoke)
    nodes = items + users.max() + 1
    pairs = list(zip(users.tolist(), nodes.tolist(), strict=True))
    graph = nx.Graph(pairs)
    mask = kcore_mask(users, items, args.k, args.k)
    kept = set(map(tuple, np.stack([users[mask], nodes[mask]], axis=1).tolist()))
    assert kept == {tuple(sorted(edge)) for edge in nx.k_core(graph, args.k).edges}, "the two cores have other edges"
    assert 0 < len(kept) < len(pairs), "there is nothing to peel"
    times = compare(
        lambda: kcore_mask(users, items, args.k, args.k), lambda: nx.k_core(graph, args.k), args.rounds, warm_up=False
    )
    facts = {
        "k": args.k,
        "edges of the core": int(mask.sum()),
        "seconds to build networkx's graph, not counted": round(seconds(lambda: nx.Graph(pairs)), 3),
    }
    record(args, "kcore", times, data, facts)


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--k", type=int, default=10, help="least neighbours of a node (default: %(default)s)")
    return parser


if __name__ == "__main__":
    run(main, options())
