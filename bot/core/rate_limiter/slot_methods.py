"""What the rate limiter offers for things in progress: slots under a ConcurrencyLimit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot.core._shared.clock import Clock
from bot.core._shared.tasks import to_the_end
from bot.core.phase4_service import Phase4Service
from bot.core.rate_limiter.concurrency import ConcurrencyLimit, SlotStatus, valid_concurrency
from bot.core.rate_limiter.models import ClientId, plain_client
from bot.core.rate_limiter.slots import Slot, SlotContext, Slots
from bot.core.rate_limiter.waiting import longest_wait

if TYPE_CHECKING:
    from bot.core.redis_link import RedisLink


class SlotMethods(Phase4Service):
    """The half of the rate limiter that limits what is in progress. While off, every slot is free."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._slots = Slots(clock)
        # Whose slots they are: of all instances that use this link, or of this process. Changed below only.
        self._slots_link: RedisLink | None = None

    def slot(self, client_id: ClientId, limit: ConcurrencyLimit, timeout: float | None = 0.0) -> SlotContext:
        """``async with limiter.slot(user_id, DOWNLOADS) as slot:`` holds a slot while the block runs.

        If the client has ``limit.max_in_flight`` slots, :class:`ConcurrencyLimitExceeded` is raised at once;
        with ``timeout``, after as many seconds (None: never), in which callers get their slots in order of
        arrival. A ``client_id`` of None is one client, too: the limit of everybody together.

        In a long block look at ``slot.lost`` from time to time if limits are shared. Raises TypeError for a
        client that is not an int, a str or None, and for another kind of limit.
        """
        client, wait = plain_client(client_id), longest_wait(timeout)
        valid_concurrency(limit)
        if not self._enabled:
            self._used_while_off()
        return SlotContext(self._slots, client, limit, wait)

    async def acquire_slot(
        self, client_id: ClientId, limit: ConcurrencyLimit, timeout: float | None = 0.0
    ) -> Slot:
        """:meth:`slot` for what does not end where it begins: ``slot.release()`` gives the slot back."""
        client, wait = plain_client(client_id), longest_wait(timeout)
        valid_concurrency(limit)
        if not self._enabled:
            self._used_while_off()
        return await self._slots.acquire(client, limit, wait)

    async def slot_status(self, client_id: ClientId, limit: ConcurrencyLimit) -> SlotStatus:
        """How many slots of the client are taken, by all instances if limits are shared; takes none."""
        return await self._slots.status(plain_client(client_id), valid_concurrency(limit))

    async def _open_slots(self, link: RedisLink | None, lease: float) -> None:
        before = None
        if link is not self._slots_link:
            before = self._slots.close()
        self._slots_link = link
        self._slots.open(link, lease)
        if before is not None:
            await to_the_end(before.stop())

    async def _close_slots(self) -> None:
        """Hold nothing any more; what was held under another link's limits counts nowhere."""
        before = self._slots.close()
        self._slots_link = None
        if before is not None:
            await to_the_end(before.stop())
