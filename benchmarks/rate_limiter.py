"""The rate limiter, local: a check's price against a floor and against peers, and memory per client.

The floor is a bare coroutine over a dict that does the same arithmetic (GCRA, and the backoff where
a refusal is measured) and returns ``(bool, status)``.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Contender, compare, main, rss_mb, table, verdict
from bot.core.phase4_wiring import SERVICES
from bot.core.rate_limiter import RateLimitConfig, RateLimiter, RateLimitStatus, WindowLimit

GENEROUS = RateLimitConfig(1_000_000.0, 1_000_000_000)
STINGY = RateLimitConfig(0.001, 1)
CLIENTS = 100_000


class Floor:
    """What any in-process limiter must at least do: look up, add, compare, store, answer."""

    def __init__(self, rate: float, burst: int) -> None:
        self.interval = 1.0 / rate
        self.tolerance = burst * self.interval
        self.tats: dict[Any, float] = {}

    async def is_allowed(self, client: Any) -> tuple[bool, RateLimitStatus]:
        now = time.monotonic()
        tat = self.tats.get(client, now)
        if tat < now:
            tat = now
        tat += self.interval
        slack = now + self.tolerance - tat
        if slack >= 0.0:
            self.tats[client] = tat
            return True, RateLimitStatus((self, slack, 1, now))
        return False, RateLimitStatus((self, slack, 1, now))


class FloorWithBackoff(Floor):
    """The floor of a refusal: the same, and the doubling of the wait of who comes too early."""

    def __init__(self, rate: float, burst: int) -> None:
        super().__init__(rate, burst)
        self.records: dict[Any, list[float]] = {}

    async def is_allowed(self, client: Any) -> tuple[bool, RateLimitStatus]:
        now = time.monotonic()
        tat = self.tats.get(client, now)
        if tat < now:
            tat = now
        tat += self.interval
        slack = now + self.tolerance - tat
        if slack >= 0.0:
            self.tats[client] = tat
            return True, RateLimitStatus((self, slack, 1, now))
        record = self.records.get(client)
        if record is None or now >= record[0]:
            self.records[client] = [now - slack, 1]
        else:
            wait = min(3600.0, 2.0 ** record[1])
            if record[1] < 12:
                record[1] += 1
            if wait + slack > 0.0:
                self.tats[client] = now + wait + self.tolerance - self.interval
                slack = -wait
            record[0] = now - slack
        return False, RateLimitStatus((self, slack, 1, now))


def peers(rate: int, burst: int) -> dict[str, Any]:
    """For each peer an async function of a key that makes one check, its cheapest algorithm first."""
    from aiolimiter import AsyncLimiter
    from limits import RateLimitItemPerSecond
    from limits.aio.storage import MemoryStorage
    from limits.aio.strategies import FixedWindowRateLimiter
    from pyrate_limiter import InMemoryBucket, Limiter, Rate
    from throttled.asyncio import MemoryStore, Throttled, per_sec

    fixed = FixedWindowRateLimiter(MemoryStorage())
    item = RateLimitItemPerSecond(rate, 1)
    throttled = Throttled(
        using="token_bucket", quota=per_sec(rate, burst=burst), store=MemoryStore(options={"MAX_SIZE": 10**7})
    )
    # One limiter per key is how both are used for clients; here made on first sight.
    pyrate: dict[Any, Limiter] = {}
    aio: dict[Any, AsyncLimiter] = {}

    async def with_limits(key: str) -> bool:
        return await fixed.hit(item, key)

    async def with_throttled(key: str) -> bool:
        return not (await throttled.limit(key)).limited

    async def with_pyrate(key: str) -> bool:
        limiter = pyrate.get(key)
        if limiter is None:
            limiter = pyrate[key] = Limiter(InMemoryBucket([Rate(rate, 1000)]))
        return await limiter.try_acquire_async(key, blocking=False)

    async def with_aiolimiter(key: str) -> bool:
        limiter = aio.get(key)
        if limiter is None:
            limiter = aio[key] = AsyncLimiter(burst, burst / rate)
        if not limiter.has_capacity():
            return False
        await limiter.acquire()
        return True

    return {
        "limits (fixed window)": with_limits,
        "throttled-py (token bucket)": with_throttled,
        "pyrate-limiter (in memory)": with_pyrate,
        "aiolimiter (leaky bucket)": with_aiolimiter,
    }


def repeat(check: Any, keys: list[Any]) -> Any:
    async def run(n: int) -> None:
        count = len(keys)
        if count == 1:
            key = keys[0]
            for _ in range(n):
                await check(key)
        else:
            for index in range(n):
                await check(keys[index % count])

    return run


async def one_client() -> None:
    limiter = RateLimiter()
    await limiter.enable()

    async def allowed(n: int) -> None:
        for _ in range(n):
            await limiter.is_allowed("client", GENEROUS)

    async def denied(n: int) -> None:
        for _ in range(n):
            await limiter.is_allowed("client", STINGY)

    async def checked(n: int) -> None:
        check = limiter.check
        for _ in range(n):
            check("client", GENEROUS)

    floor = Floor(1e6, 10**9)
    floor_denied = Floor(0.001, 1)
    floor_backoff = FloorWithBackoff(0.001, 1)
    contenders = [
        Contender("floor, allowed", repeat(floor.is_allowed, ["client"])),
        Contender("is_allowed, allowed", allowed),
        Contender("check (synchronous)", checked),
        Contender("floor, refused, no backoff", repeat(floor_denied.is_allowed, ["client"])),
        Contender("floor, refused, with backoff", repeat(floor_backoff.is_allowed, ["client"])),
        Contender("is_allowed, refused, with backoff", denied),
    ]
    contenders += [
        Contender(name, repeat(check, ["client"]), 4_000)
        for name, check in peers(1_000_000, 1_000_000).items()
    ]
    results = await compare(contenders)
    print(table("One client", results, baseline="floor, allowed"))
    ours = results["is_allowed, allowed"].microseconds
    fastest = min(
        (r for name, r in results.items() if name.startswith(("limits", "throttled", "pyrate"))),
        key=lambda r: r.microseconds,
    )
    print(verdict("allowed check, times the floor", ours / results["floor, allowed"].microseconds, 1.4))
    print(
        verdict(
            "refused check, times the floor with backoff",
            results["is_allowed, refused, with backoff"].microseconds
            / results["floor, refused, with backoff"].microseconds,
            1.4,
        )
    )
    print(
        verdict(
            f"times cheaper than the fastest peer, {fastest.name}",
            fastest.microseconds / ours,
            5,
            at_most=False,
        )
    )
    print(
        verdict("check, share of is_allowed", results["check (synchronous)"].microseconds / ours, 0.5), "\n"
    )


async def several_limits() -> None:
    """One check of three limits beside a single one, and an exact window."""
    limiter = RateLimiter()
    await limiter.enable(backoff=False)
    chat, everybody = (RateLimitConfig(1_000_000.0, 1_000_000_000, name) for name in ("chat", "all"))
    checks = [("client", GENEROUS), ("chat", chat), ("all", everybody)]
    window = WindowLimit(100_000, 0.5)

    async def single(n: int) -> None:
        for _ in range(n):
            await limiter.is_allowed("client", GENEROUS)

    async def three(n: int) -> None:
        for _ in range(n):
            await limiter.is_allowed_all(checks)

    async def windowed(n: int) -> None:
        for _ in range(n):
            await limiter.is_allowed("client", window)

    results = await compare(
        [
            Contender("is_allowed", single),
            Contender("is_allowed_all, three limits", three),
            Contender("is_allowed, a window of 100,000", windowed),
        ]
    )
    print(table("Several limits at once, and windows", results, baseline="is_allowed"))
    three_limits = results["is_allowed_all, three limits"].microseconds
    ratio = three_limits / results["is_allowed"].microseconds
    print(verdict("check of three limits, times a single one", ratio, 2.2), "\n")


async def many_clients() -> None:
    limiter = RateLimiter()
    await limiter.enable()
    keys: list[Any] = [f"user:{n}" for n in range(CLIENTS)]
    config = RateLimitConfig(10.0, 50)

    async def ours(key: Any) -> bool:
        return (await limiter.is_allowed(key, config))[0]

    floor = Floor(10, 50)
    contenders = [
        Contender("floor", repeat(floor.is_allowed, keys), CLIENTS),
        Contender("is_allowed", repeat(ours, keys), CLIENTS),
    ]
    contenders += [
        Contender(name, repeat(check, keys), CLIENTS)
        for name, check in peers(10, 50).items()
        # Each of its limiters starts a thread with an event loop: 100,000 of them are not to be had.
        if not name.startswith("pyrate")
    ]
    results = await compare(contenders, repeats=3)
    print(table(f"{CLIENTS:,} clients in turn", results, baseline="floor"))
    print("pyrate-limiter is left out here: each of its limiters starts a thread.\n")


def memory() -> None:
    print("### Memory\n")
    print("| | bytes per client beyond its key |")
    print("|---|---:|")
    for name in ("live", "limited", "abusive", "throttled", "limits"):
        print(f"| {_LABELS[name]} | {_child(name):.0f} |")
    one_shot = _child("one-shot")
    slow = _child("one-shot-slow")
    print()
    print(verdict("MB left by a million one-shot clients (10/s, burst 50)", one_shot, 100))
    print(f"         the same when no bucket refills meanwhile (1 per hour), keys included: {slow:.0f} MB\n")


_LABELS = {
    "live": "this limiter, a client with a token taken",
    "limited": "this limiter, a client that was refused",
    "abusive": "this limiter, a client in backoff",
    "throttled": "throttled-py (token bucket)",
    "limits": "limits (fixed window)",
}


def _child(name: str) -> float:
    """A measurement in a process of its own: memory once taken is seldom given back."""
    environment = {**os.environ, "PYTHONMALLOC": "pymalloc"}
    command = [sys.executable, "-m", "benchmarks.rate_limiter", f"--measure={name}"]
    return float(subprocess.check_output(command, text=True, env=environment))


async def _measure(name: str) -> float:
    limiter = RateLimiter()
    await limiter.enable()
    count = 1_000_000 if name.startswith("one-shot") else 200_000
    if name.startswith("one-shot"):
        config = RateLimitConfig(10.0, 50) if name == "one-shot" else RateLimitConfig(1 / 3600, 10)
        before = rss_mb()
        for number in range(count):
            await limiter.is_allowed(f"user:{number}", config)
        return rss_mb() - before
    keys = [f"user:{number}" for number in range(count)]
    # A rate so slow that every bucket stays live, and the most that a client can cost is seen.
    config = RateLimitConfig(1 / 3600, 1)
    if name in ("throttled", "limits"):
        label = next(label for label in peers(10, 50) if label.startswith(name))
        check = peers(1, 1)[label]
        before = rss_mb()
        for key in keys:
            await check(key)
        return (rss_mb() - before) * 1_048_576 / count
    times = {"live": 1, "limited": 2, "abusive": 4}[name]
    await limiter.enable(backoff_grace=0.0 if name == "abusive" else 1.0)
    before = rss_mb()
    for key in keys:
        for _ in range(times):
            await limiter.is_allowed(key, config)
    return (rss_mb() - before) * 1_048_576 / count


def startup() -> None:
    """Import and start-up, each in fresh interpreters, medians of 15.

    What a start adds is over a process that has run an event loop of asyncio, as every bot does.
    """
    bare = "import asyncio"
    loop = f"{bare}\nasyncio.run(asyncio.sleep(0))"
    flags = [wiring.flag for wiring in SERVICES]
    off = (
        f"{bare}\n"
        "from bot.core.enhanced_startup_phase4 import initialize_phase4_services as start\n"
        f"report = asyncio.run(start({dict.fromkeys(flags, False)!r}))\n"
        "assert report['success'], report"
    )
    module = f"{bare}\nimport bot.core.enhanced_startup_phase4"
    start = (
        "import asyncio, time\n"
        "from bot.core.enhanced_startup_phase4 import initialize_phase4_services as start\n"
        "async def main():\n"
        "    begin = time.perf_counter()\n"
        "    report = await start({'ENABLE_QUERY_OPTIMIZER': True, 'ENABLE_RATE_LIMITER': True})\n"
        "    assert report['success'], report\n"
        "    print((time.perf_counter() - begin) * 1000)\n"
        "asyncio.run(main())"
    )

    # Bytecode is written, as it is for every user, and there after the first run.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def wall(code: str) -> float:
        begin = time.perf_counter()
        subprocess.check_call([sys.executable, "-c", code], env=environment)
        return (time.perf_counter() - begin) * 1000

    def ask() -> float:
        return float(subprocess.check_output([sys.executable, "-c", start], env=environment))

    listing = (
        "\nimport sys\nprint(*{p for m in sys.modules.values() for p in (getattr(m, '__cached__', None), "
    )
    listing += "getattr(m, '__file__', None)) if p}, sep='\\n')"
    files = subprocess.check_output([sys.executable, "-c", off + listing], env=environment, text=True).split()

    def cold(code: str) -> float:
        """With files that the system holds in memory no more, as at the first start after a boot."""
        for path in files:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return wall(code)

    def added(measure: Callable[[str], float]) -> float:
        pairs = [(measure(loop), measure(off)) for _ in range(15)]
        return statistics.median(after - before for before, after in pairs)

    wall(module)
    ask()
    pairs = [(wall(bare), wall(module)) for _ in range(15)]
    extra = statistics.median(after - before for before, after in pairs)
    inits = [ask() for _ in range(15)]
    print("### Start-up\n")
    print(verdict("ms that a start with every flag off adds to asyncio", added(wall), 10))
    if hasattr(os, "posix_fadvise"):
        print(verdict("ms that it adds with cold files", added(cold), 10))
    print(verdict("ms that importing the start-up module adds to asyncio", extra, 60))
    why = "most of it is the import of the two services"
    print(verdict("ms of a minimal initialize_phase4_services", statistics.median(inits), 10, why=why), "\n")


async def bench() -> None:
    await one_client()
    await several_limits()
    await many_clients()
    memory()
    startup()


if __name__ == "__main__":
    measured = [argument.partition("=")[2] for argument in sys.argv if argument.startswith("--measure=")]
    if measured:
        print(asyncio.run(_measure(measured[0])))
    else:
        main(bench)
