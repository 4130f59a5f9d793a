"""Graphs of objects copied: cycles kept, bounded, without recursion, and nothing of theirs loaded."""

import asyncio
import collections
import copy
import dataclasses
import enum
import functools
import io
import sqlite3
import threading
import types
from typing import NamedTuple

import msgspec
import pytest

from bot.core._shared.isolation import freeze
from bot.core._shared.object_copy import MAX_WORK, UncopyableError, copy_object


class Node:
    pass


def chain(length):
    first = last = Node()
    for _ in range(length):
        last.next = Node()
        last = last.next
    return first


def test_posts_that_point_back_to_their_user():
    user = Node()
    user.posts = []
    for number in range(1000):
        post = Node()
        post.user, post.number = user, number
        user.posts.append(post)
    frozen = freeze(user)
    copied = frozen.thaw(frozen.value)
    assert copied is not user
    assert [post.number for post in copied.posts] == list(range(1000))
    assert all(post.user is copied for post in copied.posts)
    assert {id(post) for post in copied.posts}.isdisjoint(map(id, user.posts))


def test_cycles_through_any_container_are_kept():
    for made in (list, tuple, dict, set, frozenset):
        node = Node()
        node.inside = made([("self", node)]) if made is dict else made([node])
        copied = copy_object(node)
        part = copied.inside["self"] if made is dict else next(iter(copied.inside))
        assert part is copied
        assert copied is not node
    pair = ([],)
    pair[0].append(pair)
    assert copy_object(pair)[0][0][0] is not pair[0]


def test_a_long_chain_takes_no_stack_and_a_longer_one_is_refused():
    copied, length = copy_object(chain(15_000)), 0
    while hasattr(copied, "next"):
        copied, length = copied.next, length + 1
    assert length == 15_000
    with pytest.raises(UncopyableError, match=f"more than {MAX_WORK // 2:,} parts"):
        copy_object(chain(100_000))


class Own:
    """Copies itself, a client excepted."""

    def __init__(self, client, items):
        self.client, self.items = client, items

    def __deepcopy__(self, memo):
        made = memo[id(self)] = Own(self.client, None)
        made.items = copy.deepcopy(self.items, memo)
        return made


def test_an_object_copies_itself_as_it_says_and_is_bounded_too():
    client = chain(10_000)
    value = Own(client, [["x" * 1000]])
    frozen = freeze(value)
    copied = frozen.thaw(frozen.value)
    assert copied.client is client
    assert copied.items == value.items
    assert copied.items[0] is not value.items[0]
    assert 1000 < frozen.size < 5000, "what it shares with its copy is not charged"
    for _ in range(10_000):
        value = Own(None, value)
    with pytest.raises(TypeError, match="recursion"):
        freeze(value)

    class Endless:
        def __deepcopy__(self, memo):
            for _ in range(10 * MAX_WORK):
                copy.deepcopy([], memo)

    with pytest.raises(TypeError, match="more than"):
        freeze(Endless())


class Endless:
    def __reduce_ex__(self, protocol):
        return (Endless, (), {"another": Endless()})


def test_an_object_that_never_ends_is_refused():
    with pytest.raises(TypeError, match="more than"):
        freeze(Endless())


class Lazy:
    """As the rows of an ORM: what is not loaded is loaded when it is asked for."""

    def __init__(self):
        self.id = 1

    def __getattr__(self, name):
        raise AssertionError(f"{name} was loaded")

    @property
    def posts(self):
        raise AssertionError("posts were loaded")


class LazySlots(Lazy):
    __slots__ = ("unset", "value")

    def __init__(self):
        super().__init__()
        self.value = [1]


def test_nothing_is_loaded():
    for value in (Lazy(), LazySlots()):
        frozen = freeze([value])
        copied = frozen.thaw(frozen.value)[0]
        assert vars(copied) == {"id": 1}
    assert copied.value == [1]
    assert copied.value is not value.value


class Proxy:
    __slots__ = ("inside",)

    @property
    def __class__(self):
        raise AssertionError("the class was asked for")


def test_an_object_that_hides_its_class_is_copied():
    value = Proxy()
    value.inside = [1]
    assert copy_object([value])[0].inside == [1]


class Unhashable(type):
    def __eq__(cls, other):
        return True


class Silent(type):
    def __getattribute__(cls, name):
        raise RuntimeError("no")


@pytest.mark.parametrize("kind", [Unhashable, Silent])
def test_a_class_of_an_odd_class_is_refused_by_name(kind):
    value = kind("Odd", (), {})()
    with pytest.raises(TypeError, match="a value of type list cannot be copied"):
        freeze([value])


class Client:
    def __init__(self, loop):
        self.handlers = [lambda: None] * 1000
        self.loop = loop
        self.cache = {n: Node() for n in range(10_000)}


async def test_what_holds_something_that_goes_on_is_refused_by_name():
    user = Node()
    user.client = Client(asyncio.get_running_loop())
    with pytest.raises(TypeError, match=r"it holds a .*Loop, which is no value"):
        freeze(user)
    going_on = asyncio.get_running_loop().create_future()
    drawn = iter(io.BytesIO(b"x").readline, b"")  # a copy would draw from the same
    for value in (going_on, (n for n in ()), threading.Thread(), threading.Lock(), memoryview(b"x"), drawn):
        with pytest.raises(TypeError, match="cannot be copied"):
            freeze({"value": value})
    with open("/dev/null") as file, pytest.raises(TypeError, match="it holds a TextIOWrapper"):
        freeze(file)


class Kept:
    """As the objects of pyrogram, which leave their client out of a copy."""

    def __init__(self, client):
        self.client, self.name = client, "n"

    def __getstate__(self):
        return {"name": self.name}


def test_what_an_object_leaves_out_is_not_looked_at():
    frozen = freeze(Kept(threading.Lock()))
    assert vars(frozen.thaw(frozen.value)) == {"name": "n"}


class Point(NamedTuple):
    x: int
    tags: object


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Closed:
    name: str
    tags: list


class Struct(msgspec.Struct):
    name: str
    tags: list


class Items(list):
    pass


def test_each_kind_comes_back_as_what_it_was():
    values = [
        Point(1, ["t"]), Closed("n", ["t"]), Struct("n", ["t"]), Items([["t"]]),
        collections.OrderedDict(a=["t"]), collections.defaultdict(list, a=["t"]),
        collections.deque([["t"]], 5), collections.Counter("abc"), types.SimpleNamespace(a=["t"]),
    ]  # fmt: skip
    for value in values:
        frozen = freeze(value)
        copied = frozen.thaw(frozen.value)
        assert copied == value
        assert type(copied) is type(value)
        assert frozen.value is not value
    assert copy_object(collections.defaultdict(list))["new"] == []
    assert copy_object(collections.deque(maxlen=5)).maxlen == 5
    stream = copy_object(io.BytesIO(b"abc"))
    assert stream.read() == b"abc"
    error = copy_object(ValueError("a", ["b"]))
    assert error.args == ("a", ["b"])
    assert copy_object(functools.partial(int, base=2))("11") == 3


def test_what_cannot_change_is_shared():
    for value in (Point(1, "t"), Colour.RED, Point, len, Point(1, (Colour.RED, frozenset([(1, 2)])))):
        assert freeze(value).thaw is None
        assert freeze([value]).value[0] is value


def test_rows_of_sqlite_are_kept_as_they_are():
    connection = sqlite3.connect(":memory:", detect_types=sqlite3.PARSE_DECLTYPES)
    connection.row_factory = sqlite3.Row
    rows = connection.execute("SELECT 1 AS a, 'text' AS b, NULL AS c").fetchall()
    for value in (rows, rows[0], {"rows": rows}, (rows[0],)):
        frozen = freeze(value)
        assert frozen.size > 100
        got = value if frozen.thaw is None else frozen.thaw(frozen.value)
        assert got == value
    assert freeze(rows).value[0] is rows[0]
    assert freeze(rows).value is not rows
    sqlite3.register_converter("things", lambda raw: raw.split())
    connection.execute("CREATE TABLE t (a things)")
    connection.execute("INSERT INTO t VALUES ('x y')")
    with pytest.raises(TypeError, match=r"a row of type Row with a list in it.*: keep dict\(row\) instead"):
        freeze(connection.execute("SELECT a FROM t").fetchall())
    connection.close()
