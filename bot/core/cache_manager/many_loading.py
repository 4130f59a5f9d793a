"""Loading many keys: one run of the loader for all that are missing, and one load of each key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

from bot.core._shared.errors import invalid
from bot.core._shared.isolation import Frozen
from bot.core.cache_manager.changes import ChangesSince
from bot.core.cache_manager.errors import LoaderTimeoutError
from bot.core.cache_manager.keys import are_stored_as_they_are, valid_key, valid_name
from bot.core.cache_manager.loaded_values import frozen_or_none, ttl_of_load
from bot.core.cache_manager.loading import UNKNOWN_TTL, Loads
from bot.core.cache_manager.many_reads import MANY, ManyReads
from bot.core.cache_manager.many_writes import ManyWrites
from bot.core.cache_manager.models import (
    ABSENT,
    DEFAULT_NAMESPACE,
    PLAIN,
    Loaded,
    Tags,
    TagsOf,
    valid_tags,
    valid_tags_of,
)
from bot.core.cache_manager.shared import SharedTier
from bot.core.cache_manager.tags import ANY_TAG
from bot.core.cache_manager.ttls import Ttl, TtlOf, valid_ttl_or_function
from bot.core.cache_manager.watching import Watched

MAX_KEYS = 10_000
"""Keys of one call; each that is missing costs two tasks while it loads."""

_AT_ONCE = 500
"""Values that are copied before other tasks run."""

_READ_AT_ONCE = 500

ManyLoader = Callable[[list[str]], Awaitable[Mapping[str, Any]]]
"""Gets the keys that are missing, and returns the values of those that there are."""

_NOTHING: dict[Any, Any] = {}

_Result = tuple[Any, Frozen | None]


class ManyLoading(Watched):
    """``get`` and ``get_or_load`` for many keys."""

    _loads: Loads

    def get_local(self, key: str, namespace: str | None = None, default: Any = None) -> Any:
        """See :class:`CacheManager`."""
        raise NotImplementedError

    async def get_many(self, keys: Iterable[str], namespace: str = DEFAULT_NAMESPACE) -> dict[str, Any]:
        """The values of those keys that are cached. What L1 lacks is read from Redis, 500 keys at a time."""
        found: dict[str, Any] = dict.fromkeys(keys, ABSENT)
        wanted = list(found)
        valid_name(namespace, "namespace")
        given: list[str] = []
        stored: list[str] = []
        for start in range(0, len(wanted), _READ_AT_ONCE):
            if start:
                await asyncio.sleep(0)  # let others run, even if everything is in L1
            self._look_here(wanted[start : start + _READ_AT_ONCE], namespace, found, given, stored)
        if not given:
            return found
        if not self._enabled:
            return _those_there(found)
        l2 = self._l2
        if l2 is not None and l2.link.available and not l2.link.cluster and len(stored) >= MANY:
            values = await ManyReads(l2).read(namespace, stored)
        else:
            values = []
            for start in range(0, len(stored), _READ_AT_ONCE):
                piece = stored[start : start + _READ_AT_ONCE]
                values += await asyncio.gather(*[self._look_for(key, namespace) for key in piece])
        found.update(zip(given, values, strict=True))
        return _those_there(found)

    def _look_here(
        self, keys: list[str], namespace: str, found: dict[str, Any], given: list[str], stored: list[str]
    ) -> None:
        """Put the values that L1 has into ``found``, each other key into ``given``, and what is stored for
        it into ``stored``.
        """
        # What is not in there is not in L1, unless reads must go another way.
        space = None if self._watched or self._tiers.lru else self._spaces.get(namespace, _NOTHING)
        if space is not None and space.keys().isdisjoint(keys) and are_stored_as_they_are(keys):
            given += keys
            stored += keys
            return
        for key in keys:
            if space is not None and key not in space and valid_key(key) is key:
                given.append(key)
                stored.append(key)
                continue
            value = self.get_local(key, namespace, ABSENT)
            if value is ABSENT:
                given.append(key)
                stored.append(valid_key(key))
            else:
                found[key] = value

    def _look_for(self, stored: str, namespace: str) -> Coroutine[Any, Any, Any]:
        """The value under a key that :meth:`get_local` did not have."""
        l2 = self._l2
        if l2 is not None and l2.link.available:
            return l2.read(namespace, stored)
        return self._find(stored, namespace)

    async def get_or_load_many(
        self,
        keys: Iterable[str],
        loader: ManyLoader,
        ttl: Ttl | TtlOf | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        tags: Tags = (),
    ) -> dict[str, Any]:
        """The values of the keys: what is cached, and for all that is missing one ``await loader(missing)``.

        The loader gets a list of keys and returns a mapping. What it leaves out is left out of the answer and
        is not cached; a None in the mapping is a value and is cached. A key that is being loaded, by this or
        by ``get_or_load``, is awaited and not loaded again. An error of the loader reaches all who wait for
        one of its keys, and is not cached. A caller that is cancelled cancels the load only if nobody else
        waits for any of its keys. ``ttl`` and ``tags`` may be functions of one value. At most 10,000 keys.
        """
        asked = list(dict.fromkeys(keys))
        valid_name(namespace, "namespace")
        if len(asked) > MAX_KEYS:
            raise invalid("keys", len(asked), f"at most {MAX_KEYS:,} of them")
        stored = {key: valid_key(key) for key in asked}
        carried = valid_tags_of(tags)
        seconds = self._settings.default_ttl if ttl is None else valid_ttl_or_function("ttl", ttl)
        if not self._enabled:
            self._used_while_off()
        if not self._enabled or self._bypassed():
            loaded = _mapping(await loader(list(asked))) if asked else {}
            return {key: loaded[key] for key in asked if key in loaded}
        found = await self.get_many(asked, namespace)
        missing = {stored[key]: key for key in asked if key not in found}
        if missing:
            found |= await self._loads_of_many(missing, loader, seconds, namespace, carried)
        return {key: found[key] for key in asked if key in found}

    async def _loads_of_many(
        self,
        missing: dict[str, str],
        loader: ManyLoader,
        ttl: float | TtlOf,
        namespace: str,
        tags: tuple[str, ...] | TagsOf,
    ) -> dict[str, Any]:
        """The values of keys, given as what is stored for each, by what the caller calls it."""
        found: dict[str, Any] = {}
        while missing:
            batch = _Batch(self._loads, loader, ttl, namespace, tags)
            parts = [_Part(batch, key, given) for key, given in missing.items()]
            results = await asyncio.gather(*[part.result() for part in parts], return_exceptions=True)
            again: dict[str, str] = {}
            for part, result in zip(parts, results, strict=True):
                if isinstance(result, BaseException):
                    raise result
                value, frozen = result
                if frozen is not None:
                    found[part.given] = frozen.value if frozen.thaw is None else frozen.thaw(frozen.value)
                elif not part.led:
                    # Another load, which did not know the key, or whose value is for its caller alone.
                    again[part.key] = part.given
                elif value is not ABSENT:
                    found[part.given] = value
            missing = again
        return found


def _those_there(found: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that have no value."""
    for value in found.values():
        if value is ABSENT:
            return {key: value for key, value in found.items() if value is not ABSENT}
    return found


def _mapping(loaded: Any) -> Mapping[str, Any]:
    if not isinstance(loaded, Mapping):
        raise TypeError(f"the loader of many keys returned a {type(loaded).__qualname__}: expected a mapping")
    return loaded


class _Part:
    """One key of a batch: it joins the load of the key that is in progress, or is loaded by the batch."""

    def __init__(self, batch: _Batch, key: str, given: str) -> None:
        self._batch = batch
        self.key = key
        self.given = given
        self.led = False
        """Whether the batch loaded it."""

    async def result(self) -> _Result:
        """The value and its safe form, as ``Loads.load`` knows them; ABSENT if the mapping lacks it."""
        batch = self._batch
        at = (batch.namespace, self.key)
        if batch.loads.begun:
            batch.loads.leave_outdated(*at)
        return await batch.loads.flights.run(at, self._load, expired=batch.timed_out)

    async def _load(self) -> _Result:
        batch = self._batch
        if batch.begun:
            return ABSENT, None  # too late for this batch: there is another one
        self.led = True
        batch.keys[self.key] = self.given
        # As a flight of its own it is known to wait for, and to be waited for: a circle is found, and the
        # load ends when nobody wants any of its keys.
        results = await batch.loads.batches.run(batch, batch.run, expired=batch.timed_out)
        return results[self.key]


class _Batch:
    """One run of a loader for several keys."""

    def __init__(
        self,
        loads: Loads,
        loader: ManyLoader,
        ttl: float | TtlOf,
        namespace: str,
        tags: tuple[str, ...] | TagsOf,
    ) -> None:
        self.loads = loads
        self.namespace = namespace
        self.keys: dict[str, str] = {}
        """What is stored for each key, and what the caller calls it. Changed only until it has begun."""
        self.begun = False
        self._loader = loader
        self._ttl = ttl
        self._tags = tags

    def __str__(self) -> str:
        return f"{len(self.keys)} keys, {next(iter(self.keys), '')!r:.100} among them"

    async def run(self) -> dict[str, _Result]:
        """Load all keys and store what may be stored."""
        await asyncio.sleep(0)  # until every key has come
        self.begun = True
        tiers = self.loads.tiers
        tokens: dict[str, bytes] | None = None
        if tiers.shared is not None and self._tags:
            # Read before the load begins: a tag that is dropped meanwhile has another token afterwards.
            tokens = await tiers.shared.l2.open_tags(
                (ANY_TAG,) if callable(self._tags) else self._tags, self._milliseconds()
            )
        changes = tiers.local.changes
        begun = changes.count
        self.loads.counters.loads += 1
        noted = self.loads.note(self.keys, self.namespace, self._tags)
        try:
            loaded = await self._loaded()
        finally:
            self.loads.done(self.keys, self.namespace, noted)
        results: dict[str, _Result] = {}
        kept: dict[float, list[Loaded]] = {}
        for number, (key, given) in enumerate(self.keys.items(), 1):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            if given not in loaded:
                results[key] = ABSENT, None
                continue
            value = loaded[given]
            frozen = frozen_or_none(key, value, self.loads.first_of_type)
            results[key] = value, frozen
            if frozen is not None:
                tags = valid_tags(self._tags(value)) if callable(self._tags) else self._tags
                ttl = ttl_of_load(self._ttl, value, PLAIN, self.loads.first_of_type)
                if ttl > 0:
                    kept.setdefault(ttl, []).append(Loaded(key, value, frozen, tags))
        if kept:
            await self._store(kept, tokens, begun)
        return results

    async def _loaded(self) -> Mapping[str, Any]:
        hooks, start = self.loads.hooks, self.loads.now()
        try:
            loaded = _mapping(await self._loader(list(self.keys.values())))
        except Exception as error:
            hooks.tell("error", self.namespace, error=error)
            raise
        if "load" in hooks.by_kind:
            seconds = self.loads.now() - start
            for key in self.keys:
                hooks.tell("load", self.namespace, key, seconds=seconds)
        return loaded

    async def _store(
        self, kept: dict[float, list[Loaded]], tokens: dict[str, bytes] | None, begun: int
    ) -> None:
        tiers = self.loads.tiers
        if tokens is not None and callable(self._tags) and tiers.shared is not None:
            carried = dict.fromkeys(tag for group in kept.values() for one in group for tag in one.tags)
            tokens = await self._confirmed(tiers.shared, tokens, tuple(carried))
        namespace = self.namespace
        changed = ChangesSince(tiers.local.changes, begun, namespace)
        for ttl, group in kept.items():
            shared = tiers.shared  # which may have been left meanwhile
            if shared is not None:
                await ManyWrites(shared).store_loaded(namespace, group, ttl, tokens, changed)
                continue
            for one in group:
                if not changed.concerns(one.key, one.tags):
                    tiers.local.store(namespace, one.key, one.frozen, ttl, one.tags)

    async def _confirmed(
        self, shared: SharedTier, tokens: dict[str, bytes], carried: tuple[str, ...]
    ) -> dict[str, bytes] | None:
        """The tokens of tags that are known only after the load; None if any tag was dropped meanwhile."""
        after = await shared.l2.open_tags((*carried, ANY_TAG), self._milliseconds())
        unchanged = after is not None and after.pop(ANY_TAG) == tokens[ANY_TAG]
        return after if unchanged else None

    def _milliseconds(self) -> int:
        return max(1, int((UNKNOWN_TTL if callable(self._ttl) else self._ttl) * 1000))

    def timed_out(self) -> LoaderTimeoutError:
        """The error of those who wait when it is given up."""
        return LoaderTimeoutError(
            f"loading {self} took longer than {self.loads.timeout or 0:g} s (CACHE_LOAD_TIMEOUT)"
        )


__all__ = ["MAX_KEYS", "ManyLoader", "ManyLoading"]
