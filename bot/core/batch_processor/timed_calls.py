"""What users ask of items that wait, and of those that come each period."""

from __future__ import annotations

import datetime
from typing import Any

from bot.core._shared.errors import invalid
from bot.core._shared.validation import valid_plain_name
from bot.core.batch_processor.models import Lane, PeriodicItem
from bot.core.batch_processor.store import Store
from bot.core.phase4_service import Phase4Service


class TimedCalls(Phase4Service):
    """The part of ``BatchProcessor`` that is about time and about taking back; it has no state of its own."""

    _store: Store

    async def cancel_item(self, item_id: str) -> bool:
        """Take back an item that no handler has: one that is pending, delayed, or waits for a retry.

        Callers that wait for its result get ItemCancelledError. False if there is no such item, or a handler
        has it. Of a key with an item that is handled and a newer one behind it, the newer one is taken back.

        In durable mode from any instance; RedisUnavailableError while Redis is away. An item that another
        instance has read is asked for there, which takes up to a second; False if there is no answer.
        """
        if not isinstance(item_id, str):
            raise invalid("item_id", item_id, "the id of an item, a string")
        return await self._store.cancel(item_id)

    async def submit_periodic(
        self,
        name: str,
        data: Any,
        every: float | datetime.timedelta,
        *,
        priority: int = 0,
        lane: Lane | None = None,
        jitter: float = 0.0,
    ) -> PeriodicItem:
        """Submit an item with this data each ``every`` seconds (1 at least), the first time after one period.

        Its id is ``periodic:`` and the name. Calling it again with the same name and period changes the rest
        and keeps the times; with another period these begin anew. A period whose item would meet the one
        before still pending, or a full queue, is left out. So are periods that were missed; one item then
        comes at once. The times are those of a grid, so they do not drift; ``jitter`` makes each item late
        by a random time of so many seconds at most, fewer than ``every``.

        In durable mode the name stands for all instances and stays until :meth:`remove_periodic`: one item a
        period, whoever lives. In memory it ends with ``disable``.

        Raises InvalidArgumentError; BatchClosedError while the processor is off.
        """
        from bot.core.batch_processor.periodic import valid_plan

        return await self._store.put_plan(valid_plan(name, data, every, priority, lane, jitter))

    async def remove_periodic(self, name: str) -> bool:
        """Submit no more items of this name; False if there were none. One that is pending stays."""
        return await self._store.remove_plan(valid_plain_name("name", name))

    async def list_periodic(self) -> list[PeriodicItem]:
        """The periodic items by name, with the time of each one's next submission."""
        return await self._store.list_plans()
