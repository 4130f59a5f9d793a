"""100,000 durable items through three worker processes, one of them killed every few seconds.

Each worker counts what it handled in a hash, as a database would have it; at the end every item must be
there, and those there more than once must be among those that were told as delivered again. Redis
writes every change to its log, once a second to the disk.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from typing import Any

from benchmarks.harness import main, verdict
from bot.core.batch_processor import BatchProcessor
from tests.support.servers import RedisServer, running

ITEMS = 100_000
WORKERS = 3
KILL_EVERY = 3.0
LEASE = 2.0
DEADLINE = 180.0
QUEUE = "bench"


class Workers:
    """Three processes that handle the queue."""

    def __init__(self, url: str, seconds: float) -> None:
        self.command = [
            sys.executable, "-m", "tests.support.batch_worker", url, QUEUE, str(LEASE), "100", str(seconds)
        ]  # fmt: skip
        self.alive = [self._start() for _ in range(WORKERS)]
        self.killed = 0

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, stdout=subprocess.DEVNULL)

    def kill_one(self) -> None:
        """SIGKILL to one of them; another takes its place."""
        chosen = random.randrange(WORKERS)
        self.alive[chosen].kill()
        self.alive[chosen].wait()
        self.alive[chosen] = self._start()
        self.killed += 1

    def stop(self) -> None:
        for worker in self.alive:
            worker.terminate()
        for worker in self.alive:
            worker.wait(30)


async def through(server: RedisServer, *, kill_every: float | None, seconds: float) -> None:
    import redis.asyncio as redis

    database: Any = redis.Redis.from_url(server.url)
    await database.flushall()  # this program's own server
    submitter = BatchProcessor()
    await submitter.enable(redis_url=server.url, queue_name=QUEUE, max_pending=1_000_000, lease=LEASE)
    await submitter.flush()
    workers = Workers(server.url, seconds)
    accepted: list[str] = []
    try:
        start = time.perf_counter()
        next_kill = start + (kill_every or DEADLINE * 2)
        submitted_in = 0.0
        numbers = iter(range(0, ITEMS, 500))
        while time.perf_counter() < start + DEADLINE:
            first = next(numbers, None)
            if first is not None:
                answers = await submitter.submit_many(range(first, first + 500))
                accepted += [answer.item_id for answer in answers if answer.success]
                submitted_in = time.perf_counter() - start
            else:
                if not await database.xlen(f"phase4:{{batch:{QUEUE}}}:items"):
                    break
                await asyncio.sleep(0.05)
            if time.perf_counter() > next_kill:
                await asyncio.to_thread(workers.kill_one)
                next_kill += kill_every or DEADLINE * 2
        took = time.perf_counter() - start
    finally:
        await asyncio.to_thread(workers.stop)
        await submitter.disable()
    handled = {
        key.decode(): int(value) for key, value in (await database.hgetall(f"handled:{QUEUE}")).items()
    }
    told = {key.decode() for key in await database.hkeys(f"redelivered:{QUEUE}")}
    states: Counter[str] = Counter()
    for begin in range(0, len(accepted), 5_000):
        for value in await submitter_outcomes(database, accepted[begin : begin + 5_000]):
            states[value] += 1
    await database.aclose()
    missing = set(accepted) - handled.keys()
    again = {item_id for item_id, count in handled.items() if count > 1}
    title = "nobody killed" if kill_every is None else f"one worker killed every {kill_every:g} s"
    print(f"### {len(accepted):,} items, batches of 100, handler {seconds * 1000:g} ms, {title}\n")
    print(f"accepted {len(accepted):,} in {submitted_in:.1f} s ({len(accepted) / submitted_in:,.0f}/s)")
    print(f"ended after {took:.1f} s: {len(accepted) / took:,.0f} items/s; workers killed: {workers.killed}")
    print(
        f"handled {len(handled):,} different items, {sum(handled.values()):,} times; missing: {len(missing)}"
    )
    print(f"handled more than once: {len(again):,}; of them not told as delivered again: {len(again - told)}")
    print(f"outcomes: {dict(states)}\n")
    print(verdict("items missing", len(missing) + ITEMS - len(accepted), 0))
    print(verdict("duplicates without a sign of it", len(again - told), 0))
    print(verdict("outcomes that are not done", ITEMS - states["done"], 0), "\n")


async def submitter_outcomes(database: Any, item_ids: list[str]) -> list[str]:
    """The state that each item's key tells."""
    from bot.core.batch_processor.durable.values import outcome_of

    values = await database.mget([f"phase4:{{batch:{QUEUE}}}:item:{item_id}" for item_id in item_ids])
    return [
        "gone" if value is None else "pending" if value == b"P" else outcome_of(value).state
        for value in values
    ]


async def bench() -> None:
    with running(RedisServer(extra=("--appendonly", "yes"))) as server:
        assert isinstance(server, RedisServer)
        await through(server, kill_every=None, seconds=0.0)
        await through(server, kill_every=KILL_EVERY, seconds=0.05)


if __name__ == "__main__":
    main(bench)
