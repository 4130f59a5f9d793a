"""Broadcasts: one message to many chats, which goes on where it stopped."""

from bot.core.outbound.broadcast.broadcasts import Broadcasts
from bot.core.outbound.broadcast.errors import (
    BroadcastLostError,
    BroadcastRunningError,
    BroadcastStoppedError,
    BroadcastStoreError,
)
from bot.core.outbound.broadcast.models import BroadcastProgress, BroadcastReport
from bot.core.outbound.broadcast.progress import terminal_progress

__all__ = [
    "BroadcastLostError",
    "BroadcastProgress",
    "BroadcastReport",
    "BroadcastRunningError",
    "BroadcastStoppedError",
    "BroadcastStoreError",
    "Broadcasts",
    "terminal_progress",
]
