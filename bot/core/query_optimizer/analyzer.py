"""What a SQL text means: its type, what it reads and writes, whether its result may be cached."""

from __future__ import annotations

import logging
import re
from typing import Any

from bot.core.query_optimizer.fingerprint import is_too_deep, shape_of, tokens_of
from bot.core.query_optimizer.models import Analysis, QueryType

# Functions whose result differs from call to call, or that have an effect, by name in lower case.
# sqlglot knows some of them as types of their own, whose names are the same without underscores.
_VOLATILE = frozenset(
    name.replace("_", "")
    for name in (
        "now random rand uuid newid gen_random_uuid uuid_generate_v4 sysdate curdate curtime current_date "
        "current_time current_timestamp localtime localtimestamp clock_timestamp statement_timestamp "
        "transaction_timestamp timeofday unix_timestamp utc_timestamp utc_date utc_time current_user "
        "session_user user current_setting set_config nextval currval lastval setval last_insert_id "
        "last_insert_rowid changes total_changes row_count found_rows connection_id randomblob sleep "
        "pg_sleep pg_advisory_lock pg_advisory_xact_lock pg_try_advisory_lock pg_advisory_unlock "
        "pg_notify txid_current pg_backend_pid get_lock release_lock benchmark load_extension dblink "
        "current_timestamp_ltz systimestamp current_datetime getdate"
    ).split()
)

# Functions that sqlglot has no type for and that are known to depend on their arguments only. Any
# other unknown one may be the user's own and do anything, so its result is not cached.
_PURE = frozenset(
    (
        "instr printf format quote unicode hex typeof likelihood glob json json_array json_object json_set "
        "json_insert json_replace json_remove json_patch json_type json_valid json_each json_tree "
        "json_array_length jsonb_array_length jsonb_build_object json_build_object jsonb_agg json_agg "
        "jsonb_set jsonb_array_elements jsonb_array_elements_text json_array_elements jsonb_each "
        "jsonb_object_keys to_json to_jsonb row_to_json total iif ifnull locate elt field find_in_set "
        "substring_index strcmp inet_aton inet_ntoa conv crc32 sha1 sha2 md5 to_tsvector to_tsquery "
        "plainto_tsquery ts_rank similarity word_similarity array_length array_position cardinality "
        "unnest regexp_match regexp_matches regexp_split_to_array btrim width_bucket bit_length "
        "octet_length char_length character_length ascii space insert maketime makedate period_add "
        "bm25 highlight snippet width degrees radians pi sind cosd tand cbrt gcd lcm"
    ).split()
)

_FIRST_WORD = re.compile(r"\s*(?:--[^\n]*\n\s*|/\*.*?\*/\s*)*([A-Za-z]+)", re.DOTALL)
_REPLACE = re.compile(r"(?i)\A\s*REPLACE\s+INTO\b")
_BY_WORD = {
    "select": QueryType.SELECT, "with": QueryType.SELECT, "values": QueryType.SELECT,
    "insert": QueryType.INSERT, "replace": QueryType.INSERT, "update": QueryType.UPDATE,
    "delete": QueryType.DELETE, "merge": QueryType.MERGE, "create": QueryType.DDL, "drop": QueryType.DDL,
    "alter": QueryType.DDL, "truncate": QueryType.DDL, "begin": QueryType.TRANSACTION,
    "start": QueryType.TRANSACTION, "commit": QueryType.TRANSACTION, "rollback": QueryType.TRANSACTION,
    "savepoint": QueryType.TRANSACTION, "release": QueryType.TRANSACTION, "end": QueryType.TRANSACTION,
}  # fmt: skip

# Statements that neither read nor write tables, by first word; COMMIT is not one of them, since what
# its transaction wrote becomes visible only then.
_HARMLESS = frozenset(
    ("begin", "start", "rollback", "savepoint", "release", "set", "show", "explain", "use", "describe")
)


def analyze(query: str, dialect: str) -> Analysis:
    """Analyse any text; what cannot be read is UNKNOWN, never cached, and taken to write anything."""
    tokens = tokens_of(query, dialect)
    fingerprint, normal_form = shape_of(query, tokens)
    statements = _parse(query, tokens, dialect) if tokens and not is_too_deep(tokens) else None
    if statements is None:
        return _unreadable(query, fingerprint, normal_form)
    reads: set[str] = set()
    writes: set[str] = set()
    anything = False
    reasons: list[str] = []
    for statement in statements:
        found_reads, found_writes, found_anything, reason = _effects(statement)
        reads |= found_reads
        writes |= found_writes
        anything = anything or found_anything
        reasons += [reason] if reason else []
    kind = _type_of(statements[0]) if len(statements) == 1 else QueryType.SCRIPT
    if len(statements) != 1:
        reasons.insert(0, "several statements in one text")
    elif kind is not QueryType.SELECT:
        reasons.insert(0, f"{kind.value} is no read")
    elif writes or anything:
        reasons.insert(0, "it writes")
    return Analysis(
        query_type=kind,
        fingerprint=fingerprint,
        normal_form=normal_form,
        reads=frozenset(reads),
        writes=frozenset(writes),
        writes_anything=anything,
        not_cacheable=reasons[0] if reasons else "",
    )


def _parse(query: str, tokens: list[Any], dialect: str) -> list[Any] | None:
    from sqlglot.dialects.dialect import Dialect
    from sqlglot.errors import ErrorLevel, SqlglotError

    log = logging.getLogger("sqlglot")
    if log.level == logging.NOTSET:
        log.setLevel(logging.ERROR)  # its warnings quote the query, and with it a user's data
    reader = Dialect.get_or_raise(dialect or None)
    if tokens[0].text.upper() == "REPLACE" and _REPLACE.match(query):
        # To sqlglot REPLACE is a statement it passes through unread; its tables are those of an INSERT.
        query = _REPLACE.sub("INSERT INTO", query, count=1)
        tokens = reader.tokenize(query)
    try:
        parsed = reader.parser(error_level=ErrorLevel.RAISE).parse(tokens, query)
    except (SqlglotError, RecursionError, ValueError, TypeError, AttributeError, KeyError, IndexError):
        # The last few are how the parser stumbles over text that is no SQL at all.
        return None
    statements = [statement for statement in parsed if statement is not None]
    # The parser also takes bare expressions ("FROBNICATE ALL" is a column with an alias to it).
    if not statements or any(_type_of(statement) is QueryType.UNKNOWN for statement in statements):
        return None
    return statements


def _unreadable(query: str, fingerprint: str, normal_form: str) -> Analysis:
    match = _FIRST_WORD.match(query[:10_000])
    word = match.group(1).lower() if match else ""
    return Analysis(
        query_type=_BY_WORD.get(word, QueryType.UNKNOWN),
        fingerprint=fingerprint,
        normal_form=normal_form,
        reads=frozenset(),
        writes=frozenset(),
        writes_anything=word not in _HARMLESS,
        not_cacheable="it cannot be parsed",
    )


def _type_of(statement: Any) -> QueryType:
    from sqlglot import exp

    kinds: tuple[tuple[Any, QueryType], ...] = (
        ((exp.Query, exp.Values), QueryType.SELECT),
        (exp.Insert, QueryType.INSERT),
        (exp.Update, QueryType.UPDATE),
        (exp.Delete, QueryType.DELETE),
        (exp.Merge, QueryType.MERGE),
        ((exp.Create, exp.Drop, exp.Alter, exp.TruncateTable), QueryType.DDL),
        ((exp.Transaction, exp.Commit, exp.Rollback), QueryType.TRANSACTION),
        (
            (exp.Command, exp.Set, exp.Use, exp.Pragma, exp.Describe, exp.Show, exp.Analyze),
            QueryType.OTHER,
        ),
    )
    for classes, kind in kinds:
        if isinstance(statement, classes):
            return kind
    return QueryType.UNKNOWN


def _effects(statement: Any) -> tuple[set[str], set[str], bool, str]:
    """(tables read, tables written, whether it may write anything, why it must not be cached)."""
    from sqlglot import exp

    reads: set[str] = set()
    writes: set[str] = set()
    anything = False
    reason = ""
    with_names = {cte.alias.lower() for cte in statement.find_all(exp.CTE)}
    targets: set[int] = set()
    for node in statement.walk():
        if isinstance(node.parent, exp.When):
            continue  # the INSERT or UPDATE of a MERGE writes the table that the MERGE names
        if isinstance(node, exp.TruncateTable | exp.Drop):
            dropped = list(node.find_all(exp.Table))
            anything = anything or not dropped
            targets |= {id(table) for table in dropped}
            writes |= {table.name.lower() for table in dropped}
        elif isinstance(node, exp.Insert | exp.Update | exp.Delete | exp.Merge | exp.Create | exp.Alter):
            target = node.this.find(exp.Table) if isinstance(node.this, exp.Expr) else None
            if target is None:
                anything = True
            else:
                targets.add(id(target))
                writes.add(target.name.lower())
        elif isinstance(node, exp.Into):
            writes |= {table.name.lower() for table in node.find_all(exp.Table)} or {""}
        elif isinstance(node, exp.Lock):
            reason = reason or "it locks what it reads"
        elif isinstance(node, exp.Func):
            reason = reason or _why_not(node)
        elif isinstance(node, exp.Commit):
            anything = True
        elif isinstance(node, exp.Command):
            word = str(node.this).lower()
            anything = anything or word not in _HARMLESS
            reason = reason or f"{word} is no read"
        elif isinstance(node, exp.Pragma):
            anything = anything or "=" in node.sql()
            reason = reason or "pragma is no read"
        elif isinstance(node, exp.Table) and id(node) not in targets:
            name = node.name.lower()
            if name and not (name in with_names and not node.db):
                reads.add(name)
            elif not name:
                reason = reason or "it reads from a function"
    return reads - {""}, writes, anything, reason


def _why_not(function: Any) -> str:
    from sqlglot import exp

    if isinstance(function, exp.Anonymous):
        name = str(function.name).lower()
        if name.replace("_", "") in _VOLATILE:
            return f"{name}() differs from call to call"
        return "" if name in _PURE else f"{name}() is not known to depend on its arguments only"
    names = [type(function).__name__.lower(), *(n.lower().replace("_", "") for n in function.sql_names())]
    if any(name in _VOLATILE for name in names):
        return f"{function.sql_name().lower()}() differs from call to call"
    if names[0] in ("date", "datetime", "time", "strftime", "julianday", "tstodate", "timetostr"):
        text = function.sql().lower()
        if "'now'" in text or "()" in text:
            return "it asks for the current time"
    return ""
