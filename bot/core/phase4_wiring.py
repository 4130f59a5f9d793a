"""How each service is enabled: its flag, its class, and what of the others it is handed."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bot.core.phase4_config import Phase4Config
from bot.core.phase4_service import Phase4Service

if TYPE_CHECKING:
    from bot.core.phase4_config import TierBackoff, TierLimit

logger = logging.getLogger("bot.core.enhanced_startup_phase4")

_TABLES_WRITTEN = "query_optimizer.tables_written"


class Wiring(NamedTuple):
    """One service: the flag that switches it on, where its class lives, and how it is enabled."""

    flag: str
    package: str
    class_name: str
    enable: Callable[[Any, Phase4Config], Awaitable[Any]]

    def service_class(self) -> type[Phase4Service] | None:
        """The class, imported; None while this version does not have the service."""
        module = importlib.import_module(f"bot.core.{self.package}")
        return getattr(module, self.class_name, None)

    def instance(self) -> Phase4Service | None:
        """The process's instance, enabled or not; imports nothing and makes none."""
        module = sys.modules.get(f"bot.core.{self.package}")
        found = getattr(module, self.class_name, None)
        return Phase4Service._instances.get(found) if found is not None else None

    def running(self) -> Phase4Service | None:
        """The process's instance if it is enabled; imports nothing."""
        instance = self.instance()
        return instance if instance is not None and instance.enabled else None


async def _enable_query_optimizer(optimizer: Any, config: Phase4Config) -> None:
    own = ("explain_pool", "explain_timeout", "instrument", "instrument_cache")
    await optimizer.enable(**config.query_optimizer.values(*own))
    _explain(optimizer, config)
    _instrument(optimizer, config)
    if config.ENABLE_CACHE_MANAGER and config.CACHE_L2_REDIS_URL:
        # The cache's instances hear of each other; so a write here drops results over there too.
        from bot.core.cache_manager import CacheManager

        cache = CacheManager.get_instance()
        optimizer.after_write(lambda tables: cache.tell(_TABLES_WRITTEN, tables))
        cache.listen(_TABLES_WRITTEN, optimizer.written_elsewhere)
    else:
        optimizer.after_write(None)


def _explain(optimizer: Any, config: Phase4Config) -> None:
    """Hand the optimizer the pool that it asks for plans, or take it away."""
    name = config.QUERY_OPTIMIZER_EXPLAIN_POOL
    if name and not config.ENABLE_CONNECTION_POOLING:
        logger.warning(
            "QUERY_OPTIMIZER_EXPLAIN_POOL = %r: no plans while ENABLE_CONNECTION_POOLING is off", name
        )
    if not name or not config.ENABLE_CONNECTION_POOLING:
        optimizer.explain_with(None)
        return
    from bot.core.connection_pool_manager import ConnectionPoolManager
    from bot.core.phase4_config import EXPLAINING
    from bot.core.query_optimizer.plans.explain import pool_explainer

    dialect = EXPLAINING[config.DATABASE_POOLS[name].backend]
    timeout = config.QUERY_OPTIMIZER_EXPLAIN_TIMEOUT
    explainer = pool_explainer(ConnectionPoolManager.get_instance(), name, dialect, timeout)
    optimizer.explain_with(explainer, dialect, timeout=timeout)


def _instrument(optimizer: Any, config: Phase4Config) -> None:
    """Let the optimizer see the statements of all pools, or no longer."""
    if not config.ENABLE_CONNECTION_POOLING:
        if config.QUERY_OPTIMIZER_INSTRUMENT:
            logger.warning(
                "QUERY_OPTIMIZER_INSTRUMENT: no pools to see while ENABLE_CONNECTION_POOLING is off"
            )
        return
    from bot.core.connection_pool_manager import ConnectionPoolManager

    pools = ConnectionPoolManager.get_instance()
    if not config.QUERY_OPTIMIZER_INSTRUMENT:
        pools.observe(None)
        return
    from bot.core.query_optimizer.instruments.of_pools import observer

    tenants = {name: pool.tenant for name, pool in config.DATABASE_POOLS.items() if pool.tenant is not None}
    cache = config.QUERY_OPTIMIZER_INSTRUMENT_CACHE
    pools.observe(observer(optimizer, cache=cache, tenants=tenants))


async def _enable_rate_limiter(limiter: Any, config: Phase4Config) -> None:
    from bot.core.rate_limiter import Backoff, RateLimitConfig, WindowLimit, parse_limits

    def backoff(own: bool | TierBackoff) -> Backoff | Literal["default"] | None:
        if isinstance(own, bool):
            return "default" if own else None
        return Backoff(own.base, own.max, own.grace)

    def limits(tier: TierLimit) -> Any:
        own = backoff(tier.backoff)
        if tier.limits:
            return parse_limits(tier.limits, backoff=own)
        if tier.max_requests is not None and tier.window is not None:
            return WindowLimit(tier.max_requests, tier.window, backoff=own)
        return RateLimitConfig(tier.requests_per_second or 0.0, tier.burst_size, backoff=own)

    settings = config.rate_limiter
    await limiter.enable(
        default_limit=RateLimitConfig(settings.default_rps, settings.burst_size),
        tiers={name: limits(tier) for name, tier in settings.tiers.items()},
        **_in_redis(config, "RATE_LIMIT_REDIS_URL", settings.values("default_rps", "burst_size", "tiers")),
    )


def _in_redis(config: Phase4Config, setting: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``enable``, whose ``redis_url`` has what holds for all services."""
    return {**arguments, "redis_url": config.redis_url(setting)}


async def _enable_cache_manager(cache: Any, config: Phase4Config) -> None:
    await cache.enable(**_in_redis(config, "CACHE_L2_REDIS_URL", config.cache_manager.values()))


async def _enable_connection_pool_manager(pools: Any, config: Phase4Config) -> None:
    from bot.core.connection_pool_manager.specs import urls_of

    settings = config.connection_pools
    await pools.enable(
        **settings.sizes(),
        pools=settings.pools,
        urls={**urls_of(config), "DATABASE_URL": settings.database_url},
    )


async def _enable_batch_processor(processor: Any, config: Phase4Config) -> None:
    await processor.enable(**_in_redis(config, "BATCH_REDIS_URL", config.batch_processor.values()))


async def _enable_load_balancer(balancer: Any, config: Phase4Config) -> None:
    await balancer.enable(**config.load_balancer.values())


async def _enable_outbound(outbound: Any, config: Phase4Config) -> None:
    from bot.core.outbound import Limits
    from bot.core.phase4_config.outbound import OF_LIMITS

    settings = config.outbound
    await outbound.enable(
        Limits(
            group=(settings.group_limit, settings.group_window),
            chat=(1, 1.0 / settings.chat_rate),
            chat_burst=settings.chat_burst,
            bulk=(settings.bulk_limit, 1.0),
            bulk_reserve=settings.bulk_reserve,
            edits=settings.edits,
            typing=settings.typing_limits,
            paid=(settings.paid_limit, 1.0),
        ),
        **{**settings.values(*OF_LIMITS), "bot_id": settings.bot_id or "default"},
        redis_options=config.redis.options(),
    )


# In the order of start: what others may lean on comes first. Stopped in reverse.
SERVICES = (
    Wiring(
        "ENABLE_CONNECTION_POOLING",
        "connection_pool_manager",
        "ConnectionPoolManager",
        _enable_connection_pool_manager,
    ),
    Wiring("ENABLE_CACHE_MANAGER", "cache_manager", "CacheManager", _enable_cache_manager),
    Wiring("ENABLE_QUERY_OPTIMIZER", "query_optimizer", "QueryOptimizer", _enable_query_optimizer),
    Wiring("ENABLE_RATE_LIMITER", "rate_limiter", "RateLimiter", _enable_rate_limiter),
    Wiring("ENABLE_BATCH_PROCESSOR", "batch_processor", "BatchProcessor", _enable_batch_processor),
    Wiring("ENABLE_LOAD_BALANCER", "load_balancer", "LoadBalancer", _enable_load_balancer),
    Wiring("ENABLE_OUTBOUND", "outbound", "Outbound", _enable_outbound),
)
