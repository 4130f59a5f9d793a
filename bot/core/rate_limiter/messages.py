"""The messages by which instances tell each other of clients forgiven and places given back (pure)."""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

from bot.core.rate_limiter.models import ClientId

CHANNEL = "p4r:reset"
MOVED = b"p4r:m:"
"""What messages begin with that bucket.lua sends when a place in a line was given back."""

LIMIT = b"p4r:l:"
"""What messages begin with that tell of a client forgiven under one limit."""
LIMIT_ID_SIZE = 8

_GIVEN_BACK = struct.Struct("<8sdddd")
"""Limit, instance that gave tokens back, epoch, number, and the tokens in seconds."""


class Place(NamedTuple):
    """A place in a client's line that an instance gave back."""

    limit_id: bytes
    instance: float
    epoch: float
    number: float
    cost: float
    """The tokens that come back, in seconds."""
    key: bytes
    """The client's."""


def reset_message(key: bytes, client: ClientId, limit_id: bytes = b"") -> bytes:
    """Tells that the client of a Redis key is forgiven, under one limit if ``limit_id`` names it."""
    message = key[:6] + _name(client)
    return LIMIT + limit_id + message if limit_id else message


def reset_of(message: bytes) -> tuple[ClientId, bytes]:
    """The client and limit (empty: all) of a :func:`reset_message`; ValueError for anything else."""
    if not message.startswith(LIMIT):
        return _client_of(message), b""
    start = len(LIMIT)
    return _client_of(message[start + LIMIT_ID_SIZE :]), message[start : start + LIMIT_ID_SIZE]


def _client_of(message: bytes) -> ClientId:
    kind, name = message[4:5], message[6:]
    if message[:4] != b"p4r:" or message[5:6] != b":":
        raise ValueError("not a reset")
    if kind in (b"i", b"j"):
        return int(name, 16)
    if kind == b"e":
        return None
    if kind in (b"s", b"h"):
        return name.decode("utf-8", "surrogatepass")
    raise ValueError("not a reset")


def place_of(message: bytes) -> Place | None:
    """The place that a message of bucket.lua tells of; None if it makes no sense."""
    message = message[len(MOVED) :]
    size = _GIVEN_BACK.size
    if len(message) <= size:
        return None
    limit_id, instance, epoch, number, cost = _GIVEN_BACK.unpack(message[:size])
    place = Place(limit_id, instance, epoch, number, cost, key=message[size:])
    sensible = math.isfinite(place.epoch) and place.number >= 0.0 and 0.0 < place.cost < math.inf
    return place if sensible else None


def _name(client: ClientId) -> bytes:
    if client is None:
        return b""
    return b"%x" % client if isinstance(client, int) else client.encode("utf-8", "surrogatepass")
