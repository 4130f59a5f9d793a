"""The public API as a typed user writes it. Checked by mypy, never run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple, assert_type

from bot.core.batch_processor import (
    BatchItem,
    BatchProcessor,
    BatchStatus,
    DeadLetter,
    ItemStatus,
    ReplayReport,
    Submission,
    durable_dead_letters,
)
from bot.core.cache_manager import FOREVER, CacheManager, cached, invalidate, register_type
from bot.core.connection_pool_manager import BackendType, ConnectionPoolManager, PooledConnection
from bot.core.enhanced_startup_phase4 import (
    get_phase4_status,
    initialize_phase4_services,
    rate_limited,
    reset_phase4_services,
    shutdown_phase4_services,
)
from bot.core.load_balancer import Instance, LoadBalancer, LoadBalancingStrategy, RouteResult
from bot.core.outbound import BroadcastProgress, BroadcastReport, Outbound, terminal_progress
from bot.core.phase4_statistics.cache_manager import CacheManagerFigures
from bot.core.phase4_statistics.fields import Key, key_of
from bot.core.phase4_statistics.outbound import OutboundOff
from bot.core.query_optimizer import (
    Finding,
    IndexSuggestion,
    NPlusOnePattern,
    OptimizationResult,
    QueryOptimizer,
    analyze_graphql_complexity,
    database_time,
    optimize_query,
)
from bot.core.rate_limiter import (
    Backoff,
    ByteLimit,
    ConcurrencyLimit,
    RateLimitConfig,
    RateLimiter,
    RateLimitStatus,
    Slot,
    SlotStatus,
    limited_slots,
)


async def startup() -> None:
    await initialize_phase4_services({"ENABLE_RATE_LIMITER": True})
    await get_phase4_status()
    assert_type(await reset_phase4_services(), bool)
    assert_type(await shutdown_phase4_services(), bool)


@limited_slots(ConcurrencyLimit(2, name="downloads"), key="user_id", timeout=None)
async def download(user_id: int) -> bytes:
    return b""


async def slots(user_id: int) -> None:
    limiter = RateLimiter.get_instance()
    limit = ConcurrencyLimit(2)
    async with limiter.slot(user_id, limit, timeout=10) as slot:
        assert_type(slot, Slot)
        assert_type(slot.lost, bool)
    with await limiter.acquire_slot(None, limit) as held:
        assert_type(held, Slot)
    assert_type(await limiter.slot_status(user_id, limit), SlotStatus)
    assert_type(await asyncio.create_task(download(user_id)), bytes)
    await limiter.acquire(user_id, ByteLimit("10 MB/s", "64 MiB"), tokens_required=1_000_000)


async def limits(user_id: int) -> None:
    limiter = RateLimiter.get_instance()
    assert_type(limiter, RateLimiter)
    upload = RateLimitConfig(requests_per_second=2.0, burst_size=5)
    assert_type(RateLimitConfig(1.0, 5, backoff=None), RateLimitConfig)
    assert_type(RateLimitConfig(1.0, 5, "login", Backoff(base=30, max=600, grace=2)), RateLimitConfig)
    assert_type(limiter.check(None), float)
    allowed, status = await limiter.is_allowed(user_id, upload)
    assert_type(allowed, bool)
    assert_type(status, RateLimitStatus)
    assert_type(status.retry_after, float)
    assert_type(status.degraded, bool)
    assert_type(limiter.shared, bool)
    assert_type(await limiter.reset_client(user_id, upload), bool)
    assert_type(await limiter.reset_client("user", "premium"), bool)
    await limiter.reset_client(1.5)  # type: ignore[arg-type]
    assert_type(limiter.check("user", upload), float)
    assert_type(limiter.set_tier_limit("upload", upload), bool)
    assert_type(await limiter.get_status(), dict[str, Any])
    limiter.default_config = upload
    assert_type(limiter.default_config, RateLimitConfig)
    limiter.default_config = (2.0, 5)  # type: ignore[assignment]


@rate_limited(rps=2.0, burst_size=5)
async def handler(user_id: int, text: str) -> str:
    return text


@cached(key_prefix="user", ttl=60)
async def get_user(user_id: int) -> dict[str, int]:
    return {"id": user_id}


@rate_limited
async def bare_handler(user_id: int) -> str:
    return str(user_id)


@cached
async def get_name(user_id: int) -> str:
    return str(user_id)


class Menu:
    @cached(ttl=60)
    async def text(self, lang: str = "en") -> str:
        return lang

    @classmethod
    @cached
    async def count(cls, lang: str) -> int:
        return len(lang)

    @staticmethod
    @cached
    async def languages(country: str) -> list[str]:
        return [country]


@cached(ttl=timedelta(minutes=5), tags=("text:{text}",))
def parse(text: str) -> list[str]:
    return text.split()


@cached("lengths", ttl=lambda value: None if value is None else FOREVER)
def length(text: str) -> int:
    return len(text)


@invalidate(tags=("user:{user_id}",), function=[get_user, parse])
async def rename(user_id: int, text: str) -> bool:
    return True


@register_type
class Registered(NamedTuple):
    id: int


@register_type(name="named")
class RegisteredByName(NamedTuple):
    id: int


async def keys_of_the_cache(cache: CacheManager) -> None:
    assert_type(Registered(1).id, int)
    assert_type(RegisteredByName(1).id, int)
    assert_type(await cache.incr("n", ttl=timedelta(days=1)), int)
    assert_type(await cache.add("k", 1), bool)
    assert_type(await cache.ttl("k"), float | None)
    assert_type(await cache.touch("k", FOREVER), bool)
    assert_type(await cache.exists("k"), bool)
    async with cache.lock("k") as lease:
        assert_type(lease.held, bool)

    async def load(missing: list[str]) -> dict[str, int]:
        return dict.fromkeys(missing, 1)

    assert_type(await cache.get_or_load_many(["a", "b"], load), dict[str, Any])


async def functions_that_are_cached(menu: Menu) -> None:
    assert_type(parse("a b"), list[str])
    assert_type(await parse.refresh("a b"), list[str])
    assert_type(await rename(1, text="x"), bool)
    assert_type(await menu.text.refresh("de"), str)
    assert_type(get_user.cache_tags(1), tuple[str, ...])
    assert_type(get_user.cache_info().hits, int)
    assert_type(await get_user.cache_clear(), int)
    await rename("1", "x")  # type: ignore[arg-type]
    parse(1)  # type: ignore[arg-type]
    task = asyncio.create_task(get_user(1))
    assert_type(await task, dict[str, int])
    assert_type(get_user.cache_key(user_id=1), str)
    assert_type(await get_user.invalidate(1), bool)
    assert_type(await asyncio.create_task(menu.text("de")), str)
    assert_type(menu.text.cache_key(lang="de"), str)
    assert_type(await menu.text.invalidate("de"), bool)
    assert_type(Menu.text.cache_key(menu, "de"), str)
    assert_type(await asyncio.create_task(Menu.count("de")), int)
    assert_type(await Menu.languages("de"), list[str])
    assert_type(await asyncio.create_task(fetch("SELECT 1", 5)), list[dict[str, int]])
    assert_type(await asyncio.create_task(bare_handler(5)), str)
    await menu.text.invalidate(5)  # type: ignore[arg-type]
    get_user.cache_key("1")  # type: ignore[arg-type]


@optimize_query(ttl=60)
async def fetch(query: str, user_id: int) -> list[dict[str, int]]:
    return [{"id": user_id}]


async def bare(user_id: int) -> None:
    assert_type(await bare_handler(user_id), str)
    assert_type(await get_name(user_id), str)
    await get_name("1")  # type: ignore[arg-type]


async def cache(user_id: int) -> None:
    manager = CacheManager.get_instance()
    assert_type(await manager.enable(max_size_mb=50, compression=True), bool)
    assert_type(await manager.enable(l1_max_size_mb=50.0), bool)
    assert_type(await manager.set("k", 1, tags=("t",)), bool)
    assert_type(await manager.invalidate_tag("t"), int)
    assert_type(await manager.invalidate_tags(["t", "u"]), int)
    assert_type(await get_user(user_id), dict[str, int])
    await get_user("1")  # type: ignore[arg-type]


async def pools() -> None:
    manager = ConnectionPoolManager.get_instance()
    assert_type(await manager.create_pool("db", BackendType.MONGODB, 1, 5), bool)
    await manager.create_pool(name="redis", backend="redis", min_size=3, max_size=10)
    connection = await manager.acquire_connection("db", timeout=1.0)
    assert_type(connection, PooledConnection)
    assert_type(await manager.execute("db", "DELETE FROM t WHERE n = ?", 1), int)
    assert_type(await manager.fetch(connection, "SELECT 1", timeout=0), list[Any])
    async with manager.transaction("db", isolation="serializable") as lease:
        assert_type(lease, PooledConnection)
    assert_type(await manager.resize_pool("db", max_size=5), bool)
    assert_type(await manager.release_connection("db", connection), bool)


async def handle(items: list[BatchItem]) -> dict[str, object]:
    return {item.item_id: item.data for item in items}


async def batches() -> None:
    processor = BatchProcessor.get_instance()
    await processor.enable(handle, max_batch_size=10, handler_timeout=60.0)
    await processor.enable(redis_url="redis://127.0.0.1", queue_name="q", lease=30.0, max_deliveries=5)
    success, item_id, batch_id = await processor.submit_item({"file": 1}, priority=5)
    assert_type(success, bool)
    assert_type(item_id, str)
    assert_type(await processor.submit_item(1, key="k"), Submission)
    assert_type(await processor.submit_many([1, 2]), list[Submission])
    assert_type(await processor.get_batch_status(batch_id), BatchStatus | None)
    assert_type(await processor.get_item_status(item_id), ItemStatus | None)
    assert_type(await processor.dead_letters(), list[DeadLetter])
    assert_type(await processor.replay(), int)
    assert_type(await processor.replay_dead_letters(["item-1"]), ReplayReport)
    assert_type(await processor.get_dead_letter("item-1"), DeadLetter | None)
    assert_type([letter async for letter in processor.iter_dead_letters(0, 50)], list[DeadLetter])
    async with durable_dead_letters("redis://127.0.0.1", "q") as letters:
        assert_type(await letters.count(), int)
        assert_type(await letters.replay(), ReplayReport)
    assert_type(await processor.flush(), bool)
    await processor.submit(1)
    await processor.submit_and_wait(1, timeout=2.0)
    await processor.submit(1, "high")  # type: ignore[arg-type]


async def decorated() -> None:
    assert_type(await handler(1, "text"), str)
    await handler(1)  # type: ignore[call-arg]


async def forward(instance: Instance, data: dict[str, int]) -> str:
    return instance.get_url()


async def balancing() -> None:
    balancer = LoadBalancer.get_instance()
    balancer.request_handler = forward
    assert_type(await balancer.enable(LoadBalancingStrategy.LEAST_CONNECTIONS, check_interval=5), bool)
    await balancer.enable("least_loaded", hedging=True)
    await balancer.enable(lambda instances: instances[0])
    await balancer.enable(chek_interval=5)  # type: ignore[call-arg]
    assert_type(await balancer.add_instance("bot-1", "10.0.0.1", 8001, weight=1.0), bool)
    assert_type(await balancer.route_request({"n": 1}, session_id="s"), RouteResult)
    success, _result, instance_id = await balancer.route_request({"n": 1}, idempotent=False)
    assert_type(success, bool)
    assert_type(instance_id, str | None)
    assert_type(await balancer.drain_instance("bot-1", timeout=30.0), bool)
    assert_type(await balancer.return_instance("bot-1"), bool)
    assert_type(balancer, LoadBalancer)
    assert_type(await balancer.select_instance(), Instance | None)
    assert_type(await balancer.get_instance(), Instance | None)
    assert_type(await balancer.get_instance(session_id="user_123"), Instance | None)


async def queries_watched_and_told_of() -> None:
    optimizer = QueryOptimizer.get_instance()
    with optimizer.request():
        pass
    with database_time():
        pass
    async with optimizer.transaction():
        await optimizer.declare_view("v", "a", "b")
        await optimizer.declare_cascade("a", "b")
    assert_type(await optimizer.get_n_plus_one_patterns(), list[NPlusOnePattern])
    assert_type(await optimizer.analyze_query({"a": 1}, {"limit": 1}), OptimizationResult)
    assert_type(await optimizer.analyze_query([{"$match": {"a": 1}}]), OptimizationResult)
    found = await optimizer.analyze_query("SELECT 1")
    assert_type(found.findings, list[Finding])
    assert_type(found.findings[0].code, str)
    assert_type(found.findings[0].line, int)
    assert_type(found.index_suggestions, list[IndexSuggestion])
    assert_type(found.index_suggestions[0].columns, tuple[str, ...])
    assert_type(found.index_suggestions[0].ddl, str)
    assert_type(found.evidence, list[str])
    assert_type(found.estimated_improvement, float)
    assert_type(found.columns, dict[str, list[str]])

    async def explainer(statements: Sequence[tuple[str, Any]]) -> list[list[tuple[Any, ...]]]:
        return [[(sql,)] for sql, _ in statements]

    assert_type(await optimizer.record_execution("SELECT 1", 2.5, result_count=1), bool)
    assert_type(await optimizer.record_execution("SELECT 1", execution_time=0.0025), bool)
    assert_type(analyze_graphql_complexity("{ users { name } }", {"n": 1}, "q"), int)
    optimizer.explain_with(explainer, "postgres", timeout=1.0)
    optimizer.explain_with(None)
    await optimizer.analyze_query(5)  # type: ignore[arg-type]


async def broadcasts(outbound: Outbound, users: list[int]) -> list[int | str]:
    assert_type(await outbound.release("@news"), bool)

    async def send(chat: int) -> str:
        return f"to {chat}"

    async def show(progress: BroadcastProgress) -> None:
        assert_type(progress.total, int | None)

    report = await outbound.broadcast("news", users, send, paid=True, on_progress=show)
    assert_type(report, BroadcastReport)
    await outbound.broadcast("news", lambda: iter(users), send, on_progress=terminal_progress(), store="")
    async for chat, reason in report.failures():
        assert_type((chat, reason), tuple[int | str, str])
    return await report.unreachable()


async def figures(cache: CacheManager, pools: ConnectionPoolManager) -> None:
    assert_type(await cache.get_statistics(), dict[str, Any])
    assert_type(cache.statistics(), dict[str, Any])
    assert_type(cache.snapshot().l1_hits, int)
    assert_type(cache.snapshot().hit_rate, float)
    assert_type(pools.snapshot().pools["db"].last_error, str | None)
    assert_type(key_of(CacheManagerFigures.l1_hits), Key)
    # A key that is misspelt, where it is read, named or measured.
    print(cache.snapshot().l1_hitz)  # type: ignore[attr-defined]
    key_of(CacheManagerFigures.l1_hitz)  # type: ignore[attr-defined]
    OutboundOff(enabld=False)  # type: ignore[call-arg]
    cache.snapshot().l1_hits = 5  # type: ignore[misc]
