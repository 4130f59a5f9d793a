"""What can go wrong with items and batches; the base class tells whose it is to act."""

from __future__ import annotations

from bot.core._shared.errors import (
    BackendError,
    CapacityError,
    ClosedError,
    MisuseError,
    Phase4Error,
    message_of,
)
from bot.core._shared.masking import one_line


class BatchQueueFullError(CapacityError):
    """The queue is full (``max_pending``); the message has the figures."""


class BatchClosedError(ClosedError):
    """The batch processor is off, or was switched off before the item was handled."""


class MissingResultError(Phase4Error, LookupError):
    """The handler's answer has no entry for this item, so the item failed."""


class ItemFailedError(Phase4Error):
    """The item failed; raised in processes that do not have the handler's own exception."""


class DeadLetteredError(BackendError):
    """The handler failed in every attempt; the item is in the dead letters.

    ``__cause__`` is the handler's last error, where this process saw it.
    """

    def __init__(self, item_id: str, attempts: int, reason: str) -> None:
        super().__init__(f"item {item_id} given up after {attempts} attempt(s): {reason}")
        self.item_id = item_id
        self.attempts = attempts
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return DeadLetteredError, (self.item_id, self.attempts, self.reason)


class HandlerTimeoutError(BackendError, TimeoutError):
    """The handler took longer than its timeout, and was cancelled."""


class HandlerCancelledError(BackendError):
    """The handler ended as cancelled though nobody cancelled its batch."""


class HandlerAnswerError(MisuseError, TypeError):
    """The handler answered something other than a dict by item id, or a list with a result per item."""


class ResultNotKeptError(BackendError):
    """Durable mode: the item is done, but its result is of a type or size that is not kept in Redis."""


class LostItemError(BackendError):
    """Durable mode: the item's entry is gone from Redis (trimmed, deleted, or lost with its server)."""


class ItemCancelledError(Phase4Error):
    """``cancel_item`` took the item back before a handler had begun it."""


class UnknownItemError(MisuseError, LookupError):
    """No item of that id is pending, and no result of it is kept (any more)."""


class ResultTimeoutError(CapacityError, TimeoutError):
    """The item was not done in time; it stays pending."""


def cancelled(item_id: str) -> ItemCancelledError:
    """The error for callers that wait for an item that was taken back."""
    return ItemCancelledError(f"item {item_id} was cancelled by cancel_item")


def presentable(error: BaseException) -> Exception:
    """The error, or one in its place if a future cannot hold it, or if it would end the awaiting task."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = ItemFailedError(describe(error))
    wrapped.__cause__ = error
    return wrapped


def describe(error: BaseException) -> str:
    """Type and message of an error on one line, masked and bounded; of one that cannot tell it, its repr."""
    return one_line(f"{type(error).__name__}: {message_of(error, object.__repr__(error))}", 1000)
