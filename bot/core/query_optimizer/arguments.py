"""Checks callers' arguments: queries, times, and the names of tables, views and functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bot.core._shared.errors import LARGEST, invalid
from bot.core.query_optimizer.execution.invalidation import EVERY_TABLE
from bot.core.query_optimizer.sql.names import ANY, names_given


def names_of(argument: str, names: Collection[str], dialect: str, *, any_table: bool = False) -> list[str]:
    """The tables that ``names`` mean, as the dialect reads them; "*" is any table, if ``any_table``.

    Raises InvalidArgumentError.
    """
    found: list[str] = []
    for name in names:
        try:
            if name == EVERY_TABLE:
                if not any_table:
                    raise ValueError(name)
                found.append(ANY)
            else:
                found += names_given(name, dialect)
        except (ValueError, TypeError):
            raise invalid(argument, name, "names of tables") from None
    return found


def relations_of(
    argument: str, given: Mapping[str, Collection[str]], dialect: str
) -> list[tuple[str, list[str]]]:
    """(table, the tables that go with it) for each entry. Raises InvalidArgumentError."""
    found = []
    for name, tables in given.items():
        others = names_of(f"{argument}[{name!r}]", tables, dialect, any_table=True)
        found += [(each, others) for each in names_of(argument, [name], dialect)]
    return found


def functions_of(names: Collection[str]) -> frozenset[str]:
    """Names of functions, as they are compared. Raises InvalidArgumentError."""
    if isinstance(names, str) or not all(isinstance(name, str) and name.strip() for name in names):
        raise invalid("pure_functions", names, "names of functions")
    return frozenset(name.strip().lower() for name in names)


def valid_query(query: object) -> None:
    """Raise TypeError for what is not a text."""
    if not isinstance(query, str):
        raise TypeError(f"query = {query!r:.100}: expected a string")


def milliseconds_of(execution_time_ms: float | None, execution_time: float | None) -> float:
    """The time of an execution, given either in milliseconds or in seconds."""
    if execution_time is None:
        return _valid_time("execution_time_ms", execution_time_ms, "milliseconds")
    if execution_time_ms is not None:
        raise invalid("execution_time", execution_time, "execution_time or execution_time_ms, not both")
    return _valid_time("execution_time", execution_time, "seconds") * 1000


def _valid_time(name: str, value: float | None, unit: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        raise invalid(name, value, f"{unit}, 0 or more")
    return value
