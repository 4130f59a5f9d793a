"""``@cached`` on functions and methods."""

import asyncio

import pytest

from bot.core.cache_manager import CacheManager, CircularLoadError, LoadOptions, cached


@pytest.fixture
async def cache():
    cache = CacheManager.get_instance()
    await cache.enable()
    yield cache
    await cache.disable()


async def test_one_call_for_the_same_arguments_however_they_are_given(cache):
    calls = []

    @cached(key_prefix="user", ttl=3600, namespace="users")
    async def get_user(user_id, full=False):
        calls.append((user_id, full))
        return {"id": user_id}

    for call in (get_user(1), get_user(user_id=1), get_user(1, False), get_user(full=False, user_id=1)):
        assert await call == {"id": 1}
    assert calls == [(1, False)]
    await get_user("1")
    await get_user(1, True)
    await get_user(True)
    await get_user(1.0)
    assert len(calls) == 5
    assert await cache.get("user:1,False", namespace="users") == {"id": 1}


async def test_without_parentheses_it_takes_every_default(cache):
    calls = []

    @cached
    async def load(user_id):
        calls.append(user_id)
        return user_id

    assert [await load(1), await load(1), await load(2)] == [1, 1, 2]
    assert calls == [1, 2]
    assert await load.invalidate(1)

    with pytest.raises(TypeError, match="is no async function"):

        @cached
        def plain():
            return None


@pytest.mark.parametrize("value", [None, 0, "", [], False])
async def test_falsy_results_are_cached(cache, value):
    calls = []

    @cached(key_prefix="p")
    async def load(key):
        calls.append(key)
        return value

    assert [await load("a") for _ in range(3)] == [value] * 3
    assert len(calls) == 1


async def test_self_is_left_out(cache):
    calls = []

    class Repository:
        @cached(key_prefix="r")
        async def one(self, user_id):
            calls.append(user_id)
            return user_id

        @classmethod
        @cached(key_prefix="c")
        async def two(cls, user_id):
            calls.append(user_id)
            return user_id

    await Repository().one(1)
    await Repository().one(1)
    await Repository.two(2)
    await Repository().two(2)
    assert calls == [1, 2]


async def test_a_key_function_tells_objects_apart(cache):
    class Repository:
        def __init__(self, tenant):
            self.tenant = tenant

        @cached(key_prefix="t", key=lambda self, user_id: f"{self.tenant}:{user_id}")
        async def user(self, user_id):
            return self.tenant

    assert [await Repository(tenant).user(1) for tenant in ("a", "b", "a")] == ["a", "b", "a"]
    assert await cache.get("t:a:1") == "a"


async def test_arguments_that_could_be_mistaken_for_others_are_not(cache):
    @cached(key_prefix="p")
    async def load(*args, **kwargs):
        return (args, tuple(sorted(kwargs.items())))

    calls = [
        ("a,b",), ("a", "b"), ("a','b",), ("'a'",), ("a",), (1,), ("1",), (None,), ("None",),
        ([1, 2],), ((1, 2),),
        ({"a": 1},), ({1, 2},), (b"a",), (True,), ("x" * 500,), ("x" * 501,), (),
    ]  # fmt: skip
    keys = [load.cache_key(*args) for args in calls]
    assert len(set(keys)) == len(calls)
    assert max(map(len, keys)) < 300


@pytest.mark.parametrize("digits", [150, 2000, 5000])
@pytest.mark.parametrize("sign", [1, -1])
async def test_a_number_of_any_length_is_an_argument(cache, digits, sign):
    number = sign * 10**digits
    calls = []

    @cached(key_prefix="p")
    async def load(n):
        calls.append(n)
        return n

    @cached(key_prefix="q")
    async def load_all(*numbers):
        calls.append(numbers)
        return numbers

    for _ in range(2):
        assert await load(number) == number
        assert await load(number + 1) == number + 1
        assert await load_all(number, [number]) == (number, [number])
    assert calls == [number, number + 1, (number, [number])]


def times(n, **options):
    @cached(**options)
    async def multiply(x):
        return n * x

    return multiply


async def test_closures_of_one_factory_have_answers_of_their_own(cache):
    twice, thrice = times(2), times(3)
    assert [await twice(10), await thrice(10)] == [20, 30]
    assert [await twice(10), await thrice(10)] == [20, 30]
    assert (await cache.get_statistics())["l1_hits"] == 2
    assert await twice.invalidate(10)
    assert await cache.get(thrice.cache_key(10)) == 30
    assert times(2, key_prefix="twice").cache_key(10) == times(2, key_prefix="twice").cache_key(10)


async def test_a_nested_function_that_closes_over_nothing_has_the_same_key_every_time(cache):
    def make():
        @cached()
        async def load(n):
            return n

        return load

    assert make().cache_key(1) == make().cache_key(1)


async def test_a_key_function_and_invalidation(cache):
    calls = []

    @cached(key_prefix="p", key=lambda user: str(user.id))
    async def load(user):
        calls.append(user.id)
        return user.id

    class User:
        id = 7

    await load(User())
    await load(User())
    assert calls == [7]
    assert load.cache_key(User()) == "p:7"
    assert await load.invalidate(User()) is True
    await load(User())
    assert calls == [7, 7]


async def test_an_argument_that_is_no_data_is_refused_with_advice(cache):
    @cached(key_prefix="p")
    async def load(thing):
        return None

    with pytest.raises(TypeError, match="argument of type object: expected plain data; give @cached a key"):
        await load(object())


async def test_concurrent_calls_run_once_and_cancelled_ones_leave_alone(cache):
    calls = []

    @cached(key_prefix="p")
    async def load(n):
        calls.append(n)
        await asyncio.sleep(0.02)
        return [n]

    tasks = [asyncio.ensure_future(load(1)) for _ in range(100)]
    await asyncio.sleep(0.005)
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [[1]] * 99
    assert calls == [1]


async def test_a_function_that_awaits_itself_is_told_so(cache):
    @cached(key_prefix="menu")
    async def menu(user_id):
        return await asyncio.gather(price(user_id))

    @cached(key_prefix="price", namespace="prices")
    async def price(user_id):
        return await menu(user_id)

    with pytest.raises(CircularLoadError, match="'menu:1' -> 'price:1' in 'prices' -> 'menu:1'"):
        await asyncio.wait_for(menu(1), 30)


async def test_options_are_passed_on(cache):
    calls = []

    @cached(key_prefix="p", options=LoadOptions(cache_if=bool), tags=["t"])
    async def load(n):
        calls.append(n)
        return n

    await load(0)
    await load(0)
    await load(5)
    await load(5)
    assert calls == [0, 0, 5]
    assert await cache.invalidate_tag("t") == 1


async def test_off_means_called():
    calls = []

    @cached(key_prefix="p")
    async def load(thing):
        """About it."""
        calls.append(thing)

    await load(object())
    await load(object())
    assert len(calls) == 2
    assert (load.__name__, load.__doc__) == ("load", "About it.")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"ttl": 0}, "ttl = 0"), ({"namespace": ""}, "namespace"), ({"key": 5}, "key = 5"),
        ({"key_prefix": "x" * 2000}, "key_prefix"),
    ],
)  # fmt: skip
def test_misuse_is_refused_where_it_is_written(arguments, word):
    with pytest.raises(ValueError, match=word):

        @cached(**arguments)
        async def load(n):
            return n


def test_only_async_functions_serve():
    with pytest.raises(TypeError, match="is no async function"):
        cached()(lambda n: n)
