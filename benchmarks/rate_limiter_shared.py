"""The rate limiter, shared through Redis: a check's price beside a plain script call and beside peers,
a refusal that is remembered, and how exactly four processes keep to one limit.

The floor is ``EVALSHA`` of the limiter's own script by redis-py: what a check costs who calls it plainly.
The server is a Valkey of the benchmark's own on the loopback, unless PHASE4_BENCH_REDIS_URL names one.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.harness import Contender, Result, compare, main, redis_server, table, verdict
from bot.core.rate_limiter import RateLimitConfig, RateLimiter, RateLimitExceeded
from bot.core.rate_limiter.mirror import Mirror, client_key
from bot.core.rate_limiter.penalty import Penalties
from bot.core.rate_limiter.shared import script_source

GENEROUS = RateLimitConfig(1_000_000.0, 1_000_000_000)
STINGY = RateLimitConfig(0.001, 1)
TASKS = 100
PROCESSES, SECONDS, RATE = 4, 10.0, 50.0

OURS = "is_allowed"
PLAIN = "plain EVALSHA of the same script (redis-py)"

Check = Callable[[str], Awaitable[Any]]


async def contenders(url: str, limiter: RateLimiter) -> dict[str, Check]:
    """For each an async function of a client's name that makes one check; peers too go by redis-py."""
    import redis.asyncio as redis
    from limits import RateLimitItemPerSecond
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import FixedWindowRateLimiter
    from throttled.asyncio import RedisStore, Throttled, per_sec

    from bot.core._shared.clock import SYSTEM_CLOCK

    client = redis.Redis.from_url(url, protocol=3, max_connections=2 * TASKS)
    digest = await client.script_load(script_source())
    argument = Mirror(GENEROUS, Penalties(2.0, 3600.0), SYSTEM_CLOCK, "default", "").take_argument(1)
    storage = RedisStorage(f"async+{url}", implementation="redispy", max_connections=2 * TASKS)
    fixed = FixedWindowRateLimiter(storage)
    item = RateLimitItemPerSecond(1_000_000, 1)
    throttled = Throttled(
        using="token_bucket", quota=per_sec(1_000_000, burst=1_000_000), store=RedisStore(server=url)
    )

    async def ours(name: str) -> bool:
        return (await limiter.is_allowed(name, GENEROUS))[0]

    async def plain(name: str) -> Any:
        return await client.evalsha(digest, 1, client_key(f"plain:{name}"), argument)

    async def with_limits(name: str) -> bool:
        return await fixed.hit(item, name)

    async def with_throttled(name: str) -> bool:
        return not (await throttled.limit(name)).limited

    return {
        OURS: ours,
        PLAIN: plain,
        "limits (fixed window, redis-py)": with_limits,
        "throttled-py (token bucket, redis-py)": with_throttled,
    }


def by_tasks(check: Check, tasks: int) -> Callable[[int], Awaitable[Any]]:
    """Checks of ``tasks`` clients, each by a task of its own that makes one after the other."""

    async def worker(name: str, n: int) -> None:
        for _ in range(n):
            await check(name)

    async def run(n: int) -> None:
        await asyncio.gather(*[worker(f"user:{task}", n // tasks) for task in range(tasks)])

    return run


async def prices(url: str) -> None:
    limiter = RateLimiter()
    await limiter.enable(redis_url=url)
    try:
        checks = await contenders(url, limiter)
        alone = await compare(
            [Contender(name, by_tasks(check, 1), 1_000) for name, check in checks.items()], repeats=15
        )
        print(table("Shared, one task", alone, baseline=PLAIN))
        ratio = alone[OURS].microseconds / alone[PLAIN].microseconds
        print(verdict("one task, times a plain EVALSHA of the same script", ratio, 1.0), "\n")

        before = limiter_batches(await limiter.get_statistics())
        many = await compare(
            [
                Contender(name, by_tasks(check, TASKS), 20_000 if name == OURS else 4_000)
                for name, check in checks.items()
            ],
            repeats=11,
        )
        after = limiter_batches(await limiter.get_statistics())
        print(table(f"Shared, {TASKS} tasks", many, baseline=PLAIN))
        for name, result in many.items():
            if name.startswith(("limits", "throttled")):
                print(
                    verdict(
                        f"{TASKS} tasks, times the checks/s of {name}", times(result, many), 5, at_most=False
                    )
                )
        checks_made, calls = (late - early for early, late in zip(before, after, strict=True))
        print(
            f"         {1e6 / many[OURS].microseconds:,.0f} checks/s, {checks_made / calls:.0f} in a call\n"
        )

        await limiter.is_allowed("abuser", STINGY)
        await limiter.is_allowed("abuser", STINGY)

        async def remembered(n: int) -> None:
            for _ in range(n):
                await limiter.is_allowed("abuser", STINGY)

        asked = (await limiter.get_statistics())["shared_checks"]
        refused = await compare([Contender("a refusal that is remembered", remembered)])
        asked = (await limiter.get_statistics())["shared_checks"] - asked
        print(table("Shared, a client that does not wait", refused, baseline="a refusal that is remembered"))
        print(verdict("checks of it that asked Redis", asked, 0), "\n")
    finally:
        await limiter.disable()


def limiter_batches(figures: dict[str, Any]) -> tuple[int, int]:
    return figures["shared_checks"], figures["shared_batches"]


def times(peer: Result, results: dict[str, Result]) -> float:
    return peer.microseconds / results[OURS].microseconds


def accuracy(url: str) -> None:
    """What four processes let through of one client, against what the limit allows."""
    print(f"### {PROCESSES} processes, one client, {RATE:g} requests per second, {SECONDS:g} s\n")
    print("| burst | clients | allowed | the limit allows | difference | asked | decided without Redis |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    worst = 0.0
    for burst in (10, 50):
        for manner in ("hammers", "acquires"):
            found = _four(url, burst, manner)
            begin = min(start for start, *_ in found)
            end = max(finish for _, finish, *_ in found)
            allowed, asked, degraded = (int(sum(row[column] for row in found)) for column in (2, 3, 4))
            expected = RATE * (end - begin) + burst
            off = (allowed / expected - 1) * 100
            worst = max(worst, abs(off))
            how = (
                "hammer, backoff off" if manner == "hammers" else "wait their turn (acquire), default backoff"
            )
            print(f"| {burst} | {how} | {allowed} | {expected:.1f} | {off:+.2f} % | {asked:,} | {degraded} |")
    print()
    print(verdict("percent off the limit, at worst", worst, 2))
    print(
        "         A client that hammers is put off for longer and longer by the default backoff, so for\n"
        "         these rows it is off: only the limit refuses. acquire never meets it."
    )


def _four(url: str, burst: int, manner: str) -> list[tuple[float, ...]]:
    command = [sys.executable, "-m", "benchmarks.rate_limiter_shared", f"--child={url},{burst},{manner}"]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        outputs = [child.communicate(timeout=SECONDS + 30)[0] for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    return [tuple(map(float, output.split())) for output in outputs]


async def _child(url: str, burst: int, manner: str) -> None:
    limiter = RateLimiter()
    await limiter.enable(redis_url=url, backoff=manner != "hammers")
    limit = RateLimitConfig(RATE, burst, f"{manner} {burst}")
    await limiter.is_allowed("somebody else", limit)
    print("ready", flush=True)
    sys.stdin.readline()
    begin = time.time()
    end = begin + SECONDS
    allowed = asked = degraded = 0
    while (now := time.time()) < end:
        asked += 1
        if manner == "acquires":
            try:
                status = await limiter.acquire("everybody", limit, timeout=end - now)
            except RateLimitExceeded:
                break
            allowed += 1
        else:
            passed, status = await limiter.is_allowed("everybody", limit)
            allowed += passed
            if not passed:
                await asyncio.sleep(0.001)
        degraded += status.degraded
    print(begin, end, allowed, asked, degraded)
    await limiter.disable()


async def bench() -> None:
    with redis_server() as url:
        await prices(url)
        accuracy(url)


if __name__ == "__main__":
    child = [argument.partition("=")[2] for argument in sys.argv if argument.startswith("--child=")]
    if child:
        child_url, child_burst, child_manner = child[0].rsplit(",", 2)
        asyncio.run(_child(child_url, int(child_burst), child_manner))
    else:
        main(bench)
