"""Flood control for what a bot sends: lanes, windows, penalties, priorities."""

from bot.core.outbound.broadcast import (
    BroadcastLostError,
    BroadcastProgress,
    BroadcastReport,
    BroadcastRunningError,
    BroadcastStoppedError,
    BroadcastStoreError,
    terminal_progress,
)
from bot.core.outbound.context import sending
from bot.core.outbound.errors import (
    MessageDeletedError,
    OutboundClosedError,
    OutboundDeadlineError,
    OutboundFullError,
    OutboundHeldError,
)
from bot.core.outbound.models import Limits, Priority, Request
from bot.core.outbound.service import Outbound

__all__ = [
    "BroadcastLostError",
    "BroadcastProgress",
    "BroadcastReport",
    "BroadcastRunningError",
    "BroadcastStoppedError",
    "BroadcastStoreError",
    "Limits",
    "MessageDeletedError",
    "Outbound",
    "OutboundClosedError",
    "OutboundDeadlineError",
    "OutboundFullError",
    "OutboundHeldError",
    "Priority",
    "Request",
    "sending",
    "terminal_progress",
]
