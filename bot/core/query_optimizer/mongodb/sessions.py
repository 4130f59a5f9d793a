"""Sessions of MongoDB drivers: what was written in a transaction is dropped again when it ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from bson.errors import BSONError
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

Ended = Callable[[frozenset[str]], Awaitable[Any] | None]
Doubted = Callable[[frozenset[str]], None]

_WATCHED = "_phase4_written"


def session_in(args: Iterable[Any], options: Mapping[str, Any], client: Any) -> Any:
    """The session in which an operation runs, given or bound; None without one."""
    for value in (*args, *options.values()):
        if hasattr(type(value), "commit_transaction"):
            return value
    # PyMongo from 4.18 on binds sessions to the context (``with session.bind():``).
    module = sys.modules.get("pymongo.asynchronous.client_session")
    variable = getattr(module, "_SESSION", None)
    bound = None if variable is None else variable.get()
    return bound if bound is not None and getattr(bound, "client", None) is client else None


def may_still_happen(error: BaseException) -> bool:
    """Whether the server may carry out what failed with this error after the driver raised it."""
    if isinstance(error, OperationFailure):  # the server's own answer
        return error.has_error_label("UnknownTransactionCommitResult")
    if isinstance(error, PyMongoError):
        return isinstance(error, ConnectionFailure)
    return not isinstance(error, TypeError | ValueError | BSONError)  # cancelled, for one


def note_in_transaction(
    session: Any,
    owner: object,
    names: frozenset[str],
    ended: Ended,
    doubted: Doubted,
) -> None:
    """Call ``ended`` with all names noted for ``owner`` once the session's open transaction ends.

    ``doubted`` is called with them, too, if it is unknown whether it was committed.

    The session's ``commit_transaction`` and ``abort_transaction`` are replaced: drivers tell nobody else.
    """
    if not session.in_transaction:
        return
    watched: dict[object, set[str]] = session.__dict__.setdefault(_WATCHED, {})
    written = watched.get(owner)
    if written is None:
        written = watched[owner] = set()
        for name in ("commit_transaction", "abort_transaction"):
            setattr(session, name, _telling(getattr(session, name), written, ended, doubted))
    written |= names


def _telling(
    end: Callable[..., Any], written: set[str], ended: Ended, doubted: Doubted
) -> Callable[..., Any]:
    async def end_and_tell(*args: Any, **options: Any) -> Any:
        try:
            result = await end(*args, **options)
        except BaseException as error:
            # It may have been committed; and it may be tried again, so the names are kept.
            if written:
                ended(frozenset(written))
                if may_still_happen(error):
                    doubted(frozenset(written))
            raise
        names = frozenset(written)
        written.clear()
        told = ended(names) if names else None
        if told is not None:
            await asyncio.shield(told)
        return result

    return end_and_tell
