"""Extractive profiles: salient, readable, deterministic, never too long."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from xrec_repro.data.glassbox_words import ASPECTS
from xrec_repro.errors import ConfigError
from xrec_repro.profiles.extractive import MOST_TERMS, ExtractiveBackend, PhraseModel
from xrec_repro.profiles.records import ItemText, ReviewText, UserEntry, UserText

REVIEWS = [
    "I loved the dry humour. The ending was dull.",
    "Such dry humour, and a fine sense of place.",
    "The sense of place is strong; the ending was dull.",
    "The ending was dull, the cover torn.",
    "The ending was dull again.",
    "Again the ending was dull.",
]


def _book(description: str | None, title: str = "The Tower") -> ItemText:
    return ItemText(title, description, None, None, ())


def test_collocations_win_over_their_words_and_rare_phrases_over_common_ones():
    model = PhraseModel(REVIEWS)
    assert "dry humour" in model.segment(REVIEWS[0])
    assert "sense of place" in model.segment(REVIEWS[1])
    assert model.salient_phrases(REVIEWS[1]) == ["dry humour", "sense of place"]
    # A chance neighbour does not join a phrase.
    assert model.segment("no cover dry humour") == ["cover", "dry humour"]


def test_phrases_do_not_cross_clauses():
    model = PhraseModel(["blue water", "blue water", "deep blue, water"])
    assert model.segment("blue water") == ["blue water"]
    assert model.segment("blue, water") == ["blue", "water"]
    assert model.segment("blue - water") == ["blue", "water"]


def test_weights_are_those_of_scikit_learn_up_to_its_added_one():
    model = PhraseModel(REVIEWS)
    documents = [" ".join(model.segment(review)) for review in REVIEWS]
    vectorizer = TfidfVectorizer(analyzer=model.segment).fit(REVIEWS)
    assert len(documents) == len(REVIEWS)
    for phrase in ("dry humour", "sense of place"):
        expected = vectorizer.idf_[vectorizer.vocabulary_[phrase]] - 1
        assert model._idf(phrase) == pytest.approx(expected)
        assert model._idf(phrase) == pytest.approx(math.log(7 / 3))


def test_the_glassbox_forms_are_phrases():
    forms = [form for aspect in ASPECTS for form in aspect]
    documents = [f"It has {form}." for form in forms for _ in range(2)]
    model = PhraseModel(documents)
    assert [form for form in forms if model.segment(f"It has {form}.") != [form]] == []


def test_book_profiles_use_the_description_alone():
    book = ItemText("The Tower", "Salt wind and lonely islands.", "Cooking", "Oslo", ("Superb recipes.",))
    other = _book("Salt wind and a broken radio.")
    text = ExtractiveBackend("book", 50).item_profiles([book, other])[0]
    assert text.startswith("Readers who enjoy ") and text.endswith(" would like this book.")
    assert "salt wind" in text
    assert not {"cooking", "oslo", "recipes"} & set(text.lower().replace(",", " ").split())


def test_business_profiles_use_categories_and_reviews_but_not_the_name():
    shops = [
        ItemText("Blue Door", None, "Cafes, Vegan", "Oslo", ("The Blue Door has oat lattes.", "Oat lattes!")),
        ItemText("Red Door", None, "Cafes, Bars", "Oslo", ("Loud bars.", "Oat lattes sold out.")),
    ]
    text = ExtractiveBackend("business", 50).item_profiles(shops)[0]
    assert text.startswith("Visitors who enjoy ") and text.endswith(" would like this business.")
    assert "oat lattes" in text
    assert "blue door" not in text


def test_user_profiles_join_item_profiles_and_reviews():
    one = UserText((UserEntry("A", "Readers who enjoy dry humour would like this book.", "Dry humour!", 5.0),))
    two = UserText((UserEntry("B", "Readers who enjoy epic battles would like this book.", None, 4.0),))
    three = UserText((*one.entries, *two.entries))
    texts = ExtractiveBackend("book", 50).user_profiles([one, two, three])
    assert texts[0] == "This user tends to enjoy books that offer dry humour."
    assert texts[1] == "This user tends to enjoy books that offer epic battles."
    assert "dry humour" in texts[2]


def test_an_item_is_what_its_readers_speak_of():
    books = [_book("Ingenious spellcraft and translated by hand."), _book("Translated, with ingenious spellcraft.")]
    plain, said = (
        ExtractiveBackend("book", 50, reviews).item_profiles(books)[0]
        for reviews in ((), ["Ingenious spellcraft!", "Such ingenious spellcraft."])
    )
    assert "translated" in plain
    assert said == "Readers who enjoy ingenious spellcraft would like this book."


def test_a_user_enjoys_what_describes_items():
    profile = "Readers who enjoy dry humour would like this book."
    users = [UserText((UserEntry("A", profile, "The author returns with dry humour, quot.", 5.0),))] * 2
    expected = "This user tends to enjoy books that offer dry humour."
    assert ExtractiveBackend("book", 50).user_profiles(users) == [expected] * 2


def test_references_speak_of_the_domain():
    reviews = [ReviewText("Oat lattes here."), ReviewText("Oat lattes there.")]
    book, business = (ExtractiveBackend(domain, 50).references(reviews)[0] for domain in ("book", "business"))
    assert book == "The user would buy the book because it offers oat lattes."
    assert business == "The user would enjoy the business because it offers oat lattes."


@pytest.mark.parametrize("text", [None, "", "   ", "!!! 42", "the and of"])
def test_nothing_to_say_gives_a_whole_sentence(text):
    profile = ExtractiveBackend("book", 50).item_profiles([_book(text)])
    assert profile == ["Readers who enjoy books of this kind would like this book."]


def test_no_documents_give_no_texts():
    backend = ExtractiveBackend("book", 50)
    assert backend.item_profiles([]) == backend.user_profiles([]) == backend.references([]) == []


def test_max_words_drops_terms_but_never_the_last():
    reviews = [ReviewText("Amber lanterns, copper bridges, velvet curtains.")] * 2
    long, short, tiny = (ExtractiveBackend("book", words).references(reviews)[0] for words in (50, 14, 1))
    assert long.endswith("amber lanterns, copper bridges and velvet curtains.")
    assert short == "The user would buy the book because it offers amber lanterns and copper bridges."
    assert tiny == "The user would buy the book because it offers amber lanterns."


def test_unknown_domain_is_refused():
    with pytest.raises(ConfigError, match="'film'"):
        ExtractiveBackend("film", 50)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=6))
def test_any_text_gives_bounded_repeatable_phrases(texts):
    model, again = PhraseModel(texts), PhraseModel(texts)
    for text in texts:
        phrases = model.salient_phrases(text)
        assert phrases == again.salient_phrases(text)
        assert len(phrases) == len(set(phrases)) <= MOST_TERMS
        assert all(1 <= len(phrase.split()) <= 3 for phrase in phrases)
