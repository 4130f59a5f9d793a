"""Indexes that would serve a query, from its conditions alone.

A B-tree serves columns compared for equality in any order, after them one compared by range, or those
the result is sorted by: so equality, then range, then sort, the last two together only where they are
the same column. (Winand, "SQL Performance Explained", chapters 2 and 6.)
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.models import IndexSuggestion
from bot.core.query_optimizer.sql.schema import DeclaredType, Schema
from bot.core.query_optimizer.sql.scopes import COMPARISONS, Scope, Source, bare, is_constant, operands

_D = exp.DataType.Type
_SIMPLE = re.compile(r"[a-z_][a-z0-9_]*\Z")
_ODD = re.compile(r"\W+")
_MAX_NAME = 63
"""Of PostgreSQL; MySQL takes 64."""

_MAX_COLUMNS = 4


class _Wanted:
    """What a query asks of one table."""

    __slots__ = ("dialect", "equal", "joined", "ranged", "sorted")

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        self.equal: dict[str, str] = {}  # column in lower case -> its name
        self.joined: dict[str, str] = {}
        self.ranged: dict[str, str] = {}
        self.sorted: dict[str, tuple[str, bool]] = {}  # with whether it descends

    def note(self, column: Any, where: dict[str, str]) -> None:
        written = column.name
        lowered = written.lower()
        if self.dialect == "postgres":
            written = _name(column.this, self.dialect)
        where.setdefault(lowered, written)


def _name(identifier: Any, dialect: str) -> str:
    """What a name means: PostgreSQL folds those without quotes, and a DDL may have to quote them."""
    name = str(identifier.name)
    return name.lower() if dialect == "postgres" and not identifier.args.get("quoted") else name


# Columns that a database adds to each table, and takes into no index.
_SYSTEM = {
    "sqlite": frozenset(("rowid", "oid", "_rowid_")),
    "postgres": frozenset(("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid")),
    "mysql": frozenset(()),
    "": frozenset(("rowid", "_rowid_", "ctid")),
}  # fmt: skip


def suggestions_for(facts: Facts) -> list[IndexSuggestion]:
    """At most one index for each table of each SELECT, UPDATE or DELETE; none that is known to exist."""
    found: dict[tuple[str, tuple[str, ...]], IndexSuggestion] = {}
    for scope in facts.scopes:
        for source, wanted in _wanted_in(scope, facts.dialect):
            suggestion = _suggestion(source, wanted, facts)
            if suggestion is not None:
                found.setdefault((suggestion.table, suggestion.columns), suggestion)
    if len(found) < 2:
        return list(found.values())
    # One that begins another of the same table is served by that.
    return _named_apart(
        [
            suggestion
            for (table, columns), suggestion in found.items()
            if not any(
                other != columns and of == table and other[: len(columns)] == columns for of, other in found
            )
        ]
    )


def _named_apart(suggestions: list[IndexSuggestion]) -> list[IndexSuggestion]:
    """With other names for those that would be called as one before: t (a_b) and t_a (b)."""
    names: set[str] = set()
    apart = []
    for suggestion in suggestions:
        name = suggestion.ddl.split(" ON ", 1)[0]
        if name in names:
            digest = hashlib.blake2b(repr((suggestion.table, suggestion.columns)).encode(), digest_size=4)
            other = f"{name[: len('CREATE INDEX ') + _MAX_NAME - 9]}_{digest.hexdigest()}"
            suggestion = replace(suggestion, ddl=suggestion.ddl.replace(name, other, 1))
        names.add(name)
        apart.append(suggestion)
    return apart


def _wanted_in(scope: Scope, dialect: str) -> list[tuple[Source, _Wanted]]:
    wanted = {id(source): (source, _Wanted(dialect)) for source in scope.sources.values() if source.is_base}
    if not wanted:
        return []
    conditions = scope.conditions()
    if len(conditions) == 1 and conditions[0].__class__ is exp.Or:
        return _wanted_by_or(scope, conditions[0], dialect)
    for condition in conditions:
        _note(condition, scope, wanted)
    for join in scope.joins:
        on = join.args.get("on")
        if on is not None:
            for condition in operands(on, exp.And):
                _note(condition, scope, wanted)
    _note_order(scope, wanted)
    return list(wanted.values())


def _wanted_by_or(scope: Scope, condition: Any, dialect: str) -> list[tuple[Source, _Wanted]]:
    """An OR of conditions on several columns wants an index for each."""
    found = []
    for side in operands(condition, exp.Or):
        of_side = {id(s): (s, _Wanted(dialect)) for s in scope.sources.values() if s.is_base}
        for part in operands(side, exp.And):
            _note(part, scope, of_side)
        fitting = [pair for pair in of_side.values() if pair[1].equal or pair[1].ranged]
        if not fitting:
            return []  # this side reads the whole table, so the others' indexes help nobody
        found += fitting
    return found


def _note(condition: Any, scope: Scope, wanted: dict[int, tuple[Source, _Wanted]]) -> None:
    kind = condition.__class__
    if kind in COMPARISONS:
        one, other = bare(condition.this), bare(condition.args["expression"])
        if one.__class__ is exp.Column and other.__class__ is exp.Column:
            if kind is exp.EQ:
                _note_join(one, other, scope, wanted)
            return
        if one.__class__ is not exp.Column:
            one, other = other, one
        if one.__class__ is not exp.Column or not (is_constant(other) or _is_query(other)):
            return
        column, is_equality = one, kind is exp.EQ
    elif kind is exp.In:
        if condition.args.get("query") is None and not all(map(is_constant, condition.expressions)):
            return
        column, is_equality = bare(condition.this), True
    elif kind is exp.Is and not condition.args.get("negate"):
        column, is_equality = bare(condition.this), condition.args["expression"].__class__ is exp.Null
        if not is_equality or not _may_compare(column, scope, wanted):
            return
    elif kind is exp.Between:
        column, is_equality = bare(condition.this), False
    elif kind is exp.Like:
        pattern = condition.args["expression"]
        if (
            condition.args.get("negate")
            or pattern.__class__ is not exp.Literal
            or not pattern.is_string
            or pattern.this[:1] in ("%", "_", "")
        ):
            return
        column, is_equality = bare(condition.this), False
    else:
        return
    if column.__class__ is not exp.Column:
        return
    source = scope.source_of(column)
    pair = wanted.get(id(source))
    if pair is not None:
        pair[1].note(column, pair[1].equal if is_equality else pair[1].ranged)


_WITHOUT_ORDER = frozenset((_D.JSON, _D.XML, _D.POINT, _D.GEOMETRY, _D.GEOGRAPHY, _D.NULL, _D.UNKNOWN))
_LONG = frozenset(
    (_D.TEXT, _D.TINYTEXT, _D.MEDIUMTEXT, _D.LONGTEXT, _D.BLOB, _D.TINYBLOB, _D.MEDIUMBLOB, _D.LONGBLOB)
)
_STRINGS = frozenset((_D.VARCHAR, _D.CHAR, _D.NVARCHAR, _D.NCHAR, _D.VARBINARY, _D.BINARY))
_PREFIX = 190
"""Characters of a long column in an index of MySQL: of four such, all of their 3,072 bytes."""


def _declared(source: Source, column: str, schema: Schema | None) -> DeclaredType | None:
    return None if schema is None else schema.types.get(source.name.lower(), {}).get(column.lower())


def _may_compare(column: Any, scope: Scope, wanted: dict[int, tuple[Source, _Wanted]]) -> bool:
    """Whether a column that is only asked for NULL can be in an index: PostgreSQL has types without order."""
    source = scope.source_of(column) if column.__class__ is exp.Column else None
    pair = wanted.get(id(source))
    if source is None or pair is None:
        return False
    if pair[1].dialect in ("mysql", "sqlite"):
        return True
    declared = _declared(source, column.name, scope.schema)
    return declared is not None and declared.kind not in _WITHOUT_ORDER and not isinstance(declared.kind, str)


def _is_query(node: Any) -> bool:
    return node.__class__ is exp.Subquery


def _note_join(one: Any, other: Any, scope: Scope, wanted: dict[int, tuple[Source, _Wanted]]) -> None:
    """Of two tables related by equality, the one that stands later is looked up in for each row."""
    first, second = scope.source_of(one), scope.source_of(other)
    if first is None or second is None or first is second:
        return
    here = list(scope.sources.values())
    if first not in here or second not in here:
        # One is a column of the query around: to this query it is a value.
        column, source = (one, first) if first in here else (other, second)
        pair = wanted.get(id(source))
        if pair is not None:
            pair[1].note(column, pair[1].equal)
        return
    column, source = (other, second) if here.index(second) > here.index(first) else (one, first)
    pair = wanted.get(id(source))
    if pair is not None:
        pair[1].note(column, pair[1].joined)


def _note_order(scope: Scope, wanted: dict[int, tuple[Source, _Wanted]]) -> None:
    args = scope.node.args
    order = args.get("order")
    if order is None or args.get("group") or args.get("distinct") or scope.node.__class__ is not exp.Select:
        return
    aliases = {item.alias.lower() for item in scope.node.expressions if item.__class__ is exp.Alias}
    found: dict[str, tuple[Any, bool]] = {}
    source = None
    for ordered in order.expressions:
        column = ordered.this
        if column.__class__ is not exp.Column or (not column.table and column.name.lower() in aliases):
            return
        of = scope.source_of(column)
        if of is None or (source is not None and of is not source):
            return
        source = of
        found.setdefault(column.name.lower(), (column.this, bool(ordered.args.get("desc"))))
    pair = wanted.get(id(source))
    # An index gives the order of the table that is read first.
    if pair is None or source is not next(iter(scope.sources.values())):
        return
    if pair[1].equal or pair[1].ranged or args.get("limit"):
        dialect = pair[1].dialect
        pair[1].sorted = {key: (_name(name, dialect), descends) for key, (name, descends) in found.items()}


def _suggestion(source: Source, wanted: _Wanted, facts: Facts) -> IndexSuggestion | None:
    equal = {**wanted.equal, **wanted.joined} if wanted.joined else wanted.equal
    system = _SYSTEM[facts.dialect]
    if "id" in equal or not system.isdisjoint(equal):
        return None  # by convention the primary key, which leaves one row
    names = list(equal.values())
    columns = list(equal)  # in lower case, so that none comes twice
    roles = [f"= on {', '.join(names)}"] if names else []
    sorted_by = wanted.sorted if system.isdisjoint(wanted.sorted) else {}
    directions: dict[str, bool] = {}
    if wanted.ranged or sorted_by:
        ranged = {c: name for c, name in wanted.ranged.items() if c not in equal and c not in system}
        sorted_by = {c: s for c, s in sorted_by.items() if c not in equal}
        first_sorted = next(iter(sorted_by), None)
        if ranged and first_sorted is not None and first_sorted not in ranged:
            # Either the range or the order: rows that are not read need no sorting.
            sorted_by = {}
        if ranged:
            best = first_sorted if first_sorted in ranged else next(iter(ranged))
            columns.append(best)
            names.append(ranged[best])
            roles.append(f"range on {ranged[best]}")
        if sorted_by:
            for column, (name, _) in sorted_by.items():
                if column not in columns:
                    columns.append(column)
                    names.append(name)
            roles.append("ORDER BY " + ", ".join(name for name, _ in sorted_by.values()))
            if len({descends for _, descends in sorted_by.values()}) > 1:
                directions = {column: descends for column, (_, descends) in sorted_by.items()}
        for_order = [column for column in sorted_by if column not in ranged]
    else:
        for_order = []
    del columns[_MAX_COLUMNS:], names[_MAX_COLUMNS:]
    if not columns or columns[0] == "id":
        return None
    key = tuple(names)
    if facts.schema is not None and facts.schema.serves(source.name, key, min(len(equal), 4)):
        return None
    name = f"idx_{source.name}_{'_'.join(names)}".lower()
    if not (name.isascii() and name.isidentifier()):
        name = _ODD.sub("_", name)
    dialect = facts.dialect
    listed = [_quoted(name, dialect) for name in names]
    if dialect == "mysql" and facts.schema is not None:
        kinds = [_declared(source, column, facts.schema) for column in columns]
        if any(kind is not None and kind.kind in _WITHOUT_ORDER for kind in kinds):
            return None  # JSON
        listed = [f"{n}({_PREFIX})" if _is_long(kind) else n for n, kind in zip(listed, kinds, strict=True)]
    if directions:
        listed = [f"{n} DESC" if directions.get(c) else n for n, c in zip(listed, columns, strict=True)]
    if len(name) > _MAX_NAME:  # cut off, two would be one
        name = f"{name[: _MAX_NAME - 9]}_{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
    owner = source.node.args.get("db")
    schema = _name(owner, dialect) if owner is not None else ""
    of = _name(source.node.this, dialect)
    table = _quoted(of, dialect)
    if schema and dialect == "sqlite":
        name = f"{_quoted(schema, dialect)}.{name}"  # which is where the table is looked for, too
    elif schema:
        table = f"{_quoted(schema, dialect)}.{table}"
    return IndexSuggestion(
        table=f"{schema}.{of}" if schema else of,
        columns=key,
        ddl=f"CREATE INDEX {name} ON {table} ({', '.join(listed)})",
        reason=f"{of}: {'; '.join(roles)}",
        equality_columns=key[: len(equal)],
        sort_columns=tuple([n for c, n in zip(columns, names, strict=True) if c in for_order])
        if for_order
        else (),
    )


def _is_long(declared: DeclaredType | None) -> bool:
    if declared is None:
        return False
    return declared.kind in _LONG or (declared.kind in _STRINGS and (declared.length or 0) > _PREFIX)


# What PostgreSQL, MySQL, MariaDB or SQLite takes for no name.
_RESERVED = frozenset(
    "accessible add all alter analyse analyze and any array as asc asensitive asymmetric authorization "
    "before between bigint binary blob both by call cascade case cast change char character check collate "
    "collation column commit concurrently condition constraint continue convert create cross cube "
    "cume_dist current_catalog current_date current_role current_schema current_time current_timestamp "
    "current_user cursor database databases day_hour day_microsecond day_minute day_second dec decimal "
    "declare default deferrable delayed delete delete_domain_id dense_rank desc describe deterministic "
    "distinct distinctrow div do do_domain_ids double drop dual each else elseif empty enclosed end "
    "escape escaped except exists exit explain false fetch first_value float for force foreign freeze "
    "from full fulltext function grant group grouping groups having high_priority hour_microsecond "
    "hour_minute hour_second if ignore ignore_domain_ids ilike in index infile initially inner inout "
    "insensitive insert int integer intersect interval into is isnull iterate join json_table key keys "
    "kill lag last_value lateral lead leading leave left like limit linear lines load localtime "
    "localtimestamp lock long longblob longtext loop low_priority master_demote_to_replica "
    "master_demote_to_slave master_ssl_verify_server_cert match maxvalue mediumblob mediumint mediumtext "
    "middleint minute_microsecond minute_second mod modifies natural no_write_to_binlog not notnull "
    "nth_value ntile null numeric of offset on only optimize option optionally or order out outer outfile "
    "over overlaps page_checksum parse_vcol_expr partition percent_rank placing portion precision primary "
    "procedure purge raise range rank read read_write reads real recursive ref_system_id references "
    "regexp release rename repeat replace require resignal restrict return returning revoke right rlike "
    "row row_number rows schema schemas second_microsecond select sensitive separator session_user set "
    "show signal similar smallint some spatial specific sql sql_big_result sql_calc_found_rows "
    "sql_small_result sqlexception sqlstate sqlwarning ssl starting stats_auto_recalc stats_persistent "
    "stats_sample_pages straight_join symmetric system table tables tablesample terminated then tinyblob "
    "tinyint tinytext to trailing transaction trigger true undo union unique unlock unsigned update usage "
    "use user using utc_date utc_time utc_timestamp values varbinary varchar varcharacter variadic "
    "varying verbose when where while window with write xor year_month zerofill".split()
)


@lru_cache(maxsize=4096)
def _quoted(name: str, dialect: str) -> str:
    plain = _SIMPLE.match(name) or (name.isidentifier() and name.isascii() and dialect != "postgres")
    if plain and name.lower() not in _RESERVED:
        return name
    if dialect == "mysql":
        return "`" + name.replace("`", "``") + "`"
    return '"' + name.replace('"', '""') + '"'
