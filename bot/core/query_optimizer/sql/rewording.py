"""Rewords statements that the parser cannot read into ones that it can, with the same tables (pure).

The result is only read, never executed.
"""

from __future__ import annotations

import re
from typing import Any

_REPLACE = re.compile(r"(?i)\A\s*REPLACE\s+(?:(?:LOW_PRIORITY|DELAYED)\s+)?(?:INTO\b)?")
_UPDATE_OR = re.compile(r"(?i)\bUPDATE\s+OR\s+(?:ROLLBACK|ABORT|REPLACE|FAIL|IGNORE)\b")
# In MySQL LOW_PRIORITY and IGNORE are reserved: no table has such a name without quotes.
_MODIFIED = re.compile(r"(?i)\b(UPDATE|DELETE)\s+(?:LOW_PRIORITY\s+)?(?:IGNORE\b)?")
_URGENT = re.compile(r"(?i)\A\s*INSERT\s+(?:LOW_PRIORITY|DELAYED|HIGH_PRIORITY)\b")
_RECURSIVE_VIEW = re.compile(
    r"(?i)\A(\s*CREATE\s+(?:OR\s+REPLACE\s+)?(?:(?:LOCAL\s+|GLOBAL\s+)?TEMP(?:ORARY)?\s+)?)RECURSIVE\s+(?=VIEW\b)"
)
_ALTER_VIEW = re.compile(r"(?i)\A\s*ALTER\s+(?=(?:ALGORITHM|DEFINER|SQL)\b.*?\bVIEW\b)", re.DOTALL)
_TABLE = re.compile(
    r"(?i)TABLE\s+(?:ONLY\s+)?(?=[^\W\d]|[\"`])(?!(?:FROM|UNION|EXCEPT|INTERSECT|ORDER|LIMIT)\b)"
)
_BEFORE_A_QUERY = frozenset(("(", ")", "AS", "UNION", "EXCEPT", "INTERSECT", "ALL", "DISTINCT", ";"))
_NEXT_VALUE = re.compile(r"(?i)\bNEXT\s+VALUE\s+FOR\s+((?:[\w$]+|`[^`]+`)(?:\.(?:[\w$]+|`[^`]+`))?)")


def reworded(query: str, tokens: list[Any], dialect: str) -> str:
    """``query``, or a text with the same tables that the parser can read."""
    word = tokens[0].text.upper()
    if word == "SELECT":
        pass
    elif word == "REPLACE":
        # To sqlglot REPLACE is a statement it passes through unread; its tables are those of an INSERT.
        query = _REPLACE.sub("INSERT INTO ", query, count=1)
    elif word in ("UPDATE", "DELETE", "WITH"):
        if dialect in ("sqlite", ""):
            query = _at_tokens(_UPDATE_OR, query, tokens, "UPDATE", "UPDATE ")
        if dialect == "mysql":
            query = _at_tokens(_MODIFIED, query, tokens, ("UPDATE", "DELETE"), r"\1 ")
    elif word == "INSERT" and dialect in ("mysql", ""):
        query = _URGENT.sub("INSERT ", query, count=1)
    elif word == "CREATE":
        query = _RECURSIVE_VIEW.sub(r"\1", query, count=1)
    elif word == "ALTER" and dialect in ("mysql", ""):
        query = _ALTER_VIEW.sub("CREATE OR REPLACE ", query, count=1)
    upper = query.upper()
    often = 0 if dialect == "sqlite" else upper.count("TABLE")
    if often > 1 or (often and _is_no_definition(tokens)):
        query = _without_table_queries(query, tokens)
    if "NEXT" in upper and dialect in ("mysql", "") and _NEXT_VALUE.search(query):
        query = _NEXT_VALUE.sub(r"nextval(\1)", query)
    return query


def _is_no_definition(tokens: list[Any]) -> bool:
    return len(tokens) < 2 or tokens[1].text.upper() != "TABLE"


def _without_table_queries(query: str, tokens: list[Any]) -> str:
    """``TABLE a`` reworded as ``SELECT * FROM a`` wherever a query may stand.

    To sqlglot before 30.30 it is a table's alias, or nothing.
    """
    for number in range(len(tokens) - 1, -1, -1):
        start = tokens[number].start
        if tokens[number].text.upper() != "TABLE" or query[start : start + 1] not in ("T", "t"):
            continue
        if number and tokens[number - 1].text.upper() not in _BEFORE_A_QUERY:
            continue
        match = _TABLE.match(query, start)
        if match is not None:
            query = "".join((query[:start], "SELECT * FROM ", query[match.end() :]))
    return query


def _at_tokens(
    pattern: re.Pattern[str], query: str, tokens: list[Any], words: str | tuple[str, ...], by: str
) -> str:
    """``query`` with ``pattern`` replaced where one of these words is a token: strings are left alone."""
    for token in reversed(tokens):
        if token.text.upper() in words and (match := pattern.match(query, token.start)) is not None:
            query = query[: match.start()] + match.expand(by) + query[match.end() :]
    return query
