"""Every Phase 4 setting once: its type, default, bounds and meaning; and where values come from.

A module for each service declares its settings. They are msgspec Structs: their import takes 10 ms where
that of pydantic-settings takes 95, which is more than the start-up of the library is allowed to take.
"""

from bot.core.phase4_config.batch_processor import BatchProcessorSettings
from bot.core.phase4_config.cache_manager import CacheManagerSettings
from bot.core.phase4_config.catalog import ALIASES, FALLBACKS, SETTING_NAMES, describe, describe_allowed
from bot.core.phase4_config.connection_pools import ConnectionPoolSettings, PoolSettings
from bot.core.phase4_config.load_balancer import InstanceSettings, LoadBalancerSettings
from bot.core.phase4_config.model import Phase4Config
from bot.core.phase4_config.outbound import OutboundSettings
from bot.core.phase4_config.query_optimizer import EXPLAINING, QueryOptimizerSettings
from bot.core.phase4_config.rate_limiter import RateLimiterSettings, TierBackoff, TierLimit
from bot.core.phase4_config.settings import ConfigError, Settings, converted
from bot.core.phase4_config.sources import CONFIG_MODULES

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
