"""Every Phase 4 setting once: its type, default, bounds and meaning; and where values come from.

A module for each service declares its settings. They are msgspec Structs: their import takes 10 ms where
that of pydantic-settings takes 95, which is more than the start-up of the library is allowed to take. A
module that declares settings is imported when they are set or asked for, and so is msgspec.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bot.core.phase4_config.catalog import ALIASES, FALLBACKS, SETTING_NAMES, describe, describe_allowed
from bot.core.phase4_config.errors import ConfigError
from bot.core.phase4_config.model import Phase4Config
from bot.core.phase4_config.sources import CONFIG_MODULES

if TYPE_CHECKING:
    from bot.core.phase4_config.batch_processor import BatchProcessorSettings
    from bot.core.phase4_config.cache_manager import CacheManagerSettings
    from bot.core.phase4_config.connection_pools import ConnectionPoolSettings, PoolSettings
    from bot.core.phase4_config.load_balancer import InstanceSettings, LoadBalancerSettings
    from bot.core.phase4_config.outbound import OutboundSettings
    from bot.core.phase4_config.query_optimizer import EXPLAINING, QueryOptimizerSettings
    from bot.core.phase4_config.rate_limiter import RateLimiterSettings, TierBackoff, TierLimit
    from bot.core.phase4_config.settings import Settings, converted

__all__ = [
    "ALIASES",
    "CONFIG_MODULES",
    "EXPLAINING",
    "FALLBACKS",
    "SETTING_NAMES",
    "BatchProcessorSettings",
    "CacheManagerSettings",
    "ConfigError",
    "ConnectionPoolSettings",
    "InstanceSettings",
    "LoadBalancerSettings",
    "OutboundSettings",
    "Phase4Config",
    "PoolSettings",
    "QueryOptimizerSettings",
    "RateLimiterSettings",
    "Settings",
    "TierBackoff",
    "TierLimit",
    "converted",
    "describe",
    "describe_allowed",
]

_MODULES = {
    "BatchProcessorSettings": "batch_processor",
    "CacheManagerSettings": "cache_manager",
    "ConnectionPoolSettings": "connection_pools",
    "EXPLAINING": "query_optimizer",
    "InstanceSettings": "load_balancer",
    "LoadBalancerSettings": "load_balancer",
    "OutboundSettings": "outbound",
    "PoolSettings": "connection_pools",
    "QueryOptimizerSettings": "query_optimizer",
    "RateLimiterSettings": "rate_limiter",
    "Settings": "settings",
    "TierBackoff": "rate_limiter",
    "TierLimit": "rate_limiter",
    "converted": "settings",
}
"""What is imported when it is asked for, with its module."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
