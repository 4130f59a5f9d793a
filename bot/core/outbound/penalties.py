"""Penalties that Telegram gave: until when a chat must not be written to, and how slowly after (pure)."""

from __future__ import annotations

import math
from collections import deque

GLOBAL_CHATS, GLOBAL_WITHIN = 3, 2.0
"""Chats refused within so many seconds that mean that all are meant."""

LOWEST_SHARE = 0.25
RECOVERY_PER_SECOND = 0.1 / 60.0
"""After a refusal a chat has half its rate, at least a quarter, and a tenth of the whole more each minute."""


class Slowdown:
    """Which share of its rate a chat has: halved by a refusal, recovering additively with time."""

    __slots__ = ("_at", "_share")

    def __init__(self) -> None:
        self._share = 1.0
        self._at = -math.inf

    def refused(self, now: float, from_: float) -> None:
        """A refusal came; recovery begins at ``from_``, the end of its wait."""
        self._share = max(LOWEST_SHARE, self.share(now) / 2.0)
        self._at = from_

    def share(self, now: float) -> float:
        """Between LOWEST_SHARE and 1.0."""
        if self._share >= 1.0:
            return 1.0
        return min(1.0, self._share + max(0.0, now - self._at) * RECOVERY_PER_SECOND)

    def recovered_at(self) -> float:
        """When the share is 1.0 again."""
        if self._share >= 1.0:
            return -math.inf
        return self._at + (1.0 - self._share) / RECOVERY_PER_SECOND


class GlobalPenalty:
    """Until when nothing may be sent to anybody. Only :meth:`release` shortens it."""

    def __init__(self) -> None:
        self.until = -math.inf
        # (time, chat, until) of refusals within the last GLOBAL_WITHIN seconds, one for each chat.
        self._recent: deque[tuple[float, object, float]] = deque()

    def hold(self, until: float) -> None:
        """Send nothing to anybody until then."""
        self.until = max(self.until, until)

    def release(self, now: float) -> bool:
        """End it; False if it had ended."""
        held = self.until > now
        self.until = -math.inf
        return held

    def refused(self, chat: object, now: float, until: float) -> bool:
        """A chat was refused until then; whether that makes the penalty one for all.

        It then lasts as long as the longest of those that made it so.
        """
        recent = self._recent
        kept = [known for known in recent if known[0] > now - GLOBAL_WITHIN and known[1] != chat]
        recent.clear()
        recent.extend(kept)
        recent.append((now, chat, until))
        if len(recent) < GLOBAL_CHATS:
            return False
        self.hold(max(known[2] for known in recent))
        recent.clear()
        return True
