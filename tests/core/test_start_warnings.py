"""What the report of the start warns of: what runs, but not as it was set."""

import asyncio
import sys
import types

import pytest

from bot.core._shared.packages import OLDEST, USED_BY, too_old
from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services
from bot.core.phase4_service import Phase4Service
from bot.core.rate_limiter import RateLimiter

ON_REDIS = {
    "CacheManager": ("ENABLE_CACHE_MANAGER", "CACHE_L2_REDIS_URL", "memory alone serves"),
    "RateLimiter": ("ENABLE_RATE_LIMITER", "RATE_LIMIT_REDIS_URL", "limits are per process"),
    "BatchProcessor": ("ENABLE_BATCH_PROCESSOR", "BATCH_REDIS_URL", "no new item is accepted"),
    "Outbound": ("ENABLE_OUTBOUND", "OUTBOUND_REDIS_URL", "Telegram's limits are kept per process"),
}
SERVICES_OFF = {"ENABLE_QUERY_OPTIMIZER": False, "ENABLE_RATE_LIMITER": False, "OUTBOUND_BROADCAST_STORE": ""}


@pytest.fixture(autouse=True)
async def stopped():
    yield
    await shutdown_phase4_services()


async def start(url, services=tuple(ON_REDIS)):
    config = dict(SERVICES_OFF)
    for service in services:
        flag, setting, _ = ON_REDIS[service]
        config |= {flag: True, setting: url}
    report = await initialize_phase4_services(config)
    assert report["success"]
    assert report["services_initialized"] == list(services)
    return report["warnings"]


def url_of(server, login=""):
    return f"redis://{login}127.0.0.1:{server.port}/0"


def administer(server, *command):
    import redis

    with redis.Redis(port=server.port) as client:
        client.execute_command(*command)


@pytest.mark.parametrize(
    ("login", "said"),
    [
        (":hunter2@", "refuses the user or the password (WRONGPASS)"),
        ("nobody:hunter2@", "refuses the user or the password (WRONGPASS)"),
        ("", "wants a password (NOAUTH)"),
    ],
)
async def test_a_redis_that_lets_nobody_in_is_told_by_each_service_without_the_password(
    redis_server, login, said
):
    administer(redis_server, "CONFIG", "SET", "requirepass", "right")
    warnings = await start(url_of(redis_server, login))
    for service, warning in zip(ON_REDIS, warnings, strict=True):
        assert warning.startswith(f"{service}: Redis at redis://")
        assert f"{said}: {ON_REDIS[service][2]}" in warning
        assert "hunter2" not in warning
    await shutdown_phase4_services()
    assert await start(url_of(redis_server, ":right@")) == []


async def test_a_redis_that_is_not_there_is_told_by_each_service():
    warnings = await start("redis://127.0.0.1:1/0")
    for service, warning in zip(ON_REDIS, warnings, strict=True):
        assert warning.startswith(f"{service}: Redis at redis://127.0.0.1:1/0 is away (")
        assert warning.endswith(ON_REDIS[service][2])


async def test_the_limiter_is_asked_also_where_nothing_else_uses_that_redis():
    (warning,) = await start("redis://127.0.0.1:1/0", ["RateLimiter"])
    assert "limits are per process" in warning


async def test_what_a_user_may_not_do_is_told(redis_server):
    rights = ["reset", "on", ">pw", "~*", "&*", "+@all", "-xgroup"]
    administer(redis_server, "ACL", "SETUSER", "u", *rights)
    (warning,) = await start(url_of(redis_server, "u:pw@"), ["BatchProcessor"])
    assert warning.startswith("BatchProcessor: Redis refuses the queue: RedisRefusedError: NOPERM")


async def test_with_everything_in_order_there_is_no_warning(redis_server):
    assert await start(url_of(redis_server)) == []


async def test_a_pool_whose_server_is_not_there_is_told():
    pools = {"main": {"backend": "redis", "url": "redis://:hunter2@127.0.0.1:1/0"}}
    report = await initialize_phase4_services(
        {**SERVICES_OFF, "ENABLE_CONNECTION_POOLING": True, "DATABASE_POOLS": pools}
    )
    assert report["success"]
    (warning,) = report["warnings"]
    assert warning.startswith("ConnectionPoolManager: pool 'main': ")
    assert "hunter2" not in warning


async def test_a_service_that_cannot_be_checked_does_not_stop_the_start(monkeypatch):
    async def fail(self):
        raise RuntimeError("token=hunter2")

    monkeypatch.setattr(RateLimiter, "find_warnings", fail)
    report = await initialize_phase4_services({**SERVICES_OFF, "ENABLE_RATE_LIMITER": True})
    assert report["services_initialized"] == ["RateLimiter"]
    (warning,) = report["warnings"]
    assert warning.startswith("RateLimiter: cannot be checked: RuntimeError")
    assert "hunter2" not in warning


async def test_a_start_that_is_cancelled_while_it_checks_stops_what_it_started(monkeypatch):
    begun = asyncio.Event()

    async def hang(self):
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(RateLimiter, "find_warnings", hang)
    start = asyncio.create_task(initialize_phase4_services({**SERVICES_OFF, "ENABLE_RATE_LIMITER": True}))
    await begun.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not RateLimiter.get_instance().enabled


async def test_an_old_package_of_a_running_service_is_told(monkeypatch):
    old = types.ModuleType("redis")
    old.__version__ = "5.0.8"
    monkeypatch.setitem(sys.modules, "redis", old)
    report = await initialize_phase4_services({**SERVICES_OFF, "ENABLE_RATE_LIMITER": True})
    assert report["warnings"] == [
        f"packages: redis 5.0.8 is older than {OLDEST['redis']}, the oldest tested: "
        f"pip install 'redis>={OLDEST['redis']}'"
    ]
    report = await initialize_phase4_services({**SERVICES_OFF, "ENABLE_QUERY_OPTIMIZER": True})
    assert report["warnings"] == [], "the optimizer uses no Redis"


@pytest.mark.parametrize("version", ["6.0", "6.0.0rc1", "6", "10.1", "unknown", "", None, (5, 0)])
def test_a_version_that_is_new_enough_or_cannot_be_read_is_no_warning(version):
    module = types.ModuleType("redis")
    module.__version__ = version
    assert too_old(["rate_limiter"], {"redis": module}) == []


def test_each_package_tells_its_version_where_it_is_looked_for():
    for package in set(USED_BY) - {"asyncmy"}:  # which tells none
        name = {"graphql-core": "graphql"}.get(package, package)
        module = pytest.importorskip(name)
        copy = types.ModuleType(name)
        copy.__version__ = "0.0.1"
        assert isinstance(getattr(module, "__version__", None) or module.version, str)
        assert len(too_old(USED_BY[package], {name: copy})) == 1


async def test_by_default_a_check_is_what_is_known_already():
    class Service(Phase4Service):
        service_name = "test"

        async def enable(self):
            return True

        async def disable(self):
            return True

        def snapshot(self):
            return {}

        async def reset_statistics(self):
            pass

        def warnings(self):
            return ["so it is"]

    assert await Service().find_warnings() == ["so it is"]
