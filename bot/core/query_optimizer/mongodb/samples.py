"""One query of a shape, as bytes: what tells it apart from others, and what advice is based on (pure)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.objectid import ObjectId
from msgspec import Struct

MAX_SAMPLE = 50_000
"""Bytes of a sample."""

_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)


class Sample(Struct, frozen=True):
    """The arguments of one query. It is not a container, so that its size is not taken for that of a list."""

    method: str
    """The driver's method."""
    document: bytes

    def arguments(self) -> dict[str, Any]:
        return bson.decode(self.document, _CODEC)


class Keyed(Struct, frozen=True):
    """The arguments of a read, as in the key of its result; no container, as a sample is none."""

    key: Any

    def kept(self) -> Keyed:
        return self


class Arguments(Struct):
    """The arguments of a command that has just run, which are its caller's own: kept only as a sample."""

    method: str
    arguments: Mapping[str, Any]

    def kept(self) -> Sample | None:
        return sample_of(self.method, self.arguments)


def values_of(arguments: Mapping[str, Any]) -> Hashable:
    """What tells the arguments apart from others of their shape; None if nothing does."""
    if len(arguments) == 1:
        for within in arguments.values():
            values = plain_values(within)
            if values is not None:
                return values
    sample = sample_of("", arguments)
    return None if sample is None else sample.document


_PLAIN = frozenset((str, int, ObjectId))
"""Types of values that are compared as they are, and cannot change."""


def plain_values(condition: Any) -> tuple[Hashable, ...] | None:
    """The values of a filter that has only such; None if it has others."""
    if condition.__class__ is not dict:
        return None
    values = tuple(condition.values())
    for value in values:  # mostly one: a loop takes less time than a set of their types
        if value.__class__ not in _PLAIN:
            return None
    return values


def sample_of(method: str, arguments: Mapping[str, Any]) -> Sample | None:
    """None for arguments that are too large, or have values that only the client's own codec knows."""
    try:
        document = bson.encode(arguments, codec_options=_CODEC)
    except (BSONError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    return Sample(method, document) if len(document) <= MAX_SAMPLE else None
