"""The load balancer: price of a pick, shares, tail latency with a slow instance, overhead of a request.

No maintained package was found on PyPI that balances asynchronous requests within the process, so picks
are compared with naive implementations, named as such.
"""

from __future__ import annotations

import asyncio
import logging
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web

from benchmarks.harness import main, verdict
from bot.core.load_balancer import Instance, LoadBalancer, LoadBalancingStrategy

STRATEGIES = list(LoadBalancingStrategy)
PICKS = 100_000


async def echo(instance: Instance, data: Any) -> Any:
    return data


async def balancer(strategy: LoadBalancingStrategy, count: int, *, weighted: bool = False) -> LoadBalancer:
    lb = LoadBalancer()
    await lb.enable(strategy, request_handler=echo, check_interval=0)
    for number in range(count):
        await lb.add_instance(f"bot-{number}", "127.0.0.1", 1 + number, 1.0 + number % 7 if weighted else 1.0)
    return lb


def price(pick: Callable[[], Any], n: int = 20_000) -> float:
    """µs for each of ``n`` picks, the median of nine runs."""
    samples = []
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(n):
            pick()
        samples.append((time.perf_counter() - start) / n * 1e6)
    return statistics.median(samples)


def naive(count: int) -> dict[str, Callable[[], Any]]:
    """A scan of all, as commonly written."""
    members = [
        Instance(f"bot-{number}", "127.0.0.1", 1 + number, 1.0 + number % 7) for number in range(count)
    ]

    def least_connections() -> Instance:
        return min((m for m in members if m.is_healthy), key=lambda m: m.in_flight)

    def weighted() -> Instance:
        return random.choices(members, [m.weight for m in members])[0]

    def round_robin(turn: list[int] = [0]) -> Instance:  # noqa: B006 - its state
        healthy = [m for m in members if m.is_healthy]
        turn[0] += 1
        return healthy[turn[0] % len(healthy)]

    return {"round_robin": round_robin, "least_connections": least_connections, "weighted": weighted}


async def prices() -> list[str]:
    sizes = (3, 100, 1000)
    rows: dict[str, list[float]] = {}
    for size in sizes:
        for strategy in STRATEGIES:
            lb = await balancer(strategy, size, weighted=strategy is LoadBalancingStrategy.WEIGHTED)
            rows.setdefault(strategy.value, []).append(price(lb.select_nowait))
        lb = await balancer(LoadBalancingStrategy.ROUND_ROBIN, size)
        sessions = [f"user:{number}" for number in range(2_000)]
        for session in sessions:
            lb.select_nowait(session)
        following = iter(sessions * 91).__next__
        rows.setdefault("sticky session", []).append(
            price(lambda lb=lb, following=following: lb.select_nowait(following()))  # type: ignore[misc]
        )
        for name, pick in naive(size).items():
            n = 20_000 if size < 1000 else 500
            rows.setdefault(f"naive {name}, a scan", []).append(price(pick, n))
    print("### A pick, µs, by number of instances\n\n| | 3 | 100 | 1,000 |\n|---|---:|---:|---:|")
    for name, figures in rows.items():
        print(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    print()
    ours = {name: figures for name, figures in rows.items() if "naive" not in name}
    return [
        verdict(f"pick by {name} at {size}, µs", figures[place], 0.5)
        for name, figures in ours.items()
        for place, size in ((0, 3), (2, 1000))
    ]


async def shares() -> list[str]:
    bounds = {
        LoadBalancingStrategy.ROUND_ROBIN: 1.0,
        LoadBalancingStrategy.WEIGHTED: 2.0,
        LoadBalancingStrategy.LEAST_CONNECTIONS: 10.0,
    }
    print(f"### Shares of {PICKS:,} requests over three equal instances, one after another\n")
    print("| | shares | coefficient of variation, % |\n|---|---|---:|")
    verdicts = []
    for strategy in STRATEGIES:
        lb = await balancer(strategy, 3)
        cluster = lb._cluster
        for _ in range(PICKS):
            instance = cluster.pick()
            assert instance is not None
            cluster.acquire(instance)
            cluster.release(instance)
        counts = [instance.picked for instance in lb.instances]
        variation = statistics.pstdev(counts) / statistics.fmean(counts) * 100
        print(f"| {strategy.value} | {' '.join(map(str, counts))} | {variation:.3f} |")
        if strategy in bounds:
            verdicts.append(verdict(f"variation of {strategy.value}, %", variation, bounds[strategy]))
    lb = await balancer(LoadBalancingStrategy.WEIGHTED, 3, weighted=True)
    per_weight = {i.id: 0 for i in lb.instances}
    for _ in range(PICKS):
        chosen = lb.select_nowait()
        assert chosen is not None
        per_weight[chosen.id] += 1
    ratios = [per_weight[i.id] / i.weight for i in lb.instances]
    variation = statistics.pstdev(ratios) / statistics.fmean(ratios) * 100
    print(f"| weighted 1:2:3 | {' '.join(map(str, per_weight.values()))} | {variation:.3f} |\n")
    return [*verdicts, verdict("variation of weighted 1:2:3 per weight, %", variation, 2.0)]


async def tail() -> list[str]:
    """Simulated instances of 5 ms with noise, one of them ten times slower."""
    print("### 2,000 requests by 8 callers, three instances of about 5 ms, one ten times slower\n")
    print("| | p50, ms | p99, ms | to the slow one |\n|---|---:|---:|---:|")
    found = {}
    for strategy in STRATEGIES:
        lb = await balancer(strategy, 3)

        async def serve(instance: Instance, data: Any) -> Any:
            mean = 0.05 if instance.id == "bot-0" else 0.005
            await asyncio.sleep(mean * random.uniform(0.8, 1.2))
            return data

        lb.request_handler = serve
        times: list[float] = []
        left = iter(range(2_000))

        async def caller(lb: LoadBalancer = lb, times: list[float] = times, left: Any = left) -> None:
            for number in left:
                start = time.perf_counter()
                assert (await lb.route_request(number)).success
                times.append(time.perf_counter() - start)

        await asyncio.gather(*[caller() for _ in range(8)])
        times.sort()
        p50, p99 = (times[int(len(times) * share)] * 1000 for share in (0.5, 0.99))
        found[strategy] = p99
        print(f"| {strategy.value} | {p50:.1f} | {p99:.1f} | {lb.instances[0].picked / 20:.1f} % |")
    print()
    ratio = found[LoadBalancingStrategy.ROUND_ROBIN] / found[LoadBalancingStrategy.LEAST_LOADED]
    return [verdict("p99 of round robin over that of least loaded", ratio, 3.0, at_most=False)]


async def overhead() -> list[str]:
    """A request to a real local aiohttp server, through the balancer and by the same handler directly."""

    async def execute(request: web.Request) -> web.Response:
        return web.json_response(await request.json())

    app = web.Application()
    app.router.add_post("/api/execute", execute)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    session = aiohttp.ClientSession()

    async def post(instance: Instance, data: Any) -> Any:
        async with session.post(f"{instance.get_url()}/api/execute", json=data) as response:
            return await response.json()

    lb = LoadBalancer()
    await lb.enable(LoadBalancingStrategy.LEAST_CONNECTIONS, request_handler=post, check_interval=0)
    await lb.add_instance("bot-1", "127.0.0.1", port)
    [instance] = lb.instances
    direct: list[float] = []
    routed: list[float] = []
    bare: list[float] = []
    empty: list[float] = []
    for _ in range(11):
        for samples, call, n in (
            (direct, lambda: post(instance, {"n": 1}), 300),
            (routed, lambda: lb.route_request({"n": 1}), 300),
        ):
            start = time.perf_counter()
            for _ in range(n):
                await call()
            samples.append((time.perf_counter() - start) / n * 1e6)
    lb.request_handler = echo
    for _ in range(11):
        start = time.perf_counter()
        for _ in range(5_000):
            await echo(instance, 1)
        empty.append((time.perf_counter() - start) / 5_000 * 1e6)
        start = time.perf_counter()
        for _ in range(5_000):
            await lb.route_request(1)
        bare.append((time.perf_counter() - start) / 5_000 * 1e6)
    await session.close()
    await runner.cleanup()
    added = statistics.median(bare) - statistics.median(empty)
    one = statistics.median(direct)
    print("### One request over local HTTP\n\n| | µs |\n|---|---:|")
    print(
        f"| the handler directly | {one:.0f} |\n| through route_request | {statistics.median(routed):.0f} |"
    )
    print(f"| route_request over a handler that does nothing | {added:.1f} |\n")
    return [verdict("overhead of route_request, % of a local request", added / one * 100, 5.0)]


async def adding(count: int = 10_000) -> list[str]:
    """A fleet that is added one by one, with what each strategy keeps for its choice."""
    seconds: dict[str, float] = {}
    for strategy in STRATEGIES:
        lb = LoadBalancer()
        await lb.enable(strategy, check_interval=0)
        start = time.perf_counter()
        for number in range(count):
            await lb.add_instance(f"bot-{number}", "127.0.0.1", 1_024 + number)
        seconds[strategy.value] = time.perf_counter() - start
        await lb.disable()
    return [verdict(f"s to add {count:,} instances, {name}", taken, 1.0) for name, taken in seconds.items()]


async def bench() -> None:
    logging.disable(logging.CRITICAL)
    verdicts = []
    for part in (prices, shares, tail, adding, overhead):
        verdicts += await part()
    print("\n".join(verdicts))


if __name__ == "__main__":
    main(bench)
