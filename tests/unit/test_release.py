import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from xrec_repro.contracts import INTERACTIONS, ITEMS, RELEASED_EDGES, RELEASED_TEXTS
from xrec_repro.data.release import import_release, load_published_embeddings
from xrec_repro.errors import DataError
from xrec_repro.io import read_table

OUTPUTS = {"interactions": INTERACTIONS, "items": ITEMS, "edges": RELEASED_EDGES, "texts": RELEASED_TEXTS}
TRAIN, VAL, TEST = [(2, 0), (0, 1), (0, 0), (1, 2)], [(1, 0)], [(2, 2), (0, 2)]


def run(folder, out):
    report = import_release(folder, *(out / f"{name}.parquet" for name in OUTPUTS))
    tables = {name: read_table(out / f"{name}.parquet", schema).to_pylist() for name, schema in OUTPUTS.items()}
    return report, tables


def text(user, item, explanation="The user would enjoy it.", title=None):
    return {
        "uid": user,
        "iid": item,
        "title": title or f"Item {item}",
        "user_summary": f"Profile of {user}",
        "item_summary": f"Profile of item {item}",
        "explanation": explanation,
    }


def write_csv(folder, short, edges, times=None):
    frame = pd.DataFrame(edges, columns=["user", "item"])
    if times:
        frame["Time"] = times
    frame.to_csv(folder / f"total_{short}.csv", index=False)


def write_pickle(path, value):
    path.write_bytes(pickle.dumps(value, protocol=4))


def as_frame(rows):
    frame = pd.DataFrame(rows).astype({"title": object})
    for name in ("title", "user_summary", "item_summary", "explanation"):
        frame[name] = frame[name].astype(object)
    frame.columns = pd.Index(list(rows[0]), dtype=object)
    return frame.set_index(pd.Index(range(50, 50 + len(rows))))  # the released index is that of the whole table


def neighbours(edges, users=3):
    return [[item for user, item in edges if user == row] for row in range(users)]


def write_para(folder, **changes):
    para = {"user_num": 3, "item_num": 3, "trn_user_nb": neighbours(TRAIN), "val_user_nb": neighbours(VAL)}
    write_pickle(folder / "para_dict.pickle", para | changes)


@pytest.fixture
def release(tmp_path):
    """A release in the layout of Yelp's."""
    folder = tmp_path / "release"
    folder.mkdir()
    for short, edges in (("trn", TRAIN), ("val", VAL), ("tst", TEST)):
        write_csv(folder, short, edges)
    write_pickle(folder / "tst.pkl", as_frame([text(2, 0, title="Zero"), text(0, 2), text(1, 1)]))
    return folder


def test_edges_keep_split_and_file_order(release, tmp_path):
    report, tables = run(release, tmp_path)
    expected = [
        {"user_id": str(user), "item_id": str(item), "split": split}
        for split, edges in (("train", TRAIN), ("val", VAL), ("test", TEST))
        for user, item in edges
    ]
    assert tables["edges"] == expected
    assert [(row["user_id"], row["item_id"]) for row in tables["interactions"]] == [
        (row["user_id"], row["item_id"]) for row in expected
    ]
    for row in tables["interactions"]:
        assert row["rating"] is row["review"] is row["timestamp"] is None
    assert report["edges"] == {"train": 4, "val": 1, "test": 2}


def test_items_and_texts(release, tmp_path):
    report, tables = run(release, tmp_path)
    assert [(row["item_id"], row["title"]) for row in tables["items"]] == [
        ("0", "Zero"),
        ("1", "Item 1"),
        ("2", "Item 2"),
    ]
    assert tables["texts"][0] == {
        "user_id": "2",
        "item_id": "0",
        "split": "test",
        "title": "Zero",
        "user_profile": "Profile of 2",
        "item_profile": "Profile of item 0",
        "reference": "The user would enjoy it.",
    }
    assert report["texts"] == {"train": 0, "val": 0, "test": 3}
    assert report["text_pairs_in_train_edges"]["test"] == 1  # (2, 0)
    assert report["text_pairs_not_in_graph"]["test"] == 1  # (1, 1)


def test_lists_of_dicts_in_all_splits(release, tmp_path):
    write_pickle(release / "trn.pkl", [text(0, 1), text(1, 2)])
    write_pickle(release / "val.pkl", [text(1, 0)])
    write_pickle(release / "tst.pkl", [text(2, 2)])
    report, tables = run(release, tmp_path)
    assert [(row["user_id"], row["item_id"], row["split"]) for row in tables["texts"]] == [
        ("0", "1", "train"),
        ("1", "2", "train"),
        ("1", "0", "val"),
        ("2", "2", "test"),
    ]
    assert report["texts"] == {"train": 2, "val": 1, "test": 1}


def test_train_edges_from_para_dict_and_times_from_csv(release, tmp_path):
    (release / "total_trn.csv").unlink()
    write_para(release)
    write_csv(release, "tst", TEST, ["01 7, 2015", "12 31, 1999"])
    report, tables = run(release, tmp_path)
    train = [(row["user_id"], row["item_id"]) for row in tables["edges"] if row["split"] == "train"]
    assert train == [("0", "1"), ("0", "0"), ("1", "2"), ("2", "0")]  # user by user
    assert [row["timestamp"] for row in tables["interactions"]][-2:] == [1420588800, 946598400]
    assert report["edge_sources"]["train"] == "para_dict.pickle"
    assert report["edge_sources"]["test"] == "total_tst.csv"


def test_pairs_without_explanation_are_dropped_and_counted(release, tmp_path):
    rows = [text(0, 1), text(1, 1, explanation="  "), text(2, 0, explanation=None), text(2, 1, explanation="")]
    write_pickle(release / "tst.pkl", as_frame(rows))
    report, tables = run(release, tmp_path)
    assert len(tables["texts"]) == 1
    assert report["texts_without_explanation"] == {"test": 3}


def test_half_a_surrogate_pair_in_a_release_becomes_text(release, tmp_path):
    write_pickle(release / "tst.pkl", [text(0, 1, explanation="Fun \ud83d.", title="T\ude00")])
    _, tables = run(release, tmp_path)
    assert (tables["texts"][0]["reference"], tables["texts"][0]["title"]) == ("Fun \ufffd.", "T\ufffd")


def test_duplicates_are_counted_and_kept(release, tmp_path):
    write_csv(release, "val", [*VAL, VAL[0], TRAIN[0]])
    write_pickle(release / "tst.pkl", as_frame([text(0, 1), text(0, 1)]))
    report, tables = run(release, tmp_path)
    assert report["duplicate_edges"] == 2 and report["duplicate_text_pairs"] == 1
    assert len(tables["edges"]) == len(TRAIN) + len(TEST) + 3


def test_published_texts_are_compared_as_multisets(release, tmp_path):
    write_pickle(release / "tst_ref.pkl", ["The user would enjoy it."] * 4 + ["Another."])
    write_pickle(release / "tst_pred.pkl", ["p"] * 5)
    report, _ = run(release, tmp_path)
    assert report["published"] == {"predictions": 5, "references": 5, "references_not_in_test_texts": 2}


def edit_csv(content, folder):
    (folder / "total_val.csv").write_text(content, errors="surrogateescape")


def replace_texts(rows, folder):
    write_pickle(folder / "tst.pkl", rows)


def delete(name, folder):
    (folder / name).unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        (partial(delete, "total_val.csv"), r"total_val\.csv: no such file; .*'val_user_nb' in para_dict\.pickle"),
        (partial(delete, "tst.pkl"), r"no texts; a release has at least one of trn\.pkl, val\.pkl, tst\.pkl"),
        (partial(edit_csv, "user,thing\n0,1\n"), r"total_val\.csv: column 'item' is missing \(found: user, thing\)"),
        (partial(edit_csv, "user,item\n0,1\n-1,2\n"), r"total_val\.csv: line 3: user '-1' is negative"),
        (partial(edit_csv, "user,item\n0,x\n"), r"total_val\.csv: line 2: item 'x' is not a whole number"),
        (partial(edit_csv, "user,item\n0,1.5\n"), "line 2: item '1.5' is not a whole number"),
        (partial(edit_csv, "user,item\n0,inf\n"), "line 2: item 'inf' is not a whole number"),
        (partial(edit_csv, "user,item\n0,\n"), "line 2: item '' is not a whole number"),
        (partial(edit_csv, "user,item\n0,99999999999999999999\n"), "line 2: item '9+' is not below"),
        (partial(edit_csv, "user,item,Time\n0,1,yesterday\n"), "line 2: Time 'yesterday' is not of the form"),
        (partial(edit_csv, "user,item\n"), r"total_val\.csv: no edge of the val split"),
        (partial(edit_csv, ""), r"total_val\.csv: the file is empty"),
        (partial(edit_csv, "user,item\n0,1\n0,1,2,3\n"), r"total_val\.csv: not a table: line 3 has 4 fields and the"),
        (partial(edit_csv, "user,item\n0,1,2\n0,1,2\n"), r"total_val\.csv: not a table: line 2 has 3 fields"),
        (partial(edit_csv, "user,item\n\n0,1\n0\n"), r"total_val\.csv: not a table: line 4 has 1 fields"),
        (partial(edit_csv, "user,item,Time\n0,1,01 7, 2015\n"), "line 2 has 4 fields .*holds a comma stands in quotes"),
        (partial(edit_csv, 'user,item\n"0\n",1\n0,x\n'), "line 4: item 'x' is not a whole number"),
        (partial(edit_csv, 'user,item\n0,1\n"0,1\n0,1\n'), "not a table: the row of line 3: unexpected end of data"),
        (partial(edit_csv, 'user,item\n0,1\n"0"0,1\n'), "not a table: the row of line 3: ',' expected after"),
        (partial(edit_csv, "user;item\n0;1\n"), r"column 'user' is missing \(found: user;item\)"),
        (partial(edit_csv, "user,item,user\n0,1,2\n"), "column 'user' is there 2 times; keep one"),
        (partial(edit_csv, "\n\n"), "column 'user' is missing .found: none"),
        (partial(edit_csv, "user,item\n0,caf\udce9\n"), "not a table: not UTF-8"),
        (partial(replace_texts, [{"uid": 0, "iid": 1}]), r"tst\.pkl: column 'title' is missing"),
        (partial(replace_texts, [text(0, 1), text(-2, 1)]), r"tst\.pkl: row 1: uid '-2' is negative"),
        (partial(replace_texts, [text(0, 1) | {"uid": [2]}]), r"tst\.pkl: row 0: uid '\[2\]' is not a whole number"),
        (partial(replace_texts, [text(0, 1) | {"uid": True}]), r"row 0: uid 'True' is not a whole number"),
        (partial(replace_texts, [text(0, 1) | {"uid": 10**400}]), r"row 0: uid '10+…' is not a whole number"),
        (partial(replace_texts, [text(0, 1) | {"iid": 10**5000}]), "iid 'an integer of thousands of digits' is not a"),
        (partial(replace_texts, [text(0, 1) | {"title": ["a"]}]), r"tst\.pkl: row 0: title is list, not text"),
        (partial(replace_texts, [text(0, 1) | {"title": b"a"}]), r"tst\.pkl: row 0: title is bytes, not text"),
        (
            partial(replace_texts, as_frame([text(0, 1)]).rename(columns={"title": "uid"}).assign(title="a")),
            r"tst\.pkl: column 'uid' is there 2 times; keep one",
        ),
        (partial(replace_texts, [text(0, 1) | {"title": 7}]), r"tst\.pkl: row 0: title is int, not text"),
        (partial(replace_texts, {"uid": [1]}), r"tst\.pkl: neither a DataFrame nor a list of dicts but dict"),
        (partial(replace_texts, [text(0, 1, explanation=None)]), "no pair has an explanation"),
        (partial(write_para, user_num=2), r"total_trn\.csv: line 2: user '2' is not below 2"),
        (partial(write_para, item_num=2), r"total_trn\.csv: line 5: item '2' is not below 2"),
        (partial(write_para, user_num=None), r"para_dict\.pickle: 'user_num' is not a whole number"),
    ],
)
def test_damage_is_named_and_nothing_is_written(release, tmp_path, damage, message):
    damage(folder=release)
    out = tmp_path / "out"
    with pytest.raises(DataError, match=message) as caught:
        run(release, out)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"trn_user_nb": {0: [1]}}, "'trn_user_nb' is not a list of lists"),
        ({"trn_user_nb": [[0], [1], [2], [0]]}, "'trn_user_nb' has 4 users and user_num is 3"),
        ({"trn_user_nb": [[0], [1, 3]]}, "row 2: trn_user_nb '3' is not below 3"),
        ({"trn_user_nb": [[0], [-1]]}, "row 1: trn_user_nb '-1' is negative"),
    ],
)
def test_damaged_neighbour_lists_are_named(release, tmp_path, changes, message):
    (release / "total_trn.csv").unlink()
    write_para(release, **changes)
    with pytest.raises(DataError, match=message):
        run(release, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        'user,item,Time\n1,0,"01 7, 2015"\n0,1,"12 31, 1999"\n',
        '"user","item","Time","note"\r\n"1","0","01 7, 2015","a, ""b""\nc"\r\n\r\n0,1,"12 31, 1999",\r\n',
        '\ufeffuser,item,Time\n1,0,"01 7, 2015",\n0,1,"12 31, 1999",,\n',
        ',user,item,Time\n0,1,0,"01 7, 2015"\n1,0,1,"12 31, 1999"',
    ],
    ids=["as-released", "quotes-and-line-ends", "blank-fields-behind", "an-index"],
)
def test_edges_are_read_as_csv_means_them(release, tmp_path, content):
    (release / "total_val.csv").write_bytes(content.encode())
    _, tables = run(release, tmp_path)
    rows = tables["interactions"][len(TRAIN) : -len(TEST)]
    assert [(row["user_id"], row["item_id"]) for row in rows] == [("1", "0"), ("0", "1")]
    assert [row["timestamp"] for row in rows] == [1420588800, 946598400]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="none: no such folder"):
        run(tmp_path / "none", tmp_path)


def test_embeddings_come_back_as_float32(tmp_path):
    both = torch.nn.Parameter(torch.arange(20.0).reshape(10, 2))
    write_pickle(tmp_path / "user_emb.pkl", both[:6])  # views, as released: each file carries the whole storage
    write_pickle(tmp_path / "item_emb.pkl", both[6:])
    users, items = load_published_embeddings(tmp_path)
    assert users.dtype == items.dtype == np.float32
    assert np.array_equal(np.concatenate([users, items]), np.arange(20, dtype=np.float32).reshape(10, 2))
    assert users.flags.c_contiguous and users.base is None


@pytest.mark.parametrize(
    "value, message",
    [
        ([1.0], "holds no matrix of numbers but list"),
        (torch.ones(3), "holds no matrix"),
        (torch.full((2, 2), float("nan")), "not finite"),
        (torch.ones(2, 3), "user_emb.pkl is 2 wide and item_emb.pkl 3"),
    ],
)
def test_wrong_embeddings_are_named(tmp_path, value, message):
    write_pickle(tmp_path / "user_emb.pkl", torch.ones(4, 2))
    write_pickle(tmp_path / "item_emb.pkl", value)
    with pytest.raises(DataError, match=message):
        load_published_embeddings(tmp_path)


def test_missing_embeddings_are_named(tmp_path):
    with pytest.raises(DataError, match=r"user_emb\.pkl: no such file"):
        load_published_embeddings(tmp_path)


@pytest.mark.parametrize(
    "name, users, items, edges, leaked, strange",
    [
        ("amazon", 15349, 15247, {"train": 288671, "val": 36084, "test": 36084}, 2376, 0),
        ("yelp", 15962, 14085, {"train": 314944, "val": 39368, "test": 39368}, 2434, 1562),
    ],
)
def test_released_data(shared, tmp_path, name, users, items, edges, leaked, strange):
    report, tables = run(shared / "data/xrec" / name, tmp_path)
    assert (report["users"], report["items"], report["edges"]) == (users, items, edges)
    assert len(tables["interactions"]) == len(tables["edges"]) == sum(edges.values())
    assert len({row["user_id"] for row in tables["edges"]}) == users
    assert report["duplicate_edges"] == 0
    train = {(row["user_id"], row["item_id"]) for row in tables["edges"] if row["split"] == "train"}
    pairs = [(row["user_id"], row["item_id"]) for row in tables["texts"]]
    assert len(pairs) == 3000
    assert sum(pair in train for pair in pairs) == report["text_pairs_in_train_edges"]["test"] == leaked
    assert report["published"]["references_not_in_test_texts"] == strange
    timed = sum(row["timestamp"] is not None for row in tables["interactions"])
    assert timed == (72168 if name == "amazon" else 0)
