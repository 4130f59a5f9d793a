"""Commands on single keys: exists, ttl, touch, incr and add."""

from __future__ import annotations

from typing import Any

from bot.core._shared.errors import invalid
from bot.core._shared.isolation import freeze
from bot.core.cache_manager.errors import NotAnIntegerError
from bot.core.cache_manager.keys import valid_key, valid_name
from bot.core.cache_manager.models import DEFAULT_NAMESPACE
from bot.core.cache_manager.tiers import Tiers
from bot.core.cache_manager.ttls import FOREVER_SECONDS, Ttl, valid_ttl
from bot.core.phase4_config import CacheManagerSettings
from bot.core.phase4_service import Phase4Service

LARGEST_COUNT = 2**53 - 1
"""The largest integer that ``incr`` counts to, up and down: Lua's numbers hold no larger ones exactly."""

_FOREVER = FOREVER_SECONDS / 2


class KeyCommands(Phase4Service):
    """Commands on single keys. Those that change something are atomic over all instances.

    While Redis is unreachable or refuses, they are decided in this process's memory alone, and what was
    decided there is forgotten when Redis is back.
    """

    _tiers: Tiers
    _settings: CacheManagerSettings

    async def exists(self, key: str, namespace: str = DEFAULT_NAMESPACE) -> bool:
        """Whether ``get`` would find a value. It counts as no hit, no miss and no read."""
        left = await self.ttl(key, namespace)
        return left is None or left > 0

    async def ttl(self, key: str, namespace: str = DEFAULT_NAMESPACE) -> float | None:
        """Seconds that the value has left; None if it stays for ever, 0.0 if there is no value."""
        key = self._valid(key, namespace)
        if not self._enabled:
            self._used_while_off()
            return 0.0
        tiers = self._tiers
        left: float | None = tiers.local.expires_in(namespace, key) if tiers.trusted else 0.0
        if not left and tiers.shared is not None:
            left = await tiers.shared.keys.expires_in(namespace, key)
            if left is None:
                left = tiers.local.expires_in(namespace, key)
        return None if left and left > _FOREVER else left

    async def touch(self, key: str, ttl: Ttl, namespace: str = DEFAULT_NAMESPACE) -> bool:
        """Let a value live for ``ttl`` seconds from now on, with its tags; False if there is none."""
        key = self._valid(key, namespace)
        seconds = valid_ttl("ttl", ttl)
        if not self._enabled:
            self._used_while_off()
            return False
        shared = self._tiers.shared
        if shared is not None:
            answer = await shared.keys.touch(namespace, key, seconds)
            if answer is not None and (answer.kind == "done" or not self._tiers.trusted):
                return answer.kind == "done"
            # Otherwise it may be a value that Redis cannot carry.
        return self._tiers.local.touch(namespace, key, seconds)

    async def incr(
        self, key: str, by: int = 1, namespace: str = DEFAULT_NAMESPACE, ttl: Ttl | None = None
    ) -> int:
        """Add ``by``, which may be negative, to the integer under a key; returns the sum.

        A key without a value counts as 0 and gets ``ttl`` (None: the configured one). A key with a value
        keeps its own ttl and tags: a window that is counted ends when it was to end. The sum is from
        -(2**53 - 1) to 2**53 - 1. Raises NotAnIntegerError, a TypeError, if there is another value, and
        InvalidArgumentError for a sum out of bounds; the value stays then. While the cache is off, the
        answer is ``by``.
        """
        key = self._valid(key, namespace)
        if isinstance(by, bool) or not isinstance(by, int) or not -LARGEST_COUNT <= by <= LARGEST_COUNT:
            raise invalid("by", by, f"a whole number from -{LARGEST_COUNT:,} to {LARGEST_COUNT:,}")
        by = int(by)
        seconds = self._settings.default_ttl if ttl is None else valid_ttl("ttl", ttl)
        if not self._enabled:
            self._used_while_off()
            return by
        shared = self._tiers.shared
        if shared is not None:
            answer = await shared.keys.incr(namespace, key, by, seconds)
            if answer is not None:
                if answer.kind == "type":
                    raise NotAnIntegerError(
                        f"incr: the value of {key[:100]!r} in {namespace!r} is no integer"
                    )
                if answer.kind == "bound":
                    raise _out_of_bounds(by, answer.number)
                return answer.number
        local = self._tiers.local
        now = local.value(namespace, key, 0)
        if type(now) is not int:
            raise _no_integer(key, namespace)
        if not -LARGEST_COUNT <= now + by <= LARGEST_COUNT or not -LARGEST_COUNT <= now <= LARGEST_COUNT:
            raise _out_of_bounds(by, now)
        local.replace(namespace, key, freeze(now + by), seconds)
        return now + by

    async def add(
        self, key: str, value: Any, ttl: Ttl | None = None, namespace: str = DEFAULT_NAMESPACE
    ) -> bool:
        """:meth:`set`, if there is no value yet; True for the one caller, of all instances, that stored it.

        Raises UnsupportedValueError for a value that Redis cannot carry, since then it could not be the
        only one. While the cache is off, every caller gets True.
        """
        key = self._valid(key, namespace)
        seconds = self._settings.default_ttl if ttl is None else valid_ttl("ttl", ttl)
        if not self._enabled:
            self._used_while_off()
            return True
        local, shared = self._tiers.local, self._tiers.shared
        if shared is not None:
            payload, kept = await shared.to_be_added(value)
            answer = None if shared.left else await shared.keys.add(namespace, key, payload, kept, seconds)
            if answer is not None:
                return answer.kind == "done"
        else:
            kept = freeze(value)
        if local.expires_in(namespace, key):
            return False
        local.store(namespace, key, kept, seconds)
        return True

    def _valid(self, key: str, namespace: str) -> str:
        valid_name(namespace, "namespace")
        return valid_key(key)


def _no_integer(key: str, namespace: str) -> Exception:
    return NotAnIntegerError(f"incr: the value of {key[:100]!r} in {namespace!r} is no integer")


def _out_of_bounds(by: int, now: int) -> Exception:
    allowed = f"one that leaves the value, which is {now:,}, from -{LARGEST_COUNT:,} to {LARGEST_COUNT:,}"
    return invalid("by", by, allowed)
