"""Figures of the batch processor (pure)."""

from typing import Annotated

from msgspec import UNSET, UnsetType

from bot.core.phase4_statistics.fields import DEGRADED, Figures, counter, gauge

_ITEMS = counter("phase4_batch_items", "Items by outcome", "outcome")
_BATCHES = counter("phase4_batch_batches", "Batches by outcome", "outcome")


class BatchProcessorFigures(Figures, frozen=True, kw_only=True):
    """Since the start or the last reset.

    ``submitted_items`` is always ``total_items_processed`` (done) + ``failed_items`` (those cancelled
    among them) + ``dead_lettered_items`` + ``pending_items``. In durable mode all of these are of the
    items that this instance took from Redis; see docs/batch_processor.md for the others.
    """

    service = "batch_processor"

    enabled: bool
    """Whether the service is on."""
    handler: bool
    """Whether there is a handler."""
    submitted_items: int
    """Items taken in."""
    pending_items: Annotated[int, gauge("phase4_batch_pending_items", "Items that wait or are being handled")]
    max_pending: Annotated[
        int,
        gauge("phase4_batch_max_pending_items", "Items that may be pending; beyond, they are refused"),
    ]
    total_items_processed: Annotated[int, _ITEMS.of("processed")]
    """Items done."""
    failed_items: Annotated[int, _ITEMS.of("failed")]
    """Items that failed, those cancelled among them."""
    cancelled_items: Annotated[int, _ITEMS.of("cancelled")]
    """Items withdrawn by their submitters."""
    dead_lettered_items: Annotated[int, _ITEMS.of("dead_lettered")]
    """Items given up on."""
    replayed_items: int
    """Dead letters submitted again."""
    refused_items: Annotated[int, _ITEMS.of("refused")]
    """Items for which there was no room."""
    pending_batches: Annotated[
        int, gauge("phase4_batch_pending_batches", "Batches that wait or are being handled")
    ]
    running_batches: int
    """Batches that the handler works on."""
    retrying_batches: int
    """Batches that wait for another try."""
    completed_batches: Annotated[int, _BATCHES.of("completed")]
    """Batches handled."""
    failed_batches: Annotated[int, _BATCHES.of("failed")]
    """Batches given up on."""
    retries: Annotated[int, counter("phase4_batch_retries", "Handler runs that repeated a failed one")]
    avg_batch_size: Annotated[float, gauge("phase4_batch_average_size", "Items of a batch on average")]
    batch_size: int
    """Items that a batch has at most now."""
    throughput_items_per_sec: Annotated[
        float, gauge("phase4_batch_throughput_items_per_second", "Items that ended, lately")
    ]
    """Items that ended in a second, on average of the last ten."""
    oldest_pending_seconds: float
    """Seconds that the oldest pending item has waited."""
    wait_ms_p50: float
    """Milliseconds within which half of the items were in a batch."""
    wait_ms_p99: float
    """Milliseconds within which 99 % of the items were in a batch."""
    handler_ms_p50: float
    """Milliseconds within which half of the handler's runs ended."""
    handler_ms_p99: float
    """Milliseconds within which 99 % of the handler's runs ended."""
    results_kept: int
    """Results that can be asked for."""
    durable: bool
    """Whether items are kept in Redis."""
    degraded: Annotated[bool, DEGRADED.of(service)]
    """Whether Redis is away in durable mode."""
    duplicate_items: int
    """Submissions whose key was known already."""
    dead_letters: Annotated[int, gauge("phase4_batch_dead_letters", "Items given up on and kept for a look")]
    # Of the durable mode only.
    stream_length: Annotated[
        int | UnsetType,
        gauge("phase4_batch_stream_length", "Durable mode: items of all instances that have not ended"),
    ] = UNSET
    enqueued_items: int | UnsetType = UNSET
    """Durable mode: items that this instance added."""
    reclaimed_items: Annotated[
        int | UnsetType,
        counter("phase4_batch_reclaimed_items", "Durable mode: items taken over from another instance"),
    ] = UNSET
    redelivered_items: int | UnsetType = UNSET
    """Durable mode: items delivered more than once."""
    given_back_items: int | UnsetType = UNSET
    """Durable mode: items returned for other instances."""
    settled_elsewhere_items: int | UnsetType = UNSET
    """Durable mode: items that another instance had ended before."""
    results_not_kept: int | UnsetType = UNSET
    """Durable mode: results that cannot be stored."""

    @property
    def total_batches(self) -> int:
        """``completed_batches`` and ``failed_batches`` together."""
        return self.completed_batches + self.failed_batches
