"""Whether a process ran when it should have: on a busy machine half a second without a turn is a fault."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

EVERY = 0.05
LATE = 0.3


async def watch_stalls(tell: Callable[[float, float], object]) -> None:
    """Call ``tell(begin, end)`` for each time that the event loop had no turn for more than ``LATE``."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(EVERY)
        now = time.monotonic()
        if now - before > EVERY + LATE:
            tell(before, now)
