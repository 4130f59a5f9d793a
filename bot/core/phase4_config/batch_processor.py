"""Settings of the batch processor (pure)."""

from typing import Annotated

from msgspec import Meta, field

from bot.core.phase4_config.fields import Count, PositiveSeconds, Seconds, doc, starting
from bot.core.phase4_config.settings import Settings


class BatchProcessorSettings(Settings, frozen=True, rename=starting("BATCH_")):
    """Times are seconds."""

    max_batch_size: Annotated[int, Meta(ge=1, le=1_000_000, description="the most items in a batch")] = field(
        default=100, name="BATCH_MAX_SIZE"
    )
    batch_timeout: Annotated[PositiveSeconds, doc("seconds a batch waits for more items")] = field(
        default=5.0, name="BATCH_TIMEOUT"
    )
    max_batch_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1_099_511_627_776,
            description="the most bytes of a batch; a larger item is in one of its own; 0: no limit",
        ),
    ] = field(default=0, name="BATCH_MAX_BYTES")
    max_concurrent: Annotated[int, Meta(ge=1, le=10_000, description="batches handled at once")] = 10
    max_pending: Annotated[Count, doc("the most unfinished items")] = 10_000
    handler_timeout: Annotated[Seconds, doc("seconds a handler may take for a batch; 0: no limit")] = 21_600.0
    max_retries: Annotated[int, Meta(ge=0, le=1000, description="how often a failed batch is retried")] = 3
    retry_base: Annotated[
        PositiveSeconds,
        doc("the longest wait before the first retry, in seconds; doubled for each one after"),
    ] = 0.5
    retry_max: Annotated[PositiveSeconds, doc("the longest wait before any retry, in seconds")] = 30.0
    retry_after_max: Annotated[
        PositiveSeconds, doc("the longest wait that the retry_after of a handler's error gets, in seconds")
    ] = 3600.0
    isolate: Annotated[
        bool, doc("after the last retry, halve a failed batch until only the failing items are given up")
    ] = field(default=False, name="BATCH_ISOLATE_FAILURES")
    adaptive: Annotated[bool, doc("search for the batch size with the shortest handler time per item")] = (
        False
    )
    drain_timeout: Annotated[Seconds, doc("seconds a stop waits for items to be handled")] = 10.0
    result_ttl: Annotated[PositiveSeconds, doc("how long get_result can return a result, in seconds")] = 300.0
    max_results: Annotated[Count, doc("the most results that are kept in memory")] = 10_000
    max_dead_letters: Annotated[Count, doc("the most dead letters that are kept")] = 10_000
    redis_url: Annotated[
        str, doc("Redis URL for durable items that instances share; empty: items in memory")
    ] = ""
    queue_name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.:-]{1,100}\Z",
            title="1 to 100 letters, digits and _ . : -",
            description="the queue in that Redis; instances with the same name share the work",
        ),
    ] = "default"
    lease: Annotated[
        PositiveSeconds, doc("seconds after which others take over the items of an instance that stopped")
    ] = 30.0
    max_deliveries: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="deliveries after which an item that crashes its process is given up",
        ),
    ] = 5
    max_item_bytes: Annotated[
        int,
        Meta(ge=100, le=67_108_864, description="the most bytes of an item, or of a result, in Redis"),
    ] = 1_048_576


DEFAULTS = BatchProcessorSettings()
