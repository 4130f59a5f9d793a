"""The text of a CREATE INDEX: names, quotes, the parts of a column (pure)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache

MAX_NAME = 63
"""Characters of an index's name: PostgreSQL's limit; MySQL takes 64."""
_SIMPLE = re.compile(r"[a-z_][a-z0-9_]*\Z")
_ODD = re.compile(r"\W+")


def index_name(
    table: str, columns: Iterable[str], *, predicate: str = "", include: Iterable[str] = (), method: str = ""
) -> str:
    """A name that needs no quotes, the same for the same table, columns and kind."""
    held = "_".join(include)
    parts = [*columns, *([f"with_{held}"] if held else []), *([f"where_{predicate}"] if predicate else [])]
    name = f"idx_{table}_{'_'.join([*parts, method] if method else parts)}".lower()
    if not (name.isascii() and name.isidentifier()):
        name = _ODD.sub("_", name).rstrip("_")
    if len(name.encode()) > MAX_NAME:  # two names that are only cut off may be the same
        digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        name = f"{name.encode()[: MAX_NAME - 9].decode(errors='ignore')}_{digest}"
    return name


def listed_column(
    name: str,
    dialect: str,
    length: int | None = None,
    *,
    descends: bool = False,
    nulls: str = "",
    expression: bool = False,
) -> str:
    """A key as the index lists it; ``length``: only so many of its first characters (MySQL); ``nulls``:
    "FIRST" or "LAST" where it is not where the order puts them by itself; ``expression``: ``name`` is SQL.
    """
    text = f"({name})" if expression else quoted(name, dialect)
    if length is not None:
        text += f"({length})"
    if descends:
        text += " DESC"
    return f"{text} NULLS {nulls}" if nulls else text


def create_index(
    name: str,
    schema: str,
    table: str,
    columns: Iterable[str],
    dialect: str,
    *,
    method: str = "",
    include: Iterable[str] = (),
    predicate: str = "",
) -> str:
    """The statement; ``columns`` as :func:`listed_column` writes them, ``schema`` "" if it is not named.

    ``method``, ``include`` (names) and ``predicate`` (SQL) as in :class:`IndexSuggestion`; only PostgreSQL
    has the first two.
    """
    on = quoted(table, dialect)
    if schema and dialect == "sqlite":
        name = f"{quoted(schema, dialect)}.{name}"  # SQLite looks for the table in the index's schema
    elif schema:
        on = f"{quoted(schema, dialect)}.{on}"
    using = f" USING {method}" if method else ""
    text = f"CREATE INDEX {name} ON {on}{using} ({', '.join(columns)})"
    held = ", ".join(quoted(each, dialect) for each in include)
    if held:
        text += f" INCLUDE ({held})"
    return f"{text} WHERE {predicate}" if predicate else text


# Words that PostgreSQL, MySQL, MariaDB or SQLite do not take as a name.
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
def quoted(name: str, dialect: str) -> str:
    """The name as SQL must write it."""
    plain = _SIMPLE.match(name) or (name.isidentifier() and name.isascii() and dialect != "postgres")
    if plain and name.lower() not in _RESERVED:
        return name
    if dialect == "mysql":
        return "`" + name.replace("`", "``") + "`"
    return '"' + name.replace('"', '""') + '"'
