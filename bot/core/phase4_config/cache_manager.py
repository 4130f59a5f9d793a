"""Settings of the cache manager (pure)."""

from typing import Annotated, Literal

from msgspec import Meta, field

from bot.core.phase4_config.fields import Count, PositiveSeconds, Seconds, doc, starting
from bot.core.phase4_config.settings import Settings


class CacheManagerSettings(Settings, frozen=True, rename=starting("CACHE_")):
    """Times are seconds."""

    l1_max_size_mb: Annotated[
        float, Meta(gt=0, le=1_000_000, description="MB of memory for the first tier")
    ] = 100.0
    l1_max_entries: Annotated[Count, doc("the most entries in the first tier")] = 10_000
    eviction: Annotated[Literal["s3fifo", "lru"], doc("eviction policy of a full first tier")] = field(
        default="s3fifo", name="CACHE_EVICTION_POLICY"
    )
    default_ttl: Annotated[PositiveSeconds, doc("TTL in seconds of an entry without its own")] = 300.0
    load_timeout: Annotated[Seconds, doc("seconds a load may take; 0: no limit")] = 120.0
    load_lock: Annotated[bool, doc("one instance loads a missing key for all")] = False
    compression: Annotated[bool, doc("compress large values in Redis")] = field(
        default=True, name="CACHE_COMPRESSION_ENABLED"
    )
    compression_format: Annotated[
        Literal["zlib", "zstd"],
        doc("how; zstd is faster and smaller, and needs Python 3.14 or the extra zstd"),
    ] = "zlib"
    redis_url: Annotated[
        str,
        doc(
            "Redis URL of the second tier, also redis+cluster:// or redis+sentinel://; empty: first tier only"
        ),
    ] = field(default="", name="CACHE_L2_REDIS_URL")
    warming: Annotated[bool, doc("refresh warmed keys in the background")] = field(
        default=False, name="ENABLE_CACHE_WARMING"
    )
    warming_interval: Annotated[
        PositiveSeconds, doc("seconds between refreshes of a warmed key without its own interval")
    ] = 600.0
