"""Audit of the released XRec data: sizes, leakage, references, order, lengths, and USR of the predictions."""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from xrec_repro.audit.facts import Finding, Sources, listing, published
from xrec_repro.contracts import RELEASED_EDGES, RELEASED_TEXTS
from xrec_repro.data.release import import_release
from xrec_repro.data.text import encodable
from xrec_repro.errors import DataError
from xrec_repro.io import read_table
from xrec_repro.safe_pickle import load_pickle

_SIZES = ("users", "items", "interactions")


@dataclass(frozen=True)
class Release:
    """The released data of one data set.

    Attributes:
        facts: The row of ``datasets.csv``.
        folder: Where they are.
        report: What `import_release` found.
        edges: Under ``RELEASED_EDGES``.
        texts: Reference explanations of the test pairs, in the order of ``tst.pkl``.
        predictions: Released predictions; empty if there are none.
        references: Their references, in the same order.
    """

    facts: Mapping[str, str]
    folder: Path
    report: Mapping[str, Any]
    edges: pd.DataFrame
    texts: Sequence[str]
    predictions: Sequence[str]
    references: Sequence[str]

    def files(self, *names: str) -> tuple[str, ...]:
        """Return names of files of the release for `Finding.files`; ``graph`` stands for those of the edges."""
        found = [*names]
        if "graph" in found:
            found.remove("graph")
            found += self.report["edge_sources"].values()
        return tuple(f"data/{self.folder.name}/{name}" for name in dict.fromkeys(found))


def check_release(sources: Sources) -> Iterator[Finding]:
    """Yield the findings about the released data: every check for every data set of ``datasets.csv``.

    What is not at hand, or cannot be read, is reported as not checked, with the reason.

    Raises:
        DataError: A file of ``resources/published`` is missing or malformed.
    """
    releases = {row["folder"]: _load(sources, row) for row in sources.datasets}
    for name, check in _CHECKS.items():
        for row in sources.datasets:
            release = releases[row["folder"]]
            why = release if isinstance(release, str) else _lacks(release, name)
            yield check(sources, release) if not why else _not_checked(name, row, why)


def _load(sources: Sources, row: Mapping[str, str]) -> Release | str:
    """Return the release, or why there is none."""
    if sources.data is None or not sources.data.is_dir():
        return "the released data are not at hand (--data)"
    folder = sources.data / row["folder"]
    if not folder.is_dir():
        return f"the released data have no folder {row['folder']}"
    try:
        with tempfile.TemporaryDirectory() as scratch:
            paths = [Path(scratch) / f"{name}.parquet" for name in ("interactions", "items", "edges", "texts")]
            report = import_release(folder, *paths)
            edges = read_table(paths[2], RELEASED_EDGES).to_pandas()
            texts = read_table(paths[3], RELEASED_TEXTS).to_pandas()
        files = _published_lists(folder)
        lists = [list(map(encodable, load_pickle(path))) if path.is_file() else [] for path in files]
    except DataError as error:
        return str(error)
    if lists[0] and lists[1] and len(lists[0]) != len(lists[1]):
        return f"{folder.name}: tst_pred.pkl has {len(lists[0])} texts and tst_ref.pkl {len(lists[1])}"
    own = texts.loc[texts["split"] == "test", "reference"].tolist()
    return Release(row, folder, report, edges, own, *lists)


def _published_lists(folder: Path) -> tuple[Path, Path]:
    return folder / "tst_pred.pkl", folder / "tst_ref.pkl"


def _lacks(release: Release, check: str) -> str | None:
    if check in _NEED_PREDICTIONS and not (release.predictions and release.references):
        return f"{release.folder.name} has no tst_pred.pkl or no tst_ref.pkl, or they are empty"
    if not release.texts:
        return f"{release.folder.name} has no tst.pkl"
    return None


def _not_checked(name: str, row: Mapping[str, str], why: str) -> Finding:
    return Finding(
        id=f"{name}.{row['folder']}",
        title=f"{row['dataset']}: {_TITLES[name]}",
        method="",
        files=(),
        printed="–",
        computed="–",
        verdict="not checked",
        comment=f"Not checked: {why}.",
    )


def _finding(name: str, release: Release, **parts: Any) -> Finding:
    title = f"{release.facts['dataset']}: {_TITLES[name]}"
    return Finding(id=f"{name}.{release.folder.name}", title=title, **parts)


def _check_sizes(sources: Sources, release: Release) -> Finding:
    edges = release.report["edges"]
    found = {"users": release.edges["user_id"].nunique(), "items": release.edges["item_id"].nunique()}
    found["interactions"] = sum(edges.values())
    rows = [row for row in sources.facts("datasets") if row["dataset"] == release.facts["dataset"]]
    details = [
        {"of": key, "source": row["source"], "printed": int(row[key]), "released": found[key]}
        for row in rows
        for key in _SIZES
    ]
    details.append(
        {
            "of": "test texts",
            "source": release.facts["source"],
            "printed": int(release.facts["test_texts"]),
            "released": len(release.texts),
        }
    )
    wrong = [detail for detail in details if detail["printed"] != detail["released"]]
    return _finding(
        "sizes",
        release,
        method="Distinct users and items of all edges of the released graph, and its edges.",
        files=(*release.files("graph", "tst.pkl"), *published("datasets")),
        printed=" / ".join(f"{int(release.facts[key]):,} {key}" for key in _SIZES),
        computed=" / ".join(f"{found[key]:,} {key}" for key in _SIZES),
        verdict="differs" if wrong else "agrees",
        comment=f"Not the same: {listing(dict.fromkeys(d['of'] for d in wrong))}." if wrong else "",
        details=tuple(details),
    )


def _check_core(sources: Sources, release: Release) -> Finding:
    key = f"core_k_{release.folder.name}"
    stated = sources.statements(key)[0] if sources.has_statement(key) else None
    least = {side: int(release.edges.groupby(f"{side}_id").size().min()) for side in ("user", "item")}
    return _finding(
        "core",
        release,
        method="Smallest number of edges that a user or an item has in the whole released graph.",
        files=(*release.files("graph"), *published("statements")),
        printed=f"k = {stated['value']} ({stated['source']}); the papers give none" if stated else "no k",
        computed=f"at least {least['user']} edges a user and {least['item']} an item",
        verdict="not checked" if not stated else "agrees" if str(min(least.values())) == stated["value"] else "differs",
        comment="A k-core of this size is expected to have users or items with just k edges."
        if stated
        else "Not checked: no k is stated for this data set.",
    )


def _check_usr(sources: Sources, release: Release) -> Finding:
    distinct = len({tuple(text.split()) for text in release.predictions})
    usr = distinct / len(release.predictions)
    row = sources.score("xrec_table1", release.facts["dataset"], "Ours", "xrec")
    return _finding(
        "usr",
        release,
        method="Distinct token sequences (split at white space) of tst_pred.pkl over all.",
        files=(*release.files("tst_pred.pkl"), *published("xrec_table1")),
        printed=f"{row.printed['usr']} (XRec table 1)",
        computed=f"{usr:.4f} ({distinct:,} of {len(release.predictions):,})",
        verdict="agrees" if f"{usr:.4f}" == row.printed["usr"] else "differs",
        comment="",
    )


def _check_leakage(_: Sources, release: Release) -> Finding:
    edges = release.report["edges"]
    pairs, leaked = len(release.texts), release.report["text_pairs_in_train_edges"]["test"]
    share = edges["train"] / sum(edges.values())
    expected, spread = share * pairs, math.sqrt(share * (1 - share) * pairs)
    return _finding(
        "leakage",
        release,
        method="Premise: a test pair is not one that any part of the system was trained on. Counted: pairs of tst.pkl "
        "that are train edges of the graph.",
        files=release.files("graph", "tst.pkl"),
        printed="no overlap is mentioned",
        computed=f"{leaked:,} of {pairs:,} ({leaked / pairs:.1%})",
        verdict="differs" if leaked else "agrees",
        comment=f"Graph and texts split independently would share {expected:,.0f}, give or take {spread:.0f}.",
    )


def _check_references(_: Sources, release: Release) -> Finding:
    missing = (Counter(release.references) - Counter(release.texts)).total()
    return _finding(
        "references",
        release,
        method="References of tst_ref.pkl that tst.pkl does not have, as multisets.",
        files=release.files("tst_ref.pkl", "tst.pkl"),
        printed="scored on the test set",
        computed=f"{missing:,} of {len(release.references):,} are missing from it",
        verdict="differs" if missing else "agrees",
        comment="The released predictions are of other pairs than the released test file." if missing else "",
    )


def _check_order(_: Sources, release: Release) -> Finding:
    same = sum(one == other for one, other in zip(release.references, release.texts, strict=False))
    shifted = [*release.references[1:], release.references[0]]
    own, other = (_mean_overlap(release.predictions, texts) for texts in (release.references, shifted))
    return _finding(
        "order",
        release,
        method="Positions at which tst_ref.pkl and tst.pkl hold the same text; and the mean share of words that a "
        "prediction has in common with its reference, against the next one.",
        files=release.files("tst.pkl", "tst_pred.pkl", "tst_ref.pkl"),
        printed="nothing; one would assume the order of tst.pkl",
        computed=f"{same:,} of {len(release.references):,} in place; words in common {own:.3f}, "
        f"with the next {other:.3f}",
        verdict="agrees" if same == len(release.references) else "differs",
        comment="Join with tst.pkl by the reference's text, not by position. Predictions and references "
        f"{'stand in one order' if own > other else 'do not stand in one order'}.",
    )


def _mean_overlap(one: Sequence[str], other: Sequence[str]) -> float:
    """Return the mean Jaccard similarity of the sets of words of texts, pair by pair."""
    total = 0.0
    for left, right in zip(one, other, strict=True):
        a, b = set(left.lower().split()), set(right.lower().split())
        total += len(a & b) / max(len(a | b), 1)
    return total / len(one)


def _check_lengths(sources: Sources, release: Release) -> Finding:
    most = int(sources.number("max_words_of_explanation"))
    details = []
    for name, texts in (("predictions", release.predictions), ("references", release.references)):
        words = [len(text.split()) for text in texts]
        over = sum(count > most for count in words)
        details.append({"texts": name, "mean": sum(words) / len(words), "longest": max(words), f"over {most}": over})
    over = sum(detail[f"over {most}"] for detail in details)
    return _finding(
        "lengths",
        release,
        method="Words, split at white space, of tst_pred.pkl and tst_ref.pkl.",
        files=(*release.files("tst_pred.pkl", "tst_ref.pkl"), *published("statements")),
        printed=f"at most {most} words ({sources.source('max_words_of_explanation')})",
        computed=listing(f"{d['texts']}: {d[f'over {most}']:,} longer, mean {d['mean']:.1f}" for d in details),
        verdict="differs" if over else "agrees",
        comment=f"Stated for {sources.statements('max_words_of_explanation')[0]['note']}.",
        details=tuple(details),
    )


def _check_zero_shot(sources: Sources, release: Release) -> Finding:
    trained = set(release.edges.loc[release.edges["split"] == "train", "user_id"])
    unseen = len(set(release.edges["user_id"]) - trained)
    texts = release.report["text_pairs_of_users_without_train_edge"]["test"]
    stated = sources.statements("zero_shot_users")[0]
    return _finding(
        "zero-shot",
        release,
        method="Users of the graph without a train edge, and test texts of such users.",
        files=(*release.files("graph", "tst.pkl"), *published("statements")),
        printed=f"users {stated['value']} ({stated['source']})",
        computed=f"{unseen} users, {texts} of {len(release.texts):,} test texts",
        verdict="agrees" if texts else "differs",
        comment=""
        if texts
        else "The released graph has train edges of every user: zero-shot can only mean unseen by the tuning.",
    )


_CHECKS: dict[str, Callable[[Sources, Release], Finding]] = {
    "sizes": _check_sizes,
    "core": _check_core,
    "usr": _check_usr,
    "leakage": _check_leakage,
    "references": _check_references,
    "order": _check_order,
    "lengths": _check_lengths,
    "zero-shot": _check_zero_shot,
}
_NEED_PREDICTIONS = frozenset({"usr", "references", "order", "lengths"})
_TITLES = {
    "sizes": "users, items and interactions",
    "core": "the k of the k-core",
    "usr": "USR of the released predictions",
    "leakage": "test pairs that the recommender was trained on",
    "references": "references of the predictions against the test file",
    "order": "order of the released predictions",
    "lengths": "length of the explanations",
    "zero-shot": "users that training never saw",
}
