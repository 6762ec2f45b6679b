"""The demo's own scorers: do they order obvious cases? A minute of training each: run with `make test-slow`."""

import itertools

import numpy as np
import pyarrow.parquet as pq
import pytest

from xrec_repro.config import load_config
from xrec_repro.data import glassbox_words as words
from xrec_repro.data.glassbox import ASPECT_NAMES, make_glassbox, make_world
from xrec_repro.metrics.registry import build_metric
from xrec_repro.scorers import train_scorer

CASES = ("identical", "paraphrase", "other reason", "unrelated")
COUNT = 60


@pytest.fixture(scope="module")
def world(root, tmp_path_factory):
    """The demo's references to learn from, and for 60 others the four cases."""
    folder = tmp_path_factory.mktemp("world")
    settings = load_config(root / "config/config.yaml")["defaults"]["glassbox"]
    names = ("reviews.jsonl.gz", "metadata.jsonl.gz", "texts.parquet", "truth.parquet")
    make_glassbox(settings, *(folder / name for name in names))
    texts = pq.read_table(folder / "texts.parquet").to_pandas()
    texts = texts.merge(pq.read_table(folder / "truth.parquet").to_pandas(), on=["user_id", "item_id"])
    texts = texts.sample(frac=1, random_state=0)
    world = make_world(settings)
    aspects = dict(zip(world.item_ids, world.item_aspects.tolist(), strict=True))
    held_out = texts[texts["named"].map(len) == 2].tail(COUNT)
    rng = np.random.default_rng(5)
    cases = [four_cases(row.reference, row.named, aspects[row.item_id], rng) for row in held_out.itertuples()]
    return texts["reference"].tolist()[: -2 * COUNT], held_out["reference"].tolist(), cases


def four_cases(reference, named, item_aspects, rng) -> list[str]:
    """Write the reference, its reasons in other words around them, other reasons of the item, and a complaint."""
    first, second = (
        next(form for form in words.ASPECTS[ASPECT_NAMES.index(name)] if form in reference) for name in named
    )
    frames = [frame for frame in words.REFERENCE_TEMPLATES if not reference.startswith(frame.split("{")[0])]
    same, other = rng.choice(frames, 2, replace=False)
    others = [aspect for aspect in item_aspects if ASPECT_NAMES[aspect] not in named]
    reasons = " and ".join(words.ASPECTS[aspect][rng.integers(3)] for aspect in rng.choice(others, 2, replace=False))
    complaint = f"{rng.choice(words.COMPLAINTS)} {rng.choice(words.COMPLAINT_FILLERS)}"
    return [reference, same.format(reasons=f"{first} and {second}"), other.format(reasons=reasons), complaint]


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "scorer"), [("bartscore", "bart"), ("bleurt", "bleurt"), ("llamascore", "judge")])
def test_obvious_cases_are_ordered(root, world, tmp_path, metric, scorer):
    train, references, cases = world
    config = load_config(root / "config/config.yaml")
    report = train_scorer(scorer, train, config["scorers"][scorer], tmp_path / "model")
    assert report["losses"][-1] < report["losses"][0]
    made = build_metric(metric, config["metrics"][metric] | {"model": str(tmp_path / "model")}, "cpu")
    scores = [made.score([row[case] for row in cases], references).columns[metric] for case in range(len(CASES))]
    for (name, higher), (lower_name, lower) in itertools.pairwise(zip(CASES, scores, strict=True)):
        share = float((higher > lower).mean())
        print(f"{metric}: {name} {higher.mean():.3f} > {lower_name} {lower.mean():.3f} in {share:.0%}")
        assert higher.mean() > lower.mean()
        assert share >= 0.8
