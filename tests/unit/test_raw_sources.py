"""Tables, Amazon 2023, several files a data set, and reviews that Google translated."""

import csv
import gzip
import json
import tracemalloc
from datetime import UTC, date, datetime

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xrec_repro.contracts import INTERACTIONS, ITEMS
from xrec_repro.data import raw_files, readers
from xrec_repro.data.readers import OWN_COLUMNS, read_raw
from xrec_repro.data.text import in_one_language
from xrec_repro.errors import DataError
from xrec_repro.io import read_table

COLUMNS = ["user", "item", "rating", "text", "time", "title", "description"]
MESSY = [
    ["u1", "i1", "5", "Dry humour &amp; wit.<br>Second\nline \U0001f600", "1420588800", "", "A <b>quiet</b> novel."],
    ["u2", "i1", "4.5", 'She said "read it", and I did', "2014-06-17 20:28:11", "The Tower\u200b", ""],
    ["ü3", "書籍", "3", "とても良い本です。", "", "塔 & <i>海</i>", "Two\nlines"],
    ["u1", "書籍", "1", "", "1420588800", "Another title", "Other words"],
]


def run(source, reviews, out, items=(), max_malformed=0.0, **options):
    written = out / "interactions.parquet", out / "items.parquet"
    report = read_raw(source, reviews, items, *written, max_malformed, **options)
    interactions = read_table(written[0], INTERACTIONS).to_pylist()
    return interactions, read_table(written[1], ITEMS).to_pylist(), report


def write_csv(path, rows, header=COLUMNS, delimiter=",", **options):
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as stream:
        csv.writer(stream, delimiter=delimiter, **options).writerows([header, *rows])
    return path


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


# --- Tables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "delimiter"), [("r.csv", ","), ("r.tsv", "\t"), ("r.txt", ";"), ("r", "|")])
def test_a_messy_table_is_read_whatever_parts_its_fields(tmp_path, name, delimiter):
    path = write_csv(tmp_path / name, MESSY, delimiter=delimiter)
    interactions, items, report = run("table", path, tmp_path)
    assert interactions == [
        {"user_id": "u1", "item_id": "i1", "rating": 5.0, "timestamp": 1420588800}
        | {"review": "Dry humour & wit.\nSecond\nline \U0001f600"},
        {"user_id": "u2", "item_id": "i1", "rating": 4.5, "timestamp": 1403036891}
        | {"review": 'She said "read it", and I did'},
        {"user_id": "ü3", "item_id": "書籍", "rating": 3.0, "timestamp": None, "review": "とても良い本です。"},
        {"user_id": "u1", "item_id": "書籍", "rating": 1.0, "timestamp": 1420588800, "review": None},
    ]
    nothing = {"categories": None, "city": None}
    assert items == [
        {"item_id": "i1", "title": "The Tower", "description": "A quiet novel."} | nothing,
        {"item_id": "書籍", "title": "塔 & 海", "description": "Two lines"} | nothing,
    ]
    counts = report[str(path)]
    assert (counts["lines"], counts["kept"], counts["malformed"], counts["cleaned"]) == (4, 4, 0, 3)
    assert report["items in the reviews"] == {"kept": 2}


def test_gzip_a_byte_order_mark_and_crlf_change_nothing(tmp_path):
    plain = write_csv(tmp_path / "r.csv", MESSY)
    wanted = run("table", plain, tmp_path)[:2]
    packed = tmp_path / "packed.csv"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    marked = write_csv(tmp_path / "marked.csv", MESSY, encoding="utf-8-sig", lineterminator="\n", quoting=csv.QUOTE_ALL)
    assert run("table", packed, tmp_path)[:2] == run("table", marked, tmp_path)[:2] == wanted


def test_rows_that_cannot_be_read_are_counted_by_their_lines(tmp_path):
    path = tmp_path / "r.csv"
    path.write_bytes(
        b"user,item,rating,text\n"
        b'u1,i1,5,"two\nlines"\n'  # lines 2 and 3
        b"\n"
        b"u2,i1,five,text\n"  # 5
        b",i1,5,text\n"
        b"u3,i1,,text\n"
        b"u4,i1,5,text,more\n"
        b"u5,i1,5,caf\xe9\n"
        b'u6,i1,5,"an open quote\n'  # 10 and 11
        b'u7,i1,5,"text"\n'
        b"u8,i1,nan,text\n"
        b"u9,i1,5,good\n"
    )
    interactions, _, report = run("table", path, tmp_path, max_malformed=0.9)
    assert [row["user_id"] for row in interactions] == ["u1", "u9"]
    counts = report[str(path)]
    assert {entry["line"]: entry["why"] for entry in counts["malformed_lines"]} == {
        5: "'rating' is no number: 'five'",
        6: "'user' is empty",
        7: "'rating' is empty",
        8: "5 fields under 4 columns",
        9: "not UTF-8",
        10: "not csv: ',' expected after '\"'",
        11: "not csv: ',' expected after '\"'",
        12: "'rating' is nan, out of range",
    }
    assert counts["lines"] == 10 and counts["malformed"] == 8
    with pytest.raises(DataError, match=r"r\.csv: 8 of 10 lines .* the first is line 5 .*raise read.max_malformed"):
        run("table", path, tmp_path)


def test_columns_have_the_names_that_the_configuration_gives(tmp_path):
    header = ["", "reviewer", "sku", "stars", "body", "when", "name", "blurb"]
    path = write_csv(tmp_path / "r.csv", [["0", *row] for row in MESSY], header)
    names = dict(zip(COLUMNS, header[1:], strict=True))
    wanted = run("table", write_csv(tmp_path / "own.csv", MESSY), tmp_path)[:2]
    assert run("table", path, tmp_path, columns=OWN_COLUMNS | names)[:2] == wanted
    with pytest.raises(DataError, match=r"no column 'user' \(found: '', 'reviewer', .*datasets.<name>.columns.user"):
        run("table", path, tmp_path)
    with pytest.raises(DataError, match=r"no column 'published' .*columns\.time"):
        run("table", path, tmp_path, columns=OWN_COLUMNS | names | {"time": "published"})
    twice = write_csv(tmp_path / "twice.csv", [], [*COLUMNS, "item"])
    with pytest.raises(DataError, match="column 'item' is there 2 times; keep one"):
        run("table", twice, tmp_path)


def test_a_table_needs_four_columns_alone(tmp_path):
    path = write_csv(tmp_path / "r.csv", [row[:4] for row in MESSY], COLUMNS[:4])
    interactions, items, _ = run("table", path, tmp_path, columns=OWN_COLUMNS | {"city": None})
    assert [row["timestamp"] for row in interactions] == [None] * 4
    assert [row["title"] for row in items] == [None, None]


def test_what_is_no_table_is_named(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("user,item,rating,text\nu,i,5,t\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"r\.csv: no column 'user' .*as UTF-8 with a header") as caught:
        run("table", path, tmp_path)
    str(caught.value).encode()
    path.write_bytes(b"PAR1 is how Parquet begins, and more of it does not follow")
    with pytest.raises(DataError, match=r"r\.csv: not a whole Parquet file") as caught:
        run("table", path, tmp_path)
    assert "\n" not in str(caught.value)


def test_parquet_may_have_columns_of_any_fitting_type(tmp_path):
    moment = datetime(2014, 6, 17, 20, 28, 11)
    table = pa.table(
        {
            "user": pa.array([1, 2, 3], pa.int64()),
            "item": pa.array([7.0, 7.0, None], pa.float64()),
            "rating": pa.array([5, 4, 3], pa.decimal128(3, 1)),
            "text": pa.array(["a<br>b", None, "c"]).dictionary_encode(),
            "time": pa.array([moment, None, moment], pa.timestamp("us", "UTC")),
            "title": pa.array([None, "The\nTower", "x"]),
            "other": pa.array([{"deep": 1}] * 3),
        }
    )
    path = tmp_path / "reviews.of-any-name"
    pq.write_table(table, path)
    interactions, items, report = run("table", path, tmp_path, max_malformed=0.5)
    seconds = int(moment.replace(tzinfo=UTC).timestamp())
    assert interactions == [
        {"user_id": "1", "item_id": "7", "rating": 5.0, "timestamp": seconds, "review": "a\nb"},
        {"user_id": "2", "item_id": "7", "rating": 4.0, "timestamp": None, "review": None},
    ]
    assert [(row["item_id"], row["title"]) for row in items] == [("7", "The Tower")]
    assert report[str(path)]["malformed_lines"] == [{"line": 3, "why": "'item' is empty"}]


@pytest.mark.parametrize("unit", [1, 10**3, 10**6])
def test_the_unit_of_a_table_s_times_is_judged(tmp_path, unit):
    rows = [["u", "i", 5, "t", time] for time in (1420588800 * unit, 0, "", "2015-01-07", "20150107")]
    interactions, _, _ = run("table", write_csv(tmp_path / "r.csv", rows, COLUMNS[:5]), tmp_path)
    assert [row["timestamp"] for row in interactions] == [1420588800, 0, None, 1420588800, 1420588800]


@pytest.mark.parametrize("day", [date(2015, 1, 7), pd.Timestamp("2015-01-07 01:00", tz="Europe/Oslo")])
def test_dates_of_pandas_are_times(tmp_path, day):
    pd.DataFrame([["u", "i", 5, "t", day]], columns=COLUMNS[:5]).to_parquet(tmp_path / "days.parquet")
    assert run("table", tmp_path / "days.parquet", tmp_path)[0][0]["timestamp"] == 1420588800


def test_items_may_have_a_table_of_their_own(tmp_path):
    reviews = write_csv(tmp_path / "r.csv", [row[:4] for row in MESSY], COLUMNS[:4])
    header = ["item", "title", "categories", "city"]
    items = write_csv(
        tmp_path / "i.tsv", [["i1", "T &amp; U", "Cafes, Bars", "Oslo"], ["i1", "V", "", ""]], header, "\t"
    )
    _, found, report = run("table", reviews, tmp_path, items)
    assert found == [
        {"item_id": "i1", "title": "T & U", "description": None, "categories": "Cafes, Bars", "city": "Oslo"}
    ]
    assert report[str(items)]["duplicates"] == 1


def test_batches_change_nothing(tmp_path, monkeypatch):
    rows = [[f"u{n}", f"i{n % 7}", 5, f"text {n}", 1420588800 + n, f"title {n}" * (n > 20), ""] for n in range(50)]
    path = write_csv(tmp_path / "r.csv", rows)
    wanted = run("table", path, tmp_path)[:2]
    assert [row["title"] for row in wanted[1]] == [f"title {n}" for n in (21, 22, 23, 24, 25, 26, 27)]
    monkeypatch.setattr(readers, "BATCH_ROWS", 3)
    monkeypatch.setattr(raw_files, "BATCH_ROWS", 4)
    pd.DataFrame(rows, columns=COLUMNS).to_parquet(tmp_path / "r.parquet")
    assert run("table", path, tmp_path)[:2] == run("table", tmp_path / "r.parquet", tmp_path)[:2] == wanted


def test_memory_does_not_grow_with_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "BATCH_ROWS", 250)
    peaks = {}
    for rows in (1_000, 6_000):
        content = ([f"u{n}", f"i{n % 9}", 5, f"{n} " + "word " * 100] for n in range(rows))
        path = write_csv(tmp_path / f"{rows}.csv", content, COLUMNS[:4])
        tracemalloc.start()
        try:
            report = read_raw("table", path, [], tmp_path / "a.parquet", tmp_path / "b.parquet", 0.0)
            peaks[rows] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert report[str(path)]["kept"] == rows
    assert peaks[6_000] < 1.2 * peaks[1_000]


# --- Amazon 2023 ----------------------------------------------------------------------------------------


def test_amazon_2023(tmp_path):
    review = {"user_id": "AE", "asin": "B1", "parent_asin": "P1", "rating": 5.0, "timestamp": 1588687728923}
    texts = {"title": "Great!", "text": "Dry wit<br />&#34;and&#34; heart", "images": [], "verified_purchase": True}
    old = {key: value for key, value in review.items() if key != "parent_asin"}
    reviews = write_lines(tmp_path / "r.jsonl", [review | texts, old | texts | {"text": ""}])
    items = write_lines(
        tmp_path / "i.jsonl",
        [
            {"parent_asin": "P1", "title": "The <i>Tower</i>", "description": ["One.", "Two &amp; three."]}
            | {"features": ["A novel.", ""], "categories": ["Books", "Fiction"], "main_category": "Books"},
            {"parent_asin": "B1", "title": None, "description": [], "features": [], "categories": []}
            | {"main_category": "Buy a Kindle", "price": None},
        ],
    )
    interactions, found, _ = run("amazon2023", reviews, tmp_path, items)
    assert interactions == [
        {"user_id": "AE", "item_id": "P1", "rating": 5.0, "timestamp": 1588687728} | {"review": 'Dry wit\n"and" heart'},
        {"user_id": "AE", "item_id": "B1", "rating": 5.0, "timestamp": 1588687728, "review": None},
    ]
    assert found == [
        {"item_id": "P1", "title": "The Tower", "description": "One. Two & three. A novel."}
        | {"categories": "Books, Fiction", "city": None},
        {"item_id": "B1", "title": None, "description": None, "categories": "Buy a Kindle", "city": None},
    ]


def test_the_other_edition_of_amazon_is_named(tmp_path):
    new = write_lines(tmp_path / "new.jsonl", [{"user_id": "A", "parent_asin": "P", "rating": 5, "timestamp": 0}])
    old = write_lines(tmp_path / "old.jsonl", [{"reviewerID": "A", "asin": "P", "overall": 5, "unixReviewTime": 0}])
    with pytest.raises(DataError, match="edition of 2023, which is read by source: amazon2023"):
        run("amazon", new, tmp_path, new)
    with pytest.raises(DataError, match="edition of 2018, which is read by source: amazon"):
        run("amazon2023", old, tmp_path, old)


# --- Several files --------------------------------------------------------------------------------------


def google(state, unit=1000, **changes):
    review = {"user_id": state, "gmap_id": "B", "rating": 5, "time": 1420588800 * unit, "text": f"In {state}."}
    return review | changes


def test_files_are_read_in_their_order_and_counted_each(tmp_path):
    second = write_lines(tmp_path / "a.jsonl", [google("Ohio", 10**6), {}])
    first = write_lines(tmp_path / "b.jsonl", [google("Iowa"), google("Utah", text="<b>x</b>")])
    items = [write_lines(tmp_path / f"i{n}.jsonl", [{"gmap_id": "B", "name": f"Name {n}"}]) for n in range(2)]
    interactions, found, report = run("google", [first, second], tmp_path, items, max_malformed=0.5)
    assert [row["user_id"] for row in interactions] == ["Iowa", "Utah", "Ohio"]
    assert {row["timestamp"] for row in interactions} == {1420588800}  # each file has its unit
    assert [row["title"] for row in found] == ["Name 0"]
    assert list(report) == [str(path) for path in (first, second, *items)]
    kept = [(one["lines"], one["kept"], one["malformed"], one["duplicates"]) for one in report.values()]
    assert kept == [(2, 2, 0, 0), (2, 1, 1, 0), (1, 1, 0, 0), (1, 0, 0, 1)]
    with pytest.raises(DataError, match=r"a\.jsonl: 1 of 2 lines"):
        run("google", [first, second], tmp_path, items)


# --- Translations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "translation", "original"),
    [
        ("(Translated by Google) Very good\n\n(Original)\nMuy bueno", "Very good", "Muy bueno"),
        ("Muy bueno\n\n(Translated by Google)\nVery good", "Very good", "Muy bueno"),
        ("(Translated by Google) Very good", "Very good", "Very good"),
        ("(Translated by Google)\n\n(Original)\n👍👍", "👍👍", "👍👍"),
        ("(translated by google) A (translated by google) B (original) C (Original) D", "A   B", "C   D"),
        ("A fine (Original) recipe", "A fine (Original) recipe", "A fine (Original) recipe"),
        ("(Translated by Google) (Original)", "", ""),
    ],
)
def test_one_part_of_a_translated_review_is_kept(text, translation, original):
    assert in_one_language(text, "translation") == translation
    assert in_one_language(text, "original") == original


@pytest.mark.parametrize(("keep", "text"), [("translation", "Good & cheap"), ("original", "Bueno y barato")])
def test_translated_reviews_are_counted(tmp_path, keep, text):
    banner = "(Translated by Google) Good &amp; cheap<br>(Original)<br>Bueno y barato"
    reviews = write_lines(tmp_path / "r.jsonl", [google("Utah", text=banner), google("Iowa")])
    items = write_lines(tmp_path / "i.jsonl", [{"gmap_id": "B", "name": "Name"}])
    interactions, _, report = run("google", reviews, tmp_path, items, translated=keep)
    assert [row["review"] for row in interactions] == [text, "In Iowa."]
    assert report[str(reviews)]["translated"] == 1
