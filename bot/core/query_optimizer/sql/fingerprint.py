"""The shape of a query: its text without literals, comments and layout (pure).

After pt-fingerprint (Percona Toolkit) and pg_stat_statements: literals and parameters become ``?``,
lists of them one ``?``, keywords upper case, bare identifiers lower case.
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Any

from bot.core.query_optimizer.sql.dialects import sqlglot_error, tokens_in

MAX_TEXT = 200_000
"""Characters above which a text is fingerprinted as it is, without tokens."""

NUMBERED = "\u01c2"
"""Replaces the ``$`` of ``$1`` in a token of PostgreSQL: a single letter that occurs in no name."""

_NUMBERED = re.compile(r"'[^']*+'|\"[^\"]*+\"|(?<![\w$])\$(\d+)(?!\$)")


def _as_name(match: re.Match[str]) -> str:
    number = match.group(1)
    return match.group() if number is None else NUMBERED + number


MAX_SPLIT = 2_000
"""Characters up to which a text that sqlglot cannot split is split by sqlparse, at some 10 µs a character."""

_WORD = re.compile(r"[A-Za-z_][\w$]*")
_LIST = re.compile(r"\( \?(?: , \?)+ \)")
_ROWS = re.compile(r"(VALUES \( \? \))(?: , \( \? \))+")


def shape(query: str, dialect: str) -> tuple[str, str]:
    """(fingerprint, normal form) of any text."""
    return shape_of(query, tokens_of(query, dialect), dialect)


def tokens_of(query: str, dialect: str) -> list[Any] | None:
    """The text's tokens; None if it is too long or sqlglot cannot split it."""
    if len(query) > MAX_TEXT:
        return None
    text = query
    if dialect == "postgres" and "$" in query:
        # For sqlglot "$1,$" opens a string in dollar quotes, which would hide everything up to the next
        # "$1,$".
        text = _NUMBERED.sub(_as_name, query)
    try:
        return tokens_in(text, dialect)
    except (sqlglot_error(), ValueError, RecursionError):
        return None


def shape_of(query: str, tokens: list[Any] | None, dialect: str = "") -> tuple[str, str]:
    """``shape`` of a text whose tokens are known."""
    if tokens is not None:
        parts = _parts(tokens, _strings_in_double_quotes(query, tokens, dialect))
        while parts and parts[-1] == ";":
            parts.pop()
        normal = " ".join(parts)
        if "( ? ," in normal:
            normal = _LIST.sub("( ? )", normal)
        # Rows of VALUES become equal only after their lists have.
        if "( ? ) , ( ? )" in normal:
            normal = _ROWS.sub(r"\1", normal)
        source = normal
    elif len(query) <= MAX_TEXT:
        source = _by_sqlparse(query) if len(query) <= MAX_SPLIT else query
        # If a quote does not end, data cannot be told from the rest.
        word = _WORD.search(source)
        normal = f"{word.group().upper() if word else '?'} ... (a text that cannot be read)"
    else:
        source, normal = query, "(a text too long to be shown without its data)"
    return hashlib.blake2b(source.encode("utf-8", "replace"), digest_size=8).hexdigest(), normal


MAX_NESTING = 100
"""Levels above which a text is not parsed: the parser recurses in C, where too much depth is a crash."""

_OPENS = frozenset(("(", "[", "{", "CASE"))
_CLOSES = frozenset((")", "]", "}", "END"))
_TYPES = frozenset(("ARRAY", "STRUCT", "MAP", "LIST", "NESTED", "ROW", "OBJECT", "TUPLE"))
_WATCHED = _OPENS | _CLOSES | frozenset(("JOIN", "ON", "USING", "<", "IF"))


MAX_TYPES = 6
"""Levels of a type's name before a bracket, as DATE(DATE(...)) or ARRAY[ARRAY[...]]: the parser tries each
as a type and as a call, which doubles its work, or quadruples it, with every level."""


MAX_OPEN_JOINS = 8
"""Joins without their ON or USING: the parser tries whether what follows is nested in them, which doubles its
work with each."""


def _has_open_joins(tokens: list[Any]) -> bool:
    joins = 0
    last = ""
    for token in tokens:
        text = token.text.upper()
        if text in ("JOIN", "STRAIGHT_JOIN"):
            if last not in ("CROSS", "NATURAL"):
                joins += 1
                if joins > MAX_OPEN_JOINS:
                    return True
        elif text in ("ON", "USING"):
            joins = max(0, joins - 1)
        last = text
    return False


def is_too_deep(query: str, tokens: list[Any]) -> bool:
    """Whether a parser that recurses may run out of stack, or time, on these tokens. Parses nothing."""
    if query.upper().count("JOIN") > MAX_OPEN_JOINS and _has_open_joins(tokens):
        return True
    if query.count("(") > MAX_TYPES or query.count("[") > MAX_TYPES:
        return _has_nested_types(tokens) or (len(tokens) > MAX_NESTING and _is_nested(tokens))
    return len(tokens) > MAX_NESTING and _is_nested(tokens)


@functools.cache
def _types() -> tuple[frozenset[Any], frozenset[Any], frozenset[Any]]:
    """Token types: names of types, opening brackets, closing brackets."""
    from sqlglot.parser import Parser
    from sqlglot.tokens import TokenType as T  # type: ignore[attr-defined]  # exported, not by its stub

    names = frozenset(Parser.TYPE_TOKENS)
    return names, frozenset((T.L_PAREN, T.L_BRACKET)), frozenset((T.R_PAREN, T.R_BRACKET))


def _has_nested_types(tokens: list[Any]) -> bool:
    names, opens, closes = _types()
    of_type: list[bool] = []
    depth = 0
    last = None
    for token in tokens:
        kind = token.token_type
        if kind in opens:
            is_type = last in names
            of_type.append(is_type)
            depth += is_type
            if depth > MAX_TYPES:
                return True
        elif kind in closes and of_type:
            depth -= of_type.pop()
        last = kind
    return False


def _is_nested(tokens: list[Any]) -> bool:
    depth = joins = conditions = types = run = 0
    last = ""
    for token in tokens:
        text = token.text.upper()
        # Repetitions of a word can nest without any brackets.
        run = run + 1 if text == last and text not in _CLOSES else 0
        if text in _WATCHED:
            if text in _OPENS:
                depth += 1
            elif text in _CLOSES:
                depth = max(0, depth - 1)
            elif text == "JOIN":
                joins += 1
            elif text == "IF":
                conditions += 1
            elif text == "<":
                types += last in _TYPES
            else:
                joins = max(0, joins - 1)  # ON or USING ends what JOIN began
        if max(depth, joins, conditions, types, run) > MAX_NESTING:
            return True
        last = text
    return False


@functools.cache
def _kinds() -> tuple[frozenset[Any], frozenset[Any], Any, Any, Any, Any]:
    """Token types by what becomes of them; looked up once, since sqlglot is imported late."""
    from sqlglot.tokens import TokenType as T  # type: ignore[attr-defined]  # exported, not by its stub

    literals = frozenset(
        (
            T.STRING, T.NUMBER, T.PLACEHOLDER, T.NATIONAL_STRING, T.RAW_STRING, T.HEX_STRING, T.BIT_STRING,
            T.BYTE_STRING, T.HEREDOC_STRING, T.UNICODE_STRING,
        )
    )  # fmt: skip
    return literals, frozenset((T.PARAMETER, T.COLON, T.MOD)), T.MOD, T.NUMBER, T.IDENTIFIER, T.VAR


@functools.cache
def _becomes() -> dict[Any, int]:
    """What a token becomes in a shape, by its type; other types are keywords and punctuation."""
    literals, marks, _, _, identifier, variable = _kinds()
    return {
        variable: _NAME,
        identifier: _QUOTED,
        **dict.fromkeys(literals, _VALUE),
        **dict.fromkeys(marks, _MARK),
    }


_NAME, _QUOTED, _VALUE, _MARK = range(1, 5)
_BEFORE_NUMBER = ("$", NUMBERED)


# Tokens after which a value stands rather than a name.
_BEFORE_VALUE = frozenset(
    (
        "= == <> != < > <= >= || -> ->> LIKE ILIKE GLOB MATCH REGEXP RLIKE BETWEEN THEN ELSE PASSWORD ESCAPE"
    ).split()
)
_NO_STRINGS: frozenset[int] = frozenset()


def _strings_in_double_quotes(query: str, tokens: list[Any], dialect: str) -> frozenset[int]:
    """Which tokens in double quotes may be strings: SQLite takes one for a string if no column has that name.

    Only where a value is likely, since some tools quote every name.
    """
    if dialect == "postgres" or '"' not in query:
        return _NO_STRINGS
    identifier = _kinds()[4]
    found = set()
    last = len(tokens) - 1
    for index, token in enumerate(tokens):
        if token.token_type is not identifier or query[token.start : token.start + 1] != '"' or not index:
            continue
        if index < last and tokens[index + 1].text in (".", "("):
            continue
        before = tokens[index - 1].text.upper()
        if before in _BEFORE_VALUE or (before in ("(", ",") and _is_in_list(tokens, index)):
            found.add(index)
        elif before in ("AND", "BY") and index > 1:
            one = tokens[index - 2].text.upper()
            between = before == "AND" and index > 2 and tokens[index - 3].text.upper() == "BETWEEN"
            if between or (before == "BY" and one == "IDENTIFIED"):
                found.add(index)
    return frozenset(found)


def _is_in_list(tokens: list[Any], index: int) -> bool:
    """Whether what is around a token is the list of an IN, or a row of a VALUES."""
    depth = 0
    for at in range(index - 1, 0, -1):
        text = tokens[at].text
        if text == ")":
            depth += 1
        elif text == "(":
            if depth == 0:
                before = tokens[at - 1].text.upper()
                return before in ("IN", "VALUES", "VALUE") or (before == "," and tokens[at - 2].text == ")")
            depth -= 1
    return False


def _parts(tokens: list[Any], strings: frozenset[int] = _NO_STRINGS) -> list[str]:
    if strings:
        return _parts_by_neighbours(tokens, strings)
    becomes = _becomes().get
    parts: list[str] = []
    for token in tokens:
        kind = becomes(token.token_type)
        if kind is None:
            parts.append(token.text.upper())
        elif kind == _NAME:
            text = token.text
            parts.append("?" if text[:1] in _BEFORE_NUMBER else text.lower())
        elif kind == _VALUE:
            parts.append("?")
        elif kind == _QUOTED:
            parts.append(f'"{token.text}"')
        else:
            return _parts_by_neighbours(tokens, strings)
    return parts


def _parts_by_neighbours(tokens: list[Any], strings: frozenset[int]) -> list[str]:
    """The same where a token may be a parameter with the next one, or a string in double quotes."""
    _, _, percent, number, _, _ = _kinds()
    becomes = _becomes().get
    parts: list[str] = []
    skip = -1
    last = len(tokens) - 1
    for index, token in enumerate(tokens):
        if index == skip:
            continue
        kind = becomes(token.token_type)
        text = token.text
        if kind is None:
            parts.append(text.upper())
        elif kind == _NAME:
            parts.append("?" if text[:1] in _BEFORE_NUMBER else text.lower())
        elif kind == _VALUE:
            parts.append("?")
        elif kind == _QUOTED:
            parts.append("?" if index in strings else f'"{text}"')
        elif index < last and _is_parameter(token, tokens[index + 1], percent, number):
            parts.append("?")
            skip = index + 1
        else:
            parts.append(text.upper())
    return parts


def marked(query: str, tokens: list[Any], dialect: str = "") -> list[str]:
    """What the text has where its shape has a ``?``, in order: literals and parameters as written."""
    literals, marks, percent, number, _, variable = _kinds()
    found: list[str] = []
    strings = _strings_in_double_quotes(query, tokens, dialect)
    for index, token in enumerate(tokens):
        kind = token.token_type
        if kind in literals or index in strings or (kind is variable and token.text[:1] == "$"):
            found.append(token.text)
        elif kind is variable and token.text[:1] == NUMBERED:
            found.append(query[token.start : token.end + 1])
        elif kind in marks and index + 1 < len(tokens):
            following = tokens[index + 1]
            if _is_parameter(token, following, percent, number):
                found.append(query[token.start : following.end + 1])
    return found


def _is_parameter(mark: Any, following: Any, percent: Any, number: Any) -> bool:
    """Whether $1, :name, @name or %s, which are two tokens, stands here."""
    if following.start != mark.end + 1:
        return False
    if mark.token_type is percent:
        return following.text in ("s", "d")
    return following.token_type is number or _WORD.match(following.text) is not None


def _by_sqlparse(query: str) -> str:
    """For texts that sqlglot cannot split into tokens, such as one with an unclosed quote."""
    import sqlparse
    from sqlparse import tokens as kinds
    from sqlparse.exceptions import SQLParseError

    try:
        statements = sqlparse.parse(query)
    except (SQLParseError, RecursionError, ValueError):
        return " ".join(query.split())[:2000]
    parts = []
    for statement in statements:
        for token in statement.flatten():  # type: ignore[no-untyped-call]
            if token.is_whitespace or token.ttype in kinds.Comment:
                continue
            parts.append("?" if token.ttype in kinds.Literal else token.value.lower())
    return " ".join(parts)
