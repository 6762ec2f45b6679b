"""Bundles of golden numbers, which the original code computed: where they are, and weights that a cut left out.

A bundle is a folder. Cuts of some are committed (``tests/data/golden``, see its README); whole ones, of any size, lie
in folders under ``$XREC_GOLDEN_ROOT`` (default ``../shared/data``). `each` runs a test with every bundle of a kind.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "tests/data/golden"
SHARED = Path(os.environ.get("XREC_GOLDEN_ROOT", ROOT.parent / "shared" / "data"))
FOLDERS = ("golden", "golden-baselines", "golden-gavamoe", "golden-recommenders")
# Bundles without a model named in their config.json are known by fields of their golden.json.
FIELDS = {
    "xrec": {"samples", "meta"},
    "baselines_metrics": {"references", "predictions", "expected"},
    "gavamoe_metrics": {"references", "predictions", "bleu", "distinct"},
}
CUT, CORRECTIONS = "cut.json", "corrections.npz"
CHUNK = 16  # numbers that torch draws together: 8 uniforms for radii, 8 for angles


def kind_of(folder: Path) -> str | None:
    """Return what a folder has numbers of: a model's name in lower case or a key of `FIELDS`; None if unknown."""
    config, numbers = (read_fields(folder / name) for name in ("config.json", "golden.json"))
    if "model" in config:
        return config["model"].lower()
    return next((kind for kind, fields in FIELDS.items() if fields <= numbers.keys()), None)


def read_fields(path: Path) -> dict:
    """Return what a JSON file holds; nothing if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def find(kind: str) -> dict[str, Path]:
    """Return the bundles of a kind, id -> folder: committed ones first."""
    places = {"committed": COMMITTED} | {name: SHARED / name for name in FOLDERS}
    return {
        f"{name}/{folder.name}": folder
        for name, place in places.items()
        for folder in (sorted(place.iterdir()) if place.is_dir() else [])
        if folder.is_dir() and kind_of(folder) == kind
    }


def each(kind: str, name: str = "bundle") -> pytest.MarkDecorator:
    """Give a test (or its fixture `name`) every bundle of a kind in turn."""
    found = find(kind)
    return pytest.mark.parametrize(name, found.values(), ids=found.keys(), indirect=name != "bundle", scope="module")


def whole(folder: Path, scratch: Path) -> Path:
    """Return a bundle with all its weights: itself, or its copy under `scratch` with the weights that were cut.

    Raises:
        AssertionError: The restored weights are not, bit for bit, those of the bundle that was cut.
    """
    cut = read_fields(folder / CUT)
    if "weights" not in cut:
        return folder
    copy = shutil.copytree(folder, scratch / folder.name)
    corrections = np.load(folder / CORRECTIONS)
    for file, weights in cut["weights"].items():
        tensors = load_file(folder / file)
        for name, drawn in weights["drawn"].items():
            matrix = redraw(**drawn, corrections=corrections[f"{file}:{name}"])
            tensors[name] = torch.cat([torch.from_numpy(matrix), tensors[name]]) if name in tensors else matrix
        tensors = {name: torch.as_tensor(values) for name, values in tensors.items()}
        assert digest(tensors) == weights["sha256"], f"{folder / file}: restored weights are not the original ones"
        save_file(tensors, copy / file, metadata={"format": "pt"})
    return copy


def rows_of(name: str, rows: Mapping[str, list[int]]) -> list[int] | None:
    """Return which rows of a tensor a cut kept, given ``rows`` of its `CUT`; None for all of them."""
    return next((kept for pattern, kept in rows.items() if fnmatch(name, pattern)), None)


def uniforms(seed: int, count: int) -> np.ndarray:
    """Return what torch's CPU generator draws under a seed: uint32 [count], of which 24 bits make a uniform."""
    return np.frombuffer(np.random.RandomState(seed).bytes(4 * count), "<u4") & 0xFFFFFF


def redraw(seed: int, offset: int, std: float, shape: tuple[int, int], corrections: np.ndarray | int = 0) -> np.ndarray:
    """Draw a matrix as torch did: Box and Muller's normal numbers from a place in the stream of a seed.

    Logarithm, sine and cosine are rounded to float32 from float64, and so do not depend on the machine. Torch's own
    differ in some last bits, and from CPU to CPU; `corrections` are those differences, in units in the last place.

    Args:
        seed: Of torch's generator.
        offset: Numbers drawn before.
        std: Standard deviation.
        shape: Rows and columns.
        corrections: int8 [rows, columns], added to the bits.

    Returns:
        float32 [rows, columns].
    """
    one = np.float32(1)
    draws = uniforms(seed, offset + shape[0] * shape[1])[offset:].reshape(-1, 2, CHUNK // 2).astype(np.float32)
    draws *= np.float32(2**-24)
    radius = np.sqrt(np.float32(-2) * np.log((one - draws[:, 0]).astype(float)).astype(np.float32))
    angle = (np.float32(2 * np.pi) * draws[:, 1]).astype(float)
    sides = [radius * turn(angle).astype(np.float32) * np.float32(std) for turn in (np.cos, np.sin)]
    return (np.stack(sides, 1).reshape(shape).view(np.int32) + corrections).astype(np.int32).view(np.float32)


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over names and bytes of tensors, by name."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return total.hexdigest()
