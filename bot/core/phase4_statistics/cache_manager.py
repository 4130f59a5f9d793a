"""Figures of the cache manager (pure)."""

from typing import Annotated

from bot.core.phase4_statistics.fields import DEGRADED, MB, Figures, counter, gauge

_HITS = counter("phase4_cache_hits", "Look-ups answered, by tier (l1: memory, l2: Redis)", "tier")
_MISSES = counter("phase4_cache_misses", "Look-ups a tier could not answer", "tier")
_ENTRIES = gauge("phase4_cache_entries", "Entries in memory", "tier")
_BYTES = gauge("phase4_cache_bytes", "Bytes in memory", "tier", scale=MB)
_MAX_BYTES = gauge("phase4_cache_max_bytes", "Bytes the cache may take in memory", "tier", scale=MB)
_EVICTIONS = counter("phase4_cache_evictions", "Entries displaced by others", "tier")
_INSERTIONS = counter("phase4_cache_insertions", "Entries put into memory", "tier")


class CacheManagerFigures(Figures, frozen=True, kw_only=True):
    """Since the start or the last reset; rates are percent."""

    service = "cache_manager"

    enabled: bool
    """Whether the service is on."""
    l1_entries: Annotated[int, _ENTRIES.of("l1")]
    """Entries in memory."""
    l1_memory_mb: Annotated[float, _BYTES.of("l1")]
    """MB in memory."""
    l1_max_size_mb: Annotated[float, _MAX_BYTES.of("l1")]
    """The most MB that the cache may use in memory."""
    l1_hits: Annotated[int, _HITS.of("l1")]
    """Look-ups answered from memory."""
    l1_misses: Annotated[int, _MISSES.of("l1")]
    """Look-ups that memory could not answer."""
    l1_hit_rate_percent: float
    """Percent of look-ups answered from memory."""
    l1_evictions: Annotated[int, _EVICTIONS.of("l1")]
    """Entries evicted from memory."""
    l1_insertions: Annotated[int, _INSERTIONS.of("l1")]
    """Entries put into memory."""
    l2_enabled: Annotated[
        bool, gauge("phase4_cache_l2_configured", "1 if there is a Redis behind the memory")
    ]
    l2_connected: Annotated[bool, gauge("phase4_cache_l2_connected", "1 while Redis answers")]
    l2_hits: Annotated[int, _HITS.of("l2")]
    """Look-ups answered from Redis."""
    l2_misses: Annotated[int, _MISSES.of("l2")]
    """Look-ups that Redis could not answer."""
    l2_errors: Annotated[
        int, counter("phase4_cache_l2_errors", "Operations that Redis refused or did not answer")
    ]
    l2_undecodable: int
    """Values in Redis that could not be read, and counted as misses."""
    l2_malformed_messages: int
    """Messages of other instances that could not be read."""
    l1_only_values: int
    """Values that cannot be stored in Redis, and stay in memory only."""
    total_hits: int
    """Look-ups answered by either tier."""
    total_misses: int
    """Look-ups that neither tier could answer."""
    overall_hit_rate_percent: float
    """Percent of look-ups answered by either tier."""
    eviction_rate: float
    """Percent of insertions into memory that evicted an entry."""
    loads: Annotated[int, counter("phase4_cache_loads", "Loaders run")]
    load_failures: Annotated[int, counter("phase4_cache_load_failures", "Loaders that raised an error")]
    stale_served: Annotated[
        int, counter("phase4_cache_stale_served", "Expired values served because a loader failed")
    ]
    early_refreshes: int
    """Values reloaded in the background before they expired."""
    warming_tasks: Annotated[int, gauge("phase4_cache_warming_tasks", "Keys kept warm")]
    degraded: Annotated[bool, DEGRADED.of(service)]
    """Whether Redis is unreachable or refuses a command, or changes of other instances are not received."""
    l2_refused: dict[str, str]
    """Commands that Redis does not permit this user, and the consequences."""

    @property
    def hit_rate(self) -> float:
        """The same as ``overall_hit_rate_percent``."""
        return self.overall_hit_rate_percent

    @property
    def l1_memory(self) -> dict[str, float]:
        """What the keys ``l1_...`` tell of the memory tier, without that prefix."""
        return {
            "entries": self.l1_entries,
            "memory_mb": self.l1_memory_mb,
            "max_size_mb": self.l1_max_size_mb,
            "hits": self.l1_hits,
            "misses": self.l1_misses,
            "hit_rate_percent": self.l1_hit_rate_percent,
            "evictions": self.l1_evictions,
            "insertions": self.l1_insertions,
        }
