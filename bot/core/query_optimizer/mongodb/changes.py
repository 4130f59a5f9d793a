"""What the events and errors of MongoDB's change streams mean (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymongo.errors import ConnectionFailure, OperationFailure

from bot.core.query_optimizer.mongodb.shapes import filed_as, whole_database

PIPELINE = [{"$project": {"operationType": 1, "ns": 1, "to": 1}}]
"""The server sends no documents, only what was done where; ``_id`` is the resume token, and always sent."""

_OF_ONE = frozenset(("insert", "update", "replace", "delete", "drop", "rename"))
"""Events that concern the collections that they name. Any other may concern the whole database."""

_UNAVAILABLE = {
    40573: "the server is no replica set and no sharded cluster",
    40324: "the server does not know change streams",  # an unknown stage of a pipeline
    59: "the server does not know change streams",
    115: "the server does not support change streams",
    238: "the server does not support change streams",
    13: "the client's user may not use change streams",
}
"""Codes of errors that the same attempt would get again: what the user then is told."""


def written_by_event(event: Mapping[str, Any], database: str) -> frozenset[str]:
    """What an event of a stream of ``database`` says was written, as filed."""
    if event.get("operationType") not in _OF_ONE:
        return frozenset((whole_database(database),))
    found: set[str] = set()
    for place in (event.get("ns"), event.get("to")):  # "to" is that of a rename
        if place is None and found:
            continue
        collection = place.get("coll") if isinstance(place, Mapping) else None
        if not isinstance(collection, str) or not collection or "\ufffd" in collection:
            return frozenset((whole_database(database),))
        found.add(filed_as(database, collection))
    return frozenset(found)


def why_unavailable(error: BaseException) -> str:
    """Why there is no change stream and will be none; "" if the error may pass."""
    if not isinstance(error, OperationFailure) or error.has_error_label("ResumableChangeStreamError"):
        return ""
    return _UNAVAILABLE.get(error.code or 0, "")


def is_resumable(error: BaseException) -> bool:
    """Whether a stream that ended with this error may go on where it was; else it begins anew."""
    if isinstance(error, OperationFailure):
        return error.has_error_label("ResumableChangeStreamError") or error.code == _CURSOR_NOT_FOUND
    return isinstance(error, ConnectionFailure)


_CURSOR_NOT_FOUND = 43
