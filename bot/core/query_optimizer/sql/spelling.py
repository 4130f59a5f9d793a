"""Whether sqlglot prints a query in the query's own words (pure)."""

from __future__ import annotations

import functools
import re
from typing import Any

_PYFORMAT = re.compile(r"%\((\w+)\)s")


def printed(tree: Any, dialect: str) -> str:
    """The text of a tree, without comments."""
    # PostgreSQL's printer writes %(name)s for the name of a parameter.
    return _PYFORMAT.sub(r":\1", str(tree.sql(dialect=dialect or None, comments=False)))


_NOISE = frozenset(("AS", "INNER", "OUTER", "ASC", "NOT", "ALL"))
_SAME = {"!=": "<>", "==": "="}


def spelling(text: str, tokens: list[Any]) -> list[str]:
    """A text's tokens without what may be left out or, as NOT, moved; the parser tells those apart."""
    kept = []
    verbatim = _verbatim()
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.token_type in verbatim:
            word = text[token.start : token.end + 1]
            is_call = following is not None and following.text == "(" and word.isidentifier()
            kept.append(word.upper() if is_call else word)
            continue
        word = " ".join(token.text.upper().split())
        word = _SAME.get(word, word)
        if word not in _NOISE:
            kept.append(word)
    return kept


@functools.cache
def _verbatim() -> frozenset[Any]:
    from sqlglot.tokens import TokenType as T  # type: ignore[attr-defined]  # exported, not by its stub

    return frozenset((T.VAR, T.IDENTIFIER, T.STRING, T.NATIONAL_STRING, T.RAW_STRING))
