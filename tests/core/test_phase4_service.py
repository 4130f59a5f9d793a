"""What the services have in common: use while off, and attributes that are misspelt."""

import dis
import functools

import pytest

from bot.core.batch_processor import BatchClosedError, BatchProcessor
from bot.core.cache_manager import CacheManager, cached
from bot.core.connection_pool_manager import ConnectionPoolManager, UnknownPoolError
from bot.core.load_balancer import LoadBalancer
from bot.core.outbound import Outbound, Request
from bot.core.phase4_config import SETTING_NAMES
from bot.core.phase4_service import Phase4Service
from bot.core.query_optimizer import QueryOptimizer, optimize_query
from bot.core.rate_limiter import RateLimiter, rate_limited

SERVICES = [
    BatchProcessor, CacheManager, ConnectionPoolManager, LoadBalancer, Outbound, QueryOptimizer, RateLimiter,
]  # fmt: skip


async def answer(*args):
    return "answer"


@cached("key")
async def cached_function():
    return "answer"


@rate_limited(1, 1)
async def limited():
    return "answer"


@rate_limited(1, 1)
def limited_sync():
    return "answer"


@optimize_query
async def query_function(query):
    return "answer"


async def awaited(function, *args):
    result = function(*args)
    return await result if hasattr(result, "__await__") else result


def method(service, name, *args):
    def use():
        return getattr(service.get_instance(), name)(*args)

    return pytest.param(service, use, id=f"{service.__name__}-{name}")


USES = [
    method(CacheManager, "get", "k"),
    method(CacheManager, "get", "k", "namespace"),
    method(CacheManager, "set", "k", 1),
    method(CacheManager, "set_many", {"k": 1}),
    method(CacheManager, "delete", "k"),
    method(CacheManager, "clear"),
    method(CacheManager, "invalidate_tag", "t"),
    method(CacheManager, "invalidate_pattern", "k*"),
    method(CacheManager, "get_or_load", "k", answer),
    method(CacheManager, "warm_cache", "k", answer),
    pytest.param(CacheManager, cached_function, id="cached"),
    method(RateLimiter, "is_allowed", 1),
    method(RateLimiter, "is_allowed", 1, None, 2),
    method(RateLimiter, "check", 1),
    method(RateLimiter, "check_tier", 1, "vip"),
    method(RateLimiter, "acquire", 1),
    method(RateLimiter, "allow_batch", 1, 5),
    pytest.param(RateLimiter, limited, id="rate_limited"),
    pytest.param(RateLimiter, limited_sync, id="rate_limited-sync"),
    method(QueryOptimizer, "execute", "SELECT 1", None, answer),
    method(QueryOptimizer, "analyze_query", "SELECT 1"),
    method(QueryOptimizer, "get_cached_result", "SELECT 1"),
    method(QueryOptimizer, "cache_query_result", "SELECT 1", 1),
    method(QueryOptimizer, "record_execution", "SELECT 1", 1.0),
    pytest.param(QueryOptimizer, functools.partial(query_function, "SELECT 1"), id="optimize_query"),
    method(BatchProcessor, "submit_item", 1),
    method(BatchProcessor, "submit_many", [1, 2]),
    method(LoadBalancer, "route_request", {}),
    method(Outbound, "call", answer, Request("sendMessage", 1)),
]


@pytest.mark.parametrize(("service", "use"), USES)
async def test_the_first_use_while_off_is_said_with_the_flag_to_set(service, use, caplog):
    for _ in range(3):
        await awaited(use)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    said = record.getMessage()
    assert said.startswith(f"{service.__name__} is used while it is off: {service.while_off}. ")
    assert f"Set {service.flag} = True before initialize_phase4_services" in said


async def test_what_raises_while_off_says_so_too(caplog):
    processor = BatchProcessor()
    with pytest.raises(BatchClosedError, match="off"):
        processor.submit(1)
    with pytest.raises(BatchClosedError, match="off"):
        await processor.submit_and_wait(1)
    assert len(caplog.records) == 1
    with pytest.raises(UnknownPoolError, match="connection pooling is off: set ENABLE_CONNECTION_POOLING"):
        await ConnectionPoolManager().acquire_connection("main")


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_was_on_says_nothing_when_it_is_off_again(service, caplog):
    instance = service()
    await instance.enable()
    await instance.disable()
    caplog.clear()
    instance._used_while_off()
    if service is RateLimiter:
        assert (await instance.is_allowed(1))[0]
    assert not caplog.records


@pytest.mark.parametrize("service", SERVICES)
def test_its_flag_is_a_setting(service):
    assert service.flag in SETTING_NAMES
    assert service.while_off != Phase4Service.while_off


@pytest.mark.parametrize(
    ("service", "name", "near"),
    [
        (LoadBalancer, "request_handlr", "request_handler"),
        (BatchProcessor, "proces_handler", "process_handler"),
        (BatchProcessor, "handler", "process_handler"),
        (RateLimiter, "enabeld", "enabled"),
        (CacheManager, "default_ttl", None),
    ],
)
def test_a_misspelt_attribute_is_refused_with_the_one_that_was_meant(service, name, near):
    said = f"did you mean '{near}'" if near else "set"
    with pytest.raises(AttributeError, match=f"{service.__name__} has no attribute '{name}'.*{said}"):
        setattr(service(), name, answer)


def test_attributes_that_there_are_can_be_set_and_replaced_in_tests(monkeypatch):
    balancer = LoadBalancer()
    balancer.request_handler = answer
    assert balancer.request_handler is answer
    monkeypatch.setattr(balancer, "route_request", answer)
    assert balancer.route_request is answer
    monkeypatch.undo()
    assert balancer.route_request is not answer


@pytest.mark.parametrize("module", ["mybot.limits", "bot.core.limits"])
def test_a_subclass_of_the_users_may_have_any_attribute(module):
    class Mine(RateLimiter):
        __module__ = module

        def __init__(self):
            super().__init__()
            self.my_bot = "bot"

    mine = Mine()
    mine.anything = 1
    assert (mine.my_bot, mine.anything) == ("bot", 1)


def _attributes_set(function):
    """Names of attributes that a function sets; what it calls is not looked at."""
    return {each.argval for each in dis.get_instructions(function) if each.opname == "STORE_ATTR"}


@pytest.mark.parametrize(
    ("service", "names"),
    [
        (CacheManager, ["get", "get_local", "set", "get_or_load"]),
        (RateLimiter, ["is_allowed", "check"]),
        (QueryOptimizer, ["get_cached_result", "execute"]),
        (ConnectionPoolManager, ["acquire_connection", "release_connection"]),
        (BatchProcessor, ["submit", "submit_item"]),
        (LoadBalancer, ["route_request", "select_nowait"]),
        (Outbound, ["call"]),
    ],
)
def test_hot_paths_set_no_attribute_of_a_service(service, names):
    """They would go through ``__setattr__``, which is Python."""
    instance = service()
    for name in names:
        stored = _attributes_set(getattr(service, name))
        assert not stored & set(vars(instance)), f"{service.__name__}.{name}"
