"""``@rate_limited``: a limit for the calls of one function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from bot.core._shared.errors import invalid, shown
from bot.core.phase4_config.rate_limiter import MAX_BURST
from bot.core.rate_limiter.errors import RateLimitExceeded
from bot.core.rate_limiter.models import (
    BackoffChoice,
    ClientId,
    KeyFunction,
    LimitChoice,
    RateLimitConfig,
)
from bot.core.rate_limiter.service import RateLimiter
from bot.core.rate_limiter.texts import limits_of, parse_limits

P = ParamSpec("P")
R = TypeVar("R")

CLIENT_ARGUMENTS = ("client_id", "user_id", "chat_id")
"""Arguments that name the client, in order of preference, when ``key`` does not."""

UPDATE_ATTRIBUTES = (
    "from_user", "effective_user", "sender_chat", "effective_sender", "chat", "effective_chat",
)  # fmt: skip
"""What of an update names the client, in order of preference: posts of channels have no user."""


@overload
def rate_limited(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def rate_limited(
    rps: float | str | None = None,
    burst_size: int | None = None,
    key: KeyFunction | str | None = None,
    tier: str | None = None,
    backoff: BackoffChoice = "default",
    limit: LimitChoice | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def rate_limited(
    rps: Any = None,
    burst_size: int | None = None,
    key: KeyFunction | str | None = None,
    tier: str | None = None,
    backoff: BackoffChoice = "default",
    limit: LimitChoice | None = None,
) -> Any:
    """Limit the calls of a function per client; a call too many raises ``RateLimitExceeded``.

    ``rps`` and ``burst_size`` give the function a limit of its own (burst defaults to the rate,
    rounded up); with ``tier`` its calls count against that tier instead; with neither, against a
    limit of its own with the default values (10 per second, burst 50), also without parentheses.

    Limits as text, ``@rate_limited("10/second;100/hour")``, give it exact windows of its own. ``limit`` is a
    limit, or several in a tuple, that other functions may have too; a text there is as above.

    ``backoff`` is that of the function's limit (see RateLimitConfig).

    ``key`` selects the client: the name of an argument, or a function of the call's arguments that returns
    an int or a str. Without it, or if it returns None, the client is the argument ``client_id``,
    ``user_id`` or ``chat_id`` if the function has one; else that of an update among the arguments: its
    ``from_user`` (aiogram, Pyrogram) or ``effective_user`` (python-telegram-bot), and for posts of
    channels, which have none, ``sender_chat`` or ``chat``. Calls without a client share one bucket, which
    has no backoff.

    Serves ``async def`` and plain functions, methods, static and class methods, ``functools.partial`` and
    callable objects; a plain one cannot wait for a Redis that shares the limit
    (see ``RateLimiter.check``). While the limiter is off, the function is just called.
    """
    if callable(rps) or isinstance(rps, classmethod):
        return rate_limited()(rps)
    if tier is not None and (rps is not None or burst_size is not None or backoff != "default"):
        raise invalid("tier", tier, "no tier when rps, burst_size or backoff is given")
    if isinstance(rps, str):
        if limit is not None:
            raise invalid("limit", limit, "no limit when the first argument is a text of limits")
        rps, limit = None, rps
    if limit is not None:
        if rps is not None or burst_size is not None or tier is not None:
            raise invalid("limit", limit, "no limit when rps, burst_size or tier is given")
        if backoff != "default" and not isinstance(limit, str):
            raise invalid("backoff", backoff, "none: a limit has its own")
        limits_of("limit", limit)
    if key is not None and not isinstance(key, str) and not callable(key):
        raise invalid("key", key, "the name of an argument, or a function")

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if isinstance(function, staticmethod | classmethod):
            return type(function)(decorate(function.__func__))
        if not callable(function):
            raise invalid("function", function, "something that can be called")
        label = label_of(function)
        config: LimitChoice | None = None
        if isinstance(limit, str):
            config = limits_of("limit", parse_limits(limit, label, backoff))
        elif limit is not None:
            config = limits_of("limit", limit)
        elif tier is None:
            config = _own_limit(rps, burst_size, label, backoff)
        client_of = client_finder(function, key)

        limit_name = label if tier is None else f"tier {tier}"

        def check(limiter: RateLimiter, args: Any, kwargs: Any) -> None:
            client = client_of(args, kwargs)
            wait = limiter.check(client, config) if tier is None else limiter.check_tier(client, tier)
            if wait > 0.0:
                raise RateLimitExceeded(wait, limit=limit_name)

        if is_async(function):

            @functools.wraps(function)
            async def limited(*args: P.args, **kwargs: P.kwargs) -> Any:
                limiter = RateLimiter.get_instance()
                if limiter.shared:
                    allowed, status = await limiter.is_allowed(client_of(args, kwargs), config, tier=tier)
                    if not allowed:
                        raise RateLimitExceeded(status.retry_after, limit=limit_name)
                elif limiter.enabled:
                    check(limiter, args, kwargs)
                else:
                    limiter._used_while_off()
                return await function(*args, **kwargs)  # type: ignore[misc]  # R is the coroutine

            return limited  # type: ignore[return-value]  # R is the coroutine, which async def makes

        @functools.wraps(function)
        def limited_sync(*args: P.args, **kwargs: P.kwargs) -> R:
            limiter = RateLimiter.get_instance()
            if limiter.enabled:
                check(limiter, args, kwargs)
            else:
                limiter._used_while_off()
            return function(*args, **kwargs)

        return limited_sync

    return decorate


def label_of(function: Callable[..., Any]) -> str:
    """The name of a function's limit: the same in every instance, and another for another function.

    Lambdas are told apart by their line, partials by what they bind.
    """
    if isinstance(function, functools.partial):
        bound = [_written(value) for value in function.args]
        bound += [f"{name}={_written(value)}" for name, value in function.keywords.items()]
        return f"{label_of(function.func)}({', '.join(bound)})"
    named = function if hasattr(function, "__qualname__") else type(function)
    label = f"{getattr(named, '__module__', '')}.{named.__qualname__}"
    code = getattr(function, "__code__", None)
    return f"{label}:{code.co_firstlineno}" if code is not None and "<lambda>" in label else label


def _written(value: object) -> str:
    """A value as every process writes it, which an address in memory is not."""
    return shown(value) if isinstance(value, int | str | float | bytes | None) else type(value).__qualname__


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - of an object, whose class makes it a coroutine
    )


def _own_limit(
    rps: float | None, burst_size: int | None, label: str, backoff: BackoffChoice
) -> RateLimitConfig:
    if rps is None:
        defaults = RateLimitConfig()
        burst = defaults.burst_size if burst_size is None else burst_size
        return RateLimitConfig(defaults.requests_per_second, burst, label, backoff)
    # Validated before it is rounded: the error of int() for a NaN does not help a user.
    rate = RateLimitConfig(rps, 1).requests_per_second
    burst = max(1, min(MAX_BURST, -int(-rate // 1))) if burst_size is None else burst_size
    return RateLimitConfig(rate, burst, label, backoff)


def client_finder(
    function: Callable[..., Any], key: KeyFunction | str | None
) -> Callable[[Any, Any], ClientId]:
    """What finds the client in the arguments of a call, as ``rate_limited`` does."""
    if callable(key):
        named = client_finder(function, None)

        def from_function(args: Any, kwargs: Any) -> ClientId:
            found = key(*args, **kwargs)
            return named(args, kwargs) if found is None else found

        return from_function
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C
        signature = inspect.Signature(
            [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
             inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)]
        )  # fmt: skip
    if key is not None and key not in signature.parameters:
        raise invalid("key", key, f"an argument of {label_of(function)}: {list(signature.parameters)}")
    names = [name for name in (key, *CLIENT_ARGUMENTS) if name is not None and name in signature.parameters]
    if not names:
        return _from_update

    def from_argument(args: Any, kwargs: Any) -> ClientId:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for name in names:
            found: ClientId = bound.arguments[name]
            if found is not None:
                return found
        return _from_update(args, kwargs)

    return from_argument


def _from_update(args: Any, kwargs: Any) -> ClientId:
    for value in (*args, *kwargs.values()):
        for attribute in UPDATE_ATTRIBUTES:
            try:
                found = getattr(getattr(value, attribute, None), "id", None)
            except Exception:  # a lazy object that cannot be read now: no client
                found = None
            if isinstance(found, int | str) and not isinstance(found, bool):
                return found
    return None
