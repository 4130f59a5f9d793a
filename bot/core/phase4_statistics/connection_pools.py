"""Figures of the connection pools (pure)."""

from collections.abc import Mapping
from typing import Annotated, Any

from bot.core.phase4_statistics.fields import Figures, counter, gauge, is_number, mapping

_CONNECTIONS = gauge("phase4_pool_connections", "Connections by state", "state")


class PoolFigures(Figures, frozen=True, kw_only=True):
    """Of one pool, since its start or the last reset."""

    service = "connection_pool_manager"
    label = "pool"

    backend: str
    """The kind of database."""
    url: str
    """The URL, without the password."""
    total_connections: int
    """Connections that are open."""
    active_connections: Annotated[
        int, gauge("pool_active_connections", "Connections on loan"), _CONNECTIONS.of("active")
    ]
    """Connections on loan."""
    idle_connections: Annotated[int, _CONNECTIONS.of("idle")]
    """Connections ready for use."""
    busy_connections: Annotated[int, _CONNECTIONS.of("busy")]
    """Connections that are being checked, reset or closed."""
    opening_connections: Annotated[int, _CONNECTIONS.of("opening")]
    """Connections that are being opened."""
    waiting: Annotated[int, gauge("phase4_pool_waiters", "Callers that wait for a connection")]
    min_size: Annotated[int, gauge("phase4_pool_min_size", "The fewest connections that the pool keeps open")]
    max_size: Annotated[int, gauge("pool_max_size", "The most connections of the pool")]
    utilization_percent: Annotated[
        float, gauge("phase4_pool_utilization_percent", "Connections on loan, percent of `max_size`")
    ]
    peak_active: int
    """The most connections that were on loan at once."""
    peak_connections: int
    """The most connections that were open at once."""
    total_acquired: Annotated[int, counter("phase4_pool_acquired", "Leases")]
    total_released: Annotated[int, counter("phase4_pool_released", "Leases released")]
    failed_acquisitions: Annotated[
        int, counter("phase4_pool_failed_acquisitions", "Callers that got no connection")
    ]
    cancelled_acquisitions: int
    """Callers that were cancelled while they waited."""
    avg_wait_time_ms: float
    """Milliseconds that a caller waited, on average."""
    p50_wait_time_ms: float
    """Milliseconds within which half of the callers had a connection."""
    p99_wait_time_ms: float
    """Milliseconds within which 99 % of the callers had a connection."""
    max_wait_time_ms: float
    """The longest wait in milliseconds."""
    longest_lease_seconds: Annotated[
        float, gauge("phase4_pool_longest_lease_seconds", "Age of the oldest lease")
    ]
    leaked: Annotated[int, counter("phase4_pool_leaked", "Leases held beyond the leak threshold")]
    connections_opened: int
    """Connections opened."""
    connections_closed: int
    """Connections closed."""
    connect_failures: Annotated[
        int, counter("phase4_pool_connect_failures", "Connections that could not be opened")
    ]
    resets: int
    """Connections whose session was reset before the next use."""
    query_timeouts: Annotated[
        int, counter("phase4_pool_query_timeouts", "Calls ended because of their timeout")
    ]
    refused_as_demoted: int
    """Leases with writes that a demoted server refused."""
    notifications: int
    """Messages of `listen`, once for each listener."""
    notifications_dropped: int
    """Messages that a listener did not get because its queue was full."""
    listen_losses: int
    """How often the connection of `listen` was lost."""
    replicas: int
    """Replicas for leases that only read."""
    replicas_working: int
    """Replicas that serve such leases now; the primary is not among them."""
    reads_by_replicas: int
    """Leases with `read_only=True` that a replica served."""
    reads_by_primary: int
    """Such leases that the primary served, since no replica worked."""
    demoted: Annotated[bool, gauge("phase4_pool_demoted", "1 while the server takes no writes")]
    overdue_calls: Annotated[
        int, gauge("phase4_pool_overdue_calls", "Calls that have waited long for an answer")
    ]
    longest_call_seconds: float
    """Age of the oldest call that has no answer."""
    healthy: Annotated[bool, gauge("phase4_pool_healthy", "1 while the pool can connect")]
    degraded: bool
    """Whether calls are overdue, or the server does not accept writes."""
    last_error: str | None
    """The error that limits the pool now; null: none."""

    @classmethod
    def told(cls, services: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """The pools in the status, by name."""
        pools = mapping(services.get(cls.service))
        return {str(name): pool for name, pool in pools.items() if is_number(mapping(pool).get("max_size"))}


class ConnectionPoolManagerFigures(Figures, frozen=True, kw_only=True):
    """Of all pools, each under its name: this service has no figures of its own."""

    service = "connection_pool_manager"

    pools: dict[str, PoolFigures]

    def as_dict(self) -> dict[str, Any]:
        """Each pool's figures by its name, ready for JSON."""
        return {name: pool.as_dict() for name, pool in self.pools.items()}
