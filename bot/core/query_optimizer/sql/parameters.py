"""Parameters as drivers write them, named so that sqlglot reads them in every dialect (pure).

``%s`` and ``%(name)s`` (psycopg, aiomysql, asyncmy) are a division's remainder to sqlglot, and SQLite's
``?1`` is nothing at all; ``$1`` is a column to all but PostgreSQL. ``?`` and ``:name`` it knows.
"""

from __future__ import annotations

import re
from typing import Any

_STEM = "phase4_parameter_"
_NAMED = re.compile(rf":{_STEM}(\d+)\b|%\({_STEM}(\d+)\)s")
_REMAINDER = re.compile(r"%(?:\((\w+)\))?[sd]\b")
_NUMBERED = re.compile(r"\?\d+")
_DOLLAR = re.compile(r"\$\d+\b")
_MARKS = frozenset("%?$")
_PLAIN = re.compile(r"\?\d*")


class Parameters:
    """The names that replaced parameters, and the original texts."""

    __slots__ = ("written",)

    def __init__(self) -> None:
        self.written: list[str] = []

    def name_all(self, query: str, tokens: list[Any], *, every: bool = False) -> str:
        """``query`` with each such parameter named; strings and comments are left alone.

        ``every`` names ``?`` too.
        """
        pieces: list[str] = []
        done = 0
        for token in tokens:
            start = token.start
            mark = query[start]
            if start < done or mark not in _MARKS:
                continue
            if mark == "?":
                match = (_PLAIN if every else _NUMBERED).match(query, start)
            else:
                match = (_REMAINDER if mark == "%" else _DOLLAR).match(query, start)
            if match is None:
                continue
            pieces += [query[done:start], f":{_STEM}{len(self.written)}"]
            self.written.append(match.group())
            done = match.end()
        return "".join(pieces) + query[done:] if pieces else query

    def restore(self, query: str) -> str:
        """The parameters as they were written."""
        if not self.written:
            return query
        return _NAMED.sub(lambda match: self.written[int(match.group(1) or match.group(2))], query)
