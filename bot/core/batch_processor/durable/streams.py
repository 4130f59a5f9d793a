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
LONG_AGO = 86_400_000
"""Milliseconds for which what was given back has been idle, as Redis sees it: any lease is over."""

ADDED, FULL, KNOWN = 1, 0, 2


def script_source(*names: str) -> str:
    """The .lua files of these names beside this one, one after the other."""
    sources = [(files(__package__) / f"{name}.lua").read_text(encoding="ascii") for name in names]
    return "".join(sources).replace("GROUP_NAME", GROUP)


class Delivery(NamedTuple):
    """One entry, as Redis gave it to this instance."""

    entry: bytes
    deliveries: int
    value: bytes
    stopped: bool = False
    """Whether a handler had begun it when its instance was stopped in good order, which is no delivery."""


class Settlement(NamedTuple):
    """The end of one entry; ``letter`` is empty unless it goes to the dead letters."""

    entry: bytes
    item_id: str
    outcome: bytes
    letter: bytes = b""


class Streams:
    """The keys of one queue in one Redis. Every method raises as ``RedisLink.run`` does."""

    def __init__(self, link: RedisLink, name: str) -> None:
        self.link = link
        tag = f"{link.root}phase4:{{batch:{name}}}"
        self.items = f"{tag}:items".encode()
        self.dead = f"{tag}:dead".encode()
        self._of_item = f"{tag}:item:".encode()
        self.length = 0
        """Entries, when Redis last told."""
        self.dead_length = 0
        """Dead letters, when Redis last told."""
        self._add = link.script(script_source("pending", "add"))
        self._settle = link.script(script_source("pending", "settle"))
        self._claim = link.script(script_source("claim"))
        self._refresh = link.script(script_source("refresh"))
        self._give_back = link.script(script_source("give_back"))
        self._leave = link.script(script_source("leave"))
        self._tidy = link.script(script_source("tidy"))
        self._look = link.script(script_source("pending", "look"))

    def key_of(self, item_id: str) -> bytes:
        """The key that tells how far an item is."""
        return self._of_item + item_id.encode("utf-8", "surrogatepass")

    async def make_group(self) -> None:
        """Create the consumer group, and the stream with it, unless they are there."""
        try:
            await self.link.execute("XGROUP", "CREATE", self.items, GROUP, "0", "MKSTREAM")
        except RedisRefusedError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def add(
        self, wanted: Sequence[tuple[str, bytes]], limit: int, *, all_or_none: bool = False
    ) -> tuple[list[int], int]:
        """Add (item id, value) pairs: ADDED, FULL or KNOWN for each, and the stream's length."""
        keys = [self.items, *[self.key_of(item_id) for item_id, _ in wanted]]
        values = [value for _, value in wanted]
        answer = await self._add(keys, [limit, int(all_or_none), *values])
        *answers, self.length = checked(answer, list[int], len(wanted) + 1)
        return answers, self.length

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
                    found += [Delivery(checked_id(one[0]), 1, _value_in(one[1])) for one in some]
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
        taken = checked(found, list[tuple[bytes, int, bytes, int]])
        return [
            Delivery(checked_id(entry), count, value, bool(stopped)) for entry, count, value, stopped in taken
        ]

    async def refresh(self, consumer: str, entries: Sequence[bytes]) -> list[bytes]:
        """Begin the lease of these entries anew; returns those that are this consumer's no more."""
        return checked(await self._refresh([self.items], [GROUP, consumer, *entries]), list[bytes])

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
        self, settlements: Sequence[Settlement], ttl_ms: int, max_dead_letters: int
    ) -> list[bool]:
        """End entries; False for each that somebody else has ended. May be repeated."""
        keys = [self.items, self.dead, *[self.key_of(one.item_id) for one in settlements]]
        arguments: list[Any] = [GROUP, ttl_ms, max_dead_letters]
        for one in settlements:
            arguments += (one.entry, one.outcome, one.letter)
        ended = checked(await self._settle(keys, arguments), list[int], len(settlements))
        return [bool(flag) for flag in ended]

    async def outcomes(self, item_ids: Sequence[str]) -> list[bytes | None]:
        """What the keys of items hold: PENDING, an outcome, None, or LOST (told once, None after that)."""
        found = await self._look([self.items, *[self.key_of(item_id) for item_id in item_ids]], [])
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


def entries_of(page: Any) -> list[tuple[bytes, bytes]]:
    """The ids and values of XRANGE; raises RedisRefusedError for anything else."""
    try:
        return [(checked_id(entry), _value_in(fields)) for entry, fields in page or ()]
    except (TypeError, ValueError) as error:
        raise _unexpected() from error
