"""``@cached`` on functions and methods."""

import asyncio
import functools
import inspect
import os
import subprocess
import sys

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


class Repository:
    @cached(ttl=60)
    async def get(self, number):
        return f"{type(self).__name__}:{number}"

    @cached(key_prefix="kept")
    async def named(self):
        return type(self).__name__

    @cached(key=lambda self, number: str(number))
    async def keyed(self, number):
        return type(self).__name__

    @classmethod
    @cached
    async def below(cls, number):
        return cls.__name__

    @cached
    @classmethod
    async def above(cls, number):
        return cls.__name__

    @cached
    async def __call__(self, number):
        return type(self).__name__


class Users(Repository):
    pass


class Files(Repository):
    async def get(self, number):
        return "files " + await super().get(number)


async def test_classes_that_inherit_a_method_share_nothing(cache):
    repository, users, files = Repository(), Users(), Files()
    for _ in range(2):
        assert [await one.get(1) for one in (repository, users, files)] == [
            "Repository:1", "Users:1", "files Files:1"
        ]  # fmt: skip
        for call in (
            lambda one: one.named(), lambda one: one.keyed(1), lambda one: one.below(1),
            lambda one: type(one).above(1), lambda one: one.above(2), lambda one: one(1),
        ):  # fmt: skip
            assert [await call(one) for one in (repository, users, files)] == ["Repository", "Users", "Files"]
    assert await Users().get(1) == "Users:1"
    assert repository.named.cache_key() == "kept"
    assert users.named.cache_key() == f"kept@{__name__}.Users"


async def test_what_a_bound_method_drops_is_what_it_cached(cache):
    class Menu:
        @cached(ttl=60)
        async def text(self, lang="en"):
            return lang

    menu = Menu()
    await menu.text("de")
    await menu.text("en")
    assert await menu.text.invalidate("de") is True
    assert cache.get_local(Menu.text.cache_key(menu, "de")) is None
    assert cache.get_local(menu.text.cache_key()) == "en"
    text = menu.text
    assert await text(lang="fr") == "fr"
    assert await Menu.text.invalidate(menu, "fr")
    assert not await text.invalidate("fr")


async def test_of_a_class_method_too(cache):
    assert await Users.above(5) == "Users"
    assert not await Files.above.invalidate(5)
    assert await Users().above.invalidate(5)
    assert await Users.below(5) == "Users"
    if sys.version_info < (3, 13):
        assert not await Files.below.invalidate(5)
        assert await Users.below.invalidate(5)
    else:  # there is no telling which class it is about, so it has to be said
        with pytest.raises(TypeError, match="expected the class as the first argument; or put @cached above"):
            await Users.below.invalidate(5)
        assert not await Users.below.invalidate(Files, 5)
        assert await Users.below.invalidate(Users, 5)


def table(name):
    class Table(Repository):
        @cached
        async def own(self):
            return name

    return Table


async def test_classes_of_one_name_share_nothing(cache):
    one, two = table("one"), table("two")
    assert [await one().own(), await two().own()] == ["one", "two"]
    assert one().get.cache_key(1) != two().get.cache_key(1)
    assert one().get.cache_key(1) == one().get.cache_key(1)
    first, second = [type("Dynamic", (Repository,), {}) for _ in range(2)]
    assert first().get.cache_key(1) != second().get.cache_key(1)
    assert first.above.cache_key(1) != second.above.cache_key(1)


async def add(a, b=0):
    return a + b


async def test_partials_share_nothing_unless_they_bind_the_same(cache):
    one, two = cached(functools.partial(add, 1)), cached(functools.partial(add, 2))
    assert [await one(1), await two(1)] == [2, 3]
    assert one.cache_key(1) == cached(functools.partial(add, 1)).cache_key(1)
    named = [cached(key_prefix="p")(functools.partial(add, b=b)) for b in (1, 2)]
    assert [await function(1) for function in named] == [2, 3]
    assert await named[0].invalidate(1)
    opaque = [cached(functools.partial(add, object())) for _ in range(2)]
    assert opaque[0].cache_key(1) != opaque[1].cache_key(1)


class Menus:
    @cached
    async def text(self, lang):
        return lang

    german = functools.partialmethod(text, "de")


async def test_a_partial_method_is_a_call_of_its_method(cache):
    menus = Menus()
    assert await menus.german() == "de"
    assert await menus.text.invalidate("de")


class Multiply:
    def __init__(self, by):
        self.by = by

    async def __call__(self, number):
        return self.by * number

    async def method(self, number):
        return self.by * number


async def test_callable_objects_and_methods_of_one_object_share_nothing(cache):
    twice, thrice = Multiply(2), Multiply(3)
    assert [await call(5) for call in map(cached, (twice, thrice))] == [10, 15]
    assert [await call(5) for call in map(cached, (twice.method, thrice.method))] == [10, 15]


def multiplied(by):
    def decorate(function):
        @functools.wraps(function)
        async def wrapper(*args):
            return by * await function(*args)

        return wrapper

    return decorate


async def test_decorated_functions_of_one_name_share_nothing_and_are_the_same_everywhere(cache):
    twice, thrice = cached(multiplied(2)(add)), cached(multiplied(3)(add))
    assert [await twice(5), await thrice(5), await cached(add)(5)] == [10, 15, 5]
    assert twice.cache_key(5) == cached(multiplied(2)(add)).cache_key(5)


def either(first):
    if first:

        @cached
        async def load():
            return 1
    else:

        @cached
        async def load():
            return 2

    return load


async def test_two_functions_within_a_function_are_two(cache):
    assert [await either(True)(), await either(False)()] == [1, 2]
    assert either(True).cache_key() == either(True).cache_key()


@pytest.mark.server
def test_keys_are_the_same_in_every_process():
    program = (
        "from tests.core.cache_manager.test_decorators import *\n"
        "print(Users().get.cache_key(1), Files.above.cache_key(1), cached(multiplied(2)(add)).cache_key(1),"
        " cached(functools.partial(add, 1)).cache_key(1), either(True).cache_key())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    here = (
        Users().get.cache_key(1), Files.above.cache_key(1), cached(multiplied(2)(add)).cache_key(1),
        cached(functools.partial(add, 1)).cache_key(1), either(True).cache_key(),
    )  # fmt: skip
    assert printed == {" ".join(here) + "\n"}


def test_a_cached_function_looks_like_the_one_it_caches():
    users = Users()
    for function in (times(2), users.get, Users.get, Users.below, users.above, cached(add), menus_german()):
        assert inspect.iscoroutinefunction(function)
    assert str(inspect.signature(users.get)) == "(number)"
    assert str(inspect.signature(Users.get)) == "(self, number)"
    assert str(inspect.signature(Users.below)) == "(number)"
    assert (users.get.__name__, users.get.__self__) == ("get", users)
    assert users.get == users.get
    assert users.get != Users().get
    assert hash(users.get) == hash(users.get)


def menus_german():
    return Menus().german


def test_arguments_that_are_too_nested_are_refused_in_no_time():
    doubled = []
    for _ in range(60):
        doubled = [doubled, doubled]
    endless = []
    endless.append(endless)
    for value in (doubled, endless):
        with pytest.raises(TypeError, match="nested too deeply, or of too many parts; give @cached a key"):
            cached(add).cache_key(value)


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
