"""Settings of outbound flood control (pure)."""

from typing import Annotated, Literal

from msgspec import Meta

from bot.core.phase4_config.fields import Count, Seconds, doc, starting
from bot.core.phase4_config.settings import Settings

MAX_REQUESTS = 100_000
SHORTEST_WINDOW, LONGEST_WINDOW = 0.001, 86_400
"""Seconds of a window."""
MAX_BURST = 1_000
MAX_TYPING_LIMITS = 8

Requests = Annotated[int, Meta(ge=1, le=MAX_REQUESTS)]
Reserve = Annotated[int, Meta(ge=0, le=MAX_REQUESTS)]
WindowSeconds = Annotated[float, Meta(ge=SHORTEST_WINDOW, le=LONGEST_WINDOW)]
Burst = Annotated[int, Meta(ge=1, le=MAX_BURST)]
TypingLimits = Annotated[tuple[tuple[Requests, WindowSeconds], ...], Meta(max_length=MAX_TYPING_LIMITS)]
"""Requests, and the seconds within which they are counted."""


class OutboundSettings(Settings, frozen=True, rename=starting("OUTBOUND_")):
    """Times are seconds."""

    group_limit: Annotated[Requests, doc("messages to a group or channel within its window")] = 20
    group_window: Annotated[WindowSeconds, doc("window of a group or channel in seconds")] = 60.0
    chat_rate: Annotated[
        float, Meta(ge=0.001, le=1_000, description="messages per second in a private chat after its burst")
    ] = 1.0
    chat_burst: Annotated[Burst, doc("messages that may go to a private chat at once")] = 3
    bulk_limit: Annotated[Requests, doc("messages to all chats within a second; answers do not wait")] = 30
    bulk_reserve: Annotated[
        Reserve | None,
        doc("messages of OUTBOUND_BULK_LIMIT that are reserved for answers; None: a tenth of them"),
    ] = None
    paid_limit: Annotated[Requests, doc("paid broadcasts to all chats within a second")] = 1000
    typing_limits: Annotated[
        TypingLimits, doc("limits of chat actions in a chat: a list of [number, seconds]; all of them apply")
    ] = ((20, 5.0), (40, 30.0))
    skip_equal_edits: Annotated[
        bool, doc("do not send an edit if it is certain that it would not change the message")
    ] = True
    edits: Annotated[
        Literal["shared", "separate"],
        doc("whether edits share their chat's message limits or have separate ones of the same size"),
    ] = "shared"
    redis_url: Annotated[
        str, doc("Redis URL for limits that the instances of one bot share; empty: not shared")
    ] = ""
    bot_id: Annotated[
        str, doc("the bot's id; instances with the same id share a budget in OUTBOUND_REDIS_URL")
    ] = "default"
    max_pending: Annotated[Count, doc("the most waiting requests; a tenth more for answers")] = 10_000
    max_in_flight: Annotated[
        int,
        Meta(ge=1, le=1_000_000, description="the most requests in flight; a tenth is reserved for answers"),
    ] = 100
    max_wait: Annotated[
        Seconds, doc("the longest flood wait to wait for, in seconds; a longer one raises an error at once")
    ] = 600.0
    drain_timeout: Annotated[Seconds, doc("seconds in which a stop still sends waiting requests")] = 10.0
    broadcast_store: Annotated[
        str, doc('where the progress of broadcasts is kept: an SQLite file, or a Redis URL; "": memory')
    ] = "broadcasts.sqlite3"


OF_LIMITS = (
    "group_limit", "group_window", "chat_rate", "chat_burst", "bulk_limit", "bulk_reserve", "paid_limit",
    "typing_limits", "edits",
)  # fmt: skip
"""Fields that ``Limits`` of outbound is made of; the others are arguments of its ``enable``."""
