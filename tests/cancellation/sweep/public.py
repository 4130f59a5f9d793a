"""The public awaitables of the library, found by looking at it."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

PACKAGES = (
    "bot.core.cache_manager",
    "bot.core.query_optimizer",
    "bot.core.connection_pool_manager",
    "bot.core.rate_limiter",
    "bot.core.batch_processor",
    "bot.core.load_balancer",
    "bot.core.outbound",
    "bot.core.enhanced_startup_phase4",
    "bot.integrations.aiogram",
    "bot.integrations.ptb",
    "bot.integrations.pyrogram",
    "bot.integrations.inbound",
)

REACHED = {
    # What public calls return or are entered as; their own awaits are public, too.
    "Lock": "bot.core.cache_manager.locking",
    "LeaseContext": "bot.core.connection_pool_manager.lease_context",
    "TransactionContext": "bot.core.connection_pool_manager.sql_calls",
    "Notifications": "bot.core.connection_pool_manager.listening",
    "SlotContext": "bot.core.rate_limiter.slots",
    "TransactionScope": "bot.core.query_optimizer.execution.transactions",
    "CachedCollection": "bot.core.query_optimizer.mongodb.collection",
    "CachedCursor": "bot.core.query_optimizer.mongodb.cursors",
    "CachedAggregation": "bot.core.query_optimizer.mongodb.cursors",
}

_SPECIAL = ("__call__", "__await__", "__aenter__", "__aexit__", "__anext__")

_AWAITED = re.compile(
    rf"Awaitable|Coroutine|Future|AsyncIterator|AsyncGenerator|\bTask\b|\b({'|'.join(REACHED)})\b"
)
"""Return types of plain functions whose results are awaited, entered or iterated over."""


def _is_awaited(function: Any) -> bool:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return True
    # Of a decorator it is what the decorated function returns: those are named with the decorators.
    returned = str(getattr(function, "__annotations__", {}).get("return", ""))
    return not returned.startswith("Callable") and bool(_AWAITED.search(returned))


def _of_class(kind: type) -> Iterator[str]:
    for name in dir(kind):
        if name.startswith("_") and name not in _SPECIAL:
            continue
        found = inspect.getattr_static(kind, name)
        function = getattr(found, "__func__", found)
        if inspect.isfunction(function) and not function.__module__.startswith("bot."):
            continue
        if not inspect.isfunction(function):
            continue
        if name in ("__await__", "__aenter__", "__aexit__", "__anext__") or _is_awaited(function):
            yield f"{kind.__name__}.{name}"


def _of_module(module: ModuleType) -> Iterator[str]:
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    for name in names:
        found = getattr(module, name)
        if not getattr(found, "__module__", "").startswith("bot."):
            continue
        if inspect.isclass(found):
            yield from _of_class(found)
        elif inspect.isfunction(found) and _is_awaited(found):
            yield name


def public_awaitables() -> set[str]:
    """``Class.method`` and ``function`` of all that is awaited, entered or iterated over by a bot's code."""
    found = {name for package in PACKAGES for name in _of_module(importlib.import_module(package))}
    for name, module in REACHED.items():
        found.update(_of_class(getattr(importlib.import_module(module), name)))
    return found
