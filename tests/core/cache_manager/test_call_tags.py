"""Tags made of the arguments of a call."""

import datetime
import enum
import functools
import uuid

import pytest

from bot.core.cache_manager import CacheManager, cached
from bot.core.cache_manager.call_tags import call_tags, escaped


@pytest.fixture
async def cache():
    cache = CacheManager.get_instance()
    await cache.enable()
    yield cache
    await cache.disable()


class Role(enum.StrEnum):
    ADMIN = "admin"


class Number(int, enum.Enum):
    ONE = 1


class Loud(str):
    def __str__(self):
        return self.upper()


async def test_a_tag_names_arguments(cache):
    calls = []

    @cached("user", tags=("user:{user_id}", "users"))
    async def get_user(user_id, lang="en"):
        calls.append((user_id, lang))
        return user_id

    for arguments in ((1,), (1, "de"), (2,)):
        assert await get_user(*arguments) == arguments[0]
    assert get_user.cache_tags(user_id=1) == ("user:1", "users")
    assert await cache.invalidate_tag("user:1") == 2
    await get_user(2)
    assert len(calls) == 3
    await get_user(1)
    assert len(calls) == 4
    assert await cache.invalidate_tag("users") == 2


async def test_an_attribute_of_an_argument_and_of_self(cache):
    class Chat:
        id = -1001

    class Shop:
        def __init__(self, tenant):
            self.tenant = tenant

        @cached(key=lambda self, chat, page=None: f"{self.tenant},{chat.id}", tags=(
            "shop:{self.tenant}:{chat.id}:{page}",
        ))  # fmt: skip
        async def menu(self, chat, page=None):
            return self.tenant

        @classmethod
        @cached("names", tags=("names:{number}",))
        async def names(cls, number):
            return number

    assert await Shop("a").menu(Chat) == "a"
    assert Shop("a").menu.cache_tags(Chat) == ("shop:a:-1001:None",)
    assert await Shop.names(5) == 5
    assert await cache.invalidate_tags(["shop:a:-1001:None", "names:5"]) == 2


async def test_an_attribute_that_is_not_there_is_named(cache):
    @cached("user", key=lambda user: "k", tags=("user:{user.id}",))
    async def get_user(user):
        raise AssertionError("it was called")

    with pytest.raises(TypeError, match="tags: user is None, which has no id"):
        await get_user(None)


async def test_a_function_of_the_arguments(cache):
    @cached("search", tags=("search",), tags_from=lambda *words: [f"word:{word}" for word in words])
    async def search(*words):
        return len(words)

    await search("a", "b")
    await search("c")
    assert search.cache_tags("a", "b") == ("search", "word:a", "word:b")
    assert await cache.invalidate_tag("word:b") == 1
    wrong = cached(tags_from=lambda n: "one")(_identity)
    with pytest.raises(ValueError, match="the result of tags_from = 'one': expected a sequence of tags"):
        await wrong(1)


async def _identity(n):
    return n


async def test_a_partial_keeps_what_is_left_to_name(cache):
    async def add(a, b, c=3):
        return a + b + c

    one = cached("add", tags=("c:{c}",))(functools.partial(add, 1, c=4))
    assert await one(2) == 7
    assert one.cache_tags(2) == ("c:4",)
    with pytest.raises(ValueError, match=r"not \{a\}"):
        cached(tags=("a:{a}",))(functools.partial(add, 1))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"), (-100123, "-100123"), ("7", "7"), ("a:b", "a%3Ab"), ("50%", "50%25"), ("", ""),
        ("привет мир", "привет%20мир"), ("🙂", "🙂"), (None, "None"), (True, "True"), (1.5, "1.5"),
        (Role.ADMIN, "admin"), (Number.ONE, "1"), (Loud("hi"), "hi"), ("a\n{b}", "a%0A%7Bb%7D"),
        (10**400, hex(10**400)), (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3, 4), "2026-01-02%2003%3A04%3A00"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)  # fmt: skip
def test_how_a_value_stands_in_a_tag(value, text):
    assert escaped(value) == text


@pytest.mark.parametrize("value", [[1], (1,), {}, object(), b"x", len, Exception()])
async def test_what_has_no_text_is_refused_with_advice(cache, value):
    calls = []

    @cached(tags=("t:{thing}",), key=lambda thing: "k")
    async def load(thing):
        calls.append(thing)

    with pytest.raises(TypeError, match=r"tags: argument of type \w+: .* or give tags_from"):
        await load(value)
    assert not calls


def test_one_users_text_is_never_part_of_another_tag():
    tags = call_tags("cached", _pair, ("pair:{a}:{b}",), None)
    texts = ["", "x", "x:y", ":", "%3A", "%", "x:", ":y", "{a}"]
    made = {tags((a, b), {}) for a in texts for b in texts}
    assert len(made) == len(texts) ** 2


async def _pair(a, b=None, *args, self=None, **kwargs):
    return a


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("u:{user}", r"arguments of the function in braces \(a, b, args, self, kwargs\), not {user}"),
        ("u:{}", "not {}"), ("u:{0}", "not {0}"), ("u:{a[0]}", r"not {a\[0\]}"),
        ("u:{a", "names of arguments in braces"), ("u:}", "{{ for a brace"),
        ("u:{a!r}", "no ! and no :"), ("u:{a:05}", "no ! and no :"), ("u:{a:{b}}", "no ! and no :"),
        ("u:{a.__class__}", "one public attribute"), ("u:{a._x}", "one public attribute"),
        ("u:{a.b.c}", "one public attribute"), ("u:{a.}", "one public attribute"),
        ("u:{args}", r"no \*args"), ("u:{kwargs}", r"no \*kwargs"), ("u:{self}", "an attribute of self"),
        ("{a}{b}", "a character such as : between"), ("{a}-0{b}", "a character such as : between"),
        ("{a}%{b}", "a character such as : between"),
    ],
)  # fmt: skip
def test_a_tag_that_cannot_be_filled_in_is_refused_where_it_is_written(tag, message):
    with pytest.raises(ValueError, match=message):
        cached(tags=(tag,))(_pair)


def test_what_are_no_tags_is_refused_where_it_is_written():
    with pytest.raises(ValueError, match="tags = 'user'"):
        cached(tags="user")(_pair)
    for wrong in (5, _pair):
        with pytest.raises(ValueError, match=r"tags_from = .* a plain function of the arguments"):
            cached(tags_from=wrong)(_pair)
    with pytest.raises(ValueError, match=r"tags_from = .* since tags is a function of the value"):
        cached(tags=lambda value: (), tags_from=lambda *args: ())
    assert cached(tags=("a{{1}}",))(_pair).cache_tags(1) == ("a{1}",)
    with pytest.raises(TypeError, match="the tags are a function of the value"):
        cached(tags=lambda value: ())(_pair).cache_tags(1)


async def test_off_means_that_no_tag_is_made():
    @cached(tags=("t:{thing}",))
    async def load(thing):
        return 1

    assert await load(object()) == 1


async def test_a_tag_dropped_during_the_load_keeps_the_value_out(cache):
    @cached("user", tags=("user:{user_id}",))
    async def get_user(user_id):
        await cache.invalidate_tag(f"user:{dropped}")
        return user_id

    dropped = 1
    await get_user(1)
    assert await cache.get("user:1") is None
    await get_user(2)
    assert await cache.get("user:2") == 2
