"""What a call of a function may do to a result: differ from call to call, or write (pure)."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

from bot.core.query_optimizer.sql import builtins
from bot.core.query_optimizer.sql.census import Census
from bot.core.query_optimizer.sql.moments import MOMENT

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
        "current_timestamp_ltz systimestamp current_datetime getdate current_role current_catalog "
        "current_schema current_schemas version database schema system_user setseed random_normal "
        "pg_try_advisory_xact_lock pg_advisory_unlock_all pg_advisory_lock_shared is_free_lock is_used_lock "
        "pg_is_in_recovery pg_relation_size pg_total_relation_size pg_table_size pg_database_size "
        "pg_postmaster_start_time pg_current_wal_lsn txid_current_if_assigned pg_current_xact_id "
        "pg_cancel_backend pg_terminate_backend pg_sleep_for pg_sleep_until uuid_short sqlite_version "
        "inet_client_addr inet_server_addr currentdatabase to_regclass age"
    ).split()
)

# Session settings that change no result. Any other (search_path, time zone, role) may change them all.
HARMLESS_SETTINGS = frozenset(
    (
        "statement_timeout lock_timeout idle_in_transaction_session_timeout application_name transaction "
        "autocommit work_mem max_execution_time innodb_lock_wait_timeout wait_timeout net_read_timeout "
        "net_write_timeout enable_seqscan enable_indexscan client_min_messages synchronous_commit "
        "busy_timeout journal_mode synchronous cache_size temp_store mmap_size foreign_keys wal_checkpoint "
        "wal_autocheckpoint optimize table_info table_xinfo table_list index_list index_info index_xinfo "
        "foreign_key_list foreign_key_check integrity_check quick_check database_list page_count page_size "
        "freelist_count user_version application_id auto_vacuum locking_mode compile_options query_only "
        "secure_delete threads analysis_limit cell_size_check journal_size_limit data_version"
    ).split()
)


class Known(NamedTuple):
    """What is known about the user's own functions, by their names in lower case."""

    pure: frozenset[str] = frozenset()
    """They change nothing and depend on their arguments alone, as the user has declared."""
    own: frozenset[str] = frozenset()
    """Functions that were created: if a built-in has the same name, they may be meant."""


NOTHING = Known()


class Verdict(NamedTuple):
    """What is known of one call."""

    reason: str = ""
    """Why a result with it must not be cached; empty if it is known to depend on its arguments alone."""
    may_write: bool = False
    """It may write any table, or execute something that does."""
    sequence: Any = None
    """The argument that names a sequence that it changes."""


_PURE = Verdict()
_SEQUENCES = frozenset(("nextval", "setval"))
_WRITERS = frozenset(("dblink", "load_extension", "dblink_exec"))
_CLOCKS = frozenset(("date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff"))
"""In SQLite: they read the clock if no time, or 'now', is given."""
_OF_THE_MACHINE = frozenset(("localtime", "utc"))
"""Modifiers of these: then the result depends on the machine's time zone."""
_CURRENT_WITHOUT_ARGUMENTS = frozenset(("unix_timestamp", "from_unixtime"))

# The parser's classes for calls by names that the database does not have.
_FOREIGN = frozenset(
    (
        "ArgMax ArgMin TryCast GapFill OpenJSON WeightString ConnectByRoot Chr "
        "DecodeCase Predict VectorSearch"
    ).split()
)
_FOREIGN_TO_MYSQL = frozenset(
    "ArgMax ArgMin TryCast GapFill OpenJSON ConnectByRoot DecodeCase Predict VectorSearch Initcap Normalize "
    "Overlay XMLElement Decode".split()
)
_FOREIGN_WORDS = re.compile(r"(?i)\b(?:convert|ts_or_ds_to_date_str|var_map)\s*\(")
_FOREIGN_WORDS_TO_MYSQL = re.compile(r"(?i)\b(?:string_agg|ts_or_ds_to_date_str|var_map)\s*\(")
_IN_CALL = re.compile(r"""(?i)'(?:[^']|'')*+'|"[^"]*+"|[()\[\],]|\border\s++by\b|[^\s()\[\],'"]++""")


_UNCONDITIONAL: dict[str, frozenset[str | None]] = {
    "postgres": frozenset(builtins.POSTGRES),
    "mysql": builtins.MYSQL - _CURRENT_WITHOUT_ARGUMENTS,
    "sqlite": builtins.SQLITE - _CLOCKS,
    "": frozenset(),
}
"""Names that are pure wherever they are the database's own."""

_SIMPLE_NAMES = "count sum avg min max lower upper abs length coalesce".split()
_SIMPLE = {
    name: "P" if name in builtins.POSTGRES_GRAMMAR else builtins.POSTGRES[name].first
    for name in _SIMPLE_NAMES
}
"""Functions that most texts call and that each database has, with the categories of PostgreSQL's argument.
The parser lets them have one argument alone."""


def is_simple(function: Any, text: str, dialect: str, own: frozenset[str], census: Census) -> bool:
    """A quick test before :func:`judge`: whether it is one of those, and pure."""
    meta = function._meta
    if not meta:
        return False
    end = meta.get("end")
    if end is None:
        return False
    name = text[meta["start"] : end + 1].lower()
    categories = _SIMPLE.get(name)
    if categories is None or function.parent.__class__ in _qualified() or name in own:
        return False
    if categories == "P" or dialect == "sqlite" or dialect == "mysql":
        return True
    return _may_be(function.args.get("this"), categories, census)


@functools.cache
def _qualified() -> tuple[type, type]:
    from sqlglot import exp

    return exp.Dot, exp.Table


def judge(function: Any, text: str, dialect: str, known: Known, census: Census) -> Verdict:
    """What a call may do; ``text`` is what was parsed: its words tell how the function was named."""
    name = _written_name(function, text)
    if (
        name in _UNCONDITIONAL[dialect]
        and name not in known.own
        and (dialect != "postgres" or _is_of_postgres(name, function, text, census))
    ):
        return _PURE
    reason = _why_not_class(function.__class__)
    if name is None:
        return _judge_without_name(function, text, dialect, reason)
    if name in known.pure:
        return _PURE
    if "." in name or name in known.own:
        return _unknown(name, dialect)
    if dialect != "sqlite":
        if name in _SEQUENCES:
            arguments = function.args.get("expressions") or [function.this]
            return Verdict(f"{name}() differs from call to call", False, arguments[0])
        if name == "set_config":
            setting = function.args.get("expressions")
            harmless = bool(setting) and str(setting[0].this).lower() in HARMLESS_SETTINGS
            return Verdict("set_config() differs from call to call", not harmless)
    if dialect in ("sqlite", "") and name in _CLOCKS and _reads_clock(function, name, text):
        return Verdict("it asks for the current time")
    given = name in _CURRENT_WITHOUT_ARGUMENTS and _count_arguments(function, text) > 0
    if not given and (reason or name.replace("_", "") in _VOLATILE):
        if name == "age" and dialect == "postgres" and _is_of_postgres(name, function, text, census):
            return _PURE  # with two times; with one, it is the time until now
        writes = name in _WRITERS or (dialect != "sqlite" and not _is_known(name, dialect))
        return Verdict(reason or f"{name}() differs from call to call", writes)
    if _is_certain(name, function, text, dialect, census):
        return _PURE
    if given and dialect == "mysql":
        return _PURE
    if dialect == "sqlite" or _is_other_known(name, dialect):
        return Verdict(f"{name}() is not known to depend on its arguments only")
    return _unknown(name, dialect)


def _unknown(name: str, dialect: str) -> Verdict:
    # SQLite has no stored functions: what an application registers there is Python, whose queries are seen.
    return Verdict(f"{name}() is not known to depend on its arguments only", dialect != "sqlite")


def _judge_without_name(function: Any, text: str, dialect: str, reason: str) -> Verdict:
    """The verdict on parts of the grammar: CAST, CASE, operators, or what the parser takes for them."""
    if reason:
        return Verdict(reason)
    kind = function.__class__.__name__
    if kind == "If" and function.parent.__class__.__name__ == "Case":
        return _PURE
    is_foreign = (
        kind in _FOREIGN_TO_MYSQL
        if dialect == "mysql"
        else kind == "If"
        if dialect != "sqlite" and kind == "If"
        else kind in _FOREIGN and not (kind == "Chr" and dialect == "sqlite")
    )
    if not is_foreign and kind in ("Cast", "GroupConcat", "Array", "TryCast", "Anonymous"):
        words = _FOREIGN_WORDS_TO_MYSQL if dialect == "mysql" else _FOREIGN_WORDS
        is_foreign = kind != "Anonymous" and dialect != "sqlite" and words.search(text) is not None
    if is_foreign or kind == "Anonymous":
        name = function.name.lower() if kind == "Anonymous" else function.sql_names()[0].lower()
        may_write = dialect in ("postgres", "mysql") and name not in ("values", "weight_string")
        return Verdict(f"{name}() is not known to depend on its arguments only", may_write)
    return _PURE


def _is_certain(name: str, function: Any, text: str, dialect: str, census: Census) -> bool:
    """Whether it is certainly the database's own function, and depends on its arguments alone."""
    if dialect == "postgres":
        return _is_of_postgres(name, function, text, census)
    if dialect == "mysql":
        return name in builtins.MYSQL
    if dialect == "sqlite":
        return name in builtins.SQLITE
    # It may be any: what MySQL has not may be a function of the user's own there, too.
    return name in builtins.UNMISTAKABLE or (
        name in builtins.MYSQL and _is_of_postgres(name, function, text, census)
    )


def _is_of_postgres(name: str | None, function: Any, text: str, census: Census) -> bool:
    """Whether PostgreSQL has a function of that name that takes such arguments.

    pg_catalog comes first in every search path, but a function of the user's own may fit the arguments
    better, or be the only one that takes them.
    """
    if name in builtins.POSTGRES_GRAMMAR:
        return True
    found = None if name is None else builtins.POSTGRES.get(name)
    if found is None:
        return False
    if found.within_group and function.parent.__class__.__name__ == "WithinGroup":
        return True
    count = _count_arguments(function, text)
    if count not in found.counts and not 0 <= found.at_least <= count:
        return False
    return not count or _may_be(_first_argument(function), found.first, census)


def _is_known(name: str, dialect: str) -> bool:
    """Whether the dialect's database has it; without a dialect, whether any has."""
    of_mysql = name in builtins.MYSQL or name in builtins.MYSQL_READS
    if dialect == "mysql":
        return of_mysql
    of_postgres = (
        name in builtins.POSTGRES
        or name in builtins.POSTGRES_GRAMMAR
        or name in builtins.POSTGRES_READS
        or (name.startswith(builtins.POSTGRES_READ_PREFIXES) and name not in builtins.POSTGRES_WRITERS)
        or name in _VOLATILE_IN_POSTGRES
    )
    return (
        of_postgres
        if dialect == "postgres"
        else of_postgres or of_mysql or name in builtins.SQLITE or name in builtins.SQLITE_READS
    )


def _is_other_known(name: str, dialect: str) -> bool:
    """Whether it writes nothing, although its result must not be cached."""
    # Of PostgreSQL's own it was found to take other arguments.
    return _is_known(name, dialect) and not (dialect == "postgres" and name in builtins.POSTGRES)


def _may_be(argument: Any, categories: str, census: Census) -> bool:
    """Whether an argument may be of these categories of types, as far as the text tells."""
    if "P" in categories:
        return True
    kind = argument.__class__.__name__
    if kind == "Column" and argument.args.get("table") is not None:
        return True
    while kind in ("Neg", "Paren") and argument.this is not None:
        argument, kind = argument.this, argument.this.__class__.__name__
    if kind == "Literal":
        return argument.is_string or "N" in categories
    if kind in ("Placeholder", "Parameter"):
        return not set(categories).isdisjoint("SNDTAU")
    if kind == "Column" and argument.args.get("table") is None:
        return not _is_row(argument, census)
    return kind != "Cast" or not is_of_user(argument.args.get("to"))


def _is_row(column: Any, census: Census) -> bool:
    """Whether a name is that of a table of the statement, so that a whole row is meant."""
    name = column.args["this"].args.get("this")
    return name.__class__ is str and name.lower() in census.sources


# Types of PostgreSQL or an extension that the parser does not know.
KNOWN_TYPES = frozenset(
    (
        "citext hstore ltree lquery ltxtquery vector halfvec sparsevec cube seg isbn geometry geography "
        "box2d box3d jsonpath tsquery tsvector pg_lsn txid_snapshot pg_snapshot box "
        "circle line lseg path point "
        "polygon int4multirange int8multirange nummultirange tsmultirange tstzmultirange datemultirange "
        "macaddr macaddr8 cidr inet bit varbit money xml name char bpchar oid xid cid tid signed unsigned "
        "integer real numeric year"
    ).split()
)


def is_of_user(kind: Any) -> bool:
    """Whether a type is not known to be the database's: its casts may be functions of the user's own."""
    if kind is None:
        return False
    if kind.__class__.__name__ == "ObjectIdentifier":
        return str(kind.this).upper() not in ("OID", "XID", "CID", "TID")
    if getattr(kind.args.get("this"), "name", "") != "USERDEFINED":
        return any(is_of_user(inner) for inner in kind.args.get("expressions") or () if _is_type(inner))
    named = kind.args.get("kind")
    name = (named if isinstance(named, str) else getattr(named, "name", "") or str(named)).lower()
    return name.strip('"').rpartition(".")[2] not in KNOWN_TYPES


def _is_type(node: Any) -> bool:
    return node.__class__.__name__ in ("DataType", "ObjectIdentifier")


def _reads_clock(function: Any, name: str, text: str) -> bool:
    from sqlglot import exp

    if _count_arguments(function, text) < (2 if name == "strftime" else 1):
        return True
    words = [str(literal.this) for literal in function.find_all(exp.Literal) if literal.is_string]
    words.append("".join(words))
    # SQLite takes "now" for a string where no column has that name.
    words += [str(name.this) for name in function.find_all(exp.Identifier)]
    if _is_computed(function, exp):
        return True
    return any(MOMENT.search(word) or word.strip().lower() in _OF_THE_MACHINE for word in words)


def _is_computed(function: Any, exp: Any) -> bool:
    """Whether an argument is made from no column, so that a string may be in it that the text does not show:
    ``replace('nXw', 'X', 'o')``, ``x'6e6f77'``."""
    if next(function.find_all(exp.Column), None) is not None:
        return False
    for node in function.find_all(exp.Func, exp.HexString, exp.ByteString, exp.Select):
        # Nodes that the parser adds around an argument have no place in the text.
        is_implied = (
            isinstance(node, exp.Func) and node.__class__ is not exp.Chr and "start" not in (node._meta or ())
        )
        if node is not function and not is_implied:
            return True
    return False


def _first_argument(function: Any) -> Any:
    listed = function.args.get("expressions")
    return listed[0] if function.__class__.__name__ == "Anonymous" and listed else function.args.get("this")


def _count_arguments(function: Any, text: str) -> int:
    """How many arguments a call was written with: of many functions the tree keeps them elsewhere."""
    depth = count = 0
    for match in _IN_CALL.finditer(text, function.meta["end"] + 1):
        mark = match.group()
        if mark in "([":
            depth += 1
            if depth == 2 and not count:
                count = 1
        elif mark in ")]":
            depth -= 1
            if depth <= 0:
                return count
        elif depth == 0:
            return 0  # no list follows
        elif depth == 1:
            if mark[:5].lower() == "order" and len(mark) > 5:
                break
            count = count + 1 if mark == "," else count or 1
    return count


def _unquoted(name: str) -> str:
    # In MySQL a name in backticks is none of those that the grammar knows, such as count.
    return name.lower() if name[0] == "`" else name[1:-1]


def _written_name(function: Any, text: str) -> str | None:
    """How a function is called in the text, with the schema if not the database's; None for grammar."""
    meta = function._meta
    if not meta or "start" not in meta:
        return None
    name = text[meta["start"] : meta["end"] + 1]
    if not name.isidentifier() and name[:1] not in ('"', "`"):
        name = function.name if function.__class__.__name__ == "Anonymous" else function.sql_names()[0]
    name = _unquoted(name) if name[:1] in ('"', "`") else name.lower()
    parent: Any = function.parent
    kind: Any = parent.__class__
    if kind not in _qualified():
        return name
    qualifier = parent.text("db") if parent.__class__.__name__ == "Table" else ""
    if not qualifier and parent.args.get("expression") is function:
        qualifier = parent.this.name
    qualifier = qualifier.lower()
    return f"{qualifier}.{name}" if qualifier not in ("", "pg_catalog") else name


_VOLATILE_IN_POSTGRES = frozenset(
    (
        "now random gen_random_uuid current_date current_time current_timestamp localtime localtimestamp "
        "clock_timestamp statement_timestamp transaction_timestamp timeofday current_user session_user user "
        "current_role current_catalog current_schema current_schemas current_setting currval lastval "
        "current_database version setseed random_normal inet_client_addr inet_server_addr to_regclass age "
        "system_user"
    ).split()
)


@functools.lru_cache(maxsize=1024)
def calls_among(kinds: tuple[type, ...]) -> tuple[type, ...]:
    """Those of a statement's classes that are calls, or what the parser takes for calls."""
    from sqlglot import exp

    return tuple(
        kind
        for kind in kinds
        if issubclass(kind, exp.Func) and not issubclass(kind, exp.Connector) and kind not in _grammar()
    )


@functools.cache
def _grammar() -> frozenset[type]:
    """Only calls by name: a user's function cannot replace the others."""
    from sqlglot import exp

    return frozenset((exp.Case, exp.Exists, exp.Any, exp.All, exp.Extract))


@functools.cache
def _why_not_class(kind: Any) -> str:
    """The reason why no call with a class of the parser may be cached."""
    from sqlglot import exp

    if issubclass(kind, exp.Anonymous):
        return ""
    names = [kind.__name__.lower(), *(name.lower().replace("_", "") for name in kind.sql_names())]
    if any(name in _VOLATILE for name in names):
        return f"{kind.sql_names()[0].lower()}() differs from call to call"
    return ""
