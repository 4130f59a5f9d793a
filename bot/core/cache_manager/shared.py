"""The second tier, L2, as this process uses it: values in Redis, from joining it to leaving it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from sys import getsizeof
from typing import Any

from bot.core._shared.clock import Clock
from bot.core._shared.isolation import IMMUTABLE, Frozen, freeze
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import BackgroundTasks, to_the_end
from bot.core._shared.values import TINY, thaw_again, thaw_body, thaw_tiny
from bot.core.cache_manager import codec
from bot.core.cache_manager.backplane import Backplane, Listener
from bot.core.cache_manager.codec import HEADER_SIZE, LARGE, read_header, read_notes
from bot.core.cache_manager.compression import COMPRESSED, Pack, Packed
from bot.core.cache_manager.errors import UnsupportedValueError
from bot.core.cache_manager.failures import Failures
from bot.core.cache_manager.keys import redis_key
from bot.core.cache_manager.l1 import Meta
from bot.core.cache_manager.l2 import L2
from bot.core.cache_manager.large_values import SUPERSEDED, LargeValues, by_thread, unpacked
from bot.core.cache_manager.local import LocalTier
from bot.core.cache_manager.models import ABSENT, FirstOfType, LookUp
from bot.core.cache_manager.redis_time import RedisTime
from bot.core.cache_manager.resync import Resync
from bot.core.cache_manager.shared_keys import SharedKeys, lua
from bot.core.cache_manager.stats import Counters
from bot.core.cache_manager.tags import same
from bot.core.redis_link import RedisLink

logger = logging.getLogger(__name__)

_BYTES_HEADER = getsizeof(b"")


class SharedTier:
    """One Redis, from joining to leaving it. What it reads and writes goes through the local tier, too.

    After :meth:`leave` it stores nothing in the local tier, even if calls were in progress.
    """

    def __init__(
        self,
        link: RedisLink,
        local: LocalTier,
        counters: Counters,
        clock: Clock,
        first_of_type: FirstOfType,
        listeners: dict[str, Listener],
        on_hearing: Callable[[], None],
        *,
        pack: Pack | None,
    ) -> None:
        """``link`` is released by :meth:`leave`; ``on_hearing`` and ``listeners`` are the backplane's.

        ``pack`` makes values smaller; None: they are sent as they are.
        """
        self.link = link
        self._root = link.root_bytes
        self.pack = pack
        self.local = local
        self.l1 = local.l1
        self.changes = local.changes
        self.counters = counters
        self._now = clock.monotonic
        self._first_of_type = first_of_type
        self.left = False
        """Changed only by leave."""
        # What listens to Redis and repeats what it missed.
        self._tasks = BackgroundTasks()
        self.failures = Failures()
        self.backplane = Backplane(link, local, listeners, on_hearing, self.failures)
        self.resync = Resync(link, self.backplane, self.failures)
        self.large = LargeValues()
        self.time = RedisTime(link, clock, self._tasks, self.failures)
        self.l2 = L2(link, self.backplane, self.resync, self.failures)
        self.lease_script = link.script(lua("lease"))
        """lease.lua, for locks.py."""
        self.keys = SharedKeys(
            link, local, self.l2, self.backplane, self.resync, self.time, self.failures, self._tasks
        )
        self._forget_recovery = link.on_recovery(self._recovered)

    # From joining Redis to leaving it.

    async def settled(self) -> None:
        """Give the subscription a moment; without it L1 is not used while Redis answers."""
        await self.time.read()
        if self.link.available:
            await self.backplane.settled()

    async def leave(self) -> None:
        """End every task and give the connections back; completes even if it is cancelled."""
        self.left = True
        self._forget_recovery()
        await to_the_end(self._give_back())

    async def _give_back(self) -> None:
        try:
            await self._tasks.stop()
            for namespace, key in self.large.take_all():
                await self.l2.delete(namespace, (key,))  # it has the value before
        finally:
            try:
                await self.resync.stop()
                await self.backplane.stop()
                await self.l2.stop()
            finally:
                await self.link.release()

    def look(self) -> None:
        """See whether Redis is back, if it is away and that is due: in a task, so the next status knows.

        Without this a cache that nobody uses would be degraded for good.
        """
        if not self.link.probe_due:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # a status may be asked for anywhere
        self._tasks.spawn(self.link.probe(), name="cache-probe")

    @property
    def in_step(self) -> bool:
        """Whether Redis has every change made here."""
        return self.resync.in_step

    def _recovered(self) -> None:
        # Changes of others may have been missed, whether or not the subscription noticed.
        self.backplane.missed()
        self.time.doubt()
        if not self.resync.in_step:
            self._tasks.spawn(self.resync.run(), name="cache-resync")

    async def tell(self, topic: str, items: list[str]) -> None:
        """Send the other instances a message of another service."""
        arrived = False
        try:
            arrived = await self.backplane.tell(topic, items)
        finally:
            if not arrived:
                self.resync.untold_of(topic)

    # Reading.

    async def read(self, namespace: str, key: str, look_up: LookUp | None = None) -> Any:
        """The value in Redis, which is then kept in L1, too, if it is worth it; ABSENT if there is none."""
        if not self.backplane.hearing:
            # Under a new event loop the subscription only begins: what is read before it is established would
            # be dropped from L1 at once.
            await self.backplane.settled()
        begun = self.changes.count
        at = redis_key(namespace, key, self._root)
        if look_up is not None and look_up.tags:
            look_up.asked = self.l2.ask_tokens(look_up.tags)
        try:
            raw = await self.link.reader.get(at)
        except Exception as error:
            self.failures.failed(error)
            found = self.local.find(key, (namespace,))
            if found is not ABSENT:
                return found
            raw = None
        if look_up is not None and look_up.asked:
            look_up.tokens = await self.l2.tokens(look_up.asked)
        resync = self.resync
        if raw is not None and (resync.in_step or not resync.outdated(at)):
            try:
                flags, expires_at, load_seconds = read_header(raw)
                if flags == 0:
                    # The commonest kind, in place: no tags, and not kept beyond its expiry.
                    body = raw[HEADER_SIZE:]
                    if len(body) <= LARGE:
                        value = thaw_tiny(body) if len(body) <= TINY else thaw_body(body)
                    else:
                        value = await self.large.thawed(body)
                    self.counters.l2_hits += 1
                    if self.l1.store.admits(namespace, key):
                        self.keep(namespace, key, value, body, begun, expires_at, load_seconds)
                    return value
                body, keep, tags = read_notes(raw, flags)
                if not tags or await self._in_force(tags, look_up):
                    if flags & COMPRESSED:
                        body = await unpacked(raw, body)
                    value = thaw_body(body) if len(body) <= LARGE else await self.large.thawed(body)
                    age = self.time.now() - expires_at if keep else -1.0
                    if age < 0:
                        self.counters.l2_hits += 1
                        if self.l1.store.admits(namespace, key):
                            self.keep(
                                namespace, key, value, body, begun, expires_at, load_seconds, keep, tags
                            )
                        return value
                    if look_up is not None and age <= min(keep, look_up.stale_ttl):
                        look_up.stale = frozen_as(value, body)
            except Exception as error:
                # Untrusted bytes. decode_body would describe each failure, for a tenth of the cost of a read.
                self.failures.unreadable(error)
        self.counters.l2_misses += 1
        return ABSENT

    async def _in_force(self, tags: dict[str, bytes], look_up: LookUp | None) -> bool:
        """Whether no tag of a value was dropped since its load began; if that is unknown, False."""
        known = look_up.tokens if look_up is not None else {}
        found = {tag: known[tag] for tag in tags if tag in known}
        if len(found) < len(tags):
            found |= await self.l2.tokens(self.l2.ask_tokens([tag for tag in tags if tag not in known]))
        return same(tags, found)

    def keep(
        self,
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
        """Keep in L1 what Redis gave, unless it may have changed since ``begun``."""
        now = self._now()
        time = self.time
        offset = time.offset
        # inlined: RedisTime.now
        ttl = expires_at - (time.now() if offset is None or now >= time.read_at else now + offset)
        if ttl <= 0 or self.left:
            return
        changes = self.changes
        if changes.count != begun and changes.since(begun, namespace, key, tags):
            return
        meta = Meta(tuple(tags), load_seconds) if load_seconds or tags else None
        # inlined: frozen_as
        if value.__class__ in IMMUTABLE:
            frozen = Frozen(value, None, getsizeof(value))
        else:
            frozen = Frozen(body, thaw_again, len(body) + _BYTES_HEADER)
        self.l1.put(namespace, key, frozen, now=now, ttl=ttl, keep=keep, meta=meta)
        if namespace not in self.local.used:
            self.local.use(namespace)

    # Writing.

    async def store(
        self,
        namespace: str,
        key: str,
        value: Any,
        frozen: Frozen | None,
        ttl: float,
        tags: tuple[str, ...] = (),
        *,
        keep: float = 0.0,
        load_seconds: float = 0.0,
        loaded: bool = False,
        tokens: dict[str, bytes] | None = None,
        fence: tuple[bytes, str] | None = None,
        body: bytes | None = None,
    ) -> bool:
        """Set a key in both tiers; True if one of them holds it.

        ``frozen``: the value made safe to keep, if that is at hand. ``loaded``: it was read from where it
        comes from, and ``tokens`` are those of its tags from before that; None: L2 must not have it.
        ``fence``: the lease under which it was loaded; if another has it now, nothing is stored. ``body``:
        the value encoded, if that is at hand.
        """
        if body is None:
            body = self.body_of(value)
        if frozen is None:
            frozen = freeze(value) if body is None else frozen_as(value, body)
        milliseconds = max(1, int((ttl + keep) * 1000))
        if tags and body is not None and not loaded:
            # This comes first: if it is cancelled here, nothing has changed yet.
            tokens = await self.l2.open_tags(tags, milliseconds)
            if self.left:
                return False
        in_l1 = self.local.store(namespace, key, frozen, ttl, tags, load_seconds, keep)
        if self.large.packing:
            self.large.supersede(namespace, key)
        changes = self.changes
        begun = changes.count
        if body is None or (tags and tokens is None):
            await self.l2.delete(namespace, (key,))  # what it held before is no longer the value
            return in_l1
        smaller = None
        if len(body) > LARGE and self.pack is not None:
            smaller = await self._packed(namespace, key, body, self.pack, loaded=loaded)
            if smaller is SUPERSEDED:
                return in_l1
            if changes.count != begun and changes.since(begun, namespace, key, tags, reloads=False):
                # It was dropped meanwhile, which must hold, and the value before must not come back.
                self.l1.store.remove(namespace, key)
                if not loaded:
                    await self.l2.delete(namespace, (key,))
                return False
        payload = self.payload_of(body, ttl, load_seconds, keep, tokens, smaller)
        told = "load" if loaded else "drop"
        if fence is None:
            in_l2 = await self.l2.set_many(namespace, ((key, payload),), milliseconds, tags, told)
        else:
            fenced = await self.l2.set_fenced(namespace, key, payload, milliseconds, tags, fence)
            if fenced is False:
                self.l1.store.remove(namespace, key)  # what the other one loaded is newer
                return False
            in_l2 = bool(fenced)
        if changes.count != begun and changes.since(begun, namespace, key, tags):
            # Two concurrent writers: only Redis knows which of them came last.
            self.l1.store.remove(namespace, key)
            if loaded and in_l2 and changes.since(begun, namespace, key, tags, reloads=False):
                # Its SET may have come after a change that is newer than what was loaded.
                await self.l2.delete(namespace, (key,))
                self.local.delete(namespace, key)  # where a read may have put it meanwhile
        return in_l2 or in_l1

    async def _packed(
        self, namespace: str, key: str, body: bytes, pack: Pack, *, loaded: bool
    ) -> Packed | None:
        """As :meth:`LargeValues.packed`."""
        try:
            return await self.large.packed(namespace, key, body, pack)
        except asyncio.CancelledError:
            if not loaded:
                self.resync.missed([redis_key(namespace, key, self._root)])  # it has the value before
            raise

    async def to_be_added(self, value: Any) -> tuple[bytes, Frozen]:
        """The payload of a value, and the value made safe to keep. Raises UnsupportedValueError."""
        body = codec.encode_value(value)
        frozen = frozen_as(value, body)
        if self.pack is not None and len(body) > LARGE and codec.may_shrink(body):
            smaller = await by_thread(self.pack, body)
            return codec.fold(body, pack=None, smaller=smaller), frozen
        return codec.fold(body, pack=self.pack), frozen

    def body_of(self, value: Any) -> bytes | None:
        """The value encoded for L2; None if it cannot be encoded, which is counted, and logged once for each
        type.
        """
        try:
            return codec.encode_value(value)
        except UnsupportedValueError as error:
            self.counters.l1_only += 1
            kind = type(value).__qualname__
            if self._first_of_type("stays in L1", kind):
                logger.warning(
                    "Values of type %s stay in L1, because they cannot be stored in Redis: %s",
                    one_line(kind),
                    one_line(error),
                )
            return None

    def payload_of(
        self,
        body: bytes,
        ttl: float,
        load_seconds: float = 0.0,
        keep: float = 0.0,
        tags: dict[str, bytes] | None = None,
        smaller: Packed | None = None,
    ) -> bytes:
        return codec.fold(
            body,
            expires_at=self.time.now() + ttl, load_seconds=load_seconds,
            pack=self.pack if len(body) <= LARGE else None,
            keep=keep, tags=tags, smaller=smaller,
        )  # fmt: skip


def frozen_as(value: Any, body: bytes) -> Frozen:
    """A value for L1 whose encoded form exists already: the bytes, which no caller can change.

    To decode them for each reader costs less than to copy the value, and their size is known exactly.
    """
    if type(value) in IMMUTABLE:
        return Frozen(value, None, getsizeof(value))
    return Frozen(body, thaw_again, len(body) + _BYTES_HEADER)
