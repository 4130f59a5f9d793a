"""All settings, in a section for each service."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bot.core._shared.masking import MAX_TOLD, one_line
from bot.core.phase4_config.catalog import SECTION_OF, SECTIONS, setting_of, settings_class
from bot.core.phase4_config.errors import ConfigError
from bot.core.phase4_config.sources import CONFIG_MODULES, Faults, Names, Source, gather, merge, of_dict

if TYPE_CHECKING:
    from bot.core.phase4_config.batch_processor import BatchProcessorSettings
    from bot.core.phase4_config.cache_manager import CacheManagerSettings
    from bot.core.phase4_config.connection_pools import ConnectionPoolSettings
    from bot.core.phase4_config.dashboard import DashboardSettings
    from bot.core.phase4_config.load_balancer import LoadBalancerSettings
    from bot.core.phase4_config.outbound import OutboundSettings
    from bot.core.phase4_config.query_optimizer import QueryOptimizerSettings
    from bot.core.phase4_config.rate_limiter import RateLimiterSettings
    from bot.core.phase4_config.redis import RedisSettings
    from bot.core.phase4_config.settings import Settings
    from bot.core.phase4_config.switches import Switches

logger = logging.getLogger(__name__)


class Phase4Config:
    """All settings, validated. Times are seconds, percentages 0-100.

    Each service has a section: ``config.cache_manager.default_ttl``. A setting can be read by its own
    name too: ``config.CACHE_DEFAULT_TTL``.

    Precedence, low to high: defaults; the bot's ``config`` module, then its ``config.main_config``;
    ``config_enhancements_phase4``; the file or module that the environment variable ``PHASE4_CONFIG`` names;
    ``from_host``; environment variables of the same name; the dict given to ``initialize_phase4_services``.

    It does not change. A section that nobody set anything of is imported when it is asked for.
    """

    __slots__ = ("_given", "_sections")

    switches: Switches
    query_optimizer: QueryOptimizerSettings
    cache_manager: CacheManagerSettings
    connection_pools: ConnectionPoolSettings
    rate_limiter: RateLimiterSettings
    batch_processor: BatchProcessorSettings
    load_balancer: LoadBalancerSettings
    outbound: OutboundSettings
    redis: RedisSettings
    dashboard: DashboardSettings

    def __init__(self, **sections: Settings | Switches) -> None:
        """``sections`` by their names; the others have their defaults. Raises TypeError for other names."""
        if wrong := sections.keys() - SECTIONS.keys():
            raise TypeError(f"{', '.join(sorted(wrong))}: no such section; there are {', '.join(SECTIONS)}")
        object.__setattr__(self, "_given", frozenset(sections))
        # Those that were given, and those of defaults once they were asked for.
        object.__setattr__(self, "_sections", sections)

    def __getattr__(self, name: str) -> Any:
        """A section, or a setting's value by the setting's name."""
        if name in SECTIONS:
            section = self._sections.get(name)
            if section is None:
                section = self._sections.setdefault(name, settings_class(name)())
            return section
        if name not in SECTION_OF:
            raise AttributeError(f"{name}: no such setting")
        setting = setting_of(name)
        return getattr(getattr(self, setting.section), setting.field)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name}: settings do not change; load them again")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Phase4Config):
            return NotImplemented
        return all(getattr(self, section) == getattr(other, section) for section in SECTIONS)

    __hash__ = None  # type: ignore[assignment]  # dicts are among the values

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, ({name: self._sections[name] for name in self._given},)

    def redis_url(self, setting: str) -> str:
        """The Redis URL of a setting such as ``BATCH_REDIS_URL``, with what holds for all services."""
        url: str = getattr(self, setting)
        if not url:
            return ""
        from bot.core._shared.redis_address import with_options  # here: a bot without Redis needs none of it

        return with_options(url, **self.redis.options())

    def sets(self, section: str) -> bool:
        """Whether somebody set anything of a section."""
        return section in self._given

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, source: str = "config") -> Phase4Config:
        """Defaults overridden by ``values``. Raises ConfigError for what is unknown or out of bounds."""
        return _build([of_dict(values, source, Names.ALL_OURS)], Faults())

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, Any] | None = None,
        *,
        modules: Iterable[str | ModuleType] = CONFIG_MODULES,
        environ: Mapping[str, str] | None = None,
        only: Collection[str] = (),
    ) -> Phase4Config:
        """:meth:`read` for callers that have no report: its warnings are logged, each once."""
        config, warnings = cls.read(overrides, modules=modules, environ=environ, only=only)
        for warning in warnings:
            _say(warning)
        return config

    @classmethod
    def read(
        cls,
        overrides: Mapping[str, Any] | None = None,
        *,
        host: Any = None,
        modules: Iterable[str | ModuleType] = CONFIG_MODULES,
        environ: Mapping[str, str] | None = None,
        only: Collection[str] = (),
    ) -> tuple[Phase4Config, list[str]]:
        """Settings from every source, by the precedence of this class's docstring, and what to warn of.

        ``host`` is a class, a module, an object or a dict in which a bot keeps its settings, ours among
        them. ``only`` names the settings to look at, for a caller that needs those although others may be
        wrong. Warnings tell of names that look like settings and are none, and of those that are no more.

        Raises ConfigError naming the setting, its value, where it came from (of a file, the line) and what is
        allowed; for a key of ``overrides`` that looks like a setting it names the nearest one.
        """
        faults = Faults()
        env = os.environ if environ is None else environ
        config = _build(gather(overrides, host, modules, env, only, faults), faults)
        return config, faults.warnings


def _restored(sections: dict[str, Any]) -> Phase4Config:
    """Of a copy, or of what was pickled."""
    return Phase4Config(**sections)


@functools.lru_cache(1_000)
def _say(warning: str) -> None:
    """Log a warning: once, however often settings are loaded."""
    logger.warning("%s", one_line(warning, MAX_TOLD))


def _build(sources: list[Source], faults: Faults) -> Phase4Config:
    """All that is wrong, in ``faults`` already and found here, is told at once."""
    sections: dict[str, Any] = {}
    merged, problems = merge(sources, faults), faults.problems
    for section, values in merged.items():
        if not values:
            continue
        settings = settings_class(section)()
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
    if not config.sets("query_optimizer") or not (name := config.query_optimizer.explain_pool):
        return ""
    from bot.core.phase4_config.query_optimizer import EXPLAINING

    pools = config.connection_pools.pools
    if name in pools and pools[name].backend in EXPLAINING:
        return ""
    there = ", ".join(pool for pool, settings in pools.items() if settings.backend in EXPLAINING)
    return (
        f"QUERY_OPTIMIZER_EXPLAIN_POOL = {name!r}: expected the name of a sqlite, postgresql or mysql pool "
        f"in DATABASE_POOLS (there: {there or 'none'})"
    )
