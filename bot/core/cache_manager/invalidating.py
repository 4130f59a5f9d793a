"""``@invalidate``: a function that changes something, and what it drops from the cache."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

from bot.core._shared.errors import invalid
from bot.core._shared.tasks import to_the_end
from bot.core.cache_manager.call_tags import TagsFrom, TagsOfCall, call_tags
from bot.core.cache_manager.callables import is_async, signature_of
from bot.core.cache_manager.keys import compile_glob, valid_name
from bot.core.cache_manager.models import DEFAULT_NAMESPACE
from bot.core.cache_manager.service import CacheManager

P = ParamSpec("P")
R = TypeVar("R")

_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class _CachedCall(NamedTuple):
    """A cached function, and which arguments of the changing function it gets."""

    function: Any
    by_position: tuple[str, ...]
    by_name: tuple[str, ...]

    def key(self, arguments: Mapping[str, Any]) -> str:
        found: str = self.function.cache_key(
            *[arguments[name] for name in self.by_position],
            **{name: arguments[name] for name in self.by_name},
        )
        return found


class _Drops(NamedTuple):
    """What calls of a function drop."""

    tags: tuple[str, ...] | TagsOfCall
    cached: tuple[_CachedCall, ...]
    patterns: tuple[str, ...]
    namespace: str
    namespaces: tuple[str, ...]
    signature: inspect.Signature

    def of_call(self, cache: CacheManager, args: Any, kwargs: Any) -> Callable[[], Coroutine[Any, Any, None]]:
        """What one call drops, found before it runs: it may change its arguments, or refuse them."""
        tags = self.tags(args, kwargs) if callable(self.tags) else self.tags
        keys: list[tuple[str, str]] = []
        if self.cached:
            bound = self.signature.bind(*args, **kwargs)
            bound.apply_defaults()
            keys = [(one.key(bound.arguments), one.function.namespace) for one in self.cached]

        async def drop() -> None:
            # Together, so that all of it is dropped from memory before any of it waits for Redis.
            await asyncio.gather(
                *[cache.delete(key, namespace) for key, namespace in keys],
                *([cache.invalidate_tags(tags)] if tags else []),
                *[cache.invalidate_pattern(pattern, self.namespace) for pattern in self.patterns],
                *[cache.clear(namespace) for namespace in self.namespaces],
            )

        return drop


def invalidate(
    *,
    tags: Sequence[str] = (),
    tags_from: TagsFrom | None = None,
    function: Any = (),
    patterns: Sequence[str] = (),
    namespace: str = DEFAULT_NAMESPACE,
    namespaces: Sequence[str] = (),
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """Drop cached values whenever an ``async def`` that changes them has run.

    - ``tags``: texts with names of its arguments in braces (``"user:{user_id}"``), as for :func:`cached`;
      ``tags_from``: a function of its arguments that returns tags.
    - ``function``: a cached function, or several: the result of the call whose arguments have the same names
      and values. Its other parameters must have defaults.
    - ``patterns``: globs of keys in ``namespace``. They are read from Redis key by key: prefer tags.
    - ``namespaces``: dropped as a whole.

    The values are dropped when the function has ended, also by an error or a cancellation, since it may have
    made its change all the same. A load that began before that is not cached. The caller of a function that
    was cancelled is told after the values are dropped. Raises InvalidArgumentError or TypeError where it is
    written: for a tag or a cached function that the arguments do not determine, and for what is no async
    function. A call with arguments that have no text or key raises TypeError before the function runs. While
    the cache is off, the function is just called; if it is on when the function ends, values are dropped.
    """
    functions = tuple(function) if isinstance(function, list | tuple) else (function,)
    for one in functions:
        if not callable(getattr(one, "cache_key", None)) or not hasattr(one, "namespace"):
            raise invalid("function", one, "a function decorated by @cached, or a list of them")
    patterns, namespaces = _names("patterns", patterns), _names("namespaces", namespaces)
    for pattern in patterns:
        compile_glob(pattern)
    valid_name(namespace, "namespace")
    if callable(tags):
        raise invalid("tags", tags, "a sequence of tags; a function of the arguments is given as tags_from")
    if not (tags or tags_from or functions or patterns or namespaces):
        raise TypeError("invalidate: expected tags, tags_from, function, patterns or namespaces")

    def decorate(given: Any) -> Any:
        if isinstance(given, staticmethod | classmethod):
            return type(given)(decorate(given.__func__))
        if not is_async("invalidate", given):
            raise TypeError(
                f"invalidate: {given!r} is not an async function, and dropping values must be awaited"
            )
        signature = signature_of("invalidate", given)
        drops = _Drops(
            call_tags("invalidate", given, tags, tags_from),
            tuple([_call_of(one, signature) for one in functions]),
            patterns,
            namespace,
            namespaces,
            signature,
        )
        return _invalidating(given, drops)

    return decorate


def _invalidating(function: Callable[..., Any], drops: _Drops) -> Any:
    async def invalidating(*args: Any, **kwargs: Any) -> Any:
        cache = CacheManager.get_instance()
        if not cache.enabled:
            cache._used_while_off()

            async def drop() -> None:
                if cache.enabled:  # by now, and reads may have been cached since
                    await drops.of_call(cache, args, kwargs)()

        else:
            drop = drops.of_call(cache, args, kwargs)
        try:
            result = await function(*args, **kwargs)
        except GeneratorExit:
            raise  # the coroutine is closed, and cannot await
        except BaseException:
            await to_the_end(drop())
            raise
        await to_the_end(drop())
        return result

    return functools.update_wrapper(invalidating, function)


def _names(name: str, given: Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise invalid(name, given, "a sequence of strings")
    return tuple([valid_name(one, name) for one in given])


def _call_of(cached: Any, signature: inspect.Signature) -> _CachedCall:
    """How a cached function's arguments are found among those of the function with ``signature``."""
    by_position: list[str] = []
    by_name: list[str] = []
    skipped = False
    given = {name for name, one in signature.parameters.items() if one.kind not in _ANY_NUMBER}
    for name, parameter in inspect.signature(cached).parameters.items():
        if parameter.kind in _ANY_NUMBER:
            raise invalid("function", cached, f"no *{name}, whose values cannot be known; use tags")
        positional_only = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        if name in given and positional_only and skipped:
            raise invalid("function", cached, f"also what stands before {name}; use tags")
        if name not in given:
            skipped = True
            if parameter.default is inspect.Parameter.empty:
                names = ", ".join(given) or "none"
                raise invalid(
                    "function", cached, f"arguments of the decorated function ({names}), not {name}; use tags"
                )
        elif positional_only or (parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and not skipped):
            by_position.append(name)
        else:
            by_name.append(name)
    return _CachedCall(cached, tuple(by_position), tuple(by_name))
