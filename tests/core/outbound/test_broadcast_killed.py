"""Broadcasts whose process, or whose Redis, is killed: nobody is missed, next to nobody is written to twice.

The log that is counted is written by the send itself, as Telegram would know of it. Small by default:

    PHASE4_TEST_BROADCAST_KILLS=5 pytest tests/core/outbound/test_broadcast_killed.py -s

kills five times among 20,000 recipients.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.servers import RedisServer, running

pytestmark = pytest.mark.server

KILLS = int(os.environ.get("PHASE4_TEST_BROADCAST_KILLS") or 2)
RECIPIENTS = 4_000 * KILLS if KILLS > 2 else 1_500
FEWER = RECIPIENTS // 3 if KILLS > 2 else 1_000
SECONDS = 0.005 if KILLS > 2 else 0.08
"""That a send takes; with few recipients longer, so that a kill comes before the end."""
CONCURRENCY = 50


class Log:
    """What the sends of all processes wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begun(self) -> list[int]:
        if not self.path.exists():
            return []
        return [int(line[2:]) for line in self.path.read_text().splitlines() if line.startswith("b ")]

    async def until(self, number: int, process: asyncio.subprocess.Process) -> None:
        while len(self.begun()) < number and process.returncode is None:
            await asyncio.sleep(0.02)
        if process.returncode is not None:
            pytest.fail(f"it ended by itself: {await report_of(process)}")


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "log")


@pytest.fixture
async def start(log):
    """Start a process that broadcasts."""
    processes = []

    async def start(store, number=RECIPIENTS, **options):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.broadcast_worker", str(store), str(log.path), "news",
            str(number), *(f"{key}={value}" for key, value in options.items()),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def report_of(process):
    out, _ = await process.communicate()
    return json.loads(out)


@pytest.fixture
def durable_redis():
    with running(RedisServer(extra=("--appendonly", "yes", "--appendfsync", "always"))) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def store(request, tmp_path):
    if request.param == "sqlite":
        return tmp_path / "broadcasts.sqlite3"
    return request.getfixturevalue("durable_redis").url


def check_all_once_but(begun, at_most_twice, number=RECIPIENTS):
    counts = Counter(begun)
    assert set(counts) == set(range(1, number + 1)), "none missed, and nobody else"
    again = len(begun) - number
    print(f"{number} recipients, {again} sent again")
    assert again <= at_most_twice


async def test_kill_9_at_random_moments_misses_nobody(start, store, log):
    chance = random.Random()
    for kill in range(KILLS):
        process = await start(store, concurrency=CONCURRENCY, seconds=SECONDS)
        await log.until(int((kill + 0.5 * chance.random()) * RECIPIENTS / KILLS), process)
        await asyncio.sleep(chance.uniform(0, 0.05))
        process.kill()
        await process.wait()
    report = await report_of(await start(store, concurrency=CONCURRENCY, seconds=SECONDS))
    check_all_once_but(log.begun(), KILLS * CONCURRENCY)
    blocked = [chat for chat in range(1, RECIPIENTS + 1) if chat % 100 == 0]
    assert report["done"] == RECIPIENTS
    assert report["blocked"] == len(blocked)
    assert report["unreachable"] == sorted(map(str, blocked))
    assert await report_of(await start(store)) == report, "finished: its report at once"
    check_all_once_but(log.begun(), KILLS * CONCURRENCY)


async def test_redis_killed_and_back_in_the_middle_stops_the_broadcast_no_longer_than_that(
    start, durable_redis, log
):
    process = await start(durable_redis.url, FEWER, concurrency=CONCURRENCY, seconds=SECONDS)
    for share in (0.2, 0.5):
        await log.until(int(share * FEWER), process)
        durable_redis.kill()
        before = -1
        while before != len(log.begun()):  # nobody is written to whose outcome could not be recorded
            before = len(log.begun())
            await asyncio.sleep(0.3)
        assert share * FEWER <= before < FEWER
        durable_redis.start()
    report = await report_of(process)
    assert report["done"] == FEWER
    check_all_once_but(log.begun(), 0, FEWER)


async def test_redis_and_the_process_killed_together(start, durable_redis, log):
    process = await start(durable_redis.url, FEWER, concurrency=CONCURRENCY, seconds=SECONDS)
    await log.until(FEWER // 3, process)
    durable_redis.kill()
    process.kill()
    await process.wait()
    durable_redis.start()
    report = await report_of(await start(durable_redis.url, FEWER, concurrency=CONCURRENCY, seconds=SECONDS))
    assert report["done"] == FEWER
    check_all_once_but(log.begun(), CONCURRENCY, FEWER)


async def test_two_processes_at_once_are_told(start, store, log):
    first = await start(store, 100_000, seconds=0.05, concurrency=20)  # longer than the test
    await log.until(1, first)
    second = await start(store, 100_000)
    assert await report_of(second) == {"error": "BroadcastRunningError"}
    before = len(log.begun())
    await log.until(before + 100, first)
    begun = log.begun()
    assert len(begun) >= before + 100, "the first goes on"
    assert len(set(begun)) == len(begun)


def is_locked(store):
    if isinstance(store, str):
        return False
    with contextlib.closing(sqlite3.connect(store, timeout=0.2, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


async def test_a_process_that_stood_still_finds_that_another_went_on(start, store, log):
    first = await start(store, FEWER, concurrency=CONCURRENCY, seconds=SECONDS)
    await log.until(FEWER // 3, first)
    first.send_signal(signal.SIGSTOP)
    while is_locked(store):  # stopped within a transaction, it would keep everybody from the file
        first.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.003)
        first.send_signal(signal.SIGSTOP)
    report = await report_of(await start(store, FEWER, concurrency=CONCURRENCY, seconds=SECONDS))
    assert report["done"] == FEWER
    first.send_signal(signal.SIGCONT)
    assert await report_of(first) == {"error": "BroadcastLostError"}
    # In flight when it was stopped, and what its workers held in their hands when it went on.
    check_all_once_but(log.begun(), 2 * CONCURRENCY, FEWER)
