"""Whether foreign MessagePack may be decoded: what it would build is counted first (pure).

A decoder builds whatever the bytes ask for: one byte can be a dict of 64 bytes, and keys that are made to
collide turn a map into quadratic work. So a body is walked before it is decoded, in one pass, building
nothing. Small bodies need no walk: what they can do is bounded by their length.
"""

from __future__ import annotations

import gc
import operator
import re
from collections.abc import Collection
from typing import Any

from bot.core._shared.errors import CorruptPayloadError

MAX_OBJECTS = 1_000_000
"""Numbers, strings and containers in one value: some 0.1 seconds and 70 to 220 MB at the most."""

MAX_DEPTH = 64
"""Containers within containers."""

MAX_COLLISIONS = 64
"""Members of a set, or keys of a dict, that have one hash: Python compares each with all others."""

HARMLESS = 512
"""Members of a set, or keys of a dict, that cost 3 milliseconds at most, even if all have one hash."""

SMALL = 8 * 1024
"""Bytes of a body that cannot hold more colliding keys than that."""

# Frames of the walk per container of the value: a dict with keys of other types is a list of pairs within
# an extension.
_FRAMES = 3 * MAX_DEPTH + 1

# What follows a first byte: bytes in all of an object without parts (0: it has parts, or a length).
_FIXED_SIZES = {
    **dict.fromkeys([*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3], 1),
    **{0xA0 + length: 1 + length for length in range(32)},
    0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9,
}  # fmt: skip
_SIZES = bytes([_FIXED_SIZES.get(first, 0) for first in range(256)])

# First byte -> bytes of the length that follows.
_STRINGS = {0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC4: 1, 0xC5: 2, 0xC6: 4}
_ARRAYS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_KEYS = frozenset([*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB])


# A map of more than 255 keys begins so, and much else that is none. Looked for at every place.
_LARGE_MAP = re.compile(rb"(?=\xde([\x01-\xff].)|\xdf(.{4}))", re.DOTALL)


def check_body(body: bytes, nested: frozenset[int]) -> None:
    """Raise CorruptPayloadError for a body that would build too much, or a map with keys that are no text.

    ``nested`` are the codes of extensions that hold MessagePack themselves. A body that passes may still
    be no MessagePack; the decoder says so.
    """
    if must_be_walked(body):
        Walk(body, nested).go(len(body))


def must_be_walked(body: bytes) -> bool:
    """Whether a body is large enough, or holds what may be a map large enough, to build too much."""
    return len(body) > MAX_OBJECTS or (len(body) > SMALL and _may_hold_a_large_map(body))


def _may_hold_a_large_map(body: bytes) -> bool:
    if b"\xde" not in body and b"\xdf" not in body:
        return False
    for found in _LARGE_MAP.finditer(body):
        keys = int.from_bytes(found[1] or found[2], "big")
        # Each key and each value is a byte at least.
        if HARMLESS // 2 <= keys <= (len(body) - found.start()) // 2:
            return True
    return False


class Walk:
    """A pass over a body that counts what it would build; it may be made in several goes."""

    __slots__ = ("_body", "_in_map", "_left", "_nested", "_objects", "_outer", "position")

    def __init__(self, body: bytes, nested: frozenset[int]) -> None:
        """``nested`` as for :func:`check_body`."""
        self._body = body
        self._nested = nested
        # Where the pass is; changed only by go.
        self.position = 0
        self._objects = 1
        # Of the container that is being read: objects still to come, and whether they are keys and values.
        self._left = 1
        self._in_map = False
        self._outer: list[tuple[int, bool]] = []

    @property
    def left_at_top(self) -> int:
        """Objects still to come in the outermost container, if the next object is an item of it; else -1.

        Keys and values count each.
        """
        if len(self._outer) != 1 or (self._in_map and self._left & 1):
            return -1
        return self._left

    def go(self, stop: int) -> bool:
        """Go on until an object ends at ``stop`` or beyond; True if that was the last.

        Raises CorruptPayloadError for a body that would build too much.
        """
        sizes = _SIZES
        body, nested, outer = self._body, self._nested, self._outer
        position, objects, left, in_map = self.position, self._objects, self._left, self._in_map
        end = len(body)
        while True:
            while left == 0:
                if not outer:
                    self.position = position
                    return True
                left, in_map = outer.pop()
            if position >= stop:
                if position >= end:
                    raise CorruptPayloadError("it ends within a value")
                self.position, self._objects, self._left, self._in_map = position, objects, left, in_map
                return False
            first = body[position]
            if in_map and not left & 1 and first not in _KEYS:
                raise CorruptPayloadError("a map with a key that is no text")
            left -= 1
            size = sizes[first]
            if size:
                position += size
                continue
            position += 1
            if first < 0x90:
                parts, is_map = 2 * (first & 0x0F), True
            elif first < 0xA0:
                parts, is_map = first & 0x0F, False
            elif first in _STRINGS:
                width = _STRINGS[first]
                position += width + int.from_bytes(body[position : position + width], "big")
                continue
            elif first in _ARRAYS:
                width = _ARRAYS[first]
                parts, is_map = int.from_bytes(body[position : position + width], "big"), False
                position += width
            elif first in _MAPS:
                width = _MAPS[first]
                parts, is_map = 2 * int.from_bytes(body[position : position + width], "big"), True
                position += width
            else:
                if first in _EXTENSIONS:
                    width = _EXTENSIONS[first]
                    length = int.from_bytes(body[position : position + width], "big")
                    position += width
                elif first in _FIXED_EXTENSIONS:
                    length = _FIXED_EXTENSIONS[first]
                else:
                    raise CorruptPayloadError(f"no object begins with {first:#x}")
                code = body[position] if position < end else 0
                position += 1
                if code not in nested:
                    position += length
                    continue
                parts, is_map = 1, False
            objects += parts
            if objects > MAX_OBJECTS:
                raise CorruptPayloadError(f"more than {MAX_OBJECTS:,} objects")
            if parts > end - position:
                raise CorruptPayloadError("it ends within a value")
            if len(outer) >= _FRAMES:
                raise CorruptPayloadError(f"nested deeper than {MAX_DEPTH}")
            outer.append((left, in_map))
            left, in_map = parts, is_map


_CONTAINERS = frozenset((list, dict, tuple, set, frozenset))


def check_depth(value: Any) -> None:
    """Raise CorruptPayloadError for a value that was built deeper than ``MAX_DEPTH``."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        # At C's speed. What is not tracked holds atoms only.
        level = [
            part for part in gc.get_referents(*level) if gc.is_tracked(part) and type(part) in _CONTAINERS
        ]
    if level:
        raise CorruptPayloadError(f"nested deeper than {MAX_DEPTH}")


def check_collisions(members: Collection[Any]) -> None:
    """Raise CorruptPayloadError if too many members of a set to be have one hash."""
    if len(members) <= HARMLESS:
        return
    hashes = sorted(map(hash, members))
    # Sorted, equal ones are neighbours: so many places apart, two that are equal have as many between them.
    if any(map(operator.eq, hashes, hashes[MAX_COLLISIONS:])):
        raise CorruptPayloadError(f"more than {MAX_COLLISIONS} members with one hash")
