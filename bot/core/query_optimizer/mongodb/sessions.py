"""Sessions of MongoDB drivers: what was written in a transaction is dropped again when it ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

Ended = Callable[[frozenset[str]], Awaitable[Any] | None]

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


def note_in_transaction(session: Any, owner: object, names: frozenset[str], ended: Ended) -> None:
    """Call ``ended`` with all names noted for ``owner`` once the session's open transaction ends.

    The session's ``commit_transaction`` and ``abort_transaction`` are replaced: drivers tell nobody else.
    """
    if not session.in_transaction:
        return
    watched: dict[object, set[str]] = session.__dict__.setdefault(_WATCHED, {})
    written = watched.get(owner)
    if written is None:
        written = watched[owner] = set()
        for name in ("commit_transaction", "abort_transaction"):
            setattr(session, name, _telling(getattr(session, name), written, ended))
    written |= names


def _telling(end: Callable[..., Any], written: set[str], ended: Ended) -> Callable[..., Any]:
    async def end_and_tell(*args: Any, **options: Any) -> Any:
        try:
            result = await end(*args, **options)
        except BaseException:
            # It may have been committed; and it may be tried again, so the names are kept.
            if written:
                ended(frozenset(written))
            raise
        names = frozenset(written)
        written.clear()
        told = ended(names) if names else None
        if told is not None:
            await asyncio.shield(told)
        return result

    return end_and_tell
