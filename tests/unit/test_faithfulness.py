"""Faithfulness: which of the true reasons a text names."""

from itertools import permutations

import numpy as np
import pyarrow.parquet as pq
import pytest

from xrec_repro.config import load_config
from xrec_repro.data.glassbox import make_glassbox
from xrec_repro.errors import DataError
from xrec_repro.metrics import faithfulness
from xrec_repro.metrics.base import summary
from xrec_repro.metrics.faithfulness import Faithfulness

SUSPENSE, TWISTS, HUMOUR = "slow-burning suspense", "clever plot twists", "dry humour"
BOTH = f"They would love the {SUSPENSE} and the {TWISTS}."


def score(predictions, truths, references=None):
    return Faithfulness.from_settings({}).score(predictions, references or [BOTH] * len(predictions), truths)


def columns(*arguments) -> list[tuple[float, ...]]:
    scores = score(*arguments)
    assert list(scores.columns) == ["faithfulness_p", "faithfulness_r", "faithfulness_f1"]
    return list(zip(*(values.tolist() for values in scores.columns.values()), strict=True))


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        (BOTH, {SUSPENSE, TWISTS}, (1, 1, 1)),
        ("Creeping tension; CREEPING\ntension, and surprising reversals!", {SUSPENSE, TWISTS}, (1, 1, 1)),
        (BOTH, {TWISTS, HUMOUR}, (1 / 2, 1 / 2, 1 / 2)),
        (BOTH, {SUSPENSE}, (1 / 2, 1, 2 / 3)),
        ("It is the dry humour.", [SUSPENSE, TWISTS, HUMOUR], (1, 1 / 3, 1 / 2)),
        ("It is the dry humour.", {SUSPENSE}, (0, 0, 0)),
        ("A good book about suspense.", {SUSPENSE}, (0, 0, 0)),
        ("", {SUSPENSE}, (0, 0, 0)),
    ],
)
def test_values_by_hand(prediction, truth, expected):
    assert columns([prediction], [truth]) == [pytest.approx(expected)]


def test_what_was_named_is_counted():
    texts = [BOTH, "nothing", "", "wry asides and epic battles and clever plot twists"]
    counts = score(texts, [{SUSPENSE, TWISTS}, {TWISTS}, {HUMOUR}, {HUMOUR}]).counts
    assert {key: counts[key] for key in ("named_nothing", "named", "named_wrongly")} == {
        "named_nothing": 2,
        "named": 5,
        "named_wrongly": 2,
    }


def test_the_score_of_the_references_is_measured_beside_it():
    truths = [{SUSPENSE, TWISTS, HUMOUR}, {SUSPENSE, TWISTS}]
    scores = score([f"{BOTH} And the deadpan wit."] * 2, truths)
    found = [scores.counts[f"faithfulness_{part}_reference"] for part in ("p", "r", "f1")]
    assert found == pytest.approx([1, (2 / 3 + 1) / 2, (0.8 + 1) / 2])
    assert scores.columns["faithfulness_r"].tolist() == [1.0, 1.0]


def test_chance_is_the_mean_over_all_ways_to_deal_the_references():
    references = [BOTH, "Just the dry humour.", "", f"{BOTH} With wry asides, too."]
    truths = [{SUSPENSE, TWISTS, HUMOUR}, {HUMOUR}, {TWISTS}, {SUSPENSE, HUMOUR}]
    counts = score(["a text"] * 4, truths, references).counts
    dealt = [summary(score(list(order), truths)) for order in permutations(references)]
    own = summary(score(references, truths))
    for column in ("faithfulness_p", "faithfulness_r", "faithfulness_f1"):
        assert counts[f"{column}_chance"] == pytest.approx(np.mean([one[column]["mean"] for one in dealt]))
        assert counts[f"{column}_reference"] == pytest.approx(own[column]["mean"])


def test_references_of_a_world_are_precise_and_reach_the_recall_that_their_length_allows(root, tmp_path):
    settings = load_config(root / "config/config.yaml")["defaults"]["glassbox"] | {"users": 60, "items": 40}
    files = [tmp_path / name for name in ("reviews.gz", "items.gz", "texts.parquet", "truth.parquet")]
    make_glassbox(settings, *files)
    truth = {(row["user_id"], row["item_id"]): row["reasons"] for row in pq.read_table(files[3]).to_pylist()}
    texts = pq.read_table(files[2]).to_pylist()
    references = [row["reference"] for row in texts]
    truths = [truth[row["user_id"], row["item_id"]] for row in texts]
    scores = score(references, truths, references)
    allowed = [min(settings["named_reasons"], len(reasons)) / len(reasons) for reasons in truths]
    assert len(references) > 500
    assert scores.columns["faithfulness_p"].min() == 1.0
    assert scores.columns["faithfulness_r"].tolist() == pytest.approx(allowed)
    assert summary(scores)["faithfulness_r"]["mean"] == pytest.approx(scores.counts["faithfulness_r_reference"])
    assert 0.7 < scores.counts["faithfulness_r_reference"] < 1.0
    assert 0.05 < scores.counts["faithfulness_f1_chance"] < 0.2 < scores.counts["faithfulness_f1_reference"]


@pytest.mark.parametrize(
    ("truths", "message"),
    [
        (None, "needs the true reasons of every example, which only a glassbox data set has; leave this metric out"),
        ([{SUSPENSE}], "2 predictions but 1 sets of true reasons"),
        ([{SUSPENSE}, set()], "example 2 has no true reason"),
        ([{SUSPENSE}, {HUMOUR, "wit"}], "example 2: the true reason 'wit' is no aspect of the glassbox"),
    ],
)
def test_truths_that_cannot_be_used_are_refused(truths, message):
    with pytest.raises(DataError, match=message):
        score([BOTH, BOTH], truths)


def test_other_words_give_another_signature(monkeypatch):
    signature = Faithfulness().signature
    assert signature.startswith("faithfulness|forms:sha256:")
    assert signature.endswith("|recall:all_reasons|v:1")
    monkeypatch.setattr(faithfulness, "ASPECTS", (*faithfulness.ASPECTS, ("new form",)))
    assert Faithfulness().signature != signature
