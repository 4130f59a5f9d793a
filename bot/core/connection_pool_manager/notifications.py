"""What a listener is sent, and its queue (pure)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

from msgspec import Struct

from bot.core._shared.errors import invalid

LONGEST_CHANNEL = 63
"""Bytes: PostgreSQL's identifiers have no more (NAMEDATALEN - 1), and LISTEN would cut a longer one."""

LONGEST_PAYLOAD = 7999
"""Bytes that a notification of PostgreSQL may carry."""

MOST_PENDING = 1_000_000


class Notification(Struct, frozen=True):
    """A message of a channel, or the mark that messages may be missing before it."""

    channel: str
    """The channel's name; of a mark empty."""
    payload: str
    sender: int
    """The process id of the server process that sent it, as ``pg_backend_pid()`` gives it; of a mark 0."""
    kind: Literal["message", "reconnected", "overflow"] = "message"
    """``reconnected``: the connection was lost, and is there again. ``overflow``: the queue was full."""
    dropped: int = 0
    """Of a mark: how many messages the full queue left out."""


class Inbox:
    """What one listener has yet to read, in order: at most ``max_pending`` messages, and a mark.

    When it is full, new messages are left out, and one mark stands in their place: who reads on knows where
    messages are missing. Marks that nothing was read between are one.
    """

    def __init__(self, channels: frozenset[str], max_pending: int, wake: Callable[[], None]) -> None:
        self.channels = channels
        self.max_pending = max_pending
        self.is_joined = False
        """Whether the server has listened on its channels; changed by the connection's owner."""
        self.closed: Exception | None = None
        self._wake = wake
        self._entries: deque[Notification] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, channel: str, payload: str, sender: int) -> bool:
        """Add a message; False if there was no room for it."""
        if len(self._entries) >= self.max_pending:
            self._mark("overflow", 1)
            return False
        self._entries.append(Notification(channel, payload, sender))
        self._wake()
        return True

    def mark_reconnected(self) -> None:
        """From here on the messages are those of a new connection."""
        self._mark("reconnected", 0)

    def _mark(self, kind: Literal["reconnected", "overflow"], dropped: int) -> None:
        entries = self._entries
        if entries and (last := entries[-1]).kind != "message":
            if last.kind == "reconnected":
                kind = "reconnected"
            entries[-1] = Notification("", "", 0, kind, last.dropped + dropped)
        else:
            entries.append(Notification("", "", 0, kind, dropped))
        self._wake()

    def take(self) -> Notification | None:
        """The next one; None: there is none."""
        return self._entries.popleft() if self._entries else None

    def close(self, error: Exception) -> None:
        """Nothing more will come; the reader gets ``error`` after what is there."""
        self.closed = error
        self._wake()

    def check_invariants(self) -> None:
        """Raise AssertionError if the queue is not what it should be. For tests."""
        kinds = [entry.kind for entry in self._entries]
        assert len(kinds) <= self.max_pending + 1
        assert len(kinds) <= self.max_pending or kinds[-1] != "message"
        assert all("message" in pair for pair in pairwise(kinds)), "marks are joined"


def valid_channel(value: object) -> str:
    """The name of a channel, as it is: capitals, blanks and quotes count. Raises InvalidArgumentError."""
    size = _size(value)
    if size is None or not 0 < size <= LONGEST_CHANNEL:
        raise invalid("channel", value, f"a name of 1 to {LONGEST_CHANNEL} bytes in UTF-8, without NUL")
    return str(value)


def valid_payload(value: object) -> str:
    """Raises InvalidArgumentError."""
    size = _size(value)
    if size is None or size > LONGEST_PAYLOAD:
        raise invalid("payload", value, f"a str of at most {LONGEST_PAYLOAD} bytes in UTF-8, without NUL")
    return str(value)


def _size(value: object) -> int | None:
    """Bytes; None: no text that PostgreSQL takes."""
    if not isinstance(value, str) or "\0" in value:
        return None
    try:
        return len(str(value).encode())
    except UnicodeEncodeError:
        return None
