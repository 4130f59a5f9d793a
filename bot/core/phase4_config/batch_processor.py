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
    max_concurrent: Annotated[int, Meta(ge=1, le=10_000, description="batches handled at once")] = 10
    max_pending: Annotated[Count, doc("the most items that have not ended")] = 10_000
    handler_timeout: Annotated[Seconds, doc("seconds a handler may take for a batch; 0: any time")] = 21_600.0
    max_retries: Annotated[
        int, Meta(ge=0, le=1000, description="how often a batch is retried whose handler failed")
    ] = 3
    retry_base: Annotated[
        PositiveSeconds,
        doc("the longest wait before the first retry, in seconds; doubled for each one after"),
    ] = 0.5
    retry_max: Annotated[PositiveSeconds, doc("the longest wait before any retry, in seconds")] = 30.0
    isolate: Annotated[
        bool, doc("halve a batch that has no tries left until only the items that make it fail are given up")
    ] = field(default=False, name="BATCH_ISOLATE_FAILURES")
    adaptive: Annotated[
        bool, doc("search for the batch size at which an item takes the handler the least time")
    ] = False
    drain_timeout: Annotated[Seconds, doc("seconds a stop waits for items to be handled")] = 10.0
    result_ttl: Annotated[PositiveSeconds, doc("how long get_result can return a result, in seconds")] = 300.0
    max_results: Annotated[Count, doc("the most results that are kept in memory")] = 10_000
    max_dead_letters: Annotated[Count, doc("the most items given up that are kept")] = 10_000
    redis_url: Annotated[
        str, doc("Redis that keeps items until they have ended, for all instances; empty: in memory")
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
        PositiveSeconds, doc("seconds after which other instances take over the items of a silent one")
    ] = 30.0
    max_deliveries: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="how many instances may end while they have an item before it is given up",
        ),
    ] = 5
    max_item_bytes: Annotated[
        int,
        Meta(ge=100, le=67_108_864, description="the most bytes of an item, or of a result, in Redis"),
    ] = 1_048_576


DEFAULTS = BatchProcessorSettings()
