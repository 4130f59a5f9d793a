"""Figures of outbound flood control (pure)."""

from typing import Annotated

from msgspec import UNSET, UnsetType

from bot.core.phase4_statistics.fields import DEGRADED, Figures, counter, gauge

_REQUESTS = counter("phase4_outbound_requests", "Requests to Telegram by outcome", "outcome")
_REFUSALS = counter("phase4_outbound_refusals", "Requests that Telegram refused with a wait", "scope")
_RECIPIENTS = counter(
    "phase4_outbound_broadcast_recipients", "Recipients of broadcasts by outcome", "outcome"
)


class OutboundOff(Figures, frozen=True, kw_only=True):
    """All that it tells while it is off."""

    service = "outbound"

    enabled: bool = False


class OutboundFigures(Figures, frozen=True, kw_only=True):
    """Since the start or the last reset; see docs/outbound.md for each."""

    service = "outbound"

    enabled: bool
    draining: bool
    total_requests: int
    sent: Annotated[int, _REQUESTS.of("sent")]
    failed: Annotated[int, _REQUESTS.of("failed")]
    cancelled: Annotated[int, _REQUESTS.of("cancelled")]
    unqueued: Annotated[int, _REQUESTS.of("unqueued")]
    queued: Annotated[int, gauge("phase4_outbound_queued", "Requests that wait to leave")]
    max_pending: Annotated[
        int, gauge("phase4_outbound_max_queued", "Requests that may wait; beyond, they are refused")
    ]
    in_flight: Annotated[
        int, gauge("phase4_outbound_in_flight", "Requests that have left and have no answer yet")
    ]
    max_in_flight: int
    waited: int
    p50_wait_ms: float
    p99_wait_ms: float
    refusals: int
    refusals_chat: Annotated[int, _REFUSALS.of("chat")]
    refusals_global: Annotated[int, _REFUSALS.of("global")]
    retries: Annotated[
        int,
        counter("phase4_outbound_retries", "Requests that wait for another try after a refusal"),
    ]
    superseded: Annotated[int, _REQUESTS.of("superseded")]
    unchanged: Annotated[int, _REQUESTS.of("unchanged")]
    dropped: Annotated[int, _REQUESTS.of("dropped")]
    expired: Annotated[int, _REQUESTS.of("expired")]
    held_too_long: Annotated[int, _REQUESTS.of("held_too_long")]
    refused_full: Annotated[int, _REQUESTS.of("refused_full")]
    chats_waiting: int
    chats_held: Annotated[int, gauge("phase4_outbound_chats_held", "Chats that Telegram said to wait for")]
    chats_known: int
    held_globally_seconds: Annotated[
        float,
        gauge("phase4_outbound_held_globally_seconds", "Seconds for which nothing is sent to anybody"),
    ]
    by_priority: dict[str, dict[str, int]]
    shared: bool
    degraded: Annotated[bool, DEGRADED.of(service)]
    # Of a shared budget only.
    admissions: int | UnsetType = UNSET
    admissions_denied: int | UnsetType = UNSET
    sent_unshared: int | UnsetType = UNSET
    admission_batches: int | UnsetType = UNSET
    broadcasts_running: Annotated[int, gauge("phase4_outbound_broadcasts_running", "Broadcasts that run")]
    broadcasts_finished: Annotated[
        int, counter("phase4_outbound_broadcasts_finished", "Broadcasts that have reached their end")
    ]
    broadcast_sent: Annotated[int, _RECIPIENTS.of("sent")]
    broadcast_blocked: Annotated[int, _RECIPIENTS.of("blocked")]
    broadcast_deactivated: Annotated[int, _RECIPIENTS.of("deactivated")]
    broadcast_not_found: Annotated[int, _RECIPIENTS.of("not_found")]
    broadcast_failed: Annotated[int, _RECIPIENTS.of("failed")]
