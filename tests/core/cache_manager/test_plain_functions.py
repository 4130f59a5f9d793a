"""``@cached`` on a plain ``def``; and what is refused by name."""

import asyncio
import contextlib
import functools
import threading

import pytest

from bot.core.cache_manager import CacheManager, LoadOptions, cached, invalidate


@pytest.fixture
async def cache():
    cache = CacheManager.get_instance()
    await cache.enable()
    yield cache
    await cache.disable()


async def test_a_plain_function_is_cached_and_stays_plain(cache):
    calls = []

    @cached("parsed", tags=("text:{text}",), ttl=lambda value: 5 if value else None)
    def parse(text):
        calls.append(text)
        return [text] if text else []

    first = parse("a")
    first.append("changed by the caller")
    assert parse("a") == ["a"]
    assert [parse(""), parse("")] == [[], []]
    assert calls == ["a", "", ""]
    assert parse.cache_info()[:3] == (1, 3, 1)
    assert await cache.invalidate_tag("text:a") == 1
    parse("a")
    assert await parse.invalidate("a")
    parse("a")
    assert await parse.cache_clear() == 1
    parse("a")
    assert await parse.refresh("a") == ["a"]
    assert len(calls) == 7


async def test_methods_lambdas_builtins_and_recursion(cache):
    class Shop:
        @cached
        def price(self, item):
            return item * 2

        @staticmethod
        @cached
        def vat(item):
            return item + 1

        @cached
        @classmethod
        def name(cls, item):
            return cls.__name__

    @cached("fib")
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    shop = Shop()
    assert [shop.price(2), shop.price(2), Shop.vat(1), Shop.name(1), shop.name(1)] == [
        4,
        4,
        2,
        "Shop",
        "Shop",
    ]
    assert shop.price.cache_info().hits == 1
    assert await shop.price.invalidate(2)
    assert fib(80) == 23416728348467685
    assert fib.cache_info().misses == 81
    double = cached(lambda n: 2 * n)
    assert [double(4), double(4), double.cache_info().hits] == [8, 8, 1]
    assert [cached(abs)(-2), cached(functools.partial(pow, 2))(3)] == [2, 8]


async def test_another_thread_just_calls_the_function(cache):
    threads = []

    @cached("p")
    def load(n):
        threads.append(threading.get_ident())
        return n

    assert [load(1), load(1)] == [1, 1]
    assert await asyncio.gather(*[asyncio.to_thread(load, 1) for _ in range(20)]) == [1] * 20
    assert threads.count(threading.get_ident()) == 1
    assert len(threads) == 21
    assert load.cache_info().size == 1


async def test_an_error_is_not_cached_and_what_was_dropped_meanwhile_neither(cache):
    calls = []

    @cached("p")
    def load(n):
        calls.append(n)
        if n == 0:
            raise OSError("away")
        asyncio.get_running_loop()
        cache._tiers.local.delete("default", "p:1")
        return n

    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            load(0)
        assert load(1) == 1
    assert len(calls) == 4


async def test_with_redis_it_stays_in_memory(redis_server):
    cache = CacheManager.get_instance()
    await cache.enable(redis_url=redis_server.url)

    @cached("p")
    def load(n):
        return n

    assert [load(1), load(1), load.cache_info().hits] == [1, 1, 1]
    assert await cache.get("p:1") == 1
    other = CacheManager()
    await other.enable(redis_url=redis_server.url)
    assert await other.get("p:1", "default") is None
    await other.delete("p:1")
    while load.cache_info().size:
        await asyncio.sleep(0.01)
    await other.disable()
    await cache.disable()


async def test_a_plain_function_that_returns_a_coroutine_is_refused_when_called(cache):
    async def load():
        return 1

    with pytest.raises(TypeError, match="returned something to await; decorate an async def"):
        cached("p")(lambda: load())()


def test_off_it_is_just_called():
    assert cached("p")(lambda thing: thing)(5) == 5


async def _values():
    yield 1


def _numbers():
    yield 1


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


async def _one():
    return 1


class Generates:
    async def __call__(self):
        yield 1


@pytest.mark.parametrize("decorate", [cached, cached(ttl=5), invalidate(tags=("t",))])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_values, "is an async generator"), (functools.partial(_values), "is an async generator"),
        (Generates(), "is an async generator"), (Generates().__call__, "is an async generator"),
        (contextlib.asynccontextmanager(_values), "wraps an async generator"),
        (_numbers, "is a generator"), (contextlib.contextmanager(_numbers), "wraps a generator"),
        (wrapped(_one), "not an async function, but wraps one; make the wrapper an async def, or put @"),
        (functools.lru_cache(_one), "wraps one"), (Generates, "is a class"),
    ],
)  # fmt: skip
def test_what_cannot_be_cached_is_refused_by_name(decorate, function, message):
    with pytest.raises(TypeError, match=message):
        decorate(function)


def test_other_misuse():
    with pytest.raises(TypeError, match="5 is not a function"):
        cached(ttl=5)(5)
    with pytest.raises(TypeError, match="has no signature"):
        cached(iter)
    with pytest.raises(ValueError, match=r"stale_ttl = 5.* none for a plain def"):
        cached(options=LoadOptions(stale_ttl=5))(len)
    with pytest.raises(TypeError, match="is not an async function, and dropping values must be awaited"):
        invalidate(tags=("t",))(len)
