"""What callers declare of their database, checked: views, cascades, functions, each by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bot.core._shared.errors import invalid
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
