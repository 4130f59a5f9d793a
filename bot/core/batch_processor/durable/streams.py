"""What durable mode says to Redis: a stream with a consumer group, and a key for each item.

Every change is one script over keys of one hash slot: it happens whole or not at all, in a cluster
too. An entry lies in the stream from its submission until its item has ended; the key of an item says
``P`` and the entry's id while it is pending, and then, for a time, how it ended. A key whose entry is gone
(trimmed, deleted, lost with its server) stands for nothing. Needs Redis 6.2 or later, or Valkey.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar

import msgspec

from bot.core.redis_link import RedisLink, RedisRefusedError

T = TypeVar("T")

GROUP = "workers"
NOBODY = "given-back"
"""The consumer that holds what was given back unbegun; nobody reads under this name."""
STOPPED = "stopped"
"""The same of what a handler had begun when its instance was stopped in good order."""

PENDING = b"P"
LOST = b"L"
CANCELLED = b"C"
LONG_AGO = 86_400_000
"""Milliseconds for which what was given back has been idle, as Redis sees it: any lease is over."""

ADDED, FULL, KNOWN, REPLACED = 1, 0, 2, 3
ELSEWHERE, ENDED, SUPERSEDED = 0, 1, 2
"""What settle.lua answers."""


def script_source(*names: str) -> str:
    """The .lua files of these names beside this one, one after the other."""
    sources = [(files(__package__) / f"{name}.lua").read_text(encoding="ascii") for name in names]
    return (
        "".join(sources)
        .replace("GROUP_NAME", GROUP)
        .replace("NOBODY_NAME", NOBODY)
        .replace("STOPPED_NAME", STOPPED)
    )


class Added(NamedTuple):
    """An item to be added."""

    item_id: str
    value: bytes
    lane: bytes = b""
    """The name of its lane; empty for none."""


class Delivery(NamedTuple):
    """One entry, as Redis gave it to this instance."""

    entry: bytes
    deliveries: int
    value: bytes
    stopped: bool = False
    """Whether a handler had begun it when its instance was stopped in good order, which is no delivery."""
    lane: bytes = b""


class Settlement(NamedTuple):
    """The end of one entry; ``letter`` is empty unless it goes to the dead letters."""

    entry: bytes
    item_id: str
    outcome: bytes
    letter: bytes = b""
    lane: bytes = b""


class Streams:
    """The keys of one queue in one Redis. Every method raises as ``RedisLink.run`` does."""

    def __init__(self, link: RedisLink, name: str) -> None:
        self.link = link
        tag = f"{link.root}phase4:{{batch:{name}}}"
        self.items = f"{tag}:items".encode()
        self.dead = f"{tag}:dead".encode()
        self._of_item = f"{tag}:item:".encode()
        self._of_lane = f"{tag}:lane:".encode()
        self.asked = f"{tag}:asked".encode()
        self.times = f"{tag}:times".encode()
        self.plans = f"{tag}:plans".encode()
        self.waiting = (f"{tag}:later".encode(), f"{tag}:kept".encode(), f"{tag}:newer".encode())
        """Of what waits: see pending.lua. The last keys of each script that reads the keys of items."""
        self.length = 0
        """Entries, when Redis last told."""
        self.dead_length = 0
        """Dead letters, when Redis last told."""
        self._add = link.script(script_source("pending", "lanes", "add"))
        self._settle = link.script(script_source("pending", "lanes", "later", "settle"))
        self._claim = link.script(script_source("claim"))
        self._gate = link.script(script_source("lanes", "gate"))
        self._refresh = link.script(script_source("refresh"))
        self._give_back = link.script(script_source("give_back"))
        self._leave = link.script(script_source("leave"))
        self._tidy = link.script(script_source("tidy"))
        self._look = link.script(script_source("pending", "look"))

    def key_of(self, item_id: str) -> bytes:
        """The key that tells how far an item is."""
        return self._of_item + item_id.encode("utf-8", "surrogatepass")

    def key_of_lane(self, name: bytes) -> bytes:
        """The list of the entries of a lane."""
        return self._of_lane + name

    async def make_group(self) -> None:
        """Create the consumer group, and the stream with it, unless they are there."""
        try:
            await self.link.execute("XGROUP", "CREATE", self.items, GROUP, "0", "MKSTREAM")
        except RedisRefusedError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def add(
        self, wanted: Sequence[Added], limit: int, *, all_or_none: bool = False
    ) -> tuple[list[int], int]:
        """Add items: ADDED, FULL or KNOWN for each, and the stream's length."""
        keys = [self.items, *[self.key_of(one.item_id) for one in wanted]]
        arguments: list[Any] = [limit, int(all_or_none), len(wanted), *[one.value for one in wanted]]
        lanes = [one.lane for one in wanted]
        if any(lanes):
            arguments += [*lanes, *self.append_lanes(keys, lanes)]
        answer = await self._add([*keys, *self.waiting], arguments)
        *answers, self.length = checked(answer, list[int], len(wanted) + 1)
        return answers, self.length

    def append_lanes(self, keys: list[bytes], lanes: Sequence[bytes]) -> list[int]:
        """Append the keys of these lanes, each once; the place of each one's, counted from 1; 0: no lane."""
        places = {b"": 0}
        for lane in lanes:
            if lane not in places:
                keys.append(self.key_of_lane(lane))
                places[lane] = len(keys)
        return [places[lane] for lane in lanes]

    async def read(self, consumer: str, count: int, block: int) -> list[Delivery]:
        """New entries, at most ``count``, after waiting for one ``block`` milliseconds at most."""
        answer = await self.link.execute(
            "XREADGROUP", "GROUP", GROUP, consumer, "COUNT", count, "BLOCK", block, "STREAMS", self.items, ">"
        )
        if not answer:
            return []
        found: list[Delivery] = []
        try:
            streams = answer.values() if isinstance(answer, dict) else [entries for _, entries in answer]
            for entries in streams:
                # The client answers with the entries, or with a list that holds them, as its version has it.
                for part in entries:
                    some = part if isinstance(part, list) else [part]
                    found += [
                        Delivery(checked_id(one[0]), 1, _value_in(one[1]), lane=_lane_in(one[1]))
                        for one in some
                    ]
        except (TypeError, ValueError, LookupError) as error:
            raise _unexpected() from error
        return found

    async def claim(
        self, consumer: str, lease_ms: int, room: int, alone_from: int, most: int, *, alone: bool
    ) -> list[Delivery]:
        """Take over entries that nobody has refreshed for ``lease_ms``.

        Of those delivered ``alone_from`` to ``most`` - 1 times, at most one, and only if ``alone``.
        """
        found = await self._claim(
            [self.items], [GROUP, consumer, lease_ms, room, alone_from, most, int(alone), STOPPED]
        )
        taken = checked(found, list[tuple[bytes, int, bytes, int, bytes]])
        return [
            Delivery(checked_id(entry), count, value, bool(stopped), lane)
            for entry, count, value, stopped, lane in taken
        ]

    async def gate(self, consumer: str, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those of these entries that may be handled now, because they have no lane or are its first.

        The others are this consumer's no more; each will be somebody's when those before it have ended.
        """
        in_lanes = [one for one in deliveries if one.lane]
        if not in_lanes:
            return list(deliveries)
        keys = [self.items, *[self.key_of_lane(one.lane) for one in in_lanes]]
        answer = await self._gate(keys, [consumer, *[one.entry for one in in_lanes]])
        first = iter(checked(answer, list[int], len(in_lanes)))
        return [one for one in deliveries if not one.lane or next(first)]

    async def refresh(self, consumer: str, entries: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Begin the lease of these entries anew.

        Returns those that are this consumer's no more, and those that another instance wants to take back.
        """
        answer = await self._refresh([self.items, self.asked], [GROUP, consumer, *entries])
        return checked(answer, tuple[list[bytes], list[bytes]])

    async def give_back(self, consumer: str, entries: Sequence[tuple[bytes, int]], *, begun: bool) -> None:
        """Leave (entry, deliveries to be remembered) pairs for whoever claims next."""
        flat = [part for pair in entries for part in pair]
        owner = STOPPED if begun else NOBODY
        await self._give_back([self.items], [GROUP, consumer, owner, LONG_AGO, *flat])

    async def leave(self, consumer: str) -> None:
        """Forget a consumer, unless it holds entries."""
        await self._leave([self.items], [GROUP, consumer])

    async def tidy(self, idle_ms: int) -> tuple[int, int]:
        """Forget consumers without entries that were silent for so long; (entries, dead letters)."""
        answer = await self._tidy([self.items, self.dead], [GROUP, idle_ms])
        self.length, self.dead_length = checked(answer, tuple[int, int])
        return self.length, self.dead_length

    async def settle(
        self,
        consumer: str,
        settlements: Sequence[Settlement],
        ttl_ms: int,
        max_dead_letters: int,
        *,
        take_next: bool = False,
    ) -> tuple[list[int], list[Delivery]]:
        """End entries; ELSEWHERE for each that somebody else has ended, or handles now. May be repeated.

        Also what comes next in their lanes, if this consumer takes it (``take_next``).
        """
        keys = [self.items, self.dead, *[self.key_of(one.item_id) for one in settlements]]
        arguments: list[Any] = [consumer, ttl_ms, max_dead_letters, int(take_next), len(settlements)]
        places = self.append_lanes(keys, [one.lane for one in settlements])
        for one, place in zip(settlements, places, strict=True):
            arguments += (one.entry, one.outcome, one.letter, place)
        answer = checked(await self._settle([*keys, *self.waiting], arguments), tuple[list[int], list[Any]])
        ended = checked(answer[0], list[int], len(settlements))
        following = [
            Delivery(entry, 1, fields.get(b"v", b""), lane=fields.get(b"l", b""))
            for entry, fields in map(_entry_of, answer[1])
        ]
        return ended, following

    async def outcomes(self, item_ids: Sequence[str]) -> list[bytes | None]:
        """What the keys of items hold: PENDING, an outcome, None, or LOST (told once, None after that)."""
        found = await self._look([self.items, *map(self.key_of, item_ids), *self.waiting], [])
        return checked(found, list[bytes | None], len(item_ids))

    async def last_entry(self) -> bytes | None:
        """The id of the newest entry."""
        found = await self.link.execute("XREVRANGE", self.items, "+", "-", "COUNT", 1)
        entries = entries_of(found)
        return entries[0][0] if entries else None

    async def any_until(self, entry: bytes) -> bool:
        """Whether an entry not newer than this one has not ended."""
        return bool(entries_of(await self.link.execute("XRANGE", self.items, "-", entry, "COUNT", 1)))


# Answers. One of a wrong shape is Redis's failure, as one that it refuses.


def _unexpected() -> RedisRefusedError:
    return RedisRefusedError("unexpected answer of Redis")


def checked(answer: Any, shape: type[T], length: int | None = None) -> T:
    """The answer, if it is of this type, and of this length; raises RedisRefusedError otherwise."""
    try:
        found = msgspec.convert(answer, shape)
    except msgspec.ValidationError as error:
        raise _unexpected() from error
    if length is not None and len(answer) != length:
        raise _unexpected()
    return found


def checked_id(entry: Any) -> bytes:
    """The id of an entry of a stream; raises RedisRefusedError for anything else."""
    if not isinstance(entry, bytes) or _ENTRY_ID.fullmatch(entry) is None:
        raise _unexpected()
    return entry


_ENTRY_ID = re.compile(rb"[0-9]{1,20}-[0-9]{1,20}")


def _value_in(fields: Any) -> bytes:
    """What an entry holds; empty if nobody here wrote it."""
    value = fields.get(b"v", b"") if isinstance(fields, dict) else b""
    return value if isinstance(value, bytes) else b""


def _lane_in(fields: Any) -> bytes:
    """The name of an entry's lane; empty if it has none."""
    name = fields.get(b"l", b"") if isinstance(fields, dict) else b""
    return name if isinstance(name, bytes) else b""


def _entry_of(answer: Any) -> tuple[bytes, dict[bytes, bytes]]:
    """The id and the fields of an entry out of a script; raises RedisRefusedError for anything else."""
    entry, flat = checked(answer, tuple[bytes, list[bytes]])
    return checked_id(entry), dict(zip(flat[::2], flat[1::2], strict=False))


def entries_of(page: Any) -> list[tuple[bytes, bytes]]:
    """The ids and values of XRANGE; raises RedisRefusedError for anything else."""
    try:
        return [(checked_id(entry), _value_in(fields)) for entry, fields in page or ()]
    except (TypeError, ValueError) as error:
        raise _unexpected() from error
