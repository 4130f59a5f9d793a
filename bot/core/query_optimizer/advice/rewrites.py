"""Rewrites that keep the result, row for row; whatever is in doubt is left as it is.

What makes sure of that:

- Only a single SELECT is rewritten, and only if all its parts are understood (see ``certainty``). Parts
  whose value depends on the plan are not: LIMIT, window functions, random(), columns beside an aggregate
  that are not in GROUP BY, sums of possible fractions, subqueries that may give several rows where one is
  taken. A condition must not compute anything that may fail (a division, a cast), and a join must not
  stand within another one.
- DISTINCT, GROUP BY, UNION and MIN compare values and show one of those that are equal. Where one of them
  occurs, the schema must say that equal values are also identical (see ``column_types``): without a
  schema, and for case-insensitive columns, floats and decimals, nothing is rewritten.
- A part that the database may refuse (a missing table, an ORDER BY on a type without an order) is not
  taken away: a query that fails still fails.
- sqlglot must print the query with the same tokens, apart from layout and optional words, and with names
  and strings quoted as they were; otherwise the text would change in ways that no rewrite asked for.
  Comments before and after the query stay. A comment within it, or one for the database, forbids rewrites.
- Positional parameters keep their number and order, and the columns of the result keep their names.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.advice.certainty import ColumnTypes, may_be_rewritten
from bot.core.query_optimizer.advice.changes import CHANGES
from bot.core.query_optimizer.sql.analyzer import Reading
from bot.core.query_optimizer.sql.census import Census
from bot.core.query_optimizer.sql.dialects import statements_of, tokens_in
from bot.core.query_optimizer.sql.parameters import Parameters
from bot.core.query_optimizer.sql.schema import Schema
from bot.core.query_optimizer.sql.scopes import (
    SETS,
    Scopes,
)
from bot.core.query_optimizer.sql.spelling import printed, spelling

REWRITES = {
    "Q012": "DISTINCT left out",
    "Q015": "UNION ALL in place of UNION",
    "Q016": "condition moved from HAVING to WHERE",
    "Q017": "EXISTS in place of COUNT(*)",
    "Q020": "JOIN in place of LEFT JOIN",
    "Q022": "ORDER BY of a subquery left out",
    "Q031": "repeated condition left out",
    "Q032": "condition that is always true left out",
    "Q037": "IN in place of OR",
    "Q038": "unused LEFT JOIN left out",
}
"""The rules whose fix is a rewrite, and what it is called."""


def rewrite(
    reading: Reading, codes: set[str], schema: Schema | None = None, scopes: Scopes | None = None
) -> tuple[str, list[str]]:
    """(the query, rewritten where one of the rules ``codes`` found something; the codes of what was done).

    ``schema`` says what is known of the tables: with fewer types there are fewer rewrites. ``scopes`` are
    those of the statement, if they were made already.
    """
    wanted = codes & REWRITES.keys()
    if not wanted or len(reading.censuses) != 1:
        return reading.query, []
    census = reading.censuses[0]
    if not may_be_rewritten(reading, census, ColumnTypes(census, schema, reading.dialect, scopes)):
        return reading.query, []
    try:
        return _rewrite(reading, wanted, schema)
    except MemoryError:
        raise
    except Exception:  # of the parser or the printer: the query stays as it is
        return reading.query, []


def _rewrite(reading: Reading, wanted: set[str], schema: Schema | None) -> tuple[str, list[str]]:
    parameters = Parameters()
    dialect, query = reading.dialect, reading.query
    # All positional parameters get numbers, so that a move of one is noticed.
    named = parameters.name_all(query, reading.tokens, every=True)
    tokens = reading.tokens if named == query else tokens_in(named, dialect)
    before, tokens, after = _around(named, tokens)
    if _has_comment_or_joined_words(named, tokens):
        return query, []
    body = named[len(before) : len(named) - len(after)]
    if before:
        tokens = tokens_in(body, dialect)
    tree = statements_of(tokens, body, dialect)[0]
    plain = printed(tree, dialect)
    if spelling(body, tokens, dialect) != spelling(plain, tokens_in(plain, dialect), dialect):
        return query, []
    items = _named_by_their_text(tree, dialect)
    if any(body.count(item) != plain.count(item) for item in items):
        return query, []
    done: list[str] = []
    types = None
    for code, change in CHANGES.items():
        if code in wanted:
            types = types or ColumnTypes(Census(tree), schema, dialect)
            if change(tree, types):
                done.append(code)
                types = None  # this one changed the tree: read it anew
    if not done:
        return query, []
    text = printed(tree, dialect)
    if items and _named_by_their_text(tree, dialect) != items:
        return query, []
    after_tokens = tokens_in(text, dialect)
    if _written_parameters(body, tokens) != _written_parameters(text, after_tokens):
        return query, []
    if statements_of(after_tokens, text, dialect) != [tree]:
        return query, []
    return parameters.restore(f"{before}{text}{after}"), done


def _around(text: str, tokens: list[Any]) -> tuple[str, list[Any], str]:
    """(what stands before the query, its tokens, what stands after it: comments, spaces, a semicolon)"""
    end = len(tokens)
    while tokens[end - 1].text == ";":
        end -= 1
    return text[: tokens[0].start], tokens[:end], text[tokens[end - 1].end + 1 :]


def _has_comment_or_joined_words(text: str, tokens: list[Any]) -> bool:
    """Whether a comment stands between two tokens, or nothing does though sqlglot reads two words.

    Such as 1_000, which it reads as ``1 AS _000``.
    """
    for one, other in pairwise(tokens):
        between = text[one.end + 1 : other.start]
        if between.strip():
            return True
        first, second = text[one.end : one.end + 1], text[other.start : other.start + 1]
        if not between and (first.isalnum() or first in "_$") and (second.isalnum() or second in "_$"):
            return True
    return False


def _named_by_their_text(tree: Any, dialect: str) -> list[str]:
    """Expressions in a SELECT list without an alias: SQLite and MySQL name the column by their exact text.

    PostgreSQL names it by the function, however it is spelled.
    """
    if dialect == "postgres":
        return []
    return [
        printed(item, dialect)
        for select in tree.find_all(exp.Select)
        if select.parent is None or not _is_within_expression(select)
        for item in select.expressions
        if item.__class__ not in (exp.Alias, exp.Column, exp.Star)
    ]


def _is_within_expression(select: Any) -> bool:
    """Whether a SELECT stands within an expression, where the names of its columns do not matter."""
    node = select.parent
    while node.__class__ in (exp.Subquery, *SETS) and node.parent is not None:
        node = node.parent
    return node.__class__ not in (exp.From, exp.Join, exp.CTE, exp.Subquery, *SETS)


_PARAMETER = re.compile(r"(?:[:@$]|%\()\w+")


def _written_parameters(text: str, tokens: list[Any]) -> tuple[list[str], set[str]]:
    """(the positional parameters in their order, all parameters)"""
    found = []
    for token in tokens:
        if token.text in (":", "@", "$", "%") or token.text[:1] in ("$", "@"):
            match = _PARAMETER.match(text, token.start)
            if match is not None:
                found.append(match.group().lstrip(":@$%("))
    return [name for name in found if name.startswith("phase4_")], set(found)
