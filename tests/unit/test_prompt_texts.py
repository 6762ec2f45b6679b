"""The prompts are the release's own: system messages byte for byte, user messages in the released form."""

import ast
import hashlib
import json

import pytest

from xrec_repro.errors import ConfigError
from xrec_repro.profiles import prompts
from xrec_repro.profiles.records import ItemText, ReviewText, UserEntry, UserText

# SHA-256 of generation/instructions/*.txt, HKUDS/XRec commit 79e2cd4.
RELEASED = {
    "amazon_exp": "111612889018c74c059dcf252af70a6f2d847b84c4244115ff145eb5775bb062",
    "amazon_item": "ad5fc9f8994f915a356fc6e63a016c897591b7a38e9184b656a42d37015eed42",
    "amazon_user": "b9c98557bddfe837b4b5e3861ccb5b98ef4683dd2307a838c85cc38860bcae52",
    "google_exp": "98f977e47a794c2b1a8fdce0b6845714238da555aa4e5cb3abeed8471cbd95ae",
    "google_item": "2bb12d8fda4cbdd030c488cb995391f66e41c2acfdcd537f90e655f6e92dfc15",
    "google_user": "92c40df484025528cdebaaa9f129516a6f4171d0306bf12df38c8decf93bd5db",
    "yelp_exp": "db1ec65448ad5013c1fa3d656db0915a295192217e5ccb2a6ac3189631a4b1c1",
    "yelp_item": "b366a90903d15f26aa83fae3ecd64cfa5adf7c21715df9adce970f41fc4a2bdd",
    "yelp_user": "7412be8932afb5cc19cfe5569c0ad386ebcac1bfebc6d76250aab258e1093296",
}


@pytest.mark.parametrize("name", RELEASED)
def test_system_prompt_is_the_released_file(name):
    text = prompts.system_prompt(*name.split("_"))
    assert hashlib.sha256(text.encode()).hexdigest() == RELEASED[name]


def test_system_prompts_equal_the_shared_copies(shared):
    for name in RELEASED:
        released = (shared / "data" / "xrec" / "prompts" / f"{name}.txt").read_bytes().decode()
        assert prompts.system_prompt(*name.split("_")) == released


@pytest.mark.parametrize("name", RELEASED)
def test_another_word_limit_changes_only_the_limit(name):
    released, shorter = (prompts.system_prompt(*name.split("_"), limit) for limit in (50, 30))
    assert "30 words" in shorter
    assert shorter.replace("30 words", "50 words") == released


def _released_lines(shared, file):
    lines = (shared / "data" / "xrec" / "prompts" / file).read_text().splitlines()
    assert lines
    return [json.loads(line) for line in lines]


def test_item_messages_equal_the_released_ones(shared):
    for line in _released_lines(shared, "item_prompts.jsonl"):
        basic, reviews = line["prompt"].removeprefix("BASIC INFORMATION: \n").split("\nUSER FEEDBACK: \n")
        basic = ast.literal_eval(basic)
        item = ItemText(basic["name"], None, basic["categories"], basic["city"], tuple(ast.literal_eval(reviews)))
        assert prompts.item_message("yelp", item) == line["prompt"]


def test_user_messages_equal_the_released_ones(shared):
    for line in _released_lines(shared, "user_prompts.jsonl"):
        history = json.loads(line["prompt"])["PURCHASED BUSINESSES"]
        entries = tuple(UserEntry(e["title"], e["description"], e["feedback"], 5.0) for e in history)
        assert prompts.user_message("yelp", UserText(entries)) == line["prompt"]


def test_reference_messages_equal_what_the_released_script_sends(shared):
    for line in _released_lines(shared, "exp_prompts.jsonl"):
        review = ReviewText(line["feedback"]["review"])
        assert prompts.reference_message(review) == json.dumps(line["feedback"], indent=4)


def test_book_messages_use_the_attributes_of_the_system_messages():
    item = ItemText("Dune", "Sand and spice.", "Science Fiction", None, ("Great.",))
    assert json.loads(prompts.item_message("amazon", item)) == {
        "title": "Dune",
        "description": "Sand and spice.",
    }
    user = UserText((UserEntry("Dune", "Fans of epics.", None, 4.0), UserEntry("Emma", "Wits.", "Fun", None)))
    assert json.loads(prompts.user_message("amazon", user)) == {
        "PURCHASED BOOKS": [
            {"title": "Dune", "description": "Fans of epics.", "review": "None", "rating": 4.0},
            {"title": "Emma", "description": "Wits.", "review": "Fun", "rating": "None"},
        ]
    }


def test_google_messages_use_the_attributes_of_the_system_messages():
    item = ItemText("Cafe", None, "Cafes", "Reno", ())
    assert json.loads(prompts.item_message("google", item)) == {"name": "Cafe", "description": "None"}
    user = UserText((UserEntry("Cafe", "Coffee lovers.", " ", 4.0),))
    assert json.loads(prompts.user_message("google", user)) == {
        "INTERACTED BUSINESSES": [{"name": "Cafe", "description": "Coffee lovers.", "review": "None"}]
    }


def test_absent_attributes_are_the_word_none():
    message = prompts.item_message("yelp", ItemText("Cafe", None, None, " ", ()))
    assert message == "BASIC INFORMATION: \n{'name': 'Cafe', 'city': 'None', 'categories': 'None'}\nUSER FEEDBACK: \n[]"


def test_domains_have_their_release_and_others_are_refused():
    assert prompts.domain_style("book") == "amazon"
    assert prompts.domain_style("business") == "yelp"
    with pytest.raises(ConfigError, match="'film' has no profile prompts; use one of book, business"):
        prompts.domain_style("film")
    with pytest.raises(ConfigError, match="no prompt imdb_item"):
        prompts.system_prompt("imdb", "item")
