"""A query made ready to be explained, and look-ups that all databases share.

The SQL that is built here contains quoted names from the parsed query, and no values.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bot.core._shared.masking import one_line
from bot.core.query_optimizer.models import Advice, Analysis, IndexSuggestion, QueryType

if TYPE_CHECKING:
    from bot.core.query_optimizer.advice.candidates import Candidate
    from bot.core.query_optimizer.sql.analyzer import Reading

logger = logging.getLogger(__name__)

MAX_CHARACTERS = 20_000
"""Of a query that is explained."""

Statement = tuple[str, Any]
"""SQL in the dialect's form, and its parameters: a sequence, a mapping by name, or None."""

Explainer = Callable[[Sequence[Statement]], Awaitable[Sequence[Sequence[Sequence[Any]]]]]
"""``await explainer(statements)`` runs them in order on one connection and answers with the rows of each."""


class Search(NamedTuple):
    """An index that may serve the query, and a statement that asks how many rows its search would find."""

    candidate: Candidate
    table: str
    """In lower case."""
    statement: Statement | None
    """None if no condition with constants narrows the search."""
    holds: Statement | None = None
    """Of a partial index: a statement that asks how many rows it would hold."""


class Prepared:
    """A query that may be explained, with what is needed to understand its plan."""

    __slots__ = (
        "aliases",
        "constants",
        "normal_form",
        "orders",
        "params",
        "searches",
        "sql",
        "stops_early",
        "suggestions",
        "tables",
        "top",
        "writes",
    )

    def __init__(self) -> None:
        self.sql = ""
        self.normal_form = ""
        """For the log: it has no user's data."""
        self.params: Any = None
        self.aliases: dict[str, str] = {}
        """Alias, or name, of each table -> its name; in lower case the first, as written the second."""
        self.tables: dict[str, str] = {}
        """Name in lower case -> as the query writes it, with its schema, quoted."""
        self.suggestions: tuple[IndexSuggestion, ...] = ()
        self.searches: list[Search] | None = None
        """Indexes that may serve the query, for PostgreSQL; None if one cannot be asked about."""
        self.constants: dict[str, str] = {}
        """For SQLite and MySQL: DDL of a suggestion -> its conditions for equality, if all have literals."""
        self.orders = False
        """Whether it asks for an order, or for the first or last of one, somewhere."""
        self.stops_early = False
        self.writes: frozenset[str] | None = None
        """Columns that an UPDATE sets, in lower case; empty for a DELETE, None for a SELECT."""
        self.top: int | None = None
        """Rows wanted of a single table by LIMIT (and OFFSET), in its order and without conditions."""


def prepare(advice: Advice, params: Any, dialect: str) -> Prepared | None:
    """None unless it is a single SELECT that changes nothing, or in PostgreSQL an UPDATE or DELETE, which
    parses and has known parameters. EXPLAIN executes none of them.
    """
    analysis = advice.analysis
    if (
        not _may_be_explained(analysis, dialect)
        or analysis.graphql is not None
        or analysis.transaction
        or len(advice.query) > MAX_CHARACTERS
    ):
        return None
    sql = advice.query.strip().rstrip("; \n\t")
    if ";" in sql:
        return None  # the database must see one statement, even if a parser reads it otherwise
    from bot.core.query_optimizer.sql.analyzer import read

    reading = read(sql, dialect)
    try:
        if len(reading.censuses) != 1 or not _may_be_explained(reading.analysis, dialect):
            return None
        return _understood(reading, advice, sql, params)
    except (RecursionError, AttributeError, TypeError, KeyError, ValueError, IndexError) as error:
        # A tree of a form that was not foreseen.
        logger.debug("not explained: %s: %s", one_line(analysis.normal_form, 200), one_line(error))
        return None
    finally:
        reading.release()


def _may_be_explained(analysis: Analysis, dialect: str) -> bool:
    if analysis.query_type in (QueryType.UPDATE, QueryType.DELETE):
        return dialect == "postgres" and not analysis.writes_anything
    return analysis.query_type is QueryType.SELECT and not analysis.is_write


def _understood(reading: Reading, advice: Advice, sql: str, params: Any) -> Prepared | None:
    from sqlglot import exp

    from bot.core.query_optimizer.sql.dialects import dialect_of

    dialect = reading.dialect
    census = reading.censuses[0]
    found = Prepared()
    found.sql = sql
    found.normal_form = advice.analysis.normal_form
    found.suggestions = advice.index_suggestions
    for table in census.all(exp.Table):
        if table.this.__class__ is not exp.Identifier:
            continue
        found.aliases[(table.alias or table.name).lower()] = table.name
        found.aliases.setdefault(table.name.lower(), table.name)
        plain = exp.Table(this=table.this.copy(), db=table.args.get("db"))
        found.tables[table.name.lower()] = plain.sql(dialect=dialect_of(dialect))
    for with_ in census.all(exp.CTE):
        found.aliases.pop(with_.alias.lower(), None)  # not a table, though it looks like one
    args = census.statement.args
    found.stops_early = bool(args.get("limit") and not args.get("group") and not census.has((exp.Order,)))
    found.top = _top(args, exp)
    found.writes = _columns_set(census.statement, exp)
    found.orders = census.has((exp.Order, exp.Min, exp.Max))
    needed = len(census.all(exp.Placeholder)) + len(census.all(exp.Parameter)) > 0
    if params is None and needed:
        if dialect != "sqlite":
            return None
        found.params = _nulls(census.all(exp.Placeholder), reading.parameters.written)
    elif isinstance(params, Mapping):
        if dialect == "postgres":
            return None
        found.params = dict(params)
    elif isinstance(params, list | tuple):
        found.params = tuple(params)
    elif params is not None:
        found.params = (params,)
    if dialect == "postgres":
        found.searches = _searches(reading, found)
    else:
        found.constants = _constants(reading)
    return found


def _constants(reading: Reading) -> dict[str, str]:
    from sqlglot import exp

    from bot.core.query_optimizer.advice.index_keys import suggestion_of
    from bot.core.query_optimizer.advice.indexes import wanted_in
    from bot.core.query_optimizer.advice.rules.facts import Facts
    from bot.core.query_optimizer.sql.dialects import dialect_of

    found: dict[str, str] = {}
    facts = Facts(reading, reading.censuses[0], None)
    for scope in facts.scopes:
        for source, wanted in wanted_in(scope, facts.dialect):
            suggestion = suggestion_of(source, wanted, facts)
            keys = [] if suggestion is None else [each.lower() for each in suggestion.equality_columns]
            copies = [condition.copy() for key, condition in wanted.conditions if key in keys]
            if suggestion is None or {key for key, _ in wanted.conditions}.isdisjoint(keys):
                continue
            if not set(keys) <= {key for key, _ in wanted.conditions}:
                continue  # a column that another table gives
            if any(copy.find(exp.Placeholder, exp.Parameter) is not None for copy in copies):
                continue
            for copy in copies:
                for column in copy.find_all(exp.Column):
                    column.set("table", None)
            found[suggestion.ddl] = " AND ".join(
                f"({copy.sql(dialect=dialect_of(facts.dialect))})" for copy in copies
            )
    return found


def _searches(reading: Reading, prepared: Prepared) -> list[Search] | None:
    from bot.core.query_optimizer.advice.candidates import candidates_of
    from bot.core.query_optimizer.advice.rules.facts import Facts

    found = []
    written = reading.parameters.written
    for candidate in candidates_of(Facts(reading, reading.censuses[0], None)):
        table = candidate.suggestion.table.rpartition(".")[2].lower()
        if table not in prepared.tables:
            continue
        conditions = candidate.conditions
        holds = None
        if candidate.predicate is not None:
            conditions = (*conditions, candidate.predicate)
            holds = _counting(prepared, candidate, (candidate.predicate,), written)
        statement = None
        if conditions:
            statement = _counting(prepared, candidate, conditions, written)
            if statement is None and candidate.suggestion.method == "btree":
                return None
            if statement is None:
                continue
        found.append(Search(candidate, table, statement, holds))
    return found


def _counting(
    prepared: Prepared, candidate: Candidate, conditions: Sequence[Any], written: Sequence[str]
) -> Statement | None:
    """A statement that asks how many rows satisfy the conditions; None if a parameter's value is missing."""
    texts = []
    params: list[Any] = []
    in_order = candidate.suggestion.method == "btree"
    for condition in conditions:
        text = _with_params(
            _range_of(condition) if in_order else condition.copy(), written, prepared.params or (), params
        )
        if text is None:
            return None
        texts.append(text)
    where = " AND ".join(f"({text})" for text in texts)
    table = prepared.tables[candidate.suggestion.table.rpartition(".")[2].lower()]
    alias = quoted_name(candidate.alias, "postgres")
    # Names and conditions of the query itself, read and written by a parser.
    return f"EXPLAIN (FORMAT JSON) SELECT 1 FROM {table} AS {alias} WHERE {where}", tuple(params)  # noqa: S608


def _with_params(copy: Any, written: Sequence[str], given: Sequence[Any], params: list[Any]) -> str | None:
    """A condition as SQL. The parameters that it has are numbered anew and added to ``params``; None if one
    is not given.
    """
    from sqlglot import exp

    for node in [*copy.find_all(exp.Parameter, exp.Placeholder)]:
        place = str(node.this).removeprefix("phase4_parameter_")
        number = written[int(place)][1:] if place.isdigit() and int(place) < len(written) else ""
        if not number.isdigit() or not 0 < int(number) <= len(given):
            return None
        params.append(given[int(number) - 1])
        new = exp.Parameter(this=exp.Literal.number(len(params)))
        if node is copy:
            return None
        node.replace(new)
    return str(copy.sql(dialect="postgres"))


def _range_of(condition: Any) -> Any:
    """A copy; of LIKE with a fixed beginning the range that is searched for it, which the planner expects to
    have more rows than the pattern itself.
    """
    from sqlglot import exp

    pattern = condition.args.get("expression")
    if condition.__class__ is not exp.Like or pattern.__class__ is not exp.Literal:
        return condition.copy()
    start = re.split(r"[%_\\]", pattern.this, maxsplit=1)[0]
    if not start or not start.isascii() or "\\" in pattern.this or start == pattern.this:
        return condition.copy()
    column = condition.this.sql(dialect="postgres")
    low, high = (exp.Literal.string(text).sql() for text in (start, start[:-1] + chr(ord(start[-1]) + 1)))
    return exp.Var(this=f"{column} ~>=~ {low} AND {column} ~<~ {high}")


def _columns_set(statement: Any, exp: Any) -> frozenset[str] | None:
    if statement.__class__ is exp.Delete:
        return frozenset()
    if statement.__class__ is not exp.Update:
        return None
    return frozenset(
        [each.this.name.lower() for each in statement.expressions if each.this.__class__ is exp.Column]
    )


def _top(args: Mapping[str, Any], exp: Any) -> int | None:
    if not args.get("order") or any(args.get(part) for part in ("where", "joins", "group", "distinct")):
        return None
    total = 0
    for part in ("limit", "offset"):
        clause = args.get(part)
        number: Any = clause.args.get("expression") if clause is not None else None
        if number.__class__ is exp.Literal and number.this.isdigit():
            total += int(number.this)
        elif clause is not None or part == "limit":
            return None
    return total


def _nulls(placeholders: Sequence[Any], numbered: Sequence[str]) -> Any:
    """Values for a text's parameters. SQLite's plan does not depend on them."""
    names = [node.name for node in placeholders if node.name.isidentifier() and "phase4_" not in node.name]
    if names:
        return dict.fromkeys(names)
    numbers = [int(mark[1:]) for mark in numbered if mark[1:].isdigit()]
    return (None,) * max([len(placeholders), *numbers])


def known_by(
    prepared: Prepared, indexes: Mapping[str, Sequence[tuple[str, ...]]], views: Iterable[Any]
) -> frozenset[str]:
    """DDL of the suggestions that an index of the catalog serves by its columns, or that are for views."""
    from bot.core.query_optimizer.sql.schema import Schema

    schema = Schema()
    schema.indexes = {table.lower(): list(columns) for table, columns in indexes.items()}
    named = {str(view).lower() for view in views}
    return frozenset(
        each.ddl
        for each in prepared.suggestions
        if each.table.rpartition(".")[2].lower() in named
        or schema.serves(each.table.rpartition(".")[2], each.columns, len(each.equality_columns))
    )


def columns_by_table(rows: Sequence[Sequence[Any]]) -> dict[str, list[tuple[str, ...]]]:
    """Rows of (table, index, column), a table's and an index' columns in order -> columns by table."""
    found: dict[str, dict[str, list[str]]] = {}
    for table, index, column in rows:
        columns = found.setdefault(str(table).lower(), {}).setdefault(str(index), [])
        columns.append(str(column or "").lower())
    return {table: [tuple(columns) for columns in by.values()] for table, by in found.items()}


def quoted_name(name: str, dialect: str) -> str:
    # SQLite takes a name in double quotes that it does not know for a string.
    mark = '"' if dialect == "postgres" else "`"
    return mark + name.replace(mark, mark * 2) + mark
