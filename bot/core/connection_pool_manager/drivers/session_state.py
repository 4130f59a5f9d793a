"""Which statements may leave something behind in a session (pure).

A connection that only ran statements known to leave nothing need not be reset when its lease ends, and a
reset costs a round trip. The rule is a list of harmless statements; everything else counts as harmful. To
take a harmless statement for a harmful one costs a reset. The reverse would leak one user's state to the
next, so comments, quoting tricks and unknown keywords count as harmful.

For what a text cannot show (functions, triggers) the drivers ask the server's catalog.
"""

from __future__ import annotations

import re
from collections.abc import Callable

CLEAN = 0
RESET = 1
"""The driver's reset undoes it."""
DISCARD = 2
"""Only a new connection undoes it."""
ROUTINES = 4
"""Flag: it may have created a function or trigger, which later statements may run."""
READ_ONLY = 8
"""Flag: it may have asked for a transaction or session that is read-only."""

_READ_ONLY = re.compile(r"(?i)read[\s_]+only|read_only")

_LEADING_COMMENTS = re.compile(r"^(?:\s+|--[^\n]*(?:\n|$)|/\*(?![!M+]).*?\*/)*", re.DOTALL)
_STATEMENT_STARTS = re.compile(r"(?:^|;)[\s(;]*([a-zA-Z]+|\S|$)")

_COMMON = {
    "select", "insert", "update", "delete", "with", "values", "table", "explain", "begin", "start",
    "commit", "rollback", "savepoint", "release", "create", "alter", "drop", "truncate", "analyze", "",
}  # fmt: skip
# The words that may follow BEGIN where it begins a transaction; in MariaDB it begins a block, too.
_BEGIN_OF_BLOCK = re.compile(
    r"(?i)(?:^|;)[\s(]*begin\b(?!\s*(?:;|$|work\b|transaction\b|isolation\b|read\b|not\s+deferrable\b|deferrable\b"
    r"|deferred\b|immediate\b|exclusive\b))"
)
_START_OF_ELSE = re.compile(r"(?i)(?:^|;)[\s(]*start\b(?!\s+transaction\b)")

_POSTGRESQL_STARTS = _COMMON | {
    "end", "merge", "abort", "copy", "vacuum", "comment", "grant", "revoke", "reindex", "refresh", "notify",
    "lock", "show", "checkpoint", "cluster",
}  # fmt: skip
# Searched in the whole text, literals and comments included. query_to_xml and ts_stat run SQL from their
# arguments.
_POSTGRESQL_HARMFUL = re.compile(
    r"(?i)set_config|advisory|\btemp|pg_temp|\blisten|setseed|dblink|_to_xml|ts_stat|ts_rewrite"
    r"|\binto\s+unlogged|u&\"|\bcursor\b"
)
_POSTGRESQL_DISCARD = re.compile(r"(?i)\b(?:prepare|load|execute)\b")
# A backup and an origin of replication last as long as the session.
_POSTGRESQL_SESSION = re.compile(r"(?i)replication_origin|backup_start|start_backup")
_POSTGRESQL_ROUTINES = re.compile(
    r"(?i)\b(?:create|alter)\b.*\b(?:function|procedure|extension|language|routine)\b", re.DOTALL
)

# Functions outside the catalog schemas that may change the caller's session. Languages other
# than SQL and PL/pgSQL cannot be read, so theirs are suspected; C functions come with extensions, of
# which only dblink is known to keep state.
POSTGRESQL_SUSPECTS = r"""
SELECT EXISTS (
  SELECT 1 FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang
  WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
    AND p.prokind IN ('f', 'p')
    AND CASE WHEN l.lanname IN ('sql', 'plpgsql') THEN
          CASE WHEN p.prosrc = '' THEN pg_catalog.pg_get_functiondef(p.oid) ELSE p.prosrc END
            ~* ('set_config|advisory|\mtemp|\mlisten\M|setseed|dblink|_to_xml|\mexecute\M|\mdiscard\M'
              || '|\mreset\M|\mload\M|\mprepare\M|(^|;|\m(begin|then|else|loop)\M)\s*set\M')
        WHEN l.lanname = 'c' THEN p.proname ~ '^dblink'
        WHEN l.lanname = 'internal' THEN p.prosrc ~* 'set_config|advisory|setseed'
        ELSE true END)
"""

_MYSQL_STARTS = _COMMON | {"replace", "show", "describe", "desc", "optimize", "check"}
# What COM_RESET_CONNECTION undoes, whatever it did. Of a statement that starts otherwise (a block, a loop,
# EXECUTE IMMEDIATE, XA, of a later version) are unknown.
_MYSQL_RESETTABLE = _MYSQL_STARTS | {
    "set", "lock", "unlock", "call", "do", "prepare", "deallocate", "handler", "flush", "kill", "grant",
    "revoke", "rename", "repair", "checksum", "signal", "help",
}  # fmt: skip
# Where the end of a literal depends on the server's mode, or a comment may hold a quote: not to be cut out.
_MYSQL_UNSURE = re.compile(r"#|--|/\*|\\['\"]")
_MYSQL_LITERALS = re.compile(r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"", re.DOTALL)
_MYSQL_HARMFUL = re.compile(
    r"(?i)@|/\*[!M]|get_lock|temporary|last_insert_id\s*\(\s*[^\s)]|sql_calc_found|\bprepare\b"
)
_MYSQL_DISCARD = re.compile(
    r"(?i)(?:^|;)\s*(?:use\b|set\s+(?:(?:session|@@session\.|@@)\s*)?(?:names|char|autocommit))"
)
_MYSQL_ROUTINES = re.compile(
    r"(?i)\b(?:create|alter)\b.*\b(?:function|procedure|trigger|event|package)\b", re.DOTALL
)

_SQLITE_STARTS = _COMMON | {"end", "replace", "reindex", "vacuum"}
_SQLITE_HARMFUL = re.compile(r"(?i)\btemp|load_extension")
_SQLITE_READING_PRAGMA = re.compile(
    r"(?i)^\s*pragma\s+(?:(?:table_info|table_xinfo|table_list|index_list|index_info|index_xinfo"
    r"|foreign_key_list|foreign_key_check|quick_check|integrity_check)\s*(?:\(\s*['\"\w]*\s*\))?"
    r"|(?:user_version|journal_mode|page_count|page_size|freelist_count|database_list|data_version"
    r"|compile_options|foreign_keys))\s*;?\s*$"
)


def _starts_known(text: str, known: set[str]) -> bool:
    return all(word.lower() in known for word in _STATEMENT_STARTS.findall(text))


def classify_postgresql(text: str) -> int:
    """``CLEAN``, ``RESET`` or ``DISCARD``, plus ``ROUTINES``, for a text of one or more statements."""
    text = text[_LEADING_COMMENTS.match(text).end() :]  # type: ignore[union-attr]  # it matches nothing, too
    found = CLEAN
    if not _starts_known(text, _POSTGRESQL_STARTS) or _POSTGRESQL_HARMFUL.search(text):
        found = RESET
    if _POSTGRESQL_DISCARD.search(text) and not _starts_known(text, _POSTGRESQL_STARTS):
        found = DISCARD
    if _POSTGRESQL_SESSION.search(text):
        found = DISCARD
    if _POSTGRESQL_ROUTINES.search(text):
        found |= ROUTINES
    if _READ_ONLY.search(text):
        found |= READ_ONLY
    return found


def classify_mysql(text: str) -> int:
    """As :func:`classify_postgresql`, for MySQL and MariaDB."""
    whole = text[_LEADING_COMMENTS.match(text).end() :]  # type: ignore[union-attr]  # it matches nothing, too
    text = _MYSQL_LITERALS.sub("''", whole)
    found = CLEAN
    for read in (text, whole) if _MYSQL_UNSURE.search(whole) else (text,):
        if not _starts_known(read, _MYSQL_STARTS) or _MYSQL_HARMFUL.search(read):
            found = RESET
    if not _starts_known(text, _MYSQL_RESETTABLE) or _MYSQL_DISCARD.search(text):
        found = DISCARD
    routine = _MYSQL_ROUTINES.search(text)
    if not routine and (_BEGIN_OF_BLOCK.search(text) or _START_OF_ELSE.search(text)):
        found = DISCARD
    if routine:
        found |= ROUTINES
    if _READ_ONLY.search(text):
        found |= READ_ONLY
    return found


def classify_sqlite(text: str) -> int:
    """As :func:`classify_postgresql`, for SQLite, where a new connection is the only reset there is."""
    if _SQLITE_READING_PRAGMA.match(text):
        return CLEAN
    text = text[_LEADING_COMMENTS.match(text).end() :]  # type: ignore[union-attr]
    known = _starts_known(text, _SQLITE_STARTS)
    return CLEAN if known and not _SQLITE_HARMFUL.search(text) else DISCARD


# SCRIPT and FUNCTION change the server, not the connection.
_REDIS_HARMFUL = frozenset(
    {
        "SELECT", "AUTH", "HELLO", "CLIENT", "MULTI", "EXEC", "DISCARD", "WATCH", "SUBSCRIBE", "PSUBSCRIBE",
        "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE", "MONITOR", "READONLY", "READWRITE",
        "ASKING", "RESET", "QUIT", "SYNC", "PSYNC", "REPLCONF",
    }
)  # fmt: skip


# They may block as long as their arguments say, or for ever.
_REDIS_BLOCKING = frozenset(
    {
        "BLPOP", "BRPOP", "BLMOVE", "BRPOPLPUSH", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP", "XREAD",
        "XREADGROUP", "WAIT", "WAITAOF", "MONITOR", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE",
    }
)  # fmt: skip


def classify_redis(command: object) -> tuple[bool, bool]:
    """Whether it may change the connection's state, and whether it may block."""
    text = bytes(command).decode("latin-1") if isinstance(command, bytes | bytearray) else str(command)
    word = text.split(" ", 1)[0].upper()
    return word in _REDIS_HARMFUL or text.upper().startswith("SCRIPT DEBUG"), word in _REDIS_BLOCKING


class Classifier:
    """A classifier that remembers the latest texts, since programs repeat them."""

    _MOST, _LONGEST = 4096, 2048

    def __init__(self, classify: Callable[[str], int]) -> None:
        self._classify = classify
        self.known: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        found = self.known.get(text)
        if found is None:
            found = self._classify(text)
            if len(text) <= self._LONGEST:
                if len(self.known) >= self._MOST:
                    self.known.clear()
                self.known[text] = found
        return found
