"""Settings of the connection pool manager (pure)."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from bot.core.phase4_config.errors import ConfigError
from bot.core.phase4_config.fields import PositiveSeconds, Seconds, doc, starting
from bot.core.phase4_config.messages import said_of
from bot.core.phase4_config.settings import Settings

Backend = Literal["mongodb", "redis", "postgresql", "mysql", "sqlite"]


SCHEMES: dict[str, tuple[str, ...]] = {
    "mongodb": ("mongodb",),
    "redis": ("redis", "rediss", "unix", "valkey", "valkeys"),
    "postgresql": ("postgresql", "postgres"),
    "mysql": ("mysql", "mariadb"),
    "sqlite": ("sqlite",),
}
"""Backend -> how its urls begin; what follows a ``+`` (``mongodb+srv``) does not matter here."""

_BY_SCHEME = {scheme: backend for backend, schemes in SCHEMES.items() for scheme in schemes}
_BY_WORD = {**_BY_SCHEME, "mongo": "mongodb", "pg": "postgresql"}
del _BY_WORD["unix"]
"""Words in the name of a pool that tell its backend."""


class PoolSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``DATABASE_POOLS``."""

    backend: Backend
    url: str = ""
    min_size: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    max_size: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    options: dict[str, Any] = {}
    tenant: Any = None
    """A function without arguments that tells whose view of the data a read has, for the cached results of
    QUERY_OPTIMIZER_INSTRUMENT_CACHE."""


class PoolSizes(Settings, frozen=True, rename=starting("POOL_")):
    """The sizes and times of a pool; times are seconds."""

    min_size: Annotated[int, Meta(ge=0, le=10_000, description="connections kept open")] = 5
    max_size: Annotated[int, Meta(ge=1, le=10_000, description="the most connections of a pool")] = 20
    acquire_timeout: Annotated[PositiveSeconds, doc("seconds to wait for a connection")] = 10.0
    idle_timeout: Annotated[
        PositiveSeconds, doc("seconds after which an idle connection above the minimum is closed")
    ] = 600.0
    max_lifetime: Annotated[PositiveSeconds, doc("seconds after which a connection is replaced")] = 3600.0
    connect_timeout: Annotated[PositiveSeconds, doc("seconds that opening a connection may take")] = 10.0
    keepalive_interval: Annotated[PositiveSeconds, doc("seconds between pings of an idle connection")] = 120.0
    leak_threshold: Annotated[
        Seconds, doc("seconds after which a connection on loan is reported as leaked; 0: never")
    ] = 60.0
    query_timeout: Annotated[
        Seconds, doc("seconds after which a call without an answer has failed; 0: never")
    ] = 60.0

    def completed(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """A small pool needs no minimum: it is at most ``max_size``."""
        if "max_size" in values and "min_size" not in values:
            return {**values, "min_size": min(self.min_size, values["max_size"])}
        return values

    def conflicts(self, named: Callable[[str], str]) -> Iterator[str]:
        """A minimum above the maximum."""
        if self.min_size > self.max_size:
            yield (
                f"{named('min_size')} = {self.min_size}: expected at most "
                f"{named('max_size')} = {self.max_size}"
            )


class ConnectionPoolSettings(PoolSizes, frozen=True):
    """Sizes and times of pools that do not say otherwise, and the pools that exist from the start on."""

    mongodb_url: Annotated[str, doc("MongoDB URL of pools without their own")] = field(
        default="", name="MONGODB_URL"
    )
    database_url: Annotated[
        str, doc("postgresql://, mysql:// or sqlite:// URL of pools without their own")
    ] = field(default="", name="DATABASE_URL")
    redis_url: Annotated[str, doc("Redis URL of pools without their own, and of the cache's second tier")] = (
        field(default="", name="REDIS_URL")
    )
    pools: Annotated[
        dict[str, PoolSettings],
        doc("pools created at startup: name -> {backend, url, min_size, max_size, options, tenant}"),
    ] = field(default_factory=dict, name="DATABASE_POOLS")

    @classmethod
    def prepared(cls, field: str, name: str, value: Any, source: str) -> Any:
        """A pool without a backend has the one of its url, else the one of its name."""
        if field != "pools" or not isinstance(value, dict):
            return value
        return {pool: _with_backend(pool, entry, name, source) for pool, entry in value.items()}

    def sizes(self) -> dict[str, Any]:
        """The sizes and times alone, by their names."""
        return {name: getattr(self, name) for name in PoolSizes.__struct_fields__}

    def conflicts(self, named: Callable[[str], str]) -> Iterator[str]:
        """Minima above their maxima, of all pools and of each."""
        yield from PoolSizes.conflicts(self, named)
        for name, pool in self.pools.items():
            if pool.tenant is not None and not callable(pool.tenant):
                yield (
                    f"{named('pools')}[{name!r}].tenant = {pool.tenant!r:.100}: expected a function without "
                    f"arguments"
                )
            low = self.min_size if pool.min_size is None else pool.min_size
            high = self.max_size if pool.max_size is None else pool.max_size
            if pool.min_size is not None and low > high:
                yield f"{named('pools')}[{name!r}].min_size = {low}: expected at most its max_size, {high}"


def _with_backend(pool: Any, entry: Any, name: str, source: str) -> Any:
    """An entry of ``DATABASE_POOLS`` with its backend. Raises ConfigError if nothing tells which it is."""
    if not isinstance(entry, dict) or entry.get("backend") is not None or not isinstance(pool, str):
        return entry
    url = entry.get("url") or ""
    scheme = url.partition("://")[0].partition("+")[0].lower() if isinstance(url, str) else ""
    if scheme in _BY_SCHEME:
        return {**entry, "backend": _BY_SCHEME[scheme]}
    words = re.split(r"[^a-z]+", pool.lower())
    named = {_BY_WORD[word] for word in words if word in _BY_WORD}
    if not url and len(named) == 1:
        return {**entry, "backend": named.pop()}
    raise ConfigError(
        said_of(
            f"{name}[{pool!r}].backend", None, source,
            "one of " + ", ".join(map(repr, SCHEMES)) + "; neither the pool's url nor its name shows which",
        )
    )  # fmt: skip
