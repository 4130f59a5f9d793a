"""A small benchmark harness: contenders interleaved, minima and ratios, one table out.

Interleaving matters: a machine that slows down for a second then slows every contender, not one. Whatever
else the machine does can only add to a time, so the least one says most.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, NamedTuple


class Contender(NamedTuple):
    """A name and an async function that performs the operation ``n`` times."""

    name: str
    run: Callable[[int], Awaitable[Any]]
    n: int = 20_000


class Result(NamedTuple):
    name: str
    microseconds: float
    """The least of the repeats, per operation."""
    spread: float
    """Percent, from the fastest repeat to the median: how much the machine was disturbed."""


async def compare(
    contenders: list[Contender], *, repeats: int = 9, collecting: bool = False
) -> dict[str, Result]:
    """Run each contender once to warm up, then all of them in turn ``repeats`` times.

    ``collecting`` leaves Python's garbage collector on, for work that makes much of it.
    """
    for contender in contenders:
        await contender.run(max(1, contender.n // 10))
    samples: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(repeats):
        for contender in contenders:
            gc.collect()
            if not collecting:
                gc.disable()
            start = time.perf_counter()
            await contender.run(contender.n)
            elapsed = time.perf_counter() - start
            gc.enable()
            samples[contender.name].append(elapsed / contender.n * 1e6)
    return {
        name: Result(name, min(times), (statistics.median(times) / min(times) - 1) * 100)
        for name, times in samples.items()
    }


def table(title: str, results: dict[str, Result], *, baseline: str) -> str:
    """A Markdown table with each contender's ratio to ``baseline``."""
    base = results[baseline].microseconds
    lines = [f"### {title}", "", "| | µs | ratio to " + baseline + " | spread |", "|---|---:|---:|---:|"]
    lines += [
        f"| {r.name} | {r.microseconds:.3f} | {r.microseconds / base:.2f} | {r.spread:.0f} % |"
        for r in results.values()
    ]
    return "\n".join(lines) + "\n"


def verdict(claim: str, measured: float, bound: float, *, at_most: bool = True, why: str = "") -> str:
    """One line that says whether a figure was reached; ``why`` is what it is known to fail by."""
    reached = measured <= bound if at_most else measured >= bound
    sign = "<=" if at_most else ">="
    said = f"{claim}: {measured:.2f} (target {sign} {bound:g})"
    if reached:
        return f"reached  {said}"
    return f"MISSED   {said}; {why}" if why else f"MISSED   {said}"


def machine() -> str:
    return f"Python {sys.version.split()[0]}, {platform.machine()}, {platform.system()} {platform.release()}"


def rss_mb() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss) / 1_048_576


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """The Redis that ``PHASE4_BENCH_REDIS_URL`` names, else one of the benchmark's own."""
    if url := os.environ.get("PHASE4_BENCH_REDIS_URL"):
        yield url
        return
    from tests.support.servers import RedisServer

    server = RedisServer()
    server.start()
    try:
        yield server.url
    finally:
        server.close()


@contextlib.contextmanager
def postgresql_server() -> Iterator[str | None]:
    """What ``PHASE4_BENCH_POSTGRESQL_URL`` names, else a server started for this; None: neither."""
    if url := os.environ.get("PHASE4_BENCH_POSTGRESQL_URL"):
        yield url
        return
    from benchmarks.load.service import own_postgresql

    with own_postgresql() as started:
        yield started


def main(bench: Callable[[], Coroutine[Any, Any, None]]) -> None:
    print(f"{machine()}\n")
    asyncio.run(bench())
