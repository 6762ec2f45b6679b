"""The published tables: every row once, typed, and files that are wrong are named."""

import shutil

import pytest

from xrec_repro.errors import DataError
from xrec_repro.published import (
    check_published_names,
    load_published_table1,
    load_published_table2,
    load_published_table3,
    published_number,
    study_name,
)


def test_published_table1_has_every_row_once(root):
    rows = load_published_table1(root / "resources")
    keys = [(row.dataset, row.model, row.reported_by) for row in rows]
    assert len(keys) == len(set(keys)) == 27
    assert [row.reported_by for row in rows] == ["xrec"] * 21 + ["study"] * 6
    few = {(row.dataset, row.model) for row in rows if row.n_test == 300}
    assert few == {(d, m) for d in ("Yelp", "Google-reviews") for m in ("XRec", "XRec (w/o prof.)")}
    first = rows[0]
    assert (first.model, first.values["bleurt_std"], first.printed["bleurt_std"]) == ("Att2Seq", 0.299, "0.299")
    assert "llamascore" not in first.values


def test_published_tables_2_and_3_are_typed(root):
    rows = load_published_table2(root / "resources")
    assert [row.n_test for row in rows] == [3000, 3000, 3000, 300, 3000, 300]
    runs = load_published_table3(root / "resources")
    untrained = [run for run in runs if run.train_seconds is None]
    assert [run.experiment for run in untrained] == ["XRec w/o embeddings"]
    assert untrained[0].train_gpu is None
    assert sum(run.co2_kg for run in runs) == pytest.approx(35.82, abs=1e-9)
    assert sum(run.train_early_stopped for run in runs) == 7


def test_the_studys_three_tables_agree_on_their_names(root):
    table2 = {row.model for row in load_published_table2(root / "resources")}
    table1 = {study_name(row.model) for row in load_published_table1(root / "resources") if row.reported_by == "study"}
    table3 = {study_name(run.experiment) for run in load_published_table3(root / "resources")}
    assert len(table2) == 6
    assert table1 == {"XRec", "XRec w/o profile"}
    assert table3 == table2
    assert {study_name(name) for name in table2} == table2


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("xrec_table1.csv", "77.65", "77.66", r"study_table1\.csv: Amazon-books/PETER differs from xrec_table1\.csv"),
        ("xrec_table1.csv", "77.65", "many", r"xrec_table1\.csv: line 4: gptscore is 'many', not a number"),
        ("xrec_table1.csv", "dataset,", "data,", "column 'dataset' is missing"),
        ("study_table1.csv", "12.56,,0.1691", "12.56,0.1691", r"line 2: not as many cells"),
    ],
)
def test_published_files_that_are_wrong_are_named(root, tmp_path, name, old, new, message):
    shutil.copytree(root / "resources" / "published", tmp_path / "published")
    file = tmp_path / "published" / name
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        load_published_table1(tmp_path)


def test_unknown_names_of_data_sets_are_refused(root):
    rows = load_published_table1(root / "resources")
    check_published_names({"a": "Yelp", "b": None}, rows)
    with pytest.raises(DataError, match=r"datasets\.a\.published_as: .*'yelp'; known: Amazon-books, Yelp, Google-rev"):
        check_published_names({"a": "yelp"}, rows)


def test_stated_numbers_are_read_by_key(root):
    assert published_number(root / "resources", "emissions_total_kg") == 35.84
    assert published_number(root / "resources", "carbon_intensity") == 0.22
    with pytest.raises(DataError, match=r"statements\.csv: 'emissions' is not stated"):
        published_number(root / "resources", "emissions")
    with pytest.raises(DataError, match=r"statements\.csv: line \d+: value is 'Llama-3\.1-8B-instruct', not a number"):
        published_number(root / "resources", "judge_model")
