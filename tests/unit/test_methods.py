"""Methods: found by name, driven by one driver, and the texts of a file as one of them."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.unit.conftest import make_examples
from xrec_repro.contracts import EXPLANATIONS, TRAINING
from xrec_repro.errors import ConfigError, DataError, ModelError
from xrec_repro.io import read_json, read_table
from xrec_repro.methods import METHODS
from xrec_repro.methods.base import Fitted, Method, Run, Settings, Written
from xrec_repro.methods.driver import fit, load_fitted, make_method, write_explanations

SETTINGS = {"subset": 1.0, "subset_seed": 42, "batch_size": 4}


@dataclass(frozen=True, kw_only=True)
class Repeats(Settings):
    times: int = 2


class Echo(Method):
    """Writes a word that training kept, some times."""

    Settings = Repeats
    trained = True
    answer = staticmethod(lambda batch, text: [Written(text, rating=3.0) for _ in batch])

    def fit(self, examples):
        words = [e.reference.split()[0] for e in examples if e.split == "train"]
        assert all(e.split != "test" for e in examples)
        curve = [{"step": 1, "examples": len(words), "loss": 0.5}]
        return Fitted(tensors={"n": np.array([len(words)])}, facts={"word": words[0]}, curve=curve, report={"n": 1})

    def load(self, fitted):
        self.text = " ".join([fitted.facts["word"]] * self.settings.times)
        assert int(fitted.tensors["n"]) > 0

    def write(self, batch):
        return self.answer(batch, self.text)


def training():
    return [replace(e, split="train" if row < 7 else "test") for row, e in enumerate(make_examples(9))]


def explain(method, rows, folder, **options):
    report = write_explanations(method, rows, SETTINGS, folder / "partial", folder / "out.parquet", **options)
    return report, pq.read_table(folder / "out.parquet").to_pylist()


def test_what_training_leaves_is_all_that_writing_needs(tmp_path):
    run = Run(seed=1, checkpoint=tmp_path / "checkpoint")
    for name in ("checkpoint", "checkpoint.second"):  # of two trainings in a row
        (tmp_path / name).touch()
    assert fit(Echo(Repeats(), run), training(), tmp_path / "method") == {"n": 1}
    assert not list(tmp_path.glob("checkpoint*"))
    assert read_json(tmp_path / "method/method.json").keys() == {"word"}
    assert read_table(tmp_path / "method/training.parquet", TRAINING).num_rows == 1
    method = Echo(Repeats(times=3), run)
    method.load(load_fitted(tmp_path / "method"))
    report, rows = explain(method, make_examples(9), tmp_path)
    assert report == {"explanations": 9, "test_examples": 9, "finish_reasons": {}}
    assert [row["example_id"] for row in rows] == [e.example_id for e in make_examples(9)]
    assert {row["rating"] for row in rows} == {3.0} and {row["finish_reason"] for row in rows} == {None}
    assert all(len(set(row["prediction"].split())) == 1 and len(row["prediction"].split()) == 3 for row in rows)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda batch, text: [Written(text)], "wrote 1 texts for a batch of 4"),
        (lambda batch, text: [Written(None) for _ in batch], "wrote None, which is no text"),
        (lambda batch, text: [Written(text, rating=float("nan")) for _ in batch], "predicts a rating of nan"),
    ],
)
def test_a_method_that_does_not_do_its_part_is_told(tmp_path, answer, message):
    method = Echo(Repeats(), Run(seed=1))
    method.text, method.answer = "word", answer
    with pytest.raises(ModelError, match=message):
        explain(method, make_examples(9), tmp_path)


def test_a_stream_that_leaves_examples_out_or_tensors_that_are_not_finite_are_told(tmp_path):
    method = Echo(Repeats(), Run(seed=1))
    method.text = "word"
    method.stream = lambda batches, done: iter([])
    with pytest.raises(ModelError, match=r"wrote no text of 9 of 9 examples: \['e0', 'e1', 'e2'\]"):
        explain(method, make_examples(9), tmp_path)
    method.fit = lambda seen: Fitted(tensors={"w": np.array([1.0, np.inf])})
    with pytest.raises(ModelError, match="w is not finite after training"):
        fit(method, training(), tmp_path / "method")


@pytest.mark.parametrize(("need", "name"), [("ratings", "rating"), ("features", "feature")])
def test_what_a_method_needs_every_example_has(tmp_path, need, name):
    method = type("Needy", (Echo,), {"needs": frozenset({need})})(Repeats(), Run(seed=1))
    with pytest.raises(DataError, match=f"7 of 7 have no {name}, which the method needs"):
        fit(method, training(), tmp_path)


def test_kinds_are_found_and_what_is_none_is_named(tmp_path, monkeypatch):
    assert {"xrec", "predictions", "att2seq", "nrt", "peter", "peter_plus", "pepler"} <= set(METHODS.kinds())
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "bare.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    for entry, message in (
        ({"kind": "xrek"}, r"methods.m.kind: 'xrek' is not one of .*\(did you mean 'xrec'\?\)"),
        ({}, "methods.m: give it a kind .* or a module of your own"),
        ({"kind": "xrec", "module": "bare"}, "one of the two"),
        ({"module": "no.such"}, r"methods.m.module: no.such cannot be imported \(ModuleNotFoundError"),
        ({"module": "broken"}, r"broken cannot be imported \(ZeroDivisionError: division by zero\)"),
        ({"module": "bare"}, "bare has no METHOD; set it to a class derived from xrec_repro.methods.base.Method"),
    ):
        with pytest.raises(ConfigError, match=message):
            METHODS.chosen(entry, "methods.m")
    for entry, message in (
        ({"kind": "predictions", "fil": "x"}, r"methods.m.fil: unknown key \(did you mean 'file'\?\)"),
        ({"kind": "predictions"}, "methods.m.file: missing"),
        ({"kind": "predictions", "file": 3}, "methods.m.file: 3 is not of type 'string'"),
    ):
        with pytest.raises(ConfigError, match=message):
            METHODS.settings(entry, "methods.m")


# --- Predictions ----------------------------------------------------------------------------------------------------
def predictions(tmp_path, rows, examples, references=None):
    files = {"file": tmp_path / "texts.jsonl", "references": tmp_path / "references.jsonl"}
    for path, texts in ((files["file"], rows), (files["references"], references)):
        if texts is None:
            del files["references"]
            continue
        path.write_text("".join(json.dumps(row) + "\n" for row in texts))
    chosen = {"name": "p", "kind": "predictions", **{name: str(path) for name, path in files.items()}}
    method = make_method(chosen, "write", Run(seed=1, inputs=files))
    method.load(None)
    return explain(method, examples, tmp_path)


def test_texts_by_id_or_in_order_become_explanations(tmp_path):
    rows = make_examples(5)
    by_id = [{"example_id": e.example_id, "prediction": f"text {e.example_id}"} for e in reversed(rows)]
    _, found = predictions(tmp_path, by_id, rows)
    assert [row["prediction"] for row in found] == [f"text {e.example_id}" for e in rows]
    _, again = predictions(tmp_path, [f"text {e.example_id}" for e in rows], rows)
    assert again == found
    assert read_table(tmp_path / "out.parquet", EXPLANATIONS).num_rows == 5


def test_texts_with_references_of_their_own_are_scored_as_they_stand(tmp_path):
    rows = make_examples(5)
    report, found = predictions(tmp_path, ["a", "b", "c"], rows, [rows[3].reference, "other", "other"])
    assert report["explanations"] == 3
    assert [row["example_id"] for row in found] == [rows[3].example_id, "own-1", "own-2"]
    assert [row["reference"] for row in found] == [rows[3].reference, "other", "other"]
    assert [row["prediction"] for row in found] == ["a", "b", "c"]
    with pytest.raises(DataError, match="has 2 texts, .*has 3; give one reference a text"):
        predictions(tmp_path, ["a", "b", "c"], rows, ["x", "y"])


def test_a_file_that_does_not_fit_the_examples_is_told_with_three_of_them(tmp_path):
    rows = make_examples(6)
    texts = [{"example_id": e.example_id, "prediction": "t"} for e in rows]
    for given, message in (
        (texts[4:], r"lacks 4 of 6 examples: e0, e1, e2, …"),
        ([*texts, texts[1]], r"has twice 1 of 6 examples: e1;"),
        ([*texts, {"example_id": "z", "prediction": "t"}], "of no example of the test split, 1 of 6 examples: z"),
        (["t"] * 5, "5 texts without example_id for 6 examples"),
        ([{**texts[0], "example_id": 7}], "row 1 has no example_id that is a text"),
        ([*texts[:5], {"prediction": "t"}], "line 6 has no example_id, and others have; give every row one, or none"),
    ):
        with pytest.raises(DataError, match=message):
            predictions(tmp_path, given, rows)
