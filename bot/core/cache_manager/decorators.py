"""``@cached``: a function's results, cached by its arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from threading import get_ident
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from bot.core._shared.bounded_store import MAX_FREQUENCY
from bot.core._shared.errors import invalid
from bot.core.cache_manager.call_keys import LONGEST_INT, LONGEST_READABLE, key_maker
from bot.core.cache_manager.call_tags import TagsFrom, call_tags
from bot.core.cache_manager.callables import is_async
from bot.core.cache_manager.calls import CacheInfo, Calls, Run
from bot.core.cache_manager.keys import valid_name
from bot.core.cache_manager.models import ABSENT, DEFAULT_NAMESPACE, PLAIN, LoadOptions, Tags
from bot.core.cache_manager.service import CacheManager
from bot.core.cache_manager.ttls import Ttl, TtlOf, valid_ttl_or_function

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")


class _Cached(Protocol[P]):
    """What is common to cached functions."""

    __name__: str
    __qualname__: str
    namespace: str
    """The namespace of its keys."""

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of a call, for the methods of :class:`CacheManager`."""

    def cache_tags(self, *args: P.args, **kwargs: P.kwargs) -> tuple[str, ...]:
        """The tags of a call. Raises TypeError if they are a function of the value."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, bool]:
        """Drop the cached result of a call; False if there was none."""

    def cache_info(self) -> CacheInfo:
        """Hits, misses and size. The size is counted anew: O(keys in memory of the namespace)."""

    def cache_clear(self) -> Coroutine[Any, Any, int]:
        """Drop the results of all calls, in every instance; how many. It scans Redis, as patterns do."""


class CachedFunction(_Cached[P], Protocol[P, R_co]):
    """A function decorated by ``@cached``; a method likewise, bound to the object from which it was taken."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """The cached value for these arguments, or else the function's result, which is then cached."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Run the function and cache its new result; until then, and if it fails, the former one stays."""

    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> CachedFunction[P, R_co]: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], R_co], instance: S, owner: type | None = None, /
    ) -> CachedFunction[Q, R_co]: ...
    @overload  # below @staticmethod
    def __get__(self, instance: object, owner: type | None = None, /) -> CachedFunction[P, R_co]: ...


class CachedPlainFunction(_Cached[P], Protocol[P, R_co]):
    """A plain ``def`` decorated by ``@cached``: its results are kept in this process's memory only."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The cached value for these arguments, or else the function's result, which is then cached."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Run the function and cache its new result."""

    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> CachedPlainFunction[P, R_co]: ...
    @overload
    def __get__(
        self: CachedPlainFunction[Concatenate[S, Q], R_co], instance: S, owner: type | None = None, /
    ) -> CachedPlainFunction[Q, R_co]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> CachedPlainFunction[P, R_co]: ...


class _CachedMethod(functools.partial[Any]):
    """A cached method. When it is bound, its object is the only argument of the partial.

    It is a partial, so that it is called by C code and counts as a coroutine function.
    """

    __module__: str
    on_class = False

    def __get__(self, instance: Any, owner: Any = None) -> _CachedMethod:
        if self.on_class:
            instance = type(instance) if owner is None else owner
        if instance is None or self.args:
            return self
        return _CachedMethod(self.func, instance)

    def cache_key(self, /, *args: Any, **kwargs: Any) -> str:
        found: str = self.func.cache_key(*self.args, *args, **kwargs)  # type: ignore[attr-defined]
        return found

    def cache_tags(self, /, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        found: tuple[str, ...] = self.func.cache_tags(*self.args, *args, **kwargs)  # type: ignore[attr-defined]
        return found

    async def invalidate(self, /, *args: Any, **kwargs: Any) -> bool:
        found: bool = await self.func.invalidate(*self.args, *args, **kwargs)  # type: ignore[attr-defined]
        return found

    async def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        return await self.func.refresh(*self.args, *args, **kwargs)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        # As a bound method has them.
        if self.args and name == "__self__":
            return self.args[0]
        if self.args and name == "__signature__":
            signature = inspect.signature(self.func)
            return signature.replace(parameters=list(signature.parameters.values())[len(self.args) :])
        if name == "__func__":
            return self.func
        if (
            self.args
            and name.startswith("__")
            and name not in ("__name__", "__qualname__", "__annotations__")
        ):
            raise AttributeError(name)
        return getattr(self.func, name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _CachedMethod):
            return NotImplemented
        return self.func is other.func and list(map(id, self.args)) == list(map(id, other.args))

    def __hash__(self) -> int:
        return hash((self.func, *map(id, self.args)))


class _CachedClassMethod(_CachedMethod):
    on_class = True


class _Decorator(Protocol):
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[type[S], P], Awaitable[R]], /
    ) -> Callable[Concatenate[type[S], P], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Awaitable[R]], /
    ) -> CachedFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedPlainFunction[P, R]: ...


@overload
def cached(  # type: ignore[overload-overlap]
    function: Callable[Concatenate[type[S], P], Awaitable[R]], /
) -> Callable[Concatenate[type[S], P], Coroutine[Any, Any, R]]: ...
@overload
def cached(  # type: ignore[overload-overlap]
    function: Callable[P, Awaitable[R]], /
) -> CachedFunction[P, R]: ...
@overload
def cached(function: Callable[P, R], /) -> CachedPlainFunction[P, R]: ...
@overload
def cached(
    key_prefix: str | None = None,
    ttl: Ttl | TtlOf | None = 300,
    namespace: str = DEFAULT_NAMESPACE,
    key: Callable[..., str] | None = None,
    *,
    tags: Tags = (),
    tags_from: TagsFrom | None = None,
    options: LoadOptions = PLAIN,
    lock: bool | None = None,
) -> _Decorator: ...
def cached(
    key_prefix: Any = None,
    ttl: Ttl | TtlOf | None = 300,
    namespace: str = DEFAULT_NAMESPACE,
    key: Callable[..., str] | None = None,
    *,
    tags: Tags = (),
    tags_from: TagsFrom | None = None,
    options: LoadOptions = PLAIN,
    lock: bool | None = None,
) -> Any:
    """Cache what a function returns, None and other falsy values included, for ``ttl``.

    Entries are keyed by the bound arguments, so ``f(1)`` and ``f(user_id=1)`` are one, and ``1`` and
    ``"1"`` two. ``self`` and ``cls`` are left out, so that objects of one class share values; classes that
    inherit the method do not. Where that is wrong, or arguments are no plain data, give ``key``, a function
    of the same arguments, ``self`` included, that returns the key's last part. ``key_prefix`` defaults to
    the function's module and name; what a partial binds is part of the key, too. Without ``key_prefix`` or
    ``key``, a closure or a method of one object shares its values with no other function, since its name
    does not show the values of its enclosing variables. Concurrent calls run the function once.

    ``ttl``, ``options`` and ``lock`` are those of :meth:`CacheManager.get_or_load`. ``tags`` are texts with
    names of arguments in braces (``"user:{user_id}"``, ``"team:{user.team}"``), or a function of the result;
    ``tags_from`` is a function of the arguments that returns tags. While the cache is off, the function is
    just called. ``@cached`` without parentheses takes every default. It can stand above or below
    ``@classmethod``. Below, from Python 3.13 on, ``cache_key`` and the like take the class as their first
    argument.

    The decorated function is a :class:`CachedFunction`, whose methods are for calls on its object if it is a
    bound method. A plain ``def`` becomes a :class:`CachedPlainFunction`: its results stay in this process's
    memory, since Redis has to be awaited, and are cached in the thread that enabled the cache; in other
    threads the function is just called. Raises TypeError for generators, classes and what else is no
    function.
    """
    if callable(key_prefix) or isinstance(key_prefix, classmethod | staticmethod):
        return cached()(key_prefix)
    if ttl is not None:
        ttl = valid_ttl_or_function("ttl", ttl)
    valid_name(namespace, "namespace")
    if key_prefix is not None:
        valid_name(key_prefix, "key_prefix")
    if key is not None and not callable(key):
        raise invalid("key", key, "a function of the arguments that returns a string")
    if callable(tags) and tags_from is not None:
        raise invalid("tags_from", tags_from, "None, since tags is a function of the value")

    if lock is not None:
        options = replace(options, lock=lock)

    def decorate(given: Any) -> Any:
        if isinstance(given, staticmethod):
            return staticmethod(decorate(given.__func__))
        on_class = isinstance(given, classmethod)
        function = given.__func__ if on_class else given
        awaited = is_async("cached", function)
        if not (
            inspect.isroutine(function)
            or isinstance(function, functools.partial)
            or inspect.iscoroutinefunction(function)
        ):
            function = function.__call__
        if not awaited:
            _check_plain(options)
        keys = key_maker(function, key_prefix, key, on_class=on_class)
        of_call = tags if callable(tags) else call_tags("cached", function, tags, tags_from)
        call = Calls(function, keys, ttl, namespace, of_call, options, by_value=callable(tags))
        caching = _caching(call) if awaited else _caching_plain(call)
        call.attach_to(caching, awaited)
        if not on_class and not _is_method(function):
            return caching
        method = (_CachedClassMethod if on_class else _CachedMethod)(caching)
        return functools.update_wrapper(method, function)

    return decorate


def _check_plain(options: LoadOptions) -> None:
    for name in ("stale_ttl", "early_refresh", "soft_timeout", "hard_timeout", "lock"):
        if getattr(options, name):
            raise invalid(name, getattr(options, name), "none for a plain def; make it an async def")


def _is_method(function: Any) -> bool:
    """Whether a function stands in a class and takes its object or class."""
    scope = getattr(function, "__qualname__", "").rpartition(".")[0]
    if not inspect.isfunction(function) or not scope or scope.endswith("<locals>"):
        return False
    return next(iter(inspect.signature(function).parameters), None) in ("self", "cls")


def _caching(call: Calls) -> Any:
    function, key_of, namespace, counts = call.function, call.keys.key_of, call.namespace, call.counts
    plain = call.options is PLAIN

    @functools.wraps(function)
    async def caching(*args: Any, **kwargs: Any) -> Any:
        cache: CacheManager = _instance() or CacheManager.get_instance()
        if not cache._enabled:
            cache._used_while_off()
            return await function(*args, **kwargs)
        at = key_of(args, kwargs)
        if plain:
            # inlined: the hit of CacheManager.get, which costs half of what it would through calls
            entry = cache._spaces.get(namespace, _NOTHING).get(at)
            if entry is not None and entry.expires_at > cache._now():
                counts.hits += 1
                if entry.frequency < MAX_FREQUENCY:
                    entry.frequency += 1
                cache._counters.l1_hits += 1
                thaw = entry.thaw
                return entry.value if thaw is None else thaw(entry.value)
        run = Run(call, args, kwargs)
        found = await cache.get_or_load(
            at, run, call.ttl, namespace, tags=call.tags_of(args, kwargs), options=call.options
        )
        if not run.begun:
            counts.hits += 1
        return found

    return caching


def _caching_plain(call: Calls) -> Any:
    function, key_of, namespace = call.function, call.keys.key_of, call.namespace

    @functools.wraps(function)
    def caching(*args: Any, **kwargs: Any) -> Any:
        cache: CacheManager = _instance() or CacheManager.get_instance()
        if not cache._enabled:
            cache._used_while_off()
            return function(*args, **kwargs)
        if get_ident() != cache._thread:
            return function(*args, **kwargs)  # L1 belongs to one thread
        at = key_of(args, kwargs)
        found = cache.get_local(at, namespace, ABSENT)
        if found is ABSENT:
            return call.load_now(cache, at, args, kwargs)
        call.counts.hits += 1
        return found

    return caching


_NOTHING: dict[Any, Any] = {}
# get_instance without a call, which would cost a tenth of a hit.
_instance: Callable[[], Any] = functools.partial(CacheManager._instances.get, CacheManager)

__all__ = [
    "LONGEST_INT",
    "LONGEST_READABLE",
    "CacheInfo",
    "CachedFunction",
    "CachedPlainFunction",
    "cached",
]
