"""What messages show, as far as it is certain, so that an edit to the same need not be sent (pure)."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from typing import Any, NamedTuple

from bot.core.outbound.keys import Key
from bot.core.outbound.models import plain_method

MAX_MESSAGES = 1_000
"""Messages of which what they show, and the last edit's result, is remembered."""

DOUBTFUL_FOR = 60.0
"""Seconds after an edit failed or was cancelled for which it may still take effect, after later ones too."""


class Last(NamedTuple):
    """How the edit ended that a message now shows."""

    result: Any


class Message:
    """One message: what the last edit that is sure to have taken effect made of it."""

    __slots__ = ("content", "doubtful_until", "in_flight", "overlapped", "result")

    def __init__(self) -> None:
        # Changed by Shown alone. None: not known.
        self.content: bytes | None = None
        self.result: Any = None
        self.in_flight = 0
        self.overlapped = False
        """Whether edits were in flight together: nobody knows which was last."""
        self.doubtful_until = -math.inf


class Shown:
    """The messages edited last by this process, at most ``most`` of them beside those in flight."""

    def __init__(self, most: int = MAX_MESSAGES) -> None:
        self._most = most
        self._messages: OrderedDict[Key, Message] = OrderedDict()  # least recently edited first
        self._doubtful_until = -math.inf
        """Of messages that had to be forgotten while they were in doubt."""

    def __len__(self) -> int:
        return len(self._messages)

    def equal(self, message: Key, content: bytes) -> Last | None:
        """The last edit's result if the message is sure to show ``content``, else None."""
        known = self._messages.get(message)
        if known is None or known.in_flight or known.content != content:
            return None
        return Last(known.result)

    def left(self, message: Key) -> Message:
        """An edit of the message leaves; what is returned is to be given to one of the methods below."""
        known = self._messages.get(message)
        if known is None:
            known = self._messages[message] = Message()
        else:
            self._messages.move_to_end(message)
        known.in_flight += 1
        known.overlapped = known.overlapped or known.in_flight > 1
        return known

    def succeeded(self, known: Message, content: bytes | None, result: Any, now: float) -> None:
        """The message now shows the edit's content (None: not told)."""
        certain = not known.overlapped and now >= max(known.doubtful_until, self._doubtful_until)
        known.content = content if certain else None
        known.result = result if known.content is not None else None
        self._landed(known)
        self._forget_oldest()

    def refused(self, known: Message) -> None:
        """Telegram did nothing: what was shown still is."""
        self._landed(known)

    def failed(self, known: Message, now: float) -> None:
        """Nobody knows what came of the edit, nor when."""
        known.content = known.result = None
        known.doubtful_until = now + DOUBTFUL_FOR
        self._landed(known)
        self._forget_oldest()

    def forget(self, message: Key) -> None:
        """It is being deleted, or something else happens to it."""
        known = self._messages.get(message)
        if known is not None:
            known.content = known.result = None
            known.overlapped = known.in_flight > 0

    def clear(self) -> None:
        """Anything may have happened to any message; edits in flight end unheard."""
        self._messages.clear()

    def _landed(self, known: Message) -> None:
        known.in_flight -= 1
        if not known.in_flight:
            known.overlapped = False

    def _forget_oldest(self) -> None:
        messages = self._messages
        for _ in range(len(messages) - self._most):
            message, known = next(iter(messages.items()))
            if known.in_flight:
                messages.move_to_end(message)
            else:
                self._doubtful_until = max(self._doubtful_until, known.doubtful_until)
                del messages[message]

    def check_invariants(self) -> None:
        in_flight = 0
        for known in self._messages.values():
            assert known.in_flight >= 0
            assert known.content is not None or known.result is None
            in_flight += bool(known.in_flight)
        assert len(self._messages) <= self._most + in_flight + 1


def digest_of(method: str, content: str | bytes) -> bytes:
    """What an edit makes of its message, as 16 bytes: its method, too, for each edits something else."""
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    # The text's kind belongs to it: "a" and b"a" need not mean the same.
    kind = b"s" if isinstance(content, str) else b"b"
    head = plain_method(method).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(b"%b\0%b%b" % (head, kind, raw), digest_size=16).digest()
