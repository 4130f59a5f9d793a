"""What callers give to a pool and get back from it."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from msgspec import Struct

from bot.core.phase4_config.connection_pools import PoolSizes
from bot.core.phase4_config.fields import PositiveSeconds, Seconds


class BackendType(StrEnum):
    """The supported databases. Each member is also its name, as a str."""

    MONGODB = "mongodb"
    REDIS = "redis"
    POSTGRESQL = "postgresql"
    MYSQL = "mysql"
    SQLITE = "sqlite"


BACKENDS = tuple(backend.value for backend in BackendType)


class PoolOptions(PoolSizes, frozen=True):
    """The sizes and times of one pool, and how its connections are checked; times are seconds."""

    validate_after: Seconds = 0.5
    """A connection idle for longer is pinged before it is leased (HikariCP's alive bypass window)."""
    validation_timeout: PositiveSeconds = 3.0
    """A ping or reset that takes longer has failed, and its connection is replaced."""
    reset: Literal["smart", "always", "never"] = "smart"
    """``smart``: when a lease may have changed something; ``always``; ``never``: only roll back."""

    def validate(self) -> Self:
        """Return ``self``; raise InvalidArgumentError naming the argument, its value and what is allowed."""
        return self.changed(**self.values())


OPTION_NAMES = frozenset(PoolOptions.__struct_fields__)


class PoolSpec(Struct, frozen=True):
    """Everything a pool was created from; two equal specs make equal pools."""

    name: str
    backend: str
    url: str
    options: PoolOptions
    driver_options: Mapping[str, Any]
    init: Callable[[Any], Any] | None = None
    """Prepares each new connection, which is its argument."""
    password: Callable[[], Any] | Path | None = None
    """Where each new connection gets its password from; None: it is in the url or the driver options."""
    replicas: tuple[str, ...] = ()
    """The urls of replicas, for leases that only read."""
    is_replica: bool = False
    """It is the pool of one replica, whose server need not accept writes."""
    is_host: bool = False
    """That replica is one of several hosts of a url: while it is the primary, the pool itself leads there."""


class PoolHealth(Struct, frozen=True):
    """The answer of one pool to a health check; true when healthy."""

    healthy: bool
    latency_ms: float
    """Milliseconds that acquiring and pinging took."""
    error: str | None = None

    def __bool__(self) -> bool:
        return self.healthy
