"""What durable mode says to Redis about items that wait for a time, and about plans.

Every change is one script, as in :mod:`streams`. Times are those of Redis's clock, in milliseconds.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from bot.core.batch_processor.durable.streams import CANCELLED, Added, Streams, checked, script_source

HELD, HELD_BUT_NEWER_TAKEN_BACK = 3, 4
"""What cancel.lua answers, beside the number of items that were taken back."""


class Due(NamedTuple):
    """What is due: the key of an item, or the name of a plan; and the name of its lane."""

    name: bytes
    lane: bytes


class Looked(NamedTuple):
    """What a look at all that waits has found."""

    items: list[Due]
    plans: list[Due]
    left_ms: int
    """Milliseconds until more is due; -1: never."""
    delayed: int
    """Items that wait for their time."""
    newer: int
    """About how many newer ones wait for their key's."""


class StoredPlan(NamedTuple):
    """A plan as Redis has it."""

    name: str
    every_ms: int
    jitter_ms: int
    value: bytes
    lane: bytes
    due_ms: int


class TimedStreams:
    """The items and plans of one queue that wait. Every method raises as ``RedisLink.run`` does."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        link = streams.link
        parts = ("pending", "lanes", "later")
        self._submit = link.script(script_source(*parts, "submit"))
        self._pick_up = link.script(script_source(*parts, "pick_up"))
        self._move = link.script(script_source(*parts, "move"))
        self._look = link.script(script_source("pending", "later", "look_later"))
        self._lane_of = link.script(script_source("pending", "lane_of"))
        self._cancel = link.script(script_source(*parts, "cancel"))
        self._plan = link.script(script_source("pending", "later", "plan"))
        self._tick = link.script(script_source(*parts, "tick"))

    async def submit(
        self,
        wanted: Sequence[Added],
        limit: int,
        *,
        all_or_none: bool,
        replace: bool,
        absolute: bool,
        ms: int,
    ) -> list[int]:
        """Submit items that are not handled before ``ms``, from now or absolute.

        A code for each: ADDED, FULL, KNOWN or REPLACED.
        """
        streams = self._streams
        keys = [streams.items, *[streams.key_of(one.item_id) for one in wanted]]
        places = streams.append_lanes(keys, [one.lane for one in wanted])
        arguments: list[Any] = [
            limit,
            int(all_or_none),
            len(wanted),
            int(replace),
            "at" if absolute else "in",
            ms,
        ]
        for one, place in zip(wanted, places, strict=True):
            arguments += (one.value, one.lane, place)
        answer = await self._submit([*keys, *streams.waiting], arguments)
        *answers, streams.length = checked(answer, list[int], len(wanted) + 1)
        return answers

    async def pick_up(self, items: Sequence[tuple[str, bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """What becomes of (item id, entry, lane) that are about to be handled.

        ("", "") as it is, ("V", a newer value), or ("R", ""): it has ended, for the newer one waits.
        """
        streams = self._streams
        keys = [streams.items, *[streams.key_of(item_id) for item_id, _, _ in items]]
        places = streams.append_lanes(keys, [lane for _, _, lane in items])
        arguments: list[Any] = [len(items)]
        for (_, entry, _), place in zip(items, places, strict=True):
            arguments += (entry, place)
        answer = await self._pick_up([*keys, *streams.waiting], arguments)
        return checked(answer, list[tuple[bytes, bytes]], len(items))

    async def look(self) -> Looked:
        """What is due, and when more is."""
        streams = self._streams
        found = await self._look([streams.times, streams.plans, *streams.waiting], [])
        return checked(found, Looked)

    async def move(self, items: Sequence[Due]) -> int:
        """Put items whose time has come into the stream; how many this instance has moved."""
        streams = self._streams
        keys = [streams.items, *[item.name for item in items]]
        places = streams.append_lanes(keys, [item.lane for item in items])
        arguments: list[Any] = [len(items)]
        for item, place in zip(items, places, strict=True):
            arguments += (item.lane, place)
        return checked(await self._move([*keys, *streams.waiting], arguments), int)

    async def tick(self, plans: Sequence[tuple[str, Due]], limit: int) -> tuple[int, int]:
        """Submit the items of these ids, of plans that are due: how many were, how many were left out."""
        streams = self._streams
        keys = [streams.items, *[streams.key_of(item_id) for item_id, _ in plans]]
        places = streams.append_lanes(keys, [plan.lane for _, plan in plans])
        arguments: list[Any] = [limit, repr(random.random()), len(plans)]
        for (_, plan), place in zip(plans, places, strict=True):
            arguments += (plan.name, plan.lane, place)
        answer = await self._tick([*keys, streams.times, streams.plans, *streams.waiting], arguments)
        return checked(answer, tuple[int, int])

    async def cancel(
        self, item_id: str, ttl_ms: int, consumer: str, *, mine: bool = False, asked: bytes = b""
    ) -> tuple[int, bytes, bytes]:
        """Take an item back unless a consumer holds it; from this one too, if ``mine``.

        ``asked``: its entry, if only as long as another instance asks for it.

        Returns how many were; or HELD or HELD_BUT_NEWER_TAKEN_BACK, the entry, and the consumer that has it.
        """
        streams = self._streams
        key = streams.key_of(item_id)
        lane = checked(await self._lane_of([streams.items, key, *streams.waiting], []), bytes)
        keys = [streams.items, key, streams.asked]
        streams.append_lanes(keys, [lane])
        answer = await self._cancel([*keys, *streams.waiting], [ttl_ms, consumer, int(mine), asked])
        code, *where = checked(answer, list[Any])
        entry, owner = checked(where, tuple[bytes, bytes]) if where else (b"", b"")
        return checked(code, int), entry, owner

    async def ask(self, entry: bytes) -> None:
        """Ask whoever holds an entry to take its item back."""
        streams = self._streams
        await streams.link.execute("HSET", streams.asked, entry, b"1")

    async def is_asked(self, entry: bytes) -> bool:
        """Whether nobody has answered yet."""
        streams = self._streams
        return bool(await streams.link.execute("HEXISTS", streams.asked, entry))

    async def ask_no_more(self, entry: bytes) -> None:
        """The question is withdrawn, or answered with no."""
        streams = self._streams
        await streams.link.execute("HDEL", streams.asked, entry)

    async def was_taken_back(self, item_id: str) -> bool:
        """Whether an item was taken back."""
        return (await self._streams.outcomes([item_id]))[0] == CANCELLED

    async def put_plan(
        self, name: str, every_ms: int, jitter_ms: int, value: bytes, lane: bytes, most: int
    ) -> int:
        """Add or change a plan; when it is due. -1: there are too many."""
        streams = self._streams
        kept = b"%d:%b%b" % (len(lane), lane, value)
        arguments = [name, every_ms, jitter_ms, kept, repr(random.random()), most]
        answer = await self._plan([streams.times, streams.plans, *streams.waiting], arguments)
        return int(checked(answer, bytes))

    async def remove_plan(self, name: str) -> bool:
        """Forget a plan; False if there is none."""
        streams = self._streams
        found = checked(await streams.link.execute("HDEL", streams.plans, name), int)
        await streams.link.execute("ZREM", streams.times, name)
        return bool(found)

    async def list_plans(self) -> list[StoredPlan]:
        """All of them, by name; what cannot be read is left out."""
        streams = self._streams
        plans = checked(await streams.link.execute("HGETALL", streams.plans), dict[bytes, bytes])
        found: list[StoredPlan] = []
        for name, plan in sorted(plans.items()):
            due = await streams.link.execute("ZSCORE", streams.times, name)
            try:
                every, _, jitter, kept = plan.split(b" ", 3)
                length, _, rest = kept.partition(b":")
                at = int(length)
                found.append(
                    StoredPlan(name.decode(), int(every), int(jitter), rest[at:], rest[:at], int(float(due)))
                )
            except (ValueError, TypeError):
                continue
        return found
