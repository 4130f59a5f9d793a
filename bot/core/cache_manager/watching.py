"""Calls that are watched, or pass by the cache: hooks for events, and blocks in which nothing is cached."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from bot.core._shared.bounded_store import Entry
from bot.core.cache_manager.events import CacheEvent, Hooks
from bot.core.cache_manager.key_commands import KeyCommands
from bot.core.cache_manager.models import ABSENT, LookUp
from bot.core.cache_manager.shared import SharedTier

_NOTHING: dict[Any, Any] = {}


class _Bypass:
    """One block in which nothing is cached; tasks that it starts inherit it."""

    __slots__ = ("active", "cache", "outer")

    def __init__(self, cache: Watched, outer: _Bypass | None) -> None:
        self.cache = cache
        self.outer = outer
        self.active = True


_BYPASS: ContextVar[_Bypass | None] = ContextVar("phase4_cache_bypass", default=None)


class Watched(KeyCommands):
    """Hooks and bypasses of a cache.

    They cost a hit nothing while there are none: only while there are some, the dicts that hits look into
    are empty ones, so that every look-up goes through :meth:`_watched_find` or :meth:`_watched_local`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hooks = Hooks(self._route)
        # How many bypasses are active, in whatever tasks. Changed only by bypass.
        self._bypasses = 0
        # What hot paths look into, and how they go on. Changed only by _route.
        self._spaces: dict[str, dict[Any, Entry]] = _NOTHING
        self._default: dict[Any, Entry] = _NOTHING
        # The tier to ask after _spaces; None if there is none, or if L1 must first be read in another way.
        self._l2: SharedTier | None = None
        self._find: Callable[..., Coroutine[Any, Any, Any]] = self._watched_find
        self._watched = False
        self._observed = False
        """Whether there are hooks or bypasses at all."""

    def _route(self) -> None:
        tiers, hooks = self._tiers, self._hooks.by_kind
        self._observed = bool(self._bypasses) or bool(hooks)
        watched = self._watched = bool(self._bypasses) or "hit" in hooks or "miss" in hooks
        self._spaces, self._default = (_NOTHING, _NOTHING) if watched else (tiers.spaces, tiers.default)
        self._l2 = None if tiers.lru or watched else tiers.shared
        self._find = self._watched_find if watched else tiers.find
        tiers.local.l1.store.on_evict = self._evicted if "evict" in hooks else None
        if tiers.shared is not None:
            tiers.shared.failures.on_failure = self._redis_failed if "error" in hooks else None

    # Hooks.

    def on(self, event: str, callback: Callable[[CacheEvent], object]) -> Callable[[], None]:
        """Call ``callback`` with a :class:`CacheEvent` each time that something happens; returns a function
        that ends this.

        Events are of what this process does: ``hit`` and ``miss`` (of reads and loads), ``set`` (by ``set``
        and ``set_many``), ``invalidate`` (by ``delete``, tags, patterns and ``clear``), ``evict`` (from
        memory, to make room), ``load`` (a loader has run), ``error`` (a loader or Redis failed).
        ``callback`` is a plain function. It is called in the next turn of the event loop and may use the
        cache; what it does there itself is not told. What it raises is logged once.
        """
        return self._hooks.on(event, callback)

    def _evicted(self, entry: Entry) -> None:
        self._hooks.tell("evict", entry.space, str(entry.key))

    def _redis_failed(self, error: Exception) -> None:
        self._hooks.tell("error", error=error)

    # Bypasses.

    @contextmanager
    def bypass(self) -> Iterator[None]:
        """A block in which nothing is cached: ``with cache.bypass(): ...``

        In this task, and in tasks that it starts, until the block ends: reads miss, loaders and cached
        functions run, each for its caller, and nothing is stored. What ``set`` would replace is dropped, and
        dropping works as usual. Commands on single keys (``incr``, ``add``, ``touch``) act as usual, too.
        Other tasks use the cache as before.
        """
        outer = _BYPASS.get()
        while outer is not None and not outer.active:
            outer = outer.outer
        bypass = _Bypass(self, outer)
        token = _BYPASS.set(bypass)
        self._bypasses += 1
        self._route()
        try:
            yield
        finally:
            bypass.active = False
            self._bypasses -= 1
            self._route()
            with suppress(ValueError):  # it ends in another task than it began, where it is not set
                _BYPASS.reset(token)

    def _bypassed(self) -> bool:
        """Whether the current task is in a bypass of this cache."""
        if not self._bypasses:
            return False
        bypass = _BYPASS.get()
        while bypass is not None:
            if bypass.active and bypass.cache is self:
                return True
            bypass = bypass.outer
        return False

    # Looking up while watched.

    async def _watched_find(
        self, key: str, namespace: str | None, look_up: LookUp | None = None, *, renamed: bool = False
    ) -> Any:
        if self._bypassed():
            return ABSENT
        # As if renamed, so that L1 is looked into: hits have not been.
        found = await self._tiers.find(key, namespace, look_up, renamed=True)
        if self._enabled:
            self._hooks.tell("miss" if found is ABSENT else "hit", namespace, key)
        return found

    def _watched_local(self, key: str, namespace: str | None, default: Any) -> Any:
        tiers = self._tiers
        if not tiers.trusted or self._bypassed():
            return default
        found = tiers.local.find(key, self._tiers.local.used if namespace is None else (namespace,))
        if found is ABSENT:
            return default
        self._hooks.tell("hit", namespace, key)
        return found
