"""What PostgreSQL's catalog knows of tables and indexes: the queries, and the reading of their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from bot.core.query_optimizer.models import IndexSuggestion
from bot.core.query_optimizer.plans.postgres_costs import ColumnFigures, Prices, Relation
from bot.core.query_optimizer.plans.prepare import Statement
from bot.core.query_optimizer.sql.schema import Schema

if TYPE_CHECKING:
    from bot.core.query_optimizer.advice.expression_keys import Demand

_INDEXES = """
SELECT t.relname::text, i.indexrelid::text,
       coalesce(a.attname::text, pg_catalog.pg_get_indexdef(i.indexrelid, k.place::int, false)),
       k.number = 0, m.amname::text, pg_catalog.pg_get_expr(i.indpred, i.indrelid), i.indisunique
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid JOIN pg_catalog.pg_am m ON m.oid = x.relam
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number <> 0
WHERE i.indrelid = ANY ($1::text[]::regclass[]) AND i.indisvalid AND k.place <= i.indnkeyatts
ORDER BY 1, 2, k.place
"""
_SIZES = """
SELECT c.relname::text, c.reltuples::float8, c.relkind::text, c.relpages::float8, c.relallvisible::float8
FROM pg_catalog.pg_class c
WHERE c.oid = ANY ($1::text[]::regclass[])
"""
_COLUMNS = """
SELECT c.relname::text, s.attname::text, s.n_distinct::float8, s.correlation::float8, s.avg_width::float8,
       s.null_frac::float8
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname
WHERE c.oid = ANY ($1::text[]::regclass[])
"""
_TYPES = """
SELECT c.relname::text, a.attname::text, t.typname::text, t.typcategory::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE c.oid = ANY ($1::text[]::regclass[]) AND a.attnum > 0 AND NOT a.attisdropped
"""
_PRICES = """
SELECT name::text, setting::float8 FROM pg_catalog.pg_settings WHERE name = ANY ($1::text[])
"""
# For trigrams: the operator class as an index must name it; NULL if the extension is not installed.
_EXTENSIONS = """
SELECT e.extname::text, NULL FROM pg_catalog.pg_extension e WHERE e.extname = 'hypopg'
UNION ALL
SELECT x.name::text, (
    SELECT CASE WHEN pg_catalog.pg_opclass_is_visible(o.oid) THEN o.opcname::text
           ELSE pg_catalog.format('%I.%I', n.nspname, o.opcname) END
    FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_namespace n ON n.oid = o.opcnamespace
    WHERE o.opcname = 'gin_trgm_ops' LIMIT 1)
FROM pg_catalog.pg_available_extensions x WHERE x.name = 'pg_trgm'
"""

FEW = 20
"""Different values of a column that tells states apart, such as "queued" and "done"."""


class Existing(NamedTuple):
    """An index of the database."""

    method: str
    keys: tuple[str, ...]
    """Columns in lower case and expressions as :func:`same_form` writes them."""
    predicate: str
    """As :func:`same_form` writes it; "" if it holds every row."""
    unique: bool


@dataclass(frozen=True, slots=True)
class Catalog:
    """What is known of the tables of a query, by their names in lower case."""

    kinds: Mapping[str, str]
    """pg_class.relkind: "r" for a table, "v" for a view."""
    rows: Mapping[str, float]
    relations: Mapping[str, Relation]
    """Of tables that were analyzed."""
    prices: Prices
    indexes: Mapping[str, Sequence[Existing]]
    types: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    """(table, column) -> (pg_type.typname, typcategory)."""
    hypopg: bool = False
    trigrams: str | None = None
    """The operator class of pg_trgm; "" if the extension could be created, None if the server has none."""

    def plain_indexes(self) -> dict[str, list[tuple[str, ...]]]:
        """The columns of the B-trees that hold every row."""
        return {
            table: [each.keys for each in found if each.method == "btree" and not each.predicate]
            for table, found in self.indexes.items()
        }

    def serves(self, table: str, suggestion: IndexSuggestion) -> bool:
        """Whether an index that exists does what the suggestion would do."""
        keys = tuple(
            [same_form(key) if key in suggestion.expressions else key.lower() for key in suggestion.columns]
        )
        predicate = same_form(suggestion.predicate) if suggestion.predicate else ""
        fitting = [
            each
            for each in self.indexes.get(table, ())
            if each.method == suggestion.method and each.predicate in ("", predicate)
        ]
        if suggestion.method == "gin":
            return any(keys[0] in each.keys for each in fitting)
        schema = Schema()
        # An index of every row serves as well as a partial one, but holds more.
        schema.indexes = {table: [each.keys for each in fitting if each.predicate == predicate]}
        schema.unique = {table: [frozenset(each.keys) for each in fitting if each.unique]}
        return schema.serves(table, keys, len(suggestion.equality_columns))

    def is_as(self, table: str, column: str, demand: Demand) -> bool:
        """Whether a column is what an index demands of it; False if it is not known."""
        name, category = self.types.get((table, column), ("", ""))
        if demand == "few":
            relation = self.relations.get(table)
            figures = relation.columns.get(column) if relation is not None else None
            return name == "bool" or (figures is not None and 0 < figures.distinct <= FEW)
        return (
            demand == "any"
            or {
                "text": category == "S",
                "trigrams": name in ("text", "varchar"),
                "timestamp": name == "timestamp",
                "json": name in ("json", "jsonb"),
                "jsonb": name == "jsonb",
                "array": category == "A",
                "number": category == "N",
            }[demand]
        )


@lru_cache(maxsize=1024)
def same_form(sql: str) -> str:
    """An expression's structure, the same however it and the types of its constants are written."""
    import sqlglot
    from sqlglot import errors, exp

    try:
        tree = sqlglot.parse_one(sql, read="postgres")
        for cast in [*tree.find_all(exp.Cast)]:
            if cast.this.__class__ is exp.Literal and cast is not tree:
                cast.replace(cast.this)
        # Read again: what a function or an operator is read as may depend on such a constant.
        tree = sqlglot.parse_one(tree.sql(dialect="postgres"), read="postgres")
    except (errors.SqlglotError, RecursionError):
        return sql.lower()
    for column in tree.find_all(exp.Column):
        column.set("table", None)
    for name in tree.find_all(exp.Identifier):
        if not name.args.get("quoted"):
            name.set("this", name.name.lower())
        name.set("quoted", False)
    whole: Any = exp.Tuple(expressions=[tree])
    for paren in [*whole.find_all(exp.Paren)]:
        paren.replace(paren.this)  # the structure has no need of it
    return repr(whole).lower()


def questions(names: Sequence[str]) -> list[Statement]:
    """The statements whose answers :func:`catalog_of` reads; ``names`` are tables as a query writes them."""
    of_tables: list[Statement] = [(sql, (names,)) for sql in (_INDEXES, _SIZES, _COLUMNS, _TYPES)]
    return [*of_tables, (_PRICES, (sorted(Prices.__slots__),)), (_EXTENSIONS, None)]


def catalog_of(answers: Sequence[Sequence[Sequence[Any]]]) -> Catalog:
    indexes, sizes, columns, types, prices, extensions = answers
    known = {str(name): operators for name, operators in extensions}
    return Catalog(
        kinds={str(name).lower(): str(kind) for name, _, kind, *_ in sizes},
        rows={str(name).lower(): rows for name, rows, kind, *_ in sizes if kind != "v" and rows >= 0},
        relations=_relations(sizes, columns),
        prices=Prices(**{str(name): float(value) for name, value in prices}),
        indexes=_existing(indexes),
        types={
            (str(of).lower(), str(name).lower()): (str(kind), str(sort)) for of, name, kind, sort in types
        },
        hypopg="hypopg" in known,
        trigrams=(known["pg_trgm"] or "") if "pg_trgm" in known else None,
    )


def _existing(rows: Sequence[Sequence[Any]]) -> dict[str, list[Existing]]:
    found: dict[tuple[str, str], Existing] = {}
    for table, number, key, is_expression, method, predicate, unique in rows:
        place = str(table).lower(), str(number)
        known = found.get(place)
        keys = () if known is None else known.keys
        text = same_form(str(key)) if is_expression else str(key).lower()
        condition = same_form(str(predicate)) if predicate else ""
        found[place] = Existing(str(method), (*keys, text), condition, bool(unique))
    by_table: dict[str, list[Existing]] = {}
    for (name, _), index in found.items():
        by_table.setdefault(name, []).append(index)
    return by_table


def _relations(sizes: Sequence[Sequence[Any]], columns: Sequence[Sequence[Any]]) -> dict[str, Relation]:
    """Tables that were analyzed, by their name in lower case."""
    found = {}
    for name, rows, kind, pages, visible in sizes:
        if kind not in ("r", "m") or rows <= 0 or pages <= 0:
            continue
        of = {
            str(column).lower(): ColumnFigures(distinct, correlation or 0.0, width, nulls)
            for table, column, distinct, correlation, width, nulls in columns
            if table == name
        }
        found[str(name).lower()] = Relation(rows, pages, min(1.0, visible / pages), of)
    return found
