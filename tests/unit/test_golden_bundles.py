"""Golden bundles: those beside the checkout are found, and the committed cuts are verbatim parts of them."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.conftest import need
from tests.data.golden.cut import COPIES, PEPLER, XREC, cut
from tests.golden import COMMITTED, CORRECTIONS, CUT, SHARED, find, read_fields, rows_of, whole

LIMIT = 3_000_000  # bytes of all committed bundles


KINDS = [
    *("xrec", "bpr", "lightgcn", "baselines_metrics", "gavamoe_metrics"),
    *("att2seq", "nrt", "peter", "peter_plus", "pepler"),
]


@pytest.fixture
def bundles(shared):
    return shared / "data"


def test_bundles_outside_the_checkout_are_found():
    need(SHARED)
    assert [name for kind in KINDS for name in find(kind) if not name.startswith("committed/")], SHARED


@pytest.mark.parametrize("kind", KINDS)
def test_a_clone_alone_has_a_bundle_of_each_kind(kind):
    assert [name for name in find(kind) if name.startswith("committed/")]
    assert sum(path.stat().st_size for path in COMMITTED.rglob("*") if path.suffix != ".pyc") < LIMIT


def test_cuts_are_made_again_the_same(bundles, tmp_path):
    cut(bundles, tmp_path)
    made, committed = (
        {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}
        for folder in (tmp_path, COMMITTED)
    )
    assert {str(name) for name in committed.keys() - made.keys()} == {"README.md", "cut.py"}
    assert made.keys() <= committed.keys()
    for name, path in made.items():
        if name.name == CORRECTIONS:  # compressed, which another zlib may do otherwise
            ours, theirs = np.load(path), np.load(committed[name])
            assert ours.files == theirs.files
            assert all(np.array_equal(ours[key], theirs[key]) for key in ours.files)
        else:
            assert path.read_bytes() == committed[name].read_bytes(), name


def test_what_is_committed_is_a_verbatim_part_of_the_whole(bundles, tmp_path):
    for line in (COMMITTED / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((bundles / name).read_bytes()).hexdigest() == digest, name
    for name, source in COPIES.items():
        for path in (COMMITTED / name).iterdir():
            assert path.read_bytes() == (bundles / source / path.name).read_bytes()
    for name in (XREC, PEPLER):
        check_part(COMMITTED / Path(name).name, bundles / name, tmp_path)


def check_part(part, full, scratch):
    rows = read_fields(part / CUT)["rows"]
    numbers, restored = load_file(full / "golden.safetensors"), whole(part, scratch)
    for name, values in load_file(part / "golden.safetensors").items():
        kept = rows_of(name, rows)
        assert values.equal(numbers[name] if kept is None else numbers[name][kept]), name
    for path in restored.rglob("*"):
        if path.suffix in (".json", ".model") and path.name != CUT:
            assert path.read_bytes() == (full / path.relative_to(restored)).read_bytes()
        elif path.suffix == ".safetensors" and path.name != "golden.safetensors":
            ours, theirs = load_file(path), load_file(full / path.relative_to(restored))
            assert ours.keys() == theirs.keys()
            assert all(ours[name].equal(theirs[name]) for name in ours), path


def test_weights_that_are_not_the_original_ones_are_refused(tmp_path):
    part = next(iter(find("xrec").values()))
    copy = whole(part, tmp_path / "whole")
    assert (copy / "model/model.safetensors").stat().st_size > 10 * (part / "model/model.safetensors").stat().st_size
    text = (part / CUT).read_text().replace('"seed": 2', '"seed": 3')
    (copy / CUT).write_text(text)
    for name in ("model/model", "user_converter", "item_converter"):
        (copy / f"{name}.safetensors").write_bytes((part / f"{name}.safetensors").read_bytes())
    with pytest.raises(AssertionError, match=r"user_converter\.safetensors: restored weights are not the original"):
        whole(copy, tmp_path / "again")
