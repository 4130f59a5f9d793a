"""Whether sqlglot prints a query with the query's own words (pure)."""

from __future__ import annotations

import functools
import re
from typing import Any

_PYFORMAT = re.compile(r"%\((\w+)\)s")


def printed(tree: Any, dialect: str) -> str:
    """The text of a tree, without comments."""
    # PostgreSQL's printer writes %(name)s for the name of a parameter.
    return _PYFORMAT.sub(r":\1", str(tree.sql(dialect=dialect or None, comments=False)))


_NOISE = frozenset(("INNER", "OUTER", "ASC", "NOT", "ALL"))


def spelling(text: str, tokens: list[Any], dialect: str) -> list[str]:
    """A text's tokens without those that are optional or, like NOT, can be moved; the parser tells these
    apart.

    AS may be left out before the alias of a table, and only there: what stands before a column without it
    may be a word that one database knows, as in SELECT SQL_NO_CACHE id.
    """
    kept = []
    verbatim = _verbatim()
    clauses = [""]
    last = len(tokens) - 1
    for index, token in enumerate(tokens):
        is_before_bracket = index < last and tokens[index + 1].text == "("
        if token.token_type in verbatim:
            word = text[token.start : token.end + 1]
            kept.append(word.upper() if is_before_bracket and word.isidentifier() else word)
            continue
        word = " ".join(token.text.upper().split())
        if word == "(":
            clauses.append("")
        elif word == ")" and len(clauses) > 1:
            clauses.pop()
        elif word in ("SELECT", "FROM"):
            clauses[-1] = word
        elif word == "AS":
            renames = index + 1 < last and tokens[index + 2].text == "("
            if clauses[-1] == "FROM" and not renames:
                continue
        elif word == "!=":
            word = "<>"
        elif word == "==" and dialect == "sqlite":
            word = "="  # to the others it is an error
        if word not in _NOISE:
            kept.append(word)
    return kept


@functools.cache
def _verbatim() -> frozenset[Any]:
    from sqlglot.tokens import TokenType as T  # type: ignore[attr-defined]  # exported, not by its stub

    return frozenset((T.VAR, T.IDENTIFIER, T.STRING, T.NATIONAL_STRING, T.RAW_STRING))
