"""``@rate_limited``: a limit for the calls of one function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from bot.core._shared.errors import invalid
from bot.core.rate_limiter.errors import RateLimitExceeded
from bot.core.rate_limiter.models import ClientId, KeyFunction, RateLimitConfig
from bot.core.rate_limiter.service import RateLimiter

P = ParamSpec("P")
R = TypeVar("R")

CLIENT_ARGUMENTS = ("client_id", "user_id", "chat_id")
"""Arguments that name the client, in order of preference, when ``key`` does not."""

EVERYBODY = "*"
"""The client of a function whose calls name none: all its callers share one bucket."""


@overload
def rate_limited(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def rate_limited(
    rps: float | None = None,
    burst_size: int | None = None,
    key: KeyFunction | str | None = None,
    tier: str | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def rate_limited(
    rps: Any = None,
    burst_size: int | None = None,
    key: KeyFunction | str | None = None,
    tier: str | None = None,
) -> Any:
    """Limit the calls of a function per client; a call too many raises ``RateLimitExceeded``.

    ``rps`` and ``burst_size`` give the function a limit of its own (burst defaults to the rate,
    rounded up); with ``tier`` its calls count against that tier instead; with neither, against a
    limit of its own with the default values (10 per second, burst 50), also without parentheses.

    ``key`` says who the client is: the name of an argument, or a function of the call's arguments
    that returns an int or a str. Without it, the client is the argument ``client_id``, ``user_id`` or
    ``chat_id`` if the function has one; else the ``from_user.id`` (aiogram, Pyrogram) or
    ``effective_user.id`` (python-telegram-bot) of an argument; else all callers share one bucket.

    Serves ``async def`` and plain functions; a plain one cannot wait for a Redis that shares the limit
    (see ``RateLimiter.check``). While the limiter is off, the function is just called.
    """
    if callable(rps):
        return rate_limited()(rps)
    if tier is not None and (rps is not None or burst_size is not None):
        raise invalid("tier", tier, "no tier when rps or burst_size is given")
    if key is not None and not isinstance(key, str) and not callable(key):
        raise invalid("key", key, "the name of an argument, or a function")

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        label = f"{function.__module__}.{function.__qualname__}"
        config = None if tier is not None else _own_limit(rps, burst_size, label)
        client_of = _client_finder(function, key)

        limit_name = label if tier is None else f"tier {tier}"

        def limit(limiter: RateLimiter, args: Any, kwargs: Any) -> None:
            client = client_of(args, kwargs)
            wait = limiter.check(client, config) if tier is None else limiter.check_tier(client, tier)
            if wait > 0.0:
                raise RateLimitExceeded(wait, limit=limit_name)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def limited(*args: P.args, **kwargs: P.kwargs) -> Any:
                limiter = RateLimiter.get_instance()
                if limiter.shared:
                    allowed, status = await limiter.is_allowed(client_of(args, kwargs), config, tier=tier)
                    if not allowed:
                        raise RateLimitExceeded(status.retry_after, limit=limit_name)
                elif limiter.enabled:
                    limit(limiter, args, kwargs)
                return await function(*args, **kwargs)

            return limited  # type: ignore[return-value]  # R is the coroutine, which async def makes

        @functools.wraps(function)
        def limited_sync(*args: P.args, **kwargs: P.kwargs) -> R:
            limiter = RateLimiter.get_instance()
            if limiter.enabled:
                limit(limiter, args, kwargs)
            return function(*args, **kwargs)

        return limited_sync

    return decorate


def _own_limit(rps: float | None, burst_size: int | None, label: str) -> RateLimitConfig:
    if rps is None:
        defaults = RateLimitConfig()
        burst = defaults.burst_size if burst_size is None else burst_size
        return RateLimitConfig(defaults.requests_per_second, burst, label)
    # Validated before it is rounded: int() of a NaN says nothing a user could use.
    rate = RateLimitConfig(rps, 1).requests_per_second
    return RateLimitConfig(rate, max(1, -int(-rate // 1)) if burst_size is None else burst_size, label)


def _client_finder(
    function: Callable[..., Any], key: KeyFunction | str | None
) -> Callable[[Any, Any], ClientId]:
    if callable(key):
        return lambda args, kwargs: key(*args, **kwargs)
    signature = inspect.signature(function)
    if key is not None and key not in signature.parameters:
        raise invalid("key", key, f"an argument of {function.__qualname__}: {list(signature.parameters)}")
    name = key or next((n for n in CLIENT_ARGUMENTS if n in signature.parameters), None)
    if name is not None:

        def from_argument(args: Any, kwargs: Any) -> ClientId:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            found: ClientId = bound.arguments[name]
            return found

        return from_argument
    return _from_update


def _from_update(args: Any, kwargs: Any) -> ClientId:
    for value in (*args, *kwargs.values()):
        user = getattr(value, "from_user", None) or getattr(value, "effective_user", None)
        found = getattr(user, "id", None)
        if isinstance(found, int | str):
            return found
    return EVERYBODY
