"""Answering futures whose owner may have gone: cancelled, or with its event loop closed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any


def give_result(future: asyncio.Future[Any], value: Any) -> None:
    """Set the result, unless the future is done or its event loop is closed."""
    if not future.done():
        with contextlib.suppress(RuntimeError):  # closed: no task waits there any more
            future.set_result(value)


def give_result_from_anywhere(future: asyncio.Future[Any], value: Any) -> None:
    """:meth:`give_result`, also if the future is of an event loop that runs in another thread."""
    loop = future.get_loop()
    if loop is asyncio._get_running_loop():
        give_result(future, value)
        return
    with contextlib.suppress(RuntimeError):  # closed
        loop.call_soon_threadsafe(give_result, future, value)


def give_error(future: asyncio.Future[Any], error: BaseException) -> None:
    """Set the exception, unless the future is done or its event loop is closed."""
    if not future.done():
        with contextlib.suppress(RuntimeError):  # as above
            future.set_exception(error)


def retrieved(future: asyncio.Future[Any]) -> None:
    """A done callback: keeps asyncio from reporting the error of a future that may never be awaited."""
    if not future.cancelled():
        future.exception()
