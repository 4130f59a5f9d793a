"""All settings, in a section for each service."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from types import ModuleType
from typing import Any

from msgspec import Struct

from bot.core.phase4_config.batch_processor import BatchProcessorSettings
from bot.core.phase4_config.cache_manager import CacheManagerSettings
from bot.core.phase4_config.catalog import SECTIONS, SETTINGS
from bot.core.phase4_config.connection_pools import ConnectionPoolSettings
from bot.core.phase4_config.load_balancer import LoadBalancerSettings
from bot.core.phase4_config.outbound import OutboundSettings
from bot.core.phase4_config.query_optimizer import EXPLAINING, QueryOptimizerSettings
from bot.core.phase4_config.rate_limiter import RateLimiterSettings
from bot.core.phase4_config.settings import ConfigError
from bot.core.phase4_config.sources import CONFIG_MODULES, Source, gather, merge
from bot.core.phase4_config.switches import Switches


class Phase4Config(Struct, frozen=True, kw_only=True):
    """All settings, validated. Times are seconds, percentages 0-100.

    Each service has a section: ``config.cache_manager.default_ttl``. A setting can be read by its own
    name too: ``config.CACHE_DEFAULT_TTL``.

    Precedence, low to high: defaults, the bot's ``config`` module, ``config_enhancements_phase4``,
    environment variables of the same name, the dict given to ``initialize_phase4_services``.
    """

    switches: Switches = Switches()
    query_optimizer: QueryOptimizerSettings = QueryOptimizerSettings()
    cache_manager: CacheManagerSettings = CacheManagerSettings()
    connection_pools: ConnectionPoolSettings = ConnectionPoolSettings()
    rate_limiter: RateLimiterSettings = RateLimiterSettings()
    batch_processor: BatchProcessorSettings = BatchProcessorSettings()
    load_balancer: LoadBalancerSettings = LoadBalancerSettings()
    outbound: OutboundSettings = OutboundSettings()

    def __getattr__(self, name: str) -> Any:
        """A setting's value by the setting's name."""
        setting = SETTINGS.get(name)
        if setting is None:
            raise AttributeError(f"{name}: no such setting")
        return getattr(getattr(self, setting.section), setting.field)

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
        """Settings from every source, by the precedence of this class's docstring.

        ``only`` names the settings to look at, for a caller that needs those although others may be wrong.

        Raises ConfigError naming the setting, its value, where it came from and what is allowed;
        for unknown keys of ``overrides`` it names the nearest known one.
        """
        problems: list[str] = []
        env = os.environ if environ is None else environ
        return _build(gather(overrides, modules, env, only, problems), problems)


def _build(sources: list[Source], problems: list[str]) -> Phase4Config:
    """``problems``: what is wrong already; all of it and all that is found here is told at once."""
    sections: dict[str, Any] = {}
    for section, values in merge(sources, problems).items():
        settings = SECTIONS[section]()
        try:
            sections[section] = settings.replaced(values, settings.setting_names().__getitem__)
        except ConfigError as error:
            problems += error.problems
    if not problems:
        config = Phase4Config(**sections)
        if not (problem := _explain_pool_is_missing(config)):
            return config
        problems.append(problem)
    raise ConfigError(*problems)


def _explain_pool_is_missing(config: Phase4Config) -> str:
    """What is wrong with the pool that explains queries; empty if nothing is."""
    name, pools = config.query_optimizer.explain_pool, config.connection_pools.pools
    if not name or (name in pools and pools[name].backend in EXPLAINING):
        return ""
    there = ", ".join(pool for pool, settings in pools.items() if settings.backend in EXPLAINING)
    return (
        f"QUERY_OPTIMIZER_EXPLAIN_POOL = {name!r}: expected the name of a sqlite, postgresql or mysql pool "
        f"in DATABASE_POOLS (there: {there or 'none'})"
    )
