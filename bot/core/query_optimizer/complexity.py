"""What a GraphQL operation would cost, for callers with limits of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bot.core._shared.errors import InvalidArgumentError, invalid
from bot.core.query_optimizer.errors import QueryTooComplexError
from bot.core.query_optimizer.graphql.limits import complexity_with
from bot.core.query_optimizer.graphql.operations import operations
from bot.core.query_optimizer.graphql.texts import MISSING, is_graphql

_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?")


def analyze_graphql_complexity(
    query: str, variables: Mapping[str, Any] | None = None, operation_name: str | None = None
) -> int:
    """How many fields a GraphQL operation may make the server resolve; nothing is executed.

    A field within a list counts once for each item that the list is asked for (``first: 50``; ``variables``
    gives the sizes that are variables). ``graphql_max_complexity`` limits the same figure. Of several
    operations it is that of ``operation_name``, or the largest.

    Raises InvalidArgumentError for a text that is not GraphQL, or has no operation of that name,
    QueryTooComplexError for one that is too large to be measured, and ModuleNotFoundError without the
    package graphql-core.
    """
    if not isinstance(query, str) or not is_graphql(query):
        raise _refused(query, "it does not begin as one")
    found = operations(query)
    reading = found[None]
    if reading.problem is MISSING:
        raise ModuleNotFoundError(MISSING, name="graphql")
    names: list[str | None] = [name for name in found if name is not None]
    if operation_name is not None and names:
        if operation_name not in found:
            raise invalid("operation_name", operation_name, f"one of {', '.join(map(repr, names)):.300}")
        names, reading = [operation_name], found[operation_name]
    if reading.too_large:
        raise QueryTooComplexError(f"GraphQL query refused: {reading.problem}")
    if reading.problem and not reading.complexity:
        raise _refused(query, reading.problem)
    names = names or [None]
    if not variables or not any(found[name].sized_by_variables for name in names):
        return reading.complexity
    return max(complexity_with(query, name, variables) for name in names)


def _refused(query: object, why: str) -> InvalidArgumentError:
    # The text may hold a user's data, of which a parser's message quotes a piece.
    why = _QUOTED.sub('"..."', why)
    what = f"a text of {len(query):,} characters" if isinstance(query, str) else type(query).__name__
    return InvalidArgumentError(f"query = {what}: expected a GraphQL operation; {why}")
