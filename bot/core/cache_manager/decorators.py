"""``@cached``: a function's results, cached by its arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from bot.core._shared.bounded_store import MAX_FREQUENCY
from bot.core._shared.errors import invalid
from bot.core.cache_manager.call_keys import LONGEST_INT, LONGEST_READABLE, KeyOf, key_maker
from bot.core.cache_manager.keys import valid_name
from bot.core.cache_manager.models import DEFAULT_NAMESPACE, PLAIN, LoadOptions, Tags
from bot.core.cache_manager.service import CacheManager
from bot.core.cache_manager.ttls import Ttl, TtlOf, valid_ttl_or_function

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")


class CachedFunction(Protocol[P, R_co]):
    """A function decorated by ``@cached``; a method likewise, bound to the object from which it was taken."""

    __name__: str
    __qualname__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """The cached value for these arguments, or else the function's result, which is then cached."""

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of a call, for the methods of :class:`CacheManager`."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, bool]:
        """Drop the cached result of a call; False if there was none."""

    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> CachedFunction[P, R_co]: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], R_co], instance: S, owner: type | None = None, /
    ) -> CachedFunction[Q, R_co]: ...
    @overload  # below @staticmethod
    def __get__(self, instance: object, owner: type | None = None, /) -> CachedFunction[P, R_co]: ...


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

    def cache_key(self, *args: Any, **kwargs: Any) -> str:
        found: str = self.func.cache_key(*self.args, *args, **kwargs)  # type: ignore[attr-defined]
        return found

    async def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        found: bool = await self.func.invalidate(*self.args, *args, **kwargs)  # type: ignore[attr-defined]
        return found

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
    def __call__(
        self, function: Callable[Concatenate[type[S], P], Awaitable[R]], /
    ) -> Callable[Concatenate[type[S], P], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> CachedFunction[P, R]: ...


@overload
def cached(
    function: Callable[Concatenate[type[S], P], Awaitable[R]], /
) -> Callable[Concatenate[type[S], P], Coroutine[Any, Any, R]]: ...
@overload
def cached(function: Callable[P, Awaitable[R]], /) -> CachedFunction[P, R]: ...
@overload
def cached(
    key_prefix: str | None = None,
    ttl: Ttl | TtlOf | None = 300,
    namespace: str = DEFAULT_NAMESPACE,
    key: Callable[..., str] | None = None,
    *,
    tags: Tags = (),
    options: LoadOptions = PLAIN,
) -> _Decorator: ...
def cached(
    key_prefix: Any = None,
    ttl: Ttl | TtlOf | None = 300,
    namespace: str = DEFAULT_NAMESPACE,
    key: Callable[..., str] | None = None,
    *,
    tags: Tags = (),
    options: LoadOptions = PLAIN,
) -> Any:
    """Cache what an ``async def`` returns, None and other falsy values included, for ``ttl`` seconds.

    Entries are keyed by the bound arguments, so ``f(1)`` and ``f(user_id=1)`` are one, and ``1`` and
    ``"1"`` two. ``self`` and ``cls`` are left out, so that objects of one class share values; classes that
    inherit the method do not. Where that is wrong, or arguments are no plain data, give ``key``, a function
    of the same arguments, ``self`` included, that returns the key's last part. ``key_prefix`` defaults to
    the function's module and name; what a partial binds is part of the key, too. Without ``key_prefix`` or
    ``key``, a closure or a method of one object shares its values with no other function, since its name
    does not show the values of its enclosing variables. Concurrent calls run the function once. ``tags``
    and ``options`` are those of :meth:`CacheManager.get_or_load`. While the cache is off, the function is
    just called. ``@cached`` without parentheses takes every default. It can stand above or below
    ``@classmethod``. Below, from Python 3.13 on, ``cache_key`` and ``invalidate`` take the class as their
    first argument.

    The decorated function is a coroutine function and has ``cache_key(*args, **kwargs)`` and ``await
    invalidate(*args, **kwargs)``; those of a bound method are for calls on its object.
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

    def decorate(given: Any) -> Any:
        if isinstance(given, staticmethod):
            return staticmethod(decorate(given.__func__))
        on_class = isinstance(given, classmethod)
        function = given.__func__ if on_class else given
        if not inspect.iscoroutinefunction(function):
            if not inspect.iscoroutinefunction(getattr(type(function), "__call__", None)):  # noqa: B004
                raise TypeError(f"cached: {function!r} is not an async function")
            function = function.__call__
        key_of = key_maker(function, key_prefix, key, on_class=on_class)
        caching = _caching(function, key_of, ttl, namespace, tags, options)
        if not on_class and not _is_method(function):
            return caching
        method = (_CachedClassMethod if on_class else _CachedMethod)(caching)
        return functools.update_wrapper(method, function)

    return decorate


def _is_method(function: Any) -> bool:
    """Whether a function stands in a class and takes its object or class."""
    scope = getattr(function, "__qualname__", "").rpartition(".")[0]
    if not inspect.isfunction(function) or not scope or scope.endswith("<locals>"):
        return False
    return next(iter(inspect.signature(function).parameters), None) in ("self", "cls")


def _caching(
    function: Callable[..., Any],
    key_of: KeyOf,
    ttl: Ttl | TtlOf | None,
    namespace: str,
    tags: Tags,
    options: LoadOptions,
) -> Any:
    plain = options is PLAIN

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
                if entry.frequency < MAX_FREQUENCY:
                    entry.frequency += 1
                cache._counters.l1_hits += 1
                thaw = entry.thaw
                return entry.value if thaw is None else thaw(entry.value)
        return await cache.get_or_load(
            at, lambda: function(*args, **kwargs), ttl, namespace, tags=tags, options=options
        )

    async def invalidate(*args: Any, **kwargs: Any) -> bool:
        return await CacheManager.get_instance().delete(key_of(args, kwargs), namespace)

    caching.cache_key = lambda *args, **kwargs: key_of(args, kwargs)  # type: ignore[attr-defined]
    caching.invalidate = invalidate  # type: ignore[attr-defined]
    return caching


_NOTHING: dict[Any, Any] = {}
# get_instance without a call, which would cost a tenth of a hit.
_instance: Callable[[], Any] = functools.partial(CacheManager._instances.get, CacheManager)

__all__ = ["LONGEST_INT", "LONGEST_READABLE", "CachedFunction", "cached"]
