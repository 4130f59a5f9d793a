"""``@cached``: what a function returned, for the same arguments."""

from __future__ import annotations

import datetime
import decimal
import functools
import hashlib
import inspect
import secrets
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ParamSpec, TypeVar, overload

from bot.core._shared.bounded_store import MAX_FREQUENCY
from bot.core._shared.errors import invalid
from bot.core.cache_manager.keys import valid_key, valid_name
from bot.core.cache_manager.models import PLAIN, LoadOptions, valid_ttl
from bot.core.cache_manager.service import DEFAULT_NAMESPACE, CacheManager, Tags

P = ParamSpec("P")
R = TypeVar("R")

LONGEST_INT = 512
"""Bits up to which an int is written in decimal, which Python does slowly for long ones, or not at all."""

LONGEST_READABLE = 200
"""Characters of arguments up to which they stand in the key as they are, and are not hashed."""


@overload
def cached(function: Callable[P, Awaitable[R]], /) -> Callable[P, Awaitable[R]]: ...
@overload
def cached(
    key_prefix: str | None = None,
    ttl: float | None = 300,
    namespace: str = DEFAULT_NAMESPACE,
    key: Callable[..., str] | None = None,
    *,
    tags: Tags = (),
    options: LoadOptions = PLAIN,
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]: ...
def cached(
    key_prefix: Any = None,
    ttl: float | None = 300,
    namespace: str = DEFAULT_NAMESPACE,
    key: Callable[..., str] | None = None,
    *,
    tags: Tags = (),
    options: LoadOptions = PLAIN,
) -> Any:
    """Cache what an ``async def`` returns, None and other falsy values included, for ``ttl`` seconds.

    Entries are keyed by the bound arguments, so ``f(1)`` and ``f(user_id=1)`` are one, and ``1`` and
    ``"1"`` two. ``self`` and ``cls`` are left out, so that objects share values. Where that is wrong, or
    arguments are no plain data, give ``key``, a function of the same arguments, ``self`` included,
    that returns the key's last part. ``key_prefix`` defaults to the function's module and name; a
    closure without one shares its values with no other, since its name does not tell what it closes over.
    Concurrent calls run the function once. ``tags`` and ``options`` are those of
    :meth:`CacheManager.get_or_load`. While the cache is off, the function is just called. ``@cached``
    without parentheses takes every default.

    The decorated function has ``cache_key(*args, **kwargs)`` and ``await invalidate(*args, **kwargs)``.
    """
    if callable(key_prefix):
        return cached()(key_prefix)
    if ttl is not None:
        valid_ttl(ttl)
    valid_name(namespace, "namespace")
    if key is not None and not callable(key):
        raise invalid("key", key, "a function of the arguments that returns a string")

    def decorate(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"cached: {function!r} is no async function")
        prefix = key_prefix or _own_prefix(function)
        key_of = _key_maker(function, valid_name(prefix, "key_prefix"), key)

        plain = options is PLAIN

        @functools.wraps(function)
        async def caching(*args: P.args, **kwargs: P.kwargs) -> R:
            cache: CacheManager = _instance() or CacheManager.get_instance()
            if not cache._enabled:
                return await function(*args, **kwargs)
            at = key_of(args, kwargs)
            if plain:
                # CacheManager.get_local, in place: a hit costs half of what it would through calls.
                entry = cache._spaces.get(namespace, _NOTHING).get(at)
                if entry is not None and entry.expires_at > cache._now():
                    if entry.frequency < MAX_FREQUENCY:
                        entry.frequency += 1
                    cache._counters.l1_hits += 1
                    thaw = entry.thaw
                    return entry.value if thaw is None else thaw(entry.value)  # type: ignore[no-any-return]
            return await cache.get_or_load(  # type: ignore[no-any-return]
                at, lambda: function(*args, **kwargs), ttl, namespace, tags=tags, options=options
            )

        async def invalidate(*args: P.args, **kwargs: P.kwargs) -> bool:
            return await CacheManager.get_instance().delete(key_of(args, kwargs), namespace)

        caching.cache_key = lambda *args, **kwargs: key_of(args, kwargs)  # type: ignore[attr-defined]
        caching.invalidate = invalidate  # type: ignore[attr-defined]
        return caching

    return decorate


_NOTHING: dict[Any, Any] = {}
# get_instance without its call: a tenth of a hit.
_instance: Callable[[], Any] = functools.partial(CacheManager._instances.get, CacheManager)


def _own_prefix(function: Callable[..., Any]) -> str:
    prefix = f"{function.__module__}.{function.__qualname__}"
    if "<locals>" in prefix and getattr(function, "__closure__", None):
        # What one factory makes has one name, in every process, and answers of its own.
        return f"{prefix}@{secrets.token_hex(8)}"
    return prefix


def _key_maker(
    function: Callable[..., Any], prefix: str, key: Callable[..., str] | None
) -> Callable[[Any, Any], str]:
    if key is not None:
        return lambda args, kwargs: f"{prefix}:{valid_key(key(*args, **kwargs))}"
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    skipped = parameters[0].name if parameters and parameters[0].name in ("self", "cls") else None
    plain = [p for p in parameters if p.name != skipped]
    # The common case, one argument that is given by position and is an int or a str, needs no binding.
    single = (
        len(parameters) == 1 and len(plain) == 1 and plain[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    )

    start = f"{prefix}:"

    def key_of(args: Any, kwargs: Any) -> str:
        if single and not kwargs and len(args) == 1:
            value = args[0]
            kind = type(value)
            if kind is int and value.bit_length() <= LONGEST_INT:
                return start + str(value)
            if kind is str and len(value) < LONGEST_READABLE // 2:
                return f"{prefix}:{_text(value)}"
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        parts = [_text(value) for name, value in bound.arguments.items() if name != skipped]
        text = ",".join(parts)
        if len(text) > LONGEST_READABLE:
            text = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
        return f"{prefix}:{text}" if text else prefix

    return key_of


def _text(value: Any) -> str:
    """A text that differs for values that differ, types included."""
    kind = type(value)
    if kind is int:
        return str(value) if value.bit_length() <= LONGEST_INT else hex(value)
    if kind is str:
        text: str = value
        # Quoted and escaped: an argument with a comma or a quote in it must not read as two.
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if kind in (bool, float, bytes, type(None), complex):
        return repr(value)
    if kind in (list, tuple):
        inside = ",".join(_text(item) for item in value)
        return f"[{inside}]" if kind is list else f"({inside},)"
    if isinstance(value, Mapping):
        return "{" + ",".join(sorted(f"{_text(k)}:{_text(v)}" for k, v in value.items())) + "}"
    if kind in (set, frozenset):
        return "<" + ",".join(sorted(map(_text, value))) + ">"
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal | uuid.UUID):
        return repr(value)
    if kind.__module__ == "bson.objectid":
        return f"ObjectId({value})"
    raise TypeError(f"argument of type {kind.__qualname__}: expected plain data; give @cached a key function")
