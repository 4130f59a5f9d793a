"""Hooks: functions that hear what happens in a cache."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Any, NamedTuple

from bot.core._shared.errors import invalid, shown
from bot.core._shared.masking import masked_traceback, one_line

logger = logging.getLogger(__name__)

KINDS = ("hit", "miss", "set", "invalidate", "evict", "load", "error")

MAX_PENDING = 100_000
"""Events that wait to be told. If there are more in one turn of the event loop, the oldest are lost."""


class CacheEvent(NamedTuple):
    """Something that happened in a cache."""

    kind: str
    """hit, miss, set, invalidate, evict, load or error."""

    namespace: str | None = None
    """None: of a ``get`` without a namespace, of tags, of all namespaces, or of Redis as a whole."""

    key: str | None = None
    """As it is stored, see :class:`CacheManager`; None for what is not about one key."""

    pattern: str | None = None
    """What ``invalidate_pattern`` dropped; ``*`` of ``clear``."""

    tags: tuple[str, ...] = ()
    """What ``invalidate_tags`` dropped."""

    seconds: float | None = None
    """How long a load took."""

    error: BaseException | None = None
    """Why a load failed, or what Redis answered."""


class _Hook:
    """One callback, and whether it has failed, which is logged once."""

    __slots__ = ("callback", "failed")

    def __init__(self, callback: Callable[[CacheEvent], object]) -> None:
        self.callback = callback
        self.failed = False


class Hooks:
    """The callbacks of one cache, by kind of event.

    An event is told in the next turn of the event loop, so a callback runs while the cache changes nothing,
    may use it, and what it raises reaches no user of the cache.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        """``on_change`` is called when a callback was added or removed."""
        self._on_change = on_change
        self.by_kind: dict[str, list[_Hook]] = {}
        """No kind without hooks. Changed only by on, and by what it returns."""
        self._pending: deque[CacheEvent] = deque(maxlen=MAX_PENDING)
        # The loop that will tell them. Changed only by tell and _deliver.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._delivering = False

    def on(self, kind: str, callback: Callable[[CacheEvent], object]) -> Callable[[], None]:
        """Call ``callback`` with each event of a kind; returns a function that ends this."""
        if kind not in KINDS:
            raise invalid("event", kind, "one of " + ", ".join(KINDS))
        if not callable(callback):
            raise invalid("callback", callback, "a function of a CacheEvent")
        if inspect.iscoroutinefunction(callback) or inspect.isasyncgenfunction(callback):
            raise TypeError(
                f"callback = {shown(callback)}: expected a plain function, which may start a task, "
                "and is not awaited"
            )
        hook = _Hook(callback)
        self.by_kind.setdefault(kind, []).append(hook)
        self._on_change()

        def off() -> None:
            hooks = self.by_kind.get(kind, [])
            if hook in hooks:
                hooks.remove(hook)
                if not hooks:
                    del self.by_kind[kind]
                self._on_change()

        return off

    def tell(
        self,
        kind: str,
        namespace: str | None = None,
        key: str | None = None,
        *,
        pattern: str | None = None,
        tags: tuple[str, ...] = (),
        seconds: float | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Tell an event soon, if anybody listens. What callbacks do themselves is no event."""
        if kind not in self.by_kind or self._delivering:
            return
        self._pending.append(CacheEvent(kind, namespace, key, pattern, tags, seconds, error))
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # told together with the next event under a loop
        if loop is not self._loop:
            self._loop = loop
            # In a context of its own, so that a callback is part of no load and of no bypass.
            loop.call_soon(self._deliver, context=Context())

    def tell_each(self, kind: str, namespace: str, keys: Iterable[str]) -> None:
        """Tell an event of each of several keys."""
        if kind in self.by_kind:
            for key in keys:
                self.tell(kind, namespace, key)

    def _deliver(self) -> None:
        self._loop = None
        events = list(self._pending)
        self._pending.clear()
        self._delivering = True
        try:
            for event in events:
                for hook in tuple(self.by_kind.get(event.kind, ())):
                    self._call(hook, event)
        finally:
            self._delivering = False

    def _call(self, hook: _Hook, event: CacheEvent) -> None:
        try:
            result: Any = hook.callback(event)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("it returned a coroutine, which is not awaited; start a task instead")
        except Exception as error:
            if not hook.failed:
                hook.failed = True
                logger.error(
                    "A callback for the cache's event %s failed (this is logged once): %s\n%s",
                    one_line(event.kind),
                    one_line(shown(hook.callback), 200),
                    masked_traceback(error),
                )
