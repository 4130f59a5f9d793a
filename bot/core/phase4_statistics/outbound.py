"""Figures of outbound flood control (pure)."""

from typing import Annotated

from msgspec import UNSET, UnsetType

from bot.core.phase4_statistics.fields import DEGRADED, Figures, counter, gauge

_REQUESTS = counter("phase4_outbound_requests", "Requests to Telegram by outcome", "outcome")
_REFUSALS = counter("phase4_outbound_refusals", "Requests that Telegram refused with a flood wait", "scope")
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
    """Whether the service is on."""
    draining: bool
    """Whether it is being switched off and sends the waiting requests."""
    total_requests: int
    """Requests made."""
    sent: Annotated[int, _REQUESTS.of("sent")]
    """Requests that Telegram accepted."""
    failed: Annotated[int, _REQUESTS.of("failed")]
    """Requests that failed in the end."""
    cancelled: Annotated[int, _REQUESTS.of("cancelled")]
    """Requests whose callers were cancelled."""
    unqueued: Annotated[int, _REQUESTS.of("unqueued")]
    """Requests that never wait, such as answers to callback queries."""
    queued: Annotated[int, gauge("phase4_outbound_queued", "Requests that wait to be sent")]
    max_pending: Annotated[
        int, gauge("phase4_outbound_max_queued", "The most waiting requests; further ones are refused")
    ]
    in_flight: Annotated[
        int, gauge("phase4_outbound_in_flight", "Requests that were sent and have no answer yet")
    ]
    max_in_flight: int
    """Requests that may be in flight at once."""
    waited: int
    """Requests that had to wait."""
    p50_wait_ms: float
    """Milliseconds within which half of the requests were sent."""
    p99_wait_ms: float
    """Milliseconds within which 99 % of the requests were sent."""
    refusals: int
    """Requests that Telegram refused with a flood wait."""
    refusals_chat: Annotated[int, _REFUSALS.of("chat")]
    """Flood waits for one chat."""
    refusals_global: Annotated[int, _REFUSALS.of("global")]
    """Flood waits for all chats."""
    retries: Annotated[
        int,
        counter("phase4_outbound_retries", "Retries after a refusal"),
    ]
    superseded: Annotated[int, _REQUESTS.of("superseded")]
    """Edits and chat actions never sent because a later one replaced them."""
    unchanged: Annotated[int, _REQUESTS.of("unchanged")]
    """Edits never sent because they would not change the message."""
    dropped: Annotated[int, _REQUESTS.of("dropped")]
    """Edits never sent because the message was deleted."""
    expired: Annotated[int, _REQUESTS.of("expired")]
    """Requests whose deadline passed."""
    held_too_long: Annotated[int, _REQUESTS.of("held_too_long")]
    """Requests that would have waited longer than allowed."""
    refused_full: Annotated[int, _REQUESTS.of("refused_full")]
    """Requests refused because the queue was full."""
    chats_waiting: int
    """Chats that have requests waiting."""
    chats_held: Annotated[int, gauge("phase4_outbound_chats_held", "Chats that are held by a flood wait")]
    chats_known: int
    """Chats with a state in memory."""
    held_globally_seconds: Annotated[
        float,
        gauge("phase4_outbound_held_globally_seconds", "Seconds for which nothing is sent to any chat"),
    ]
    by_priority: dict[str, dict[str, int]]
    """`queued`, `sent` and `refused` of each priority."""
    shared: bool
    """Whether instances share one budget through Redis."""
    degraded: Annotated[bool, DEGRADED.of(service)]
    """Whether Redis is unreachable, so each instance keeps the limits on its own."""
    # Of a shared budget only.
    admissions: int | UnsetType = UNSET
    """Requests that the shared budget admitted."""
    admissions_denied: int | UnsetType = UNSET
    """Requests that the shared budget did not admit yet."""
    sent_unshared: int | UnsetType = UNSET
    """Requests that this instance admitted on its own while Redis was unreachable."""
    admission_batches: int | UnsetType = UNSET
    """Round trips for admission."""
    broadcasts_running: Annotated[int, gauge("phase4_outbound_broadcasts_running", "Broadcasts that run")]
    broadcasts_finished: Annotated[
        int, counter("phase4_outbound_broadcasts_finished", "Broadcasts that are finished")
    ]
    broadcast_sent: Annotated[int, _RECIPIENTS.of("sent")]
    """Recipients reached."""
    broadcast_blocked: Annotated[int, _RECIPIENTS.of("blocked")]
    """Recipients that have blocked the bot."""
    broadcast_deactivated: Annotated[int, _RECIPIENTS.of("deactivated")]
    """Recipients whose account was deleted."""
    broadcast_not_found: Annotated[int, _RECIPIENTS.of("not_found")]
    """Recipients that do not exist."""
    broadcast_failed: Annotated[int, _RECIPIENTS.of("failed")]
    """Recipients that could not be reached for another reason."""
