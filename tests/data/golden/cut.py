"""Cut the committed bundles from the whole ones: ``python -m tests.data.golden.cut``; the README says what is kept.

No number is computed here: all that is kept is a verbatim part of a file named in ``SHA256SUMS``.
"""

import hashlib
import json
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from tests.golden import CHUNK, COMMITTED, CORRECTIONS, CUT, SHARED, digest, redraw, rows_of, uniforms

XREC = "golden/xrec-a"
COPIES = {  # folder here -> whole bundle, small enough to keep
    "bpr": "golden-recommenders/bpr",
    "lightgcn": "golden-recommenders/lightgcn",
    "baselines-metrics": "golden-baselines/metrics",
    **{name: f"golden-baselines/{name}" for name in ("att2seq", "nrt", "peter", "peter_plus")},
    "gavamoe-metrics": "golden-gavamoe/metrics",
}
VERBATIM = ["golden.json", "samples.json", "embeddings.safetensors", "model/tokenizer.model"] + [
    f"model/{name}.json"
    for name in ("config", "generation_config", "tokenizer", "tokenizer_config", "special_tokens_map")
]
WEIGHTS = {"model/model.safetensors": 0.1, "user_converter.safetensors": 0.3, "item_converter.safetensors": 0.3}
SEEDS, STREAM, SMALL = range(4), 1_000_000, 4096
PEPLER = "golden-baselines/pepler"
ROWS = {  # of PEPLER's tensors, the rows that are kept
    "*wte.weight": [*range(0, 327, 12), 327, 328, 329],
    "fwd.logits": [1],
    "fwd.first_step_logits": [0, 3],
    "discrete.logits_first_two": [1],
}
UNREAD = ("*.greedy_ids", "*.greedy_step_logits", "*.test_logits")


def cut(source: Path, target: Path) -> None:
    """Write all cuts.

    Args:
        source: Folder with the whole bundles.
        target: Where the cuts go, one folder a bundle.
    """
    sums = cut_xrec(source, target / Path(XREC).name) + cut_pepler(source, target / Path(PEPLER).name)
    for name, bundle in COPIES.items():
        shutil.copytree(source / bundle, target / name, copy_function=shutil.copyfile)
        sums += [path.relative_to(source) for path in (source / bundle).iterdir()]
    lines = [f"{hashlib.sha256((source / path).read_bytes()).hexdigest()}  {path}\n" for path in sorted(sums)]
    (target / "SHA256SUMS").write_text("".join(lines))


def cut_xrec(source: Path, target: Path) -> list[Path]:
    """Cut the bundle of XRec; return the files it was cut from, relative to `source`."""
    whole = source / XREC
    (target / "model").mkdir(parents=True)
    for name in VERBATIM:
        shutil.copyfile(whole / name, target / name)
    numbers, rows = cut_numbers(load_file(whole / "golden.safetensors"))
    save_file(numbers, target / "golden.safetensors")
    weights, corrections = {}, {}
    for file, std in WEIGHTS.items():
        tensors = load_file(whole / file)
        weights[file] = {"sha256": digest(tensors), "drawn": {}}
        for name in [name for name, values in tensors.items() if values.numel() > SMALL]:
            drawn, off = locate(tensors[name].numpy(), std)
            weights[file]["drawn"][name], corrections[f"{file}:{name}"] = drawn, off
            tensors[name] = tensors[name][drawn["shape"][0] :].clone()
        save_file({name: values for name, values in tensors.items() if values.numel()}, target / file)
    np.savez_compressed(target / CORRECTIONS, **corrections)
    (target / CUT).write_text(json.dumps({"rows": rows, "weights": weights}) + "\n")
    return [Path(XREC) / name for name in (*VERBATIM, "golden.safetensors", *WEIGHTS)]


def cut_pepler(source: Path, target: Path) -> list[Path]:
    """Thin the large tensors of PEPLER's bundle; return the files it was cut from, relative to `source`."""
    whole = source / PEPLER
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    (target / "model").mkdir(parents=True)
    for name in files:
        shutil.copyfile(whole / name, target / name)
    numbers = load_file(whole / "golden.safetensors")
    save_file(
        {n: v if (kept := rows_of(n, ROWS)) is None else v[kept].clone() for n, v in numbers.items()},
        target / "golden.safetensors",
    )
    (target / CUT).write_text(json.dumps({"rows": ROWS}) + "\n")
    return [Path(PEPLER) / name for name in files]


def cut_numbers(numbers: dict) -> tuple[dict, dict[str, list[int]]]:
    """Drop what no test reads and thin the large ones; return the rest and the rows kept, by pattern of names."""
    rows = {}
    for name, values in numbers.items():
        if name.endswith("train_labels"):  # the first label (<EXPLAIN_POS>) and every eighth, all of the vocabulary
            rows[name.replace("labels", "logits")] = (values.flatten() != -100).nonzero().flatten()[::8].tolist()
        elif name.endswith("lin.weight"):  # a row in the middle of each quarter
            rows["*lin.weight"] = list(range(len(values) // 8, len(values), len(values) // 4))
    numbers = {name: v for name, v in numbers.items() if not any(fnmatch(name, part) for part in UNREAD)}
    return {name: v if (kept := rows_of(name, rows)) is None else v[kept].clone() for name, v in numbers.items()}, rows


def locate(matrix: np.ndarray, std: float) -> tuple[dict, np.ndarray]:
    """Find a random matrix in the streams of small seeds; rows appended to it later are not part of what is found.

    Returns:
        The arguments of `redraw` that make the matrix, and the corrections.

    Raises:
        ValueError: It is in none of them.
    """
    cosine, sine = matrix.ravel()[:CHUNK].astype(float).reshape(2, -1)
    turns = np.arctan2(sine, cosine) % (2 * np.pi) / (2 * np.pi) * 2**24
    for seed in SEEDS:
        stream = uniforms(seed, STREAM)[CHUNK // 2 :].astype(float)
        for offset in np.flatnonzero(np.abs(stream - turns[0]) < 64):
            if np.abs(stream[offset : offset + len(turns)] - turns).max() > 64:
                continue
            for count in (len(matrix), len(matrix) - 4):
                drawn = {"seed": seed, "offset": int(offset), "std": std, "shape": [count, matrix.shape[1]]}
                off = matrix[:count].view(np.int32).astype(int) - redraw(**drawn).view(np.int32)
                if np.abs(off).max() < 128:
                    return drawn, off.astype(np.int8)
    raise ValueError(f"a matrix {matrix.shape} is in no stream of seeds {SEEDS}")


if __name__ == "__main__":
    for old in [*COPIES, Path(XREC).name, Path(PEPLER).name]:
        shutil.rmtree(COMMITTED / old, ignore_errors=True)
    cut(Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED, COMMITTED)
