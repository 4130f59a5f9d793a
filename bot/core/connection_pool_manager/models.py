"""What callers give to a pool and get back from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from bot.core._shared.errors import invalid
from bot.core._shared.validation import valid_count, valid_seconds

BACKENDS = ("mongodb", "redis", "postgresql", "mysql", "sqlite")

LARGEST_POOL = 10_000


class PoolOptions(Struct, frozen=True, kw_only=True):
    """The sizes and times of one pool; times are seconds."""

    min_size: int = 5
    max_size: int = 20
    acquire_timeout: float = 10.0
    connect_timeout: float = 10.0
    idle_timeout: float = 600.0
    max_lifetime: float = 3600.0
    keepalive_interval: float = 120.0
    """An idle connection is pinged once it was quiet for this long."""
    leak_threshold: float = 60.0
    """A lease held longer is reported as a leak, with the stack that acquired it; 0: never."""
    validate_after: float = 0.5
    """A connection idle for longer is pinged before it is handed out (HikariCP's alive bypass window)."""
    query_timeout: float = 60.0
    """A call on a lease that takes longer has failed, as on a connection that fell silent; 0: never."""
    validation_timeout: float = 3.0
    """A ping or reset that takes longer has failed, and its connection is replaced."""
    reset: str = "smart"
    """``smart``: when a lease may have changed something; ``always``; ``never``: only roll back."""

    def validate(self) -> PoolOptions:
        """Return ``self``; raise InvalidArgumentError naming the argument, its value and what is allowed."""
        valid_count("max_size", self.max_size, 1, LARGEST_POOL)
        valid_count("min_size", self.min_size, 0, LARGEST_POOL)
        if self.min_size > self.max_size:
            raise invalid("min_size", self.min_size, f"at most max_size = {self.max_size}")
        for name in (
            "acquire_timeout",
            "connect_timeout",
            "idle_timeout",
            "max_lifetime",
            "keepalive_interval",
            "validation_timeout",
        ):
            valid_seconds(name, getattr(self, name))
        for name in ("leak_threshold", "validate_after", "query_timeout"):
            if getattr(self, name) != 0:
                valid_seconds(name, getattr(self, name))
        if self.reset not in ("smart", "always", "never"):
            raise invalid("reset", self.reset, "one of 'smart', 'always', 'never'")
        return self


OPTION_NAMES = frozenset(PoolOptions.__struct_fields__)


class PoolSpec(Struct, frozen=True):
    """Everything a pool was created from; two equal specs make equal pools."""

    name: str
    backend: str
    url: str
    options: PoolOptions
    driver_options: Mapping[str, Any]


class PoolHealth(Struct, frozen=True):
    """The answer of one pool to a health check; true when healthy."""

    healthy: bool
    latency_ms: float
    """Milliseconds that acquiring and pinging took."""
    error: str | None = None

    def __bool__(self) -> bool:
        return self.healthy
