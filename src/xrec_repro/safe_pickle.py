"""Reading released pickles without running what is in them.

A pickle is a program: a plain `pickle.load` executes whatever its author wrote. The files that the XRec
authors released need a handful of names only, so everything else is refused before it is looked up.
"""

import importlib
import io
import pickle
import struct
from pathlib import Path
from typing import Any, NoReturn

from xrec_repro.errors import DataError
from xrec_repro.io import require_file

_ARRAYS = {"multiarray": {"_reconstruct", "scalar"}, "numeric": {"_frombuffer"}}
ALLOWED: dict[str, set[str]] = {
    "builtins": {"slice", "set", "frozenset", "list", "dict", "tuple", "bytearray", "complex", "range"},
    "collections": {"OrderedDict"},
    "numpy": {"ndarray", "dtype"},
    # NumPy 2 renamed numpy.core to numpy._core; pickles carry the name of the version that wrote them.
    **{f"numpy.core.{module}": names for module, names in _ARRAYS.items()},
    **{f"numpy._core.{module}": names for module, names in _ARRAYS.items()},
    "pandas": {"DataFrame", "Series", "Index", "RangeIndex"},  # as pandas 3 writes them
    "pandas.core.frame": {"DataFrame"},
    "pandas.core.series": {"Series"},
    "pandas.core.indexes.base": {"Index", "_new_Index"},
    "pandas.core.indexes.range": {"RangeIndex"},
    "pandas.core.internals.managers": {"BlockManager", "SingleBlockManager"},
    "pandas._libs.internals": {"_unpickle_block"},
    "torch._utils": {"_rebuild_parameter", "_rebuild_tensor_v2"},
    "torch.storage": {"_load_from_bytes"},
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
            return _load_torch(stream) if start.startswith(_ZIP) else _Unpickler(stream, path).load()
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
        if name not in ALLOWED.get(module, ()):
            self._refuse(module, name)
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            # torch's own function unpickles the bytes without any restriction.
            return _load_torch_bytes
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
