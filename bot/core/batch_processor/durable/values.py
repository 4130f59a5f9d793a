"""What durable mode writes into Redis and reads out of it: items, outcomes, dead letters.

What Redis gives back is untrusted: each value is checked for its shape.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from bot.core._shared.errors import CorruptPayloadError, UnsupportedValueError
from bot.core._shared.values import decode_body, encode_body
from bot.core.batch_processor.lanes import valid_lane
from bot.core.batch_processor.models import MAX_KEY_LENGTH, MAX_PRIORITY, DeadLetter, Lane

AT_ONCE = 250
"""Entries in one call at most: more would keep other clients of the server waiting."""

BYTES_AT_ONCE = 1_000_000
"""The same of the bytes of their values, but for the last one."""

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
    replaceable: bool = False
    """Whether a newer one of its key may take its place until the handler has it."""


def value_of(item_id: str, priority: int, data: Any, *, replaceable: bool = False) -> bytes:
    """An entry's value. Raises UnsupportedValueError."""
    return encode_body([item_id, priority, data, True] if replaceable else [item_id, priority, data])


def wanted_of(value: bytes) -> Wanted:
    """The opposite of :func:`value_of`. Raises CorruptPayloadError."""
    parts = decode_body(value)
    if (
        type(parts) is not list
        or not (len(parts) == 3 or (len(parts) == 4 and parts[3] is True))
        or type(parts[0]) is not str
        or not 1 <= len(parts[0]) <= MAX_KEY_LENGTH
        or type(parts[1]) is not int
        or abs(parts[1]) > MAX_PRIORITY
    ):
        raise CorruptPayloadError("an entry that no batch processor wrote")
    return Wanted(*parts)


def lane_name(lane: Lane | None) -> bytes:
    """What names a lane in an entry and in the lane's key; empty for none. 5 and "5" are two lanes."""
    if lane is None:
        return b""
    return b"i%d" % lane if isinstance(lane, int) else b"s" + lane.encode()


def lane_of(name: bytes) -> Lane | None:
    """The opposite of :func:`lane_name`. Raises CorruptPayloadError."""
    if not name:
        return None
    try:
        lane: Lane = int(name[1:21]) if name[:1] == b"i" else name[1:].decode()
        if lane_name(lane) == name:
            return valid_lane(lane)
    except ValueError:  # of each of them
        pass
    raise CorruptPayloadError("a lane that no batch processor wrote")


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
    parts = [letter.item_id, letter.data, letter.priority, letter.attempts, letter.error, letter.died_at]
    return encode_body(parts if letter.lane is None else [*parts, lane_name(letter.lane)])


def letter_of(entry: bytes, value: bytes) -> DeadLetter | None:
    """The opposite of :func:`letter_value`; None for what is none."""
    try:
        item_id, data, priority, attempts, error, died_at, *names = decode_body(value)
        lane = lane_of(*names) if names else None
    except (CorruptPayloadError, ValueError, TypeError):
        return None
    kinds = (type(item_id), type(priority), type(attempts), type(error))
    if kinds != (str, int, int, str) or type(died_at) not in (int, float):
        return None
    return DeadLetter(item_id, data, priority, attempts, error, died_at, entry.decode(), lane)
