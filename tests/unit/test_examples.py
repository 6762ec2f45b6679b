"""Broken outputs and picked examples."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

from xrec_repro.contracts import EXPLANATIONS
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.io import write_table
from xrec_repro.paper.examples import REASONS, broken_reasons, count_broken, pick_examples
from xrec_repro.safe_pickle import load_pickle

GOOD = "The user would enjoy the business for its calm rooms."


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ("", ["empty"]),
        (" \n\t", ["empty"]),
        ("... !!", ["no_letters"]),
        ("1 2 3 4.", ["no_letters", "digit_run"]),
        ("The user would buy the book because 20152016 it is.", ["digit_run"]),
        ("The user would buy the 1, 1, 2, 3, 5 book.", ["digit_run"]),
        ("The book 1. 2. 3.\n4. is for the user.", ["digit_run"]),
        ("It is good good good good for the user.", ["repetition"]),
        ("A great story, a great story, a great story.", ["repetition"]),
        ("The plot is so so sosososososo slow.", ["repetition"]),
        ("They would love the long walks. They would love the long walks.", ["repetition"]),
        ("Calm and warm rooms and calm and warm rooms with calm and warm rooms.", []),
        ("The user would [/INST] enjoy it.", ["template_marker"]),
        ("] The user would enjoy it.", ["template_marker"]),
        ("<<SYS>>Explain why.", ["template_marker"]),
        ("<EXPLAIN_POS> The user would enjoy it.", ["template_marker"]),
        ("The user would enjoy it.</s>", ["template_marker"]),
        ("The user would enjoy \ufffd\ufffd it.", ["foreign_characters"]),
        ("The user would enjoy \x00 it.", ["foreign_characters"]),
        ("The user would enjoy Это место.", ["foreign_characters"]),
    ],
)
def test_what_is_broken_is_named(text, reasons):
    assert broken_reasons(text, "eos") == reasons


def test_a_text_is_repetitive_when_most_sequences_of_four_words_are_old():
    twelve = "the user would enjoy calm rooms near a park with old trees"
    copies = [f"{twelve} {word}" for word in ("one", "two", "three", "four")]
    # Each copy has 9 sequences within, and all but the last 4 across its end (the last: 1), which are new.
    # Of three copies' 36 sequences, 9 + 9 are new: just half. Of four copies' 49, 9 + 13.
    assert broken_reasons(" ".join(copies[:3]), "eos") == []
    assert broken_reasons(" ".join(copies), "eos") == ["repetition"]


@pytest.mark.parametrize(
    "text",
    [
        # Sentences of the study's appendices A and D.
        "The user would enjoy Don Gabriel Restaurant because it offers authentic and flavorful Mexican cuisine.",
        "Grace Meat + Three offers a unique, farm-to-table dining experience with locally-sourced ingredients.",
        "Sure! Here’s why a user might buy “Letting Go (The Garage Series) (Volume 1)” in 50 words or less.",
        # What looks like a fault and is none.
        "Opened in 1969, remodelled 2008-2009, it charges $8 to $12 and is open 24/7.",
        "Call (615) 555-0123 for the 2-4-1 lunch of J.R.R. Tolkien fans.",
        "A very, very good and really really calm place!",
        "They love Phở, crème brûlée and the jalapeño salsa – a 5 + 5 = 10…",
        'The user loved "Will Grayson, Will Grayson."',
        "Ties of 4 < 5 or 6 > 5 do not matter [sic] here.",
        "The sushi (寿司) is fresh.",
    ],
)
def test_what_is_sound_is_not_flagged(text):
    assert broken_reasons(text, "length") == []


def test_only_a_text_that_was_stopped_can_be_cut_off():
    text = "The user would enjoy the calm and"
    assert broken_reasons(text, "length") == broken_reasons(text) == ["cut_off"]
    assert broken_reasons(text, "eos") == broken_reasons(text, "bracket") == []
    assert broken_reasons(GOOD + '"', "length") == []


def test_counts_name_every_reason_and_count_a_text_once():
    counts = count_broken([GOOD, "", "1 2 3 4", "half a"], ["eos", "eos", "eos", "length"])
    expected = {"any": 3, "empty": 1, "no_letters": 1, "digit_run": 1, "cut_off": 1}
    assert counts == dict.fromkeys(REASONS, 0) | expected and list(counts) == ["any", *REASONS]
    assert count_broken([]) == {"any": 0} | dict.fromkeys(REASONS, 0)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        count_broken([GOOD, GOOD], ["eos"])


@pytest.mark.parametrize(
    ("dataset", "predictions", "references"),
    [
        ("amazon", {"any": 22, "template_marker": 2, "cut_off": 20}, {"any": 0}),
        ("yelp", {"any": 4, "digit_run": 2, "cut_off": 4}, {"any": 1, "cut_off": 1}),  # the reference ends in a hashtag
    ],
)
def test_released_texts_are_hardly_ever_flagged(shared, dataset, predictions, references):
    """All 26 flagged predictions were read: 24 stop in mid-sentence (two of them in an invented web address), one
    begins with "]" and one with "<User>".
    """
    folder = shared / "data" / "xrec" / dataset
    for name, expected in (("tst_pred.pkl", predictions), ("tst_ref.pkl", references)):
        texts = load_pickle(folder / name)
        assert len(texts) == 3000
        assert {reason: count for reason, count in count_broken(texts).items() if count or reason == "any"} == expected


# --- Picked examples --------------------------------------------------------------------------------------------------

SECTION = {"title": "B. Broken", "experiments": None, "rule": "broken", "count": 2}
SETTINGS = {"seed": 7, "metric": "bleurt", "sections": [SECTION]}


def row(tmp_path: Path, experiment: str, texts: dict[str, str], scores: dict | None = None, **changes) -> dict:
    base = {"dataset": "glassbox", "dataset_label": "Glassbox", "experiment": experiment, "seed": 1, "kind": "measured"}
    base |= {"experiment_label": experiment.upper()} | changes
    path = tmp_path / f"{base['dataset']}-{experiment}-{base['seed']}.parquet"
    rows = [
        {
            "example_id": example,
            "user_id": f"u-{example}",
            "item_id": f"i-{example}",
            "reference": f"Reference of {example}.",
            "prediction": text,
            "prompt_tokens": 9,
            "new_tokens": 9,
            "finish_reason": "eos",
        }
        for example, text in texts.items()
    ]
    write_table(path, rows, EXPLANATIONS)
    base["explanations"] = path
    if scores is not None:
        base["scores"] = path.with_suffix(".scores")
        schema = pa.schema([("example_id", pa.string()), ("bleurt", pa.float64())])
        write_table(base["scores"], {"example_id": list(scores), "bleurt": list(scores.values())}, schema)
    return base


def pick(tmp_path: Path, rows: list[dict], section: dict | None = None, **changes) -> tuple[dict, str]:
    settings = SETTINGS | changes | ({"sections": [SECTION | section]} if section else {})
    pick_examples(rows, settings, tmp_path / "examples.json", tmp_path / "examples.md")
    result = json.loads((tmp_path / "examples.json").read_text(encoding="utf-8"))
    return result, (tmp_path / "examples.md").read_text(encoding="utf-8")


def ids(section: dict) -> list[str]:
    return [example["example_id"] for example in section["examples"]]


def test_broken_outputs_are_counted_and_shown_worst_first(tmp_path):
    texts = {f"e{i}": f"{GOOD} {i}." for i in range(6)}
    one = row(tmp_path, "one", texts | {"e1": "", "e4": "1 2 3 4"})
    two = row(tmp_path, "two", texts | {"e1": "[/INST] It is.", "e5": "[/INST] It is."})
    result, _ = pick(tmp_path, [one, two], {"count": 9})
    assert [(b["experiment"], b["n"], b["any"]) for b in result["broken"]] == [("one", 6, 2), ("two", 6, 2)]
    assert result["broken"][0]["counts"] == dict.fromkeys(REASONS, 0) | {"empty": 1, "no_letters": 1, "digit_run": 1}
    (section,) = result["sections"]
    assert ids(section) == ["e1", "e4", "e5"] and section["candidates"] == 3  # both variants; two reasons; one
    assert [variant["broken"] for variant in section["examples"][0]["variants"]] == [["empty"], ["template_marker"]]
    assert section["examples"][1]["reference"] == "Reference of e4."
    assert section["examples"][1]["user_id"] == "u-e4"


def test_the_largest_difference_is_shown_first_and_unscored_examples_never(tmp_path):
    texts = {f"e{i}": GOOD for i in range(5)}
    one = row(tmp_path, "one", texts, {"e0": 0.1, "e1": 0.9, "e2": 0.5, "e3": float("nan"), "e4": 0.0})
    two = row(tmp_path, "two", texts, {"e0": 0.2, "e1": 0.1, "e2": 0.1, "e3": 9.0, "e4": 0.6})
    result, markdown = pick(tmp_path, [one, two], {"rule": "difference", "count": 3})
    (section,) = result["sections"]
    assert ids(section) == ["e1", "e4", "e2"] and section["candidates"] == 4
    assert [variant["score"] for variant in section["examples"][0]["variants"]] == [0.9, 0.1]
    assert "the largest differences of bleurt" in section["rule"] and "| 0.9000 |" in markdown


def test_random_examples_follow_the_seed_and_come_from_all_variants(tmp_path):
    texts = {f"e{i:02}": GOOD for i in range(40)}
    rows = [row(tmp_path, "one", texts), row(tmp_path, "two", dict(list(texts.items())[10:]))]
    rule = {"rule": "random", "count": 5}
    first = ids(pick(tmp_path, rows, rule)[0]["sections"][0])
    assert first == ids(pick(tmp_path, rows[::-1], rule)[0]["sections"][0])  # whatever the order of the rows
    assert first != ids(pick(tmp_path, rows, rule, seed=8)[0]["sections"][0])
    assert len(set(first)) == 5 and min(first) >= "e10"  # what only one variant has is not shown


def test_sections_name_their_experiments_and_what_is_absent(tmp_path):
    texts = {"e0": GOOD}
    rows = [row(tmp_path, name, texts) for name in ("one", "two")]
    rows.append(row(tmp_path, "one", {"e1": GOOD}, dataset="yelp", dataset_label="Yelp"))
    section = {"title": "A", "experiments": ["two", "three"], "rule": "random", "count": 1}
    result, markdown = pick(tmp_path, rows, section)
    glassbox, yelp = result["sections"]
    assert [v["experiment_label"] for v in glassbox["examples"][0]["variants"]] == ["TWO"]
    assert (glassbox["absent"], yelp["absent"], yelp["examples"]) == (["three"], ["two", "three"], [])
    assert "## A: Yelp" in markdown and "Not part of this run: two, three." in markdown


def test_every_seed_is_counted_and_the_first_is_shown(tmp_path):
    rows = [row(tmp_path, "one", {"e0": "1 2 3 4"}, seed=2), row(tmp_path, "one", {"e0": ""}, seed=1)]
    result, _ = pick(tmp_path, rows)
    assert [(entry["seed"], entry["any"]) for entry in result["broken"]] == [(2, 1), (1, 1)]
    (variant,) = result["sections"][0]["examples"][0]["variants"]
    assert (variant["seed"], variant["prediction"]) == (1, "")


def test_texts_cannot_leave_their_cell(tmp_path):
    text = "# A | B\n\n<b>*bold* [x](y)</b> \x07 end \\"
    _, markdown = pick(tmp_path, [row(tmp_path, "one", {"e0": text}, kind="demo")], {"rule": "random"})
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) - 1 for line in tables]
    assert widths == [7, 7, 7, 3, 3, 3, 3]  # of the counts: label, experiment, seed, N, broken, two reasons
    (line,) = (line for line in tables if "bold" in line)
    assert r"\# A \| B<br>\<b\>\*bold\* \[x\](y)\</b\>" in line and "\x07" not in line
    assert "Warning: what a generated world (demo)" in markdown


def test_same_input_same_bytes(tmp_path):
    rows = [row(tmp_path, "one", {f"e{i}": "" for i in range(9)})]
    one = pick(tmp_path, rows)
    assert one == pick(tmp_path, rows)


def test_unusable_input_is_named(tmp_path):
    good = row(tmp_path, "one", {"e0": GOOD})
    with pytest.raises(DataError, match="there is no explanation to show"):
        pick(tmp_path, [])
    with pytest.raises(ConfigError, match=r"'B. Broken': no rule 'best'; known: random, difference, broken"):
        pick(tmp_path, [good], {"rule": "best"})
    with pytest.raises(DataError, match=r"glassbox-two-1.parquet: empty, or an example"):
        pick(tmp_path, [good, row(tmp_path, "two", {})])
    with pytest.raises(DataError, match="the variants of glassbox share no example"):
        pick(tmp_path, [good, row(tmp_path, "two", {"e1": GOOD})])
    other = row(tmp_path, "two", {"e0": GOOD})
    table = {"example_id": "e0", "reference": "Another.", "prediction": GOOD, "user_id": "u", "item_id": "i"}
    for unusable in ([table, table], [table | {"prediction": None}]):
        write_table(other["explanations"], unusable, EXPLANATIONS)
        with pytest.raises(DataError, match="an example has no text or occurs twice"):
            pick(tmp_path, [good, other])
    write_table(other["explanations"], [table], EXPLANATIONS)
    with pytest.raises(DataError, match=r"two-1.parquet: example e0 has another reference than in .*one-1.parquet"):
        pick(tmp_path, [good, other], {"rule": "random"})
