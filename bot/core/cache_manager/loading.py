"""Loading what no tier has: one load for any number of concurrent misses of a key."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NamedTuple

from bot.core._shared.bounded_store import Entry
from bot.core._shared.clock import Clock
from bot.core._shared.errors import shown
from bot.core._shared.isolation import Frozen
from bot.core._shared.masking import one_line
from bot.core._shared.singleflight import SingleFlight
from bot.core._shared.tasks import BackgroundTasks
from bot.core.cache_manager.errors import LoaderTimeoutError, LockTimeoutError
from bot.core.cache_manager.events import Hooks
from bot.core.cache_manager.keys import LOAD
from bot.core.cache_manager.l1 import Meta
from bot.core.cache_manager.loaded_values import frozen_or_none, ttl_of_load
from bot.core.cache_manager.locks import Lease, Locks
from bot.core.cache_manager.models import (
    ABSENT,
    DEFAULT_NAMESPACE,
    FirstOfType,
    Loader,
    LoadOptions,
    LookUp,
    Tags,
    TagsOf,
    valid_tags,
    valid_tags_of,
)
from bot.core.cache_manager.shared import SharedTier
from bot.core.cache_manager.stats import Counters
from bot.core.cache_manager.tags import ANY_TAG
from bot.core.cache_manager.tiers import Tiers
from bot.core.cache_manager.ttls import TtlOf

logger = logging.getLogger(__name__)


LOAD_LEASE = 10.0
"""Seconds that a load's lease outlives the process that loads; while that one lives, it renews the lease."""

LOAD_WAIT = 30.0
"""Seconds that an instance waits for another one's load, before it loads itself."""

UNKNOWN_TTL = 3600.0
"""Seconds that the tokens of tags live, at least, while the value's ttl is not known."""


class Begun(NamedTuple):
    """When a loader began: the number of changes until then, and its tags, None if they are not yet known."""

    changes: int
    tags: tuple[str, ...] | None


class Loads:
    """The loads in progress, by namespace and key, and those that refresh a value early."""

    def __init__(
        self,
        tiers: Tiers,
        clock: Clock,
        counters: Counters,
        tasks: BackgroundTasks,
        first_of_type: FirstOfType,
        hooks: Hooks,
        locks: Locks,
    ) -> None:
        self.hooks = hooks
        self.locks = locks
        self.locked = False
        """Whether loads are locked that do not say so themselves; set by the owner."""
        self.tiers = tiers
        self.counters = counters
        self.first_of_type = first_of_type
        self.now = clock.monotonic
        self._tasks = tasks
        self.flights: SingleFlight[tuple[Any, Frozen | None]] = SingleFlight(name=_shown)
        self.batches: SingleFlight[dict[str, tuple[Any, Frozen | None]]] = SingleFlight(name=str)
        """The loads of many keys, see many_loading.py: one, and one flight for each of its keys."""

        self.begun: dict[tuple[str, str], Begun] = {}
        """When the loader of each load in progress began. Changed only by note, _Load._note and done."""

    def note(self, keys: Iterable[str], namespace: str, tags: tuple[str, ...] | TagsOf) -> Begun:
        """The loader of keys begins now; :meth:`done` must follow, with what this returns."""
        begun = Begun(self.tiers.local.changes.count, None if callable(tags) else tags)
        for key in keys:
            self.begun[namespace, key] = begun
        return begun

    def done(self, keys: Iterable[str], namespace: str, begun: Begun) -> None:
        """Its loader has ended, and its values are about to be stored."""
        for key in keys:
            if self.begun.get((namespace, key)) is begun:
                del self.begun[namespace, key]

    def leave_outdated(self, namespace: str, key: str) -> None:
        """Let a load in progress be joined no more if its key was changed or dropped after it began.

        So who changed something, and then reads it, gets no value from before the change.
        """
        begun = self.begun.get((namespace, key))
        changes = self.tiers.local.changes
        if begun is None or changes.count <= begun.changes:
            return
        if changes.since(begun.changes, namespace, key, begun.tags, reloads=False):
            self.flights.forget((namespace, key))

    @property
    def timeout(self) -> float | None:
        """Seconds after which a load is given up; None: never."""
        return self.flights.timeout

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self.flights.timeout = self.batches.timeout = seconds

    def rest(self) -> None:
        """Hold nothing but the loads in progress: the cache is switched off."""
        self.flights.rest()
        self.batches.rest()

    async def load(
        self,
        key: str,
        loader: Loader,
        ttl: float | TtlOf,
        namespace: str,
        tags: tuple[str, ...] | TagsOf,
        options: LoadOptions,
        look_up: LookUp | None,
    ) -> Any:
        """The loader's result, or that of a load of the key which is in progress already.

        A stale value instead, if ``options`` allow one, there is one, and the load fails or is too slow.
        """
        call = _Load(self, key, loader, ttl, namespace, tags, options, look_up)
        call.locked = self.locked if options.lock is None else options.lock
        stale: Frozen | None = None
        if options.stale_ttl:
            # Held here, since it may be evicted meanwhile.
            stale = self.tiers.local.stale(namespace, key)
        if stale is None and look_up is not None:
            stale = look_up.stale
        if self.begun:
            self.leave_outdated(namespace, key)
        flight = self.flights.run(
            (namespace, key), call.run, timeout=call.time_limit(), expired=call.timed_out
        )
        try:
            if stale is not None and options.soft_timeout is not None:
                value, frozen = await self._in_time(flight, options.soft_timeout)
            else:
                value, frozen = await flight
        except Exception as error:
            if stale is None:
                raise
            self.counters.stale_served += 1
            if not isinstance(error, _TooSlow):
                self.counters.load_failures += 1
                logger.warning(
                    "Loader of %s failed, a stale value is served: %s",
                    one_line(shown(key), 100),
                    one_line(error),
                )
            return stale.value if stale.thaw is None else stale.thaw(stale.value)
        if frozen is not None:
            return frozen.value if frozen.thaw is None else frozen.thaw(frozen.value)
        if value is ABSENT:
            # The load of many keys that it joined did not know this one.
            return await self.load(key, loader, ttl, namespace, tags, options, look_up)
        # It cannot be copied: the caller that loaded it gets it, and the others load again.
        return value if call.led else await loader()

    async def _in_time(
        self, flight: Coroutine[Any, Any, tuple[Any, Frozen | None]], soft_timeout: float
    ) -> tuple[Any, Frozen | None]:
        """The flight's result if it comes in time; else raises _TooSlow, and the flight continues."""
        task = self._tasks.spawn(_outcome(flight), name="cache-load")
        done, _ = await asyncio.wait([task], timeout=soft_timeout)
        if not done or task.cancelled():  # by a cache that is switched off, not by this caller
            raise _TooSlow
        result: tuple[Any, Frozen | None]
        result, error = task.result()
        if error is not None:
            raise error
        return result

    def should_refresh(self, entry: Entry, options: LoadOptions) -> bool:
        """Whether this read refreshes the value before it expires."""
        meta: Meta | None = entry.meta
        if meta is None or not meta.load_seconds:
            return False
        # XFetch: the slower the load and the nearer the expiry, the likelier.
        ahead = meta.load_seconds * options.early_refresh * -math.log(1.0 - random.random())
        return self.now() + ahead >= entry.expires_at

    def refresh_early(
        self,
        entry: Entry | None,
        key: str,
        loader: Loader,
        ttl: float | TtlOf,
        namespace: str,
        tags: Tags,
        options: LoadOptions,
    ) -> None:
        """Load a key in the background, if this read of its entry is to do so and no load is in progress.

        If the load fails, the old value stays.
        """
        at = (namespace, key)
        if entry is None or not self.should_refresh(entry, options) or at in self.flights:
            return
        self.counters.early_refreshes += 1

        async def refresh() -> None:
            try:
                call = _Load(self, key, loader, ttl, namespace, valid_tags_of(tags), options, None)
                await self.flights.run(at, call.run, timeout=call.time_limit(), expired=call.timed_out)
            except Exception as error:
                self.counters.load_failures += 1
                logger.warning("Early refresh of %s failed: %s", one_line(shown(key), 100), one_line(error))

        self._tasks.spawn(refresh(), name="cache-early-refresh")

    async def reload(
        self,
        key: str,
        loader: Loader,
        ttl: float | TtlOf,
        namespace: str,
        tags: tuple[str, ...] | TagsOf,
        options: LoadOptions,
    ) -> Any:
        """Load a key anew, whatever is cached or being loaded. Until then reads get the former value.

        If the new value is not to be cached, the former one is dropped.
        """
        call = _Load(self, key, loader, ttl, namespace, tags, options, None)
        call.joinable = False
        # A key of its own: a load in progress may have begun before what the caller wants to see.
        value, frozen = await self.flights.run(
            (namespace, key, call), call.run, timeout=call.time_limit(), expired=call.timed_out
        )
        if not call.stored:
            await self.tiers.drop_keys(namespace, (key,))
        return value if frozen is None else _thawed(frozen)

    def load_now(
        self,
        key: str,
        function: Callable[[], Any],
        ttl: float | TtlOf,
        namespace: str,
        tags: tuple[str, ...] | TagsOf,
        options: LoadOptions,
    ) -> Any:
        """What a plain function returns, which is then kept in L1 only: Redis would have to be awaited."""
        local = self.tiers.local
        begun = local.changes.count
        self.counters.l1_misses += 1
        self.counters.loads += 1
        start = self.now()
        try:
            value = function()
        except Exception as error:
            self.hooks.tell("error", namespace, key, error=error)
            raise
        self.hooks.tell("load", namespace, key, seconds=self.now() - start)
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise TypeError(
                f"the function of {key[:100]!r} returned something to await; decorate an async def"
            )
        frozen = frozen_or_none(key, value, self.first_of_type)
        if frozen is None:
            return value
        seconds = ttl_of_load(ttl, value, options, self.first_of_type)
        carried = valid_tags(tags(value)) if callable(tags) else tags
        if local.is_open and seconds and not local.changes.since(begun, namespace, key, carried):
            local.store(namespace, key, frozen, seconds, carried)
        return _thawed(frozen)


class _Load:
    """One caller's load of one key."""

    __slots__ = (
        "_noted", "joinable", "key", "led", "loader", "loads", "locked", "look_up", "namespace", "options",
        "stored", "tags", "ttl",
    )  # fmt: skip

    def __init__(
        self,
        loads: Loads,
        key: str,
        loader: Loader,
        ttl: float | TtlOf,
        namespace: str,
        tags: tuple[str, ...] | TagsOf,
        options: LoadOptions,
        look_up: LookUp | None,
    ) -> None:
        self.loads = loads
        self.key = key
        self.loader = loader
        self.ttl = ttl
        self.namespace = namespace
        self.tags = tags
        self.options = options
        self.look_up = look_up
        self.led = False
        """Whether the loader ran, and this did not join the load of another caller."""
        self.locked = False
        """Whether one instance loads it for all."""
        self.stored = False
        """Whether the value was cached."""
        self.joinable = True
        """Whether other callers join this load."""
        self._noted: Begun | None = None

    async def run(self) -> tuple[Any, Frozen | None]:
        """Load and store: the value, and a form that is safe to hand out; None if it cannot be copied."""
        self.led = True
        try:
            return await self._once_for_all()
        finally:
            if self._noted is not None:
                self.loads.done((self.key,), self.namespace, self._noted)

    def _note(self, tags: tuple[str, ...] | TagsOf, changes: int) -> None:
        """Changes after these are too late for the value."""
        if self.joinable:
            self._noted = Begun(changes, None if callable(tags) else tags)
            self.loads.begun[self.namespace, self.key] = self._noted

    async def _once_for_all(self) -> tuple[Any, Frozen | None]:
        if not self.locked or self.loads.tiers.shared is None:
            return await self._loaded(None)
        locks, namespace, key = self.loads.locks, self.namespace, self.key
        try:
            lease = await locks.take((LOAD, namespace, key), LOAD_LEASE, LOAD_WAIT)
        except LockTimeoutError:
            return await self._loaded(None)  # it is slow there; perhaps it is quicker here
        try:
            shared = self.loads.tiers.shared
            if lease.shared and shared is not None:
                # The one who had the lease before has perhaps loaded it.
                found = await shared.read(namespace, key, self.look_up)
                if found is not ABSENT:
                    return found, frozen_or_none(key, found, self.loads.first_of_type)
            return await self._loaded(lease)
        finally:
            await locks.release(lease)

    async def _loaded(self, lease: Lease | None) -> tuple[Any, Frozen | None]:
        loads, options, tags, namespace, key = self.loads, self.options, self.tags, self.namespace, self.key
        tiers = loads.tiers
        shared = tiers.shared
        tokens: dict[str, bytes] | None = None
        if shared is not None and tags:
            # Read before the load begins: a tag that is dropped meanwhile has another token afterwards.
            tokens = await self._tokens(shared)
        changes = tiers.local.changes
        start = loads.now()
        begun = changes.count
        self._note(tags, begun)
        loads.counters.loads += 1
        try:
            value = await (
                self.loader() if options.hard_timeout is None else self._cut_off(options.hard_timeout)
            )
        except Exception as error:
            loads.hooks.tell("error", namespace, key, error=error)
            raise
        if loads.hooks.by_kind:
            loads.hooks.tell("load", namespace, key, seconds=loads.now() - start)
        frozen = frozen_or_none(key, value, loads.first_of_type)
        if frozen is None:
            return value, None
        carried = valid_tags(tags(value)) if callable(tags) else tags
        ttl = ttl_of_load(self.ttl, value, options, loads.first_of_type)
        if ttl <= 0 or changes.since(begun, namespace, key, carried) or (lease and not lease.held):
            return value, frozen
        load_seconds = loads.now() - start if options.early_refresh else 0.0
        if tokens is not None and carried and callable(tags) and shared is not None:
            tokens = await self._confirmed(shared, tokens, carried)
            if changes.since(begun, namespace, key, carried):
                return value, frozen
        self.stored = True
        shared = tiers.shared  # which may have been left meanwhile
        if shared is None:
            tiers.local.store(namespace, key, frozen, ttl, carried, load_seconds, options.stale_ttl)
        else:
            # Redis may be slow to store it. The first change from now on is that of storing it in L1.
            self._note(carried, changes.count + 1)
            await shared.store(
                namespace, key, value, frozen, ttl, carried,
                keep=options.stale_ttl, load_seconds=load_seconds, loaded=True,
                tokens=tokens if carried else None, fence=lease.fence if lease else None,
            )  # fmt: skip
        return value, frozen

    async def _cut_off(self, hard_timeout: float) -> Any:
        try:
            async with asyncio.timeout(hard_timeout) as limit:
                return await self.loader()
        except TimeoutError as error:
            if not limit.expired():
                raise  # the loader's own
            raise LoaderTimeoutError(
                f"loader of {self.key[:100]!r} took longer than {hard_timeout:g} s"
            ) from error

    # The tokens of tags, see tags.py.

    async def _tokens(self, shared: SharedTier) -> dict[str, bytes] | None:
        """The tokens of the tags before the load; None if Redis does not answer for all of them."""
        look_up = self.look_up or LookUp(self.tags)
        known = {tag: token for tag, token in look_up.tokens.items() if token is not None}
        missing = [tag for tag in look_up.tags if tag not in known]
        if missing:
            made = await shared.l2.open_tags(missing, self._milliseconds())
            if made is None:
                return None
            known |= made
        return known

    async def _confirmed(
        self, shared: SharedTier, tokens: dict[str, bytes], carried: tuple[str, ...]
    ) -> dict[str, bytes] | None:
        """The tokens of tags that are known only after the load; trusted if no tag at all was dropped
        meanwhile.
        """
        after = await shared.l2.open_tags((*carried, ANY_TAG), self._milliseconds())
        unchanged = after is not None and after.pop(ANY_TAG) == tokens[ANY_TAG]
        return after if unchanged else None

    def _milliseconds(self) -> int:
        # If the ttl is not known before the load, storing the value makes its tokens live as long.
        ttl = UNKNOWN_TTL if callable(self.ttl) else self.ttl
        return max(1, int((ttl + self.options.stale_ttl) * 1000))

    # Its end.

    def time_limit(self) -> float | None:
        """Seconds for a whole load, after which its callers get an error; a shorter ``hard_timeout`` ends
        first.
        """
        limit = self.loads.flights.timeout
        hard_timeout = self.options.hard_timeout
        return limit if limit is None or hard_timeout is None else limit + hard_timeout

    def timed_out(self) -> LoaderTimeoutError:
        """The error of callers that waited longer."""
        seconds = self.loads.flights.timeout
        error = LoaderTimeoutError(
            f"loading {self.key[:100]!r} took longer than {seconds:g} s (CACHE_LOAD_TIMEOUT)"
        )
        self.loads.hooks.tell("error", self.namespace, self.key, error=error)
        return error


def _thawed(frozen: Frozen) -> Any:
    return frozen.value if frozen.thaw is None else frozen.thaw(frozen.value)


class _TooSlow(Exception):
    """A load went past its soft timeout."""


async def _outcome(
    flight: Coroutine[Any, Any, tuple[Any, Frozen | None]],
) -> tuple[Any, Exception | None]:
    # As a value, not an exception: when it comes, perhaps no caller waits for it any more.
    try:
        return await flight, None
    except Exception as error:
        return None, error


def _shown(at: tuple[Any, ...]) -> str:
    namespace, key = at[:2]
    return repr(key) if namespace == DEFAULT_NAMESPACE else f"{key!r} in {namespace!r}"
