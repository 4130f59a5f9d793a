"""What can be asked of a cached function, and done with its results."""

import asyncio

import pytest

from bot.core.cache_manager import FOREVER, CacheInfo, CacheManager, LoadOptions, cached


@pytest.fixture
async def cache():
    cache = CacheManager.get_instance()
    await cache.enable()
    yield cache
    await cache.disable()


async def test_hits_misses_and_size(cache):
    @cached("user", ttl=60)
    async def get_user(user_id):
        await asyncio.sleep(0)
        if user_id < 0:
            raise LookupError(user_id)
        return user_id

    @cached("username", ttl=FOREVER)
    async def get_name(user_id):
        return str(user_id)

    assert get_user.cache_info() == CacheInfo(hits=0, misses=0, size=0, ttl=60.0)
    await get_name(1)
    await asyncio.gather(*[get_user(1) for _ in range(5)])
    await get_user(1)
    await get_user(2)
    with pytest.raises(LookupError):
        await get_user(-1)
    assert get_user.cache_info() == CacheInfo(hits=5, misses=3, size=2, ttl=60.0)
    assert get_name.cache_info() == CacheInfo(hits=0, misses=1, size=1, ttl=FOREVER)


async def test_clearing_drops_all_calls_of_this_function_only(cache):
    calls = []

    def counted(prefix, namespace="default"):
        @cached(prefix, namespace=namespace)
        async def load(*args):
            calls.append((prefix, args))
            return args

        return load

    one, longer, elsewhere = counted("us*er"), counted("us*ername"), counted("us*er", "other")
    for function in (one, longer, elsewhere):
        await function()
        await function(1)
        await function("x" * 2000)
    assert one.cache_info().size == 3
    assert await one.cache_clear() == 3
    assert [function.cache_info().size for function in (one, longer, elsewhere)] == [0, 3, 3]
    await one(1)
    assert len(calls) == 10


async def test_clearing_a_method_drops_those_of_classes_that_inherit_it(cache):
    class Shop:
        @cached("price")
        async def price(self, item):
            return item

    class Bakery(Shop):
        pass

    await Shop().price(1)
    await Bakery().price(1)
    assert Bakery().price.cache_info().size == 2
    assert await Bakery().price.cache_clear() == 2


async def test_clearing_with_a_long_name_or_a_cut_emoji(cache):
    for prefix in ("x" * 1000, "*" * 1000):

        @cached(prefix)
        async def load(n):
            return n

        await load(1)
        assert load.cache_info().size == 1
        assert await load.cache_clear() == 1


async def test_clearing_reaches_redis_and_the_other_instances(pair, redis_server):
    one, other = pair
    cache = CacheManager.get_instance()
    await cache.enable(redis_url=redis_server.url)

    @cached("user")
    async def get_user(user_id):
        return user_id

    for n in range(3):
        await get_user(n)
    assert await other.get("user:1", "default") == 1
    assert await get_user.cache_clear() == 3
    assert await one.get("user:1", "default") is None
    await cache.disable()


async def test_a_refresh_replaces_the_value(cache):
    values = iter(range(10))

    @cached("counter", tags=("counter:{n}",))
    async def counter(n):
        return next(values)

    assert [await counter(1), await counter.refresh(1), await counter(1)] == [0, 1, 1]
    assert await cache.invalidate_tag("counter:1") == 1
    assert await counter(1) == 2


async def test_a_refresh_does_not_join_a_load_that_began_before_it(cache):
    source, gate, started = ["old"], asyncio.Event(), asyncio.Event()

    @cached("p")
    async def load():
        value = source[0]
        if value == "old":
            started.set()
            await gate.wait()
        return value

    first = asyncio.ensure_future(load())
    await started.wait()
    source[0] = "new"
    assert await load.refresh() == "new"
    gate.set()
    assert await first == "old"
    assert await load() == "new"


async def test_a_refresh_that_fails_leaves_the_value_and_one_that_is_not_to_be_kept_drops_it(cache):
    value = [1]

    @cached("p", options=LoadOptions(negative_ttl=0))
    async def load():
        if value[0] == "broken":
            raise OSError("away")
        return value[0]

    await load()
    value[0] = "broken"
    with pytest.raises(OSError, match="away"):
        await load.refresh()
    assert await load() == 1
    value[0] = None
    assert await load.refresh() is None
    assert await cache.get("p", default="absent") == "absent"


async def test_a_refresh_during_which_the_key_is_dropped_is_not_cached(cache):
    @cached("p")
    async def load():
        await load.invalidate()
        return 1

    assert await load.refresh() == 1
    assert await cache.get("p") is None


async def test_of_a_bound_method(cache):
    values = iter(range(10))

    class Shop:
        @cached("price", tags=("price:{item}",))
        async def price(self, item):
            return next(values)

    shop = Shop()
    assert [await shop.price(1), await shop.price.refresh(1), await shop.price(1)] == [0, 1, 1]
    assert shop.price.cache_tags(1) == Shop.price.cache_tags(shop, 1) == ("price:1",)
    assert shop.price.cache_info().misses == 2


async def test_off_a_function_is_just_called():
    @cached("p")
    async def load(n):
        return [n]

    assert await load.refresh(1) == [1]
    assert await load.cache_clear() == 0
    assert load.cache_info() == CacheInfo(0, 0, 0, 300.0)
