"""What the batch processor tells of itself."""

from __future__ import annotations

import math

from bot.core._shared.histogram import HistogramSnapshot
from bot.core.batch_processor.dispatcher import Dispatcher
from bot.core.batch_processor.models import BatchStatus
from bot.core.batch_processor.stats import Counters
from bot.core.batch_processor.store import Store
from bot.core.phase4_statistics.batch_processor import BatchProcessorFigures


def figures_of(dispatcher: Dispatcher, store: Store, *, enabled: bool) -> BatchProcessorFigures:
    """Counts since the start or the last reset, with what only ``store`` counts."""
    d, now = dispatcher, dispatcher.now()
    counters = d.outcomes.counters
    waits, handling = counters.waits, counters.handling
    oldest = d.backlog.oldest()
    return BatchProcessorFigures(
        enabled=enabled,
        handler=d.handler.function is not None,
        submitted_items=d.backlog.submitted,
        pending_items=d.backlog.unfinished,
        max_pending=d.capacity.max_pending,
        total_items_processed=counters.done,
        failed_items=counters.failed,
        cancelled_items=counters.cancelled,
        replaced_items=counters.replaced,
        dead_lettered_items=counters.dead,
        replayed_items=counters.replayed,
        refused_items=counters.refused,
        pending_batches=d.backlog.pending_batches(d.size),
        running_batches=len(d.backlog.running),
        retrying_batches=len(d.backlog.retrying),
        waiting_items=len(d.backlog.waiting),
        completed_batches=counters.batches - counters.failed_batches,
        failed_batches=counters.failed_batches,
        retries=counters.retries,
        avg_batch_size=round(counters.batched_items / counters.batches, 2) if counters.batches else 0.0,
        batch_size=d.size,
        throughput_items_per_sec=round(counters.throughput.rate(now), 1),
        oldest_pending_seconds=0.0 if oldest == math.inf else round(max(0.0, now - oldest), 3),
        wait_ms_p50=round(waits.quantile(0.5) * 1000, 3),
        wait_ms_p99=round(waits.quantile(0.99) * 1000, 3),
        handler_ms_p50=round(handling.quantile(0.5) * 1000, 3),
        handler_ms_p99=round(handling.quantile(0.99) * 1000, 3),
        results_kept=len(d.outcomes.results),
        **store.figures(),
    )


def status_of_batch(dispatcher: Dispatcher, batch_id: str) -> BatchStatus | None:
    """How far a batch is; one that is not formed yet is made of what the queue holds now."""
    kept = dispatcher.outcomes.of_batch(batch_id)
    if kept is not None:
        return kept
    number = dispatcher.ids.batch_number(batch_id)
    if number is None:
        return None
    batch = dispatcher.backlog.find(number)
    if batch is not None:
        return BatchStatus(
            batch_id, batch.state, len(batch.items), attempts=batch.attempts, error=batch.error
        )
    formed = dispatcher.backlog.formed
    left = len(dispatcher.backlog.queue) - (number - formed - 1) * dispatcher.size
    if number <= formed or left <= 0:
        return None
    return BatchStatus(batch_id, "pending", min(left, dispatcher.size))


def histograms_of(counters: Counters) -> list[HistogramSnapshot]:
    """How long items waited for their batch, and how long the handler took."""
    return [
        counters.waits.snapshot(
            "batch_wait_seconds", "Seconds from an item's submission to its batch being formed"
        ),
        counters.handling.snapshot("batch_handler_seconds", "Seconds that one run of the handler took"),
    ]
