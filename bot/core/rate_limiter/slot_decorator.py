"""``@limited_slots``: at most so many calls of one function in progress for each client."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from bot.core._shared.errors import invalid
from bot.core.rate_limiter.concurrency import ConcurrencyLimit
from bot.core.rate_limiter.decorators import client_finder, is_async, label_of
from bot.core.rate_limiter.models import KeyFunction
from bot.core.rate_limiter.service import RateLimiter
from bot.core.rate_limiter.waiting import longest_wait

P = ParamSpec("P")
R = TypeVar("R")


def limited_slots(
    limit: int | ConcurrencyLimit,
    key: KeyFunction | str | None = None,
    timeout: float | None = 0.0,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let at most ``limit`` calls of a coroutine function be in progress for each client.

    ``limit`` is a number, for a limit of the function's own, or a ConcurrencyLimit, which functions can
    share. A call too many raises :class:`ConcurrencyLimitExceeded`, or waits for up to ``timeout`` seconds
    (None: without end). ``key`` selects the client as for ``rate_limited``. While the limiter is off, the
    function is just called.

    Raises TypeError for a function that is not ``async def``: nothing could wait for its end.
    """
    if not isinstance(limit, ConcurrencyLimit):
        ConcurrencyLimit(limit)  # raises for what is no number of slots
    if key is not None and not isinstance(key, str) and not callable(key):
        raise invalid("key", key, "the name of an argument, or a function")
    longest_wait(timeout)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if isinstance(function, staticmethod | classmethod):
            return type(function)(decorate(function.__func__))
        if not is_async(function):
            raise TypeError(f"function = {function!r}: expected an async def function")
        own = limit if isinstance(limit, ConcurrencyLimit) else ConcurrencyLimit(limit, label_of(function))
        client_of = client_finder(function, key)

        @functools.wraps(function)
        async def limited(*args: P.args, **kwargs: P.kwargs) -> Any:
            limiter = RateLimiter.get_instance()
            if not limiter.enabled:
                limiter._used_while_off()
                return await function(*args, **kwargs)  # type: ignore[misc]  # R is the coroutine
            async with limiter.slot(client_of(args, kwargs), own, timeout):
                return await function(*args, **kwargs)  # type: ignore[misc]  # as above

        return limited  # type: ignore[return-value]  # as above

    return decorate
