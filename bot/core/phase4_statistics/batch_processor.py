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
    handler: bool
    submitted_items: int
    pending_items: Annotated[int, gauge("phase4_batch_pending_items", "Items that wait or are being handled")]
    max_pending: Annotated[
        int,
        gauge("phase4_batch_max_pending_items", "Items that may be pending; beyond, they are refused"),
    ]
    total_items_processed: Annotated[int, _ITEMS.of("processed")]
    failed_items: Annotated[int, _ITEMS.of("failed")]
    cancelled_items: Annotated[int, _ITEMS.of("cancelled")]
    dead_lettered_items: Annotated[int, _ITEMS.of("dead_lettered")]
    replayed_items: int
    refused_items: Annotated[int, _ITEMS.of("refused")]
    pending_batches: Annotated[
        int, gauge("phase4_batch_pending_batches", "Batches that wait or are being handled")
    ]
    running_batches: int
    retrying_batches: int
    completed_batches: Annotated[int, _BATCHES.of("completed")]
    failed_batches: Annotated[int, _BATCHES.of("failed")]
    retries: Annotated[int, counter("phase4_batch_retries", "Handler runs that repeated a failed one")]
    avg_batch_size: Annotated[float, gauge("phase4_batch_average_size", "Items of a batch on average")]
    batch_size: int
    throughput_items_per_sec: Annotated[
        float, gauge("phase4_batch_throughput_items_per_second", "Items that ended, lately")
    ]
    oldest_pending_seconds: float
    wait_ms_p50: float
    wait_ms_p99: float
    handler_ms_p50: float
    handler_ms_p99: float
    results_kept: int
    durable: bool
    degraded: Annotated[bool, DEGRADED.of(service)]
    duplicate_items: int
    dead_letters: Annotated[int, gauge("phase4_batch_dead_letters", "Items given up on and kept for a look")]
    # Of the durable mode only.
    stream_length: Annotated[
        int | UnsetType,
        gauge("phase4_batch_stream_length", "Durable mode: items of all instances that have not ended"),
    ] = UNSET
    enqueued_items: int | UnsetType = UNSET
    reclaimed_items: Annotated[
        int | UnsetType,
        counter("phase4_batch_reclaimed_items", "Durable mode: items taken over from another instance"),
    ] = UNSET
    redelivered_items: int | UnsetType = UNSET
    given_back_items: int | UnsetType = UNSET
    settled_elsewhere_items: int | UnsetType = UNSET
    results_not_kept: int | UnsetType = UNSET

    @property
    def total_batches(self) -> int:
        """``completed_batches`` and ``failed_batches`` together."""
        return self.completed_batches + self.failed_batches
