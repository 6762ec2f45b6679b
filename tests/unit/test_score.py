"""Scoring of files: the kinds of files, the stages of the workflow, and what is said about bad input."""

import json
import logging
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xrec_repro.config import load_config
from xrec_repro.contracts import EXPLANATIONS, TRUTH
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.io import read_json, write_json, write_table
from xrec_repro.metrics.base import Metric, Scored
from xrec_repro.metrics.columns import Column
from xrec_repro.metrics.score import format_scores, merge_scores, read_texts, score_explanations, score_files

TEXTS = ["a good book", "", "naïve – café | x"]
PICKLES = Path(__file__).parents[1] / "data/pickles"
CONFIG = {"use": ["usr"], "usr": {}}


def put(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def explanations(path: Path, predictions: list[str | None], ids: list[str] | None = None) -> Path:
    rows = [
        {
            "example_id": ids[i] if ids else f"e{i}",
            "user_id": "u",
            "item_id": "i",
            "reference": "r",
            "prediction": prediction,
            "prompt_tokens": 1,
            "new_tokens": 1,
            "finish_reason": "eos",
        }
        for i, prediction in enumerate(predictions)
    ]
    write_table(path, rows, EXPLANATIONS)
    return path


def part(folder: Path, name: str, values: dict[str, float]) -> tuple[Path, Path]:
    scores, stated = folder / f"{name}.parquet", folder / f"{name}.json"
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"example_id": list(values), name: list(values.values())}), scores)
    cell = {"mean": 0.5, "std": None, "n": len(values), "signature": f"{name}|v:1", "missing": 0, "counts": {}}
    write_json(stated, {name: cell})
    return scores, stated


def truths(path: Path, reasons: dict[tuple[str, str], list[str] | None]) -> Path:
    rows = [
        {"user_id": user, "item_id": item, "reasons": found, "named": [], "in_profiles": []}
        for (user, item), found in reasons.items()
    ]
    write_table(path, rows, TRUTH)
    return path


@dataclass(frozen=True, kw_only=True)
class Lengths(Metric):
    """Length of the prediction; an empty one cannot be scored."""

    name: ClassVar[str] = "lengths"
    columns: ClassVar[dict[str, Column]] = {"lengths": Column("Lengths")}
    may_miss: ClassVar[bool] = True

    def _columns(self, predictions, references):
        return {"lengths": np.array([len(p) or np.nan for p in predictions])}, {}


@pytest.fixture
def lengths(monkeypatch) -> str:
    """A metric that may miss, known by name."""
    monkeypatch.setattr("xrec_repro.metrics.score.build_metric", lambda *_: Lengths())
    return "lengths"


def test_txt_has_one_text_a_line_and_keeps_empty_ones(tmp_path):
    assert read_texts(put(tmp_path / "p.txt", "\n".join(TEXTS) + "\n")) == TEXTS
    (tmp_path / "w.txt").write_bytes(b"a\r\nb\rc\r\n")
    assert read_texts(tmp_path / "w.txt") == ["a", "b\rc"]


@pytest.mark.parametrize("key", ["prediction", "reference", "text", None])
def test_jsonl_holds_objects_or_strings(tmp_path, key):
    lines = [json.dumps(text if key is None else {"id": 1, key: text}) for text in TEXTS]
    assert read_texts(put(tmp_path / "p.jsonl", "\n".join(lines) + "\n\n")) == TEXTS


def test_the_role_decides_where_a_row_has_both(tmp_path):
    jsonl = put(tmp_path / "p.jsonl", '{"reference": "r", "prediction": "p"}\n')
    pq.write_table(pa.table({"reference": ["r"], "prediction": ["p"]}), tmp_path / "p.parquet")
    for path in (jsonl, tmp_path / "p.parquet"):
        assert read_texts(path) == read_texts(path, "prediction") == ["p"]
        assert read_texts(path, "reference") == ["r"]


def test_a_column_of_the_other_role_is_not_taken(tmp_path):
    pq.write_table(pa.table({"prediction": ["p"]}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"p\.parquet: has none of reference, text \(found: prediction\)"):
        read_texts(tmp_path / "p.parquet", "reference")


def test_pickle_may_hold_a_list(tmp_path):
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(TEXTS))
    assert read_texts(tmp_path / "p.pkl") == TEXTS


def test_released_frame_gives_its_explanations(shared):
    folder = shared / "data" / "xrec" / "amazon"
    frame, references = read_texts(folder / "tst.pkl", "reference"), read_texts(folder / "tst_ref.pkl", "reference")
    assert sorted(frame) == sorted(references)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"", "the file is empty"),
        ("p.txt", b"\xff\xfe", "not UTF-8 at byte 0; convert it"),
        ("p.doc", b"a", r"unknown kind of file '\.doc'; give a \.txt"),
        ("p.csv", b"a", "has none of prediction, reference, text .found: a."),
        ("p.csv", b"text\n1,2", "line 2 has 2 fields, the header 1"),
        ("p.jsonl", b'"a"\n{', "line 2 is not JSON"),
        ("p.jsonl", b'{"explanation": "a"}', r"line 1: has none of prediction, reference, text .*found: explanation"),
        ("p.jsonl", b'"a"\n{"text": 3}', "row 2 is int, not a text"),
        ("p.jsonl", b"\n\n", "there is no text in it"),
        ("p.jsonl", b'"a"\n' + b"[" * 40_000, "line 2 is nested too deeply; write one value a line"),
        ("p.jsonl", b'{"text": "a", "text": "b"}', "line 1: text is there 2 times; keep the one with the texts"),
        ("p.jsonl", b'"a"\n"\xe9"', "not UTF-8 at byte 5; convert it"),
        ("p.jsonl", b'"a\x00"', "line 1 is not JSON"),
        ("p.jsonl", b'["a"]', "row 1 is list, not a text"),
        ("p.jsonl", b'{"text": {"a": 1}}', "row 1 is dict, not a text"),
        ("p.parquet", bytes(400), "not a whole Parquet file"),
        ("p.parquet", b"PAR1", "not a whole Parquet file"),
        ("p.pkl", pickle.dumps({"a": 1}), "holds dict; a list of texts"),
        ("p.pkl", pickle.dumps([]), "there is no text in it"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_texts(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def twice(kind):
    return pa.table([pa.array(["a"]), pa.array(["b"])], names=[kind, kind])


NOT_UTF8 = pa.Array.from_buffers(pa.string(), 1, [None, *map(pa.py_buffer, (np.int32([0, 1]).tobytes(), b"\xe9"))])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (twice("prediction"), "prediction is there 2 times; keep the one with the texts"),
        (twice("text"), "text is there 2 times"),
        (pa.table({}), r"has none of prediction, reference, text \(found: none\)"),
        (pa.table({"prediction": [1, 2]}), "column 'prediction' is int64, not text; write it as strings"),
        (pa.table({"prediction": [b"a"]}), "column 'prediction' is binary, not text"),
        (pa.table({"prediction": [["a"]]}), "column 'prediction' is list<.*string>, not text"),
        (pa.table({"prediction": [{"a": "b"}]}), "column 'prediction' is struct<a: string>, not text"),
        (pa.table({"prediction": pa.array([None])}), "column 'prediction' is null, not text"),
        (pa.table([NOT_UTF8], ["text"]), "column 'text' holds a text that is not UTF-8"),
    ],
    ids=["twice", "text-twice", "no-columns", "numbers", "bytes", "lists", "structs", "nulls", "not-utf8"],
)
def test_tables_without_one_column_of_texts_are_named(tmp_path, table, message):
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(DataError, match=message):
        read_texts(tmp_path / "p.parquet")


def test_texts_of_any_string_type_and_a_byte_order_mark_are_read(tmp_path):
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        column = pa.array(["a", "b", "a"]).cast(kind)
        pq.write_table(pa.table({"prediction": column, "twice": column}), tmp_path / "p.parquet")
        assert read_texts(tmp_path / "p.parquet") == ["a", "b", "a"]
    (tmp_path / "p.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n')
    assert read_texts(tmp_path / "p.jsonl") == ["a"]


def test_a_damaged_page_of_a_column_is_named(tmp_path):
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"text": [f"text {row}" for row in range(9999)]}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[200:5000] = bytes(4800)
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a whole Parquet file"):
        read_texts(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (pd.DataFrame([["a", "b"]], columns=["prediction", "prediction"]), "prediction is there 2 times"),
        (pd.DataFrame({"prediction": [1]}), "row 1 is int, not a text"),
        (pd.DataFrame({"prediction": [["a"]]}), "row 1 is list, not a text"),
        (pd.DataFrame({"prediction": ["a", None]}), "row 2 is (float|NoneType), not a text"),
        (pd.DataFrame({"prediction": [b"a"]}), "row 1 is bytes, not a text"),
        (pd.DataFrame(), r"has none of .*\(found: none\)"),
        (pd.Series(["a"]), "holds Series; a list of texts or a DataFrame is needed"),
        (["a", ["b"]], "row 2 is list, not a text"),
    ],
)
def test_frames_without_one_column_of_texts_are_named(tmp_path, value, message):
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(DataError, match=message):
        read_texts(tmp_path / "p.pkl", "prediction")


@pytest.mark.parametrize("file", sorted(PICKLES.glob("*-texts.pkl")), ids=lambda file: file.stem)
def test_frames_of_pandas_1_2_and_3_are_read(file):
    assert read_texts(file) == ["the cafe is quiet", "cr\xe8me br\xfbl\xe9e, \u597d", ""]


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.txt: no such file; give a"):
        read_texts(tmp_path / "absent.txt")


def test_null_text_in_a_column_is_named(tmp_path):
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match="row 2 is NoneType, not a text"):
        read_texts(tmp_path / "p.parquet")


def test_score_files_gives_mean_std_n_and_signature(tmp_path):
    predictions, references = put(tmp_path / "p.txt", "a\na\nb\nc\n"), put(tmp_path / "r.txt", "x\nx\nx\nx\n")
    rest = {"n": 4, "signature": "usr|tokens:whitespace|v:1", "missing": 0}
    rest["counts"] = {"empty_predictions": 0}
    assert score_files(predictions, references, ["usr"], CONFIG, "cpu") == {"usr": {"mean": 0.75, "std": None, **rest}}


def test_score_files_takes_both_columns_from_one_file(tmp_path):
    path = explanations(tmp_path / "e.parquet", ["a", "a"])
    assert score_files(path, path, ["usr"], CONFIG)["usr"]["mean"] == 0.5


@dataclass(frozen=True, kw_only=True)
class Replying(Metric):
    """A judge that replies with the prediction and reads it as a number."""

    name: ClassVar[str] = "gptscore"
    may_miss: ClassVar[bool] = True

    def _columns(self, predictions, references):
        numbers = [float(text) if text.isdigit() else np.nan for text in predictions]
        return Scored({self.name: np.array(numbers)}, {}, {}, {"reply": list(predictions)})


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_the_replies_of_a_judge_are_written_beside_its_scores(tmp_path, monkeypatch, caplog, ending):
    monkeypatch.setattr("xrec_repro.metrics.score.build_metric", lambda *_: Replying())
    texts = ["85", 'no,\r"ok"\n', "", "7\r"]
    path, out = explanations(tmp_path / "e.parquet", texts), tmp_path / f"scores{ending}"
    with caplog.at_level(logging.WARNING, logger="xrec_repro"):
        score_files(path, path, ["gptscore"], CONFIG, "cpu", out)
    found = pd.read_parquet(out) if ending == ".parquet" else pd.read_csv(out, keep_default_na=False)
    assert found["gptscore_reply"].tolist() == texts and found["gptscore"].tolist()[0] in (85, "85.0")
    assert f"gptscore: 3 of 4 examples have no score; the replies: {out}, column gptscore_reply" in caplog.text
    explanations(path, texts[1:3])
    failed = score_files(path, path, ["gptscore"], CONFIG, "cpu", out)["gptscore"]["failed"]
    assert failed.startswith("gptscore: not one of 2 examples could be scored; look at a few replies: ")
    assert failed.endswith(f"{out}, column gptscore_reply")
    assert list(pd.read_parquet(out) if ending == ".parquet" else pd.read_csv(out)) == ["example_id", "gptscore_reply"]
    reason = score_files(path, path, ["gptscore"], CONFIG)["gptscore"]["failed"]
    assert reason.endswith("look at a few replies: --out FILE writes them")


def test_score_files_of_different_lengths_names_both(tmp_path):
    predictions, references = put(tmp_path / "p.txt", "a\nb\n"), put(tmp_path / "r.txt", "x\n")
    with pytest.raises(DataError, match=r"p\.txt has 2 texts but .*r\.txt has 1; give one reference for each"):
        score_files(predictions, references, ["usr"], CONFIG)


def test_unknown_metric_is_refused_before_any_file_is_read(tmp_path):
    with pytest.raises(ConfigError, match="'meteor' is not a metric; known are"):
        score_files(tmp_path / "absent.txt", tmp_path / "absent.txt", ["meteor"], CONFIG)
    with pytest.raises(ConfigError, match="none chosen"):
        score_files(tmp_path / "absent.txt", tmp_path / "absent.txt", [], CONFIG)


def test_released_predictions_score_with_minilm(shared, tmp_path):
    folder = shared / "data" / "xrec" / "yelp"
    files = []
    for role, short in (("prediction", "pred"), ("reference", "ref")):
        texts = read_texts(folder / f"tst_{short}.pkl", role)[:12]
        files.append(put(tmp_path / f"{role}.jsonl", "\n".join(map(json.dumps, texts))))
    bertscore = {"model": "minilm", "revision": None, "layer": 6, "idf": False, "rescale": False, "batch_size": 8}
    result = score_files(*files, ["bertscore", "usr"], {"usr": {}, "bertscore": bertscore}, "cpu")
    assert list(result) == ["bertscore_p", "bertscore_r", "bertscore_f1", "usr"]
    assert 0.4 < result["bertscore_f1"]["mean"] < 0.8
    assert result["bertscore_f1"]["n"] == 12


def test_a_stage_writes_its_columns_unrounded(tmp_path):
    path = explanations(tmp_path / "e.parquet", ["a", "b", "a"], ["x", "y", "z"])
    score_explanations(path, "usr", {}, tmp_path / "s.parquet", tmp_path / "s.json", "cpu")
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.to_pydict() == {"example_id": ["x", "y", "z"], "usr": [1.0, 1.0, 0.0]}
    assert table.schema.field("usr").type == pa.float64()
    assert read_json(tmp_path / "s.json")["usr"]["mean"] == pytest.approx(2 / 3, abs=1e-15)


def test_an_example_without_a_score_is_nan_in_the_file_and_missing_in_the_summary(tmp_path, lengths):
    path = explanations(tmp_path / "e.parquet", ["abc", "", "a"])
    score_explanations(path, lengths, {}, tmp_path / "s.parquet", tmp_path / "s.json")
    column = pq.read_table(tmp_path / "s.parquet")[lengths]
    assert column.null_count == 0
    np.testing.assert_array_equal(column.to_numpy(), [3.0, np.nan, 1.0])
    cell = read_json(tmp_path / "s.json")[lengths]
    assert (cell["mean"], cell["std"], cell["n"], cell["missing"]) == (2.0, 1.0, 2, 1)


def test_true_reasons_are_those_of_the_pair(tmp_path):
    rows = [("u1", "i1", "dry humour"), ("u1", "i2", "epic battles"), ("u2", "i1", "witty banter")]
    table = [
        {"example_id": f"e{i}", "user_id": user, "item_id": item, "reference": "r", "prediction": prediction}
        for i, (user, item, prediction) in enumerate(rows)
    ]
    write_table(tmp_path / "e.parquet", table, EXPLANATIONS)
    reasons = {("u2", "i1"): ["witty banter"], ("u1", "i2"): ["dry humour"], ("u1", "i1"): ["dry humour"]}
    truth = truths(tmp_path / "truth.parquet", reasons)
    outputs = tmp_path / "s.parquet", tmp_path / "s.json"
    score_explanations(tmp_path / "e.parquet", "faithfulness", {}, *outputs, truth_parquet=truth)
    assert pq.read_table(outputs[0])["faithfulness_f1"].to_pylist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("reasons", [{}, {("u", "i"): None}, {("u", "i"): []}, {("i", "u"): ["dry humour"]}])
def test_a_pair_without_true_reasons_is_named(tmp_path, reasons):
    path, truth = explanations(tmp_path / "e.parquet", ["a"]), truths(tmp_path / "truth.parquet", reasons)
    outputs = tmp_path / "s.parquet", tmp_path / "s.json"
    with pytest.raises(DataError, match=r"truth\.parquet: it has no reason why user u chose item i; generate"):
        score_explanations(path, "faithfulness", {}, *outputs, truth_parquet=truth)


def test_true_reasons_are_not_read_by_a_metric_that_needs_none(tmp_path):
    path = explanations(tmp_path / "e.parquet", ["a"])
    absent = tmp_path / "absent.parquet"
    score_explanations(path, "usr", {}, tmp_path / "s.parquet", tmp_path / "s.json", truth_parquet=absent)
    with pytest.raises(DataError, match=r"absent\.parquet: no such file"):
        score_explanations(path, "faithfulness", {}, tmp_path / "f.parquet", tmp_path / "f.json", truth_parquet=absent)


def test_true_reasons_that_a_data_set_has_not_are_said_to_be_missing(tmp_path):
    path = explanations(tmp_path / "e.parquet", ["a"])
    with pytest.raises(DataError, match=r"only a glassbox data set has; leave this metric out of metrics\.use"):
        score_explanations(path, "faithfulness", {}, tmp_path / "s.parquet", tmp_path / "s.json")
    assert "only a glassbox data set has" in score_files(path, path, ["faithfulness"], {})["faithfulness"]["failed"]


@pytest.mark.parametrize(
    ("predictions", "ids", "message"),
    [
        ([], None, "there is no explanation in it"),
        (["a", None], None, r"row 2 \(example e1\) has no prediction"),
        (["a", "b"], ["x", "x"], "example x occurs twice"),
    ],
)
def test_explanations_that_cannot_be_scored_are_refused(tmp_path, predictions, ids, message):
    path = explanations(tmp_path / "e.parquet", predictions, ids)
    with pytest.raises(DataError, match=message):
        score_explanations(path, "usr", {}, tmp_path / "s.parquet", tmp_path / "s.json")
    assert not (tmp_path / "s.parquet").exists()


def test_explanations_without_a_column_are_refused(tmp_path):
    pq.write_table(pa.table({"example_id": ["x"], "prediction": ["a"]}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match="column 'user_id' is missing"):
        score_explanations(tmp_path / "e.parquet", "usr", {}, tmp_path / "s.parquet", tmp_path / "s.json")


def test_merge_joins_on_the_example_not_on_the_row(tmp_path):
    parts = [part(tmp_path, "one", {"x": 1.0, "y": 2.0}), part(tmp_path, "two", {"y": 20.0, "x": 10.0})]
    merge_scores(parts, tmp_path / "scores.parquet", tmp_path / "summary.json")
    merged = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    assert merged == {"example_id": ["x", "y"], "one": [1.0, 2.0], "two": [10.0, 20.0]}
    summary = read_json(tmp_path / "summary.json")
    assert list(summary) == ["one", "two"]
    assert summary["two"]["signature"] == "two|v:1"


def test_merge_keeps_what_is_missing(tmp_path):
    parts = [part(tmp_path, "one", {"x": math.nan, "y": 2.0}), part(tmp_path, "two", {"y": 20.0, "x": 10.0})]
    merge_scores(parts, tmp_path / "scores.parquet", tmp_path / "summary.json")
    column = pq.read_table(tmp_path / "scores.parquet")["one"]
    assert column.null_count == 0
    np.testing.assert_array_equal(column.to_numpy(), [np.nan, 2.0])


def test_merge_refuses_other_examples(tmp_path):
    parts = [part(tmp_path, "one", {"x": 1.0, "y": 2.0}), part(tmp_path, "two", {"x": 1.0})]
    with pytest.raises(DataError, match=r"two\.parquet: not of the same examples as .*one\.parquet \(y is in one"):
        merge_scores(parts, tmp_path / "scores.parquet", tmp_path / "summary.json")


def test_merge_refuses_the_same_column_twice(tmp_path):
    parts = [part(tmp_path, "one", {"x": 1.0}), part(tmp_path / "again", "one", {"x": 1.0})]
    with pytest.raises(DataError, match="column 'one' comes from another metric too"):
        merge_scores(parts, tmp_path / "scores.parquet", tmp_path / "summary.json")


def test_merge_refuses_a_summary_of_other_scores(tmp_path):
    one, two = part(tmp_path, "one", {"x": 1.0}), part(tmp_path, "two", {"x": 1.0})
    with pytest.raises(DataError, match=r"two\.json: its metrics are not the columns of .*one\.parquet"):
        merge_scores([(one[0], two[1])], tmp_path / "scores.parquet", tmp_path / "summary.json")


def test_merge_needs_a_part_and_its_files(tmp_path):
    with pytest.raises(DataError, match="no metric to merge"):
        merge_scores([], tmp_path / "scores.parquet", tmp_path / "summary.json")
    with pytest.raises(DataError, match=r"absent\.parquet: no such file; score the metric first"):
        merge_scores([(tmp_path / "absent.parquet", "x.json")], tmp_path / "s.parquet", tmp_path / "s.json")


@pytest.mark.parametrize("kind", ["jsonl", "pkl"])
def test_half_a_surrogate_pair_is_text_that_every_metric_can_read(tmp_path, kind):
    texts = ["cosy \ud83d garden", "dry humour"]
    path = tmp_path / f"texts.{kind}"
    if kind == "pkl":
        path.write_bytes(pickle.dumps(texts))
    else:
        path.write_text("".join(json.dumps({"prediction": text}) + "\n" for text in texts))
    assert read_texts(path, "prediction") == ["cosy \ufffd garden", "dry humour"]
    names = ["bleu", "rouge", "distinct", "usr", "bertscore"]
    found = score_files(path, put(tmp_path / "r.txt", "cosy garden\ndry humour\n"), names, _defaults(), "cpu")
    assert found["rouge_1"]["mean"] == 1 and 0.5 < found["bertscore_f1"]["mean"] < 1.0001


def test_a_parquet_column_that_is_not_utf8_is_named(tmp_path):
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\3\0\0\0"), pa.py_buffer(b"\xed\xa0\xbd"))
    pq.write_table(pa.table({"prediction": broken}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"p\.parquet: column 'prediction' holds a text that is not UTF-8"):
        read_texts(tmp_path / "p.parquet", "prediction")


def test_texts_that_a_metric_cannot_read_whole_stand_in_its_line(tmp_path):
    long = put(tmp_path / "p.txt", "quiet music " * 400 + "\n\u4e2d\u5c0f\n")
    short = put(tmp_path / "r.txt", "music\n\u4e2d\u5c0f\n")
    lines = format_scores(score_files(long, short, ["bertscore", "rouge", "usr"], _defaults(), "cpu")).split("\n")
    assert all("n 2, truncated predictions 1)" in line for line in lines[:3])
    assert all("n 2, wordless predictions 1, wordless references 1)" in line for line in lines[3:5])
    assert "(std -, n 2)" in lines[5]


def _defaults():
    return load_config(Path(__file__).parents[2] / "config/config.yaml")["metrics"]


def test_format_aligns_and_prints_no_std_where_there_is_none():
    result = {
        "bertscore_f1": {
            "mean": -0.51239,
            "std": 0.1,
            "n": 30,
            "signature": "bertscore|v:1",
            "missing": 2,
            "counts": {"truncated_predictions": 4, "empty_references": 0, "corpus": 3},
        },
        "usr": {"mean": 1.0, "std": None, "n": 3000, "signature": "usr|v:1", "missing": 0, "counts": {}},
    }
    assert format_scores(result).split("\n") == [
        "bertscore_f1  -0.5124  (std 0.1000, n 30, missing 2, truncated predictions 4)  bertscore|v:1",
        "usr            1.0000  (std -, n 3000)                                         usr|v:1",
    ]
    assert format_scores({}) == ""
