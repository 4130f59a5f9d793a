"""Instances of registered types in both tiers, from two instances of a bot over a real Redis."""

import dataclasses
import enum

import pydantic
import pytest

from bot.core._shared.registered_types import REGISTRY
from bot.core.cache_manager import CacheManager, register_type
from bot.core.cache_manager.codec import encode
from bot.core.cache_manager.keys import redis_key
from tests.support.waiting import equals, until


@register_type
class Role(enum.Enum):
    USER = 1
    ADMIN = 2


@CacheManager.register_type
@dataclasses.dataclass(slots=True)
class User:
    id: int
    role: Role = Role.USER
    tags: list[str] = dataclasses.field(default_factory=list)


@register_type
class Page(pydantic.BaseModel):
    users: list[User]


class Unregistered(enum.Enum):
    ONE = 1


@pytest.mark.parametrize(
    "value",
    [Role.ADMIN, User(1, Role.ADMIN, ["a"]), Page(users=[User(1)]), {"users": [User(n) for n in range(50)]}],
    ids=["Enum", "dataclass", "model", "many"],
)
async def test_every_instance_gets_what_was_set_and_its_own(pair, value):
    a, b = pair
    await a.set("k", value)
    for cache in (b, b, a):
        found = await cache.get("k")
        assert found == value
        assert type(found) is type(value)
        assert found is value or (found is not value and await cache.get("k") is not found)
    figures = await b.get_statistics()
    assert (figures["l1_only_values"], figures["l2_undecodable"], figures["l2_hits"]) == (0, 0, 1)


async def test_who_changes_what_it_got_changes_nothing_for_others(pair):
    a, b = pair
    user = User(1)
    await a.set("k", user)
    user.tags.append("after it was set")
    for cache in (a, b, b):
        found = await cache.get("k")
        assert found == User(1)
        found.tags.append("x")
        found.id = 5


async def test_a_load_gives_instances_too(pair):
    async def load():
        return Page(users=[User(7)])

    for cache in (*pair, *pair):
        assert await cache.get_or_load("k", load, tags=["t"]) == Page(users=[User(7)])
    assert sum([(await cache.get_statistics())["loads"] for cache in pair]) == 1


async def test_an_unregistered_type_stays_in_memory_and_is_logged_once(pair, caplog):
    a, b = pair
    for key in "xy":
        assert await a.set(key, Unregistered.ONE)
        assert await a.get(key) is Unregistered.ONE
        assert await b.get(key) is None
    assert [record.message for record in caplog.records if "Unregistered" in record.message] == [
        "Values of type Unregistered stay in L1, because they cannot be stored in Redis:"
        " UnsupportedValueError: tests.core.cache_manager.test_registered_types.Unregistered"
    ]


async def test_a_class_of_another_deployment_is_a_miss_that_is_counted(pair, raw, caplog):
    a, _ = pair
    old = register_type(dataclasses.make_dataclass("Session", [("x", int)]), name="session")
    for key in ("k", "l"):
        await raw.execute("SET", redis_key("default", key), encode(old(1)))
    del REGISTRY.by_key[REGISTRY.by_type[old].key]  # as in the next deployment
    new = register_type(dataclasses.make_dataclass("Session", [("x", int), ("y", int, 0)]), name="session")
    assert (await a.get("k"), await a.get("l")) == (None, None)

    async def load():
        return new(2)

    assert await a.get_or_load("k", load) == new(2)
    assert await a.get("k") == new(2)
    assert (await a.get_statistics())["l2_undecodable"] == 3
    assert len([record for record in caplog.records if "counts as a miss" in record.message]) == 1


async def test_what_is_in_memory_survives_a_class_that_is_defined_again(pair):
    a, _ = pair

    def defined(*fields):
        return register_type(dataclasses.make_dataclass("Again", fields), name="again")

    first = defined(("x", int))
    await a.set("k", [first(1)])
    defined(("x", int), ("y", int, 0))
    assert await a.get("k") == [first(1)]


async def test_an_addition_of_an_instance(pair):
    a, b = pair
    assert await a.add("k", User(1))
    assert not await b.add("k", User(2))
    await until(lambda: equals(lambda: b.get("k"), User(1)))
