"""Which errors of a backend mean that another server must be found (pure).

A primary that was demoted, or steps down, keeps its connections and refuses what only a primary may
do. The name or proxy in the URL leads to the new primary by then, or will soon: the owner that gets such an
error closes the connection and opens another, which resolves the name again. What was refused so was
not run, and may be tried again there.

Sources: the Redis sources (server.c, ``shared.roslaveerr`` and its neighbours); the PostgreSQL manual,
appendix "Error Codes"; the MySQL and MariaDB "Error Message Reference"; MongoDB's specification
"Server Discovery and Monitoring", "not writable primary" and "node is recovering".
"""

from __future__ import annotations

_REDIS = ("READONLY", "MASTERDOWN", "UNBLOCKED", "-READONLY")

_POSTGRESQL = frozenset(
    (
        "25006",  # read_only_sql_transaction: also a transaction that its own user made read-only
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now
    )
)

_MYSQL = frozenset(
    (
        1053,  # ER_SERVER_SHUTDOWN
        1836,  # ER_READ_ONLY_MODE
        1927,  # ER_CONNECTION_KILLED, of MariaDB
        3100,  # ER_RUN_HOOK_ERROR: group replication has no majority
    )
)
_MYSQL_OPTION = 1290
"""ER_OPTION_PREVENTS_STATEMENT: of any option; that of a demoted server is named read-only."""

_MONGODB = frozenset(
    (
        91,  # ShutdownInProgress
        189,  # PrimarySteppedDown
        10058,  # LegacyNotPrimary
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11602,  # InterruptedDueToReplStateChange
        13435,  # NotPrimaryNoSecondaryOk
        13436,  # NotPrimaryOrSecondary
    )
)


def redis_needs_another_server(text: str) -> bool:
    """By an error's text, with or without a script around it (before Redis 7: ``... -READONLY You ...``)."""
    if text.startswith(_REDIS):
        return True
    return text.startswith("ERR Error running script") and ": -READONLY " in text[:400]


def postgresql_needs_another_server(sqlstate: str) -> bool:
    """By SQLSTATE. ``25006`` also comes of a transaction that its user has made read-only."""
    return sqlstate in _POSTGRESQL


def mysql_needs_another_server(number: int, text: str = "") -> bool:
    """By the error's number, and its text where that number is of any option."""
    if number == _MYSQL_OPTION:
        lowered = text.lower()
        return "read-only" in lowered or "read_only" in lowered
    return number in _MYSQL


def mongodb_needs_another_server(code: int) -> bool:
    """By the error's code."""
    return code in _MONGODB
