"""Items gathered into batches for one handler, each with a result of its own."""

from bot.core.batch_processor.dead_letter_queue import durable_dead_letters
from bot.core.batch_processor.errors import (
    BatchClosedError,
    BatchQueueFullError,
    DeadLetteredError,
    HandlerTimeoutError,
    ItemCancelledError,
    ItemFailedError,
    LostItemError,
    MissingResultError,
    ResultNotKeptError,
    ResultTimeoutError,
    UnknownItemError,
)
from bot.core.batch_processor.models import (
    BatchItem,
    BatchStatus,
    DeadLetter,
    ItemStatus,
    PeriodicItem,
    ReplayReport,
    Submission,
)
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
    "ItemCancelledError",
    "ItemFailedError",
    "ItemStatus",
    "LostItemError",
    "MissingResultError",
    "PeriodicItem",
    "ReplayReport",
    "ResultNotKeptError",
    "ResultTimeoutError",
    "Submission",
    "UnknownItemError",
    "durable_dead_letters",
]
