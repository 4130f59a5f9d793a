"""What a SQL text means: its type, what it reads and writes, whether its result may be cached."""

from __future__ import annotations

import functools
import logging
import re
from dataclasses import dataclass
from typing import Any

from bot.core.query_optimizer.census import Census
from bot.core.query_optimizer.fingerprint import is_too_deep, shape_of, tokens_of
from bot.core.query_optimizer.models import Analysis, QueryType
from bot.core.query_optimizer.parameters import Parameters

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
    return read(query, dialect).analysis


@dataclass(frozen=True, slots=True)
class Reading:
    """A text, read once: what it means, and its statements for whoever wants to know more."""

    query: str
    dialect: str
    analysis: Analysis
    censuses: list[Census]
    """One for each statement; none if the text cannot be parsed."""
    tokens: list[Any]
    parameters: Parameters


def read(query: str, dialect: str) -> Reading:
    """Tokenize, parse and walk a text once, and say what it means."""
    tokens = tokens_of(query, dialect)
    fingerprint, normal_form = shape_of(query, tokens)
    parameters = Parameters()
    statements = None
    if tokens and not is_too_deep(tokens):
        statements = _parse(query, tokens, dialect, parameters)
    if statements is None:
        return Reading(query, dialect, _unreadable(query, fingerprint, normal_form), [], [], parameters)
    censuses = [Census(statement) for statement in statements]
    reads: set[str] = set()
    writes: set[str] = set()
    anything = False
    reasons: list[str] = []
    for census in censuses:
        found_reads, found_writes, found_anything, reason = _effects(census)
        reads |= found_reads
        writes |= found_writes
        anything = anything or found_anything
        if reason:
            reasons.append(reason)
    kind = _type_of(statements[0]) if len(statements) == 1 else QueryType.SCRIPT
    if len(statements) != 1:
        reasons.insert(0, "several statements in one text")
    elif kind is not QueryType.SELECT:
        reasons.insert(0, f"{kind.value} is no read")
    elif writes or anything:
        reasons.insert(0, "it writes")
    analysis = Analysis(
        query_type=kind,
        fingerprint=fingerprint,
        normal_form=normal_form,
        reads=frozenset(reads),
        writes=frozenset(writes),
        writes_anything=anything,
        not_cacheable=reasons[0] if reasons else "",
    )
    return Reading(query, dialect, analysis, censuses, tokens or [], parameters)


def _parse(query: str, tokens: list[Any], dialect: str, parameters: Parameters) -> list[Any] | None:
    from sqlglot.errors import ErrorLevel, SqlglotError

    reader = _dialect(dialect)
    if tokens[0].text.upper() == "REPLACE" and _REPLACE.match(query):
        # To sqlglot REPLACE is a statement it passes through unread; its tables are those of an INSERT.
        query = _REPLACE.sub("INSERT INTO", query, count=1)
        tokens = reader.tokenize(query)
    try:
        if "%" in query or "?" in query:
            plain = parameters.name_all(query, tokens)
            if plain != query:
                query, tokens = plain, reader.tokenize(plain)
        parsed = reader.parser(error_level=ErrorLevel.RAISE).parse(tokens, query)
    except (SqlglotError, RecursionError, ValueError, TypeError, AttributeError, KeyError, IndexError):
        # The last few are how the parser stumbles over text that is no SQL at all.
        return None
    statements = [statement for statement in parsed if statement is not None]
    # The parser also takes bare expressions ("FROBNICATE ALL" is a column with an alias to it).
    if not statements or any(_type_of(statement) is QueryType.UNKNOWN for statement in statements):
        return None
    return statements


@functools.cache
def _dialect(name: str) -> Any:
    from sqlglot.dialects.dialect import Dialect

    log = logging.getLogger("sqlglot")
    if log.level == logging.NOTSET:
        log.setLevel(logging.ERROR)  # its warnings quote the query, and with it a user's data
    return Dialect.get_or_raise(name or None)


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
    return _type_of_class(statement.__class__)


@functools.cache
def _type_of_class(kind: type) -> QueryType:
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
    for classes, found in kinds:
        if issubclass(kind, classes):
            return found
    return QueryType.UNKNOWN


@functools.cache
def _effect_classes() -> tuple[Any, ...]:
    from sqlglot import exp

    removal = (exp.TruncateTable, exp.Drop)
    change = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Alter)
    other = (exp.Into, exp.Lock, exp.Commit, exp.Command, exp.Pragma)
    return exp.Table, exp.CTE, removal, change, other, frozenset((*removal, *change, *other))


def _effects(census: Census) -> tuple[set[str], set[str], bool, str]:
    """(tables read, tables written, whether it may write anything, why it must not be cached)."""
    table_class, cte_class, removal, change, other, rare = _effect_classes()
    reads: set[str] = set()
    writes: set[str] = set()
    anything = False
    reason = ""
    targets: set[int] = set()
    if census.has(rare):
        for node in census.all(*removal):
            dropped = list(node.find_all(table_class))
            anything = anything or not dropped
            targets |= {id(table) for table in dropped}
            writes |= {table.name.lower() for table in dropped}
        for node in census.all(*change):
            if _is_action_of_merge(node):
                continue  # it writes the table that the MERGE names
            target = node.this.find(table_class) if hasattr(node.this, "find") else None
            if target is None:
                anything = True
            else:
                targets.add(id(target))
                writes.add(target.name.lower())
        found_writes, found_anything, reason = _rare_effects(census, other)
        writes |= found_writes
        anything = anything or found_anything
    with_names = {cte.alias.lower() for cte in census.all(cte_class)}
    for table in census.all(table_class):
        if id(table) in targets:
            continue
        name = table.name.lower()
        if not name:
            reason = reason or "it reads from a function"
        elif name not in with_names or table.args.get("db") is not None:
            reads.add(name)
    for function in census.functions():
        reason = reason or _why_not(function)
    return reads, writes, anything, reason


def _is_action_of_merge(node: Any) -> bool:
    from sqlglot import exp

    return isinstance(node.parent, exp.When)


def _rare_effects(census: Census, classes: tuple[type, ...]) -> tuple[set[str], bool, str]:
    """(tables written, whether it may write anything, why it must not be cached)"""
    from sqlglot import exp

    writes: set[str] = set()
    anything = False
    reason = ""
    for node in census.all(*classes):
        if isinstance(node, exp.Into):
            writes |= {table.name.lower() for table in node.find_all(exp.Table)} or {""}
        elif isinstance(node, exp.Lock):
            reason = reason or "it locks what it reads"
        elif isinstance(node, exp.Commit):
            anything = True
        elif isinstance(node, exp.Command):
            word = str(node.this).lower()
            anything = anything or word not in _HARMLESS
            reason = reason or f"{word} is no read"
        else:
            anything = anything or "=" in node.sql()
            reason = reason or "pragma is no read"
    return writes, anything, reason


def is_pure(function: Any) -> bool:
    """Whether a call depends on its arguments alone, as far as is known."""
    return not _why_not(function)


def _why_not(function: Any) -> str:
    reason, asks_time = _why_not_class(function.__class__)
    if reason:
        return reason
    if asks_time:
        text = function.sql().lower()
        return "it asks for the current time" if "'now'" in text or "()" in text else ""
    if asks_time is None:
        name = str(function.name).lower()
        if name.replace("_", "") in _VOLATILE:
            return f"{name}() differs from call to call"
        return "" if name in _PURE else f"{name}() is not known to depend on its arguments only"
    return ""


@functools.cache
def _why_not_class(kind: Any) -> tuple[str, bool | None]:
    """(why no call of it may be cached, whether its arguments may ask for the time; None: by its name)"""
    from sqlglot import exp

    if issubclass(kind, exp.Anonymous):
        return "", None
    names = [kind.__name__.lower(), *(name.lower().replace("_", "") for name in kind.sql_names())]
    if any(name in _VOLATILE for name in names):
        return f"{kind.sql_names()[0].lower()}() differs from call to call", False
    return "", names[0] in ("date", "datetime", "time", "strftime", "julianday", "tstodate", "timetostr")
