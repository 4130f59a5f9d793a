"""Rules over the settings and the machine's figures, each a function of its arguments (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from bot.core._shared.packages import OLDEST, as_numbers
from bot.core.phase4_admin.check.findings import Finding, fail, ok, warn
from bot.core.phase4_admin.check.of_service import SERVICE_POOL
from bot.core.phase4_config import SETTING_NAMES, Phase4Config

MB = 1_048_576

FREE_MEMORY_MB = 500
"""The guide: 500 MB free for any of it, and the next for the cache manager."""
FREE_MEMORY_FOR_CACHE_MB = 1000

DESCRIPTORS_AT_REST = 64
"""Files, sockets and pipes of an idle process; 40 were measured."""
DESCRIPTORS_FOR_CLIENTS = 200
"""Clients connected at once, as in the load the benchmarks put on the service."""

ALWAYS = ("msgspec", "psutil", "sqlglot", "sqlparse", "cachetools")
OF_SERVICE = ("aiohttp", "aiosqlite")
"""What the demonstration service needs beside."""
OF_DASHBOARD = ("aiohttp",)
BY_BACKEND: Mapping[str, tuple[str, ...]] = {
    "redis": ("redis",),
    "mongodb": ("motor", "pymongo"),
    "postgresql": ("asyncpg",),
    "mysql": ("asyncmy",),
    "sqlite": ("aiosqlite",),
}

FLAGS = tuple(name for name in SETTING_NAMES if name.startswith("ENABLE_"))
SERVICE_FLAGS = tuple(name for name in FLAGS if name != "ENABLE_CACHE_WARMING")


class Pool(Struct, frozen=True):
    """One pool that the settings make."""

    name: str
    backend: str
    url: str
    max_size: int


def pools(config: Phase4Config, urls: Mapping[str, str], service: bool = False) -> list[Pool]:
    """The pools made at start; ``urls`` gives the url of a backend whose pool names none.

    ``service``: with the demonstration service's own.
    """
    if not config.ENABLE_CONNECTION_POOLING:
        return []
    found = [
        Pool(
            name,
            pool.backend,
            pool.url or urls.get(pool.backend, ""),
            config.POOL_MAX_SIZE if pool.max_size is None else pool.max_size,
        )
        for name, pool in config.DATABASE_POOLS.items()
    ]
    if service and SERVICE_POOL not in config.DATABASE_POOLS:
        # The service's own database: DATABASE_URL's, or the embedded one.
        backend = next((name for name, url in urls.items() if url == config.DATABASE_URL), "sqlite")
        found.append(Pool(SERVICE_POOL, backend, config.DATABASE_URL, config.POOL_MAX_SIZE))
    return found


def backends_in_use(config: Phase4Config, urls: Mapping[str, str]) -> set[str]:
    """Backends whose driver must be installed."""
    found = {pool.backend for pool in config.DATABASE_POOLS.values()} | set(urls)
    urls_of_services = (
        config.CACHE_L2_REDIS_URL, config.RATE_LIMIT_REDIS_URL, config.BATCH_REDIS_URL,
        config.OUTBOUND_REDIS_URL,
    )  # fmt: skip
    if any(urls_of_services):
        found.add("redis")
    return found


def services(config: Phase4Config) -> Finding:
    on = [name.removeprefix("ENABLE_").lower() for name in SERVICE_FLAGS if getattr(config, name)]
    if not on:
        return warn(
            "services", "Phase 4 is off: no ENABLE_* flag is set", "set flags, or deploy without Phase 4"
        )
    return ok("services", f"{len(on)} on: {', '.join(on)}")


def conflicts(config: Phase4Config) -> Iterator[Finding]:
    """Settings that are each valid and together are not what was meant."""
    c = config
    found = [
        *_conflicts_of_switched_off(c),
        *_conflicts_of_cache(c),
        *_conflicts_of_pools(c),
        *_conflicts_of_limits_and_batches(c),
        *_conflicts_of_instances(c),
    ]
    yield from found or [ok("settings", "no conflict")]
    if c.PHASE4_KEY_PREFIX:
        yield ok("settings", f"every key and channel in Redis begins with {c.PHASE4_KEY_PREFIX}:")


def _conflicts_of_switched_off(c: Phase4Config) -> Iterator[Finding]:
    defaults = Phase4Config()
    for flag, name in (
        ("ENABLE_CACHE_MANAGER", "ENABLE_CACHE_WARMING"),
        ("ENABLE_CONNECTION_POOLING", "DATABASE_POOLS"),
        ("ENABLE_RATE_LIMITER", "RATE_LIMITS"),
        ("ENABLE_RATE_LIMITER", "RATE_LIMIT_REDIS_URL"),
        ("ENABLE_BATCH_PROCESSOR", "BATCH_REDIS_URL"),
        ("ENABLE_OUTBOUND", "OUTBOUND_REDIS_URL"),
        ("ENABLE_LOAD_BALANCER", "LOAD_BALANCER_INSTANCES"),
    ):
        if not getattr(c, flag) and getattr(c, name) != getattr(defaults, name):
            yield warn("settings", f"{name} is set but {flag} is False", f"set {flag} = True, or drop {name}")
    if not c.ENABLE_CACHE_MANAGER and c.CACHE_L2_REDIS_URL not in ("", c.REDIS_URL):
        yield warn(
            "settings",
            "CACHE_L2_REDIS_URL is set but ENABLE_CACHE_MANAGER is False",
            "set ENABLE_CACHE_MANAGER = True, or drop CACHE_L2_REDIS_URL",
        )


def _conflicts_of_cache(c: Phase4Config) -> Iterator[Finding]:
    if not c.ENABLE_CACHE_MANAGER or not c.ENABLE_CACHE_WARMING:
        return
    if c.CACHE_WARMING_INTERVAL > c.CACHE_DEFAULT_TTL:
        yield warn(
            "settings",
            f"CACHE_WARMING_INTERVAL = {c.CACHE_WARMING_INTERVAL:g} s is longer than CACHE_DEFAULT_TTL = "
            f"{c.CACHE_DEFAULT_TTL:g} s: warmed keys that name no ttl lapse before they are refreshed",
            "lower CACHE_WARMING_INTERVAL, raise CACHE_DEFAULT_TTL, or give warm_cache a ttl",
        )


def _conflicts_of_pools(c: Phase4Config) -> Iterator[Finding]:
    if not c.ENABLE_CONNECTION_POOLING:
        return
    for name in ("POOL_IDLE_TIMEOUT", "POOL_KEEPALIVE_INTERVAL"):
        if getattr(c, name) >= c.POOL_MAX_LIFETIME:
            yield warn(
                "settings",
                f"{name} = {getattr(c, name):g} s is not below POOL_MAX_LIFETIME = "
                f"{c.POOL_MAX_LIFETIME:g} s, so it never comes to pass",
                f"lower {name} or raise POOL_MAX_LIFETIME",
            )
    if 0 < c.POOL_LEAK_THRESHOLD <= c.QUERY_OPTIMIZER_SLOW_QUERY_THRESHOLD:
        yield warn(
            "settings",
            f"POOL_LEAK_THRESHOLD = {c.POOL_LEAK_THRESHOLD:g} s is not above "
            f"QUERY_OPTIMIZER_SLOW_QUERY_THRESHOLD = {c.QUERY_OPTIMIZER_SLOW_QUERY_THRESHOLD:g} s: slow "
            "queries will be reported as leaked connections",
            "raise POOL_LEAK_THRESHOLD",
        )


def _conflicts_of_limits_and_batches(c: Phase4Config) -> Iterator[Finding]:
    if c.ENABLE_RATE_LIMITER and c.RATE_LIMITS:
        default = (c.RATE_LIMIT_DEFAULT_RPS, c.RATE_LIMIT_BURST_SIZE)
        if all(
            limit.requests_per_second is not None
            and limit.requests_per_second < default[0]
            and limit.burst_size < default[1]
            for limit in c.RATE_LIMITS.values()
        ):
            yield warn(
                "settings",
                f"every tier of RATE_LIMITS is tighter than the default of {default[0]:g} per second, burst "
                f"{default[1]}: a client without a tier may do more than one with",
                "lower RATE_LIMIT_DEFAULT_RPS and RATE_LIMIT_BURST_SIZE, or raise a tier",
            )
    if not c.ENABLE_BATCH_PROCESSOR:
        return
    if c.BATCH_MAX_PENDING < c.BATCH_MAX_SIZE:
        yield fail(
            "settings",
            f"BATCH_MAX_PENDING = {c.BATCH_MAX_PENDING} is below BATCH_MAX_SIZE = {c.BATCH_MAX_SIZE}: no "
            "batch can ever fill, each waits for BATCH_TIMEOUT while submissions are refused",
            f"raise BATCH_MAX_PENDING to at least {c.BATCH_MAX_SIZE * 2}, or lower BATCH_MAX_SIZE",
        )
    elif c.BATCH_MAX_PENDING < c.BATCH_MAX_SIZE * c.BATCH_MAX_CONCURRENT:
        yield warn(
            "settings",
            f"BATCH_MAX_PENDING = {c.BATCH_MAX_PENDING} is below BATCH_MAX_SIZE x BATCH_MAX_CONCURRENT = "
            f"{c.BATCH_MAX_SIZE * c.BATCH_MAX_CONCURRENT}: not all handlers can have a full batch at once",
            "raise BATCH_MAX_PENDING, or lower one of the two",
        )


def _conflicts_of_instances(c: Phase4Config) -> Iterator[Finding]:
    if not c.ENABLE_LOAD_BALANCER:
        return
    count = len(c.LOAD_BALANCER_INSTANCES)
    if count == 0:
        yield warn(
            "settings",
            "ENABLE_LOAD_BALANCER is True and LOAD_BALANCER_INSTANCES is empty: requests have nowhere to go",
            "set LOAD_BALANCER_INSTANCES, or see that the bot calls add_instance at start",
        )
    if count < 2:
        return
    if c.ENABLE_RATE_LIMITER and not c.RATE_LIMIT_REDIS_URL:
        yield warn(
            "settings",
            f"{count} instances, each with limits of its own: a client may do up to {count} times its limit",
            "set RATE_LIMIT_REDIS_URL, so that the instances share their limits",
        )
    if c.ENABLE_OUTBOUND and not c.OUTBOUND_REDIS_URL:
        yield warn(
            "settings",
            f"{count} instances, each with Telegram's limits to itself: together {count} times as much",
            "set OUTBOUND_REDIS_URL and OUTBOUND_BOT_ID, so that the instances share their budget",
        )
    if (c.ENABLE_CACHE_MANAGER or c.ENABLE_QUERY_OPTIMIZER) and not (
        c.ENABLE_CACHE_MANAGER and c.CACHE_L2_REDIS_URL
    ):
        yield warn(
            "settings",
            f"{count} instances that cache and do not hear of each other's writes: what one changed, the "
            "others serve old until its ttl is over",
            "set ENABLE_CACHE_MANAGER = True and CACHE_L2_REDIS_URL",
        )


def memory(config: Phase4Config, free_mb: float, limited_by: str = "this machine") -> Finding:
    """``free_mb``: what the process may still take, by whichever of machine and container is tighter."""
    caches: dict[str, float] = {}
    if config.ENABLE_CACHE_MANAGER:
        caches["CACHE_L1_MAX_SIZE_MB"] = config.CACHE_L1_MAX_SIZE_MB
    if config.ENABLE_QUERY_OPTIMIZER:
        caches["QUERY_OPTIMIZER_CACHE_MAX_SIZE_MB"] = config.QUERY_OPTIMIZER_CACHE_MAX_SIZE_MB
    may_take = sum(caches.values())
    said = " + ".join(f"{name} {value:g}" for name, value in caches.items())
    found = f"{free_mb:,.0f} MB free on {limited_by}"
    if said:
        found += f"; caches may take {may_take:,.0f} MB ({said})"
    if may_take > free_mb:
        return fail("memory", found, f"lower {' or '.join(caches)}, or give the bot more memory")
    wanted = FREE_MEMORY_FOR_CACHE_MB if config.ENABLE_CACHE_MANAGER else FREE_MEMORY_MB
    wanted = max(wanted, int(may_take * 1.5))
    if any(getattr(config, flag) for flag in SERVICE_FLAGS) and free_mb < wanted:
        return warn("memory", found, f"have {wanted:,} MB free, or lower what the caches may take")
    return ok("memory", found)


def descriptors(config: Phase4Config, made: list[Pool], limit: int | None) -> Finding:
    """``limit``: how many files and sockets the process may have open; None: no such limit here."""
    if limit is None:
        return ok("file descriptors", "this system sets no limit")
    # A pooled PostgreSQL, MySQL or Redis connection is one socket; SQLite has up to three files each.
    pooled = sum(pool.max_size * (3 if pool.backend == "sqlite" else 1) for pool in made)
    instances = len(config.LOAD_BALANCER_INSTANCES) * 8 if config.ENABLE_LOAD_BALANCER else 0
    need = DESCRIPTORS_AT_REST + DESCRIPTORS_FOR_CLIENTS + pooled + instances
    found = (
        f"limit {limit:,}; about {need:,} needed ({pooled} for pools, {instances} for instances, "
        f"{DESCRIPTORS_FOR_CLIENTS} for clients)"
    )
    enough = 1 << (need * 2 - 1).bit_length()
    advice = f"raise it (ulimit -n {enough}; systemd: LimitNOFILE={enough}), or lower the pools' max_size"
    if need > limit:
        return fail("file descriptors", found, advice)
    if need * 1.25 > limit:
        return warn("file descriptors", found, advice)
    return ok("file descriptors", found)


def python_version(version: tuple[int, int, int]) -> Finding:
    shown = ".".join(map(str, version))
    if version < (3, 11, 0):
        return fail("Python", shown, "install Python 3.11 or later")
    return ok("Python", shown)


def packages(needed: list[str], installed: Mapping[str, str | None]) -> Iterator[Finding]:
    """``installed``: package -> version, None where it is missing."""
    bad = 0
    for name in needed:
        found = installed.get(name)
        oldest = OLDEST[name]
        install = f"pip install '{name}>={oldest}'"
        if found is None:
            bad += 1
            yield fail("packages", f"{name} is not installed", install)
        elif as_numbers(found) < as_numbers(oldest):
            bad += 1
            yield fail("packages", f"{name} {found} is older than {oldest}, the oldest tested", install)
    if not bad:
        yield ok("packages", ", ".join(f"{name} {installed[name]}" for name in needed))
