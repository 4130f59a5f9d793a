"""``@invalidate``: what a changing function drops, and when."""

import asyncio
import inspect
from typing import ClassVar

import pytest

from bot.core.cache_manager import CacheManager, cached, invalidate
from tests.core.cache_manager.test_cancellation import cancelled


@pytest.fixture
async def cache():
    cache = CacheManager.get_instance()
    await cache.enable()
    yield cache
    await cache.disable()


USERS: dict[int, str] = {}


@cached("user", namespace="users", tags=("user:{user_id}",))
async def get_user(user_id, full=False):
    return USERS.get(user_id)


@cached("count", namespace="users")
async def count_users():
    return len(USERS)


async def test_tags_from_the_arguments_are_dropped(cache):
    @invalidate(tags=("user:{user_id}",))
    async def rename(user_id, name):
        USERS[user_id] = name
        return name

    USERS.update({1: "Ann", 2: "Bob"})
    assert [await get_user(1), await get_user(1, True), await get_user(2)] == ["Ann", "Ann", "Bob"]
    assert await rename(1, name="Eve") == "Eve"
    assert [await get_user(1), await get_user(1, True)] == ["Eve", "Eve"]
    assert await cache.get("user:2,False", "users") == "Bob"


async def test_the_same_call_of_cached_functions_is_dropped(cache):
    @invalidate(function=[get_user, count_users])
    async def save(name, user_id):
        USERS[user_id] = name

    USERS.clear()
    assert [await get_user(1), await get_user(1, True), await count_users()] == [None, None, 0]
    await save("Ann", 1)
    assert [await get_user(1), await count_users()] == ["Ann", 1]
    assert await get_user(1, True) is None, "another call: it has its own key"

    with pytest.raises(TypeError, match="plain data"):
        await save("Ann", [object()])
    assert list(USERS) == [1], "what has no key is refused before the function runs"


async def test_a_change_that_began_while_the_cache_was_off_is_seen_when_it_is_on_again(cache):
    begun, release = asyncio.Event(), asyncio.Event()

    @invalidate(tags=("user:{user_id}",))
    async def rename(user_id, name):
        begun.set()
        await release.wait()
        USERS[user_id] = name

    USERS[1] = "Ann"
    await cache.disable()
    change = asyncio.ensure_future(rename(1, "Eve"))
    await begun.wait()
    await cache.enable()
    assert await get_user(1) == "Ann"
    release.set()
    await change
    assert await get_user(1) == "Eve"


async def test_patterns_namespaces_and_a_function_of_the_arguments(cache):
    @invalidate(
        patterns=("menu:*",), namespace="menus", namespaces=("prices",),
        tags_from=lambda *items: [f"item:{item}" for item in items],
    )  # fmt: skip
    async def restock(*items):
        pass

    await cache.set_many({"menu:1": 1, "menu:2": 2, "other": 3}, namespace="menus")
    await cache.set("a", 1, namespace="prices")
    await cache.set("b", 1, tags=["item:5"])
    await cache.set("c", 1, tags=["item:6"])
    await restock(5, 7)
    assert await cache.get_many(["menu:1", "menu:2", "other"], "menus") == {"other": 3}
    assert [await cache.get(key) for key in "abc"] == [None, None, 1]


async def test_methods(cache):
    class Users:
        names: ClassVar = {1: "Ann"}

        @cached
        async def name(self, user_id):
            return self.names[user_id]

        @cached
        @classmethod
        async def first(cls):
            return min(cls.names)

        @invalidate(function=name)
        async def rename(self, user_id, name):
            self.names[user_id] = name

        @classmethod
        @invalidate(function=first)
        async def add(cls, user_id):
            cls.names[user_id] = "new"

    class Admins(Users):
        pass

    users, admins = Users(), Admins()
    assert [await users.name(1), await admins.name(1), await Admins.first()] == ["Ann", "Ann", 1]
    await admins.rename(1, "Eve")
    assert [await users.name(1), await admins.name(1)] == ["Ann", "Eve"], "each class has its own values"
    await Admins.add(0)
    assert await Admins.first() == 0
    assert inspect.iscoroutinefunction(Users.rename)
    assert str(inspect.signature(users.rename)) == "(user_id, name)"


async def test_an_error_and_a_cancellation_drop_too(cache):
    entered = asyncio.Event()

    @invalidate(tags=("t",))
    async def change(how):
        if how == "error":
            raise OSError("away")
        entered.set()
        await asyncio.sleep(60)

    await cache.set("k", 1, tags=["t"])
    with pytest.raises(OSError, match="away"):
        await change("error")
    assert await cache.get("k") is None

    await cache.set("k", 1, tags=["t"])
    task = asyncio.ensure_future(change("wait"))
    await entered.wait()
    assert await cache.get("k") == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await cache.get("k") is None


async def test_a_call_that_never_ran_drops_nothing(cache):
    @invalidate(tags=("t",))
    async def change(n):
        pass

    await cache.set("k", 1, tags=["t"])
    with pytest.raises(TypeError, match="missing 1 required"):
        await change()
    change(1).close()
    coroutine = change(1)
    coroutine.close()


async def test_a_load_that_began_before_the_change_is_not_cached(cache):
    source, gate, reading = ["old"], asyncio.Event(), asyncio.Event()

    @cached("slow", tags=("t",))
    async def slow():
        value = source[0]
        reading.set()
        await gate.wait()
        return value

    @invalidate(tags=("t",))
    async def change():
        source[0] = "new"

    load = asyncio.ensure_future(slow())
    await reading.wait()
    await change()
    gate.set()
    assert await load == "old"
    assert await slow() == "new"


async def test_it_reaches_the_other_instances(pair, redis_server):
    one, other = pair
    cache = CacheManager.get_instance()
    await cache.enable(redis_url=redis_server.url)
    USERS.update({1: "Ann"})

    @invalidate(function=get_user, tags=("users",))
    async def rename(user_id, name):
        USERS[user_id] = name

    await get_user(1)
    await one.set("all", ["Ann"], tags=["users"])
    assert await other.get("user:1,False", "users") == "Ann"
    assert await other.get("all") == ["Ann"]
    await rename(1, "Eve")
    while await other.get("user:1,False", "users") or await other.get("all"):
        await asyncio.sleep(0.01)
    assert await get_user(1) == "Eve"
    await cache.disable()


async def test_cancelled_twice_everything_is_dropped_in_redis_too(pair, redis_server):
    one, _ = pair
    cache = CacheManager.get_instance()
    await cache.enable(redis_url=redis_server.url)
    entered = asyncio.Event()

    @invalidate(tags=("a", "b"), patterns=("k:*",), namespaces=("n",))
    async def change():
        entered.set()
        await asyncio.sleep(60)

    await one.set("a", 1, tags=["a"])
    await one.set_many({f"k:{n}": n for n in range(50)})
    await one.set("x", 1, namespace="n")
    task = asyncio.ensure_future(change())
    await entered.wait()
    task.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await cache.get_many(["a", *[f"k:{n}" for n in range(50)]]) == {}
    assert await cache.get("x", "n") is None
    await cache.disable()


@pytest.mark.parametrize("at", range(6))
async def test_cancelled_at_any_await_of_the_dropping(pair, redis_server, at):
    one, _ = pair
    cache = CacheManager.get_instance()
    await cache.enable(redis_url=redis_server.url)

    @invalidate(tags=("t",), function=get_user, patterns=("k*",))
    async def change(user_id):
        await asyncio.sleep(0)

    await one.set_many({"k": 1, "l": 1}, tags=["t"])
    await get_user(1)
    await cancelled(change(1), at)
    assert await cache.get_many(["k", "l"]) == {}
    assert await cache.get("user:1,False", "users", "absent") == "absent"
    assert await one.exists("user:1,False", "users") is False
    await cache.disable()


async def test_a_plain_function_that_is_cached(cache):
    @cached("plain")
    def plain(user_id):
        return USERS.get(user_id)

    @invalidate(function=plain)
    @cached("saved")
    async def save(user_id):
        USERS[user_id] = "saved"

    USERS.clear()
    assert plain(1) is None
    await save(1)
    assert plain(1) == "saved"


async def test_off_the_function_is_just_called():
    @invalidate(tags=("t:{thing}",))
    async def change(thing):
        return 5

    assert await change(object()) == 5


async def _change(user_id, *items, **more):
    pass


async def _cached_of(user_id, other):
    pass


async def _cached_any(*items):
    pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected tags, tags_from, function, patterns or namespaces"),
        ({"tags": ("user:{name}",)}, "tags = 'user:{name}'"), ({"tags": "user"}, "tags = 'user'"),
        ({"tags": len}, "given as tags_from"), ({"tags_from": 5}, "tags_from = 5"),
        ({"function": _change}, "function = .* decorated by @cached"),
        ({"function": None}, "function = None"),
        ({"function": cached(_cached_of)}, r"decorated function \(user_id\), not other; use tags"),
        ({"function": cached(_cached_any)}, r"function = .*no \*items, whose values cannot be known"),
        ({"patterns": "menu:*"}, "patterns = "), ({"patterns": ("",)}, "patterns = "),
        ({"namespaces": (5,)}, "namespaces = 5"), ({"tags": ("t",), "namespace": ""}, "namespace = "),
    ],
)  # fmt: skip
def test_misuse_is_refused_where_it_is_written(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        invalidate(**arguments)(_change)
