"""Reads and claims entries of the stream, and keeps the leases of what this instance holds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from bot.core._shared.errors import BackendError, CorruptPayloadError
from bot.core._shared.masking import one_line
from bot.core.batch_processor.dispatcher import Dispatcher
from bot.core.batch_processor.durable.fence import Fence
from bot.core.batch_processor.durable.held import Held
from bot.core.batch_processor.durable.limits import Limits
from bot.core.batch_processor.durable.loops import Loops
from bot.core.batch_processor.durable.settling import Settling
from bot.core.batch_processor.durable.streams import Delivery, Streams
from bot.core.batch_processor.durable.values import AT_ONCE, lane_of, wanted_of
from bot.core.batch_processor.lifecycle import State
from bot.core.batch_processor.models import BatchItem
from bot.core.redis_link import RedisUnavailableError

logger = logging.getLogger(__name__)

BLOCK = 200
"""Milliseconds that a read waits for entries; well within the link's timeout."""

SILENT_CONSUMERS = 3_600.0
"""Seconds without a sign after which a consumer that holds nothing is forgotten."""


class Leases:
    """Two loops: the reader takes new entries, the keeper refreshes leases and claims those that are over.

    No more is read than the handlers can take: the rest stays in the stream for other instances.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        streams: Streams,
        loops: Loops,
        limits: Limits,
        held: Held,
        settling: Settling,
        fence: Fence,
    ) -> None:
        self._d = dispatcher
        self._streams = streams
        self._loops = loops
        self._limits = limits
        self._held = held
        self._settling = settling
        self._fence = fence
        self.give_up: Callable[[bytes], Awaitable[None]]
        """Takes back the item of an entry, for another instance that asks for it, unless a handler has it."""
        self.move_due: Callable[[], Awaitable[float]]
        """Moves what is due into the stream; the seconds until more is."""
        self.reading: asyncio.Task[None] | None = None
        self._read_count = AT_ONCE
        self.reset_counters()

    def reset_counters(self) -> None:
        """Count from now on."""
        self.reclaimed = self.redelivered = self.given_back = 0

    def start(self) -> None:
        """Begin both loops under the running event loop."""
        self._fence.forget()
        self._fence.watch()
        self._start_reader()
        self._start_keeper()

    def _start_reader(self) -> None:
        if self._loops.state is State.ON:
            self.reading = self._loops.spawn(
                self._loops.repeat("read", self._read_some, State.ON), "batch-reader", self._start_reader
            )

    def _start_keeper(self) -> None:
        if self._loops.state in (State.ON, State.DRAINING):
            self._loops.spawn(
                self._loops.repeat("keep", self._keep, State.ON, State.DRAINING),
                "batch-keeper",
                self._start_keeper,
            )

    def forget(self) -> None:
        """In a child after a fork: what is held is the parent's."""
        self._held.clear()
        self._fence.forget()
        self.reading = None

    # Reading.

    def _room(self) -> int:
        d = self._d
        if d.handler.function is None or d.state is not State.ON:
            return 0
        return min(self._read_count, d.size * (d.max_concurrent + 1) - d.backlog.pressing)

    async def _read_some(self) -> None:
        room = self._room()
        if room <= 0:
            self._loops.reader_awake.clear()
            await self._loops.reader_awake.wait()
            return
        try:
            deliveries = await self._streams.read(self._d.ids.prefix, room, BLOCK)
        except RedisUnavailableError:
            # If it was too much to come within the timeout, less will.
            self._read_count = max(1, self._read_count // 2)
            raise
        self._read_count = min(AT_ONCE, self._read_count * 2)
        self._loops.succeeded("read")
        since = self._d.now()
        await self._take(await self._streams.gate(self._d.ids.prefix, deliveries), since, None)

    async def take_waited(self, deliveries: Sequence[Delivery], since: float) -> None:
        """Hand entries to the dispatcher that have waited: those of lanes are due now.

        ``since``: when they were leased, at the earliest.
        """
        due: list[BatchItem] = []
        await self._take(deliveries, since, due)
        if due:
            self._d.admit_next(due)

    async def _take(self, deliveries: Sequence[Delivery], since: float, due: list[BatchItem] | None) -> None:
        condemned = self._hand_over(deliveries, since, due)
        self._fence.watch()
        if condemned:
            await self._settling.condemn(condemned)

    def _hand_over(
        self, deliveries: Sequence[Delivery], since: float, due: list[BatchItem] | None
    ) -> list[tuple[BatchItem, str]]:
        """Hand entries to the dispatcher, or those of lanes to ``due`` if it is a list.

        Returns those that must not be handled, and why.
        """
        condemned: list[tuple[BatchItem, str]] = []
        now = self._d.now()
        for entry, count, value, stopped, name in deliveries:
            if entry in self._held:
                continue  # its lease was over, and now it is this instance's again
            try:
                lane = None
                lane = lane_of(name)
                item_id, priority, data, replaceable = wanted_of(value)
            except CorruptPayloadError as error:
                unreadable = BatchItem(
                    value, None, now, f"?{entry.decode()}", 0, 0, count, entry=entry, lane=lane
                )
                condemned.append((unreadable, f"the entry cannot be read: {error}"))
                continue
            seen = count + stopped
            item = BatchItem(
                data, None, now, item_id, priority, 0, seen, entry=entry, counted=count, lane=lane
            )
            if count > self._limits.max_deliveries:
                reason = f"given to {count - 1} instances, each of which ended before it was handled"
                condemned.append((item, reason))
                continue
            self.redelivered += item.deliveries > 1
            alone = count > self._limits.alone_from
            self._held.add(item, value, alone=alone, since=since, replaceable=replaceable)
            if alone:
                self._d.admit_alone(item)
            elif due is not None and lane is not None:
                due.append(item)
            else:
                self._d.admit(item)
        return condemned

    # Keeping.

    async def _keep(self) -> None:
        """Once: refresh what is held, take over what nobody refreshes, look at the stream."""
        await self.refresh()
        lease = self._limits.lease
        room = self._room()
        if room > 0:
            claimed = await self._streams.claim(
                self._d.ids.prefix,
                int(lease * 1000),
                room,
                self._limits.alone_from,
                self._limits.max_deliveries,
                alone=not self._held.has_alone,
            )
            self.reclaimed += sum(one.entry not in self._held for one in claimed)
            since = self._d.now()
            await self.take_waited(await self._streams.gate(self._d.ids.prefix, claimed), since)
            if len(claimed) >= room:
                self._loops.wake_keeper()
        await self._streams.tidy(int(max(SILENT_CONSUMERS, lease * 10) * 1000))
        left = await self.move_due()
        self._loops.succeeded("keep")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(1.0, lease / 4, left)):
                await self._loops.keeper_awake.wait()
        self._loops.keeper_awake.clear()

    async def refresh(self) -> None:
        """Begin the leases anew of what is held, and let go of what another instance has taken over."""
        entries = self._held.entries
        for start in range(0, len(entries), AT_ONCE):
            part, since = entries[start : start + AT_ONCE], self._d.now()
            answer, asked = await self._streams.refresh(self._d.ids.prefix, part)
            for entry in asked:
                await self.give_up(entry)
            lost = {entry for entry in answer if entry in self._held}  # others have ended here meanwhile
            self._held.renewed((entry for entry in part if entry not in lost), since)
            if lost:
                self._fence.lose(lost)
                for item in self._d.backlog.discard(lost):
                    self._held.drop(item.entry)

    async def let_go(self, items: Sequence[BatchItem], *, begun: bool) -> None:
        """Leave items to others; an orderly stop counts as no delivery.

        ``begun``: the handler may have been given them.
        """
        self._d.forget(items)
        for item in items:
            self._held.drop(item.entry)
        self.given_back += len(items)
        try:
            for was_begun in (False, True):
                # What was begun before is for the next handler to know, however often it is handed on.
                pairs = [
                    (item.entry, item.counted - 1)
                    for item in items
                    if (begun or item.attempts > 0 or item.deliveries > item.counted) is was_begun
                ]
                for start in range(0, len(pairs), AT_ONCE):
                    part = pairs[start : start + AT_ONCE]
                    await self._streams.give_back(self._d.ids.prefix, part, begun=was_begun)
        except BackendError as error:
            logger.warning(
                "%d item(s) could not be returned to Redis; another instance takes them over in %g s: %s",
                len(items), self._limits.lease, one_line(error),
            )  # fmt: skip
