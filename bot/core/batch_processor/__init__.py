"""Items gathered into batches for one handler, each with a result of its own."""

from bot.core.batch_processor.errors import (
    BatchClosedError,
    BatchQueueFullError,
    DeadLetteredError,
    HandlerTimeoutError,
    ItemFailedError,
    LostItemError,
    MissingResultError,
    ResultNotKeptError,
    ResultTimeoutError,
    UnknownItemError,
)
from bot.core.batch_processor.models import BatchItem, BatchStatus, DeadLetter, ItemStatus, Submission
from bot.core.batch_processor.service import BatchProcessor

__all__ = [
    "BatchClosedError",
    "BatchItem",
    "BatchProcessor",
    "BatchQueueFullError",
    "BatchStatus",
    "DeadLetter",
    "DeadLetteredError",
    "HandlerTimeoutError",
    "ItemFailedError",
    "ItemStatus",
    "LostItemError",
    "MissingResultError",
    "ResultNotKeptError",
    "ResultTimeoutError",
    "Submission",
    "UnknownItemError",
]
