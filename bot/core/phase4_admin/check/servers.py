"""Servers that the settings name, reached once each with the drivers that the services use."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct

from bot.core._shared.errors import Phase4Error, message_of
from bot.core._shared.masking import one_line
from bot.core._shared.packages import as_numbers
from bot.core._shared.redis_address import shown_url
from bot.core.connection_pool_manager.callbacks import taken_out
from bot.core.connection_pool_manager.drivers import driver_class
from bot.core.connection_pool_manager.drivers.base import Driver, secrets_of
from bot.core.connection_pool_manager.models import PoolOptions, PoolSpec
from bot.core.phase4_admin.check.findings import Finding, fail, ok, warn
from bot.core.phase4_admin.check.rules import Pool
from bot.core.phase4_config import Phase4Config

OLDEST_REDIS = "6.0"
OLDEST_REDIS_FOR_BATCHES = "6.2"
_NAMES = {
    "redis": "Redis",
    "mongodb": "MongoDB",
    "postgresql": "PostgreSQL",
    "mysql": "MySQL",
    "sqlite": "SQLite",
}


class Server(Struct, frozen=True):
    """One server to reach, and what needs it."""

    backend: str
    url: str
    settings: tuple[str, ...]
    """The settings that name it."""
    needed: bool
    """Whether a service that is on uses it; otherwise it being away is a warning."""
    pooled: int = 0
    """Connections that this deployment's pools may open to it."""
    options: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        return _NAMES[self.backend]


def servers(config: Phase4Config, made: list[Pool], service: bool = False) -> list[Server]:
    """Every server that the settings name, each URL once; ``service``: for the demonstration service."""
    c = config
    named = [
        ("redis", c.CACHE_L2_REDIS_URL, "CACHE_L2_REDIS_URL", c.ENABLE_CACHE_MANAGER),
        ("redis", c.RATE_LIMIT_REDIS_URL, "RATE_LIMIT_REDIS_URL", c.ENABLE_RATE_LIMITER),
        ("redis", c.OUTBOUND_REDIS_URL, "OUTBOUND_REDIS_URL", c.ENABLE_OUTBOUND),
        ("redis", c.BATCH_REDIS_URL, "BATCH_REDIS_URL", c.ENABLE_BATCH_PROCESSOR),
        ("redis", c.REDIS_URL, "REDIS_URL", False),
        ("mongodb", c.MONGODB_URL, "MONGODB_URL", c.ENABLE_CONNECTION_POOLING),
        (
            _backend_of(c.DATABASE_URL),
            c.DATABASE_URL,
            "DATABASE_URL",
            service or c.ENABLE_CONNECTION_POOLING,
        ),
    ]
    for name, pool in c.DATABASE_POOLS.items():
        named.append((pool.backend, pool.url, f"DATABASE_POOLS[{name!r}]", c.ENABLE_CONNECTION_POOLING))
    found: dict[str, Server] = {}
    instances = max(1, len(c.LOAD_BALANCER_INSTANCES)) if c.ENABLE_LOAD_BALANCER else 1
    for backend, url, setting, needed in named:
        if not url or not backend:
            continue
        known = found.get(url)
        options = next((dict(p.options) for p in c.DATABASE_POOLS.values() if p.url == url), {})
        found[url] = Server(
            backend,
            url,
            (*known.settings, setting) if known else (setting,),
            needed or (known.needed if known else False),
            sum(pool.max_size for pool in made if pool.url == url) * instances,
            options,
        )
    return list(found.values())


def _backend_of(url: str) -> str:
    scheme = url.split("://", 1)[0].split("+")[0].lower()
    return next((name for name in _NAMES if scheme in driver_class(name).schemes), "")


async def reach(server: Server, timeout: float) -> list[Finding]:
    """Connect, ask what it is, disconnect; ``timeout`` seconds at most."""
    where = f"{shown_url(server.url)} ({', '.join(server.settings)})"
    start = time.perf_counter()
    try:
        async with asyncio.timeout(timeout):
            probe = _probe_redis_link if _is_for_link(server) else _probe_with_driver
            facts = await probe(server, timeout)
    except Exception as error:
        report = fail if server.needed else warn
        return [report(server.name, f"{where}: {_said(error, server, timeout)}", _what_to_do(error, server))]
    took = (time.perf_counter() - start) * 1000
    found = f"{where}: {facts.get('version', 'version unknown')}, answered in {took:.0f} ms"
    return [ok(server.name, found), *judge(server, facts)]


def judge(server: Server, facts: Mapping[str, Any]) -> list[Finding]:
    """What the server's own figures say against this deployment (pure)."""
    found: list[Finding] = []
    version = str(facts.get("version", ""))
    if server.backend == "redis":
        oldest = OLDEST_REDIS_FOR_BATCHES if "BATCH_REDIS_URL" in server.settings else OLDEST_REDIS
        if version and as_numbers(version) < as_numbers(oldest):
            found.append(fail(server.name, f"version {version}", f"needs Redis {oldest} or later"))
        policy = str(facts.get("maxmemory_policy", "noeviction"))
        kept = [name for name in server.settings if name.startswith(("BATCH_", "RATE_"))]
        evicts = policy != "noeviction" and bool(facts.get("maxmemory"))
        # Limits have a ttl, so volatile-* policies drop them, too; batches have none.
        lost = [name for name in kept if policy.startswith("allkeys") or name.startswith("RATE_")]
        if lost and evicts:
            found.append(
                warn(
                    server.name,
                    f"maxmemory-policy is {policy}: when memory is full it drops what {' and '.join(lost)} "
                    "must keep",
                    "use noeviction, and a Redis of its own with allkeys-lru for the cache",
                )
            )
        cached = any("REDIS_URL" in name and name not in kept for name in server.settings)
        if cached and not kept and not evicts and facts.get("maxmemory"):
            found.append(
                warn(
                    server.name,
                    "maxmemory-policy is noeviction: when memory is full, new values stay out of Redis",
                    "use allkeys-lru on a Redis that only caches; tags are safe under every policy",
                )
            )
        limit, used = facts.get("maxmemory") or 0, facts.get("used_memory") or 0
        if limit and used > 0.9 * limit:
            found.append(warn(server.name, f"{used / limit:.0%} of its maxmemory is used", "raise maxmemory"))
    most, free = facts.get("max_connections"), facts.get("free_connections")
    if most and server.pooled > most:
        found.append(
            fail(
                server.name,
                f"the pools may open {server.pooled} connections, the server allows {most}",
                "lower the pools' max_size (POOL_MAX_SIZE), raise the server's limit, or put a proxy between",
            )
        )
    elif free is not None and server.pooled > free:
        found.append(
            warn(
                server.name,
                f"the pools may open {server.pooled} connections, the server has {free} of {most} left",
                "lower the pools' max_size (POOL_MAX_SIZE) or find what holds the others; connections of an "
                "instance that this deployment replaces are counted too",
            )
        )
    return found


async def reach_instance(instance_id: str, host: str, port: int, timeout: float) -> Finding:
    """Whether something accepts connections there."""
    where = f"{instance_id} at {host}:{port}"
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        said = "no answer" if isinstance(error, TimeoutError) else one_line(error.strerror or str(error))
        # Instances of a rolling deployment are not all up at the same moment.
        return warn("instance", f"{where}: {said}", "start it, or take it out of LOAD_BALANCER_INSTANCES")
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            await writer.wait_closed()
    return ok("instance", f"{where}: accepts connections")


def _is_for_link(server: Server) -> bool:
    return server.backend == "redis" and not any("POOLS" in name for name in server.settings)


async def _probe_redis_link(server: Server, timeout: float) -> dict[str, Any]:
    from bot.core.redis_link import RedisLink

    link = RedisLink(server.url, timeout=timeout)
    try:
        client = link.client()
        await client.ping()
        info = await client.info()
    finally:
        await link.close()
    if link.cluster:  # one answer for each node
        info = next(iter(info.values()), {}) if info and isinstance(next(iter(info.values())), dict) else info
    return _redis_facts(info)


def _redis_facts(info: Mapping[str, Any]) -> dict[str, Any]:
    most, used = info.get("maxclients"), info.get("connected_clients")
    return {
        # Valkey gives the version of Redis that it is compatible with here, and its own beside it.
        "version": str(info.get("redis_version", "")),
        "maxmemory": info.get("maxmemory"),
        "used_memory": info.get("used_memory"),
        "maxmemory_policy": info.get("maxmemory_policy", "noeviction"),
        "max_connections": most,
        "free_connections": most - used if most is not None and used is not None else None,
    }


async def _probe_with_driver(server: Server, timeout: float) -> dict[str, Any]:
    given = {k: v for k, v in server.options.items() if k not in PoolOptions.__struct_fields__}
    options, functions = taken_out(given, server.backend)
    spec = PoolSpec(
        "check",
        server.backend,
        server.url,
        # A driver that gives up first says why; cut off from outside, it could not.
        PoolOptions(min_size=0, max_size=1, connect_timeout=timeout * 0.8),
        options,
        password=functions["password"],  # init may change what rows look like, and is the bot's own affair
    )
    driver = driver_class(server.backend)(spec)
    await driver.start()
    try:
        raw = await driver.connect()
        try:
            await driver.ping(raw)
            return await _FACTS[server.backend](driver, raw)
        except BaseException:
            driver.terminate(raw)
            raise
        finally:
            with contextlib.suppress(Exception):
                await driver.close(raw)
    finally:
        await driver.stop()


async def _facts_of_postgresql(_: Driver, raw: Any) -> dict[str, Any]:
    row = await raw.fetchrow(
        "SELECT current_setting('server_version') AS version,"
        " current_setting('max_connections')::int"
        "   - current_setting('superuser_reserved_connections')::int AS max_connections,"
        " (SELECT count(*) FROM pg_catalog.pg_stat_activity"
        "   WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()) AS used"
    )
    return {
        "version": row["version"],
        "max_connections": row["max_connections"],
        "free_connections": row["max_connections"] - row["used"],
    }


async def _facts_of_mysql(_: Driver, raw: Any) -> dict[str, Any]:
    async with raw.cursor() as cursor:
        await cursor.execute("SELECT VERSION(), @@max_connections")
        version, most = await cursor.fetchone()
        await cursor.execute("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
        used = int((await cursor.fetchone())[1])
    return {"version": version, "max_connections": int(most), "free_connections": int(most) - used + 1}


async def _facts_of_mongodb(_: Driver, raw: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    # Both may be refused to a user with few rights; that it answered the ping is what counts.
    with contextlib.suppress(Exception):
        facts["version"] = (await raw.client.admin.command("buildInfo"))["version"]
    with contextlib.suppress(Exception):
        connections = (await raw.client.admin.command("serverStatus"))["connections"]
        facts["free_connections"] = connections["available"]
        facts["max_connections"] = connections["available"] + connections["current"]
    return facts


async def _facts_of_redis(_: Driver, raw: Any) -> dict[str, Any]:
    return _redis_facts(await raw.info())


async def _facts_of_sqlite(_: Driver, raw: Any) -> dict[str, Any]:
    async with raw.execute("SELECT sqlite_version()") as cursor:
        return {"version": (await cursor.fetchone())[0]}


_FACTS: dict[str, Callable[[Driver, Any], Awaitable[dict[str, Any]]]] = {
    "postgresql": _facts_of_postgresql,
    "mysql": _facts_of_mysql,
    "mongodb": _facts_of_mongodb,
    "redis": _facts_of_redis,
    "sqlite": _facts_of_sqlite,
}


def _said(error: BaseException, server: Server, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s"
    text = message_of(error) or type(error).__name__
    for secret in secrets_of(server.url, server.options):
        text = text.replace(secret, "***")
    return one_line(text)


def _what_to_do(error: BaseException, server: Server) -> str:
    if isinstance(error, Phase4Error) and "pip install" in str(error):
        return "install what is missing"
    service = "" if server.needed else "; no service that is on uses it"
    remedy = "make the folder" if server.backend == "sqlite" else f"start {server.name}"
    return f"{remedy}, or correct {' and '.join(server.settings)}{service}"
