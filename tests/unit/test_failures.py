"""What a metric's own failure is, what is not, and what the paper stage makes of it."""

import errno
from pathlib import Path

import pytest

from xrec_repro.contracts import EXPLANATIONS, REPLIES
from xrec_repro.errors import DataError, ModelError
from xrec_repro.interrupt import StoppedError
from xrec_repro.io import read_table, write_json, write_table
from xrec_repro.metrics._failures import failing, reason_of, refuse_failed
from xrec_repro.metrics.score import merge_scores, write_failure, write_scores
from xrec_repro.scores import read_scores, with_summaries


def caused(error: Exception, cause: BaseException) -> Exception:
    try:
        raise error from cause
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModelError("the server is away;\ncheck it"), "the server is away; check it"),
        (ValueError("odd shape"), "ValueError: odd shape"),
        (FileNotFoundError(errno.ENOENT, "no such file"), "FileNotFoundError: [Errno 2] no such file"),
        (MemoryError(), None),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), None),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), None),
        (OSError(errno.ENOSPC, "No space left on device"), None),
        (caused(DataError("the disk is full"), OSError(errno.ENOSPC, "No space left")), None),
        (StoppedError("2 of 3 blocks of pairs are", Path("x")), None),
    ],
)
def test_a_metric_fails_by_its_own_errors_alone(tmp_path, error, reason):
    assert reason_of(error) == reason
    record = tmp_path / "failures.txt"
    if reason is None:
        with pytest.raises(type(error)), failing("bleurt", record):
            raise error
        assert not record.exists()
    else:
        for lines in (1, 2):
            with failing("bleurt", record) as failure:
                raise error
            assert failure.reason == reason
            assert record.read_text().splitlines() == [reason] * lines


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_a_request_to_stop_is_no_failure(tmp_path, signal):
    with pytest.raises(signal), failing("bleurt", tmp_path / "failures.txt"):
        raise signal
    assert not list(tmp_path.iterdir())


def cell(mean: float = 0.5) -> dict:
    return {"mean": mean, "std": 0.1, "n": 2, "signature": "usr|v:1", "missing": 0, "counts": {}}


def test_failed_metrics_are_merged_as_their_reason(tmp_path):
    write_scores(tmp_path / "usr.parquet", ["a", "b"], {"usr": [1.0, 0.0]})
    write_json(tmp_path / "usr.json", {"usr": cell()})
    write_scores(tmp_path / "bleurt.parquet", ["a", "b"], {})
    write_json(tmp_path / "bleurt.json", {"bleurt": {"failed": "away"}})
    parts = [(tmp_path / f"{name}.parquet", tmp_path / f"{name}.json") for name in ("bleurt", "usr")]
    folder = tmp_path / "run/glassbox/xrec/seed1/metrics"
    merge_scores(parts, folder / "scores.parquet", folder / "summary.json")
    assert read_scores(folder / "scores.parquet")["usr"].tolist() == [1.0, 0.0]
    with pytest.raises(DataError, match=r"^bleurt has no scores of glassbox/xrec/seed1: away \(.*run the same command"):
        refuse_failed([folder / "summary.json"])
    write_json(folder / "summary.json", {"usr": cell()})
    refuse_failed([folder / "summary.json"])


def test_a_judge_that_failed_has_no_replies_and_keeps_those_that_are_there(tmp_path):
    row = dict.fromkeys(EXPLANATIONS.names) | {"example_id": "a", "user_id": "u", "item_id": "i"}
    row |= {"reference": "r", "prediction": "p"}
    write_table(tmp_path / "explanations.parquet", [row], EXPLANATIONS)
    files = [tmp_path / name for name in ("scores.parquet", "summary.json", "replies.parquet")]
    write_failure(tmp_path / "explanations.parquet", "gptscore", "away", *files[:2])
    assert not files[2].exists()  # no judge
    write_failure(tmp_path / "explanations.parquet", "gptscore", "away", *files)
    assert read_table(files[2], REPLIES).num_rows == 0
    write_table(files[2], [{"example_id": "a", "reply": "", "asked": 3}], REPLIES)
    write_failure(tmp_path / "explanations.parquet", "gptscore", "not one", *files)
    assert read_table(files[2], REPLIES)["asked"].to_pylist() == [3]


def test_a_metric_that_failed_for_one_seed_is_left_out_of_all_of_its_experiment():
    scored = {"usr": cell(), "bertscore_f1": cell(), "bert": cell()}
    summaries = [scored, {"usr": cell(), "bert": cell(), "bertscore": {"failed": "no layer"}}, scored]
    keys = [("xrec", 1), ("xrec", 2), ("other", 1)]
    rows = [
        {"dataset": "d", "experiment": name, "seed": seed, "summary": summary}
        for (name, seed), summary in zip(keys, summaries, strict=True)
    ]
    found = with_summaries(rows)
    assert [set(row["summary"]) for row in found] == [{"usr", "bert"}, {"usr", "bert"}, set(scored)]
    assert [row["failed"] for row in found] == [{"bertscore": "no layer"}] * 2 + [{}]
