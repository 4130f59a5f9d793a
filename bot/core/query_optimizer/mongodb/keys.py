"""The arguments of a MongoDB read as a key, or why its result must not be cached (pure)."""

from __future__ import annotations

import datetime
import re
import uuid
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.son import SON
from bson.timestamp import Timestamp
from pymongo.collation import Collation

MAX_PARTS = 2_000
"""Values in the arguments of a read whose result is kept, those within others included."""

MAX_CHARACTERS = 50_000
"""Characters and bytes of these values together."""

MAX_DEPTH = 100

_OPTIONS = frozenset(
    (
        "filter projection skip limit sort collation hint max_time_ms maxTimeMS batch_size batchSize let "
        "min max allow_disk_use allowDiskUse return_key show_record_id key pipeline length"
    ).split()
)
"""Options that are part of a key. Any other must have its default."""

_CHANGING = frozenset(
    (
        "$where $function $accumulator $sample $sampleRate $rand $createObjectId $currentDate $currentOp "
        "$collStats $indexStats $search $searchMeta $vectorSearch $rankFusion $scoreFusion"
    ).split()
)
"""Operators whose answer changes without a write, or follows a write only later."""

_CHANGING_VARIABLES = ("$$NOW", "$$CLUSTER_TIME", "$$USER_ROLES")

_PLAIN = frozenset((str, int, bool, bytes, type(None)))
_DICTS = (dict, SON, OrderedDict)


class NotCacheableError(Exception):
    """Why the result of a read must not be kept."""


class Identity:
    """Equal to the identity of the same object alone."""

    __slots__ = ("of",)

    def __init__(self, of: Any) -> None:
        self.of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.of is other.of

    def __hash__(self) -> int:
        return id(self.of)


def key_of_arguments(arguments: Mapping[str, Any]) -> Hashable:
    """The arguments of a read as a key. Raises NotCacheableError.

    Values of different types differ, and so do documents whose fields are in another order: MongoDB tells
    embedded documents apart by it.
    """
    left = [MAX_PARTS, MAX_CHARACTERS]
    parts = []
    for name in sorted(arguments):
        value = arguments[name]
        if name in _OPTIONS:
            parts.append((name, _frozen(value, left, 0)))
        elif name != "comment" and not (
            value is None or value is False or (type(value) is int and not value)
        ):
            raise NotCacheableError(f"it has the option {name}")
    return tuple(parts)


def frozen_arguments(arguments: Mapping[str, Any]) -> list[tuple[str, Hashable]]:
    """Arguments as in a key, whatever they are called. Raises NotCacheableError for what has no key."""
    left = [MAX_PARTS, MAX_CHARACTERS]
    return [(name, _frozen(value, left, 0)) for name, value in arguments.items()]


def _frozen(value: Any, left: list[int], depth: int) -> Hashable:
    kind = type(value)
    left[0] -= 1
    if kind is str or kind is bytes:
        left[1] -= len(value)
        if kind is str and value[:2] == "$$" and value.startswith(_CHANGING_VARIABLES):
            raise NotCacheableError(f"it reads {value[:20]}")
    elif kind is int:
        left[1] -= value.bit_length() >> 3
    if left[0] < 0 or left[1] < 0 or depth > MAX_DEPTH:
        raise NotCacheableError("its arguments are too large")
    if kind in _PLAIN:
        return kind, value
    if kind is list or kind is tuple:
        return kind, tuple([_frozen(item, left, depth + 1) for item in value])
    if kind in _DICTS:
        items = []
        for name, item in value.items():
            if type(name) is not str:
                raise NotCacheableError("a field's name is not a str")
            if name in _CHANGING:
                raise NotCacheableError(f"it uses {name}")
            left[1] -= len(name)
            items.append((name, _frozen(item, left, depth + 1)))
        return dict, tuple(items)
    if kind is float:
        # 0.0 equals -0.0, and NaN does not equal itself.
        return float, value if value and value == value else repr(value)
    parts = _PARTS.get(kind)
    if parts is None:
        raise NotCacheableError(f"an argument is of type {kind.__qualname__}")
    return kind, _frozen(parts(value), left, depth + 1)


_PARTS: dict[type, Callable[[Any], Any]] = {
    ObjectId: lambda value: value.binary,
    Int64: int,
    Decimal128: lambda value: value.bid,
    Binary: lambda value: (value.subtype, bytes(value)),
    Regex: lambda value: (value.pattern, int(value.flags)),
    re.Pattern: lambda value: (value.pattern, int(value.flags)),
    Timestamp: lambda value: (value.time, value.inc),
    DatetimeMS: int,
    # 12:00+00:00 equals 13:00+01:00, and where clocks are set back two times are written alike.
    datetime.datetime: lambda value: (repr(value), str(value.utcoffset()), value.fold),
    uuid.UUID: lambda value: value.bytes,
    DBRef: lambda value: dict(value.as_doc()),
    Collation: lambda value: dict(value.document),
    MinKey: lambda value: (),
    MaxKey: lambda value: (),
}
