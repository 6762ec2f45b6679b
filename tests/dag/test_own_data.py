"""The example of docs/own-data.md on a small and messy table: run up to profiles and references, the rest planned."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import run
from tests.dag.test_dry_runs import dry_run, jobs
from xrec_repro.contracts import CORE_INTERACTIONS, INTERACTIONS, ITEM_PROFILES, REFERENCES, USER_PROFILES
from xrec_repro.io import read_json, read_table

SHARED = "results/mine/novels/shared"
TASTES = ["dry humour", "salt wind", "slow suspense", "тихая музыка", "深い静けさ", "clever plot twists"]
MESS = [
    "I liked the {taste}.<br /><br />Really &amp;quot;liked&amp;quot; the {taste}! \U0001f600",
    "(Translated by Google) Full of {taste} &amp; heart.\n\n(Original)\nLleno de corazón",
    '[[VIDEOID:a1b2c3]]Two words: {taste}.\n\n\nSo said &#34;they&#34;,\nand "I" agree.\u200b',
    "<script>alert('x')</script>A <b>fine</b> book, {taste} and more &nbsp; of it \u202eright to left\u202c",
    '<video src="x.mp4">Your browser does not support HTML5 video.</video>More {taste}, <i>please</i>\x07',
]
NEVER = re.compile(
    r"[<>&\u200b\u202e\x07]|\b(?:quot|amp|nbsp|br|script|alert|video\w*|html5|browser|mp4|translated|google|lleno)\b",
    re.IGNORECASE,
)


def blocks(root: Path) -> dict[str, str]:
    """Return the example's first block of each language."""
    found = re.findall(
        r"^```(\w*)\n(.*?)^```$", (root / "docs/own-data.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return dict(reversed(found))


def write_reviews(path: Path, example: str) -> None:
    """Write the example's rows and many more under its header: 14 readers of 10 books, and two rows that are none."""
    rows = list(csv.reader(io.StringIO(example)))
    for reader in range(14):
        for book in range(10):
            if (reader + book) % 3 == 0:
                continue
            taste = TASTES[(reader + 2 * book) % len(TASTES)]  # all are common: what few speak of is no phrase
            text = MESS[(reader + book) % len(MESS)].format(taste=taste)
            blurb = (
                f"A &quot;novel&quot; of {TASTES[book % 6]}, <em>{TASTES[(book + 1) % 6]}</em>." if reader % 2 else ""
            )
            name = f"Book &amp; No. {book}\n<b>again</b>"
            rows.append([f"reader {reader}", f"97800{book}", "5", text, f"2019-03-{reader + 1:02}", name, blurb])
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
        stream.write("reader 1,978000,many,text,2019-03-01,T,\nreader 1,978000\n")


@pytest.fixture(scope="module")
def mine(root, tmp_path_factory) -> Path:
    """A folder in which the example has been followed up to its profiles and references."""
    folder, example = tmp_path_factory.mktemp("mine"), blocks(root)
    (folder / "data").mkdir()
    (folder / "data/mine.yaml").write_text(example["yaml"], encoding="utf-8")
    write_reviews(folder / "data/reviews.csv", example["csv"])
    strict = folder / "data/strict.yaml"
    strict.write_text(yaml.safe_dump({"defaults": {"read": {"max_malformed": 0.03}}}))
    targets = [f"{SHARED}/profiles/users.parquet", f"{SHARED}/references/references.parquet"]
    run(root, folder, *targets, overlays=[folder / "data/mine.yaml", strict])
    return folder


def texts(folder: Path, name: str, schema, column: str) -> list[str]:
    return read_table(folder / SHARED / name, schema)[column].to_pylist()


def test_the_example_reads_what_people_have(mine):
    counts = read_json(mine / SHARED / "raw/provenance.json")["result"]
    reviews = counts["data/reviews.csv"]
    assert (reviews["malformed"], reviews["kept"]) == (2, reviews["lines"] - 2)
    assert reviews["translated"] > 10 and reviews["cleaned"] > 50
    assert counts["items in the reviews"] == {"kept": 12}
    titles = set(texts(mine, "references/references.parquet", REFERENCES, "title"))
    assert "Book & No. 1 again" in titles and len(titles) > 5
    assert 'I liked the dry humour.\n\nReally "liked" the dry humour! \U0001f600' in texts(
        mine, "kcore/interactions.parquet", CORE_INTERACTIONS, "review"
    )


def test_no_markup_and_no_banner_is_in_a_profile_or_a_reference(mine):
    written = [
        *texts(mine, "profiles/users.parquet", USER_PROFILES, "profile"),
        *texts(mine, "profiles/items.parquet", ITEM_PROFILES, "profile"),
        *texts(mine, "references/references.parquet", REFERENCES, "reference"),
    ]
    assert len(written) > 60
    assert [text for text in written if NEVER.search(text)] == []
    assert all(any(taste in text for text in written) for taste in TASTES)


def test_the_rest_of_the_example_is_planned(root, mine):
    command = re.search(r"^\.venv/bin/snakemake (.*)$", (root / "docs/own-data.md").read_text("utf-8"), re.MULTILINE)[1]
    found = jobs(dry_run(root, mine, *command.replace("data/", f"{mine}/data/").split()))
    assert found["train_method"] == found["generate_explanations"] == 2
    assert found["train_recommender"] == found["pretrain_lm"] == found["write_browser"] == 1
    assert not {"make_glassbox", "import_release"} & set(found)


def test_files_by_pattern_are_inputs_and_none_is_an_error(root, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    entry = {
        "source": "google",
        "domain": "business",
        "paths": {"reviews": "data/review-*.json", "items": ["data/m.json"]},
    }
    entry["overrides"] = {"profiles": {"references": "extractive"}}
    overlay.write_text(yaml.safe_dump({"run": {"experiments": ["states/xrec"]}, "datasets": {"states": entry}}))
    arguments = ("--cores", "1", "--configfile", str(overlay))
    done = dry_run(root, tmp_path, *arguments, check=False)
    printed = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in printed
    assert "configuration: datasets.states.paths.reviews: no file matches 'data/review-*.json', seen from" in printed
    (tmp_path / "data").mkdir()
    for name in "ba":
        line = {"user_id": name, "gmap_id": "m", "rating": 5, "time": 1420588800000, "text": "Fine."}
        (tmp_path / f"data/review-{name}.json").write_text(json.dumps(line))
    (tmp_path / "data/m.json").write_text('{"gmap_id": "m", "name": "Corner"}')
    printed = run(root, tmp_path, "results/demo/states/shared/raw/items.parquet", overlays=[overlay])
    assert "input: data/review-a.json, data/review-b.json, data/m.json" in printed
    raw = tmp_path / "results/demo/states/shared/raw"
    assert read_table(raw / "interactions.parquet", INTERACTIONS)["user_id"].to_pylist() == ["a", "b"]
    counted = read_json(raw / "provenance.json")["result"]
    assert [*counted] == ["data/review-a.json", "data/review-b.json", "data/m.json"]
