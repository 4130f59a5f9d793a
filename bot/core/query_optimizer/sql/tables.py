"""Which tables a statement reads and writes (pure).

If a text may do more than can be read from it, it may do "anything". Names are kept as :mod:`names` says.

A name counts as a table's. That it is something else is learnt from statements that pass through
(:mod:`definitions`), or declared: see :class:`Relations`.
"""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

from bot.core.query_optimizer.sql.census import Census
from bot.core.query_optimizer.sql.declarations import EVERY_EVENT, Declaration
from bot.core.query_optimizer.sql.functions import (
    NOTHING,
    Known,
    calls_among,
    is_of_user,
    is_simple,
    judge,
)
from bot.core.query_optimizer.sql.moments import MOMENT, may_name_a_moment
from bot.core.query_optimizer.sql.names import ANY, fold, name_of, names_given
from bot.core.query_optimizer.sql.operators import unknown_operator
from bot.core.query_optimizer.sql.writes import changes_in, classes

_CATALOGS = ("pg_", "sqlite_", "pragma_")
_CATALOG_SCHEMAS = frozenset(("information_schema", "pg_catalog", "performance_schema", "mysql", "sys"))


class Effects(NamedTuple):
    """What a statement may do, as far as invalidation is concerned."""

    reads: frozenset[str]
    writes: frozenset[str]
    anything: bool
    """It may write unknown tables: every cached result must be dropped."""
    reason: str
    """Why its result must not be cached; empty if it may."""
    transaction: str = ""
    """What it does to the transaction, in the words of ``Transactions.change``."""
    declares: tuple[Declaration, ...] = ()
    events: frozenset[str] = EVERY_EVENT
    """What it may do to the rows of the tables that it writes."""


def effects(census: Census, dialect: str, known: Known = NOTHING, text: str = "") -> Effects:
    """What one statement reads and writes; ``text`` is what it was parsed from."""
    exp, *_, rare = classes()
    writes: set[str] = set()
    targets: set[int] = set()
    anything, reason, transaction, events = False, "", "", EVERY_EVENT
    changes = census.has(rare)
    if changes:
        anything, reason, transaction, events = changes_in(census, dialect, writes, targets)
    reads: set[str] = set()
    reason = _read_tables(census, dialect, targets, reads, reason, exp)
    reason = reason or _why_not_again(census, dialect, known, exp)
    if not reason and dialect in ("postgres", ""):
        reason = _why_not_by_type(census, text, exp)
    declares: list[Declaration] = []
    written = len(writes)
    by_calls, why = _call(census, dialect, known, text, writes, declares, exp)
    if len(writes) > written:
        events = EVERY_EVENT  # of a sequence
    anything, reason = anything or by_calls, reason or why
    statement = census.statement
    if statement.__class__ is exp.Describe and "ANALYZE" not in str(statement.args.get("style")).upper():
        return Effects(frozenset(), frozenset(), anything, reason)  # EXPLAIN does not execute it
    if changes and statement.__class__ in (exp.Create, exp.Alter, exp.Command):
        if statement.args.get("kind") in ("TRIGGER", "FUNCTION", "PROCEDURE", "AGGREGATE"):
            declares.clear()  # a definition calls nothing yet
        from bot.core.query_optimizer.sql.definitions import declared

        declares += declared(census, dialect, text, writes, reads, reason)
    return Effects(
        frozenset(reads), frozenset(writes), anything, reason, transaction, tuple(declares), events
    )


def _read_tables(
    census: Census, dialect: str, targets: set[int], reads: set[str], reason: str, exp: Any
) -> str:
    """Add the tables that the statement reads; ``reason``, or else why its result must not be cached."""
    has_with = bool(census.all(exp.CTE))
    for table in census.all(exp.Table):
        if id(table) in targets:
            continue
        name = name_of(table, dialect)
        if not name:
            if not hasattr(table.this, "sql_names"):  # which functions have
                reason = reason or "it reads from what is no table"
        elif not (has_with and not table.args.get("db") and _is_cte(table, name, dialect, exp)):
            reason = reason or _why_not_by_name(table, name, dialect)
            reads.add(name)
    for node in census.all(exp.In):
        field = node.args.get("field")
        if field is not None:
            reason = _read_in(field, dialect, reads, exp) or reason
    return reason


def _why_not_by_name(table: Any, name: str, dialect: str) -> str:
    """Why a source of this name may change without a write to it; empty if it does not."""
    args = table.args
    if name.startswith(_CATALOGS) or (args.get("db") and _is_of_catalog(table, name)):
        return f"{name.rpartition('.')[2]} is a catalog, which changes without a write to it"
    if name.endswith("_seq"):
        return f"{name} may be a sequence, which changes without a write to it"
    if name in _WORDS[dialect] and not table.this.args.get("quoted") and not args.get("db"):
        return f"{name} differs from call to call"
    if name == "only" and dialect == "" and args.get("alias") is not None:
        return "ONLY may be PostgreSQL's word, and the table what follows"
    return ""


def _call(
    census: Census,
    dialect: str,
    known: Known,
    text: str,
    writes: set[str],
    declares: list[Declaration],
    exp: Any,
) -> tuple[bool, str]:
    """Add what the statement's functions write and declare.

    (whether they may write anything, why its result must not be cached)
    """
    statement = census.statement
    # An index is of functions that change nothing, and a PRAGMA's arguments look like a call.
    if statement.__class__ is exp.Pragma or (
        statement.__class__ is exp.Create and statement.args.get("kind") == "INDEX"
    ):
        return False, ""
    anything, reason = False, ""
    is_definition = statement.__class__ is exp.Create
    for kind in calls_among(tuple(census.by_class)):
        for function in census.by_class[kind]:
            if is_simple(function, text, dialect, known.own, census):
                continue
            if is_definition and function.find_ancestor(exp.PartitionedByProperty) is not None:
                continue  # PARTITION BY RANGE (x) calls nothing, or what changes nothing
            verdict = judge(function, text, dialect, known, census)
            if verdict.may_write:
                anything = True
                if _is_of_definition(function, statement, exp):
                    # A DEFAULT or CHECK: it runs at each write to the table.
                    declares += [Declaration("cascade", name, frozenset((ANY,))) for name in sorted(writes)]
                elif dialect != "mysql":  # whose functions cannot define anything
                    declares.append(Declaration("doubt"))
            if verdict.sequence is not None:
                names = _sequence_named(verdict.sequence, dialect, exp)
                anything = anything or not names
                writes |= names
                declares += [Declaration("view", name, frozenset((ANY,))) for name in names]
            reason = reason or verdict.reason
    return anything, reason


def _is_of_definition(function: Any, statement: Any, exp: Any) -> bool:
    """Whether a call stands in a table's definition and not in a query beside it."""
    return (
        statement.__class__ in (exp.Create, exp.Alter)
        and statement.args.get("kind") == "TABLE"
        and function.find_ancestor(exp.Select) is None
    )


def _sequence_named(argument: Any, dialect: str, exp: Any) -> frozenset[str]:
    """The sequence that nextval('s') or nextval(s) names; nothing if that is computed."""
    while argument.__class__ in (exp.Cast, exp.Paren):
        argument = argument.this
    if argument.is_string:
        try:
            return frozenset(names_given(argument.this, dialect))
        except ValueError:
            return frozenset()
    if argument.__class__ is exp.Column and dialect != "postgres":
        parts = [argument.args[part] for part in ("db", "table", "this") if argument.args.get(part)]
        return frozenset((".".join(fold(p.name, quoted=True, dialect=dialect) for p in parts),))
    return frozenset()


def _why_not_by_type(census: Census, text: str, exp: Any) -> str:
    """What a value may become in PostgreSQL by its type: the time of 'now', or by a cast or operator of the
    user's.
    """
    moment = may_name_a_moment(text)
    if own := unknown_operator(text):
        return f"{own} may be an operator of the user's own"
    if not moment and "\\" not in text and _of_types().isdisjoint(census.by_class):
        return ""
    joined = census.has((exp.Concat, exp.DPipe))
    if moment or joined:
        strings = [str(literal.this) for literal in census.all(exp.Literal) if literal.is_string]
        if any(MOMENT.search(string) for string in strings) or (joined and MOMENT.search("".join(strings))):
            return "a string in it may be read as the current time"
        if census.has(_string_classes()) or (moment and _DOLLARS.search(text)):
            return "a string in it may be read as the current time"
    if "\\" in text and _ESCAPED.search(text):
        return "a string in it is written with escapes"
    for cast in census.all(exp.Cast, exp.TryCast):
        kind = cast.args.get("to")
        if is_of_user(kind):
            return f"a cast to {kind.sql().lower():.60} may be a function of the user's own"
    if census.all(exp.Operator):
        return "OPERATOR() may be a function of the user's own"
    return ""


_DOLLARS = re.compile(r"\$(?:[^\W\d]\w*+)?\$")
_ESCAPED = re.compile(r"(?i)\b(?:e|u&)'(?:[^']|'')*\\[xu0-9+]")


@functools.cache
def _of_types() -> frozenset[type]:
    from sqlglot import exp

    return frozenset((exp.Concat, exp.DPipe, exp.Cast, exp.TryCast, exp.Operator, *_string_classes()))


@functools.cache
def _string_classes() -> tuple[type, ...]:
    """Strings that are not plain literals in the tree: $$now$$, N'now'."""
    from sqlglot import exp

    return (exp.National, exp.RawString, exp.ByteString, exp.UnicodeString, exp.Heredoc)


def _is_of_catalog(table: Any, name: str) -> bool:
    return name.rpartition(".")[2].startswith(_CATALOGS) or table.db.lower() in _CATALOG_SCHEMAS


# Names without parentheses, quotes and a table that are functions, if the table has no such column or even if
# it has.
_WORDS_OF_POSTGRES = frozenset(
    (
        "user current_user session_user system_user current_role current_catalog current_schema localtime "
        "localtimestamp current_date current_time current_timestamp"
    ).split()
)
_WORDS_OF_MYSQL = frozenset(
    (
        "utc_timestamp utc_date utc_time sql_calc_found_rows current_role current_user localtime sysdate "
        "localtimestamp current_date current_time current_timestamp rownum"
    ).split()
)
_COLUMNS_OF_SEQUENCES = frozenset(
    "last_value is_called log_cnt next_not_cached_value cycle_option cache_size cycle_count".split()
)
_WORDS = {
    "postgres": _WORDS_OF_POSTGRES | _COLUMNS_OF_SEQUENCES,
    "mysql": _WORDS_OF_MYSQL | _COLUMNS_OF_SEQUENCES,
    "sqlite": frozenset(("current_date", "current_time", "current_timestamp")),
    "": _WORDS_OF_POSTGRES | _WORDS_OF_MYSQL | _COLUMNS_OF_SEQUENCES,
}


def _why_not_again(census: Census, dialect: str, known: Known, exp: Any) -> str:
    """Why the same text may give another result, or leave something behind for the next."""
    asks = census.has((exp.TableSample, exp.SessionParameter, exp.Parameter))
    if asks and any(sample.args.get("seed") is None for sample in census.all(exp.TableSample)):
        return "it takes a sample, another each time"
    if asks and census.all(exp.SessionParameter):
        return "it reads a variable of the session"
    if asks and dialect in ("mysql", "") and census.all(exp.Parameter):
        return "it reads or sets a variable"  # @x; the parameters of drivers are Placeholders here
    words, own = _WORDS[dialect], known.own
    for column in census.all(exp.Column):
        args = column.args
        name = args["this"]
        if name.__class__ is not exp.Identifier:
            continue
        word = name.args["this"].lower()
        if args.get("table") is None:
            if word in words and not name.args.get("quoted"):
                if word in _COLUMNS_OF_SEQUENCES:
                    return f"{word} is a sequence's, which changes without a write to it"
                return f"{word} differs from call to call"
        elif own and word in own:
            return f"{word} may be a function of the user's own"  # row.function, for function(row)
    if dialect not in ("mysql", ""):
        return ""
    for select in census.all(exp.Select):
        modifiers = select.args.get("operation_modifiers")
        if modifiers and any(word.name.upper() == "SQL_CALC_FOUND_ROWS" for word in modifiers):
            return "FOUND_ROWS() depends on its execution"
    return ""


def _read_in(field: Any, dialect: str, reads: set[str], exp: Any) -> str:
    """Add the table of SQLite's ``x IN table``, a column to the parser; why a result must not be cached."""
    if field.__class__ is exp.Column:
        parts = [field.args[part] for part in ("db", "table", "this") if field.args.get(part) is not None]
        if all(part.__class__ is exp.Identifier for part in parts):
            names = [fold(p.name, quoted=bool(p.args.get("quoted")), dialect=dialect) for p in parts]
            reads.add(".".join(names))
            return f"{names[-1]} is a catalog" if names[-1].startswith(_CATALOGS) else ""
    if isinstance(field, exp.Func) or field.__class__ in (exp.Placeholder, exp.Parameter):
        return ""
    return "it reads from what is no table"


def _is_cte(table: Any, name: str, dialect: str, exp: Any) -> bool:
    """Whether an unqualified name is that of a WITH in whose reach it stands."""
    node = table
    while node.parent is not None:
        parent = node.parent
        clause = parent.args.get("with_")
        if clause is not None:
            inside = clause is node
            for cte in clause.expressions:
                label = cte.args["alias"].this
                same = fold(label.name, quoted=bool(label.args.get("quoted")), dialect=dialect) == name
                if same and label.name != table.name:
                    # Equal only when folded: if case may count, the table of that name may be meant.
                    same = dialect in ("postgres", "sqlite") and (label.name + table.name).isascii()
                # Within the WITH itself only the names before this one are known.
                if inside and not clause.args.get("recursive") and _holds(cte, table):
                    break
                if same:
                    return True
        node = parent
    return False


def _holds(outer: Any, inner: Any) -> bool:
    while inner is not None:
        if inner is outer:
            return True
        inner = inner.parent
    return False
