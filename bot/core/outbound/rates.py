"""Limits as the scheduler counts by them: windows with their margins (pure)."""

from __future__ import annotations

from bot.core.outbound.models import Limits
from bot.core.outbound.windows import lengthened


class Rates:
    """What follows from Limits, worked out once."""

    __slots__ = ("bulk", "bulk_of_others", "burst", "group", "interval", "paid", "shared_edits", "typing")

    def __init__(self, limits: Limits) -> None:
        self.shared_edits = limits.edits == "shared"
        self.group = limits.group[0], lengthened(limits.group[1])
        self.interval = limits.chat[1] / limits.chat[0]
        """Seconds from one message to a private chat to the next, after the burst."""
        self.burst = limits.chat_burst
        self.bulk = limits.bulk[0], lengthened(limits.bulk[1])
        reserve = max(1, limits.bulk[0] // 10) if limits.bulk_reserve is None else limits.bulk_reserve
        self.bulk_of_others = max(1, limits.bulk[0] - reserve), self.bulk[1]
        """What all but answers leave within: the rest of ``bulk`` is kept for answers."""
        self.paid = limits.paid[0], lengthened(limits.paid[1])
        self.typing = [(most, lengthened(window)) for most, window in limits.typing]
