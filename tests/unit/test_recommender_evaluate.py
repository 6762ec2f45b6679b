"""Recall@k and NDCG@k against references that follow the definitions user by user, without tensors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xrec_repro.errors import DataError
from xrec_repro.recommenders.evaluate import inner_product, original_recall, ranking_metrics, recall_ndcg
from xrec_repro.seeding import torch_generator


def edges_of(pairs) -> torch.Tensor:
    return torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2).T


def scored(users, items):
    return inner_product(torch.tensor(users), torch.tensor(items))


def ranking(user: list[float], items: list[list[float]], banned: set[int], k: int) -> list[int]:
    scores = [sum(a * b for a, b in zip(user, item, strict=True)) for item in items]
    allowed = [item for item in range(len(items)) if item not in banned]
    return sorted(allowed, key=lambda item: (-scores[item], item))[:k]


def scores_of(ranked: list[int], wanted: set[int], k: int) -> tuple[float, float]:
    dcg = sum(1 / math.log2(place + 2) for place, item in enumerate(ranked) if item in wanted)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))
    return len(wanted.intersection(ranked)) / len(wanted), dcg / ideal


def reference(users, items, train, test, k) -> tuple[float, float]:
    """Mean over the users that have test items, train items left out."""
    results = []
    for user in sorted({u for u, _ in test}):
        ranked = ranking(users[user], items, {i for u, i in train if u == user}, k)
        results.append(scores_of(ranked, {i for u, i in test if u == user}, k))
    return sum(r for r, _ in results) / len(results), sum(n for _, n in results) / len(results)


def original_reference(users, items, test, k) -> tuple[float, float]:
    """Mean over the test interactions, nothing left out."""
    results = []
    for user, _ in sorted(test):
        wanted = {i for u, i in test if u == user}
        results.append(scores_of(ranking(users[user], items, set(), k), wanted, k))
    return sum(r for r, _ in results) / len(results), sum(n for _, n in results) / len(results)


@st.composite
def problems(draw):
    n_users, n_items = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    # Small whole numbers: scores are exact, and ties are the rule.
    vector = st.lists(st.integers(-2, 2).map(float), min_size=2, max_size=2)
    users = draw(st.lists(vector, min_size=n_users, max_size=n_users))
    items = draw(st.lists(vector, min_size=n_items, max_size=n_items))
    pair = st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1))
    train, test = draw(st.sets(pair, max_size=30)), draw(st.sets(pair, min_size=1, max_size=20))
    return users, items, train, test, draw(st.integers(1, n_items)), draw(st.integers(1, 8))


@settings(deadline=None)
@given(problems())
def test_standard_metrics_equal_the_reference(problem):
    users, items, train, test, k, block = problem
    found = recall_ndcg(*scored(users, items), edges_of(train), edges_of(test), k=k, block=block)
    recall, ndcg = reference(users, items, train, test, k)
    assert found["recall"] == pytest.approx(recall, abs=1e-12)
    assert found["ndcg"] == pytest.approx(ndcg, abs=1e-12)
    assert found["users"] == len({user for user, _ in test})


@settings(deadline=None)
@given(problems())
def test_original_metrics_equal_the_reference(problem):
    users, items, _, test, k, block = problem
    found = original_recall(*scored(users, items), edges_of(test), k=k, block=block)
    recall, ndcg = original_reference(users, items, test, k)
    assert found["recall"] == pytest.approx(recall, abs=1e-12)
    assert found["ndcg"] == pytest.approx(ndcg, abs=1e-12)
    assert found["interactions"] == len(test)


@settings(deadline=None)
@given(problems())
def test_the_full_ranking_protocol_equals_the_reference(problem):
    users, items, known, test, k, block = problem
    cuts = [cut for cut in (1, k) if cut <= len(items)]
    found = ranking_metrics(*scored(users, items), edges_of(known), edges_of(test), (*cuts, 99), block)
    asked = sorted({user for user, _ in test})
    for cut in cuts:
        recall, ndcg = reference(users, items, known, test, cut)
        firsts = []
        for user in asked:
            ranked = ranking(users[user], items, {i for u, i in known if u == user}, cut)
            firsts.append(next((place + 1 for place, item in enumerate(ranked) if (user, item) in test), None))
        assert found[f"recall@{cut}"] == pytest.approx(recall, abs=1e-12)
        assert found[f"ndcg@{cut}"] == pytest.approx(ndcg, abs=1e-12)
        mrr = sum(1 / rank for rank in firsts if rank) / len(asked)
        assert found[f"mrr@{cut}"] == pytest.approx(mrr, abs=1e-12)
        assert found[f"hit@{cut}"] == pytest.approx(sum(map(bool, firsts)) / len(asked), abs=1e-12)
    assert "recall@99" not in found
    alone = len(test) == len(asked)
    assert found["protocol"] == ("leave_one_out" if alone else "ratio")
    if alone:
        assert found[f"recall@{k}"] == found[f"hit@{k}"]


def test_a_case_by_hand():
    # Scores of both users: 4, 3, 2, 1 for items 0 … 3.
    user, item = torch.tensor([[1.0], [1.0]]), torch.tensor([[4.0], [3.0], [2.0], [1.0]])
    train, test = edges_of({(0, 0)}), edges_of({(0, 2), (1, 0), (1, 1), (1, 3)})
    standard = recall_ndcg(*inner_product(user, item), train, test, k=2)
    # User 0 ranks 1, 2: one of one, at rank 2. User 1 ranks 0, 1: two of three, ideal.
    assert standard["recall"] == pytest.approx((1 + 2 / 3) / 2)
    assert standard["ndcg"] == pytest.approx((1 / math.log2(3) + 1) / 2)
    original = original_recall(*inner_product(user, item), test, k=2)
    # Unmasked, user 0 ranks 0, 1 and finds nothing; user 1 counts three times.
    assert original["recall"] == pytest.approx(3 * (2 / 3) / 4)
    assert original["ndcg"] == pytest.approx(3 / 4)


def test_ties_go_to_the_smaller_item_id_at_any_width():
    item = torch.ones(500, 1)
    user = torch.ones(3, 1)
    first = recall_ndcg(*inner_product(user, item), edges_of(set()), edges_of({(0, 0), (1, 19), (2, 20)}), k=20)
    assert first["recall"] == pytest.approx(2 / 3)


def test_block_changes_nothing():
    generator = torch_generator(1, "block")
    user, item = torch.randn(50, 8, generator=generator), torch.randn(70, 8, generator=generator)
    train = torch.randint(0, 50, (2, 200), generator=generator)
    test = torch.randint(0, 50, (2, 90), generator=generator)
    results = [recall_ndcg(*inner_product(user, item), train, test, k=10, block=block) for block in (1, 7, 1000)]
    assert results[0] == pytest.approx(results[1])
    assert results[0] == pytest.approx(results[2])
    assert 0 < results[0]["recall"] < 1


def test_edges_given_twice_count_once():
    both = inner_product(torch.ones(2, 1), torch.arange(4.0)[:, None])
    test = edges_of({(0, 3), (0, 0), (1, 0)})
    twice = torch.cat([test, test[:, :1]], dim=1)
    assert recall_ndcg(*both, test[:, :0], twice, 2) == recall_ndcg(*both, test[:, :0], test, 2)
    assert original_recall(*both, twice, 2) == original_recall(*both, test, 2)


@pytest.mark.parametrize(
    ("test", "k", "message"),
    [
        ({(0, 0)}, 5, "a recommender's k is 5, but there are 4 items"),
        (set(), 2, "no edges to evaluate on"),
        ({(0, 4)}, 2, "item id 4 has no embedding"),
        ({(-1, 0)}, 2, "user id -1 has no embedding"),
    ],
)
def test_unusable_input_is_named(test, k, message):
    with pytest.raises(DataError, match=message):
        recall_ndcg(*inner_product(torch.ones(2, 1), torch.ones(4, 1)), edges_of(set()), edges_of(test), k)
