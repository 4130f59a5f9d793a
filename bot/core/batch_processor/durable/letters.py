"""The dead letters of one queue in Redis: told, replayed, dropped; with a processor or without one.

Every change is one script or one command, so it happens whole or not at all, and of two that replay the
same dead letter one does. Read in pieces, for one letter may take megabytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Any, NamedTuple

from bot.core.batch_processor.durable.streams import Streams, checked, checked_id, entries_of, script_source
from bot.core.batch_processor.durable.values import lane_name, letter_of, value_of
from bot.core.batch_processor.models import DeadLetter, ReplayReport
from bot.core.phase4_config.batch_processor import DEFAULTS

REPLAYED, PENDING, FULL, GONE = 1, 0, -1, -2
"""What replay.lua answers."""

PIECE_BYTES = 4_000_000
"""Bytes of the values in one answer, about; the first answers are small, and tell how large values are."""
PIECE_MOST, PIECE_FIRST = 200, 4


class Stored(NamedTuple):
    """One entry of the stream of dead letters."""

    entry: bytes
    value: bytes

    @property
    def letter(self) -> DeadLetter | None:
        """None for what no batch processor wrote."""
        return letter_of(self.entry, self.value)


class Letters:
    """The dead letters of one queue. Every method raises as ``RedisLink.run`` does."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._link = streams.link
        self._key = streams.dead
        self._replay = self._link.script(script_source("pending", "lanes", "replay"))
        self._skip = self._link.script(script_source("skip"))

    async def count(self) -> int:
        """How many there are, those that cannot be read among them."""
        streams = self._streams
        streams.dead_length = checked(await self._link.execute("XLEN", self._key), int)
        return streams.dead_length

    async def each(self, offset: int = 0, *, newest_first: bool = False) -> AsyncGenerator[DeadLetter, None]:
        """The dead letters after the first ``offset``; what cannot be read is left out.

        One that comes or goes meanwhile may be told or not; no other is left out or told twice.
        """
        start = b"+" if newest_first else b"-"
        if offset:
            found = await self._skip([self._key], [offset, int(newest_first)])
            if found is None:
                return
            start = checked_id(found)
        async with contextlib.aclosing(self._entries(start, newest_first=newest_first)) as entries:
            async for stored in entries:
                letter = stored.letter
                if letter is not None:
                    yield letter

    async def find(self, item_id: str) -> DeadLetter | None:
        """The dead letter of an item; the newest, if it died more than once."""
        found = await self._entries_of({item_id})
        return await self._at(found[item_id]) if item_id in found else None

    async def replay(
        self, item_ids: Sequence[str] | None = None, max_pending: int = DEFAULTS.max_pending
    ) -> ReplayReport:
        """Make items of dead letters, all or those of ``item_ids``, the oldest first.

        While fewer than ``max_pending`` are pending.
        """
        report = ReplayReport()
        if item_ids is None:
            await self._replay_all(report, max_pending)
        else:
            wanted = list(dict.fromkeys(item_ids))
            found = await self._entries_of(set(wanted))
            report.missing = len(wanted) - len(found)
            order = sorted(found.values(), key=_age)
            for position, entry in enumerate(order):
                letter = await self._at(entry)
                answer = GONE if letter is None else await self._replay_one(letter, max_pending)
                if answer == FULL:
                    report.no_room = len(order) - position
                    break
                _count(report, answer)
        self._streams.dead_length = max(0, self._streams.dead_length - report.replayed)
        return report

    async def _replay_all(self, report: ReplayReport, max_pending: int) -> None:
        total = await self.count()
        # What dies again meanwhile comes behind the last one, and is not replayed in circles.
        last = await self._newest()
        if last is None:
            return
        async with contextlib.aclosing(self._entries(b"-", until=last)) as entries:
            number = 0
            async for stored in entries:
                letter = stored.letter
                if letter is not None:
                    answer = await self._replay_one(letter, max_pending)
                    if answer == FULL:
                        report.no_room = max(1, total - number)
                        return
                    _count(report, answer)
                number += 1

    async def _replay_one(self, letter: DeadLetter, max_pending: int) -> int:
        value = value_of(letter.item_id, letter.priority, letter.data)
        keys = [self._streams.items, self._key, self._streams.key_of(letter.item_id)]
        arguments: list[Any] = [letter.entry, value, max_pending]
        if letter.lane is not None:
            name = lane_name(letter.lane)
            keys.append(self._streams.key_of_lane(name))
            arguments.append(name)
        return checked(await self._replay([*keys, *self._streams.waiting], arguments), int)

    async def discard(self, item_ids: Sequence[str] | None = None) -> int:
        """Remove dead letters, all or those of ``item_ids``; how many there were."""
        last = await self._newest()
        if last is None:
            return 0
        wanted = None if item_ids is None else set(item_ids)
        count = 0
        piece: list[bytes] = []
        async with contextlib.aclosing(self._entries(b"-", until=last)) as entries:
            async for stored in entries:
                if wanted is None or ((letter := stored.letter) is not None and letter.item_id in wanted):
                    piece.append(stored.entry)
                if len(piece) >= PIECE_MOST:
                    count += await self._remove(piece)
                    piece = []
        return count + await self._remove(piece)

    async def _remove(self, entries: Sequence[bytes]) -> int:
        if not entries:
            return 0
        gone = checked(await self._link.execute("XDEL", self._key, *entries), int)
        self._streams.dead_length = max(0, self._streams.dead_length - gone)
        return gone

    async def _entries_of(self, item_ids: Collection[str]) -> dict[str, bytes]:
        """The newest entry of each of these items that has one."""
        left = set(item_ids)
        found: dict[str, bytes] = {}
        async with contextlib.aclosing(self._entries(b"+", newest_first=True)) as entries:
            while left:
                stored = await anext(entries, None)
                if stored is None:
                    break
                letter = stored.letter
                if letter is not None and letter.item_id in left:
                    left.discard(letter.item_id)
                    found[letter.item_id] = stored.entry
        return found

    async def _at(self, entry: bytes) -> DeadLetter | None:
        found = entries_of(await self._link.execute("XRANGE", self._key, entry, entry))
        return letter_of(*found[0]) if found else None

    async def _newest(self) -> bytes | None:
        found = entries_of(await self._link.execute("XREVRANGE", self._key, "+", "-", "COUNT", 1))
        return found[0][0] if found else None

    async def _entries(
        self, start: bytes, *, until: bytes = b"", newest_first: bool = False
    ) -> AsyncGenerator[Stored, None]:
        """The entries from ``start`` on, as many in one answer as their sizes allow."""
        command, end = ("XREVRANGE", b"-") if newest_first else ("XRANGE", until or b"+")
        count = PIECE_FIRST
        while True:
            found = await self._link.execute(command, self._key, start, end, "COUNT", count)
            piece = [Stored(*pair) for pair in entries_of(found)]
            for stored in piece:
                yield stored
            if len(piece) < count:
                return
            start = b"(" + piece[-1].entry
            size = sum(len(stored.value) for stored in piece) // len(piece)
            count = max(1, min(4 * count, PIECE_BYTES // max(1, size), PIECE_MOST))


def _age(entry: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number)


def _count(report: ReplayReport, answer: int) -> None:
    if answer == REPLAYED:
        report.replayed += 1
    elif answer == PENDING:
        report.pending += 1
    else:
        report.missing += 1  # another one was quicker
