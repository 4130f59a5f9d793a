"""The cache: memory first, Redis second, one load for any number of concurrent misses."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from itertools import islice
from sys import getsizeof
from typing import Any, ClassVar, TypeVar

from bot.core._shared.bounded_store import MAX_FREQUENCY, Entry
from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.errors import invalid, shown
from bot.core._shared.isolation import IMMUTABLE, Frozen, freeze
from bot.core._shared.masking import one_line
from bot.core._shared.singleflight import SingleFlight
from bot.core._shared.tasks import BackgroundTasks, to_the_end
from bot.core._shared.validation import valid_seconds
from bot.core._shared.values import TINY, thaw_again, thaw_body, thaw_tiny
from bot.core.cache_manager import codec
from bot.core.cache_manager.codec import HEADER_SIZE, read_header, read_notes
from bot.core.cache_manager.errors import LoaderTimeoutError, UnsupportedValueError
from bot.core.cache_manager.keys import MAX_KEY, compile_glob, printable, redis_key, valid_key, valid_name
from bot.core.cache_manager.l1 import L1, Meta
from bot.core.cache_manager.l2 import L2, PIECE_BYTES, PIECE_KEYS, Change
from bot.core.cache_manager.models import PLAIN, LoadOptions
from bot.core.cache_manager.stats import Counters
from bot.core.cache_manager.tags import ANY_TAG, same
from bot.core.cache_manager.warming import TIMEOUT, Warmer
from bot.core.phase4_service import Phase4Service
from bot.core.redis_link import RedisLink

logger = logging.getLogger(__name__)

T = TypeVar("T")
Loader = Callable[[], Awaitable[Any]]
TagsOf = Callable[[Any], Sequence[str]]
Tags = Sequence[str] | TagsOf
"""Of a value that is loaded: as they are, or a function of the value."""

DEFAULT_NAMESPACE = "default"
LOAD_TIMEOUT = 120.0
"""Seconds for a load, unless CACHE_LOAD_TIMEOUT says otherwise."""
MAX_NAMESPACES = 64
"""Namespaces that a ``get`` without one looks into; those used later than these must be named."""

MAX_RECENT = 4096
"""Changes remembered by what they changed; a read that more of them came between is not kept in L1."""

CLOCK_INTERVAL = 60.0
"""Seconds after which Redis's time is asked for again."""

MAX_GLOB_WORK = 1_000_000
"""Characters of a glob times keys to compare with it, beyond which the whole namespace is dropped."""

_MB = 1_048_576
_ABSENT: Any = object()
_NOTHING: dict[Any, Any] = {}


class CacheManager(Phase4Service):
    """Two tiers: L1 in this process, bounded; L2 in Redis, shared by instances. Off, it holds nothing.

    **What a caller gets is its own.** A mutable value is copied on the way in and for each reader, so
    no caller can change what another gets, and L1 gives what L2 would give. Immutable values (numbers,
    strings, bytes, dates, and tuples and frozensets of them) are handed out as they are. Objects that
    are no plain data are copied as by ``copy.deepcopy``, cycles and all, and stay in L1: L2 carries data
    only. What cannot be copied is not cached, which is logged once a type.

    **Redis may go away at any time.** No call raises for it: reads are misses, L1 goes on, what was
    changed meanwhile is dropped in Redis when it is back, and L1 is emptied then, since the changes of
    the other instances were not heard.
    """

    service_name: ClassVar[str] = "cache_manager"

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._clock = clock
        self._now = clock.monotonic
        self._max_size_mb = 100.0
        self._max_entries = 10_000
        self._lru = False
        self._default_ttl = 300.0
        self._compress = True
        self._redis_url = ""
        self._warming_on = True
        self._warming_interval = 600.0
        self._counters = Counters()
        self._tasks = BackgroundTasks()
        # What listens to Redis and makes good what it missed: ends when Redis is left, the others do not.
        self._l2_tasks = BackgroundTasks()
        self._flights: SingleFlight[tuple[Any, Frozen | None]] = SingleFlight(name=_shown)
        self._flights.timeout = LOAD_TIMEOUT
        self._warmer = Warmer(self._tasks, clock)
        self._l1 = self._new_l1()
        self._l2: L2 | None = None
        self._forget_recovery: Callable[[], None] = lambda: None
        # Whether L1 may be stale: changes of other instances are not heard at the moment.
        self._deaf = False
        # What reads look into: L1's spaces, or nothing while off or deaf, so that one look-up tells all.
        self._spaces: dict[str, dict[Any, Entry]] = _NOTHING
        self._default: dict[Any, Entry] = _NOTHING
        # Namespaces used here, in order of first use.
        self._used: dict[str, None] = {DEFAULT_NAMESPACE: None}
        # Whether others were used, whose names are not kept.
        self._used_more = False
        # Every change, counted, and the last ones by what they changed: a read or load notes the count
        # when it starts and asks at its end whether its key was among what came since.
        self._changes = 0
        # Keys by their hash: one taken for another only keeps a value out of L1.
        self._recent: deque[tuple[int, bool] | frozenset[str] | None] = deque(maxlen=MAX_RECENT)
        # What was logged of which type: it is said once.
        self._said: set[tuple[str, str]] = set()
        # Who hears the messages of a topic from other instances. Changed only by listen.
        self._listeners: dict[str, Callable[[list[str] | None], None]] = {}

    def _new_l1(self) -> L1:
        return L1(max_bytes=int(self._max_size_mb * _MB), max_entries=self._max_entries, lru=self._lru)

    # Lifecycle.

    async def enable(
        self,
        *,
        l1_max_size_mb: float | None = None,
        l1_max_entries: int | None = None,
        eviction: str | None = None,
        default_ttl: float | None = None,
        compression: bool | None = None,
        redis_url: str | None = None,
        warming: bool | None = None,
        warming_interval: float | None = None,
        load_timeout: float | None = None,
    ) -> bool:
        """Switch on, or reconfigure; None leaves what was set before.

        L1 holds at most ``l1_max_entries`` (10,000) entries of ``l1_max_size_mb`` (100) MB together;
        ``eviction`` is "s3fifo" or "lru", whose reads cost more; changing it empties L1.
        ``default_ttl`` (300) and ``warming_interval`` (600) are seconds; ``redis_url`` "" is L1 only;
        ``warming`` allows refreshes in the background (True). A load that takes longer than
        ``load_timeout`` (120; 0: any time) seconds is given up: who waits for it gets
        LoaderTimeoutError, and the next caller starts anew. Raises ValueError for values out of
        bounds, and RedisUnavailableError if the redis package is missing; that no server answers is
        no error, since it may come later.
        """
        size = self._max_size_mb if l1_max_size_mb is None else l1_max_size_mb
        if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < math.inf:
            raise invalid("l1_max_size_mb", size, "MB, a finite number > 0")
        entries = self._max_entries if l1_max_entries is None else l1_max_entries
        if isinstance(entries, bool) or not isinstance(entries, int) or entries < 1:
            raise invalid("l1_max_entries", entries, "a whole number of 1 or more")
        if eviction not in (None, "s3fifo", "lru"):
            raise invalid("eviction", eviction, "'s3fifo' or 'lru'")
        ttl = self._default_ttl if default_ttl is None else valid_seconds("default_ttl", default_ttl)
        interval = (
            self._warming_interval
            if warming_interval is None
            else valid_seconds("warming_interval", warming_interval)
        )
        limit = None
        if load_timeout is not None:
            limit = valid_seconds("load_timeout", load_timeout, zero=True)
        url = self._redis_url if redis_url is None else redis_url
        async with self._transition:
            if limit is not None:
                self._flights.timeout = limit or None
            link = None
            if url and (self._l2 is None or self._l2.link.url != url or not self._enabled):
                link = RedisLink.shared(url)
                try:
                    link.client()
                except BaseException:
                    await link.release()
                    raise
            cancelled: asyncio.CancelledError | None = None
            if self._l2 is not None and (link is not None or not url):
                try:
                    await self._leave_l2()
                except asyncio.CancelledError as error:
                    cancelled = error  # it is left all the same; not to join the other would leave half of it
            self._default_ttl, self._warming_interval, self._redis_url = ttl, interval, url
            self._compress = self._compress if compression is None else compression
            self._warming_on = self._warming_on if warming is None else warming
            if (size, entries) != (self._max_size_mb, self._max_entries):
                self._max_size_mb, self._max_entries = float(size), entries
                self._l1.store.resize(max_bytes=int(size * _MB), max_entries=entries)
            if eviction is not None and (eviction == "lru") != self._lru:
                self._lru = eviction == "lru"
                self._l1 = self._new_l1()
            self._enabled = True
            if link is not None:
                self._join_l2(link)
            elif self._l2 is not None:
                self._l2.compress = self._compress
            self._look_into_l1()
            if self._warming_on:
                self._warmer.resume()
            else:
                self._warmer.pause()
            if cancelled is not None:
                raise cancelled
            if self._l2 is not None:
                await self._first_words()
        return True

    def _join_l2(self, link: RedisLink) -> None:
        self._l2 = L2(link, compress=self._compress)
        self._deaf = True  # until the subscription stands
        self._forget_recovery = link.on_recovery(self._recovered)
        self._l2.listen(self._heard, self._hearing)

    def _redis_time(self, l2: L2) -> float:
        """Seconds; while Redis has not told it, by the clock of this machine."""
        now = self._now()
        if now >= l2.read_clock_at:
            l2.read_clock_at = now + CLOCK_INTERVAL
            if l2.link.available:
                self._l2_tasks.spawn(l2.read_clock(self._now), name="cache-clock")
        offset = l2.clock_offset
        return self._clock.time() if offset is None else now + offset

    async def _first_words(self) -> None:
        """Give the subscription a moment to stand; without it L1 is not used while Redis answers."""
        l2 = self._l2
        if l2 is None:
            return
        await l2.read_clock(self._now)
        if l2.link.available:
            await l2.hearing_settled()

    async def _leave_l2(self) -> None:
        l2, self._l2 = self._l2, None
        tasks, self._l2_tasks = self._l2_tasks, BackgroundTasks()
        self._forget_recovery()
        self._deaf = False

        async def leave() -> None:
            try:
                await tasks.stop()
            finally:
                if l2 is not None:
                    try:
                        await l2.stop()
                    finally:
                        await l2.link.release()

        await to_the_end(leave())

    async def disable(self) -> bool:
        """Switch off: every entry of L1 is dropped, tasks end, connections close. L2 keeps its values."""
        async with self._transition:
            self._enabled = False
            self._warmer.forget_all()
            self._l1 = self._new_l1()
            self._look_into_l1()
            try:
                await self._leave_l2()
            finally:
                await to_the_end(self._tasks.stop())
        return True

    def _look_into_l1(self) -> None:
        # LRU must hear of each read, so its reads take the longer way through the store.
        if self._enabled and not self._deaf and not self._lru:
            self._spaces = self._l1.store.spaces
            self._default = self._l1.store.space(DEFAULT_NAMESPACE)
        else:
            self._spaces = self._default = _NOTHING

    # Hearing of other instances' changes.

    def _heard(self, change: Change) -> None:
        what, name, keys = change
        if what == "drop":
            for key in keys:
                self._changed(name, key)
        elif what == "load":
            for key in keys:
                self._changed(name, key, loaded=True)
        elif what == "tags":
            for tag in keys:
                self._l1.drop_tag(tag)
            self._changed_tags(keys)
        elif what == "pattern":
            work = sum(map(len, keys)) * len(self._l1.store.spaces.get(name, _NOTHING))
            if work > MAX_GLOB_WORK or len(keys) != 1 or len(keys[0]) > MAX_KEY:
                self._l1.store.clear(name)
            else:
                self._l1.drop_pattern(name, keys[0])
            self._changed_unknown()
        elif what == "clear":
            self._l1.store.clear(name)
            self._changed_unknown()
        elif what == "tell":
            listener = self._listeners.get(name)
            if listener is not None:
                listener(keys)
        else:
            self._l1.store.clear()
            self._changed_unknown()

    def _hearing(self, on: bool) -> None:
        if on:
            self._l1.store.clear()
            self._changed_unknown()
            self._missed_messages()
        self._deaf = not on
        self._look_into_l1()

    def _missed_messages(self) -> None:
        for listener in self._listeners.values():
            listener(None)

    def _recovered(self) -> None:
        # Changes of others may have been missed, whether or not the subscription noticed.
        self._l1.store.clear()
        self._changed_unknown()
        self._missed_messages()
        if self._l2 is None:
            return
        self._l2.read_clock_at = 0.0  # it may be another server that answers now, with another clock
        if not self._l2.in_step and self._enabled:
            self._l2_tasks.spawn(self._l2.resync(), name="cache-resync")

    def _changed(self, namespace: str, key: str, *, loaded: bool = False) -> None:
        self._l1.store.remove(namespace, key)
        self._changes += 1
        self._recent.append((hash((namespace, key)), loaded))

    def _changed_unknown(self) -> None:
        self._changes += 1
        self._recent.append(None)

    def _changed_tags(self, tags: Sequence[str]) -> None:
        self._changes += 1
        self._recent.append(frozenset(tags))

    def _changed_since(
        self,
        begun: int,
        namespace: str,
        key: str,
        tags: Collection[str] | None = None,
        *,
        reloads: bool = True,
    ) -> bool:
        """Whether the key was, or may have been, changed since the count was ``begun``.

        ``tags`` are those of the value in question; None: unknown, so a drop of any tag may have meant it.
        That another instance loaded it counts with ``reloads`` only: what was loaded is as good here.
        """
        since = self._changes - begun
        if since == 0:
            return False
        if since > len(self._recent):
            return True
        last = islice(reversed(self._recent), since)
        at = (hash((namespace, key)), False)
        reloaded = (at[0], reloads)
        for change in last:
            if isinstance(change, frozenset):
                if tags is None or not change.isdisjoint(tags):
                    return True
            elif change is None or change in (at, reloaded):
                return True
        return False

    # Reading.

    async def get(self, key: str, namespace: str | None = None, default: Any = None) -> Any:
        """The cached value, the caller's own where it is mutable; ``default`` if there is none.

        Without a ``namespace`` it looks into ``default``, then into the namespaces that this process
        has used, in order of first use: first all of L1, then all of L2.
        """
        entry = (self._default if namespace is None else self._spaces.get(namespace, _NOTHING)).get(key)
        if entry is not None and entry.expires_at > self._now():
            if entry.frequency < MAX_FREQUENCY:
                entry.frequency += 1
            self._counters.l1_hits += 1
            thaw = entry.thaw
            return entry.value if thaw is None else thaw(entry.value)
        l2 = self._l2
        if namespace is not None and l2 is not None and l2.link.available and not self._lru:
            # _find's commonest case, in place: under load each coroutine in between counts.
            if namespace not in self._used:
                valid_name(namespace, "namespace")
            # inlined: the beginning of valid_key
            if (type(key) is str and key and len(key) < 65 and key.isascii()) or valid_key(key) is key:
                found = await self._read_l2(l2, namespace, key)
                return default if found is _ABSENT else found
        found = await self._look_further(key, namespace)
        return default if found is _ABSENT else found

    def _look_further(self, key: str, namespace: str | None) -> Awaitable[Any]:
        stored = valid_key(key)
        return self._find(stored, namespace, renamed=stored is not key)

    def get_local(self, key: str, namespace: str | None = None, default: Any = None) -> Any:
        """:meth:`get` from L1 alone, without awaiting; a miss is not counted."""
        entry = (self._default if namespace is None else self._spaces.get(namespace, _NOTHING)).get(key)
        if entry is None:
            stored = valid_key(key)
            if self._lru and self._enabled and not self._deaf:
                found = self._in_l1(stored, self._used if namespace is None else (namespace,))
                return default if found is _ABSENT else found
            if namespace is None:
                entry = self._in_used_namespaces(stored)
            elif stored is not key:
                entry = self._spaces.get(namespace, _NOTHING).get(stored)
        if entry is None or entry.expires_at <= self._now():
            return default
        if entry.frequency < MAX_FREQUENCY:
            entry.frequency += 1
        self._counters.l1_hits += 1
        thaw = entry.thaw
        return entry.value if thaw is None else thaw(entry.value)

    def _in_used_namespaces(self, key: str) -> Entry | None:
        spaces, now = self._spaces, self._now()
        for name in self._used:
            entry: Entry | None = spaces.get(name, _NOTHING).get(key)
            if entry is not None and entry.expires_at > now:
                return entry
        return None

    def _look_for(self, key: str, namespace: str) -> Coroutine[Any, Any, Any]:
        """:meth:`_find` of what :meth:`get_local` did not have."""
        l2 = self._l2
        stored = valid_key(key)
        if l2 is not None and l2.link.available and not self._lru:
            return self._read_l2(l2, namespace, stored)
        return self._find(stored, namespace)

    async def _find(
        self, key: str, namespace: str | None, look_up: _LookUp | None = None, *, renamed: bool = False
    ) -> Any:
        """The value of a key that is not in its first place; _ABSENT if it is nowhere.

        ``renamed``: it was looked for under what the caller gave, which is not what it is stored as.
        """
        if not self._enabled:
            return _ABSENT
        if namespace is None:
            entry = self._in_used_namespaces(key)
            if entry is not None:
                return self._hit(entry)
            namespaces = list(self._used)
        else:
            if namespace not in self._used:
                valid_name(namespace, "namespace")
            namespaces = [namespace]
        if (self._lru or renamed) and not self._deaf:
            found = self._in_l1(key, namespaces)
            if found is not _ABSENT:
                return found
        l2 = self._l2
        if l2 is not None:
            if not l2.link.available and (found := self._in_l1(key, namespaces)) is not _ABSENT:
                return found
            if len(namespaces) == 1:
                return await self._read_l2(l2, namespaces[0], key, look_up)
            # Asked for together, they travel together; the first that has it wins.
            for found in await asyncio.gather(*[self._read_l2(l2, name, key) for name in namespaces]):
                if found is not _ABSENT:
                    return found
            return _ABSENT
        self._counters.l1_misses += 1
        return _ABSENT

    def _hit(self, entry: Entry) -> Any:
        if entry.frequency < MAX_FREQUENCY:
            entry.frequency += 1
        self._counters.l1_hits += 1
        return entry.value if entry.thaw is None else entry.thaw(entry.value)

    def _in_l1(self, key: str, namespaces: Iterable[str]) -> Any:
        """The value by way of the store: for LRU, and while L1 is distrusted but Redis is away."""
        now = self._now()
        for name in namespaces:
            entry = self._l1.store.get(name, key, now)
            if entry is not None:
                return self._hit(entry)
        return _ABSENT

    async def _read_l2(self, l2: L2, namespace: str, key: str, look_up: _LookUp | None = None) -> Any:
        if self._deaf:
            # Under an event loop that is new here the subscription only begins: what is read before
            # it stands would be dropped from L1 at once.
            await l2.hearing_settled()
        begun = self._changes
        at = redis_key(namespace, key)
        if look_up is not None and look_up.tags:
            look_up.asked = l2.ask_tokens(look_up.tags)
        try:
            raw = await l2.link.reader.get(at)
        except Exception as error:
            l2.failed(error)
            found = self._in_l1(key, [namespace])
            if found is not _ABSENT:
                return found
            raw = None
        if look_up is not None and look_up.asked:
            look_up.tokens = await l2.tokens(look_up.asked)
        if raw is not None and (l2.in_step or not l2.outdated(at)):
            try:
                flags, expires_at, load_seconds = read_header(raw)
                if flags == 0:
                    # The commonest kind, in place: no tags, and not kept beyond its time.
                    body = raw[HEADER_SIZE:]
                    value = thaw_tiny(body) if len(body) <= TINY else thaw_body(body)
                    self._counters.l2_hits += 1
                    if self._l1.store.admits(namespace, key):
                        self._keep_found(l2, namespace, key, value, body, begun, expires_at, load_seconds)
                    return value
                body, keep, tags = read_notes(raw, flags)
                if not tags or await self._in_force(l2, tags, look_up):
                    body = codec.unpack_body(raw, body)
                    value = thaw_body(body)
                    age = self._redis_time(l2) - expires_at if keep else -1.0
                    if age < 0:
                        self._counters.l2_hits += 1
                        if self._l1.store.admits(namespace, key):
                            self._keep_found(
                                l2, namespace, key, value, body, begun, expires_at, load_seconds, keep, tags
                            )
                        return value
                    if look_up is not None and age <= min(keep, look_up.stale_ttl):
                        look_up.stale = _keep(value, body)
            except Exception as error:
                # Foreign bytes; decode_body would say how they can fail, for a tenth of the read.
                l2.unreadable(error)
        self._counters.l2_misses += 1
        return _ABSENT

    async def _in_force(self, l2: L2, tags: dict[str, bytes], look_up: _LookUp | None) -> bool:
        """Whether no tag of a value was dropped since it began to load; what is not known, was."""
        known = look_up.tokens if look_up is not None else {}
        found = {tag: known[tag] for tag in tags if tag in known}
        if len(found) < len(tags):
            found |= await l2.tokens(l2.ask_tokens([tag for tag in tags if tag not in known]))
        return same(tags, found)

    def _keep_found(
        self,
        l2: L2,
        namespace: str,
        key: str,
        value: Any,
        body: bytes,
        begun: int,
        expires_at: float,
        load_seconds: float,
        keep: float = 0.0,
        tags: Collection[str] = (),
    ) -> None:
        """Keep in L1 what L2 gave, unless it may have changed since ``begun``."""
        now = self._now()
        offset = l2.clock_offset
        if offset is None or now >= l2.read_clock_at:
            ttl = expires_at - self._redis_time(l2)
        else:
            ttl = expires_at - now - offset
        if ttl <= 0 or not self._enabled:
            return
        if self._changes != begun and self._changed_since(begun, namespace, key, tags):
            return
        meta = Meta(tuple(tags), load_seconds) if load_seconds or tags else None
        if value.__class__ in IMMUTABLE:
            frozen = Frozen(value, None, getsizeof(value))
        else:
            frozen = Frozen(body, thaw_again, len(body) + _BYTES_HEADER)
        self._l1.put(namespace, key, frozen, now=now, ttl=ttl, keep=keep, meta=meta)
        if namespace not in self._used:
            self._use(namespace)

    async def get_many(self, keys: Iterable[str], namespace: str = DEFAULT_NAMESPACE) -> dict[str, Any]:
        """The values of those keys that are cached; what L1 lacks is read from Redis, 500 keys at a time."""
        wanted = list(dict.fromkeys(keys))
        valid_name(namespace, "namespace")
        found: dict[str, Any] = {}
        for start in range(0, len(wanted), _READ_AT_ONCE):
            if start:
                await asyncio.sleep(0)  # others have their turn, even if all of it is in L1
            piece = wanted[start : start + _READ_AT_ONCE]
            here = {key: self.get_local(key, namespace, _ABSENT) for key in piece}
            missing = [key for key, value in here.items() if value is _ABSENT]
            if missing and self._enabled:
                values = await asyncio.gather(*[self._look_for(key, namespace) for key in missing])
                here.update(zip(missing, values, strict=True))
            found |= {key: value for key, value in here.items() if value is not _ABSENT}
        return found

    # Writing.

    async def set(
        self,
        key: str,
        value: Any,
        ttl: float | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        tags: Sequence[str] = (),
    ) -> bool:
        """Keep ``value`` for ``ttl`` seconds (default: the configured one); True if a tier holds it.

        A value larger than L1 skips L1; one that L2 cannot carry stays in L1. Raises TypeError for a
        value that cannot be copied, such as an open file.
        """
        key = valid_key(key)
        if namespace not in self._used:
            valid_name(namespace, "namespace")
        if tags != ():
            tags = _valid_tags(tags)
        seconds = self._default_ttl if ttl is None else valid_seconds("ttl", ttl)
        if not self._enabled:
            return False
        return await self._store(namespace, key, value, None, seconds, tags)

    async def _store(
        self,
        namespace: str,
        key: str,
        value: Any,
        frozen: Frozen | None,
        ttl: float,
        tags: tuple[str, ...] = (),
        *,
        stale_ttl: float = 0.0,
        load_seconds: float = 0.0,
        loaded: bool = False,
        tokens: dict[str, bytes] | None = None,
    ) -> bool:
        """``tokens``: those of the tags from before a value was loaded; None: L2 must not have it."""
        l2 = self._l2
        body = None if l2 is None else self._body(value)
        if frozen is None:
            frozen = freeze(value) if body is None else _keep(value, body)
        milliseconds = 0
        if l2 is not None:
            milliseconds = max(1, int((ttl + stale_ttl) * 1000))
            if tags and body is not None and not loaded:
                # First: cancelled here, nothing has changed yet.
                tokens = await l2.open_tags(tags, milliseconds)
                if self._l2 is not l2:
                    return False
        if namespace not in self._used:
            self._use(namespace)
        self._changed(namespace, key)
        meta = Meta(tags, load_seconds) if tags or load_seconds else None
        in_l1 = self._l1.put(namespace, key, frozen, now=self._now(), ttl=ttl, keep=stale_ttl, meta=meta)
        if l2 is None:
            return in_l1
        begun = self._changes
        if body is None or (tags and tokens is None):
            await l2.delete(namespace, [key])  # what it held before is no longer the value
            return in_l1
        payload = self._payload(l2, body, ttl, load_seconds, stale_ttl, tokens)
        told = "load" if loaded else "drop"
        in_l2 = await l2.set(namespace, key, payload, milliseconds, tags, told)
        if self._changed_since(begun, namespace, key, tags):
            # Two writers at once: which of them came last is for Redis to say, not for L1.
            self._l1.store.remove(namespace, key)
            if loaded and in_l2 and self._changed_since(begun, namespace, key, tags, reloads=False):
                # Its SET may have come after a change that is newer than what was loaded.
                await l2.delete(namespace, [key])
        return in_l2 or in_l1

    def _body(self, value: Any) -> bytes | None:
        """The value encoded for L2; None if it cannot travel, which is counted, and logged once a type."""
        try:
            return codec.encode_value(value)
        except UnsupportedValueError as error:
            self._counters.l1_only += 1
            kind = type(value).__qualname__
            if self._is_news("stays in L1", kind):
                logger.warning(
                    "Values of type %s stay in L1, Redis does not carry them: %s",
                    one_line(kind),
                    one_line(error),
                )
            return None

    def _is_news(self, what: str, kind: str) -> bool:
        """Whether it was not yet said of this type."""
        if (what, kind) in self._said or len(self._said) >= 1000:
            return False
        self._said.add((what, kind))
        return True

    def _payload(
        self,
        l2: L2,
        body: bytes,
        ttl: float,
        load_seconds: float = 0.0,
        keep: float = 0.0,
        tags: dict[str, bytes] | None = None,
    ) -> bytes:
        return codec.fold(
            body,
            expires_at=self._redis_time(l2) + ttl, load_seconds=load_seconds, compress=self._compress,
            keep=keep, tags=tags,
        )  # fmt: skip

    async def set_many(
        self,
        items: Mapping[str, Any],
        ttl: float | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        tags: Sequence[str] = (),
    ) -> int:
        """:meth:`set` for several keys, some hundred in one round trip; how many of them a tier holds."""
        pairs = [(valid_key(key), value) for key, value in items.items()]
        valid_name(namespace, "namespace")
        tags = _valid_tags(tags)
        seconds = self._default_ttl if ttl is None else valid_seconds("ttl", ttl)
        if not self._enabled or not items:
            return 0
        self._use(namespace)
        tokens: dict[str, bytes] | None = None
        if self._l2 is not None and tags:
            tokens = await self._l2.open_tags(tags, max(1, int(seconds * 1000)))
        in_l2 = 0
        elsewhere: list[str] = []
        position = 0
        while position < len(pairs) and self._enabled:
            if position:
                await asyncio.sleep(0)  # others have their turn
            taken, stored = await self._set_piece(pairs, position, seconds, namespace, tags, tokens)
            if stored:
                in_l2 += taken
            else:
                elsewhere += [key for key, _ in pairs[position : position + taken]]
            position += taken
        now = self._now()
        return in_l2 + sum(self._l1.store.peek(namespace, key, now) is not None for key in elsewhere)

    async def _set_piece(
        self,
        pairs: list[tuple[str, Any]],
        start: int,
        ttl: float,
        namespace: str,
        tags: tuple[str, ...],
        tokens: dict[str, bytes] | None,
    ) -> tuple[int, bool]:
        """How many pairs, from ``start``, were set, and whether L2 took them all."""
        l2 = self._l2
        sent: list[tuple[str, bytes]] = []
        left_out: list[str] = []
        frozen: list[tuple[str, Frozen]] = []
        size = 0
        for key, value in pairs[start : start + PIECE_KEYS]:
            body = None if l2 is None else self._body(value)
            frozen.append((key, freeze(value) if body is None else _keep(value, body)))
            if l2 is None:
                continue
            if body is None or (tags and tokens is None):
                left_out.append(key)
            else:
                sent.append((key, self._payload(l2, body, ttl, tags=tokens)))
                size += len(sent[-1][1])
            if size >= PIECE_BYTES:
                break
        meta = Meta(tags, 0.0) if tags else None
        for key, one in frozen:
            self._changed(namespace, key)
            self._l1.put(namespace, key, one, now=self._now(), ttl=ttl, keep=0.0, meta=meta)
        if l2 is None:
            return len(frozen), False
        begun = self._changes
        took = True
        if sent:
            took = await l2.set_many(namespace, sent, max(1, int(ttl * 1000)), tags)
        if left_out:
            took = False
            await l2.delete(namespace, left_out)
        if self._changes != begun:
            for key, _ in sent:
                if self._changed_since(begun, namespace, key, tags):
                    self._l1.store.remove(namespace, key)
        return len(frozen), took

    def _use(self, namespace: str) -> None:
        if namespace not in self._used:
            if len(self._used) < MAX_NAMESPACES:
                self._used[namespace] = None
            else:
                self._used_more = True

    # Dropping.

    async def delete(self, key: str, namespace: str = DEFAULT_NAMESPACE) -> bool:
        """Drop one key in both tiers, for every instance; False if neither had it."""
        key = valid_key(key)
        valid_name(namespace, "namespace")
        if not self._enabled:
            return False
        had = self._l1.store.peek(namespace, key, self._now()) is not None
        self._changed(namespace, key)
        return bool(self._l2 is not None and await self._l2.delete(namespace, [key])) or had

    async def invalidate_pattern(self, pattern: str, namespace: str = DEFAULT_NAMESPACE) -> int:
        """Drop the keys of one namespace that match a glob (``user:*``); how many keys that was.

        Reads every key of the namespace here and scans the keys in Redis: for hot paths use tags.
        """
        pattern = valid_name(printable(pattern) if isinstance(pattern, str) else pattern, "pattern")
        valid_name(namespace, "namespace")
        compile_glob(pattern)
        if not self._enabled:
            return 0
        self._changed_unknown()
        gone = set(self._l1.drop_pattern(namespace, pattern))
        if self._l2 is not None:
            gone |= set(await self._l2.drop_pattern(namespace, pattern, "pattern"))
        return len(gone)

    async def invalidate_tag(self, tag: str) -> int:
        """Drop every entry, in any namespace, that was stored with the tag; how many of L1 that was."""
        return await self.invalidate_tags((tag,))

    async def invalidate_tags(self, tags: Sequence[str]) -> int:
        """Drop every entry, in any namespace, that was stored with any of the tags; how many of L1 that was.

        In Redis it is one small command for each tag, however many values carry it; how many those are
        is not known.
        """
        tags = tuple(dict.fromkeys(_valid_tags(tags)))
        if not self._enabled or not tags:
            return 0
        self._changed_tags(tags)
        gone = sum(len(self._l1.drop_tag(tag)) for tag in tags)
        if self._l2 is not None:
            await self._l2.drop_tags(tags)
        return gone

    async def clear(self, namespace: str | None = None) -> int:
        """Drop a namespace, or all that this process has used, in both tiers; how many entries of L1.

        A process that has used more than ``MAX_NAMESPACES`` drops those of the others in Redis too.
        """
        if namespace is not None:
            valid_name(namespace, "namespace")
        if not self._enabled:
            return 0
        self._changed_unknown()
        names = list({**self._used, **self._l1.store.spaces}) if namespace is None else [namespace]
        gone = self._l1.store.clear(namespace)
        if self._l2 is not None and namespace is None and self._used_more:
            await self._l2.drop_values()
        elif self._l2 is not None:
            for name in names:
                await self._l2.drop_pattern(name, "*", "clear")
        return gone

    # Loading.

    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        ttl: float | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        tags: Tags = (),
        options: LoadOptions = PLAIN,
    ) -> Any:
        """The cached value, or what ``await loader()`` returns, which is then cached for ``ttl`` seconds.

        None and other falsy values are values. Any number of concurrent misses of this process run
        one load; a caller that is cancelled leaves alone, and the loader's exception reaches every
        waiter and is not cached. A value that was changed or dropped while it loaded is returned and
        not cached. A loader that waits for its own key, through whatever other loads and tasks, raises
        CircularLoadError. ``tags`` may be a function of the loaded value, for tags that only it can tell. See
        :class:`LoadOptions` for stale values, timeouts and early refresh.
        """
        if not self._enabled:
            return await loader()
        entry = self._spaces.get(namespace, _NOTHING).get(key)
        if entry is not None and entry.expires_at > self._now():
            if options.early_refresh and self._should_refresh(entry, options):
                self._refresh(key, loader, ttl, namespace, tags, options)
            return self._hit(entry)
        stored = valid_key(key)
        valid_name(namespace, "namespace")
        if stored is not key:
            entry = self._spaces.get(namespace, _NOTHING).get(stored)
            if entry is not None and entry.expires_at > self._now():
                if options.early_refresh and self._should_refresh(entry, options):
                    self._refresh(stored, loader, ttl, namespace, tags, options)
                return self._hit(entry)
            key = stored
        checked = _checked(tags)
        look_up = _LookUp(checked, options.stale_ttl) if checked or options.stale_ttl else None
        found = await self._find(key, namespace, look_up)
        if found is not _ABSENT:
            return found
        seconds = self._default_ttl if ttl is None else valid_seconds("ttl", ttl)
        return await self._load(key, loader, seconds, namespace, checked, options, look_up)

    async def _load(
        self,
        key: str,
        loader: Loader,
        ttl: float,
        namespace: str,
        tags: tuple[str, ...] | TagsOf,
        options: LoadOptions,
        look_up: _LookUp | None,
    ) -> Any:
        led = False

        async def run() -> tuple[Any, Frozen | None]:
            nonlocal led
            led = True
            return await self._run_loader(key, loader, ttl, namespace, tags, options, look_up)

        stale = self._stale(namespace, key, options) or (look_up.stale if look_up is not None else None)
        flight = self._flights.run(
            (namespace, key), run, timeout=self._limit(options), expired=lambda: self._expired(key)
        )
        try:
            if stale is not None and options.soft_timeout is not None:
                value, frozen = await self._or_stale(flight, options.soft_timeout)
            else:
                value, frozen = await flight
        except Exception as error:
            if stale is None:
                raise
            self._counters.stale_served += 1
            if not isinstance(error, _TooSlow):
                self._counters.load_failures += 1
                logger.warning(
                    "Loader of %s failed, a stale value is served: %s",
                    one_line(shown(key), 100),
                    one_line(error),
                )
            return stale.value if stale.thaw is None else stale.thaw(stale.value)
        if frozen is not None:
            return frozen.value if frozen.thaw is None else frozen.thaw(frozen.value)
        # It cannot be copied: the one who loaded it has it, and the others load their own.
        return value if led else await loader()

    def _limit(self, options: LoadOptions) -> float | None:
        """Seconds for a whole load, after which its callers are let go; a ``hard_timeout`` comes first."""
        limit = self._flights.timeout
        return limit if limit is None or options.hard_timeout is None else limit + options.hard_timeout

    def _expired(self, key: str) -> LoaderTimeoutError:
        return LoaderTimeoutError(
            f"loading {key[:100]!r} took longer than {self._flights.timeout:g} s (CACHE_LOAD_TIMEOUT)"
        )

    def _stale(self, namespace: str, key: str, options: LoadOptions) -> Frozen | None:
        """The last good value, if it is asked for; held here, since it may be evicted meanwhile."""
        if not options.stale_ttl:
            return None
        entry = self._l1.store.peek(namespace, key, self._now())
        return None if entry is None else Frozen(entry.value, entry.thaw, entry.size)

    async def _or_stale(
        self, flight: Coroutine[Any, Any, tuple[Any, Frozen | None]], soft_timeout: float
    ) -> tuple[Any, Frozen | None]:
        """The flight's result if it comes in time; else _TooSlow, while the flight goes on."""
        task = self._tasks.spawn(_quiet(flight), name="cache-load")
        done, _ = await asyncio.wait([task], timeout=soft_timeout)
        if not done:
            raise _TooSlow
        result: tuple[Any, Frozen | None]
        result, error = task.result()
        if error is not None:
            raise error
        return result

    async def _run_loader(
        self,
        key: str,
        loader: Loader,
        ttl: float,
        namespace: str,
        tags: tuple[str, ...] | TagsOf,
        options: LoadOptions,
        look_up: _LookUp | None = None,
    ) -> tuple[Any, Frozen | None]:
        l2 = self._l2
        milliseconds = max(1, int((ttl + options.stale_ttl) * 1000))
        tokens: dict[str, bytes] | None = None
        if l2 is not None and tags:
            # Before the load begins: a tag that is dropped while it runs has another one then.
            tokens = await self._tokens(l2, look_up or _LookUp(tags), milliseconds)
        start = self._now()
        begun = self._changes
        self._counters.loads += 1
        if options.hard_timeout is None:
            value = await loader()
        else:
            try:
                async with asyncio.timeout(options.hard_timeout) as limit:
                    value = await loader()
            except TimeoutError as error:
                if not limit.expired():
                    raise  # the loader's own
                raise LoaderTimeoutError(
                    f"loader of {key[:100]!r} took longer than {options.hard_timeout:g} s"
                ) from error
        try:
            frozen = freeze(value)
        except TypeError as error:
            kind = type(value).__qualname__
            if self._is_news("not copied", kind):
                logger.warning(
                    "What the loader of %s returns is not cached: %s",
                    one_line(shown(key), 100),
                    one_line(error),
                )
            return value, None
        if value is None and options.negative_ttl is not None:
            ttl = options.negative_ttl
        carried = _valid_tags(tags(value)) if callable(tags) else tags
        wanted = ttl > 0 and (options.cache_if is None or options.cache_if(value))
        if wanted and self._enabled and not self._changed_since(begun, namespace, key, carried):
            if options.ttl_jitter:
                ttl *= 1 - random.random() * options.ttl_jitter / 100
            took = self._now() - start if options.early_refresh else 0.0
            if l2 is not None and callable(tags) and tokens is not None and carried:
                # Known only now: they are trusted if no tag at all was dropped meanwhile.
                after = await l2.open_tags((*carried, ANY_TAG), milliseconds)
                unchanged = after is not None and after.pop(ANY_TAG) == tokens[ANY_TAG]
                tokens = after if unchanged else None
            if self._enabled and not self._changed_since(begun, namespace, key, carried):
                await self._store(
                    namespace, key, value, frozen, ttl, carried,
                    stale_ttl=options.stale_ttl, load_seconds=took, loaded=True,
                    tokens=tokens if carried else None,
                )  # fmt: skip
        return value, frozen

    async def _tokens(self, l2: L2, look_up: _LookUp, milliseconds: int) -> dict[str, bytes] | None:
        known = {tag: token for tag, token in look_up.tokens.items() if token is not None}
        missing = [tag for tag in look_up.tags if tag not in known]
        if missing:
            made = await l2.open_tags(missing, milliseconds)
            if made is None:
                return None
            known |= made
        return known

    def _should_refresh(self, entry: Entry, options: LoadOptions) -> bool:
        meta: Meta | None = entry.meta
        if meta is None or not meta.load_seconds:
            return False
        # XFetch: the slower the load and the nearer the end, the likelier.
        ahead = meta.load_seconds * options.early_refresh * -math.log(1.0 - random.random())
        return self._now() + ahead >= entry.expires_at

    def _refresh(
        self,
        key: str,
        loader: Loader,
        ttl: float | None,
        namespace: str,
        tags: Tags,
        options: LoadOptions,
    ) -> None:
        if (namespace, key) in self._flights:
            return
        self._counters.early_refreshes += 1
        seconds = self._default_ttl if ttl is None else valid_seconds("ttl", ttl)

        async def refresh() -> None:
            try:
                await self._flights.run(
                    (namespace, key),
                    lambda: self._run_loader(key, loader, seconds, namespace, _checked(tags), options),
                    timeout=self._limit(options),
                    expired=lambda: self._expired(key),
                )
            except Exception as error:
                self._counters.load_failures += 1
                logger.warning("Early refresh of %s failed: %s", one_line(shown(key), 100), one_line(error))

        self._tasks.spawn(refresh(), name="cache-early-refresh")

    # Warming.

    async def warm_cache(
        self,
        key: str,
        loader_func: Loader,
        ttl: float | None = None,
        interval: float | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        timeout: float = TIMEOUT,
    ) -> bool:
        """Load a key now, and again every ``interval`` seconds until :meth:`stop_warming` or :meth:`disable`.

        True if the first load succeeded; a load that fails, or takes longer than ``timeout`` seconds and is
        cancelled then, is logged and tried again at the next turn. ``interval`` None takes the configured
        one. Instances spread their turns by up to a tenth. Warming the same key again replaces its loader.
        With ``warming`` switched off there is the first load only. It goes on when the cache is
        reconfigured, with Redis or without.
        """
        key = valid_key(key)
        valid_name(namespace, "namespace")
        seconds = self._default_ttl if ttl is None else valid_seconds("ttl", ttl)
        every = None if interval is None else valid_seconds("interval", interval)
        valid_seconds("timeout", timeout)
        if not self._enabled:
            return False

        async def load() -> bool:
            try:
                begun = self._changes
                async with asyncio.timeout(timeout) as limit:
                    value = await loader_func()
            except Exception as error:
                self._counters.load_failures += 1
                if isinstance(error, TimeoutError) and limit.expired():
                    logger.warning("Warming %s took longer than %g s", one_line(shown(key), 100), timeout)
                else:
                    logger.warning("Warming %s failed: %s", one_line(shown(key), 100), one_line(error))
                return False
            try:
                if self._enabled and not self._changed_since(begun, namespace, key, ()):
                    await self._store(namespace, key, value, freeze(value), seconds, loaded=True)
            except Exception as error:
                self._counters.load_failures += 1
                logger.warning("Warming %s failed: %s", one_line(shown(key), 100), one_line(error))
                return False
            return True

        loaded = await load()
        if self._warming_on and self._enabled:
            self._warmer.keep(namespace, key, load, lambda: every or self._warming_interval)
        return loaded

    def stop_warming(self, key: str, namespace: str = DEFAULT_NAMESPACE) -> bool:
        """Load a warmed key no more; False if it was not warmed."""
        return self._warmer.forget(namespace, valid_key(key))

    # For other services, which the start-up joins to this one.

    def listen(self, topic: str, listener: Callable[[list[str] | None], None] | None) -> None:
        """Hear what other instances :meth:`tell` about ``topic``; None stops it.

        ``listener`` gets the items, or None when messages may have been missed.
        """
        if listener is None:
            self._listeners.pop(topic, None)
        else:
            self._listeners[topic] = listener

    def tell(self, topic: str, items: list[str]) -> asyncio.Task[Any] | None:
        """Send the other instances a message, in a task of its own; None if there is nobody to tell."""
        if self._l2 is None or not self._enabled:
            return None
        return self._tasks.spawn(self._l2.tell(topic, items), name="cache-tell")

    # Figures.

    async def get_statistics(self) -> dict[str, Any]:
        """Counts since the start or the last reset; rates are percent, sizes MB."""
        counters = self._counters
        store = self._l1.store
        l2 = self._l2
        hits = counters.l1_hits + counters.l2_hits
        # What was looked up in L2 was not in L1; the hot path counts it once.
        l1_misses = counters.l1_misses + counters.l2_hits + counters.l2_misses
        misses = counters.l1_misses + counters.l2_misses
        overall = _percent(hits, hits + misses)
        return {
            "enabled": self._enabled,
            "l1_entries": len(store),
            "l1_memory_mb": round(store.bytes_used / _MB, 3),
            "l1_max_size_mb": self._max_size_mb,
            "l1_hits": counters.l1_hits,
            "l1_misses": l1_misses,
            "l1_hit_rate_percent": _percent(counters.l1_hits, counters.l1_hits + l1_misses),
            "l1_evictions": store.evictions,
            "l1_insertions": store.insertions,
            "l2_enabled": l2 is not None,
            "l2_connected": l2 is not None and l2.link.available and not self._deaf,
            "l2_hits": counters.l2_hits,
            "l2_misses": counters.l2_misses,
            "l2_errors": l2.errors if l2 is not None else 0,
            "l2_undecodable": l2.undecodable if l2 is not None else 0,
            "l2_malformed_messages": l2.malformed if l2 is not None else 0,
            "l1_only_values": counters.l1_only,
            "total_hits": hits,
            "total_misses": misses,
            "hit_rate": overall,
            "overall_hit_rate_percent": overall,
            "eviction_rate": _percent(store.evictions, store.insertions),
            "loads": counters.loads,
            "load_failures": counters.load_failures,
            "stale_served": counters.stale_served,
            "early_refreshes": counters.early_refreshes,
            "warming_tasks": len(self._warmer),
            "degraded": l2 is not None and (not l2.link.available or self._deaf or l2.link.impaired),
            "l2_refused": dict(l2.link.refused) if l2 is not None else {},
        }

    async def reset_statistics(self) -> None:
        """Counters to zero; nothing cached is dropped."""
        self._counters = Counters()
        store = self._l1.store
        store.evictions = store.expirations = store.insertions = 0

    async def reset(self) -> None:
        await self.reset_statistics()
        await self.clear()


def _shown(at: tuple[str, str]) -> str:
    namespace, key = at
    return repr(key) if namespace == DEFAULT_NAMESPACE else f"{key!r} in {namespace!r}"


def _keep(value: Any, body: bytes) -> Frozen:
    """A value whose encoded form is at hand, for L1: the bytes, which no caller can change.

    Decoding them anew costs less than copying, and their size is exact without walking the value.
    """
    if type(value) in IMMUTABLE:
        return Frozen(value, None, getsizeof(value))
    return Frozen(body, thaw_again, len(body) + _BYTES_HEADER)


_BYTES_HEADER = getsizeof(b"")


_READ_AT_ONCE = 500


class _LookUp:
    """What a read is asked for besides the value, and what it found of that."""

    __slots__ = ("asked", "stale", "stale_ttl", "tags", "tokens")

    def __init__(self, tags: tuple[str, ...] | TagsOf, stale_ttl: float = 0.0) -> None:
        # What is to be known before a load begins.
        self.tags = (ANY_TAG,) if callable(tags) else tags
        self.stale_ttl = stale_ttl
        self.asked: dict[str, asyncio.Future[bytes | None]] = {}
        self.tokens: dict[str, bytes | None] = {}
        self.stale: Frozen | None = None
        """The last good value, if it has expired no longer than ``stale_ttl`` seconds ago."""


class _TooSlow(Exception):
    """A load went past its soft timeout."""


async def _quiet(
    flight: Coroutine[Any, Any, tuple[Any, Frozen | None]],
) -> tuple[Any, Exception | None]:
    # As a value: nobody may be left to hear of the error when it comes.
    try:
        return await flight, None
    except Exception as error:
        return None, error


def _checked(tags: Tags) -> tuple[str, ...] | TagsOf:
    return tags if callable(tags) else _valid_tags(tags)


def _valid_tags(tags: Sequence[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise invalid("tags", tags, f"a sequence of strings, such as ({tags!r},)")
    if len(tags) > codec.MAX_TAGS:
        raise invalid("tags", len(tags), f"at most {codec.MAX_TAGS:,} of them")
    return tuple([valid_key(tag, "tag") for tag in tags]) if tags else ()


def _percent(part: int, whole: int) -> float:
    return round(part / whole * 100, 2) if whole else 0.0


__all__ = ["DEFAULT_NAMESPACE", "MAX_KEY", "CacheManager"]
