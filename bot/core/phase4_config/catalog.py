"""Every setting by its name: whose it is, what it accepts, what it means.

A section is imported when one of its settings is asked for: a start imports those that it uses.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from bot.core.phase4_config import messages
from bot.core.phase4_config.names import NAMES

if TYPE_CHECKING:
    from bot.core.phase4_config.settings import Settings
    from bot.core.phase4_config.switches import Switches

ALIASES = {
    "BATCH_TIMEOUT_SECONDS": "BATCH_TIMEOUT",
    "LOAD_BALANCING_STRATEGY": "LOAD_BALANCER_STRATEGY",
}
"""Other accepted names of settings. In one source, the setting's own name wins over its alias."""

FALLBACKS = {"CACHE_L2_REDIS_URL": "REDIS_URL"}
"""Settings that, when nobody sets them, take the value of another name."""

SECTIONS = {
    "switches": "Switches",
    "query_optimizer": "QueryOptimizerSettings",
    "cache_manager": "CacheManagerSettings",
    "connection_pools": "ConnectionPoolSettings",
    "rate_limiter": "RateLimiterSettings",
    "batch_processor": "BatchProcessorSettings",
    "load_balancer": "LoadBalancerSettings",
    "outbound": "OutboundSettings",
    "redis": "RedisSettings",
    "dashboard": "DashboardSettings",
}
"""The sections of ``Phase4Config``, each the name of its module, with its class."""


@functools.cache
def settings_class(section: str) -> type[Settings] | type[Switches]:
    """The class of a section, imported."""
    module = importlib.import_module(f"bot.core.phase4_config.{section}")
    found: type[Settings] | type[Switches] = getattr(module, SECTIONS[section])
    return found


class Setting(NamedTuple):
    """Where a setting's value is, and its type with bounds and meaning."""

    section: str
    field: str
    hint: Any


SECTION_OF = {name: section for section, names in NAMES.items() for name in names}
SETTING_NAMES = tuple(SECTION_OF)


@functools.cache
def setting_of(name: str) -> Setting:
    """The setting of this name, which is one of SETTING_NAMES."""
    section = SECTION_OF[name]
    settings = settings_class(section)
    field = next(field for field, each in settings.setting_names().items() if each == name)
    return Setting(section, field, settings.hint(field))


READABLE = {*SETTING_NAMES, *ALIASES, *FALLBACKS.values()}
"""Names that sources are asked for."""


def describe_allowed(name: str) -> str:
    """What a setting accepts, in words, for error messages and the configuration reference."""
    return messages.allowed(setting_of(name).hint)


def describe(name: str) -> str:
    """The meaning of a setting in one line."""
    return messages.meaning(setting_of(name).hint)


RETIRED = {
    "RATE_LIMIT_STRATEGY": "every rate is a token bucket",
    "ENABLE_BATCH_DOWNLOADS": "the handler of the batch processor says what is done with items",
    "ENABLE_BATCH_UPLOADS": "the handler of the batch processor says what is done with items",
    "ENABLE_BATCH_DELETIONS": "the handler of the batch processor says what is done with items",
}
"""Names of the design that this library comes from which set nothing here, and why."""

ALIKE = 0.88
"""How like a setting a name must be to be taken for a slip. Two wrong letters of twenty make a tenth; a
host's own ENABLE_RATE_LIMITING is like ENABLE_RATE_LIMITER by 0.87."""


def nearest(name: str, alike: float = ALIKE) -> str:
    """The setting whose name is most like ``name``; empty if none is so much alike."""
    import difflib  # here, not above: only a wrong name needs it

    near = difflib.get_close_matches(str(name).upper(), READABLE, n=1, cutoff=alike)
    return near[0] if near else ""


def unknown(name: str, source: str) -> str:
    """That there is no such setting, with the nearest one."""
    near = nearest(name, 0.5)
    return f"{name} (from {source}): no such setting" + (f"; did you mean {near}?" if near else "")


def ignored(name: str, source: str) -> str:
    """What to warn of about a name that is no setting; empty if it is somebody else's."""
    if name in RETIRED:
        return f"{name} (from {source}) is ignored: {RETIRED[name]}"
    near = nearest(name)
    return f"{name} (from {source}) looks like {near}, and is ignored" if near else ""
