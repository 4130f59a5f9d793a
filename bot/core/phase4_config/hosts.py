"""The settings of a host, as it keeps them: a class, a module, an object or a dict (pure)."""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping
from typing import Any

from bot.core.phase4_config.errors import ConfigError


def values_of(host: Any, wanted: Collection[str]) -> tuple[dict[str, Any], set[str], list[str]]:
    """What ``host`` has under the names ``wanted``; its other names in upper case; what cannot be read.

    Attributes of a class may be inherited. Nothing of the host is called: a property or a method is not
    read, and the third part names it. Raises ConfigError for what can hold no settings.
    """
    if isinstance(host, Mapping):
        attributes = {name: value for name, value in host.items() if isinstance(name, str)}
    else:
        attributes = _attributes(host)
    found: dict[str, Any] = {}
    others: set[str] = set()
    unread: list[str] = []
    for name, value in attributes.items():
        if name not in wanted:
            if name.isupper():
                others.add(name)
        elif _is_code(value):
            unread.append(name)
        else:
            found[name] = value
    return found, others, unread


def name_of(host: Any) -> str:
    """What a host is called in messages."""
    if isinstance(host, Mapping):
        return "from_host"
    if isinstance(host, types.ModuleType):
        return host.__name__
    return host.__qualname__ if isinstance(host, type) else type(host).__qualname__


def _attributes(host: Any) -> dict[str, Any]:
    if isinstance(host, types.ModuleType):
        return dict(vars(host))
    if host is None or isinstance(host, str | bytes | int | float | list | tuple | set):
        raise ConfigError(
            f"from_host = {type(host).__name__}: expected a class, a module or an object with settings as "
            "attributes, or a dict of settings"
        )
    kind = host if isinstance(host, type) else type(host)
    found: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        found |= vars(each)
    if kind is host:
        return found
    for name, value in found.items():
        if isinstance(value, types.MemberDescriptorType):  # a slot, whose value no code of the host gives
            try:
                found[name] = value.__get__(host, kind)
            except AttributeError:
                found[name] = None  # not set
    return found | getattr(host, "__dict__", {})


def _is_code(value: Any) -> bool:
    return not isinstance(value, type) and (callable(value) or hasattr(type(value), "__get__"))
