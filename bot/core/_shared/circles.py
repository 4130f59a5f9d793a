"""Which task waits for which, as their callbacks tell."""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import Iterator
from typing import Any


def is_awaited_by(task: asyncio.Future[Any], other: asyncio.Future[Any]) -> bool:
    """Whether ``other`` goes on only when ``task`` is done: for certain, or else False.

    It sees ``await``, gather, shield, wait_for, TaskGroup, and wait for all without a timeout; what is
    handed over by a queue, an event or a callback of the caller's own it does not.
    """
    seen = {task}
    waiting = [task]
    while waiting:
        for woken in _woken_by(waiting.pop()):
            if woken is other:
                return True
            if woken not in seen:
                seen.add(woken)
                waiting.append(woken)
    return False


def _woken_by(future: asyncio.Future[Any]) -> Iterator[asyncio.Future[Any]]:
    # Asyncio keeps no other record of it: a Future's callbacks, as pairs of a callable and a context.
    for callback, _ in getattr(future, "_callbacks", None) or ():
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, asyncio.Future):
            yield owner
        elif isinstance(owner, asyncio.TaskGroup):
            parent = getattr(owner, "_parent_task", None)
            if isinstance(parent, asyncio.Future):
                yield parent
        elif isinstance(callback, functools.partial):
            yield from (part for part in callback.args if isinstance(part, asyncio.Future))
        elif isinstance(callback, types.FunctionType) and callback.__module__.startswith("asyncio."):
            names = callback.__code__.co_freevars
            inside = dict(zip(names, map(_content, callback.__closure__ or ()), strict=False))
            if inside.get("timeout_handle") is None and inside.get("return_when") in (
                None,
                asyncio.ALL_COMPLETED,
            ):
                yield from (part for part in inside.values() if isinstance(part, asyncio.Future))


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None
