"""How a broadcast is to be run."""

from __future__ import annotations

from msgspec import Struct

from bot.core._shared.errors import invalid
from bot.core._shared.validation import valid_count
from bot.core.outbound.broadcast.progress import OnProgress
from bot.core.outbound.broadcast.store import checked_address

CONCURRENCY, CONCURRENCY_PAID = 50, 500
"""Recipients that are written to, or wait for their turn, at a time, unless told otherwise."""


class BroadcastOptions(Struct, frozen=True, kw_only=True):
    """The arguments of ``Outbound.broadcast`` that have defaults; explained there. Raises ValueError."""

    paid: bool = False
    on_progress: OnProgress | None = None
    progress: bool = False
    store: str | None = None
    restart: bool = False
    cost: int = 1
    concurrency: int | None = None
    total: int | None = None
    stop_after_failures: int | None = 50
    lease: float = 10.0

    def __post_init__(self) -> None:
        if self.store is not None:
            checked_address("store", self.store)
        on_progress: object = self.on_progress
        if on_progress is not None and not callable(on_progress):
            allowed = "a function that takes a BroadcastProgress, or None"
            raise invalid("on_progress", on_progress, allowed)
        valid_count("cost", self.cost, 1, 10_000)
        if self.concurrency is not None:
            valid_count("concurrency", self.concurrency, 1, 5_000)
        if self.total is not None:
            valid_count("total", self.total, 0, 10**12)
        if self.stop_after_failures is not None:
            valid_count("stop_after_failures", self.stop_after_failures, 1, 1_000)
        lease = self.lease
        if isinstance(lease, bool) or not isinstance(lease, int | float) or not 0.1 <= lease <= 3_600:
            raise invalid("lease", lease, "seconds from 0.1 to 3,600")

    @property
    def at_a_time(self) -> int:
        """Recipients in work at a time."""
        if self.concurrency is not None:
            return self.concurrency
        return CONCURRENCY_PAID if self.paid else CONCURRENCY
