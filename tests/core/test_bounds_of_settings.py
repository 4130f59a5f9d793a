"""What ``enable`` accepts is what the setting accepts: at each bound, and one step beyond it."""

import inspect
import math
from typing import Annotated, Literal, get_args, get_origin

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.batch_processor import BatchProcessor
from bot.core.cache_manager import CacheManager
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.load_balancer import LoadBalancer
from bot.core.outbound import Outbound
from bot.core.phase4_config import ConfigError, Phase4Config
from bot.core.phase4_config.catalog import SETTING_NAMES, setting_of
from bot.core.query_optimizer import QueryOptimizer
from bot.core.rate_limiter import RateLimiter

SETTINGS = {name: setting_of(name) for name in SETTING_NAMES}

SERVICES = {
    "batch_processor": BatchProcessor,
    "cache_manager": CacheManager,
    "connection_pools": ConnectionPoolManager,
    "query_optimizer": QueryOptimizer,
    "rate_limiter": RateLimiter,
    "load_balancer": LoadBalancer,
    "outbound": Outbound,
}

GIVEN_WITH = {
    "backoff_base": {"backoff_max": 31_536_000},
    "backoff_max": {"backoff_base": 1e-6},
    "ejection_time": {"ejection_max_time": 31_536_000},
    "ejection_max_time": {"ejection_time": 5e-324},
    "min_size": {"max_size": 10_000},
    "max_size": {"min_size": 0},
}
"""Arguments that bound each other."""


OF_OTHER_TYPES = {"OUTBOUND_BOT_ID"}
"""Settings whose argument takes more: an id may be a number."""


def metas_of(hint):
    while get_origin(hint) is Annotated:
        hint, *metas = get_args(hint)
        yield from metas


def base_of(hint):
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return get_origin(hint) or hint


def next_to(bound, towards, base):
    return bound + (1 if towards > bound else -1) if base is int else math.nextafter(bound, towards)


def accepted_and_refused(hint):
    """Values at the bounds, and those next to them that are out of bounds or of another type."""
    base = base_of(hint)
    good, bad = [], []
    for meta in metas_of(hint):
        if meta.ge is not None:
            good.append(meta.ge)
            bad.append(next_to(meta.ge, -math.inf, base))
        if meta.gt is not None:
            good.append(next_to(meta.gt, math.inf, base))
            bad.append(meta.gt)
        if meta.le is not None:
            good.append(meta.le)
            bad.append(next_to(meta.le, math.inf, base))
    if base in (int, float):
        bad += [math.nan, math.inf, -1, True, "1", 10**400]
    if base is bool:
        good, bad = [True, False], [0, 1, "yes"]
    if base is Literal:
        bare = hint
        while get_origin(bare) is Annotated:
            bare = get_args(bare)[0]
        good, bad = list(get_args(bare)), ["other", 5]
    if base is str:
        bad = [5, b"text", ["text"]]
    return good, bad


def cases():
    for name, setting in SETTINGS.items():
        service = SERVICES.get(setting.section)
        if service is None or name in OF_OTHER_TYPES:
            continue
        arguments = set(inspect.signature(service.enable).parameters)
        takes_figures = inspect.signature(service.enable).parameters.get("figures")
        if setting.field in arguments or (takes_figures and setting.field not in ("strategy", "instances")):
            good, bad = accepted_and_refused(setting.hint)
            if good or bad:
                yield setting, good, bad


CASES = list(cases())


def name_of(case):
    setting = case[0]
    return next(name for name, other in SETTINGS.items() if other is setting)


@pytest.mark.parametrize("case", CASES, ids=name_of)
async def test_an_argument_and_its_setting_have_the_same_bounds(case):
    setting, good, bad = case
    service = SERVICES[setting.section]()
    companions = GIVEN_WITH.get(setting.field, {})
    by_field = {other.field: name for name, other in SETTINGS.items() if other.section == setting.section}
    given_with = {by_field[field]: value for field, value in companions.items()}
    try:
        for value in good:
            config = Phase4Config.from_mapping({name_of(case): value, **given_with})
            assert getattr(config, name_of(case)) == value
            assert await service.enable(**{setting.field: value, **companions})
        for value in bad:
            with pytest.raises(ConfigError, match=name_of(case)):
                Phase4Config.from_mapping({name_of(case): value, **given_with})
            with pytest.raises(InvalidArgumentError, match=rf"^{setting.field} = ") as caught:
                await service.enable(**{setting.field: value, **companions})
            assert name_of(case) not in str(caught.value)
    finally:
        await service.disable()


def test_every_service_has_arguments_that_were_compared():
    assert {setting.section for setting, _, _ in CASES} == set(SERVICES)
