"""Every Phase 4 setting once: its type, default, bounds and meaning; and where values come from."""

from bot.core.phase4_config.model import (
    ALIASES,
    CONFIG_MODULES,
    EXPLAINING,
    FALLBACKS,
    SETTING_NAMES,
    ConfigError,
    InstanceSettings,
    Phase4Config,
    PoolSettings,
    TierBackoff,
    TierLimit,
    describe,
    describe_allowed,
)

__all__ = [
    "ALIASES",
    "CONFIG_MODULES",
    "EXPLAINING",
    "FALLBACKS",
    "SETTING_NAMES",
    "ConfigError",
    "InstanceSettings",
    "Phase4Config",
    "PoolSettings",
    "TierBackoff",
    "TierLimit",
    "describe",
    "describe_allowed",
]
