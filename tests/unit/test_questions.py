"""Openings, ranks and ranges by hand, and the tables of what the study left open."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from xrec_repro.contracts import EXPLANATIONS, GRAPH, TEXTS
from xrec_repro.embedding_file import save_embeddings
from xrec_repro.errors import DataError
from xrec_repro.io import read_json, write_table
from xrec_repro.own_texts import own_id
from xrec_repro.paper.questions import opening, range_of, ranks_of, write_questions
from xrec_repro.paper.render import number, span

STATISTICS = {
    "seed": 0, "bootstrap_samples": 199, "permutations": 99, "interval": "percentile", "confidence": 0.95,
    "test": "permutation", "correction": "holm", "alpha": 0.05, "reference": "xrec", "primary": None,
    "clusters": "user", "runs": "both",
}  # fmt: skip
SETTINGS = {
    "statistics": STATISTICS,
    "words": 2,
    "metrics": ["faithfulness_f1", "bertscore_f1"],
    "ranks": [1, 2],
    "glassbox": {},
}
USERS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
ITEMS = torch.tensor([[4.0, 1.0], [3.0, 2.0], [2.0, 3.0], [1.0, 4.0]])
PAIRS = [("e0", 0, 1, False), ("e1", 0, 3, False), ("e2", 1, 3, False), ("e3", 2, 0, True)]
REFERENCES = ["You would like it", "You would like it", "They want it", "One"]
PREDICTIONS = {
    "xrec": ["You would not", "They want this", "They WANT it", "One"],
    "no_embeddings": ["A B", "A B", "They want", "A B"],
}
SCORES = {"xrec": [0.5, 0.25, 1.0, 0.75], "no_embeddings": [0.0, 0.0, 0.5, 0.5]}


@pytest.fixture
def rows(tmp_path):
    edges = [(0, 0, "train"), (1, 0, "train"), (0, 1, "test"), (0, 3, "test"), (1, 3, "test"), (2, 0, "test")]
    write_table(tmp_path / "graph.parquet", [dict(zip(GRAPH.names, e, strict=True)) for e in edges], GRAPH)
    pairs = [
        {"example_id": e, "user": u, "item": i, "user_id": f"u{u}", "item_id": f"i{i}", "split": "test", "zero_shot": z}
        for e, u, i, z in PAIRS
    ]
    write_table(tmp_path / "texts.parquet", pairs, TEXTS)
    save_embeddings(tmp_path / "embeddings.safetensors", USERS, ITEMS, {})
    found = []
    for name, predictions in PREDICTIONS.items():
        texts = [
            {"example_id": e, "user_id": f"u{u}", "item_id": f"i{i}", "reference": r, "prediction": p,
             "rating": None, "prompt_tokens": 1, "new_tokens": 1, "finish_reason": "eos"}
            for (e, u, i, _), r, p in zip(PAIRS, REFERENCES, predictions, strict=True)
        ]  # fmt: skip
        write_table(tmp_path / f"{name}.parquet", texts, EXPLANATIONS)
        scores = pd.DataFrame({"example_id": [e for e, *_ in PAIRS], "bertscore_f1": SCORES[name]})
        scores.to_parquet(tmp_path / f"{name}.scores.parquet", index=False)
        found.append(
            {
                "dataset": "glass", "dataset_label": "Glass", "experiment": name, "experiment_label": name.title(),
                "seed": 1, "kind": "demo", "embeddings_as": "trained" if name == "xrec" else "none",
                "summary": {"bertscore_f1": {"std": 0.1, "signature": "b"}},
                "explanations": tmp_path / f"{name}.parquet", "scores": tmp_path / f"{name}.scores.parquet",
                "graph": tmp_path / "graph.parquet", "texts": tmp_path / "texts.parquet",
                "embeddings": tmp_path / "embeddings.safetensors" if name == "xrec" else None,
            }
        )  # fmt: skip
    return found


def written(folder, rows, **changes):
    write_questions(rows, SETTINGS | changes, folder / "q.json", folder / "q.md")
    return read_json(folder / "q.json"), (folder / "q.md").read_text(encoding="utf-8")


def test_openings_are_words_in_lower_case():
    assert opening("The  user\nWould", 2) == "the user"
    assert opening("The", 2) == ""


@pytest.mark.parametrize(("rank", "name"), [(1, "1-10"), (10, "1-10"), (11, "11-50"), (50, "11-50"), (51, ">50")])
def test_ranges_have_all_ranks(rank, name):
    assert range_of(rank, [10, 50]) == name


def test_ranks_leave_train_items_out_and_ties_have_the_better_one():
    users, items = np.array([[1.0]]), np.array([[3.0], [2.0], [2.0], [1.0]])
    pairs = np.array([[0, 1], [0, 2], [0, 3]])
    assert ranks_of(users, items, pairs, np.array([[0, 0]])).tolist() == [1, 1, 3]
    assert ranks_of(users, items, pairs, np.zeros((0, 2), int)).tolist() == [2, 2, 4]


def test_the_form_by_hand(tmp_path, rows):
    form, text = written(tmp_path, rows)[0]["form"], written(tmp_path, rows)[1]
    full, less = form
    assert (full["own"]["mean"], full["known"]["mean"], full["score"]["mean"]) == (0.5, 0.75, 0.625)
    assert (less["own"]["mean"], less["known"]["mean"], less["score"]["mean"]) == (0.25, 0.25, 0.25)
    assert (full["metric"], full["embeddings_as"], less["embeddings_as"]) == ("bertscore_f1", "trained", "none")
    assert full["own"]["low"] is None  # of four examples no interval is made
    assert "whose first 2 words" in text and "for these trainings (1 seed)" in text


def test_scores_by_rank_by_hand(tmp_path, rows):
    ranked = written(tmp_path, rows)[0]["ranks"]
    # User 0 has seen item 0: of items 1, 2, 3 the first scores highest; user 1's best is item 3; user 2 is zero-shot.
    found = {(one["experiment"], one["range"]): (one["score"]["mean"], one["score"]["n"]) for one in ranked}
    assert found == {
        ("xrec", "1-1"): (0.75, 2), ("xrec", ">2"): (0.25, 1), ("xrec", "zero-shot"): (0.75, 1),
        ("no_embeddings", "1-1"): (0.25, 2), ("no_embeddings", ">2"): (0.0, 1),
        ("no_embeddings", "zero-shot"): (0.5, 1),
    }  # fmt: skip
    assert {one["ranks_of"] for one in ranked} == {"Xrec"}


def test_texts_of_no_pair_of_the_split_have_no_rank(tmp_path, rows):
    want = written(tmp_path, rows)[0]["ranks"]
    for file in ("no_embeddings.parquet", "no_embeddings.scores.parquet"):
        table = pq.read_table(tmp_path / file).to_pylist()
        row = table[0] | {"example_id": own_id(3, 10)}
        pq.write_table(pa.Table.from_pylist([*table, row], schema=pq.read_schema(tmp_path / file)), tmp_path / file)
    assert written(tmp_path, rows)[0]["ranks"] == want


def test_without_a_recommender_there_are_no_ranks(tmp_path, rows):
    record, text = written(tmp_path, rows[1:])
    assert record["ranks"] == [] and "Outliers" not in text


def test_seeds_of_an_example_are_averaged(tmp_path, rows):
    twice = [row | {"seed": seed} for row in rows for seed in (1, 2)]
    record = written(tmp_path, twice)[0]
    assert record["form"][0]["score"] == written(tmp_path, rows)[0]["form"][0]["score"]
    assert record["form"][0]["seeds"] == [1, 2]


def test_a_recommender_of_other_items_is_refused(tmp_path, rows):
    save_embeddings(tmp_path / "embeddings.safetensors", USERS, ITEMS[:2], {})
    with pytest.raises(DataError, match=r"embeddings\.safetensors: no item 3; train the recommender again"):
        written(tmp_path, rows)


def test_without_a_score_openings_remain(tmp_path, rows):
    found, text = written(tmp_path, rows, metrics=["charm"])
    assert found["ranks"] == [] and {one["score"]["n"] for one in found["form"]} == {0}
    assert {one["own"]["n"] for one in found["form"]} == {4} and "not scored" in text


def test_a_method_that_reads_no_embeddings_has_none(tmp_path, rows):
    found, text = written(tmp_path, [row | {"embeddings_as": None} for row in rows])
    assert {one["embeddings_as"] for one in found["form"]} == {None}
    assert "| Xrec | – |" in text


def test_texts_of_no_pair_are_each_of_a_user_of_their_own(tmp_path, rows):
    """Half of them open as their reference does: with one user for all, every draw would have the same mean."""
    texts = [
        {"example_id": own_id(row, 40), "user_id": "", "item_id": "", "reference": "You would", "rating": None,
         "prediction": "You would" if row % 2 else "I think", "prompt_tokens": 1, "new_tokens": 1, "finish_reason": ""}
        for row in range(40)
    ]  # fmt: skip
    write_table(tmp_path / "xrec.parquet", texts, EXPLANATIONS)
    scores = pd.DataFrame({"example_id": [one["example_id"] for one in texts], "bertscore_f1": 0.5})
    scores.to_parquet(tmp_path / "xrec.scores.parquet", index=False)
    own = written(tmp_path, rows)[0]["form"][0]["own"]
    assert own["mean"] == 0.5 and own["n"] == 40
    assert 0.3 < own["low"] < 0.45 and 0.55 < own["high"] < 0.7


def test_an_interval_that_ends_at_nothing_has_no_sign():
    assert span(-1e-17, 0.5) == "0.0000 to 0.5000" and number(-0.00006) == "-0.0001" and number(-12.3) == "-12.30"
