"""Text of the web as plain text: without markup, entities, and characters that cannot be seen or written."""

import html
import re
from html.entities import html5

# Elements that only dress a word (nothing stands for their tags), that end a line, and all others (a space).
_DRESS = (
    "a abbr acronym b bdi bdo big cite code del dfn em font i ins kbd mark q s samp small strike strong sub sup tt u"
)
_BREAKS = (
    "address article aside blockquote br caption center dd details dialog dir div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 header hgroup hr legend li main menu nav ol p pre section table tbody tfoot thead "
    "tr ul"
)
_OTHERS = (
    "applet area audio base basefont body button canvas col colgroup data datalist embed frame frameset head html "
    "iframe img input label link map meta meter noframes noscript object optgroup option output param picture progress "
    "rp rt ruby script select slot source span style summary svg td template textarea th time title track var video wbr"
)
# What stands between their tags is no text: programs, and what a page says where it cannot play a film.
_SILENT = "script style video audio iframe noscript"
_BARE_ATTRIBUTES = (
    "allowfullscreen async autoplay checked compact controls defer disabled hidden ismap loop multiple muted noshade "
    "novalidate nowrap open playsinline readonly required reversed selected"
)


def _any(words: str) -> str:
    return "|".join(words.split())


_ELEMENT = _any(f"{_DRESS} {_BREAKS} {_OTHERS}")
_VALUE = r"""(?:"[^"<]*+"|'[^'<]*+'|[^\s"'<>]++)"""
# A name without a value is an attribute only if HTML knows it: "when a<b and b>c" has no tag.
_ATTRIBUTE = rf"""(?:(?:\s++|(?<=["']))(?:[a-z_:@][\w:.@-]*+\s*+=\s*+{_VALUE}|(?:{_any(_BARE_ATTRIBUTES)})(?![\w-])))"""
_TAG = rf"(?:</(?P<closed>{_ELEMENT})\s*+>|"
_TAG += rf"<(?P<opened>{_ELEMENT})(?P<attributes>{_ATTRIBUTE}*+)\s*+/?>)"
_MARKUP = re.compile(
    rf"<(?P<silent>{_any(_SILENT)}){_ATTRIBUTE}*+\s*+>(?:(?!<(?P=silent)\b).)*?</(?P=silent)\s*+>"
    r"|<!--(?:(?!<!--).)*?-->|<!doctype\b[^<>]*+>|<\?xml\b[^<>]*+>"
    rf"|{_TAG}"
    # A tag that the end of a text cuts in two.
    rf"|(?:<(?:{_ELEMENT}){_ATTRIBUTE}*+\s++[a-z][\w:.-]*+=[^<>]*+)++\Z"
    # What shops put for a film or a product; the product's name is text.
    r"|\[\[VIDEOID:[^\[\]]*+\]\]|\[\[ASIN:\w++\s*+(?P<product>[^\[\]]*+)\]\]"
    r"|Your browser does not support HTML5 video\.?|The media could not be loaded\.?",
    re.IGNORECASE | re.DOTALL,
)
_HINT = re.compile(r"<|\[\[|HTML5|media could", re.IGNORECASE)
_CLOSED = re.compile(r"</([a-z][a-z0-9]*+)", re.IGNORECASE)
_AMPERSAND = re.compile(r"&(?:amp;)++")  # however often it was escaped
_ENTITY = re.compile(r"&(#\d++|#[xX][0-9a-fA-F]++|[a-zA-Z][a-zA-Z0-9]*+)(;|(?![\w;=]))")
_WITHOUT_SEMICOLON = ("amp", "apos", "gt", "lt", "nbsp", "quot")
# Controls that are no white space; soft hyphens, marks of direction, zero widths. Joiners stay inside of other scripts
# and of emoji, which need them.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]"
    r"|(?<![^\x00-\x7f\s])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f\s])"
)
_TRANSLATION = re.compile(r"\(\s*Translated by Google\s*\)", re.IGNORECASE)
_ORIGINAL = re.compile(r"\(\s*Original\s*\)", re.IGNORECASE)
_DEEPEST = 50  # markup within markup; what goes deeper was made to waste time
_SURROGATE = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> str:
    """Return the text with U+FFFD for half surrogate pairs: JSON and pickles may hold them, UTF-8 may not."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")  # two halves make a letter


def without_markup(text: str) -> str:
    """Return the text without HTML, entities, shop marks and unseen characters; its white space is as it was.

    Only tags of HTML's own elements are markup, in the syntax of tags: ``List<String>``, ``I <heart> Robots``,
    ``x<y when y>z`` and ``<3`` stay. So does a bare tag that is never closed, follows a word without a space and looks
    like a type or a variable (``Vector<Object>``, ``i<b>c``). Markup that was escaped, even twice, is markup too.

    Args:
        text: As it was found.

    Returns:
        Text that is not longer, and that another call leaves as it is.
    """
    text = encodable(text)
    for _ in range(_DEEPEST):  # what an entity or a tag hid may be markup in its turn
        before = text
        if "&" in text:
            text = _ENTITY.sub(_unescaped, _AMPERSAND.sub("&", text))
        if _HINT.search(text):
            closed = {name.lower() for name in _CLOSED.findall(text)}
            text = _MARKUP.sub(lambda match, closed=closed: _untagged(match, closed), text)
        if not (text.isascii() and text.isprintable()):
            text = _UNSEEN.sub("", text)
        if text == before:
            break
    return text


def in_one_language(text: str, keep: str) -> str:
    """Return one part of a text that Google shows with its translation, without the marks; any other as it is.

    Args:
        text: ``(Translated by Google) … (Original) …``, or ``… (Translated by Google) …``, the original first.
        keep: ``translation`` or ``original``; where it is empty the other takes its place.
    """
    before, *after = _TRANSLATION.split(text)
    if not after:
        return text
    translation, *original = _ORIGINAL.split(" ".join(after))
    parts = {"translation": translation.strip(), "original": (" ".join(original) if original else before).strip()}
    return parts[keep] or parts["translation"] or parts["original"]


def one_line(text: str) -> str:
    """Return the text on one line, its words parted by single spaces."""
    return " ".join(text.split())


def tidy_lines(text: str) -> str:
    """Return the text with single spaces, its lines as they were; at most one line in a row is empty."""
    lines = "\n".join(map(one_line, text.splitlines())).strip()
    return re.sub(r"\n{3,}", "\n\n", lines)


def _unescaped(entity: re.Match[str]) -> str:
    name, semicolon = entity[1], entity[2]
    if name.startswith("#"):
        return html.unescape(f"&{name};")
    if not semicolon and name not in _WITHOUT_SEMICOLON:
        return entity[0]
    return html5.get(f"{name};", entity[0])


def _untagged(match: re.Match[str], closed: set[str]) -> str:
    if match["product"] is not None:
        return match["product"]
    name = (match["closed"] or match["opened"] or "span").lower()
    if match["opened"] and not match["attributes"] and name not in closed and _is_argument(match):
        return match[0]
    return "" if name in _DRESS.split() else "\n" if name in _BREAKS.split() else " "


def _is_argument(match: re.Match[str]) -> bool:
    name, start = match["opened"], match.start()
    follows_word = start > 0 and match.string[start - 1].isalnum()
    return follows_word and name.lower() not in ("br", "hr") and (name[0].isupper() or name in tuple("abiqsu"))
