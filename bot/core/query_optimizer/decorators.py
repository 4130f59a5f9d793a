"""``@optimize_query``: runs a function's queries through the optimizer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, overload

from bot.core.query_optimizer.execution.result_scopes import scope_key
from bot.core.query_optimizer.service import QueryOptimizer

P = ParamSpec("P")
R = TypeVar("R")

QUERY_ARGUMENTS = ("query", "sql", "query_str", "sql_query", "statement")
"""Names of the argument that holds the query; without one, it is the first string."""


@overload
def optimize_query(function: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]: ...
@overload
def optimize_query(
    *, ttl: float | None = None, scope: Any = None
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Coroutine[Any, Any, R]]]: ...
def optimize_query(function: Any = None, *, ttl: float | None = None, scope: Any = None) -> Any:
    """Run an ``async def`` that executes a query through :meth:`QueryOptimizer.execute`.

    The query is the argument ``query``, ``sql``, ``query_str``, ``sql_query`` or ``statement``, else the
    first string; ``self`` is left out and all other arguments are its parameters. Reads are cached for
    ``ttl`` seconds, writes drop what they change, concurrent callers share one run. A call without a query,
    or with arguments that are not plain data, is made as it is.

    ``scope`` says whose view of the data it is, as in :meth:`QueryOptimizer.execute`; it may be a function of
    the call's arguments. Raises ValueError for an invalid scope.
    """
    if function is None:
        return functools.partial(optimize_query, ttl=ttl, scope=scope)
    told = scope if callable(scope) else None
    if told is None and scope is not None:
        scope_key(scope)
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"optimize_query: {function!r} is not an async function")
    signature = inspect.signature(function)
    names = list(signature.parameters)
    named = next((name for name in QUERY_ARGUMENTS if name in names), None)
    skipped = names[0] if names and names[0] in ("self", "cls") else None

    @functools.wraps(function)
    async def optimized(*args: Any, **kwargs: Any) -> Any:
        optimizer = QueryOptimizer.get_instance()
        if not optimizer.enabled:
            optimizer._used_while_off()
            return await function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = {name: value for name, value in bound.arguments.items() if name != skipped}
        name = named or next((n for n, value in given.items() if isinstance(value, str)), None)
        query = given.pop(name, None) if name is not None else None
        if not isinstance(query, str):
            return await function(*args, **kwargs)

        async def run(_query: str, _params: Any) -> Any:
            return await function(*args, **kwargs)

        # The function's name, too: two functions may run the same text on two databases.
        params = {"": f"{function.__module__}.{function.__qualname__}", **given}
        if told is not None:
            return await optimizer.execute(query, params, run, ttl, told(*args, **kwargs))
        return await optimizer.execute(query, params, run, ttl, scope)

    return optimized
