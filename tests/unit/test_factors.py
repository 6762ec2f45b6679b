"""Factors: propagation, loss and gradients against dense algebra and against torch-geometric's own model."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch_geometric.nn.models import LightGCN as PeerLightGCN

from xrec_repro.embedding_file import load_embeddings, save_embeddings
from xrec_repro.errors import DataError, ModelError
from xrec_repro.recommenders.factors import Factors
from xrec_repro.recommenders.propagation import combination_factor, normalised_adjacency, propagate
from xrec_repro.recommenders.sampling import NegativeSampler
from xrec_repro.seeding import numpy_rng, torch_generator

N_USERS, N_ITEMS, DIM = 13, 9, 8
SETTINGS = {"dim": DIM, "layers": 3, "combine": "mean", "regularise": "initial", "weight_decay": 1e-3}


def random_edges(n_users: int = N_USERS, n_items: int = N_ITEMS, share: float = 0.3) -> torch.Tensor:
    linked = numpy_rng(3, "edges").random((n_users, n_items)) < share
    linked[0, :2] = True
    linked[-1], linked[:, -1] = False, False  # a user and an item without edges
    return torch.from_numpy(np.stack(np.nonzero(linked)))


def dense_adjacency(edges: torch.Tensor) -> torch.Tensor:
    matrix = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS, dtype=torch.float64)
    for user, item in edges.T.tolist():
        matrix[user, N_USERS + item] = matrix[N_USERS + item, user] = 1
    scale = matrix.sum(1).clamp(min=1).rsqrt()
    return scale[:, None] * matrix * scale


def build(seed: int = 5, **overrides: object) -> Factors:
    generator = torch_generator(seed, "init")
    return Factors(random_edges(), N_USERS, N_ITEMS, generator=generator, **SETTINGS | overrides)


def triples() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = numpy_rng(4, "triples")
    users, items = random_edges()
    batch = torch.from_numpy(rng.integers(0, len(users), 17))
    return users[batch], items[batch], torch.from_numpy(rng.integers(0, N_ITEMS, 17))


def test_adjacency_is_symmetrically_normalised_with_int32_indices():
    edges = random_edges()
    adjacency = normalised_adjacency(torch.cat([edges, edges[:, :4]], dim=1), N_USERS, N_ITEMS)
    assert (adjacency.crow_indices().dtype, adjacency.col_indices().dtype) == (torch.int32, torch.int32)
    assert adjacency.dtype == torch.float32
    torch.testing.assert_close(adjacency.to_dense().double(), dense_adjacency(edges), rtol=1e-6, atol=1e-7)


def test_no_train_edges_is_a_data_error():
    with pytest.raises(DataError, match="no train edges"):
        normalised_adjacency(torch.empty(2, 0, dtype=torch.int64), 3, 4)


@pytest.mark.parametrize("combine", ["sum", "mean"])
@pytest.mark.parametrize("layers", [0, 1, 4])
def test_propagation_and_its_gradient_equal_the_dense_polynomial(layers, combine):
    edges = random_edges()
    factor = combination_factor(combine, layers)
    powers = [torch.linalg.matrix_power(dense_adjacency(edges), n) for n in range(layers + 1)]
    polynomial = torch.stack(powers).sum(0) / (layers + 1 if combine == "mean" else 1)
    table = torch.randn(N_USERS + N_ITEMS, DIM, generator=torch_generator(1, "x")).requires_grad_()
    upstream = torch.randn(N_USERS + N_ITEMS, DIM, generator=torch_generator(1, "g"))
    result = propagate(normalised_adjacency(edges, N_USERS, N_ITEMS), table, layers, factor)
    result.backward(upstream)
    torch.testing.assert_close(result.detach().double(), polynomial @ table.detach().double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(table.grad.double(), polynomial.T @ upstream.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("combine", "alpha"), [("mean", None), ("sum", 1.0)])
def test_equals_torch_geometric_in_embeddings_loss_and_gradient(combine, alpha):
    model = build(combine=combine)
    users, positives, negatives = triples()
    edges = random_edges() + torch.tensor([[0], [N_USERS]])
    both_ways = torch.cat([edges, edges.flip(0)], dim=1)
    peer = PeerLightGCN(N_USERS + N_ITEMS, DIM, SETTINGS["layers"], alpha=alpha)
    with torch.no_grad():
        peer.embedding.weight.copy_(model.table)
    pairs = [torch.stack([users, items + N_USERS]) for items in (positives, negatives)]
    nodes = torch.cat([users, positives + N_USERS, negatives + N_USERS])
    # The peer divides its penalty by the batch size; ours is a sum.
    peer_loss = peer.recommendation_loss(
        *(peer(both_ways, pair) for pair in pairs), node_id=nodes, lambda_reg=SETTINGS["weight_decay"] * len(users)
    )
    loss = model.loss(users, positives, negatives)
    loss.backward()
    peer_loss.backward()
    torch.testing.assert_close(torch.cat(model.embeddings()), peer.get_embedding(both_ways), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, peer_loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.table.grad, peer.embedding.weight.grad, rtol=1e-5, atol=1e-6)
    assert model.table.grad.abs().max() > 1e-3


@pytest.mark.parametrize("penalty", ["sum", "half_mean", "norms"])
@pytest.mark.parametrize("regularise", ["propagated", "initial"])
def test_loss_is_the_stated_formula(regularise, penalty):
    model = build(combine="sum", regularise=regularise, penalty=penalty)
    users, positives, negatives = triples()
    final = [part.double().numpy() for part in model.embeddings()]
    initial = [part.detach().double().numpy() for part in model.table.split([N_USERS, N_ITEMS])]
    penalised = final if regularise == "propagated" else initial
    ranking, squares = 0.0, np.zeros(3)
    for user, positive, negative in zip(users, positives, negatives, strict=True):
        difference = final[0][user] @ (final[1][positive] - final[1][negative])
        ranking -= np.log(1 / (1 + np.exp(-difference))) / len(users)
        rows = penalised[0][user], penalised[1][positive], penalised[1][negative]
        squares += [(row**2).sum() for row in rows]
    wanted = {"sum": squares.sum(), "half_mean": squares.sum() / 2 / len(users)}
    wanted["norms"] = np.sqrt(squares).sum() / len(users)
    expected = ranking + SETTINGS["weight_decay"] * wanted[penalty]
    assert model.loss(users, positives, negatives).item() == pytest.approx(expected, rel=1e-5)


def test_loss_stays_finite_where_the_sigmoid_underflows():
    model = build(weight_decay=0.0)
    with torch.no_grad():
        model.table.mul_(1e3)
    loss = model.loss(*triples())
    loss.backward()
    assert loss.item() > 100
    assert torch.isfinite(loss)
    assert torch.isfinite(model.table.grad).all()


def test_without_layers_the_table_is_final_and_no_graph_is_needed():
    none = torch.empty(2, 0, dtype=torch.int64)
    sizes = {"dim": DIM, "generator": torch_generator(5, "init")}
    model = Factors(none, 300, 200, start="normal", **sizes)
    assert torch.equal(torch.cat(model.embeddings()), model.table)
    for part, count in zip(model.table.detach().split([300, 200]), (300, 200), strict=True):
        assert part.std().item() == pytest.approx((2 / (count + DIM)) ** 0.5, rel=0.05)


def test_initial_embeddings_are_xavier_uniform_by_table_and_seeded():
    table = build().table.detach()
    for part, count in zip(table.split([N_USERS, N_ITEMS]), (N_USERS, N_ITEMS), strict=True):
        bound = (6 / (count + DIM)) ** 0.5
        assert 0.8 * bound < part.abs().max() <= bound
    assert torch.equal(table, build().table)
    assert not torch.equal(table, build(seed=6).table)


@pytest.mark.parametrize("key", ["combine", "regularise", "penalty", "start"])
def test_unknown_setting_is_named(key):
    with pytest.raises(ModelError, match=f"{key}: 'median' is not one of"):
        build(**{key: "median"})


def test_embeddings_survive_the_file(tmp_path):
    user, item = build().embeddings()
    save_embeddings(tmp_path / "e.safetensors", user, item, {"seed": "5"})
    loaded = load_embeddings(tmp_path / "e.safetensors")
    assert torch.equal(loaded[0], user)
    assert torch.equal(loaded[1], item)


def test_unusable_embedding_files_are_named(tmp_path):
    path = tmp_path / "e.safetensors"
    with pytest.raises(DataError, match="no such file"):
        load_embeddings(path)
    save_file({"user": torch.zeros(2, 3)}, path)
    with pytest.raises(DataError, match=r"tensor 'item' is missing \(found: user\)"):
        load_embeddings(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        load_embeddings(path)
    save_file({"user": torch.zeros(2, 3), "item": torch.zeros(2, 4)}, path)
    with pytest.raises(ModelError, match="one width"):
        load_embeddings(path)


@settings(deadline=None)
@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=2), st.integers(0, 99))
def test_negatives_are_train_items_new_to_the_user(pairs, seed):
    users, items = np.array(sorted(pairs)).T
    pool = set(items.tolist())
    owned = {user: set(items[users == user].tolist()) for user in set(users.tolist())}
    if any(len(own) == len(pool) for own in owned.values()):
        with pytest.raises(DataError, match="finds no negative item"):
            NegativeSampler(users, items)
        return
    negatives = NegativeSampler(users, items).draw(numpy_rng(seed, "test"))
    assert negatives.shape == users.shape
    for user, negative in zip(users.tolist(), negatives.tolist(), strict=True):
        assert negative in pool - owned[user]


def test_negatives_are_uniform_over_the_items_new_to_the_user():
    users = np.repeat([0, 1], [20_000, 6])
    items = np.concatenate([np.tile([2, 5, 3, 5], 5_000), [0, 2, 3, 5, 7, 9]])
    # User 1 has all six items of the pool; give the pool one more item through a third user.
    users, items = np.append(users, 2), np.append(items, 11)
    negatives = NegativeSampler(users, items).draw(numpy_rng(1, "test"))[:20_000]
    values, counts = np.unique(negatives, return_counts=True)
    assert values.tolist() == [0, 7, 9, 11]
    assert np.abs(counts - 5_000).max() < 5 * np.sqrt(20_000 * 0.25 * 0.75)


def test_fixed_negatives_stay_and_redrawn_ones_change():
    users, items = random_edges(40, 30).numpy()
    sampler = NegativeSampler(users, items)
    drawn = {mode: [sampler.draw_epoch(mode, 1, epoch) for epoch in (1, 2)] for mode in ("fixed", "redrawn")}
    assert np.array_equal(*drawn["fixed"])
    assert not np.array_equal(*drawn["redrawn"])
    assert np.array_equal(drawn["redrawn"][1], sampler.draw_epoch("redrawn", 1, 2))
    assert not np.array_equal(drawn["fixed"][0], sampler.draw_epoch("fixed", 2, 1))
    with pytest.raises(ModelError, match="negatives: 'hard'"):
        sampler.draw_epoch("hard", 1, 1)
