"""Propagation over a graph as one polynomial of a symmetric sparse matrix.

With ``A = D^-1/2 (adjacency) D^-1/2`` the final embeddings are ``P(A) X``, ``P(A) = c (I + A + ... + A^L)``.
Horner's rule needs L sparse products and keeps no layer output. As A is symmetric, the gradient with respect
to ``X`` is ``P(A) G``: the same L products again, where automatic differentiation would store the layers and
transpose A.
"""

import warnings

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import to_torch_csr_tensor, to_undirected

from xrec_repro.errors import DataError, ModelError


def normalised_adjacency(edges: Tensor, n_users: int, n_items: int) -> Tensor:
    """Build the symmetrically normalised adjacency of a bipartite graph.

    Users are nodes 0 … n_users - 1 and items follow. An edge given twice counts once; a node without edges
    has an empty row, so its propagated embedding is its own table row (times the combination's factor).

    Args:
        edges: int64 [2, n_edges], users above items.
        n_users: Number of users.
        n_items: Number of items.

    Returns:
        float32 sparse CSR tensor [n_users + n_items, n_users + n_items] with int32 indices.

    Raises:
        DataError: There are no edges.
    """
    if edges.shape[1] == 0:
        raise DataError("no train edges: there is nothing to propagate over; check kcore and split settings")
    n_nodes = n_users + n_items
    both_ways = to_undirected(torch.stack([edges[0], edges[1] + n_users]), num_nodes=n_nodes)
    both_ways, weights = gcn_norm(both_ways, None, n_nodes, add_self_loops=False, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant checks)")
        wide = to_torch_csr_tensor(both_ways, weights, size=(n_nodes, n_nodes))
        # MKL's products take int32 indices; int64 ones are converted at every call.
        return torch.sparse_csr_tensor(
            wide.crow_indices().int(),
            wide.col_indices().int(),
            wide.values(),
            wide.shape,
            check_invariants=True,
        )


def combination_factor(combine: str, layers: int) -> float:
    """Return the factor before the sum of the layer outputs: 1 for ``sum``, 1 / (layers + 1) for ``mean``.

    Raises:
        ModelError: `combine` is neither.
    """
    factors = {"sum": 1.0, "mean": 1.0 / (layers + 1)}
    if combine not in factors:
        raise ModelError(f"combine: {combine!r} is not one of {', '.join(factors)}; correct the recommender's entry")
    return factors[combine]


def propagate(adjacency: Tensor, table: Tensor, layers: int, factor: float) -> Tensor:
    """Compute ``factor * sum_{l=0..layers} adjacency^l table``, differentiable in `table`.

    Args:
        adjacency: Symmetric sparse CSR tensor [n, n]; symmetry is assumed, not checked.
        table: Layer-0 embeddings [n, dim].
        layers: Number of propagation layers L.
        factor: See `combination_factor`.

    Returns:
        Final embeddings [n, dim].
    """
    return _SymmetricPolynomial.apply(table, adjacency, layers, factor)


def _horner(adjacency: Tensor, table: Tensor, layers: int, factor: float) -> Tensor:
    result = table
    for _ in range(layers):
        result = torch.addmm(table, adjacency, result)
    return result if factor == 1.0 else result * factor


class _SymmetricPolynomial(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table: Tensor, adjacency: Tensor, layers: int, factor: float) -> Tensor:
        ctx.polynomial = adjacency, layers, factor
        return _horner(adjacency, table, layers, factor)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        adjacency, layers, factor = ctx.polynomial
        return _horner(adjacency, gradient, layers, factor), None, None, None
