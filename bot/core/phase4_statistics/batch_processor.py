"""Figures of the batch processor (pure)."""

from typing import Annotated

from msgspec import UNSET, UnsetType

from bot.core.phase4_statistics.fields import DEGRADED, Figures, counter, gauge

_ITEMS = counter("phase4_batch_items", "Items by outcome", "outcome")
_BATCHES = counter("phase4_batch_batches", "Batches by outcome", "outcome")


class BatchProcessorFigures(Figures, frozen=True, kw_only=True):
    """Since the start or the last reset.

    ``submitted_items`` is always ``total_items_processed`` (done) + ``failed_items`` (those cancelled
    among them) + ``dead_lettered_items`` + ``replaced_items`` + ``pending_items``. In durable mode all of
    these are of the items that this instance took from Redis; see docs/batch_processor.md for the others.
    """

    service = "batch_processor"

    enabled: bool
    """Whether the service is on."""
    handler: bool
    """Whether there is a handler."""
    submitted_items: int
    """Items accepted."""
    pending_items: Annotated[int, gauge("phase4_batch_pending_items", "Items that wait or are being handled")]
    max_pending: Annotated[
        int,
        gauge("phase4_batch_max_pending_items", "The most pending items; further ones are refused"),
    ]
    total_items_processed: Annotated[int, _ITEMS.of("processed")]
    """Items done."""
    failed_items: Annotated[int, _ITEMS.of("failed")]
    """Items that failed, including cancelled ones."""
    cancelled_items: Annotated[int, _ITEMS.of("cancelled")]
    """Items withdrawn by their submitters."""
    replaced_items: Annotated[int, _ITEMS.of("replaced")]
    """Items whose place a newer one of their key has taken."""
    dead_lettered_items: Annotated[int, _ITEMS.of("dead_lettered")]
    """Items moved to the dead letters."""
    replayed_items: int
    """Dead letters submitted again."""
    refused_items: Annotated[int, _ITEMS.of("refused")]
    """Items refused because the queue was full."""
    pending_batches: Annotated[
        int, gauge("phase4_batch_pending_batches", "Batches that wait or are being handled")
    ]
    running_batches: int
    """Batches that are being handled."""
    retrying_batches: int
    """Batches that wait for a retry."""
    delayed_items: Annotated[int, gauge("phase4_batch_delayed_items", "Items that wait for their time")]
    """Items that wait for their time; in durable mode of all instances."""
    periodic_skipped: int
    """Periods in which nothing was submitted: the item before was pending, or the queue full."""
    waiting_items: int
    """Items that wait for a retry alone, for the time that their error asked for."""
    completed_batches: Annotated[int, _BATCHES.of("completed")]
    """Batches handled."""
    failed_batches: Annotated[int, _BATCHES.of("failed")]
    """Batches given up."""
    retries: Annotated[int, counter("phase4_batch_retries", "Handler runs that repeated a failed one")]
    avg_batch_size: Annotated[float, gauge("phase4_batch_average_size", "Items in a batch, on average")]
    batch_size: int
    """The current maximum of items in a batch."""
    throughput_items_per_sec: Annotated[
        float, gauge("phase4_batch_throughput_items_per_second", "Items that ended, lately")
    ]
    """Items finished per second, on average over the last ten seconds."""
    oldest_pending_seconds: float
    """Seconds that the oldest pending item has waited."""
    wait_ms_p50: float
    """Milliseconds that half of the items waited at most for their batch."""
    wait_ms_p99: float
    """Milliseconds that 99 % of the items waited at most for their batch."""
    handler_ms_p50: float
    """Milliseconds within which half of the handler's runs ended."""
    handler_ms_p99: float
    """Milliseconds within which 99 % of the handler's runs ended."""
    results_kept: int
    """Results that get_result can return."""
    durable: bool
    """Whether items are kept in Redis."""
    degraded: Annotated[bool, DEGRADED.of(service)]
    """Durable mode: whether Redis is unreachable."""
    duplicate_items: int
    """Submissions with a key that was already known."""
    dead_letters: Annotated[int, gauge("phase4_batch_dead_letters", "Items in the dead letters")]
    # Of the durable mode only.
    stream_length: Annotated[
        int | UnsetType,
        gauge("phase4_batch_stream_length", "Durable mode: unfinished items of all instances"),
    ] = UNSET
    enqueued_items: int | UnsetType = UNSET
    """Durable mode: items that this instance added."""
    replacing_items: int | UnsetType = UNSET
    """Durable mode: submissions of this instance that took the place of a pending item."""
    reclaimed_items: Annotated[
        int | UnsetType,
        counter("phase4_batch_reclaimed_items", "Durable mode: items taken over from another instance"),
    ] = UNSET
    redelivered_items: int | UnsetType = UNSET
    """Durable mode: items delivered more than once."""
    given_back_items: int | UnsetType = UNSET
    """Durable mode: items returned for other instances."""
    settled_elsewhere_items: int | UnsetType = UNSET
    """Durable mode: items that another instance had already finished."""
    results_not_kept: int | UnsetType = UNSET
    """Durable mode: results that cannot be stored."""

    @property
    def total_batches(self) -> int:
        """``completed_batches`` and ``failed_batches`` together."""
        return self.completed_batches + self.failed_batches
