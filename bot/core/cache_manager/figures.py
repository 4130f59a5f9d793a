"""What the cache tells of itself."""

from __future__ import annotations

from bot.core.cache_manager.stats import Counters
from bot.core.cache_manager.tiers import Tiers
from bot.core.phase4_statistics.cache_manager import CacheManagerFigures
from bot.core.phase4_statistics.fields import MB


def figures_of(
    counters: Counters, tiers: Tiers, max_size_mb: float, warming_tasks: int, *, enabled: bool
) -> CacheManagerFigures:
    """Counts since the start or the last reset; rates are percent, sizes MB."""
    store, shared, hearing = tiers.local.l1.store, tiers.shared, tiers.trusted
    hits = counters.l1_hits + counters.l2_hits
    # What was looked up in L2 was not in L1; the hot path counts it once.
    l1_misses = counters.l1_misses + counters.l2_hits + counters.l2_misses
    misses = counters.l1_misses + counters.l2_misses
    answers = shared is not None and shared.link.available and hearing
    return CacheManagerFigures(
        enabled=enabled,
        l1_entries=len(store),
        l1_memory_mb=round(store.bytes_used / MB, 3),
        l1_max_size_mb=max_size_mb,
        l1_hits=counters.l1_hits,
        l1_misses=l1_misses,
        l1_hit_rate_percent=_percent(counters.l1_hits, counters.l1_hits + l1_misses),
        l1_evictions=store.evictions,
        l1_insertions=store.insertions,
        l2_enabled=shared is not None,
        l2_connected=answers,
        l2_hits=counters.l2_hits,
        l2_misses=counters.l2_misses,
        l2_errors=shared.failures.errors if shared is not None else 0,
        l2_undecodable=shared.failures.undecodable if shared is not None else 0,
        l2_malformed_messages=shared.backplane.malformed if shared is not None else 0,
        l1_only_values=counters.l1_only,
        total_hits=hits,
        total_misses=misses,
        overall_hit_rate_percent=_percent(hits, hits + misses),
        eviction_rate=_percent(store.evictions, store.insertions),
        loads=counters.loads,
        load_failures=counters.load_failures,
        stale_served=counters.stale_served,
        early_refreshes=counters.early_refreshes,
        warming_tasks=warming_tasks,
        degraded=shared is not None and (not answers or shared.link.impaired),
        l2_refused=dict(shared.link.refused) if shared is not None else {},
    )


def _percent(part: int, whole: int) -> float:
    return round(part / whole * 100, 2) if whole else 0.0
