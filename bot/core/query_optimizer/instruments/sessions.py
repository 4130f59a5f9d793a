"""Which statements leave something in their session that changes later answers (pure)."""

from __future__ import annotations

import re

from bot.core.query_optimizer.models import Analysis, QueryType

_DATA = (QueryType.SELECT, QueryType.INSERT, QueryType.UPDATE, QueryType.DELETE, QueryType.MERGE)

_HARMLESS = frozenset(
    (
        "explain analyze vacuum show listen unlisten notify comment grant revoke copy lock refresh reindex "
        "checkpoint cluster describe desc optimize check repair flush kill"
    ).split()
)
_HARMLESS_PRAGMAS = frozenset(
    (
        "journal_mode synchronous foreign_keys busy_timeout cache_size mmap_size temp_store optimize "
        "wal_checkpoint wal_autocheckpoint journal_size_limit page_size auto_vacuum incremental_vacuum "
        "user_version application_id table_info table_xinfo table_list index_list index_info index_xinfo "
        "foreign_key_list foreign_key_check integrity_check quick_check page_count freelist_count "
        "database_list secure_delete threads cache_spill"
    ).split()
)
_IN_SCRIPTS = frozenset(
    "select insert update delete merge with create drop alter truncate begin commit end rollback".split()
)
_TEMPORARY = re.compile(r"(?i)\b(?:temp|temporary|pg_temp\w*)\b")
_PRAGMA = re.compile(r"(?i)pragma\s+(?:\w+\s*\.\s*)?(\w+)")
_SET_TRANSACTION = re.compile(r"(?i)set\s+transaction\b")
_SAVEPOINTS = ("SAVEPOINT ", "RELEASE SAVEPOINT ", "ROLLBACK TO SAVEPOINT ", "ROLLBACK TO ")
_CONTROL = re.compile(
    r"(?i)\s*(?:begin|start\s+transaction|commit|end|rollback|abort|savepoint|release)\b[\w\s,]*;?\s*\Z"
)


def is_control(text: str) -> bool:
    """Whether a text does nothing but begin or end a transaction or a savepoint, with whatever options."""
    return _CONTROL.match(text) is not None


def without_name(text: str) -> str:
    """``text``; if it is about a savepoint, with a name that is always the same.

    Drivers give each savepoint a new name, and each text would be parsed, and counted as a shape of its own.
    """
    if text.startswith(_SAVEPOINTS) and is_control(text):
        return next(start for start in _SAVEPOINTS if text.startswith(start)) + "s"
    return text


def alters(analysis: Analysis, text: str) -> bool:
    """Whether the same text may have another result on this connection afterwards than on its like.

    A setting, a role, a temporary table, an attached database; or a function that may do any of this. True
    if that is unknown.
    """
    kind = analysis.query_type
    if kind in _DATA:
        if analysis.writes_anything:
            return True
        return kind is QueryType.SELECT and bool(analysis.writes) and _is_temporary(analysis)
    if kind is QueryType.TRANSACTION:
        return analysis.writes_anything and not is_control(text)
    if analysis.writes_anything:
        return True
    if kind is QueryType.DDL:
        return _is_temporary(analysis)
    form = analysis.normal_form
    if kind is QueryType.SCRIPT:
        return _is_temporary(analysis) or not all(map(_leaves, form.split(";")))
    if pragma := _PRAGMA.match(form):
        return pragma[1].lower() not in _HARMLESS_PRAGMAS
    first = form.split(None, 1)[0].lower() if form.strip() else ""
    return first not in _HARMLESS and not _SET_TRANSACTION.match(form)


def _leaves(statement: str) -> bool:
    """Whether one statement of a script leaves the session as it was."""
    if pragma := _PRAGMA.match(statement.strip()):
        return pragma[1].lower() in _HARMLESS_PRAGMAS
    words = statement.split(None, 1)
    return not words or words[0].lower() in _IN_SCRIPTS


def _is_temporary(analysis: Analysis) -> bool:
    return _TEMPORARY.search(analysis.normal_form) is not None
