"""Reading released pickles without running what is in them.

A pickle is a program: a plain `pickle.load` executes whatever its author wrote. The files that the XRec authors
released, and frames and lists of texts from pandas 1.5, 2 and 3, need a few dozen names only, so everything else is
refused before it is looked up.
"""

import importlib
import io
import pickle
import struct
from datetime import UTC
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

from xrec_repro.errors import DataError
from xrec_repro.io import require_file

_ARRAYS = {"multiarray": {"_reconstruct", "scalar"}, "numeric": {"_frombuffer"}}
_NUMBERS = {f"{kind}{bits}Dtype" for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)}
_NUMBERS |= {"Float32Dtype", "Float64Dtype"}
_PANDAS_ARRAYS = {
    "ArrowExtensionArray": "arrow.array",
    "ArrowStringArray": "string_arrow",
    "BooleanArray": "boolean",
    "DatetimeArray": "datetimes",
    "FloatingArray": "floating",
    "IntegerArray": "integer",
    "StringArray": "string_",
}
# Exact names. A pickle may call each with any arguments that it can make of the others, so each must be harmless with
# all of them: the classes only hold what they are given, the functions only put such classes together. Those that
# would trust their arguments (memory, encodings, pickles within) are replaced, see _STAND_INS.
ALLOWED: dict[str, set[str]] = {
    "_codecs": {"encode"},  # bytes in protocols 0 to 2
    "builtins": {"slice", "set", "frozenset", "list", "dict", "tuple", "bytes", "bytearray", "complex", "range"},
    "collections": {"OrderedDict"},
    "datetime": {"date", "datetime", "timedelta", "timezone"},
    "numpy": {"ndarray", "dtype"},
    # NumPy 2 renamed numpy.core to numpy._core; pickles carry the name of the version that wrote them.
    **{f"numpy.core.{module}": names for module, names in _ARRAYS.items()},
    **{f"numpy._core.{module}": names for module, names in _ARRAYS.items()},
    # As pandas 3 writes them.
    "pandas": {"DataFrame", "Series", "Index", "RangeIndex", "DatetimeIndex", "CategoricalIndex", "Categorical"}
    | {"ArrowDtype", "BooleanDtype", "CategoricalDtype", "DatetimeTZDtype", "StringDtype", "NA"}
    | _NUMBERS,
    "pandas.arrays": set(_PANDAS_ARRAYS),
    # As pandas 1.5 and 2 write them.
    **{f"pandas.core.arrays.{module}": {name} for name, module in _PANDAS_ARRAYS.items()},
    "pandas.core.arrays.boolean": {"BooleanArray", "BooleanDtype"},
    "pandas.core.arrays.categorical": {"Categorical"},
    "pandas.core.arrays.floating": {"FloatingArray"} | _NUMBERS,
    "pandas.core.arrays.integer": {"IntegerArray"} | _NUMBERS,
    "pandas.core.arrays.string_": {"StringArray", "StringDtype"},
    "pandas.core.dtypes.dtypes": {"ArrowDtype", "CategoricalDtype", "DatetimeTZDtype"},
    "pandas.core.frame": {"DataFrame"},
    "pandas.core.series": {"Series"},
    "pandas.core.indexes.base": {"Index", "_new_Index"},
    "pandas.core.indexes.category": {"CategoricalIndex"},
    "pandas.core.indexes.datetimes": {"DatetimeIndex", "_new_DatetimeIndex"},
    "pandas.core.indexes.numeric": {"Int64Index", "UInt64Index", "Float64Index"},
    "pandas.core.indexes.range": {"RangeIndex"},
    "pandas.core.internals.managers": {"BlockManager", "SingleBlockManager"},
    "pandas._libs.arrays": {"__pyx_unpickle_NDArrayBacked"},
    "pandas._libs.internals": {"_unpickle_block"},
    "pandas._libs.missing": {"NA"},
    "pandas._libs.tslibs.nattype": {"_nat_unpickle", "__nat_unpickle"},
    "pandas._libs.tslibs.timestamps": {"_unpickle_timestamp"},
    "pyarrow.lib": {"_restore_array", "py_buffer", "type_for_alias"},
    "pytz": {"_UTC"},  # of pandas 1
    "torch._utils": {"_rebuild_parameter", "_rebuild_tensor_v2"},
    "torch.storage": {"_load_from_bytes"},
}
# What has another name in the versions that read it here.
_MOVED = {
    **{("pandas.core.indexes.numeric", f"{kind}Index"): ("pandas", "Index") for kind in ("Int64", "UInt64", "Float64")},
    ("pandas._libs.tslibs.nattype", "__nat_unpickle"): ("pandas._libs.tslibs.nattype", "_nat_unpickle"),
}
_ZIP = b"PK\x03\x04"  # what torch.save has written since 1.6
_GIT_LFS = b"version https://git-lfs"
# What a damaged pickle can make the unpickler or an allowed constructor raise.
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ImportError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    RuntimeError,
    BufferError,
    struct.error,
)


def load_pickle(path: str | Path) -> Any:
    """Read a pickle, or a file written by `torch.save`, through an allow-list of names.

    Args:
        path: The file.

    Returns:
        What was pickled; tensors are on the CPU.

    Raises:
        DataError: The file is missing, truncated, a git-lfs pointer, or names a global outside `ALLOWED`.
    """
    path = require_file(path)
    with path.open("rb") as stream:
        start = stream.read(len(_GIT_LFS))
        stream.seek(0)
        if start == _GIT_LFS:
            raise DataError(f"{path}: a git-lfs pointer, not the data; fetch the file itself (git lfs pull)")
        try:
            value = _load_torch(stream) if start.startswith(_ZIP) else _Unpickler(stream, path).load()
            # A frame that was never filled fails at the first touch, which is better here than in its reader.
            return value.copy() if hasattr(type(value), "columns") else value
        except _DAMAGE as error:
            why = " ".join(str(error).split())[:160]
            raise DataError(f"{path}: not a whole pickle ({type(error).__name__}: {why}); download it again") from error


class _Unpickler(pickle.Unpickler):
    """An unpickler that resolves only the names of `ALLOWED`."""

    def __init__(self, stream: io.BufferedReader, path: Path) -> None:
        super().__init__(stream)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed global, importing its module (torch included) only now."""
        module = module.replace("__builtin__", "builtins")  # its name in protocols 0 to 2
        if name not in ALLOWED.get(module, ()):
            self._refuse(module, name)
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        module, name = _MOVED.get((module, name), (module, name))
        return getattr(importlib.import_module(module.replace("numpy.core", "numpy._core")), name)

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse references to objects outside the file."""
        self._refuse("persistent id", str(pid))

    def _refuse(self, module: str, name: str) -> NoReturn:
        raise DataError(
            f"{self._path}: refused to load {module}.{name}, which released data do not need; "
            f"use the file only if you trust its source, after saving it anew as plain lists or arrays"
        )


def _load_torch(stream: Any) -> Any:
    import torch

    return torch.load(stream, map_location="cpu", weights_only=True)


def _load_torch_bytes(data: bytes) -> Any:
    return _load_torch(io.BytesIO(data))


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes of protocols 0 to 2; Python's own function would import any codec."""
    if encoding.replace("-", "") != "latin1":
        raise ValueError(f"bytes in {encoding!r}")
    return text.encode("latin1")


def _copy_buffer(data: bytes | bytearray) -> pa.Buffer:
    """Return a buffer that nothing later in the pickle can change, after its array was checked."""
    if not isinstance(data, bytes | bytearray):
        raise TypeError(f"a buffer of {type(data).__name__}")
    return pa.py_buffer(bytes(data))


def _restore_array(data: tuple[Any, ...]) -> pa.Array:
    """Return a pyarrow array without children; pyarrow's own function would trust lengths and offsets."""
    kind, length, null_count, offset, buffers, children, dictionary = data
    if children or dictionary is not None:
        raise TypeError(f"an array of {kind}")
    array = pa.Array.from_buffers(kind, length, buffers, null_count, offset)
    array.validate(full=True)
    return array


_STAND_INS = {
    ("_codecs", "encode"): _encode,
    ("pyarrow.lib", "_restore_array"): _restore_array,
    ("pyarrow.lib", "py_buffer"): _copy_buffer,
    ("pytz", "_UTC"): lambda: UTC,
    # torch's own function unpickles the bytes without any restriction.
    ("torch.storage", "_load_from_bytes"): _load_torch_bytes,
}
