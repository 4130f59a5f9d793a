"""What one answer of Redis may make this process hold, before its parser is given the bytes (pure).

A parser makes room for as many elements as an array announces: 13 bytes ask for 8 GB, and each collection
of garbage then walks a billion empty places. So announcements are added up before they are parsed. Bytes
that look like one may be part of a value, and mean nothing there. The parser knows which it is:
given everything before them, it keeps the beginning of a value that has not ended, and keeps nothing
between two elements.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

MAX_ELEMENTS = 1_000_000
"""Elements of all arrays of one answer, some eight bytes each before any of them has come."""

MAX_BYTES = 1 << 30
"""Bytes of one answer."""

SUSPECT = 100_000
"""Elements up to which bytes that only look like an announcement may count as one."""

OVERHEAD = 8
"""An array costs as much as so many elements, itself."""

FEW_BYTES = 16_384
"""Bytes whose small arrays, of 99 elements each, announce 700,000 at the most."""

_HEADER = re.compile(rb"\n([*~|>%])([0-9]{1,11})")
_FIRST = re.compile(rb"([*~|>%])([0-9]{1,11})")
_find_long_header = re.compile(rb"\n[*~|>%][0-9]{3}").search
_OPEN_HEADER = re.compile(rb"(?:\A|(?<=\n))[*~|>%][0-9]{0,11}\Z")
_LINE_END = 10


class AnswerTooLargeError(ConnectionError):
    """An answer of Redis that would take too much memory; the connection is of no more use."""


class AnswerBounds:
    """The bounds of the answers that one parser reads.

    ``inside`` tells whether the parser holds the beginning of something that has not ended. Between two
    pieces of :meth:`pieces` the parser must be emptied of its answers, each told by :meth:`answered`.
    """

    __slots__ = ("_announced", "_at_line", "_bytes", "_inside", "_open", "clean")

    def __init__(self, inside: Callable[[], bool]) -> None:
        self._inside = inside
        self._open = b""
        self._at_line = True
        self._bytes = 0
        self._announced = 0
        self.clean = True
        """Whether nothing is known of an answer that has begun: all that came has come to its end."""

    @property
    def holds(self) -> bool:
        """Whether bytes are kept here whose end has not come."""
        return bool(self._open)

    def answered(self) -> None:
        """An answer has come to its end."""
        self._bytes = self._announced = 0
        self.clean = self._at_line and not self._open

    def harmless(self, data: bytes) -> bool:
        """Whether the parser may have ``data`` as it is, which is so nearly always; it costs little.

        Then :meth:`unanswered` is to be told if no answer comes of it. Otherwise: :meth:`pieces`.
        """
        return (
            self.clean
            and len(data) <= FEW_BYTES
            and data[-1] == _LINE_END
            and (data[0] not in b"*~|>%" or b"\r" in data[:4])  # two digits at the most
            and _find_long_header(data) is None
        )

    def unanswered(self, data: bytes) -> None:
        """Harmless bytes are the beginning of an answer."""
        self.clean = False
        self._bytes += len(data)
        self._announced += self._looks_like(data)

    def pieces(self, data: bytes) -> Iterable[bytes]:
        """``data`` for the parser, in order; raises AnswerTooLargeError before what it must not get."""
        self.clean = False
        if self._open:
            data, self._open = self._open + data, b""
        if data[-1:] != b"\n" and (found := _OPEN_HEADER.search(data, max(0, len(data) - 13))) is not None:
            # Cut within an announcement, which is not the end of an answer: no call waits for it.
            data, self._open = data[: found.start()], data[found.start() :]
            if not data:
                return ()
        self._bytes += len(data)
        if self._bytes > MAX_BYTES:
            raise AnswerTooLargeError(f"an answer of Redis of more than {MAX_BYTES:,} bytes")
        total = self._looks_like(data)
        if self._announced + total > SUSPECT:
            return self._apart(data)
        self._announced += total
        self._at_line = data[-1] == _LINE_END
        return (data,)

    def _looks_like(self, data: bytes) -> int:
        """The elements that are announced, if all that looks like an announcement is one."""
        total = sum(_elements(*header) for header in _HEADER.findall(data))
        first = _FIRST.match(data) if self._at_line else None
        return total if first is None else total + _elements(first[1], first[2])

    def _apart(self, data: bytes) -> Iterator[bytes]:
        """Cut before each announcement, so that the parser can say whether it is one."""
        first = _FIRST.match(data) if self._at_line else None
        self._at_line = data[-1] == _LINE_END
        if first is not None:
            self._add(_elements(first[1], first[2]))
        start = 0
        for found in _HEADER.finditer(data):
            at = found.start(1)
            yield data[start:at]
            start = at
            self._add(_elements(found[1], found[2]))
        yield data[start:]

    def _add(self, elements: int) -> None:
        if self._inside():
            return  # part of a value
        self._announced += elements
        if self._announced > MAX_ELEMENTS:
            raise AnswerTooLargeError(f"an answer of Redis of more than {MAX_ELEMENTS:,} elements")


def _elements(kind: bytes, digits: bytes) -> int:
    count = int(digits)
    return (2 * count if kind in b"%|" else count) + OVERHEAD
