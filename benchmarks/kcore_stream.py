"""The k-core stage on a Parquet file of many interactions with power-law degrees: its time and its peak memory."""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from graphs import power_law
from harness import arguments, limit, record, run

from xrec_repro.contracts import INTERACTIONS, ITEMS
from xrec_repro.data.kcore import filter_kcore
from xrec_repro.io import write_table
from xrec_repro.seeding import numpy_rng

ROWS = 1_000_000  # written at a time
FULL, SMOKE = 100_000_000, 50_000
ALLOWED_SECONDS, ALLOWED_GB = 300, 12
K = 10
SETTINGS = {
    "rating_above": 3.0,
    "require_review": False,
    "require_item": [],
    "user_fraction": 1.0,
    "seed": 42,
    "k_user": K,
    "k_item": K,
}


def write_interactions(path: Path, count: int) -> None:
    """Write interactions of count/10 users and count/50 items with power-law degrees, all rated over 3."""
    with pq.ParquetWriter(path, INTERACTIONS) as writer:
        for block, start in enumerate(range(0, count, ROWS)):
            rng, size = numpy_rng(0, "stream", block), min(ROWS, count - start)
            users, items = (pa.array(power_law(rng, n, size)).cast(pa.string()) for n in (count // 10, count // 50))
            columns = [
                pc.binary_join_element_wise("U", users, ""),
                pc.binary_join_element_wise("I", items, ""),
                pa.array(rng.integers(4, 6, size).astype(np.float32)),
                pa.nulls(size, pa.int64()),
                pa.nulls(size, pa.string()),
            ]
            writer.write_batch(pa.record_batch(columns, schema=INTERACTIONS))


def _stage(folder: Path, result: Path) -> None:
    start = time.perf_counter()
    report = filter_kcore(
        folder / "interactions.parquet",
        folder / "items.parquet",
        SETTINGS,
        folder / "core.parquet",
        folder / "core_items.parquet",
    )
    used = {"seconds": time.perf_counter() - start, "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    result.write_text(json.dumps({**used, "report": report}), encoding="utf-8")


def check(folder: Path, whole: bool) -> None:
    """Check that every node of the core has enough neighbours and, where asked, that networkx finds the same core."""
    core = pq.read_table(folder / "core.parquet", columns=["user", "item", *(["user_id", "item_id"] if whole else [])])
    degrees = [np.bincount(core[side].to_numpy()) for side in ("user", "item")]
    assert min(side.min() for side in degrees) >= K, "a node of the core has too few neighbours"
    if whole:
        names = ["user_id", "item_id"]
        given = pq.read_table(folder / "interactions.parquet", columns=names).to_pylist()
        want = nx.k_core(nx.Graph(tuple(row.values()) for row in given), K)
        found = set(zip(*(core[name].to_pylist() for name in names), strict=True))
        assert found == {tuple(sorted(edge, reverse=True)) for edge in want.edges}, "networkx finds another core"


def main(args: argparse.Namespace) -> None:
    """Write the file, run the stage in a process of its own, check the core that it wrote."""
    edges = SMOKE if args.smoke else args.edges
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        write_interactions(folder / "interactions.parquet", edges)
        write_table(folder / "items.parquet", {field: [] for field in ITEMS.names}, ITEMS)
        process = multiprocessing.get_context("spawn").Process(target=_stage, args=(folder, folder / "used.json"))
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"the stage ended with code {process.exitcode}")
        used = json.loads((folder / "used.json").read_text(encoding="utf-8"))
        check(folder, whole=edges <= ROWS)
    data = f"{edges:,} generated interactions, from Parquet to Parquet"
    counts = {f"interactions: {step}": count for step, count in used["report"]["counts"].items()}
    facts = {"seconds": round(used["seconds"], 1), "peak GB": round(used["gb"], 2), **counts}
    if edges != FULL and not args.smoke:
        args.results = None
        print(f"{facts}; not written down: the claim is about {FULL:,} interactions")
    record(args, "kcore_stream", limit(used["seconds"], ALLOWED_SECONDS), data, facts)
    record(args, "kcore_memory", limit(used["gb"], ALLOWED_GB), data, facts)


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--edges", type=int, default=FULL, help="interactions (default: %(default)s)")
    parser.add_argument("--folder", help="where to put the files, about 3 GB for all (default: the system's)")
    return parser


if __name__ == "__main__":
    run(main, options())
