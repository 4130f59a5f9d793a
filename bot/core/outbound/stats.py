"""Figures of outbound flood control."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET

from bot.core._shared.histogram import Histogram, HistogramSnapshot
from bot.core.outbound.backlog import Reason
from bot.core.outbound.models import Priority
from bot.core.outbound.scheduler import Scheduler
from bot.core.phase4_statistics.outbound import OutboundFigures

if TYPE_CHECKING:
    from bot.core.outbound.shared import SharedBudget


class Counters:
    """What the service counts; its hot path increments these."""

    __slots__ = (
        "cancelled", "dropped", "expired", "failed", "held_too_long", "refusals_chat", "refusals_global",
        "refused_by", "refused_full", "requests", "retries", "sent_by", "superseded", "unchanged", "unqueued",
        "waited", "waits",
    )  # fmt: skip

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """All to zero."""
        self.requests = self.failed = self.cancelled = self.unqueued = self.waited = 0
        # By priority.
        self.sent_by = [0] * len(Priority)
        self.refused_by = [0] * len(Priority)
        self.refusals_chat = self.refusals_global = self.retries = 0
        self.superseded = self.unchanged = self.dropped = self.expired = self.held_too_long = (
            self.refused_full
        ) = 0
        self.waits = Histogram()

    @property
    def sent(self) -> int:
        return sum(self.sent_by)

    def ended(self, reason: Reason) -> None:
        """A claim ended without being sent."""
        if reason is Reason.DEADLINE:
            self.expired += 1
        elif reason is Reason.HELD:
            self.held_too_long += 1
        elif reason is Reason.DELETED:
            self.dropped += 1
        else:
            self.refused_full += 1

    def waits_snapshot(self) -> HistogramSnapshot:
        """How long requests waited before they left."""
        return self.waits.snapshot(
            "outbound_wait_seconds",
            "Time a request to Telegram waited before it left",
            zeros=self._unwaited,
        )

    @property
    def _unwaited(self) -> int:
        return max(0, self.requests - self.waited - self.unqueued)


def snapshot(
    counters: Counters,
    scheduler: Scheduler,
    now: float,
    shared: SharedBudget | None,
    broadcasts: dict[str, int],
    *,
    draining: bool,
) -> OutboundFigures:
    """The statistics; ``broadcasts`` are the figures of these."""
    refusals = counters.refusals_chat + counters.refusals_global
    chats_waiting, queued_by = _waiting(scheduler)
    waits, unwaited = counters.waits, counters._unwaited
    return OutboundFigures(
        enabled=True,
        draining=draining,
        total_requests=counters.requests,
        sent=counters.sent,
        failed=counters.failed,
        cancelled=counters.cancelled,
        unqueued=counters.unqueued,
        queued=scheduler.pending,
        max_pending=scheduler.backlog.most,
        in_flight=scheduler.slots.taken,
        max_in_flight=scheduler.slots.most,
        waited=counters.waited,
        p50_wait_ms=round(waits.quantile(0.5, unwaited) * 1000, 3),
        p99_wait_ms=round(waits.quantile(0.99, unwaited) * 1000, 3),
        refusals=refusals,
        refusals_chat=counters.refusals_chat,
        refusals_global=counters.refusals_global,
        retries=counters.retries,
        superseded=counters.superseded,
        unchanged=counters.unchanged,
        dropped=counters.dropped,
        expired=counters.expired,
        held_too_long=counters.held_too_long,
        refused_full=counters.refused_full,
        chats_waiting=chats_waiting,
        chats_held=scheduler.chats.held(now),
        chats_known=len(scheduler.chats),
        held_globally_seconds=round(max(0.0, scheduler.penalty.until - now), 3),
        by_priority={
            priority.name.lower(): {
                "queued": queued_by[priority],
                "sent": counters.sent_by[priority],
                "refused": counters.refused_by[priority],
            }
            for priority in Priority
        },
        shared=shared is not None,
        degraded=shared is not None and shared.degraded,
        admissions=UNSET if shared is None else shared.admissions,
        admissions_denied=UNSET if shared is None else shared.denials,
        sent_unshared=UNSET if shared is None else shared.alone,
        admission_batches=UNSET if shared is None else shared.batches,
        **broadcasts,
    )


def _waiting(scheduler: Scheduler) -> tuple[int, list[int]]:
    """Chats with requests that wait, and how many wait of each priority."""
    chats, queued = 0, [0] * len(Priority)
    if scheduler.pending:
        for chat in scheduler.chats:
            waits = False
            for lane in chat.lanes.values():
                for priority, number in enumerate(lane.counts):
                    queued[priority] += number
                    waits = waits or number > 0
            chats += waits
    return chats, queued
