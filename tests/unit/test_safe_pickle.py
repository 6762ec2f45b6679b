import builtins
import codecs
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pandas.core.indexes.base as pandas_base
import pandas.core.indexes.datetimes as pandas_datetimes
import pyarrow as pa
import pytest
import torch
from pandas._libs import arrays as pandas_arrays

from xrec_repro.errors import DataError
from xrec_repro.safe_pickle import ALLOWED, load_pickle

PICKLES = Path(__file__).parents[1] / "data/pickles"
TEXTS = ["the cafe is quiet", "crème brûlée, 好", ""]


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def dump(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def object_frame(**columns):
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    frame.columns = pd.Index(list(columns), dtype=object)
    return frame


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize(
    "value",
    [
        [{"a": (1, 2.5, None), "b": {"x"}}, b"bytes", "text", slice(1, 2)],
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(["a", None], dtype=object),
        np.float32(1.5),
    ],
    ids=["containers", "numbers", "objects", "scalar"],
)
def test_values_come_back(tmp_path, value, protocol):
    loaded = load_pickle(dump(tmp_path / "x.pkl", value, protocol))
    assert type(loaded) is type(value)
    assert np.array_equal(loaded, value) if isinstance(value, np.ndarray) else loaded == value


def test_frames_and_series_come_back(tmp_path):
    frame = object_frame(uid=[3, 1], title=["a", None])
    pd.testing.assert_frame_equal(load_pickle(dump(tmp_path / "x.pkl", frame)), frame)
    pd.testing.assert_series_equal(load_pickle(dump(tmp_path / "y.pkl", frame["title"])), frame["title"])


def test_names_of_numpy_1_are_understood(tmp_path):
    data = pickle.dumps(np.arange(3), protocol=4)
    assert b"numpy._core" in data
    # Protocol 4 stores the length of the string before it, and frames their size: shortening by one needs both.
    old = data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    frame = int.from_bytes(old[3:11], "little") - 1
    (tmp_path / "x.pkl").write_bytes(old[:3] + frame.to_bytes(8, "little") + old[11:])
    assert load_pickle(tmp_path / "x.pkl").tolist() == [0, 1, 2]


def test_parameters_and_views_come_back(tmp_path):
    table = torch.arange(12.0).reshape(6, 2)
    for value in (torch.nn.Parameter(table), table[2:5]):
        loaded = load_pickle(dump(tmp_path / "x.pkl", value))
        assert torch.equal(loaded, value) and loaded.requires_grad == value.requires_grad


def test_files_of_torch_save_come_back(tmp_path):
    torch.save({"weight": torch.ones(2, 3)}, tmp_path / "x.pkl")
    assert torch.equal(load_pickle(tmp_path / "x.pkl")["weight"], torch.ones(2, 3))


@pytest.mark.parametrize("file", sorted(PICKLES.glob("*-protocol-*.pkl")), ids=lambda file: file.stem)
def test_frames_of_pandas_1_2_and_3_come_back(file):
    loaded = load_pickle(file)
    frame = loaded["frame"]
    expected = {
        "prediction": TEXTS,
        "reference": [TEXTS[0], None, TEXTS[2]],
        "nullable_text": [TEXTS[0], None, TEXTS[2]],
        "category": ["a", "b", "a"],
        "uid": [3, 1, 2],
        "small": [3, 1, 2],
        "nullable_int": [3, None, 2],
        "score": [0.5, None, 2.0],
        "nullable_score": [0.5, None, 2.0],
        "good": [True, False, True],
        "nullable_good": [True, None, False],
        "when": [pd.Timestamp("2020-01-01"), pd.Timestamp("2021-06-30"), None],
        "when_utc": [pd.Timestamp("2020-01-01", tz="UTC"), pd.Timestamp("2021-06-30", tz="UTC"), None],
    } | ({"arrow_text": [TEXTS[0], None, TEXTS[2]]} if "arrow_text" in frame else {})
    assert list(frame.columns) == list(expected)
    for name, values in expected.items():
        column = frame[name].astype(object)
        assert column.where(column.notna(), None).tolist() == values, name
    assert loaded["rows"].index.tolist() == [0, 2] and loaded["rows"]["uid"].tolist() == [3, 2]
    assert loaded["by_time"].index.tolist() == expected["when"][:2]
    assert loaded["by_score"].loc[2.0, "prediction"] == TEXTS[2]
    assert loaded["by_category"].loc["b", "uid"] == 1
    assert loaded["series"].tolist() == loaded["list"] == loaded["numpy_texts"] == loaded["array"].tolist() == TEXTS
    assert loaded["scalars"][:3] == [0.5, 3, pd.Timestamp("2020-01-01")]
    assert loaded["scalars"][3] is pd.NaT and loaded["scalars"][4] is pd.NA


@pytest.mark.parametrize(
    "function, arguments",
    [
        (os.system, ("echo ran > {marker}",)),
        (builtins.eval, ("open({marker!r}, 'w')",)),
        (builtins.exec, ("open({marker!r}, 'w')",)),
        (builtins.open, ("{marker}", "w")),
        (builtins.getattr, ("text", "upper")),
        (subprocess.check_output, (["touch", "{marker}"],)),
    ],
    ids=["system", "eval", "exec", "open", "getattr", "subprocess"],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_malicious_pickle_is_refused_and_not_run(tmp_path, function, arguments, protocol):
    marker = tmp_path / "ran"
    filled = [a.format(marker=str(marker)) if isinstance(a, str) else [*a[:-1], str(marker)] for a in arguments]
    path = dump(tmp_path / "evil.pkl", [1, Call(function, *filled)], protocol)
    with pytest.raises(DataError, match=r"evil\.pkl: refused to load .*" + function.__name__):
        load_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "value",
    [
        # Calls that allowed names could be made to make, with what is not allowed in their arguments.
        Call(pandas_base._new_Index, subprocess.Popen, {"args": ["touch", "ran"]}),
        Call(pandas_datetimes._new_DatetimeIndex, subprocess.Popen, {"args": ["touch", "ran"]}),
        Call(pandas_arrays.__pyx_unpickle_NDArrayBacked, Call(os.system, "echo ran > ran"), 1, None),
        Call(pd.StringDtype, Call(os.system, "echo ran > ran")),
        Call(pa.py_buffer, Call(pickle.loads, pickle.dumps(Call(os.system, "echo ran > ran")))),
        Call(pa.lib._restore_array, (Call(os.system, "echo ran > ran"),) * 7),
        Call(codecs.encode, Call(codecs.decode, "rot", "rot13"), "latin1"),
        Call(builtins.map, os.system, ["echo ran > ran"]),
        Call(pd.read_pickle, "evil.pkl"),
        Call(pd.eval, "1"),
        Call(np.load, "evil.pkl", None, True),
        Call(pa.OSFile, "ran", "w"),
    ],
    ids=lambda call: call.function.__name__,
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_allowed_names_are_given_is_not_run_either(tmp_path, monkeypatch, value, protocol):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"evil\.pkl: refused to load"):
        load_pickle(dump(tmp_path / "evil.pkl", value, protocol))
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pkl"]


OFFSETS = np.array([0, 1, 2], dtype=np.int32).tobytes()


def restored(offsets=OFFSETS, length=2, null_count=0, offset=0, data=b"ab", kind="string", more=()):
    buffers = [None, *(Call(pa.py_buffer, part) for part in (offsets, data)), *more]
    return Call(
        pa.lib._restore_array, (Call(pa.lib.type_for_alias, kind), length, null_count, offset, buffers, [], None)
    )


def test_an_array_of_pyarrow_comes_back(tmp_path):
    assert load_pickle(dump(tmp_path / "x.pkl", restored())).to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    "changes",
    [
        {"offsets": np.array([0, 1, 2**30], dtype=np.int32).tobytes()},
        {"offsets": np.array([0, -5, 2], dtype=np.int32).tobytes()},
        {"offsets": b""},
        {"length": 2**40},
        {"length": -1},
        {"offset": 2**40},
        {"offset": -1},
        {"null_count": 7},
        {"data": b"a"},
        {"data": b"\xff\xff"},
        {"more": [None]},
        {"kind": "int64"},
        {"kind": "list"},
        {"data": np.array([0, 0])},
    ],
    ids=lambda changes: "-".join(f"{name}={value!r:.20}" for name, value in changes.items()),
)
def test_an_array_that_points_outside_its_memory_is_refused(tmp_path, changes):
    with pytest.raises(DataError, match=r"x\.pkl: not a whole pickle"):
        load_pickle(dump(tmp_path / "x.pkl", restored(**changes)))


def test_an_array_cannot_be_changed_after_it_was_checked(tmp_path):
    memory = bytearray(OFFSETS)
    loaded = load_pickle(dump(tmp_path / "x.pkl", [restored(offsets=memory), memory]))
    loaded[1][8:12] = b"\xff\xff\xff\x7f"
    assert loaded[0].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("encoding", ["rot13", "utf-8", "zip", "../x"])
def test_bytes_are_of_one_encoding(tmp_path, encoding):
    assert load_pickle(dump(tmp_path / "x.pkl", Call(codecs.encode, "caf\xe9", "latin1"))) == b"caf\xe9"
    with pytest.raises(DataError, match="bytes in"):
        load_pickle(dump(tmp_path / "x.pkl", Call(codecs.encode, "a", encoding)))


@pytest.mark.parametrize("state", [b"", b"}\x8c\x04_mgrK\x01sb", b"}(\x8c\x04_typK\x01\x8c\x04_mgrK\x01ub"])
def test_a_frame_that_was_never_filled_is_damaged(tmp_path, state):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04cpandas\nDataFrame\n)\x81" + state + b".")
    with pytest.raises(DataError, match=r"x\.pkl: not a whole pickle"):
        load_pickle(tmp_path / "x.pkl")


def test_malicious_storage_inside_a_tensor_is_refused(tmp_path):
    marker = tmp_path / "ran"
    inner = pickle.dumps(Call(os.system, f"echo ran > {marker}"), protocol=2)
    path = dump(tmp_path / "evil.pkl", Call(torch.storage._load_from_bytes, inner))
    with pytest.raises(DataError, match=r"evil\.pkl"):
        load_pickle(path)
    assert not marker.exists()


def test_malicious_torch_file_is_refused(tmp_path):
    marker = tmp_path / "ran"
    torch.save(Call(os.system, f"echo ran > {marker}"), tmp_path / "evil.pkl")
    with pytest.raises(DataError, match=r"evil\.pkl"):
        load_pickle(tmp_path / "evil.pkl")
    assert not marker.exists()


def test_every_truncation_is_an_error(tmp_path):
    data = pickle.dumps(object_frame(uid=[3, 1], title=["a", "b"]), protocol=4)
    path = tmp_path / "x.pkl"
    for length in range(1, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"x\.pkl"):
            load_pickle(path)


def test_truncated_torch_file_is_an_error(tmp_path):
    path = tmp_path / "x.pkl"
    torch.save(torch.ones(100), path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"x\.pkl"):
        load_pickle(path)


def test_git_lfs_pointer_is_recognised(tmp_path):
    path = tmp_path / "trn.pkl"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 85964803\n")
    with pytest.raises(DataError, match="git-lfs pointer"):
        load_pickle(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.pkl: no such file"):
        load_pickle(tmp_path / "none.pkl")


def test_torch_is_imported_only_when_named(tmp_path):
    path = dump(tmp_path / "x.pkl", [1, 2])
    code = (
        "import sys; from xrec_repro.safe_pickle import load_pickle;"
        f"print(load_pickle({str(path)!r}), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("]")[1].strip() == "False"


def test_allow_list_holds_nothing_that_runs_code():
    names = {f"{module}.{name}" for module, allowed in ALLOWED.items() for name in allowed}
    dangerous = {"builtins.eval", "builtins.exec", "builtins.getattr", "builtins.open", "builtins.__import__"}
    assert not names & dangerous
    assert not {"os", "posix", "subprocess", "sys", "importlib", "pickle"} & set(ALLOWED)


@pytest.mark.parametrize("name", ["amazon", "yelp"])
def test_released_texts_load(shared, name):
    texts = load_pickle(shared / "data/xrec" / name / "tst.pkl")
    assert list(texts.columns) == ["uid", "iid", "title", "user_summary", "item_summary", "explanation"]
    assert len(texts) == 3000
