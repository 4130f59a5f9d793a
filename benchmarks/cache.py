"""The cache: L1 and L2 against peers, hit ratios on traces, memory accounted against memory used."""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import statistics
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.harness import Contender, compare, main, redis_server, rss_mb, table, verdict
from bot.core._shared.bounded_store import BoundedStore
from bot.core.cache_manager import CacheManager, cached, codec

SMALL = {"id": 7, "name": "ann", "tier": "free", "active": True, "score": 1.5}

NESTED = {
    **SMALL,
    "settings": {"language": "de", "notify": True},
    "roles": ["user", "admin"],
    "downloads": [{"id": number, "name": f"file {number}", "bytes": number << 20} for number in range(3)],
}


def repeat(call: Callable[..., Awaitable[Any]], *args: Any) -> Callable[[int], Awaitable[None]]:
    async def run(n: int) -> None:
        for _ in range(n):
            await call(*args)

    return run


async def l1() -> None:
    import aiocache
    import async_lru
    import cachebox
    import cachetools
    import theine
    from cashews import Cache

    ours = CacheManager.get_instance()
    await ours.enable()
    await ours.set("text", "a value")
    await ours.set("dict", SMALL)
    await ours.set("nested", NESTED)
    plain = {"text": "a value"}
    cashews = Cache()
    cashews.setup("mem://")
    await cashews.set("text", "a value", expire=600)
    await cashews.set("dict", SMALL, expire=600)
    await cashews.set("nested", NESTED, expire=600)
    aio = aiocache.SimpleMemoryCache()
    await aio.set("text", "a value", ttl=600)
    await aio.set("dict", SMALL, ttl=600)
    ttl_cache: cachetools.TTLCache[str, str] = cachetools.TTLCache(1000, 600)
    ttl_cache["text"] = "a value"
    box: Any = cachebox.TTLCache(1000, 600)
    box["text"] = "a value"
    tiny: Any = theine.Cache(1000)
    tiny.set("text", "a value")

    async def lookup(key: str) -> Any:
        return plain.get(key)

    async def by_cachetools(key: str) -> Any:
        return ttl_cache.get(key)

    async def by_cachebox(key: str) -> Any:
        return box.get(key)

    async def by_theine(key: str) -> Any:
        return tiny.get(key)

    async def local(n: int) -> None:
        get_local = ours.get_local
        for _ in range(n):
            get_local("text")

    results = await compare(
        [
            Contender("floor: a coroutine with a dict look-up", repeat(lookup, "text")),
            Contender("get, immutable value", repeat(ours.get, "text")),
            Contender("get_local, immutable value", local),
            Contender("get, small dict, a copy each", repeat(ours.get, "dict")),
            Contender("get, nested value, a copy each", repeat(ours.get, "nested"), 5_000),
            Contender("cachetools TTLCache in a coroutine", repeat(by_cachetools, "text")),
            Contender("cachebox TTLCache in a coroutine", repeat(by_cachebox, "text")),
            Contender("theine in a coroutine", repeat(by_theine, "text")),
            Contender("cashews get", repeat(cashews.get, "text"), 5_000),
            Contender("cashews get, small dict, the live object", repeat(cashews.get, "dict"), 5_000),
            Contender("cashews get, nested value, the live object", repeat(cashews.get, "nested"), 5_000),
            Contender("aiocache get", repeat(aio.get, "text"), 3_000),
        ]
    )
    floor = "floor: a coroutine with a dict look-up"
    print(table("L1, a hit", results, baseline=floor))
    us = {name: result.microseconds for name, result in results.items()}
    text = us["get, immutable value"]
    print(verdict("immutable hit, times the floor", text / us[floor], 2.6))
    print(verdict("cashews / ours, immutable", us["cashews get"] / text, 7, at_most=False))
    print(verdict("aiocache / ours, immutable", us["aiocache get"] / text, 25, at_most=False))
    live = us["cashews get, small dict, the live object"] / us["get, small dict, a copy each"]
    print(verdict("cashews / ours, small dict", live, 5, at_most=False))
    live = us["cashews get, nested value, the live object"] / us["get, nested value, a copy each"]
    print(verdict("cashews / ours, nested value", live, 5, at_most=False))
    print(verdict("get_local, µs", us["get_local, immutable value"], 0.35), "\n")

    @cached(key_prefix="bench", ttl=600)
    async def with_ours(n: int) -> str:
        return "a value"

    @cashews(ttl=600, key="bench:{n}")
    async def with_cashews(n: int) -> str:
        return "a value"

    @aiocache.cached(ttl=600)
    async def with_aiocache(n: int) -> str:
        return "a value"

    @async_lru.alru_cache(maxsize=1000, ttl=600)
    async def with_async_lru(n: int) -> str:
        return "a value"

    results = await compare(
        [
            Contender("@cached", repeat(with_ours, 7)),
            Contender("async-lru", repeat(with_async_lru, 7)),
            Contender("cashews", repeat(with_cashews, 7), 2_000),
            Contender("aiocache", repeat(with_aiocache, 7), 2_000),
        ]
    )
    print(table("A hit through the decorator", results, baseline="@cached"))
    us = {name: result.microseconds for name, result in results.items()}
    print(verdict("cashews / ours", us["cashews"] / us["@cached"], 15, at_most=False))
    print(verdict("aiocache / ours", us["aiocache"] / us["@cached"], 8, at_most=False))
    print(verdict("ours / async-lru", us["@cached"] / us["async-lru"], 1), "\n")

    async def set_ours(n: int) -> None:
        for index in range(n):
            await ours.set(f"k{index % 1000}", SMALL)

    async def set_cashews(n: int) -> None:
        for index in range(n):
            await cashews.set(f"k{index % 1000}", SMALL, expire=600)

    async def set_aiocache(n: int) -> None:
        for index in range(n):
            await aio.set(f"k{index % 1000}", SMALL, ttl=600)

    results = await compare(
        [
            Contender("set, small dict", set_ours, 5_000),
            Contender("cashews set", set_cashews, 2_000),
            Contender("aiocache set", set_aiocache, 2_000),
        ]
    )
    print(table("L1, a set", results, baseline="set, small dict"))
    await ours.disable()
    await cashews.close()


# L2.


async def l2(url: str) -> None:
    import aiocache
    import coredis
    import redis.asyncio as redis
    from cashews import Cache

    ours = CacheManager()
    # One entry: every read goes to Redis, is decoded, and finds L1 full.
    await ours.enable(redis_url=url, l1_max_entries=1)
    keys = [f"k{n}" for n in range(1000)]
    await ours.set_many(dict.fromkeys(keys, SMALL), ttl=3600)
    raw = redis.Redis.from_url(url, protocol=3, max_connections=2000)
    payload: Any = await raw.get("p4c:v:default:k1")
    for key in keys:
        await raw.set(key, payload)
    cashews = Cache()
    cashews.setup(url, client_side=False)
    for key in keys:
        await cashews.set(f"c{key}", SMALL, expire=3600)
    host, port = url.split("//")[1].split("/")[0].split(":")
    aio = aiocache.Cache(
        aiocache.Cache.REDIS,
        endpoint=host,
        port=int(port),
        serializer=aiocache.serializers.PickleSerializer(),
    )
    for key in keys:
        await aio.set(f"a{key}", SMALL)

    async def read_cashews(key: str) -> Any:
        return await cashews.get(f"c{key}")

    async def read_aiocache(key: str) -> Any:
        return await aio.get(f"a{key}")

    pool = coredis.ConnectionPool.from_url(url, max_connections=1100, decode_responses=False)
    async with coredis.Redis(connection_pool=pool) as core:
        readers: dict[str, Callable[[str], Awaitable[Any]]] = {
            "ours": functools.partial(ours.get, namespace="default"),
            "redis-py, raw bytes": raw.get,
            "coredis, raw bytes": core.get,
            "cashews": read_cashews,
            "aiocache": read_aiocache,
        }
        for tasks in (1, 100, 1000):
            contenders = []
            for name, reader in readers.items():
                if name == "aiocache" and tasks > 100:
                    continue  # it raises when there are more tasks than connections
                contenders.append(
                    Contender(name, _together(reader, keys, tasks), 1000 if tasks == 1 else 2000)
                )
            results = await compare(contenders, repeats=7)
            title = "one after another" if tasks == 1 else f"{tasks} tasks that arrive together"
            print(table(f"L2, {title}", results, baseline="redis-py, raw bytes"))
            ratio = results["redis-py, raw bytes"].microseconds / results["ours"].microseconds
            if tasks == 1:
                print(verdict("throughput, times redis-py's", ratio, 0.9, at_most=False), "\n")
            elif tasks == 100:
                print(verdict("throughput, times redis-py's", ratio, 8, at_most=False), "\n")
        await _spread(readers, keys)
    await ours.disable()
    await raw.aclose()
    await cashews.close()
    await aio.close()


# Many keys, and large values.


async def longest_gap(work: Awaitable[Any]) -> tuple[float, float]:
    """Milliseconds that ``work`` took, and the longest for which it kept another task from running."""
    longest = 0.0
    over = False

    async def watch() -> None:
        nonlocal longest
        last = time.perf_counter()
        while not over:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last - 0.001), now

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.005)
    start = time.perf_counter()
    await work
    took = time.perf_counter() - start
    over = True
    await watching
    return took * 1000, longest * 1000


async def many(url: str, keys: int = 10_000, repeats: int = 9) -> None:
    """``get_many`` and ``set_many`` against redis-py, which neither decodes nor keeps anything."""
    import msgspec
    import redis.asyncio as redis

    full, roomy = CacheManager(), CacheManager()
    await full.enable(redis_url=url, l1_max_entries=1)
    await roomy.enable(redis_url=url, l1_max_entries=2 * keys)
    raw = redis.Redis.from_url(url, protocol=3)
    names = [f"user:{number}" for number in range(keys)]
    items = dict.fromkeys(names, SMALL)
    await full.set_many(items, ttl=3600)
    payload: Any = await raw.get("p4c:v:default:user:1")
    body = msgspec.msgpack.encode(SMALL)

    async def pipeline() -> None:
        async with raw.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.set(f"raw:{name}", payload, px=3_600_000)
            await pipe.execute()

    async def mget() -> None:
        await raw.mget([f"raw:{name}" for name in names])

    async def mget_decoded() -> None:
        found = await raw.mget([f"raw:{name}" for name in names])
        decode = msgspec.msgpack.decode
        {name: decode(body) for name, _ in zip(names, found, strict=True)}

    cases: dict[str, Callable[[], Awaitable[Any]]] = {
        "redis-py, pipeline of SET": pipeline,
        "set_many, L1 full": lambda: full.set_many(items, ttl=3600),
        "set_many, L1 with room": lambda: roomy.set_many(items, ttl=3600),
        "redis-py, MGET of bytes": mget,
        "redis-py, MGET, then msgspec": mget_decoded,
        "get_many, L1 full": lambda: full.get_many(names),
        "get_many, kept in L1": lambda: roomy.get_many(names),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            if name == "get_many, kept in L1":
                roomy._tiers.local.l1.store.clear()
            gc.collect()
            taken[name].append(await longest_gap(case()))
    print(f"### {keys:,} keys at once, minima of {repeats}\n")
    print("| | ms | longest gap of the loop, ms |\n|---|---:|---:|")
    least = {name: min(ms for ms, _ in runs) for name, runs in taken.items()}
    gaps = {name: min(gap for _, gap in runs) for name, runs in taken.items()}
    for name in cases:
        print(f"| {name} | {least[name]:.1f} | {gaps[name]:.1f} |")
    print()
    for name, peer, why in (
        ("set_many, L1 full", "redis-py, pipeline of SET", ""),
        ("set_many, L1 with room", "redis-py, pipeline of SET", ""),
        ("get_many, L1 full", "redis-py, MGET of bytes", "MGET decodes nothing and yields to no other task"),
        ("get_many, L1 full", "redis-py, MGET, then msgspec", "it yields to other tasks every 500 keys"),
        ("get_many, kept in L1", "redis-py, MGET, then msgspec", "each value gets an entry that expires"),
    ):
        print(verdict(f"{name}, times {peer}", least[name] / least[peer], 1.3, why=why))
        print(verdict(f"{name}, longest gap in ms", gaps[name], 10))
    print()
    await full.disable()
    await roomy.disable()
    await raw.aclose()


async def large(url: str, repeats: int = 9) -> None:
    """For how long the event loop is held by a value of some MB on its way to Redis, and back."""
    cache = CacheManager()
    await cache.enable(redis_url=url)
    text = "".join(f"line {number} of a log: user {number * 7919 % 1000}\n" for number in range(130_000))
    values = {
        "4 MB of text": text[: 4 << 20],
        "4 MB that do not shrink": random.Random(1).randbytes(4 << 20),
        "1 MB of dicts": [{**SMALL, "id": number} for number in range(22_000)],
        "4 MB of dicts": [{**SMALL, "id": number} for number in range(85_000)],
    }
    gaps: dict[str, list[float]] = {}
    stored: dict[str, float] = {}
    print(f"### Large values, minima of {repeats}\n")
    print("| | set, ms | longest gap, ms | get from Redis, ms | longest gap, ms |\n|---|---:|---:|---:|---:|")
    for name, value in values.items():
        sets, gets = [], []
        for _ in range(repeats):
            gc.collect()
            sets.append(await longest_gap(cache.set("large", value)))
            cache._tiers.local.l1.store.clear()
            gets.append(await longest_gap(cache.get("large", "default")))
        cells = [min(run[index] for run in runs) for runs in (sets, gets) for index in (0, 1)]
        print(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
        gaps[name] = cells[1::2]
        body = codec.encode_value(value)
        stored[name] = len(codec.fold(body)) / len(body)
    print()
    for name in ("1 MB of dicts", "4 MB of text"):
        why = "its parts are checked and encoded in one go, so that it cannot change in between"
        print(verdict(f"{name}, set: longest gap in ms", gaps[name][0], 10, why=why))
        print(verdict(f"{name}, get from Redis: longest gap in ms", gaps[name][1], 10))
        print(verdict(f"{name}, stored size, share of the encoded", stored[name], 0.25))
    print()
    await cache.disable()


def _together(reader: Callable[[str], Awaitable[Any]], keys: list[str], tasks: int) -> Any:
    async def run(n: int) -> None:
        if tasks == 1:
            for index in range(n):
                await reader(keys[index % len(keys)])
            return

        async def one(start: int, count: int) -> None:
            for index in range(count):
                await reader(keys[(start + index) % len(keys)])

        each = max(1, n // tasks)
        await asyncio.gather(*[one(task * 7, each) for task in range(tasks)])

    return run


async def _spread(readers: dict[str, Callable[[str], Awaitable[Any]]], keys: list[str]) -> None:
    """100 tasks that read at moments of their own: the other half of the truth about batching."""
    print("### L2, 100 tasks that read at random moments\n")
    print("| | mean pause of a task, ms | p50 ms | p99 ms |\n|---|---:|---:|---:|")
    found: dict[tuple[str, float], tuple[float, float]] = {}
    for pause in (0.02, 0.005, 0.002):
        for name in ("redis-py, raw bytes", "ours"):
            runs = [await _arrivals(readers[name], keys, pause=pause, each=60) for _ in range(5)]
            p50, p99 = (statistics.median(run[index] for run in runs) for index in (0, 1))
            found[name, pause] = (p50, p99)
            print(f"| {name} | {pause * 1000:g} | {p50:.2f} | {p99:.2f} |")
    print()
    for index, which in enumerate(("p50", "p99")):
        ratio = found["redis-py, raw bytes", 0.002][index] / found["ours", 0.002][index]
        print(verdict(f"{which} at pauses of 2 ms, times lower than redis-py's", ratio, 2, at_most=False))
    print()


async def _arrivals(
    reader: Callable[[str], Awaitable[Any]], keys: list[str], *, pause: float, each: int
) -> tuple[float, float]:
    times: list[float] = []

    async def one(task: int) -> None:
        rng = random.Random(task)
        for index in range(each):
            await asyncio.sleep(rng.expovariate(1 / pause))
            start = time.perf_counter()
            await reader(keys[(task * 7 + index) % len(keys)])
            times.append((time.perf_counter() - start) * 1000)

    await asyncio.gather(*[one(task) for task in range(100)])
    times.sort()
    return times[len(times) // 2], times[int(len(times) * 0.99)]


# Hit ratios.


def zipf(n: int, keys: int, skew: float, rng: random.Random) -> list[int]:
    weights = [1 / (rank**skew) for rank in range(1, keys + 1)]
    return rng.choices(range(keys), weights, k=n)


def traces(rng: random.Random, n: int = 100_000, keys: int = 20_000) -> dict[str, list[int]]:
    with_scans: list[int] = []
    for index, key in enumerate(zipf(n, keys, 1.0, rng)):
        with_scans.append(key)
        if index % 10_000 == 0:
            with_scans += range(10**6 + index, 10**6 + index + 2_000)
    drifting: list[int] = []
    for part in range(10):
        drifting += [key + part * 200 for key in zipf(n // 10, keys, 1.0, rng)]
    return {
        "zipf 0.9": zipf(n, keys, 0.9, rng),
        "zipf 1.1": zipf(n, keys, 1.1, rng),
        "zipf 1.0 with scans": with_scans,
        "zipf 1.0, drifting": drifting,
        "a loop larger than the cache": [index % 3_000 for index in range(n)],
    }


def hits_ours(trace: list[int], size: int) -> float:
    store = BoundedStore(max_bytes=10**12, max_entries=size)
    hits = 0
    for key in trace:
        if store.get("s", key, 0.0) is not None:
            hits += 1
        else:
            store.put("s", key, None, size=1, now=0.0)
    return hits / len(trace) * 100


def hits_door(trace: list[int], size: int) -> float:
    """What is kept of reads from Redis: the same, and a full tier admits at the second read only."""
    store = BoundedStore(max_bytes=10**12, max_entries=size)
    hits = 0
    for key in trace:
        if store.get("s", key, 0.0) is not None:
            hits += 1
        elif store.admits("s", key):
            store.put("s", key, None, size=1, now=0.0)
    return hits / len(trace) * 100


def hits_lru(trace: list[int], size: int) -> float:
    lru: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in trace:
        if key in lru:
            hits += 1
            lru.move_to_end(key)
        else:
            lru[key] = None
            if len(lru) > size:
                lru.popitem(last=False)
    return hits / len(trace) * 100


def hits_sieve(trace: list[int], size: int) -> float:
    """SIEVE (Zhang et al., NSDI 2024): a queue, a visited bit each, a hand that goes from old to new."""
    visited: dict[int, bool] = {}
    newer: dict[int, int | None] = {}
    older: dict[int, int | None] = {}
    oldest: int | None = None
    newest: int | None = None
    hand: int | None = None
    hits = 0
    for key in trace:
        if key in visited:
            hits += 1
            visited[key] = True
            continue
        if len(visited) >= size:
            at = hand if hand is not None else oldest
            assert at is not None
            while visited[at]:
                visited[at] = False
                following = newer[at]
                at = following if following is not None else oldest
                assert at is not None
            before, after = older.pop(at), newer.pop(at)
            if before is None:
                oldest = after
            else:
                newer[before] = after
            if after is None:
                newest = before
            else:
                older[after] = before
            hand = after
            del visited[at]
        visited[key] = False
        older[key], newer[key] = newest, None
        if newest is not None:
            newer[newest] = key
        else:
            oldest = key
        newest = key
    return hits / len(trace) * 100


def hits_theine(trace: list[int], size: int) -> float:
    import theine

    cache: Any = theine.Cache(size)
    hits = 0
    for key in trace:
        _, ok = cache.get(str(key))
        if ok:
            hits += 1
        else:
            cache.set(str(key), True)
    return hits / len(trace) * 100


def ratios() -> None:
    policies = {
        "S3-FIFO (ours)": hits_ours,
        "S3-FIFO with doorkeeper (ours, reads from Redis)": hits_door,
        "LRU": hits_lru,
        "SIEVE": hits_sieve,
        "theine (W-TinyLFU)": hits_theine,
    }
    names = list(traces(random.Random(0), n=100))
    for size in (200, 2_000):
        print(f"### Hit ratio in percent, {size:,} entries, means of 3 seeds\n")
        print("| | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
        sums = {name: dict.fromkeys(names, 0.0) for name in policies}
        for seed in range(3):
            for trace_name, trace in traces(random.Random(seed)).items():
                for name, policy in policies.items():
                    sums[name][trace_name] += policy(trace, size) / 3
        for name in policies:
            print(f"| {name} | " + " | ".join(f"{sums[name][t]:.1f}" for t in names) + " |")
        print()


# Memory.


async def _fill() -> float:
    """A million sets of mixed sizes into 50 MB: by how many MB the process grew."""
    cache = CacheManager()
    await cache.enable(l1_max_size_mb=50, l1_max_entries=10_000_000)
    rng = random.Random(4)
    before = rss_mb()
    for index in range(1_000_000):
        kind = index % 4
        value: Any = (
            index
            if kind == 0
            else "x" * rng.randrange(10, 2_000)
            if kind == 1
            else {"id": index, "name": f"user {index}", "tags": ["a", "b"]}
            if kind == 2
            else [rng.random() for _ in range(rng.randrange(1, 20))]
        )
        await cache.set(f"key:{rng.randrange(400_000)}", value, ttl=rng.choice((60, 600, 3600)))
    figures = await cache.get_statistics()
    print(f"accounted {figures['l1_memory_mb']:.1f} MB in {figures['l1_entries']:,} entries", file=sys.stderr)
    return rss_mb() - before


def memory() -> None:
    print("### Memory: a million sets of mixed sizes, CACHE_L1_MAX_SIZE_MB = 50\n", flush=True)
    grown = float(subprocess.check_output([sys.executable, "-m", "benchmarks.cache", "--fill"], text=True))
    print(verdict("process growth, times 50 MB", grown / 50, 1.5), "\n")


async def propagation(url: str) -> None:
    a, b = CacheManager(), CacheManager()
    await a.enable(redis_url=url)
    await b.enable(redis_url=url)
    times = []
    for value in range(200):
        await b.get("k", namespace="n")
        await a.set("k", value, namespace="n")
        start = time.perf_counter()
        while await b.get("k", namespace="n") != value:
            await asyncio.sleep(0)
        times.append((time.perf_counter() - start) * 1000)
    print(
        verdict("ms until another instance serves a new value, median of 200", statistics.median(times), 50),
        "\n",
    )
    await a.disable()
    await b.disable()


async def bench() -> None:
    await l1()
    with redis_server() as url:
        await propagation(url)
        await l2(url)
        await many(url)
        await large(url)
    memory()
    ratios()


async def bench_many() -> None:
    with redis_server() as url:
        await many(url)
        await large(url)


if __name__ == "__main__":
    if "--many" in sys.argv:
        main(bench_many)
    elif "--fill" in sys.argv:
        print(asyncio.run(_fill()))
    else:
        main(bench)
