"""What durable mode says to Redis: a stream with a consumer group, and a key for each item.

Every change is one script over keys of one hash slot: it happens whole or not at all, in a cluster
too. An entry lies in the stream from its submission until its item has ended; the key of an item says
``P`` and the entry's id while it is pending, and then, for a time, how it ended. A key whose entry is gone
(trimmed, deleted, lost with its server) stands for nothing. Needs Redis 6.2 or later, or Valkey.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from bot.core._shared.errors import CorruptPayloadError, UnsupportedValueError
from bot.core._shared.values import decode_body, encode_body
from bot.core.batch_processor.models import MAX_KEY_LENGTH, MAX_PRIORITY, DeadLetter
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

# Whether what a key says is that its item is pending, and its entry is there. Without an entry's id it was
# written by an earlier version, and is believed.
_IS_PENDING = """
local function says(key)
  local said = redis.pcall('GET', key)
  return type(said) == 'string' and said  -- of another type, nobody here wrote it
end
local function is_pending(said)
  if not said or said:sub(1, 1) ~= 'P' then return false end
  local entry = said:sub(2)
  if said == 'P' or #redis.call('XRANGE', KEYS[1], entry, entry) == 1 then return true end
  -- What an instance has been given is being handled, though its entry may be trimmed.
  local held = redis.pcall('XPENDING', KEYS[1], 'GROUP_NAME', entry, entry, 1)
  return #held == 1
end
""".replace("GROUP_NAME", GROUP)

_ADD = (
    _IS_PENDING
    + """
local length = redis.call('XLEN', KEYS[1])
local limit = tonumber(ARGV[1])
local answers = {}
local all = ARGV[2] == '0' or length + #KEYS - 1 <= limit
for i = 2, #KEYS do
  local said = says(KEYS[i])
  if said and (said:sub(1, 1) ~= 'P' or is_pending(said)) then
    answers[i - 1] = 2
  elseif length >= limit or not all then
    answers[i - 1] = 0
  else
    local entry = redis.call('XADD', KEYS[1], '*', 'v', ARGV[i + 1])
    redis.call('SET', KEYS[i], 'P' .. entry)
    length = length + 1
    answers[i - 1] = 1
  end
end
answers[#answers + 1] = length
return answers
"""
)

# Memory may be full: what frees some comes first then, after which a script may take some, so that a dead
# letter has the place of its entry. A result that cannot be kept is let go.
_SETTLE = (
    _IS_PENDING
    + """
local answers = {}
for i = 3, #KEYS do
  local at = 4 + (i - 3) * 3
  local entry, outcome, letter = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  redis.call('XACK', KEYS[1], ARGV[1], entry)
  if redis.call('XDEL', KEYS[1], entry) == 1 or says(KEYS[i]) == 'P' .. entry then
    if letter ~= '' then
      redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], '*', 'v', letter)
    end
    local kept = redis.pcall('SET', KEYS[i], outcome, 'PX', ARGV[2])
    if kept.err then redis.call('DEL', KEYS[i]) end
    answers[#answers + 1] = 1
  elseif says(KEYS[i]) == outcome then
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
return answers
"""
)

# XAUTOCLAIM in two steps, because what is claimed depends on how often it was delivered before.
_CLAIM = """
local group, consumer, lease = ARGV[1], ARGV[2], ARGV[3]
local room, alone_from, most = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local alone = ARGV[7] == '1'
local taken = {}
local start = '-'
for _ = 1, 20 do
  local idle = redis.call('XPENDING', KEYS[1], group, 'IDLE', lease, start, '+', 100)
  for _, entry in ipairs(idle) do
    local id, deliveries = entry[1], entry[4]
    local stopped = entry[2] == ARGV[8] and 1 or 0
    local wanted = #taken < room
    if deliveries >= alone_from and deliveries < most then
      wanted = alone
      alone = false
    end
    if wanted then
      local got = redis.call('XCLAIM', KEYS[1], group, consumer, lease, id)
      if got[1] and got[1][2] then
        taken[#taken + 1] = {id, deliveries + 1, got[1][2][2], stopped}
      else
        redis.call('XACK', KEYS[1], group, id)
      end
    end
  end
  if #idle < 100 or #taken >= room then break end
  start = '(' .. idle[#idle][1]
end
return taken
"""

_REFRESH = """
local lost = {}
for i = 3, #ARGV do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) == 1 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
"""

_GIVE_BACK = """
local group, consumer = ARGV[1], ARGV[2]
for i = 5, #ARGV, 2 do
  if #redis.call('XPENDING', KEYS[1], group, ARGV[i], ARGV[i], 1, consumer) == 1 then
    redis.call('XCLAIM', KEYS[1], group, ARGV[3], 0, ARGV[i],
               'IDLE', ARGV[4], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
  end
end
"""

_LEAVE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
"""

# Consumers whose process has long gone, and whose entries others have taken over.
_TIDY = """
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local told = {}
  for i = 1, #consumer, 2 do told[consumer[i]] = consumer[i + 1] end
  if told['pending'] == 0 and told['idle'] > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], told['name'])
  end
end
return {redis.call('XLEN', KEYS[1]), redis.call('XLEN', KEYS[2])}
"""

_REPLAY = (
    _IS_PENDING
    + """
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[3]) then return -1 end
if is_pending(says(KEYS[3])) then return 0 end
if redis.call('XDEL', KEYS[2], ARGV[1]) == 0 then return 0 end
local entry = redis.call('XADD', KEYS[1], '*', 'v', ARGV[2])
redis.call('SET', KEYS[3], 'P' .. entry)
return 1
"""
)

# A key whose entry is gone is dropped: its item can be submitted anew, and nobody waits for it in vain.
_LOOK = (
    _IS_PENDING
    + """
local answers = {}
for i = 2, #KEYS do
  local said = says(KEYS[i])
  if said and said:sub(1, 1) == 'P' then
    if is_pending(said) then
      said = 'P'
    else
      redis.call('DEL', KEYS[i])
      said = 'L'
    end
  end
  answers[i - 1] = said
end
return answers
"""
)

OutcomeState = Literal["done", "unkept", "failed", "dead"]


class StoredOutcome(NamedTuple):
    """How an item ended, as its key tells."""

    state: OutcomeState
    """unkept: done, but its result cannot travel, and ``error`` says why."""
    result: Any
    error: str
    attempts: int


class Wanted(NamedTuple):
    """What an entry holds."""

    item_id: str
    priority: int
    data: Any


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
        tag = f"phase4:{{batch:{name}}}"
        self.items = f"{tag}:items".encode()
        self.dead = f"{tag}:dead".encode()
        self._of_item = f"{tag}:item:".encode()
        self._add = link.script(_ADD)
        self._settle = link.script(_SETTLE)
        self._claim = link.script(_CLAIM)
        self._refresh = link.script(_REFRESH)
        self._give_back = link.script(_GIVE_BACK)
        self._leave = link.script(_LEAVE)
        self._tidy = link.script(_TIDY)
        self._replay = link.script(_REPLAY)
        self._look = link.script(_LOOK)

    def _key(self, item_id: str) -> bytes:
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
        keys = [self.items, *[self._key(item_id) for item_id, _ in wanted]]
        values = [value for _, value in wanted]
        answer = await self._add(keys, [limit, int(all_or_none), *values])
        *answers, length = _checked(answer, list[int], len(wanted) + 1)
        return answers, length

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
                    found += [Delivery(_checked_id(one[0]), 1, _value_in(one[1])) for one in some]
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
        taken = _checked(found, list[tuple[bytes, int, bytes, int]])
        return [
            Delivery(_checked_id(entry), count, value, bool(stopped))
            for entry, count, value, stopped in taken
        ]

    async def refresh(self, consumer: str, entries: Sequence[bytes]) -> list[bytes]:
        """Begin the lease of these entries anew; returns those that are this consumer's no more."""
        return _checked(await self._refresh([self.items], [GROUP, consumer, *entries]), list[bytes])

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
        return _checked(await self._tidy([self.items, self.dead], [GROUP, idle_ms]), tuple[int, int])

    async def settle(
        self, settlements: Sequence[Settlement], ttl_ms: int, max_dead_letters: int
    ) -> list[bool]:
        """End entries; False for each that somebody else has ended. May be repeated."""
        keys = [self.items, self.dead, *[self._key(one.item_id) for one in settlements]]
        arguments: list[Any] = [GROUP, ttl_ms, max_dead_letters]
        for one in settlements:
            arguments += (one.entry, one.outcome, one.letter)
        ended = _checked(await self._settle(keys, arguments), list[int], len(settlements))
        return [bool(flag) for flag in ended]

    async def outcomes(self, item_ids: Sequence[str]) -> list[bytes | None]:
        """What the keys of items hold: PENDING, an outcome, None, or LOST (told once, None after that)."""
        found = await self._look([self.items, *[self._key(item_id) for item_id in item_ids]], [])
        return _checked(found, list[bytes | None], len(item_ids))

    async def last_entry(self) -> bytes | None:
        """The id of the newest entry."""
        found = await self.link.execute("XREVRANGE", self.items, "+", "-", "COUNT", 1)
        entries = _entries_of(found)
        return entries[0][0] if entries else None

    async def any_until(self, entry: bytes) -> bool:
        """Whether an entry not newer than this one has not ended."""
        return bool(_entries_of(await self.link.execute("XRANGE", self.items, "-", entry, "COUNT", 1)))

    async def letters(self, limit: int | None = None) -> list[DeadLetter]:
        """The dead letters, the oldest first; what cannot be read is left out."""
        found: list[DeadLetter] = []
        start = b"-"
        while limit is None or len(found) < limit:
            page = _entries_of(await self.link.execute("XRANGE", self.dead, start, "+", "COUNT", 200))
            for entry, value in page:
                letter = letter_of(entry, value)
                if letter is not None:
                    found.append(letter)
            if len(page) < 200:
                break
            start = b"(" + page[-1][0]
        return found[:limit]

    async def replay(self, letter: DeadLetter, limit: int) -> int:
        """Make an item of a dead letter: 1, or 0 if it is one again already, or -1 if there is no room."""
        value = value_of(letter.item_id, letter.priority, letter.data)
        keys = [self.items, self.dead, self._key(letter.item_id)]
        return _checked(await self._replay(keys, [letter.entry, value, limit]), int)

    async def discard(self, letters: Sequence[DeadLetter]) -> int:
        """Remove dead letters; how many there were."""
        if not letters:
            return 0
        gone = await self.link.execute("XDEL", self.dead, *[letter.entry for letter in letters])
        return _checked(gone, int)


# Answers. One of a wrong shape is Redis's failure, as one that it refuses.


def _unexpected() -> RedisRefusedError:
    return RedisRefusedError("unexpected answer of Redis")


def _checked(answer: Any, shape: type[T], length: int | None = None) -> T:
    """The answer, if it is of this type, and of this length; raises RedisRefusedError otherwise."""
    try:
        found = msgspec.convert(answer, shape)
    except msgspec.ValidationError as error:
        raise _unexpected() from error
    if length is not None and len(answer) != length:
        raise _unexpected()
    return found


def _checked_id(entry: Any) -> bytes:
    """The id of an entry of a stream; raises RedisRefusedError for anything else."""
    if not isinstance(entry, bytes) or _ENTRY_ID.fullmatch(entry) is None:
        raise _unexpected()
    return entry


_ENTRY_ID = re.compile(rb"[0-9]{1,20}-[0-9]{1,20}")


def _value_in(fields: Any) -> bytes:
    """What an entry holds; empty if nobody here wrote it."""
    value = fields.get(b"v", b"") if isinstance(fields, dict) else b""
    return value if isinstance(value, bytes) else b""


def _entries_of(page: Any) -> list[tuple[bytes, bytes]]:
    """The ids and values of XRANGE; raises RedisRefusedError for anything else."""
    try:
        return [(_checked_id(entry), _value_in(fields)) for entry, fields in page or ()]
    except (TypeError, ValueError) as error:
        raise _unexpected() from error


# Values. What Redis gives back is untrusted: each is checked for its shape.


def value_of(item_id: str, priority: int, data: Any) -> bytes:
    """An entry's value. Raises UnsupportedValueError."""
    return encode_body([item_id, priority, data])


def wanted_of(value: bytes) -> Wanted:
    """The opposite of :func:`value_of`. Raises CorruptPayloadError."""
    parts = decode_body(value)
    if (
        type(parts) is not list
        or len(parts) != 3
        or type(parts[0]) is not str
        or not 1 <= len(parts[0]) <= MAX_KEY_LENGTH
        or type(parts[1]) is not int
        or abs(parts[1]) > MAX_PRIORITY
    ):
        raise CorruptPayloadError("an entry that no batch processor wrote")
    return Wanted(*parts)


def outcome_value(
    state: OutcomeState, result: Any, error: str, attempts: int, by: str, limit: int
) -> tuple[bytes, str]:
    """The value of an outcome, and why it does not hold the result, if so. Never raises."""
    problem = ""
    try:
        value = encode_body([state, result, error, attempts, by])
        if len(value) <= limit:
            return value, ""
        problem = f"the result is {len(value):,} bytes as MessagePack: more than {limit:,}"
    except UnsupportedValueError as failure:
        problem = f"the result cannot travel to Redis: {failure}"
    return encode_body(["unkept", None, problem, attempts, by]), problem


def outcome_of(value: bytes) -> StoredOutcome:
    """The opposite of :func:`outcome_value`. Raises CorruptPayloadError."""
    parts = decode_body(value)
    if (
        type(parts) is not list
        or len(parts) != 5
        or parts[0] not in ("done", "unkept", "failed", "dead")
        or type(parts[2]) is not str
        or type(parts[3]) is not int
    ):
        raise CorruptPayloadError("an outcome that no batch processor wrote")
    return StoredOutcome(*parts[:4])


def letter_value(letter: DeadLetter) -> bytes:
    """The value of a dead letter, whose data came out of Redis or is bytes."""
    return encode_body(
        [letter.item_id, letter.data, letter.priority, letter.attempts, letter.error, letter.died_at]
    )


def letter_of(entry: bytes, value: bytes) -> DeadLetter | None:
    """The opposite of :func:`letter_value`; None for what is none."""
    try:
        item_id, data, priority, attempts, error, died_at = decode_body(value)
    except (CorruptPayloadError, ValueError, TypeError):
        return None
    kinds = (type(item_id), type(priority), type(attempts), type(error))
    if kinds != (str, int, int, str) or type(died_at) not in (int, float):
        return None
    return DeadLetter(item_id, data, priority, attempts, error, died_at, entry.decode())
