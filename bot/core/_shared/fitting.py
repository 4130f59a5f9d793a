"""Whether a value fits an annotation, as a type checker would say (pure).

Nothing is converted. What else an annotation may say (protocols, callables, names that cannot be found) is
not looked at.
"""

from __future__ import annotations

import types
import typing
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec


def field_types(kind: type) -> dict[str, Any]:
    """The annotations of a class by name; those of a class that names what cannot be found are left out."""
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except Exception:
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that an annotation means; True where it cannot be told."""
    if hint is Any or hint is object:
        return True
    if hint is None:
        return value is None
    origin = typing.get_origin(hint)
    if origin is None:
        return _is_instance(value, hint)
    arguments = typing.get_args(hint)
    if origin is typing.Annotated:
        return fits(value, arguments[0]) and all(_within(value, note) for note in arguments[1:])
    if origin is typing.Union or origin is types.UnionType:
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin is typing.Final:
        return fits(value, arguments[0])
    if not isinstance(origin, type):
        return True
    if hint == tuple[()]:
        return isinstance(value, tuple) and not value
    return _is_instance(value, origin) and _parts_fit(value, arguments)


def _is_instance(value: Any, hint: Any) -> bool:
    if isinstance(hint, typing.NewType):
        return fits(value, hint.__supertype__)
    if not isinstance(hint, type):
        alias = getattr(hint, "__value__", None)  # type X = ...
        return True if alias is None else fits(value, alias)
    if hint is float or hint is complex:
        return isinstance(value, hint | int | float) and not isinstance(value, bool)
    if typing.is_typeddict(hint):
        return isinstance(value, dict)
    try:
        return isinstance(value, hint)
    except TypeError:  # a protocol, say
        return True


def _parts_fit(value: Any, arguments: tuple[Any, ...]) -> bool:
    if not arguments:
        return True
    if isinstance(value, tuple):
        if hasattr(value, "_fields"):
            return True
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(fits(part, arguments[0]) for part in value)
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if isinstance(value, Mapping) and len(arguments) == 2:
        return all(fits(key, arguments[0]) and fits(part, arguments[1]) for key, part in value.items())
    if isinstance(value, list | set | frozenset | deque) and len(arguments) == 1:
        return all(fits(part, arguments[0]) for part in value)
    return True


def _within(value: Any, note: Any) -> bool:
    """Whether a number or text is within the bounds of a ``msgspec.Meta``."""
    if not isinstance(note, msgspec.Meta) or type(value) not in (int, float, str, bytes):
        return True
    try:
        msgspec.convert(value, typing.Annotated[type(value), note])
    except msgspec.ValidationError:
        return False
    except TypeError:  # bounds that belong to another type of a union
        return True
    return True
