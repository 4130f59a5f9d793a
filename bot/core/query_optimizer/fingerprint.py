"""The shape of a query: its text without literals, comments and layout.

After pt-fingerprint (Percona Toolkit) and pg_stat_statements: literals and parameters become ``?``,
lists of them one ``?``, keywords upper case, bare identifiers lower case.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

MAX_TEXT = 200_000
"""Characters above which a text is not tokenized but fingerprinted as it is."""

_WORD = re.compile(r"[A-Za-z_][\w$]*")
_LIST = re.compile(r"\( \?(?: , \?)+ \)")
_ROWS = re.compile(r"(VALUES \( \? \))(?: , \( \? \))+")


def shape(query: str, dialect: str) -> tuple[str, str]:
    """(fingerprint, normal form) of any text at all."""
    normal = _normal_form(query, dialect) if len(query) <= MAX_TEXT else " ".join(query[:1000].split())
    source = normal if len(query) <= MAX_TEXT else query
    return hashlib.blake2b(source.encode("utf-8", "replace"), digest_size=8).hexdigest(), normal


def _normal_form(query: str, dialect: str) -> str:
    from sqlglot import tokenize
    from sqlglot.errors import SqlglotError

    try:
        tokens = tokenize(query, read=dialect or None)
    except (SqlglotError, ValueError, RecursionError):
        return _by_sqlparse(query)
    parts = _parts(tokens)
    while parts and parts[-1] == ";":
        parts.pop()
    # Twice: the rows of a VALUES are equal only once their lists are.
    return _ROWS.sub(r"\1", _LIST.sub("( ? )", " ".join(parts)))


def _parts(tokens: list[Any]) -> list[str]:
    from sqlglot.tokens import TokenType  # type: ignore[attr-defined]  # exported, but not by its stub

    literals = {
        TokenType.STRING, TokenType.NUMBER, TokenType.PLACEHOLDER, TokenType.NATIONAL_STRING,
        TokenType.RAW_STRING, TokenType.HEX_STRING, TokenType.BIT_STRING, TokenType.BYTE_STRING,
        TokenType.HEREDOC_STRING, TokenType.UNICODE_STRING,
    }  # fmt: skip
    parts: list[str] = []
    index = 0
    while index < len(tokens):
        token = tokens[index]
        following = tokens[index + 1] if index + 1 < len(tokens) else None
        kind = token.token_type
        if kind in literals:
            parts.append("?")
        elif (
            # $1, :name, @name and %s are parameters too, of two tokens that stand together.
            kind in (TokenType.PARAMETER, TokenType.COLON, TokenType.MOD)
            and following is not None
            and following.start == token.end + 1
            and _WORD.match(following.text or "1")
            and (kind is not TokenType.MOD or following.text in ("s", "d"))
        ) or (
            kind is TokenType.PARAMETER and following is not None and following.token_type is TokenType.NUMBER
        ):
            parts.append("?")
            index += 1
        elif kind is TokenType.IDENTIFIER:
            parts.append(f'"{token.text}"')
        elif kind is TokenType.VAR:
            parts.append("?" if token.text[:1] == "$" else token.text.lower())
        else:
            parts.append(token.text.upper())
        index += 1
    return parts


def _by_sqlparse(query: str) -> str:
    """For text that sqlglot cannot even split into tokens, such as an unclosed quote."""
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
