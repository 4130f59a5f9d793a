"""What users ask of the dead letters of a batch processor."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from bot.core._shared.errors import invalid
from bot.core._shared.validation import valid_count
from bot.core.batch_processor.dispatcher import Dispatcher
from bot.core.batch_processor.errors import BatchClosedError
from bot.core.batch_processor.lifecycle import State
from bot.core.batch_processor.models import DeadLetter, ReplayReport
from bot.core.batch_processor.store import OFF, Store
from bot.core.phase4_service import Phase4Service

MOST_LETTERS = 100_000_000
"""Dead letters at most, as ``max_dead_letters`` allows."""


class DeadLetterCalls(Phase4Service):
    """The part of ``BatchProcessor`` that is about dead letters; it has no state of its own."""

    _dispatcher: Dispatcher
    _store: Store

    async def dead_letters(self, limit: int | None = None) -> list[DeadLetter]:
        """The items that were given up, the oldest first, at most ``limit``.

        In durable mode those of every instance, as Redis has them; RedisUnavailableError while it is away.
        """
        return [letter async for letter in self.iter_dead_letters(limit=limit)]

    async def iter_dead_letters(
        self, offset: int = 0, limit: int | None = None, *, newest_first: bool = False
    ) -> AsyncIterator[DeadLetter]:
        """The same one after the other, without the first ``offset``, at most ``limit``."""
        offset = valid_count("offset", offset, 0, MOST_LETTERS, default=0)
        left = MOST_LETTERS if limit is None else valid_count("limit", limit, 0, MOST_LETTERS, default=0)
        if not left:
            return
        letters = self._store.each_letter(offset, newest_first=newest_first)
        async with contextlib.aclosing(letters):
            async for letter in letters:
                yield letter
                left -= 1
                if not left:
                    return

    async def count_dead_letters(self) -> int:
        """How many there are; in durable mode of every instance, and those that cannot be read count."""
        return await self._store.count_letters()

    async def get_dead_letter(self, item_id: str) -> DeadLetter | None:
        """The dead letter of an item, the newest if it died more than once; None if there is none."""
        return await self._store.find_letter(item_id)

    async def replay_dead_letters(self, item_ids: Sequence[str] | None = None) -> ReplayReport:
        """Submit dead letters again, all or those of ``item_ids``, under their ids and priorities.

        Dead letters without room in the queue stay, and so does one whose key a pending item has. In
        durable mode each is replayed whole or not at all, and once, however many instances try;
        RedisUnavailableError while Redis is away. BatchClosedError while the processor is off.
        """
        if self._dispatcher.state is not State.ON:
            raise BatchClosedError(OFF)
        return await self._store.replay(_valid_ids(item_ids))

    async def replay(self, item_ids: Sequence[str] | None = None) -> int:
        """:meth:`replay_dead_letters`, but returns only the number replayed; 0 while off."""
        return (
            (await self.replay_dead_letters(item_ids)).replayed if self._dispatcher.state is State.ON else 0
        )

    async def discard_dead_letters(self, item_ids: Sequence[str] | None = None) -> int:
        """Drop dead letters, all or those of ``item_ids``; returns how many. Statistics still count them."""
        return await self._store.discard(_valid_ids(item_ids))


def _valid_ids(item_ids: Sequence[str] | None) -> Sequence[str] | None:
    if isinstance(item_ids, str):
        raise invalid("item_ids", item_ids, "a list of ids (of one: [item_id]), or None for all")
    return item_ids
