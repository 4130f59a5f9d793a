"""Which functions can be decorated, and as what (pure)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def is_async(decorator: str, function: Any) -> bool:
    """Whether a function is an ``async def``; False for a plain ``def`` that returns its value.

    Raises TypeError, which names ``decorator`` and the function, for a generator, a class, a function that
    only wraps one of another kind, and whatever else is no function.
    """
    if inspect.isclass(function):
        raise TypeError(f"{decorator}: {function!r} is a class; decorate one of its methods, or a function")
    if not callable(function):
        raise TypeError(f"{decorator}: {function!r} is not a function")
    called: Any = function
    if not (inspect.isroutine(function) or isinstance(function, functools.partial)):
        called = getattr(type(function), "__call__")  # noqa: B004, B009  # an object that can be called
    _refuse_generators(decorator, function, called, "is")
    if inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(function):
        return True
    inside = inspect.unwrap(called)
    if inside is not called:
        _refuse_generators(decorator, function, inside, "wraps")
        if inspect.iscoroutinefunction(inside):
            raise TypeError(
                f"{decorator}: {function!r} is not an async function, but wraps one; make the wrapper an "
                f"async def, or put @{decorator} below it"
            )
    signature_of(decorator, function)
    return False


def _refuse_generators(decorator: str, function: Any, code: Any, how: str) -> None:
    if inspect.isasyncgenfunction(code):
        kind = "an async generator"
    elif inspect.isgeneratorfunction(code):
        kind = "a generator"
    else:
        return
    raise TypeError(
        f"{decorator}: {function!r} {how} {kind}, which gives its values one at a time and only once; "
        "return a list instead"
    )


def signature_of(decorator: str, function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function; raises TypeError, by its name, for one that has none."""
    try:
        return inspect.signature(function)
    except ValueError as error:
        raise TypeError(f"{decorator}: {function!r} has no signature; call it in a def") from error
