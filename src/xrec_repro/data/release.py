"""The released XRec data (github.com/HKUDS/XRec, ``data/<name>/``) as tables.

A release is a folder of one graph, already split and with integer ids, and of texts for some of its pairs.
Two layouts occur: every split of the graph as ``total_{trn,val,tst}.csv``, or some splits only inside
``para_dict.pickle`` as lists of neighbours.
"""

import csv
import logging
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from xrec_repro.contracts import INTERACTIONS, ITEMS, RELEASED_EDGES, RELEASED_TEXTS
from xrec_repro.data.text import encodable
from xrec_repro.errors import DataError
from xrec_repro.io import require_file, write_table
from xrec_repro.safe_pickle import load_pickle

log = logging.getLogger("xrec_repro")

SPLITS = {"train": "trn", "val": "val", "test": "tst"}
# Column of the release -> column of RELEASED_TEXTS.
TEXT_COLUMNS = {
    "title": "title",
    "user_summary": "user_profile",
    "item_summary": "item_profile",
    "explanation": "reference",
}
TIME_FORMAT = "%m %d, %Y"  # "01 7, 2015"
_MAX_ID = 2**31


class Sizes(NamedTuple):
    """The numbers of users and items that para_dict.pickle declares; ids run from 0."""

    user: int = _MAX_ID
    item: int = _MAX_ID


def import_release(
    folder: str | Path,
    out_interactions: str | Path,
    out_items: str | Path,
    out_edges: str | Path,
    out_texts: str | Path,
) -> dict[str, Any]:
    """Turn a released folder into INTERACTIONS, ITEMS, RELEASED_EDGES and RELEASED_TEXTS.

    Ids become the strings of the released integers. Edges stand in the order train, val, test, within a split
    in that of the csv file, or user by user where only para_dict.pickle has the split. Ratings and reviews are
    null: the release has none. Items are those of the edges and texts by ascending id; only titles are known.

    Args:
        folder: The released folder.
        out_interactions: Parquet to write.
        out_items: Parquet to write.
        out_edges: Parquet to write.
        out_texts: Parquet to write; pairs without an explanation are dropped.

    Returns:
        What was found: sizes, sources, duplicates, and how the texts relate to the train edges.

    Raises:
        DataError: A file or column is missing, or an id, a time or a text is not what it must be.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; set datasets.<name>.paths.folder, or download, to a release")
    para_path = folder / "para_dict.pickle"
    para = _read_para(para_path) if para_path.is_file() else {}
    sizes = Sizes(para["user_num"], para["item_num"]) if para else Sizes()
    edges = pd.concat([_read_edges(folder, split, para, sizes) for split in SPLITS], ignore_index=True)
    texts, dropped = _read_texts(folder, sizes)
    items = _list_items(edges, texts)
    report = _describe(edges, texts, items, dropped)
    report["published"] = _compare_published(folder, texts)
    nothing = [None] * len(edges)
    edges = _string_ids(edges)
    write_table(out_interactions, {**edges, "rating": nothing, "review": nothing}, INTERACTIONS)
    write_table(out_edges, edges, RELEASED_EDGES)
    write_table(out_texts, _string_ids(texts), RELEASED_TEXTS)
    blank = [None] * len(items)
    columns = {"item_id": items["item"].astype(str), "title": items["title"]}
    write_table(out_items, {**columns, "description": blank, "categories": blank, "city": blank}, ITEMS)
    log.info("%s: %s", folder, report)
    return report


def load_published_embeddings(folder: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the released user and item embeddings (torch parameters in plain pickles).

    Returns:
        float32 arrays of shape (users, dim) and (items, dim); row = released id.

    Raises:
        DataError: A file is missing or does not hold a finite matrix, or the widths differ.
    """
    users, items = (_read_matrix(Path(folder) / f"{side}_emb.pkl") for side in ("user", "item"))
    if users.shape[1] != items.shape[1]:
        raise DataError(
            f"{folder}: user_emb.pkl is {users.shape[1]} wide and item_emb.pkl {items.shape[1]}; "
            f"take both from the same release"
        )
    return users, items


def _read_matrix(path: Path) -> np.ndarray:
    require_file(path, "a release with published embeddings has user_emb.pkl and item_emb.pkl")
    value = load_pickle(path)
    if hasattr(value, "detach"):
        value = value.detach().float().numpy()
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind != "f":
        raise DataError(f"{path}: holds no matrix of numbers but {type(value).__name__}; take the released file")
    if not np.isfinite(value).all():
        raise DataError(f"{path}: holds numbers that are not finite; take the released file")
    return np.array(value, dtype=np.float32, order="C")


# --- The graph ------------------------------------------------------------------------------------------


def _read_para(path: Path) -> dict[str, Any]:
    para = load_pickle(path)
    for key in ("user_num", "item_num"):
        if not isinstance(para, dict) or not isinstance(para.get(key), int):
            raise DataError(f"{path}: {key!r} is not a whole number in it; take the released file")
    return para


def _read_edges(folder: Path, split: str, para: dict[str, Any], sizes: Sizes) -> pd.DataFrame:
    """Return the edges of one split: columns user, item, timestamp, split, source."""
    short = SPLITS[split]
    path, key = folder / f"total_{short}.csv", f"{short}_user_nb"
    if path.is_file():
        edges = _read_csv_edges(path, sizes)
    elif key in para:
        path = folder / "para_dict.pickle"
        edges = _expand_neighbours(path, key, para[key], sizes)
    else:
        raise DataError(f"{path}: no such file; a release has it (columns user, item), or {key!r} in para_dict.pickle")
    if edges.empty:
        raise DataError(f"{path}: no edge of the {split} split in it; take the released file")
    return edges.assign(split=split, source=path.name)


def _read_csv_edges(path: Path, sizes: Sizes) -> pd.DataFrame:
    raw, lines = _read_csv(path)
    _require_columns(path, raw, ("user", "item"))
    edges = pd.DataFrame(
        {side: _checked_ids(path, side, raw[side], getattr(sizes, side), lines) for side in ("user", "item")}
    )
    times = raw["Time"] if "Time" in raw else pd.Series([""] * len(raw), dtype=object)
    moments = pd.to_datetime(times, format=TIME_FORMAT, errors="coerce", utc=True)
    wrong = np.flatnonzero(moments.isna() & (times != ""))
    if len(wrong):
        raise DataError(f"{path}: line {lines[wrong[0]]}: Time {times[wrong[0]]!r} is not of the form '01 7, 2015'")
    edges["timestamp"] = ((moments - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1)).astype("Int64")
    return edges


def _read_csv(path: Path) -> tuple[pd.DataFrame, list[int]]:
    """Return a table of texts, and the line in which each row begins: a field in quotes may hold commas and line ends.

    Blank lines are passed over, and so are blank fields behind a row's last.
    """
    rows: list[list[str]] = []
    lines: list[int] = []
    begun = 1
    with require_file(path).open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            for row in reader:
                if any(row):
                    rows.append(row)
                    lines.append(begun)
                begun = reader.line_num + 1
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not a table: not UTF-8 ({error.reason}); download it again") from error
        except csv.Error as error:
            raise DataError(f"{path}: not a table: the row of line {begun}: {error}; mend the file") from error
    header = [name.strip() for name in rows[0]] if rows else []
    for line, row in zip(lines, rows, strict=True):
        if len(row) < len(header) or any(row[len(header) :]):
            raise DataError(
                f"{path}: not a table: line {line} has {len(row)} fields and the header {len(header)}; mend the file "
                "(a field that holds a comma stands in quotes)"
            )
    cells = pd.DataFrame([row[: len(header)] for row in rows[1:]], columns=header, dtype=object)
    return cells, lines[1:]


def _expand_neighbours(path: Path, key: str, neighbours: Any, sizes: Sizes) -> pd.DataFrame:
    if not isinstance(neighbours, list) or not all(isinstance(row, list) for row in neighbours):
        raise DataError(f"{path}: {key!r} is not a list of lists of items; take the released file")
    if len(neighbours) > sizes.user:
        raise DataError(f"{path}: {key!r} has {len(neighbours)} users and user_num is {sizes.user}")
    items = pd.Series(list(chain.from_iterable(neighbours)), dtype=object)
    return pd.DataFrame(
        {
            "user": np.repeat(np.arange(len(neighbours)), [len(row) for row in neighbours]),
            "item": _checked_ids(path, key, items, sizes.item),
            "timestamp": pd.array([pd.NA] * len(items), dtype="Int64"),
        }
    )


def _checked_ids(path: Path, column: str, raw: pd.Series, size: int, lines: Sequence[int] | None = None) -> np.ndarray:
    """Return ids as int64, or name the first row with none in [0, size): by its line in a file of text, else from 0."""
    numbers = raw if raw.dtype.kind in "iuf" else raw.astype(object).map(_number_or_none)
    values = pd.to_numeric(numbers, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    for wrong, why in (
        (~(np.isfinite(values) & (np.floor(values) == values)), "is not a whole number"),
        (values < 0, "is negative"),
        (values >= size, f"is not below {size}, the number of ids (para_dict.pickle)"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            place = f"row {row}" if lines is None else f"line {lines[row]}"
            raise DataError(f"{path}: {place}: {column} '{_shown(raw.iloc[row])}' {why}; mend the file")
    return values.astype(np.int64)


def _number_or_none(value: Any) -> Any:
    """Return what pandas can be asked to read as a number: of lists and the like it would make an error of its own."""
    if isinstance(value, int) and (isinstance(value, bool) or value.bit_length() > 1000):
        return None
    return value if isinstance(value, str | int | float | np.number) else None


def _shown(value: Any) -> str:
    try:
        text = str(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        text = "an integer of thousands of digits"
    return text if len(text) <= 60 else f"{text[:59]}…"


def _require_columns(path: Path, table: pd.DataFrame, needed: tuple[str, ...]) -> None:
    present = list(table.columns)
    for name in needed:
        if name not in present:
            found = ", ".join(map(str, present)) or "none"
            raise DataError(f"{path}: column {name!r} is missing (found: {found}); a release has {', '.join(needed)}")
    for name in present:
        if present.count(name) > 1:
            raise DataError(f"{path}: column {name!r} is there {present.count(name)} times; keep one")


# --- The texts ------------------------------------------------------------------------------------------


def _read_texts(folder: Path, sizes: Sizes) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the texts of all splits at hand, and how many pairs of each had no explanation."""
    parts, dropped = [], {}
    for split, short in SPLITS.items():
        path = folder / f"{short}.pkl"
        if path.is_file():
            part = _read_text_file(path, sizes)
            told = part["reference"].map(lambda text: bool(text and text.strip())).astype(bool)
            dropped[split] = int((~told).sum())
            parts.append(part[told].assign(split=split))
    if not parts:
        raise DataError(f"{folder}: no texts; a release has at least one of trn.pkl, val.pkl, tst.pkl")
    if sum(dropped.values()):
        log.warning("%s: dropped pairs without an explanation: %s", folder, dropped)
    texts = pd.concat(parts, ignore_index=True)
    if texts.empty:
        raise DataError(f"{folder}: no pair has an explanation; take the released trn.pkl, val.pkl, tst.pkl")
    return texts, dropped


def _read_text_file(path: Path, sizes: Sizes) -> pd.DataFrame:
    value = load_pickle(path)
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        value = pd.DataFrame(value, dtype=object)  # the authors' process/separate.py writes this form
    if not isinstance(value, pd.DataFrame):
        raise DataError(f"{path}: neither a DataFrame nor a list of dicts but {type(value).__name__}")
    _require_columns(path, value, ("uid", "iid", *TEXT_COLUMNS))
    texts = pd.DataFrame(
        {
            "user": _checked_ids(path, "uid", value["uid"], sizes.user),
            "item": _checked_ids(path, "iid", value["iid"], sizes.item),
        }
    )
    for released, name in TEXT_COLUMNS.items():
        column = value[released].astype(object).reset_index(drop=True)
        wrong = np.flatnonzero(column.notna() & ~column.map(lambda text: isinstance(text, str)))
        if len(wrong):
            raise DataError(f"{path}: row {wrong[0]}: {released} is {type(column[wrong[0]]).__name__}, not text")
        written = [encodable(text) if isinstance(text, str) else None for text in column]
        texts[name] = pd.Series(written, dtype=object)
    return texts


# --- What comes out -------------------------------------------------------------------------------------


def _string_ids(table: pd.DataFrame) -> dict[str, Any]:
    named = table.assign(user_id=table["user"].astype(str), item_id=table["item"].astype(str))
    return {name: named[name] for name in named}


def _list_items(edges: pd.DataFrame, texts: pd.DataFrame) -> pd.DataFrame:
    """Return all items by ascending id, with the first title that the texts give them, else null."""
    titles = texts.dropna(subset="title").drop_duplicates("item").set_index("item")["title"]
    ids = np.union1d(edges["item"], texts["item"])
    return pd.DataFrame({"item": ids, "title": titles.reindex(ids).to_numpy(dtype=object, na_value=None)})


def _describe(edges: pd.DataFrame, texts: pd.DataFrame, items: pd.DataFrame, dropped: dict[str, int]) -> dict[str, Any]:
    keys = _pair_keys(edges)
    train = keys[edges["split"] == "train"]
    known_users = set(edges.loc[edges["split"] == "train", "user"])
    text_keys = _pair_keys(texts)
    by_split = texts["split"]
    return {
        "users": int(pd.concat([edges["user"], texts["user"]]).nunique()),
        "items": len(items),
        "edges": _sizes(edges["split"]),
        "edge_sources": edges.groupby("split", sort=False)["source"].first().to_dict(),
        "duplicate_edges": int(keys.duplicated().sum()),
        "texts": _sizes(by_split),
        "texts_without_explanation": dropped,
        "duplicate_text_pairs": int(text_keys.duplicated().sum()),
        "text_pairs_in_train_edges": _sizes(by_split[text_keys.isin(train)]),
        "text_pairs_not_in_graph": _sizes(by_split[~text_keys.isin(keys)]),
        "text_pairs_of_users_without_train_edge": _sizes(by_split[~texts["user"].isin(known_users)]),
        "items_with_title": int(items["title"].notna().sum()),
    }


def _pair_keys(table: pd.DataFrame) -> pd.Series:
    return table["user"] * _MAX_ID + table["item"]


def _sizes(splits: pd.Series) -> dict[str, int]:
    return {split: int((splits == split).sum()) for split in SPLITS}


def _compare_published(folder: Path, texts: pd.DataFrame) -> dict[str, int]:
    """Count the released predictions, and the released references that no test text has (as multisets)."""
    lists = {}
    for name in ("pred", "ref"):
        path = folder / f"tst_{name}.pkl"
        if path.is_file():
            lists[name] = load_pickle(path)
            if not isinstance(lists[name], list) or not all(isinstance(text, str) for text in lists[name]):
                raise DataError(f"{path}: not a list of texts; take the released file")
            lists[name] = list(map(encodable, lists[name]))
    published = {"predictions": len(lists.get("pred", ())), "references": len(lists.get("ref", ()))}
    own = Counter(texts.loc[texts["split"] == "test", "reference"])
    published["references_not_in_test_texts"] = (Counter(lists.get("ref", ())) - own).total()
    return published
