import builtins
import os
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from xrec_repro.errors import DataError
from xrec_repro.safe_pickle import ALLOWED, load_pickle


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
