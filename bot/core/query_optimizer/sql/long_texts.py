"""Texts too long to be parsed while others wait: cut where they repeat, or read by their words (pure).

The parser takes some 5 µs a token, so that a statement with 5,000 rows would hold the event loop for a tenth
of a second. What makes texts long is mostly one thing many times: rows, values of an IN, arms of a CASE,
conditions joined by OR. Two of those tell as much as thousands. A text that is still too long is not parsed:
a few words tell whether it may write and where, and if they do not, it may write anything.
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import NamedTuple

SHORT = 4_000
"""Characters up to which a text is parsed as it is."""

MAX_PARSED = 16_000
"""Characters, and a quarter as many tokens, up to which a text is parsed after it was cut."""

MAX_CUT = 500_000
"""Characters up to which a text is searched for repetitions."""

MAX_OUTLINED = 150_000
"""Characters up to which a text is read by its words."""

MAX_SUBSCRIPTS = 20
"""``a[1][2]``...: the parser's work grows with the third power of their number."""

_ATOM = (
    r"(?>[-+]?\d[\d.]*+(?:[eE][-+]?\d++)?+|[xXbBnN]?'(?!(?i:[^']*?(?:now|today|tomorrow|yesterday)))(?:[^'\\]|'')*+'"
    r"|\$\d++|\?\d*+|%s|%\(\w++\)s|:[A-Za-z_]\w*+|(?i:NULL|TRUE|FALSE|DEFAULT)\b)"
    r"(?:\s*+::\s*+[A-Za-z_]\w*+(?:\[\])?+)?+"
)
_ATOMS = rf"\(\s*+{_ATOM}(?:\s*+,\s*+{_ATOM})*+\s*+\)"
_NAME = r"[A-Za-z_][\w.]*+"
# Strings and comments, and the repetitions. Tried in this order wherever one could begin.
_REPETITIONS = rf"""
    (?P<skip> '(?:[^']|'')*+' | "(?:[^"]|"")*+" | `[^`]*+` | --[^\n]*+ | /\*(?:[^*/]|\*(?!/)|/(?!\*))*+\*/ )
    | (?P<rows> {_ATOMS}(?:\s*+,\s*+{_ATOMS})(?P<more_rows>(?:\s*+,\s*+{_ATOMS})++) )
    | (?P<list> \b(?i:IN)\s*+\(\s*+{_ATOM}\s*+,\s*+{_ATOM}(?P<more_list>(?:\s*+,\s*+{_ATOM})++)\s*+\) )
    | (?P<or> \b(?P<word>(?i:OR|AND))\s++(?P<name>{_NAME})\s*+(?P<sign>=|<>|!=|<=|>=|<|>)\s*+{_ATOM}
        (?P<more_or>(?:\s++(?P=word)\s++(?P=name)\s*+(?P=sign)\s*+{_ATOM})++) )
    | (?P<when> (?i:\bWHEN)\s++{_ATOM}\s*+(?i:THEN)\s++{_ATOM}
        (?P<more_when>(?:\s++(?i:WHEN)\s++{_ATOM}\s*+(?i:THEN)\s++{_ATOM})++) )
    """
_RUNS = ("more_rows", "more_list", "more_or", "more_when")
# Where one of those may begin.
_BEGIN = re.compile(r"['\"`(]|--|/\*|\b(?i:IN|OR|AND|WHEN)\b")


@functools.cache
def repetitions() -> re.Pattern[str]:
    """Compiled with the parser or for the first long text, not with this module: that takes 5 ms."""
    return re.compile(_REPETITIONS, re.VERBOSE)


def shorten(query: str, dialect: str) -> str | None:
    """``query`` without most of what it repeats, for an analysis to which that makes no difference.

    None if the rest is still too long to be parsed, or if any part may not be what it seems.
    """
    if len(query) > MAX_CUT or not _is_plain(query, dialect):
        return None
    pattern = repetitions()
    kept: list[str] = []
    position = size = 0
    while position < len(query):
        # No further than what may be kept, so that a text with nothing to cut costs no more than that.
        begin = _BEGIN.search(query, position, position + MAX_PARSED + 10)
        start = len(query) if begin is None else begin.start()
        found = None if begin is None else pattern.match(query, start)
        end = start + 1 if found is None else found.end()
        kept.append(query[position:start])
        kept.append(query[start:end] if found is None else _cut(found))
        size += len(kept[-2]) + len(kept[-1])
        if size > MAX_PARSED:
            return None
        position = end
    return "".join(kept)


def _is_plain(query: str, dialect: str) -> bool:
    """Whether all readers of the dialect agree where strings and comments end."""
    if "#" in query:
        return False
    standard = dialect in ("postgres", "sqlite")
    if "\\" in query and (not standard or _ESCAPED.search(query)):
        return False
    if "$" in query and _DOLLARS.search(query):
        return False
    if "/*" in query and ("/*!" in query or "/*M!" in query or "/*m!" in query or _NESTED.search(query)):
        return False
    if "--" in query and not standard and _NO_COMMENT.search(query):
        return False
    if dialect == "postgres":
        return "`" not in query
    return "[" not in query or _BRACKETS.search(query) is None


_ESCAPED = re.compile(r"(?<!\w)[eEuU]&?'")
_DOLLARS = re.compile(r"\$(?!\d)|\$\d++\$")
_NESTED = re.compile(r"/\*(?:[^*/]|\*(?!/)|/(?!\*))*+/\*")
_NO_COMMENT = re.compile(r"--(?!\s|\Z)")
_BRACKETS = re.compile(r"\[[^\]\['\"]*+['\"]")


def _cut(match: re.Match[str]) -> str:
    text = match.group()
    for name in _RUNS:
        start, end = match.span(name)
        if start >= 0:
            at = match.start()
            return text[: start - at] + text[end - at :]
    return text


_TOKEN = re.compile(r"\w++|[^\w\s]")
_SUBSCRIPT = re.compile(r"\]\s*+\[")


def is_readable(text: str) -> bool:
    """Whether the parser needs bounded time for it. Nesting is checked elsewhere."""
    if text.count("[") > MAX_SUBSCRIPTS and len(_SUBSCRIPT.findall(text)) > MAX_SUBSCRIPTS:
        return False
    if len(text) <= SHORT:
        return True
    return len(text) <= MAX_PARSED and len(_TOKEN.findall(text)) <= MAX_PARSED // 4


class Outline(NamedTuple):
    """What the words of a text tell."""

    word: str
    """The first, in lower case; "" if there is none."""
    writes: str
    """The table that it writes, as written; "" if it writes none, or if that is not known."""
    anything: bool
    """Whether it may write unknown tables."""
    fingerprint: str


_HIDDEN = re.compile(
    r"'(?:[^']|'')*+'|\"(?:[^\"]|\"\")*+\"|`[^`]*+`|--[^\n]*+|/\*(?:[^*/]|\*(?!/)|/(?!\*))*+\*/"
)
_FIRST = re.compile(r"[\s(]*+([A-Za-z]+)")
_WORDS = re.compile(r"[^\W\d]\w*+(?:\s*+\()?+")
_TARGET = r"((?:[A-Za-z_]\w*+\.)*+[A-Za-z_]\w*+)(?![\w$.])\s*+"
_TARGETS = {
    "insert": rf"(?i)\s*+INSERT\s++(?:IGNORE\s++|OR\s++\w++\s++)?+INTO\s++{_TARGET}",
    "replace": rf"(?i)\s*+REPLACE\s++INTO\s++{_TARGET}",
    "update": rf"(?i)\s*+UPDATE\s++(?!ONLY\b){_TARGET}SET\b",
    "delete": rf"(?i)\s*+DELETE\s++FROM\s++(?!ONLY\b){_TARGET}WHERE\b",
}
_READS = frozenset(("select", "with", "values"))
# Words that occur only in statements that do more than read; the very first word is not counted.
_OTHERS = frozenset(
    (
        "insert update delete merge replace into truncate create alter drop call do exec execute begin "
        "next declare copy grant revoke vacuum attach pragma lock share load prepare explain"
    ).split()
)
_NO_NAMES = frozenset(("set", "table", "only", "default", "lateral"))
_UPSERT = re.compile(r"(?i)\b(?:DO|KEY)\s++(?:UPDATE|NOTHING)\b")
# Names before a bracket that call nothing of the user's own: words of the grammar, and functions that all
# databases have, none of which writes.
_HARMLESS_CALLS = frozenset(
    (
        "in values any all some exists not and or on using as over filter partition by select from where "
        "when then else case end between join union except intersect having limit offset with array row cast "
        "extract coalesce nullif greatest least count sum avg min max abs round lower upper length trim "
        "substring concat conflict key set returning interval lateral is like ilike distinct order group"
    ).split()
)


def outline(query: str, dialect: str, own: frozenset[str] = frozenset()) -> Outline:
    """What a text does, by its words. ``own`` are functions of the database's own, in lower case."""
    if len(query) > MAX_OUTLINED or not _is_plain(query, dialect):
        match = _FIRST.match(query[:1_000])
        return Outline(match.group(1).lower() if match else "", "", True, _digest(query))
    bare = _HIDDEN.sub(_hide, query)
    match = _FIRST.match(bare[:1_000])
    word = match.group(1).lower() if match else ""
    fingerprint = _digest(re.sub(r"\d++", "?", bare))
    unknown = Outline(word, "", True, fingerprint)
    if (
        "'" in bare
        or '"' in bare.replace('""', "")
        or "`" in bare.replace("``", "")
        or ";" in bare.rstrip("; \n\t")
    ):
        return unknown
    target = ""
    body = bare[match.end(1) :] if match else ""
    if word in _TARGETS:
        found = re.match(_TARGETS[word], bare)  # compiled when it is needed
        if found is None or (word in ("update", "delete") and dialect not in ("postgres", "sqlite")):
            return unknown
        target = found.group(1)
        if target.lower() in _HARMLESS_CALLS or target.lower() in _NO_NAMES:
            return unknown
        body = _UPSERT.sub(" ", bare[found.end() :])
    elif word not in _READS:
        return unknown
    for each in set(_WORDS.findall(body)):
        name = each.rstrip("(").rstrip().lower()
        if name in _OTHERS or (each[-1] == "(" and (name not in _HARMLESS_CALLS or name in own)):
            return unknown
    if ('"' in bare and re.search(r'""\s*+\(', bare)) or ("``" in bare and re.search(r"``\s*+\(", bare)):
        return unknown  # a call, by a quoted name
    return Outline(word, target, False, fingerprint)


def _hide(match: re.Match[str]) -> str:
    mark = match.group()[0]
    return " " if mark in "-/" else "0" if mark == "'" else mark * 2


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
