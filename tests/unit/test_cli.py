import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from xrec_repro.cli import main
from xrec_repro.contracts import CORE_INTERACTIONS, CORE_ITEMS
from xrec_repro.explainer.explain import locate
from xrec_repro.io import write_table


def files(folder, predictions, references):
    paths = folder / "predictions.txt", folder / "references.txt"
    for path, texts in zip(paths, (predictions, references), strict=True):
        path.write_text("".join(f"{text}\n" for text in texts))
    return [str(path) for path in paths]


def test_score_prints_values_with_signatures(tmp_path, capsys):
    arguments = files(tmp_path, ["a b", "a  b", "c"], ["x", "y", "z"])
    assert main(["score", *arguments, "--metrics", "usr"]) == 0
    line = capsys.readouterr().out
    assert "usr" in line
    assert "0.6667" in line
    assert "usr|tokens:whitespace" in line


def test_score_writes_the_scores_of_every_example_by_the_ending_of_the_file(tmp_path, capsys):
    arguments = ["score", *files(tmp_path, ["a b c", "a b", "a b"], ["a b d", "x y", "a b"])]
    for ending, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        out = tmp_path / f"scores{ending}"
        assert main([*arguments, "--metrics", "rouge", "usr", "--out", str(out)]) == 0
        found = read(out)
        assert found["example_id"].astype(str).tolist() == ["1", "2", "3"]
        assert found["rouge_1"].tolist() == [2 / 3, 0.0, 1.0] and found["usr"].tolist() == [1.0, 1.0, 0.0]
    capsys.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "scores.xlsx")]) == 1
    assert "scores.xlsx: unknown kind of file '.xlsx'; let it end in .parquet or .csv" in capsys.readouterr().err


def test_a_metric_that_fails_leaves_the_others_their_scores(tmp_path, capsys):
    arguments = files(tmp_path, ["a b", "c"], ["x", "y"])
    assert main(["score", *arguments, "--metrics", "faithfulness", "usr", "--out", str(tmp_path / "s.csv")]) == 1
    printed = capsys.readouterr()
    assert "usr|tokens" in printed.out and "faithfulness has no scores: faithfulness: needs the true" in printed.err
    assert list(pd.read_csv(tmp_path / "s.csv")) == ["example_id", "usr"]


@pytest.mark.parametrize("dataset", ["amazon", "yelp"])
def test_usr_of_the_released_predictions_is_one(shared, capsys, dataset):
    folder = shared / "data/xrec" / dataset
    assert main(["score", str(folder / "tst_pred.pkl"), str(folder / "tst_ref.pkl")]) == 0
    printed = capsys.readouterr().out
    assert "1.0000" in printed
    assert "3000" in printed


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], ["a"], "predictions.txt: the file is empty"),
        (["a", "b"], ["a"], r"predictions.txt has 2 texts but .*references.txt has 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(tmp_path, capsys, predictions, references, message):
    assert main(["score", *files(tmp_path, predictions, references)]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1


def test_unknown_metric_and_missing_file(tmp_path, capsys):
    arguments = files(tmp_path, ["a"], ["b"])
    assert main(["score", *arguments, "--metrics", "blue"]) == 2
    assert "usr" in capsys.readouterr().err
    assert main(["score", str(tmp_path / "none.txt"), arguments[1]]) == 1
    assert "none.txt: no such file" in capsys.readouterr().err


def test_explain_of_an_unknown_run_names_the_folder(tmp_path, capsys):
    arguments = ["--dataset", "glassbox", "--user", "u", "--item", "i", "--results", str(tmp_path)]
    assert main(["explain", "--run", "none", *arguments]) == 1
    assert "no such data set in this run" in capsys.readouterr().err


def test_audit_prints_the_rest_when_released_data_are_missing(tmp_path, capsys):
    assert main(["audit", "--data", str(tmp_path), "--json", str(tmp_path / "audit.json")]) == 0
    printed = capsys.readouterr().out
    assert "computed: 24.54 kg" in printed
    assert "[not checked] usr.yelp: " in printed
    assert "the released data have no folder yelp" in printed
    assert len(json.loads((tmp_path / "audit.json").read_text())["findings"]) == printed.count("\n[") + 1


def test_audit_of_the_released_data_prints_the_known_numbers(shared, tmp_path, capsys):
    assert main(["audit", "--data", str(shared / "data/xrec"), "--write", str(tmp_path / "audit.md")]) == 0
    printed = capsys.readouterr().out
    known = ("24.54 kg", "1.0000 (3,000", "2,376 of 3,000", "2,434 of 3,000", "1,562 of 3,000", "15,962 users")
    for number in known:
        assert number in printed
        assert number in (tmp_path / "audit.md").read_text()


def test_audit_names_folders_that_are_not_there(tmp_path, capsys):
    missing = tmp_path / "none"
    assert main(["audit", "--data", str(missing)]) == 1
    assert f"{missing}: no such folder; give the one with amazon/" in capsys.readouterr().err
    assert main(["audit", "--resources", str(missing)]) == 1
    error = capsys.readouterr().err
    assert "no such file; restore it" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", ["--json", "--write"])
@pytest.mark.parametrize(
    ("place", "message"),
    [
        (".", "cannot be written: it is a folder; name a file"),
        ("/dev/null", "/dev/null: cannot be written: it is no plain file; name a file"),
        ("/proc/x/audit", "/proc/x/audit: cannot be written: No such file or directory; name a file in a folder of"),
        ("file/audit", "cannot be written: (Not a directory|File exists); name a file in a folder of yours"),
        ("x" * 300, "cannot be written: File name too long"),
    ],
)
def test_audit_that_cannot_be_written_is_one_line(tmp_path, capsys, monkeypatch, option, place, message):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("kept")
    assert main(["audit", "--data", str(tmp_path), option, place]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert Path("file").read_text() == "kept" and not Path("/dev/null").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_audit_writes_through_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "there/audit.json")
    assert main(["audit", "--data", str(tmp_path), "--json", str(tmp_path / "link.json")]) == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "there/audit.json").read_text())["findings"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("statements", b"key,value,source\n\xe9,1,x\n", "statements.csv: not a table in UTF-8 .*; restore it"),
        ("study_table1", None, "study_table1.csv: line 2: n_test is 'nan', not a number; correct it"),
    ],
)
def test_published_tables_that_are_damaged_are_named(root, tmp_path, capsys, name, content, message):
    shutil.copytree(root / "resources", tmp_path / "resources")
    path = tmp_path / f"resources/published/{name}.csv"
    if content is None:
        header, first, *rest = path.read_text().splitlines()
        cells = dict(zip(header.split(","), first.split(","), strict=True)) | {"n_test": "nan"}
        content = "\n".join([header, ",".join(cells.values()), *rest]).encode()
    path.write_bytes(content)
    assert main(["audit", "--data", str(tmp_path), "--resources", str(tmp_path / "resources")]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"metrics:\n  usr: {}\nmetrics:\n  bleu: {}\n", "metrics: given twice, in lines 1 and 3"),
        (b"defaults: {tuning: {learning_rate: .nan}}", "defaults.tuning.learning_rate: nan is not a number"),
        (b"a: caf\xe9", "line 1: not UTF-8"),
        (None, "a folder, not a configuration file"),
    ],
)
def test_an_overlay_that_cannot_be_used_is_one_line_and_exit_code_2(tmp_path, capsys, content, message):
    overlay = tmp_path / "overlay.yaml"
    overlay.mkdir() if content is None else overlay.write_bytes(content)
    assert main(["score", *files(tmp_path, ["a"], ["b"]), "--config", str(overlay)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_argument_that_is_no_utf_8_is_no_id(tmp_path, capsys):
    shared = tmp_path / "run/glassbox/shared"
    core = {"user": [0], "item": [0], "user_id": ["\u00e9"], "item_id": ["i"]}
    empty = {name: [None] for name in ("rating", "timestamp", "review")}
    write_table(shared / "kcore/interactions.parquet", core | empty, CORE_INTERACTIONS)
    empty = {name: [None] for name in ("title", "description", "categories", "city")}
    write_table(shared / "kcore/items.parquet", {"item": [0], "item_id": ["i"]} | empty, CORE_ITEMS)
    options = ["explain", "--results", str(tmp_path), "--run", "run", "--dataset", "glassbox"]
    for user, item, kind in ((b"\xff", "i", "user"), (b"\xe9", "i", "user"), ("\u00e9".encode(), b"\xff", "item")):
        arguments = ["--user", os.fsdecode(user), "--item", os.fsdecode(item)]
        assert main([*options, *arguments]) == 1
        assert re.search(rf"{kind} '.*udc..' is not in the k-core of 1 {kind}s", capsys.readouterr().err)
    assert main([*options, "--user", "\u00e9", "--item", "\ud800"]) == 1
    assert "is not in the k-core" in capsys.readouterr().err
    assert main([*options, "--user", "\u00e9", "--item", "i"]) == 1
    assert "no experiment has explanations yet" in capsys.readouterr().err


def test_paths_of_other_kinds_and_an_early_end_of_the_output_are_no_traceback(tmp_path):
    command = [sys.executable, "-m", "xrec_repro.cli"]
    long = "x" * 300
    for arguments in (
        ["explain", "--run", long, "--dataset", "d", "--user", "u", "--item", "i"],
        ["score", long, long],
    ):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("xrec-repro: ") and done.stderr.count("\n") == 1
    with subprocess.Popen([*command, "audit", "--data", str(tmp_path)], stdout=-1, stderr=-1, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, "audit", "--data", str(tmp_path)], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("recorded", "made", "found"),
    [
        ("results/tiny/g/shared/llm/model", "results/tiny", "/a/results/tiny/g/shared/llm/model"),
        ("out/old/g/shared/llm/model", "out/old", "/a/results/tiny/g/shared/llm/model"),
        ("/b/results/old/g/shared/llm/model", "/b/results/old", "/a/results/tiny/g/shared/llm/model"),
        ("models/llama", "results/tiny", "/a/models/llama"),
        ("/models/llama", "results/tiny", "/models/llama"),
        ("models/llama", "out/old", "models/llama"),
    ],
)
def test_a_recorded_path_is_found_where_the_run_lies_now(recorded, made, found):
    made = Path(made) / "g/xrec/seed1/generation/explanations.parquet"
    assert locate(recorded, made, Path("/a/results/tiny/g/xrec/seed1")) == Path(found)
