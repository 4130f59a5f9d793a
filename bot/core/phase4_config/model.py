"""Every Phase 4 setting once: its type, default, bounds and meaning; and where values come from.

Precedence, low to high: defaults, the bot's ``config`` module, ``config_enhancements_phase4``,
environment variables of the same name, the dict given to ``initialize_phase4_services``.

The model is a msgspec Struct: its import takes 10 ms where pydantic-settings takes 95, which is
more than the whole start-up of the library is allowed to take.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import logging
import math
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import ModuleType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct, field

from bot.core._shared.errors import InvalidArgumentError
from bot.core._shared.masking import mask_secrets

logger = logging.getLogger(__name__)

CONFIG_MODULES = ("config", "config_enhancements_phase4")
"""Modules read for settings, the later ones winning."""

ALIASES = {
    "BATCH_TIMEOUT_SECONDS": "BATCH_TIMEOUT",
    "LOAD_BALANCING_STRATEGY": "LOAD_BALANCER_STRATEGY",
}
"""Other accepted names of settings. In one source, the setting's own name wins over its alias."""

FALLBACKS = {"CACHE_L2_REDIS_URL": "REDIS_URL"}
"""Settings that, when nobody sets them, take the value of another name."""

EXPLAINING = {"sqlite": "sqlite", "postgresql": "postgres", "mysql": "mysql"}
"""Backends that explain a query, and the dialects that they speak."""

Backend = Literal["mongodb", "redis", "postgresql", "mysql", "sqlite"]
Strategy = Literal[
    "round_robin", "least_connections", "weighted", "weighted_round_robin", "random", "least_loaded"
]

Percent = Annotated[float, Meta(ge=0, le=100)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
Count = Annotated[int, Meta(ge=1, le=100_000_000)]
Port = Annotated[int, Meta(ge=1, le=65_535)]
TypingLimit = tuple[Annotated[int, Meta(ge=1, le=100_000)], Annotated[float, Meta(ge=0.001, le=86_400)]]
"""Requests, and the seconds within which they are counted."""


class ConfigError(InvalidArgumentError):
    """Settings that are unknown or outside their bounds; a line of the message for each."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        """One sentence each, which names setting, value and bounds."""


class TierBackoff(Struct, frozen=True, forbid_unknown_fields=True):
    """The backoff of one tier, where it is not that of the settings."""

    base: PositiveSeconds = 2.0
    max: PositiveSeconds = 3600.0
    grace: Seconds = 1.0


class TierLimit(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``RATE_LIMITS``."""

    requests_per_second: Annotated[float, Meta(gt=0, le=1_000_000_000_000)]
    burst_size: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 50
    backoff: bool | TierBackoff = True


class PoolSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``DATABASE_POOLS``."""

    backend: Backend
    url: str = ""
    min_size: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    max_size: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    options: dict[str, Any] = {}


class InstanceSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``LOAD_BALANCER_INSTANCES``."""

    id: Annotated[str, Meta(min_length=1)]
    address: Annotated[str, Meta(min_length=1)]
    port: Port
    weight: Annotated[float, Meta(gt=0, le=1_000_000)] = 1.0
    scheme: Literal["http", "https"] = "http"


def _doc(description: str) -> Meta:
    return Meta(description=description)


class Phase4Config(Struct, frozen=True, kw_only=True):
    """All settings, validated. Times are seconds, percentages 0-100."""

    ENABLE_QUERY_OPTIMIZER: Annotated[bool, _doc("switch the query optimizer on")] = False
    ENABLE_CACHE_MANAGER: Annotated[bool, _doc("switch the cache manager on")] = False
    ENABLE_CONNECTION_POOLING: Annotated[bool, _doc("switch the connection pool manager on")] = False
    ENABLE_RATE_LIMITER: Annotated[bool, _doc("switch the rate limiter on")] = False
    ENABLE_BATCH_PROCESSOR: Annotated[bool, _doc("switch the batch processor on")] = False
    ENABLE_LOAD_BALANCER: Annotated[bool, _doc("switch the load balancer on")] = False
    ENABLE_OUTBOUND: Annotated[bool, _doc("switch flood control of what is sent to Telegram on")] = False

    QUERY_OPTIMIZER_CACHE_TTL: Annotated[PositiveSeconds, _doc("seconds a query result stays cached")] = 300.0
    QUERY_OPTIMIZER_CACHE_MAX_SIZE_MB: Annotated[
        float, Meta(gt=0, le=1_000_000, description="MB of memory for cached query results")
    ] = 50.0
    QUERY_OPTIMIZER_CACHE_MAX_ENTRIES: Annotated[Count, _doc("cached query results at most")] = 10_000
    QUERY_OPTIMIZER_SLOW_QUERY_THRESHOLD: Annotated[
        PositiveSeconds, _doc("seconds from which an execution counts as slow")
    ] = 1.0
    QUERY_OPTIMIZER_QUERY_TIMEOUT: Annotated[
        Seconds, _doc("seconds after which a read that callers share is given up; 0: never")
    ] = 120.0
    QUERY_OPTIMIZER_DETECT_N_PLUS_ONE: Annotated[bool, _doc("watch for the N+1 query pattern")] = True
    QUERY_OPTIMIZER_DIALECT: Annotated[
        Literal["", "postgres", "mysql", "sqlite"], _doc("SQL dialect of analysed queries; empty: generic")
    ] = ""

    QUERY_OPTIMIZER_N_PLUS_ONE_THRESHOLD: Annotated[
        int,
        Meta(
            ge=2, le=10_000, description="different values of one query in a request that are an N+1 pattern"
        ),
    ] = 10
    QUERY_OPTIMIZER_N_PLUS_ONE_WINDOW: Annotated[
        PositiveSeconds, _doc("seconds within which they must have run")
    ] = 2.0
    QUERY_OPTIMIZER_VIEWS: Annotated[
        dict[str, list[str]], _doc("views: name -> tables whose writes change it")
    ] = field(default_factory=dict)
    QUERY_OPTIMIZER_CASCADES: Annotated[
        dict[str, list[str]],
        _doc("table -> tables that a write to it changes too, by trigger, foreign key or partition"),
    ] = field(default_factory=dict)
    QUERY_OPTIMIZER_PURE_FUNCTIONS: Annotated[
        list[str],
        _doc("the database's own functions that change nothing and depend on their arguments alone"),
    ] = field(default_factory=list)

    QUERY_OPTIMIZER_EXPLAIN_POOL: Annotated[
        str, _doc("name of the pool in DATABASE_POOLS that explains analysed SELECTs; empty: none")
    ] = ""
    QUERY_OPTIMIZER_EXPLAIN_TIMEOUT: Annotated[
        PositiveSeconds, _doc("seconds that the analysis of a new query waits for its plan at most")
    ] = 2.0

    QUERY_OPTIMIZER_GRAPHQL_MAX_DEPTH: Annotated[
        int, Meta(ge=1, le=1000, description="fields from the root of a GraphQL operation at most")
    ] = 50
    QUERY_OPTIMIZER_GRAPHQL_MAX_COMPLEXITY: Annotated[
        Count, _doc("fields that a GraphQL operation may ask for, lists by their page size")
    ] = 10_000

    CACHE_L1_MAX_SIZE_MB: Annotated[
        float, Meta(gt=0, le=1_000_000, description="MB of memory for the first tier")
    ] = 100.0
    CACHE_L1_MAX_ENTRIES: Annotated[Count, _doc("entries in the first tier at most")] = 10_000
    CACHE_EVICTION_POLICY: Annotated[
        Literal["s3fifo", "lru"], _doc("how the first tier chooses what leaves when it is full")
    ] = "s3fifo"
    CACHE_DEFAULT_TTL: Annotated[PositiveSeconds, _doc("seconds an entry lives when no ttl is given")] = 300.0
    CACHE_LOAD_TIMEOUT: Annotated[Seconds, _doc("seconds a load may take; 0: any time")] = 120.0
    CACHE_COMPRESSION_ENABLED: Annotated[bool, _doc("compress large values in Redis")] = True
    CACHE_L2_REDIS_URL: Annotated[
        str,
        _doc("Redis of the second tier, also redis+cluster://; empty: first tier only"),
    ] = ""
    ENABLE_CACHE_WARMING: Annotated[bool, _doc("refresh warmed keys in the background")] = False
    CACHE_WARMING_INTERVAL: Annotated[
        PositiveSeconds, _doc("seconds between refreshes of a warmed key when none is given")
    ] = 600.0

    POOL_MIN_SIZE: Annotated[int, Meta(ge=0, le=10_000, description="connections kept open")] = 5
    POOL_MAX_SIZE: Annotated[int, Meta(ge=1, le=10_000, description="connections at most")] = 20
    POOL_ACQUIRE_TIMEOUT: Annotated[PositiveSeconds, _doc("seconds to wait for a connection")] = 10.0
    POOL_IDLE_TIMEOUT: Annotated[
        PositiveSeconds, _doc("seconds after which an idle connection above the minimum is closed")
    ] = 600.0
    POOL_MAX_LIFETIME: Annotated[PositiveSeconds, _doc("seconds after which a connection is replaced")] = (
        3600.0
    )
    POOL_CONNECT_TIMEOUT: Annotated[PositiveSeconds, _doc("seconds to open a connection at most")] = 10.0
    POOL_KEEPALIVE_INTERVAL: Annotated[
        PositiveSeconds, _doc("seconds of quiet after which an idle connection is pinged")
    ] = 120.0
    POOL_LEAK_THRESHOLD: Annotated[
        Seconds, _doc("seconds after which a connection on loan is reported as leaked; 0: never")
    ] = 60.0
    POOL_QUERY_TIMEOUT: Annotated[
        Seconds, _doc("seconds after which a call on a connection has failed, as on a silent one; 0: never")
    ] = 60.0
    MONGODB_URL: Annotated[str, _doc("MongoDB of pools that name no url")] = ""
    DATABASE_URL: Annotated[
        str, _doc("postgresql://, mysql:// or sqlite:// database of pools that name no url")
    ] = ""
    REDIS_URL: Annotated[str, _doc("Redis of pools that name no url, and of the cache's second tier")] = ""
    DATABASE_POOLS: Annotated[
        dict[str, PoolSettings],
        _doc("pools created at startup: name -> {backend, url, min_size, max_size, options}"),
    ] = field(default_factory=dict)

    RATE_LIMIT_DEFAULT_RPS: Annotated[
        float, Meta(gt=0, le=1_000_000_000_000, description="requests per second of a client")
    ] = 10.0
    RATE_LIMIT_BURST_SIZE: Annotated[
        int, Meta(ge=1, le=1_000_000_000, description="requests a client may make at once")
    ] = 50
    RATE_LIMITS: Annotated[
        dict[str, TierLimit], _doc("limits by tier: name -> {requests_per_second, burst_size, backoff}")
    ] = field(default_factory=dict)
    RATE_LIMIT_BACKOFF: Annotated[
        bool, _doc("make clients that come back too early, again and again, wait longer")
    ] = True
    RATE_LIMIT_BACKOFF_GRACE: Annotated[
        Seconds, _doc("seconds since its first refusal in which a client cannot come back too early")
    ] = 1.0
    RATE_LIMIT_BACKOFF_BASE: Annotated[
        PositiveSeconds, _doc("seconds a client waits that came back too early; doubled each time")
    ] = 2.0
    RATE_LIMIT_BACKOFF_MAX: Annotated[PositiveSeconds, _doc("seconds such a wait grows to at most")] = 3600.0
    RATE_LIMIT_REDIS_URL: Annotated[str, _doc("Redis that shares limits between instances; empty: local")] = (
        ""
    )

    BATCH_MAX_SIZE: Annotated[int, Meta(ge=1, le=1_000_000, description="items in a batch at most")] = 100
    BATCH_TIMEOUT: Annotated[PositiveSeconds, _doc("seconds a batch waits for more items")] = 5.0
    BATCH_MAX_CONCURRENT: Annotated[int, Meta(ge=1, le=10_000, description="batches handled at once")] = 10
    BATCH_MAX_PENDING: Annotated[Count, _doc("items that have not ended at most")] = 10_000
    BATCH_HANDLER_TIMEOUT: Annotated[Seconds, _doc("seconds a handler may take for a batch; 0: any time")] = (
        21_600.0
    )
    BATCH_MAX_RETRIES: Annotated[
        int, Meta(ge=0, le=1000, description="times a batch is tried again whose handler failed")
    ] = 3
    BATCH_RETRY_BASE: Annotated[
        PositiveSeconds, _doc("seconds at most before the first retry, doubled for each one after")
    ] = 0.5
    BATCH_RETRY_MAX: Annotated[PositiveSeconds, _doc("seconds before a retry at most")] = 30.0
    BATCH_ISOLATE_FAILURES: Annotated[
        bool, _doc("halve a batch that has no tries left until only what makes it fail is given up")
    ] = False
    BATCH_ADAPTIVE: Annotated[
        bool, _doc("search for the batch size at which an item takes the handler the least time")
    ] = False
    BATCH_DRAIN_TIMEOUT: Annotated[Seconds, _doc("seconds a stop waits for items to be handled")] = 10.0
    BATCH_RESULT_TTL: Annotated[PositiveSeconds, _doc("seconds an item's result is kept for who asks")] = (
        300.0
    )
    BATCH_MAX_RESULTS: Annotated[Count, _doc("results kept in memory at most")] = 10_000
    BATCH_MAX_DEAD_LETTERS: Annotated[Count, _doc("items given up that are kept at most")] = 10_000
    BATCH_REDIS_URL: Annotated[
        str, _doc("Redis that keeps items until they have ended, for all instances; empty: in memory")
    ] = ""
    BATCH_QUEUE_NAME: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.:-]{1,100}$",
            description="the queue in that Redis; instances of one name share the work",
        ),
    ] = "default"
    BATCH_LEASE: Annotated[
        PositiveSeconds, _doc("seconds after which others take over what a silent instance held")
    ] = 30.0
    BATCH_MAX_DELIVERIES: Annotated[
        int,
        Meta(ge=1, le=1_000_000, description="instances that an item may end before it is given up"),
    ] = 5
    BATCH_MAX_ITEM_BYTES: Annotated[
        int, Meta(ge=100, le=67_108_864, description="bytes of an item, or of a result, in Redis at most")
    ] = 1_048_576

    LOAD_BALANCER_STRATEGY: Annotated[Strategy, _doc("how an instance is chosen")] = "round_robin"
    LOAD_BALANCER_CHECK_INTERVAL: Annotated[Seconds, _doc("seconds between health checks; 0: none")] = 10.0
    LOAD_BALANCER_CHECK_TIMEOUT: Annotated[PositiveSeconds, _doc("seconds a health check may take")] = 2.0
    LOAD_BALANCER_CHECK_PATH: Annotated[
        str, _doc("path that answers a health check with 2xx, such as /health; empty: a TCP connect")
    ] = ""
    LOAD_BALANCER_FAILURE_THRESHOLD: Annotated[
        int, Meta(ge=1, le=1000, description="failed checks in a row that take an instance out")
    ] = 3
    LOAD_BALANCER_RECOVERY_THRESHOLD: Annotated[
        int, Meta(ge=1, le=1000, description="good checks in a row that bring an instance back")
    ] = 5
    LOAD_BALANCER_REQUEST_TIMEOUT: Annotated[
        PositiveSeconds, _doc("seconds one instance may take to answer a request")
    ] = 30.0
    LOAD_BALANCER_TOTAL_TIMEOUT: Annotated[
        PositiveSeconds, _doc("seconds a request may take in all, failovers included")
    ] = 60.0
    LOAD_BALANCER_MAX_CONCURRENT: Annotated[
        int, Meta(ge=0, le=1_000_000, description="requests in progress at one instance at most; 0: no limit")
    ] = 0
    LOAD_BALANCER_RETRY_BUDGET_PERCENT: Annotated[
        Percent, _doc("failovers allowed, in percent of the requests of the last 10 to 20 seconds")
    ] = 20.0
    LOAD_BALANCER_RETRY_BUDGET_MIN_PER_SECOND: Annotated[
        float, Meta(ge=0, le=1_000_000, description="failovers per second allowed besides that share")
    ] = 10.0
    LOAD_BALANCER_OUTLIER_FAILURES: Annotated[
        int, Meta(ge=1, le=100_000, description="failed requests in a row that eject an instance")
    ] = 5
    LOAD_BALANCER_OUTLIER_FAILURE_PERCENT: Annotated[
        float,
        Meta(
            gt=0,
            le=100,
            description="percent of failed requests that ejects an instance, if at least twice the others'",
        ),
    ] = 30.0
    LOAD_BALANCER_OUTLIER_MIN_REQUESTS: Annotated[
        int, Meta(ge=1, le=1_000_000, description="requests an instance must have had for that percentage")
    ] = 20
    LOAD_BALANCER_OUTLIER_WINDOW: Annotated[
        PositiveSeconds, _doc("seconds of requests that the percentage is taken from, once to twice")
    ] = 10.0
    LOAD_BALANCER_EJECTION_TIME: Annotated[
        PositiveSeconds, _doc("seconds of the first ejection; each further one is twice as long")
    ] = 30.0
    LOAD_BALANCER_EJECTION_MAX_TIME: Annotated[PositiveSeconds, _doc("seconds of an ejection at most")] = (
        300.0
    )
    LOAD_BALANCER_MAX_EJECTED_PERCENT: Annotated[
        Percent, _doc("percent of the instances ejected at a time at most; one may always be, never all")
    ] = 50.0
    LOAD_BALANCER_PANIC_PERCENT: Annotated[
        Percent, _doc("percent of healthy instances below which requests go to all of them")
    ] = 30.0
    LOAD_BALANCER_SLOW_START: Annotated[
        Seconds, _doc("seconds in which an instance that is back gets to its full share; 0: at once")
    ] = 10.0
    LOAD_BALANCER_HEDGING: Annotated[
        bool, _doc("send an idempotent request to a second instance when it takes longer than 95 % do")
    ] = False
    LOAD_BALANCER_INSTANCES: Annotated[
        list[InstanceSettings], _doc("instances added at startup: [{id, address, port, weight, scheme}]")
    ] = field(default_factory=list)

    OUTBOUND_GROUP_LIMIT: Annotated[
        int, Meta(ge=1, le=100_000, description="messages in a group or channel within its window")
    ] = 20
    OUTBOUND_GROUP_WINDOW: Annotated[
        float, Meta(ge=0.001, le=86_400, description="seconds of a group's window")
    ] = 60.0
    OUTBOUND_CHAT_RATE: Annotated[
        float, Meta(ge=0.001, le=1_000, description="messages per second in a private chat after its burst")
    ] = 1.0
    OUTBOUND_CHAT_BURST: Annotated[
        int, Meta(ge=1, le=1_000, description="messages that may go to a private chat at once")
    ] = 3
    OUTBOUND_BULK_LIMIT: Annotated[
        int, Meta(ge=1, le=100_000, description="messages to all chats within a second; answers do not wait")
    ] = 30
    OUTBOUND_PAID_LIMIT: Annotated[int, Meta(ge=1, le=100_000, description="the same of paid broadcasts")] = (
        1000
    )
    OUTBOUND_TYPING_LIMITS: Annotated[
        tuple[TypingLimit, ...],
        Meta(
            max_length=8,
            description="chat actions in a chat: a list of [number, seconds], which hold all at once",
        ),
    ] = ((20, 5.0), (40, 30.0))
    OUTBOUND_SKIP_EQUAL_EDITS: Annotated[
        bool, _doc("leave out edits to what this process is sure that the message shows already")
    ] = True
    OUTBOUND_EDITS: Annotated[
        Literal["shared", "separate"],
        _doc("whether edits count with their chat's messages or have the same limits for themselves"),
    ] = "shared"
    OUTBOUND_REDIS_URL: Annotated[
        str, _doc("Redis through which instances of one bot keep the limits together; empty: each its own")
    ] = ""
    OUTBOUND_BOT_ID: Annotated[
        str, _doc("the bot's id; instances with the same one share a budget in OUTBOUND_REDIS_URL")
    ] = "default"
    OUTBOUND_MAX_PENDING: Annotated[Count, _doc("requests that wait at most; a tenth more for answers")] = (
        10_000
    )
    OUTBOUND_MAX_IN_FLIGHT: Annotated[
        int, Meta(ge=1, le=1_000_000, description="requests sent at once at most; a tenth kept for answers")
    ] = 100
    OUTBOUND_MAX_WAIT: Annotated[
        Seconds, _doc("seconds of a penalty that are waited for; a longer one raises at once")
    ] = 600.0
    OUTBOUND_DRAIN_TIMEOUT: Annotated[Seconds, _doc("seconds a stop waits for requests that wait")] = 10.0
    OUTBOUND_BROADCAST_STORE: Annotated[
        str, _doc('progress of broadcasts: an SQLite file (made by the first one) or a Redis; "": in memory')
    ] = "broadcasts.sqlite3"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, source: str = "config") -> Phase4Config:
        """Defaults overridden by ``values``. Raises ConfigError for what is unknown or out of bounds."""
        return _build([(source, dict(values), True)], [])

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, Any] | None = None,
        *,
        modules: Iterable[str | ModuleType] = CONFIG_MODULES,
        environ: Mapping[str, str] | None = None,
        only: Collection[str] = (),
    ) -> Phase4Config:
        """Settings from every source, by the precedence of this module's docstring.

        ``only`` names the settings to look at, for who needs those although others may be wrong.

        Raises ConfigError naming the setting, its value, where it came from and what is allowed;
        for unknown keys of ``overrides`` it names the nearest known one.
        """
        sources: list[_Source] = []
        for module in modules:
            found = _import(module) if isinstance(module, str) else module
            if found is not None:
                name = found.__name__
                sources.append((f"{name}.py", _settings_of(found), False))
        env = os.environ if environ is None else environ
        if only:
            env = {name: env[name] for name in only if name in env}
        problems: list[str] = []
        sources.append(("environment", _decode_environment(env, problems), False))
        if overrides is not None:
            if not isinstance(overrides, Mapping):
                raise ConfigError(
                    *problems, f"config = {type(overrides).__name__}: expected a dict of settings"
                )
            sources.append(("initialize_phase4_services", dict(overrides), True))
        if only:
            sources = [
                (source, {name: given[name] for name in only if name in given}, strict)
                for source, given, strict in sources
            ]
        return _build(sources, problems)


_Source = tuple[str, dict[str, Any], bool]  # name, values, whether unknown keys are errors

_FIELDS: dict[str, Any] = get_type_hints(Phase4Config, include_extras=True)
SETTING_NAMES: tuple[str, ...] = tuple(_FIELDS)
_READABLE = {*SETTING_NAMES, *ALIASES, *FALLBACKS.values()}


def _build(sources: list[_Source], problems: list[str]) -> Phase4Config:
    """``problems``: what is wrong already; all of it and all that is found here is told at once."""
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source, given, strict in sources:
        canonical: dict[str, Any] = {}
        for name, value in given.items():
            if name not in _READABLE:
                if strict:
                    problems.append(_unknown(name, source))
                continue
            target = ALIASES.get(name, name)
            if target == name or target not in given:
                canonical[target] = value
        for name, value in canonical.items():
            try:
                converted = _convert(name, value, source)
            except ConfigError as error:
                problems += error.problems
                continue
            if (
                name.startswith("ENABLE_")
                and converted != values.get(name, converted)
                and source.endswith(".py")
            ):
                # The settings file has all flags, so who sets one in config.py must hear why it is off.
                logger.warning(
                    "%s = %s in %s wins over %s in %s", name, converted, source, values[name], origin[name]
                )
            values[name] = converted
            origin[name] = source
    for name, fallback in FALLBACKS.items():
        if not values.get(name) and values.get(fallback):
            values[name] = _convert(name, values[fallback], f"{origin[fallback]}, {fallback}")
    if problems:
        raise ConfigError(*problems)
    if "POOL_MIN_SIZE" not in values and "POOL_MAX_SIZE" in values:
        # Who asks for a small pool need not know of the minimum's default.
        values["POOL_MIN_SIZE"] = min(Phase4Config().POOL_MIN_SIZE, values["POOL_MAX_SIZE"])
    config = Phase4Config(**values)
    if problems := list(_conflicts(config)):
        raise ConfigError(*problems)
    return config


def _conflicts(config: Phase4Config) -> Iterator[str]:
    """What is wrong with settings that are each within their bounds."""
    if config.POOL_MIN_SIZE > config.POOL_MAX_SIZE:
        yield (
            f"POOL_MIN_SIZE = {config.POOL_MIN_SIZE}: expected at most POOL_MAX_SIZE = {config.POOL_MAX_SIZE}"
        )
    if config.RATE_LIMIT_BACKOFF_BASE > config.RATE_LIMIT_BACKOFF_MAX:
        yield (
            f"RATE_LIMIT_BACKOFF_BASE = {config.RATE_LIMIT_BACKOFF_BASE:g}: expected at most "
            f"RATE_LIMIT_BACKOFF_MAX = {config.RATE_LIMIT_BACKOFF_MAX:g}"
        )
    for tier, limit in config.RATE_LIMITS.items():
        own = limit.backoff
        if isinstance(own, TierBackoff) and own.base > own.max:
            yield f"RATE_LIMITS[{tier!r}].backoff.base = {own.base:g}: expected at most its max, {own.max:g}"
    for name, pool in config.DATABASE_POOLS.items():
        low = config.POOL_MIN_SIZE if pool.min_size is None else pool.min_size
        high = config.POOL_MAX_SIZE if pool.max_size is None else pool.max_size
        if pool.min_size is not None and low > high:
            yield (f"DATABASE_POOLS[{name!r}].min_size = {low}: expected at most its max_size, {high}")
    if config.QUERY_OPTIMIZER_EXPLAIN_POOL:
        explains = config.DATABASE_POOLS.get(config.QUERY_OPTIMIZER_EXPLAIN_POOL)
        sql = [name for name, pool in config.DATABASE_POOLS.items() if pool.backend in EXPLAINING]
        if explains is None or explains.backend not in EXPLAINING:
            yield (
                f"QUERY_OPTIMIZER_EXPLAIN_POOL = {config.QUERY_OPTIMIZER_EXPLAIN_POOL!r}: expected the name "
                f"of a sqlite, postgresql or mysql pool in DATABASE_POOLS (there: {', '.join(sql) or 'none'})"
            )
    if config.LOAD_BALANCER_EJECTION_TIME > config.LOAD_BALANCER_EJECTION_MAX_TIME:
        yield (
            f"LOAD_BALANCER_EJECTION_TIME = {config.LOAD_BALANCER_EJECTION_TIME:g}: expected at most "
            f"LOAD_BALANCER_EJECTION_MAX_TIME = {config.LOAD_BALANCER_EJECTION_MAX_TIME:g}"
        )
    if not re.fullmatch(r"(/[!-~]*)?", config.LOAD_BALANCER_CHECK_PATH):
        yield (
            f"LOAD_BALANCER_CHECK_PATH = {config.LOAD_BALANCER_CHECK_PATH!r:.100}: "
            f"expected a path that begins with / and has no spaces, or an empty string"
        )
    ids = [instance.id for instance in config.LOAD_BALANCER_INSTANCES]
    for instance_id in dict.fromkeys(ids):
        if ids.count(instance_id) > 1:
            yield f"LOAD_BALANCER_INSTANCES: id {instance_id!r} is given twice"


def _convert(name: str, value: Any, source: str) -> Any:
    hint = _FIELDS[name]
    base = _base_type(hint)
    given = value
    if isinstance(value, bool) and base in (int, float):
        raise ConfigError(_refusal(name, value, source))
    if base is str and value is None:
        value = ""
    if base is Literal and isinstance(value, str):
        # The choices are enum members elsewhere, whose names are upper case.
        value = value.strip().lower()
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(_refusal(name, value, source))
    if base is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError:
        raise ConfigError(_entry_refusal(name, value, source) or _refusal(name, given, source)) from None


def _entry_refusal(name: str, value: Any, source: str) -> str:
    """Which entry of a dict or list is wrong, and where; empty if the value is neither."""
    hint = _bare(_FIELDS[name])
    if get_origin(hint) is dict and isinstance(value, dict):
        entries = list(value.items())
    elif get_origin(hint) in (list, tuple) and isinstance(value, list | tuple):
        entries = list(enumerate(value))
    else:
        return ""
    entry_hint = get_args(hint)[0 if get_origin(hint) is tuple else -1]
    for key, entry in entries:
        try:
            msgspec.convert(entry, entry_hint)
        except msgspec.ValidationError as error:
            place = f"{name}[{key!r}]"
            said, _, path = str(error).partition(" - at ")
            field = path.strip("`").removeprefix("$.")
            hints = get_type_hints(entry_hint, include_extras=True) if isinstance(entry_hint, type) else {}
            if field in hints and isinstance(entry, dict) and field in entry:
                return _said_of(f"{place}.{field}", entry[field], source, _allowed(hints[field]))
            return _said_of(place, entry, source, f"a valid entry, but: {said[:1].lower()}{said[1:]}")
    return ""


def _bare(hint: Any) -> Any:
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint


def _base_type(hint: Any) -> Any:
    hint = _bare(hint)
    return get_origin(hint) or hint


def describe_allowed(name: str) -> str:
    """What a setting accepts, in words, for error messages and the configuration reference."""
    return _allowed(_FIELDS[name])


def _allowed(hint: Any) -> str:
    bounds: list[str] = []
    if get_origin(hint) is UnionType or get_origin(hint) is Union:
        return " or ".join(_allowed(each) for each in get_args(hint))
    while get_origin(hint) is Annotated:
        hint, *metas = get_args(hint)
        for meta in metas:
            for sign, bound in ((">", meta.gt), (">=", meta.ge), ("<", meta.lt), ("<=", meta.le)):
                if bound is not None:
                    bounds.append(f"{sign} {bound:,}".replace(",", "_"))
    origin = get_origin(hint) or hint
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    words = {
        bool: "True or False", int: "a whole number", float: "a number", str: "a string",
        dict: "a dict", list: "a list", tuple: "a list", type(None): "None",
    }[origin]  # fmt: skip
    return " ".join([words, " and ".join(bounds)]).strip()


def describe(name: str) -> str:
    """The meaning of a setting in one line."""
    hint = _FIELDS[name]
    found = ""
    while get_origin(hint) is Annotated:
        hint, *metas = get_args(hint)
        found = next((meta.description for meta in metas if meta.description), found)
    return found


def _refusal(name: str, value: Any, source: str) -> str:
    return _said_of(name, value, source, describe_allowed(name))


def _said_of(what: str, value: Any, source: str, allowed: str) -> str:
    shown = mask_secrets(repr(value))
    if len(shown) > 200:
        shown = shown[:200] + "..."
    return f"{what} = {shown} (from {source}): expected {allowed}"


def _unknown(name: str, source: str) -> str:
    near = difflib.get_close_matches(str(name).upper(), _READABLE, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{name} (from {source}): no such setting{hint}"


def _settings_of(module: ModuleType) -> dict[str, Any]:
    found = {name: getattr(module, name) for name in _READABLE if hasattr(module, name)}
    if module.__name__ == CONFIG_MODULES[-1]:
        # This module is ours alone, so a name we do not know is a slip of the pen.
        for name in vars(module):
            if name.isupper() and name not in _READABLE:
                logger.warning("%s", _unknown(name, f"{module.__name__}.py"))
    return found


def _import(name: str) -> ModuleType | None:
    if name in sys.modules:
        return sys.modules[name]
    try:
        if importlib.util.find_spec(name) is None:
            return None
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigError(f"{name}.py cannot be imported: {type(error).__name__}: {error}") from error


_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off", ""}


def _decode_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    decoded: dict[str, Any] = {}
    for name in _READABLE:
        text = environ.get(name)
        if text is None:
            continue
        target = ALIASES.get(name, name)
        base = str if target not in _FIELDS else _base_type(_FIELDS[target])
        try:
            decoded[name] = _decode_text(target, text, base)
        except ConfigError as error:
            problems += error.problems
    return decoded


def _decode_text(name: str, text: str, base: Any) -> Any:
    stripped = text.strip()
    if base is bool:
        if stripped.lower() in _TRUE:
            return True
        if stripped.lower() in _FALSE:
            return False
    elif base in (int, float):
        try:
            return base(stripped)
        except ValueError:
            pass  # refused below, with the text as it was written
    elif base in (dict, list, tuple):
        try:
            return msgspec.json.decode(stripped or ("{}" if base is dict else "[]"))
        except msgspec.DecodeError as error:
            raise ConfigError(
                f"{name} = {mask_secrets(text)!r:.200} (from environment): expected "
                f"{describe_allowed(name)} as JSON ({error})"
            ) from None
    else:
        return stripped
    raise ConfigError(_refusal(name, text, "environment"))
