"""What the dashboard shows, from the status and the recent figures (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bot.core._shared.masking import one_line
from bot.core.phase4_statistics.batch_processor import BatchProcessorFigures
from bot.core.phase4_statistics.cache_manager import CacheManagerFigures
from bot.core.phase4_statistics.connection_pools import PoolFigures
from bot.core.phase4_statistics.fields import is_number, key_of, mapping
from bot.core.phase4_statistics.load_balancer import InstanceFigures, LoadBalancerFigures
from bot.core.phase4_statistics.outbound import OutboundFigures
from bot.core.phase4_statistics.query_optimizer import QueryOptimizerFigures
from bot.core.phase4_statistics.rate_limiter import RateLimiterFigures
from bot.core.phase4_statistics.rolling_rates import RecentFigures
from bot.core.phase4_statistics.states import state_of

MAX_ROWS = 50
"""Of each table."""

MAX_ERROR = 300
"""Characters of an instance's last error."""


class Target(NamedTuple):
    """The guide's bound of a figure."""

    text: str
    low: float | None
    high: float | None
    low_is_bad: bool = True
    """False where too little means that there is little to do."""

    def tone(self, verdict: str) -> str:
        """How to show a verdict: ``good``, ``bad``, ``note`` (out, but nothing to act on) or ``none``."""
        if verdict == "low" and not self.low_is_bad:
            return "note"
        return {"in": "good", "low": "bad", "high": "bad"}.get(verdict, "none")

    def verdict(self, value: float | None) -> str:
        """``idle`` (nothing to judge), ``in``, ``low`` or ``high``."""
        if value is None:
            return "idle"
        if self.low is not None and value < self.low:
            return "low"
        if self.high is not None and value > self.high:
            return "high"
        return "in"


class Headline(NamedTuple):
    """One of the six figures of the guide's dashboard."""

    key: str
    services: tuple[str, ...]
    """Any of them that is on gives the figure."""
    title: str
    unit: str
    target: Target
    idle: str
    """What it means that there is no figure."""
    together: str = ""
    """What is to be said of the figure while all of its services are on."""

    def note(self, services: Mapping[str, Any], value: float | None) -> str:
        """What to say below the figure; ``services``: those that are on."""
        on = [service in services for service in self.services]
        if value is None:
            return self.idle if any(on) else ""
        return self.together if all(on) else ""


HEADLINES = (
    Headline(
        "query_hit_rate", ("query_optimizer", "cache_manager"), "Query cache hit rate", "%",
        Target("above 70 %", 70, None),
        "no look-up in the last 5 minutes",
        "of the look-ups of optimizer and cache together",
    ),
    Headline(
        "eviction_rate", ("cache_manager",), "Cache eviction rate", "%", Target("below 10 %", None, 10),
        "nothing cached in the last 5 minutes",
    ),
    Headline(
        "pool_utilization", ("connection_pool_manager",), "Connection pool utilization", "%",
        Target("50 to 80 %", 50, 80, False), "no connection wanted lately",
    ),
    Headline(
        "block_rate", ("rate_limiter",), "Rate limit blocking", "%", Target("below 5 %", None, 5),
        "no limited request in the last 5 minutes",
    ),
    Headline(
        "batch_throughput", ("batch_processor",), "Batch throughput", "/s",
        Target("above 1000/s", 1000, None, False),
        "no item lately",
    ),
    Headline(
        "distribution_variance", ("load_balancer",), "Distribution variance", "%",
        Target("below 10 %", None, 10),
        "no request routed yet",
    ),
)  # fmt: skip

SERVICES = (
    ("query_optimizer", "Query optimizer", "ENABLE_QUERY_OPTIMIZER"),
    ("cache_manager", "Cache manager", "ENABLE_CACHE_MANAGER"),
    ("connection_pool_manager", "Connection pools", "ENABLE_CONNECTION_POOLING"),
    ("rate_limiter", "Rate limiter", "ENABLE_RATE_LIMITER"),
    ("batch_processor", "Batch processor", "ENABLE_BATCH_PROCESSOR"),
    ("load_balancer", "Load balancer", "ENABLE_LOAD_BALANCER"),
    ("outbound", "Outbound", "ENABLE_OUTBOUND"),
)


def points(status: Mapping[str, Any], recent: RecentFigures, lag_seconds: float) -> dict[str, float | None]:
    """Every figure that has a history chart; None where there is nothing to show."""
    services = mapping(status.get("services"))
    batch, balancer = mapping(services.get("batch_processor")), mapping(services.get("load_balancer"))
    process, outbound = mapping(status.get("process")), mapping(services.get("outbound"))
    throughput = batch.get("throughput_items_per_sec")
    used = [pool.get("utilization_percent") or 0.0 for pool in PoolFigures.told(services).values()]
    # Pools of which nobody has wanted a connection lately are idle, not used too little.
    in_use = max(used) if used and (any(used) or recent.leases_per_second) else None
    routed = balancer.get("total_requests")
    return {
        "query_hit_rate": recent.overall_hit_rate,
        "eviction_rate": recent.cache_eviction_rate,
        "pool_utilization": in_use,
        "block_rate": recent.block_rate,
        # A queue with nothing in it is idle, not slow.
        "batch_throughput": throughput if throughput or batch.get("pending_items") else None,
        "distribution_variance": balancer.get("distribution_variance") if routed else None,
        "query_lookups": recent.query_lookups_per_second,
        "query_time": recent.query_avg_execution_time_ms,
        "cache_hit_rate": recent.cache_hit_rate,
        "cache_lookups": recent.cache_lookups_per_second,
        "leases": recent.leases_per_second,
        "limited": recent.limited_requests_per_second,
        "batch_items": recent.batch_items_per_second,
        "routed": recent.routed_requests_per_second,
        "outbound_sent": recent.sent_requests_per_second,
        "outbound_queued": outbound.get("queued"),
        "memory": process.get("rss_mb"),
        "cpu": process.get("cpu_percent"),
        "lag": lag_seconds * 1000,
    }  # fmt: skip


def headlines(status: Mapping[str, Any], values: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """The six figures with their targets and whether they are met."""
    services = mapping(status.get("services"))
    shown = []
    for line in HEADLINES:
        value = values.get(line.key)
        on = any(service in services for service in line.services)
        verdict = line.target.verdict(value) if on else "off"
        shown.append(
            {
                "key": line.key,
                "title": line.title,
                "unit": line.unit,
                "value": value,
                "target": line.target.text,
                "low": line.target.low,
                "high": line.target.high,
                "verdict": verdict,
                "tone": line.target.tone(verdict),
                "note": line.note(services, value),
            }
        )
    return shown


class Fact(NamedTuple):
    """A figure on a service's card."""

    label: str
    key: str
    unit: str = ""
    of: tuple[str, ...] = ()
    """What a share or a mean is of: while all of it is zero, there is none."""

    def value(self, figures: Mapping[str, Any]) -> float | None:
        """The figure, or None where nothing has happened that it could be of."""
        if self.of and not any(figures.get(key) for key in self.of):
            return None
        value: float = figures[self.key]
        return value


def fact(label: str, figure: object, unit: str = "", of: Sequence[object] = ()) -> Fact:
    """The fact of a declared figure, as in ``CacheManagerFigures.loads``."""
    return Fact(label, key_of(figure).key, unit, tuple(key_of(each).key for each in of))


# What shares and means are of.
_QUERIES_ASKED = (QueryOptimizerFigures.cache_hits, QueryOptimizerFigures.cache_misses)
_EXECUTED = (QueryOptimizerFigures.total_executions,)
_ASKED = (CacheManagerFigures.total_hits, CacheManagerFigures.total_misses)
_BATCHES = (BatchProcessorFigures.completed_batches, BatchProcessorFigures.failed_batches)
_ROUTED = (LoadBalancerFigures.successful_requests, LoadBalancerFigures.failed_requests)

_FACTS: dict[str, tuple[Fact, ...]] = {
    "query_optimizer": (
        fact("Results cached", QueryOptimizerFigures.cached_results_count),
        fact("Memory", QueryOptimizerFigures.cached_results_mb, "MB"),
        fact("Hit rate", QueryOptimizerFigures.cache_hit_rate_percent, "%", _QUERIES_ASKED),
        fact("Executions", QueryOptimizerFigures.total_executions),
        fact("Average time", QueryOptimizerFigures.avg_execution_time_ms, "ms", _EXECUTED),
        fact("Slow executions", QueryOptimizerFigures.slow_queries),
    ),
    "cache_manager": (
        fact("Hit rate", CacheManagerFigures.overall_hit_rate_percent, "%", _ASKED),
        fact("Entries", CacheManagerFigures.l1_entries),
        fact("Memory", CacheManagerFigures.l1_memory_mb, "MB"),
        fact("Hits in memory", CacheManagerFigures.l1_hits),
        fact("Hits in Redis", CacheManagerFigures.l2_hits),
        fact("Evictions", CacheManagerFigures.l1_evictions),
    ),
    "rate_limiter": (
        fact("Allowed", RateLimiterFigures.total_allowed),
        fact("Refused", RateLimiterFigures.total_blocked),
        fact("Clients held", RateLimiterFigures.active_clients),
    ),
    "batch_processor": (
        fact("Items done", BatchProcessorFigures.total_items_processed),
        fact("Pending", BatchProcessorFigures.pending_items),
        fact("Failed", BatchProcessorFigures.failed_items),
        fact("Dead letters", BatchProcessorFigures.dead_letters),
        fact("Average batch", BatchProcessorFigures.avg_batch_size, "", _BATCHES),
        fact("Retries", BatchProcessorFigures.retries),
    ),
    "load_balancer": (
        fact("Healthy instances", LoadBalancerFigures.healthy_instances),
        fact("Instances", LoadBalancerFigures.total_instances),
        fact("Requests", LoadBalancerFigures.total_requests),
        fact("Failed", LoadBalancerFigures.failed_requests),
        fact("Average response", LoadBalancerFigures.average_response_time_ms, "ms", _ROUTED),
        fact("Success", LoadBalancerFigures.success_rate_percent, "%", _ROUTED),
    ),
    "outbound": (
        fact("Sent", OutboundFigures.sent),
        fact("Chats waiting", OutboundFigures.chats_waiting),
        fact("Chats held", OutboundFigures.chats_held),
        fact("Queued", OutboundFigures.queued),
        fact("Wait, 99 %", OutboundFigures.p99_wait_ms, "ms", (OutboundFigures.total_requests,)),
        fact("Refused by Telegram", OutboundFigures.refusals),
    ),
}

_POOL_FACTS = (
    fact("On loan", PoolFigures.active_connections),
    fact("Idle", PoolFigures.idle_connections),
    fact("At most", PoolFigures.max_size),
    fact("Waiting", PoolFigures.waiting),
    fact("Leases", PoolFigures.total_acquired),
    fact("Leaked", PoolFigures.leaked),
)
"""Of all pools together."""

_CHARTS = {
    "query_optimizer": ("query_lookups", "Look-ups per second", "/s"),
    "cache_manager": ("cache_lookups", "Look-ups per second", "/s"),
    "connection_pool_manager": ("leases", "Leases per second", "/s"),
    "rate_limiter": ("limited", "Limited requests per second", "/s"),
    "batch_processor": ("batch_items", "Items per second", "/s"),
    "load_balancer": ("routed", "Routed requests per second", "/s"),
    "outbound": ("outbound_sent", "Requests sent per second", "/s"),
}


def services(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A card for each service: its state, and what an operator asks first."""
    running = mapping(status.get("services"))
    cards = []
    for key, name, flag in SERVICES:
        figures = mapping(running.get(key))
        chart, label, unit = _CHARTS[key]
        state, why = _state(status, key, running.get(key))
        cards.append(
            {
                "key": key,
                "name": name,
                "flag": flag,
                "state": state,
                "why": why,
                "facts": _facts(key, figures, running),
                "chart": chart,
                "chart_label": label,
                "unit": unit,
            }
        )
    return cards


_ON_THE_PAGE = {"ok": "on", "failed": "failing"}


def _state(status: Mapping[str, Any], key: str, figures: Any) -> tuple[str, str]:
    told = mapping(mapping(status.get("states")).get(key))
    state, why = (told["state"], told["reason"]) if told else state_of(key, figures)
    return _ON_THE_PAGE.get(state, state), why


def _facts(key: str, figures: Mapping[str, Any], running: Mapping[str, Any]) -> list[dict[str, Any]]:
    if key == "connection_pool_manager":
        found = list(PoolFigures.told(running).values())
        return [
            {"label": each.label, "value": sum(pool.get(each.key) or 0 for pool in found), "unit": each.unit}
            for each in _POOL_FACTS
            if found
        ]
    return [
        {"label": each.label, "value": each.value(figures), "unit": each.unit}
        for each in _FACTS[key]
        if is_number(figures.get(each.key))
    ]


def pool_rows(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pools, the busiest first."""
    rows = [
        {
            "name": name,
            "backend": pool.get("backend", ""),
            "active": pool.get("active_connections"),
            "idle": pool.get("idle_connections"),
            "max": pool.get("max_size"),
            "utilization": pool.get("utilization_percent"),
            "waiting": pool.get("waiting"),
            "p99_wait_ms": pool.get("p99_wait_time_ms") if pool.get("total_acquired") else None,
            "leaked": pool.get("leaked"),
            "failed": pool.get("failed_acquisitions"),
            "healthy": pool.get("healthy", True),
            "error": one_line(pool.get("last_error") or "", MAX_ERROR),
        }
        for name, pool in PoolFigures.told(mapping(status.get("services"))).items()
    ]
    return _top(rows, lambda row: row["utilization"] or 0)


def instance_rows(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The load balancer's instances, unhealthy ones first."""
    rows = [
        {
            "name": name,
            "healthy": bool(instance.get("healthy", True)),
            "state": str(instance.get("state", "healthy" if instance.get("healthy", True) else "unhealthy")),
            "weight": instance.get("weight"),
            "active": instance.get("active_requests"),
            "requests": instance.get("total_requests"),
            "failed": instance.get("failed_requests"),
            "avg_ms": instance.get("average_response_time_ms") if _answered(instance) else None,
            "p99_ms": instance.get("p99_response_time_ms") if _answered(instance) else None,
            "error": one_line(instance.get("last_error") or "", MAX_ERROR),
            **_since(instance),
        }
        for name, instance in InstanceFigures.told(mapping(status.get("services"))).items()
    ]
    return _top(rows, lambda row: (not row["healthy"], row["requests"] or 0))


def _answered(instance: Mapping[str, Any]) -> bool:
    return bool(instance.get("successful_requests") or instance.get("failed_requests"))


def _since(instance: Mapping[str, Any]) -> dict[str, Any]:
    """When an instance's state last changed (Unix time) and why; None: not since it was added."""
    history = instance.get("history")
    last = mapping(history[-1]) if isinstance(history, list) and history else {}
    return {"since": last.get("at"), "reason": one_line(last.get("reason") or "", MAX_ERROR)}


def priority_rows(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What outbound has of each priority, the most urgent first."""
    outbound = mapping(mapping(status.get("services")).get("outbound"))
    return [
        {
            "name": str(name),
            "queued": figures.get("queued"),
            "sent": figures.get("sent"),
            "refused": figures.get("refused"),
        }
        for name, figures in mapping(outbound.get("by_priority")).items()
        if isinstance(figures, Mapping)
    ]


def limit_rows(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The limits, those that refuse most first. Names of limits, never of clients."""
    limiter = mapping(mapping(status.get("services")).get("rate_limiter"))
    rows = [
        {
            "name": str(name),
            "rate": _rate(limit),
            "burst": limit.get("burst_size", limit.get("max_requests")),
            "clients": limit.get("active_clients"),
            "in_flight": None,
            "allowed": limit.get("allowed"),
            "blocked": limit.get("blocked"),
        }
        for name, limit in mapping(limiter.get("limits")).items()
        if isinstance(limit, Mapping)
    ]
    rows += [
        {
            "name": f"{name} (slots)",
            "rate": None,
            "burst": limit.get("max_in_flight"),
            "clients": None,
            "in_flight": limit.get("in_flight"),
            "allowed": limit.get("granted"),
            "blocked": limit.get("refused"),
        }
        for name, limit in mapping(limiter.get("slots")).items()
        if isinstance(limit, Mapping)
    ]
    return _top(rows, lambda row: (row["blocked"] or 0, row["allowed"] or 0))


def _rate(limit: Mapping[str, Any]) -> Any:
    """Requests per second; of an exact window on average."""
    most, window = limit.get("max_requests"), limit.get("window_seconds")
    return most / window if most and window else limit.get("requests_per_second")


def _top(rows: Sequence[dict[str, Any]], by: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
    return sorted(rows, key=by, reverse=True)[:MAX_ROWS]
