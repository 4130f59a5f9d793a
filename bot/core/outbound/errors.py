"""Errors of outbound flood control. What Telegram itself answers is raised as the framework raised it."""

from __future__ import annotations

from bot.core._shared.errors import CapacityError, ClosedError, Phase4Error


class OutboundFullError(CapacityError):
    """The queue is full (``max_pending``); this request was not queued and has not been sent."""

    def __init__(self, max_pending: int) -> None:
        super().__init__(f"{max_pending} requests wait already (max_pending): not queued, not sent")
        self.max_pending = max_pending


class OutboundHeldError(CapacityError):
    """Telegram refuses requests for longer than ``max_wait``; this one has not been sent.

    It can be sent after ``retry_after`` seconds.
    """

    def __init__(self, chat: int | str | None, retry_after: float, max_wait: float) -> None:
        whom = "all chats" if chat is None else f"chat {chat}"
        super().__init__(
            f"{whom} held for another {retry_after:.1f} s, longer than max_wait = {max_wait:g} s: not sent"
        )
        self.chat = chat
        self.retry_after = retry_after


class OutboundDeadlineError(CapacityError):
    """The request could not be sent before its deadline, so it has not been sent."""

    def __init__(self, deadline: float) -> None:
        super().__init__(f"could not leave within its deadline of {deadline:g} s: not sent")
        self.deadline = deadline


class MessageDeletedError(Phase4Error):
    """An edit that waited was dropped: its message was deleted meanwhile."""

    def __init__(self, chat: int | str | None, message_id: object) -> None:
        super().__init__(f"message {message_id} of chat {chat} was deleted: the edit was not sent")
        self.chat = chat
        self.message_id = message_id


class OutboundClosedError(ClosedError):
    """Outbound was switched off while the request waited; it has not been sent."""
