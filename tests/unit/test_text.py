import json
import pickle

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xrec_repro.data.text import encodable, one_line, tidy_lines, without_markup

# Pieces of which web text is made, beside any other characters.
PIECES = st.sampled_from(
    ["<b>", "</b>", "<br />", "<P>", "<", ">", "</", "&", "amp;", "&nbsp;", "#39;", "&lt;", "&gt;", "<!--", "-->",
     "a<b", '<a href="x">', "</a>", '<div class="', '"', "<script>", "</script>", "<video>", "</video>", "[[VIDEOID:",
     "[[ASIN:B1 ", "]]", "List<T>", "<heart>", "word", " ", "\n", "\x00", "\u200b", "\u200d", "\ud83d", "\ude00"]
)  # fmt: skip
WEB = st.lists(PIECES | st.text(max_size=4), max_size=14).map("".join)
PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=("C",), exclude_characters="<&["), max_size=60)


@pytest.mark.parametrize(
    "text",
    [
        "Sets: Set<Integer>, Map<String, List<V>>, Foo<T extends Bar>",
        "Learn Vector<Object> and Optional<Time> and Class<P>",
        "I <heart> Mondays, you <3 them",
        "if i<b>c or a<b and b>c or x<y when y>z",
        "a < b > c, 3<5>2, <-- this way -->, <>",
        "Send to <jo@example.org> or <https://example.org/a>",
        "AT&T, R&D; Barnes&Noble, ?x=1&copy=2&lt=3, Q&A",
        "[[not a mark]] and [INST] no [/INST]",
        "<unk> <pad> <USER_EMBED> <|im_end|>",
        "\N{MAN}\u200d\N{WOMAN} 5\u00b0 na\u00efve \u8fd9\u5bb6",
    ],
)
def test_what_is_no_markup_stays_whole(text):
    assert without_markup(text) == text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("A<b>B</b>C <I>d</I>.", "ABC d."),
        ("one<br>two<BR/>three<br />four", "one two three four"),
        ("<p>x</p><P>y</P>end.<p>z", "x y end. z"),
        ("<span class='a b' hidden>x</span><span>y</span>", "x y"),
        ('<a href=/dp/1?a=b&c=d>T</a> <a class="x"href="y">U</a>', "T U"),
        ('<input type="hidden" value="https://v.example/a.mp4" class="video-url">&nbsp;Loved it', "Loved it"),
        ('<div id="video-block-R1" class="a-section video-block"></div>Loved it', "Loved it"),
        ("<video controls>Your browser does not support HTML5 video.</video>Good", "Good"),
        ("Your browser does not support HTML5 video. Good", "Good"),
        ("x<!-- y <b> -->z<!DOCTYPE html>", "x z"),
        ("<script>if (a<b) { f('</b>') }</script>ok<style>p {}</style>", "ok"),
        ("[[VIDEOID:mo3K]] As in [[ASIN:B000123456 The Long Way]]!", "As in The Long Way!"),
        ('Cut off <a data-hook="product-link-linked" class="a-link-normal" href="/dp/00', "Cut off"),
        ("&amp;nbsp;it&amp;#39;s &amp;amp;amp; &#x201C;so&#x201D; &quot;x&quot", 'it\'s & \u201cso\u201d "x"'),
        ("&lt;br&gt;a&amp;lt;i&amp;gt;b&amp;lt;/i&amp;gt;", "ab"),
        ("a\u00a0b\u200bc\u00adde\x07\ufefff", "a bcdef"),
        ("\u00a0\u200d&nbsp;", ""),
        ("&#55357; \ud83d \ud83d\ude00", "\ufffd \ufffd \N{GRINNING FACE}"),
    ],
)
def test_markup_becomes_plain_text(text, plain):
    assert one_line(without_markup(text)) == plain


@settings(max_examples=400, deadline=None)
@given(WEB)
def test_any_web_text_becomes_plain_once_and_for_all(text):
    for tidy in (one_line, tidy_lines):
        plain = tidy(without_markup(text))
        assert len(plain) <= len(text)
        assert without_markup(plain) == plain == tidy(plain)
        plain.encode()
        assert not any(mark in plain for mark in ("<br />", "<!---->", '<a href="x">', "\x00", "\u200b", "&nbsp;"))
    assert "\n" not in one_line(text)


@settings(max_examples=200, deadline=None)
@given(PLAIN)
def test_plain_text_is_left_alone(text):
    assume(not any(word in text.lower() for word in ("html5", "media could")))
    assert without_markup(text) == text
    assert without_markup(f"<p>{text}</p>").strip() == text.strip()


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=20))
def test_any_string_becomes_encodable_and_what_is_stays(text):
    found = encodable(text)
    assert found.encode().decode() == found and len(found) <= len(text)
    assert encodable(found) == found
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        assert found == text


def test_halves_of_a_pair_make_one_letter_wherever_they_come_from():
    halves = "\ud83d" + "\ude00"
    for text in (halves, json.loads('"\\ud83d\\ude00"'), pickle.loads(pickle.dumps(halves))):
        assert encodable(text) == "\N{GRINNING FACE}"
    assert encodable("a\ud83d b\ude00") == "a\ufffd b\ufffd"


def test_much_markup_takes_no_time():
    for piece in ('<b x="', "<!--", "<script>", "&amp;", "x<B>", "<a href=", "[[ASIN:", "<b <b "):
        assert len(without_markup(piece * 3000)) <= len(piece) * 3000
