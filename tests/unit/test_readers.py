import gzip
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xrec_repro.contracts import INTERACTIONS, ITEMS
from xrec_repro.data import raw_files, readers
from xrec_repro.data.readers import read_raw
from xrec_repro.data.text import tidy_lines, without_markup
from xrec_repro.errors import DataError
from xrec_repro.io import read_table

RAW = Path(__file__).parents[1] / "data"
SOURCES = ["amazon", "yelp", "google"]
# Why each bad line of reviews_malformed.jsonl is bad, by line number.
MALFORMED = {
    "amazon": {
        5: "not JSON",
        6: "'reviewerID' is missing",
        7: "'overall' is str",
        8: "not UTF-8 at byte",
        9: "not a JSON object but list",
        10: "'overall' is nan",
        11: "'reviewerID' is empty",
        12: "'unixReviewTime' is no time",
        13: "half a surrogate pair",
    },
    "yelp": {4: "'date' is no date", 5: "'stars' is bool", 6: "'business_id' is missing"},
    "google": {
        4: "'time' is NoneType",
        5: "'rating' is NoneType",
        6: "'text' is list",
        7: "'gmap_id' is int",
    },
}


def run(source, reviews, items, out, max_malformed=0.0):
    report = read_raw(source, reviews, items, out / "interactions.parquet", out / "items.parquet", max_malformed)
    return (
        read_table(out / "interactions.parquet", INTERACTIONS).to_pylist(),
        {row["item_id"]: row for row in read_table(out / "items.parquet", ITEMS).to_pylist()},
        report,
    )


def run_source(source, out):
    return run(source, RAW / source / "reviews.jsonl", RAW / source / "items.jsonl", out)


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def amazon_review(**changes):
    return {"reviewerID": "U", "asin": "B", "overall": 5.0, "unixReviewTime": 0, "reviewText": "Good."} | changes


def google_review(**changes):
    return {"user_id": "U", "gmap_id": "B", "rating": 5, "time": 0, "text": "Good."} | changes


def amazon_item(**changes):
    return {"asin": "B", "title": "T", "description": ["D"], "category": ["Books"]} | changes


@pytest.mark.parametrize("source", SOURCES)
def test_every_good_line_is_kept_in_order(tmp_path, source):
    interactions, items, report = run_source(source, tmp_path)
    raw = [json.loads(line) for line in (RAW / source / "reviews.jsonl").read_text(encoding="utf-8").splitlines()]
    rating = {"amazon": "overall", "yelp": "stars", "google": "rating"}[source]
    assert [row["rating"] for row in interactions] == [record[rating] for record in raw]
    counts = report[str(RAW / source / "reviews.jsonl")]
    nothing = dict.fromkeys(("cleaned", "duplicates", "malformed"), 0) | {"malformed_lines": []}
    translated = {"amazon": 0, "yelp": 0, "google": 3}[source]
    assert counts == {"lines": len(raw), "kept": len(raw), "translated": translated} | nothing
    assert {row["item_id"] for row in interactions} <= set(items)


def test_amazon_fields(tmp_path):
    interactions, items, report = run_source("amazon", tmp_path)
    assert interactions[0] == {
        "user_id": "A1ALDER",
        "item_id": "0001000001",
        "rating": 5.0,
        "timestamp": 1420588800,
        "review": "Read it in one sitting; the harbour scenes stay with you.",
    }
    assert interactions[5]["review"] is None  # stars only
    assert interactions[6]["review"] == "Ich habe es zweimal gelesen: großartig!"
    assert items["0001000001"] == {
        "item_id": "0001000001",
        "title": "The Salt Road",
        "description": "Two sisters carry salt & secrets across a desert. A novel",
        "categories": "Books, Literature & Fiction",
        "city": None,
    }
    assert items["0001000002"]["description"] == "A keeper answers every letter he gets."
    assert items["0001000003"]["description"] is None and items["0001000003"]["categories"] is None
    assert items["0001000004"]["description"] == "When 3 < 5 and x > y, love follows."
    assert items["0001000005"]["title"] is None  # a page script that the crawler took for a title
    assert items["0001000006"]["description"] == "Untitled proof copy"
    assert report[str(RAW / "amazon/items.jsonl")]["duplicates"] == 1


def test_yelp_fields(tmp_path):
    interactions, items, _ = run_source("yelp", tmp_path)
    assert interactions[0]["timestamp"] == 1530482951  # 2018-07-01 22:09:11 UTC
    assert items["bz-quay-espresso-000001"] == {
        "item_id": "bz-quay-espresso-000001",
        "title": "Quay Espresso",
        "description": None,
        "categories": "Coffee & Tea, Cafes, Breakfast & Brunch",
        "city": "Tampa",
    }
    assert items["bz-unlisted-00000004"]["categories"] is None
    assert items["bz-lacking-city-00005"]["city"] is None


def test_google_fields(tmp_path):
    interactions, items, _ = run_source("google", tmp_path)
    assert interactions[0]["timestamp"] == 1609909927  # milliseconds in the raw file
    assert interactions[1]["review"] is None
    assert items["0x88f1:0x02"] == {
        "item_id": "0x88f1:0x02",
        "title": "Books, Beans & Co",
        "description": "Shelves, sofas and single-origin coffee.",
        "categories": "Book store, Coffee shop",
        "city": "Kendallville",
    }
    cities = {item_id[-2:]: row["city"] for item_id, row in items.items()}
    assert cities == {"01": "Cochran", "02": "Kendallville", "03": "St. Louis", "04": None, "05": None}


TIMES = [1420588800, 0, 946598400, -5, 1700000000]  # seconds


@pytest.mark.parametrize("unit", [1, 10**3, 10**6])
@pytest.mark.parametrize("source", ["amazon", "google"])
def test_the_unit_of_a_file_s_times_is_judged_by_their_years(tmp_path, caplog, source, unit):
    review = {"amazon": amazon_review, "google": google_review}[source]
    key = {"amazon": "unixReviewTime", "google": "time"}[source]
    lines = write_lines(tmp_path / "r.jsonl", [review(**{key: time * unit}) for time in TIMES])
    interactions, _, _ = run(source, lines, RAW / source / "items.jsonl", tmp_path)
    assert [row["timestamp"] for row in interactions] == TIMES
    usual = {"amazon": 1, "google": 1000}[source]
    assert ("read so" in caplog.text) == (unit != usual)


def test_times_in_another_unit_than_the_file_s_are_malformed(tmp_path):
    given = [1420588800, 1420588800_000, 1420588800_000, 1420588800_000_000, 0, 1420588800_500]
    lines = write_lines(tmp_path / "r.jsonl", [amazon_review(unixReviewTime=time) for time in given])
    interactions, _, report = run("amazon", lines, RAW / "amazon/items.jsonl", tmp_path, max_malformed=0.5)
    assert [row["timestamp"] for row in interactions] == [1420588800, 1420588800, 0, 1420588800]
    assert report[str(lines)]["malformed_lines"] == [
        {"line": 1, "why": "'unixReviewTime' is no time in milliseconds, which the file has: 1420588800"},
        {"line": 4, "why": "'unixReviewTime' is no time in milliseconds, which the file has: 1420588800000000"},
    ]
    with pytest.raises(DataError, match="2 of 6 lines .* the first is line 1 .*no time in milliseconds"):
        run("amazon", lines, RAW / "amazon/items.jsonl", tmp_path)


def test_times_that_tell_nothing_are_in_the_usual_unit(tmp_path):
    lines = write_lines(tmp_path / "r.jsonl", [google_review(time=time) for time in (0, 5000, -86_400_000)])
    interactions, _, _ = run("google", lines, RAW / "google/items.jsonl", tmp_path)
    assert [row["timestamp"] for row in interactions] == [0, 5, -86_400]


@pytest.mark.parametrize("time", ["NaN", "Infinity", '"1420588800"', "null", "true", "1e300", "1" * 30])
def test_what_is_no_time_is_malformed(tmp_path, time):
    good = json.dumps(amazon_review(unixReviewTime=1420588800))
    lines = tmp_path / "r.jsonl"
    lines.write_text(f"{good}\n{good.replace('1420588800', time)}\n")
    interactions, _, report = run("amazon", lines, RAW / "amazon/items.jsonl", tmp_path, max_malformed=0.5)
    assert len(interactions) == 1
    assert report[str(lines)]["malformed_lines"][0]["why"].startswith("'unixReviewTime' is ")


@pytest.mark.parametrize("source", SOURCES)
def test_malformed_lines_are_counted_and_named(tmp_path, source, caplog):
    reviews = RAW / source / "reviews_malformed.jsonl"
    interactions, _, report = run(source, reviews, RAW / source / "items.jsonl", tmp_path, max_malformed=0.9)
    counts = report[str(reviews)]
    assert {entry["line"] for entry in counts["malformed_lines"]} == set(MALFORMED[source])
    for entry in counts["malformed_lines"]:
        assert MALFORMED[source][entry["line"]] in entry["why"]
    assert counts["malformed"] == len(MALFORMED[source])
    assert counts["lines"] - counts["malformed"] == counts["kept"] == len(interactions) > 0
    assert "reviews_malformed.jsonl" in caplog.text


@pytest.mark.parametrize("source", SOURCES)
def test_too_many_malformed_lines_stop_and_leave_nothing(tmp_path, source):
    reviews = RAW / source / "reviews_malformed.jsonl"
    with pytest.raises(DataError) as caught:
        run(source, reviews, RAW / source / "items.jsonl", tmp_path, max_malformed=0.05)
    message = str(caught.value)
    count, first = len(MALFORMED[source]), min(MALFORMED[source])
    assert str(reviews) in message and f"{count} of " in message and f"line {first} " in message
    assert "read.max_malformed" in message and "%" in message and "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_bad_items_leave_no_interactions_behind(tmp_path):
    items = tmp_path / "items.jsonl"
    items.write_text("{}\n")
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"items\.jsonl: 1 of 1 lines \(100\.00%\)"):
        run("amazon", RAW / "amazon/reviews.jsonl", items, out)
    assert list(out.iterdir()) == []


def test_share_at_the_limit_is_accepted(tmp_path):
    reviews = write_lines(tmp_path / "r.jsonl", [amazon_review(), {}, amazon_review(), amazon_review()])
    items = write_lines(tmp_path / "i.jsonl", [amazon_item()])
    interactions, _, _ = run("amazon", reviews, items, tmp_path, max_malformed=0.25)
    assert len(interactions) == 3
    with pytest.raises(DataError):
        run("amazon", reviews, items, tmp_path, max_malformed=0.2499)


def test_only_the_first_malformed_lines_are_listed(tmp_path):
    reviews = write_lines(tmp_path / "r.jsonl", [{}] * 50 + [amazon_review()])
    items = write_lines(tmp_path / "i.jsonl", [amazon_item()])
    _, _, report = run("amazon", reviews, items, tmp_path, max_malformed=1.0)
    counts = report[str(reviews)]
    assert counts["malformed"] == 50
    assert [entry["line"] for entry in counts["malformed_lines"]] == list(range(1, 21))


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_truncated_gzip_stops_whatever_the_limit(tmp_path, keep):
    records = [amazon_review(reviewText=f"Text {number * 7919 % 104729}") for number in range(3000)]
    whole = gzip.compress(write_lines(tmp_path / "r.jsonl", records).read_bytes())
    reviews = tmp_path / "reviews.json.gz"
    reviews.write_bytes(whole[: int(len(whole) * keep)])
    items = write_lines(tmp_path / "i.jsonl", [amazon_item()])
    with pytest.raises(DataError, match=r"reviews\.json\.gz: the gzip stream .* after line \d+"):
        run("amazon", reviews, items, tmp_path / "out", max_malformed=1.0)
    assert list((tmp_path / "out").iterdir()) == []


def test_damaged_gzip_is_an_error(tmp_path):
    lines = write_lines(tmp_path / "r.jsonl", [amazon_review(reviewText=f"Text {n}") for n in range(500)])
    packed = bytearray(gzip.compress(lines.read_bytes()))
    packed[-6] ^= 0xFF  # in the checksum
    lines.write_bytes(packed)
    items = write_lines(tmp_path / "i.jsonl", [amazon_item()])
    with pytest.raises(DataError, match="gzip stream"):
        run("amazon", lines, items, tmp_path / "out", max_malformed=1.0)


def test_blank_lines_and_byte_order_mark_are_no_fault(tmp_path):
    reviews = tmp_path / "r.jsonl"
    line = json.dumps(amazon_review()).encode()
    reviews.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n   \n" + line)
    items = write_lines(tmp_path / "i.jsonl", [amazon_item()])
    interactions, _, report = run("amazon", reviews, items, tmp_path)
    assert len(interactions) == report[str(reviews)]["lines"] == 2


def test_overlong_line_is_skipped_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_files, "MAX_LINE_BYTES", 200)
    long = amazon_review(reviewText="x" * 5000)
    reviews = write_lines(tmp_path / "r.jsonl", [amazon_review(), long, amazon_review(reviewerID="V")])
    items = write_lines(tmp_path / "i.jsonl", [amazon_item()])
    interactions, _, report = run("amazon", reviews, items, tmp_path, max_malformed=0.5)
    assert [row["user_id"] for row in interactions] == ["U", "V"]
    assert report[str(reviews)]["malformed_lines"] == [{"line": 2, "why": "longer than 200 bytes"}]


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, '{"overall": ' + "9" * 10_000 + "}", '{"a"', "\x00", "null", '"text"', "1e999"],
    ids=["nested", "long number", "cut", "nul", "null", "string", "number"],
)
def test_strange_lines_are_malformed_not_fatal(tmp_path, line):
    reviews = tmp_path / "r.jsonl"
    reviews.write_text(line + "\n" + json.dumps(amazon_review()) + "\n")
    items = write_lines(tmp_path / "i.jsonl", [amazon_item()])
    interactions, _, report = run("amazon", reviews, items, tmp_path, max_malformed=0.5)
    assert len(interactions) == 1 and report[str(reviews)]["malformed_lines"][0]["line"] == 1


def test_file_without_usable_line_is_an_error(tmp_path):
    reviews = tmp_path / "r.jsonl"
    reviews.write_text("\n\n")
    items = write_lines(tmp_path / "i.jsonl", [amazon_item()])
    with pytest.raises(DataError, match="no usable line"):
        run("amazon", reviews, items, tmp_path / "out", max_malformed=1.0)


def test_missing_file_and_unknown_source_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        run("amazon", tmp_path / "none.json", RAW / "amazon/items.jsonl", tmp_path)
    with pytest.raises(DataError, match="'netflix' has no reader; use one of amazon, amazon2023, yelp, google, table"):
        run("netflix", RAW / "amazon/reviews.jsonl", RAW / "amazon/items.jsonl", tmp_path)


@pytest.mark.parametrize("source", SOURCES)
def test_gzip_gives_the_same_bytes_whatever_its_name(tmp_path, source):
    run_source(source, tmp_path / "plain")
    packed = []
    for name in ("reviews", "items"):
        packed.append(tmp_path / f"{name}.jsonl")  # no .gz: told apart by content
        packed[-1].write_bytes(gzip.compress((RAW / source / f"{name}.jsonl").read_bytes()))
    run(source, *packed, tmp_path / "gz")
    for name in ("interactions.parquet", "items.parquet"):
        assert (tmp_path / "gz" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
REVIEWS = st.fixed_dictionaries(
    {
        "reviewerID": TEXTS.filter(lambda text: text.strip()),
        "asin": TEXTS.filter(lambda text: text.strip()),
        "overall": st.integers(1, 5),
        "unixReviewTime": st.integers(0, 2**33),
        "reviewText": st.none() | TEXTS,
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(REVIEWS, min_size=1, max_size=20), rows=st.integers(1, 7))
def test_any_reviews_survive_plain_or_gzip_in_any_batches(tmp_path, monkeypatch, records, rows):
    monkeypatch.setattr(readers, "BATCH_ROWS", rows)
    plain = write_lines(tmp_path / "r.jsonl", records)
    items = write_lines(tmp_path / "i.jsonl", [amazon_item()])
    interactions, _, _ = run("amazon", plain, items, tmp_path / "plain")
    assert interactions == [
        {
            "user_id": record["reviewerID"],
            "item_id": record["asin"],
            "rating": record["overall"],
            "timestamp": record["unixReviewTime"],
            "review": tidy_lines(without_markup(record["reviewText"] or "")) or None,
        }
        for record in records
    ]
    packed = tmp_path / "r.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    run("amazon", packed, items, tmp_path / "gz")
    name = "interactions.parquet"
    assert (tmp_path / "gz" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_reviews_and_all_of_an_item_are_plain_text_and_counted(tmp_path, caplog):
    shop = (
        'Sharp dialogue.&nbsp;After <a data-hook="product-link-linked" class="a-link-normal" '
        'href="/Harbour/dp/0001000009">Harbour</a>&amp;nbsp;I &#34;had&#34; to.<br /><br />Slow &amp;amp; calm.\u200b'
    )
    reviews = write_lines(
        tmp_path / "r.jsonl",
        [
            amazon_review(reviewText=shop),
            amazon_review(reviewText="Plain,  with\tgaps.\n\n\nAnd lines."),
            amazon_review(reviewText='<video src="x.mp4">Your browser does not support HTML5 video.</video>'),
            amazon_review(reviewText="Cut \ud83d here"),
            amazon_review(reviewText="[[VIDEOID:m0x1]]Like [[ASIN:0001000009 Harbour Lights]], but x<y."),
        ],
    )
    title = "Queues of <b>Dune</b>: Deque<Integer>, Map<K,V> &amp; I <heart> Heaps"
    items = write_lines(tmp_path / "i.jsonl", [amazon_item(title=title), amazon_item(asin="C")])
    with caplog.at_level("INFO", "xrec_repro"):
        interactions, table, report = run("amazon", reviews, items, tmp_path)
    assert [row["review"] for row in interactions] == [
        'Sharp dialogue. After Harbour I "had" to.\n\nSlow & calm.',
        "Plain, with gaps.\n\nAnd lines.",
        None,
        "Cut \N{REPLACEMENT CHARACTER} here",
        "Like Harbour Lights, but x<y.",
    ]
    assert table["B"]["title"] == "Queues of Dune: Deque<Integer>, Map<K,V> & I <heart> Heaps"
    assert (report[str(reviews)]["cleaned"], report[str(items)]["cleaned"]) == (4, 1)
    assert "kept 5 of 5 lines, 4 of them cleaned" in caplog.text


@pytest.mark.parametrize(("source", "text", "name"), [("yelp", "text", "name"), ("google", "text", "name")])
def test_other_collections_are_cleaned_the_same_way(tmp_path, source, text, name):
    review, item = (
        json.loads((RAW / source / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()[0])
        for kind in ("reviews", "items")
    )
    reviews = write_lines(tmp_path / "r.jsonl", [review | {text: "Cheap<br>eats &amp; <i>ale</i>"}])
    items = write_lines(tmp_path / "i.jsonl", [item | {name: "Nuts &amp; Bolts\ud83d\n<b>Caf\u00e9</b>"}])
    interactions, table, report = run(source, reviews, items, tmp_path)
    assert interactions[0]["review"] == "Cheap\neats & ale"
    assert [row["title"] for row in table.values()] == ["Nuts & Bolts\N{REPLACEMENT CHARACTER} Caf\u00e9"]
    assert [counts["cleaned"] for counts in report.values()] == [1, 1]


def peak_bytes(source_file, items, out):
    tracemalloc.start()
    try:
        read_raw("amazon", source_file, items, out / "a.parquet", out / "b.parquet", 0.0)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "BATCH_ROWS", 1000)
    items = write_lines(tmp_path / "i.jsonl", [amazon_item()])
    peaks = {}
    for lines in (5_000, 50_000):
        reviews = tmp_path / f"{lines}.jsonl"
        with reviews.open("w") as stream:
            for number in range(lines):
                stream.write(json.dumps(amazon_review(reviewText=f"{number} " + "word " * 100)) + "\n")
        peaks[lines] = peak_bytes(reviews, items, tmp_path)
    assert reviews.stat().st_size > 25e6
    assert peaks[50_000] < 1.2 * peaks[5_000]
    assert peaks[50_000] < reviews.stat().st_size / 8
