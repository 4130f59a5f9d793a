"""The cache against a plain dict, on a virtual clock: it may forget, and it never serves what is not so."""

import asyncio
from contextvars import copy_context

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bot.core.cache_manager import CacheManager
from bot.core.cache_manager.events import KINDS
from bot.core.cache_manager.keys import compile_glob
from tests.support.clock import VirtualClock
from tests.support.searching import searching

keys = st.sampled_from(["a:1", "a:2", "b:1", "b:2", "c"])
spaces = st.sampled_from(["default", "users", "files"])
values = st.one_of(
    st.none(), st.integers(), st.lists(st.integers(), max_size=3), st.dictionaries(st.text(), st.none())
)
tags = st.frozensets(st.sampled_from("xyz"), max_size=2)
ttls = st.floats(0.5, 20)


class Cache(RuleBasedStateMachine):
    eviction = "s3fifo"

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = VirtualClock()
        self.cache = CacheManager(clock=self.clock)
        self.run(self.cache.enable(eviction=self.eviction))
        self.model = {}  # (space, key) -> value, expires at, tags
        self.heard = []
        self.hooks = []  # what ends them
        self.bypasses = []  # of other tasks: their contexts, and what ends them

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def expected(self, space, key):
        value, expires_at, _ = self.model.get((space, key), ("absent", 0.0, ()))
        return value if self.clock.monotonic() < expires_at else "absent"

    @rule(space=spaces, key=keys, value=values, ttl=ttls, tags=tags)
    def set(self, space, key, value, ttl, tags):
        assert self.run(self.cache.set(key, value, ttl, space, tuple(tags)))
        self.model[space, key] = (value, self.clock.monotonic() + ttl, tags)

    @rule(space=spaces, key=keys)
    def get(self, space, key):
        assert self.run(self.cache.get(key, space, "absent")) == self.expected(space, key)

    @rule(space=spaces, key=keys)
    def get_local(self, space, key):
        assert self.cache.get_local(key, space, "absent") == self.expected(space, key)

    @rule(event=st.sampled_from(KINDS))
    def listen(self, event):
        self.hooks.append(self.cache.on(event, self.heard.append))

    @rule()
    def listen_no_more(self):
        if self.hooks:
            self.hooks.pop(0)()

    @rule()
    def another_task_begins_a_bypass(self):
        context, bypass = copy_context(), self.cache.bypass()
        context.run(bypass.__enter__)
        self.bypasses.append((context, bypass))

    @rule()
    def another_task_ends_its_bypass(self):
        if self.bypasses:
            context, bypass = self.bypasses.pop(0)
            context.run(bypass.__exit__, None, None, None)

    @rule(space=spaces, key=keys, value=values, stored=values)
    def in_a_bypass(self, space, key, value, stored):
        async def loader():
            return value

        async def calls():
            with self.cache.bypass():
                assert await self.cache.get(key, space, "absent") == "absent"
                assert await self.cache.get_or_load(key, loader, 10, space) == value
                assert not await self.cache.set("c", stored, 10, space)

        self.run(calls())
        self.model.pop((space, "c"), None)

    @rule(space=spaces, key=keys, ttl=ttls)
    def touch(self, space, key, ttl):
        there = self.expected(space, key) != "absent"
        assert self.run(self.cache.touch(key, ttl, space)) is there
        if there:
            value, _, tags = self.model[space, key]
            self.model[space, key] = (value, self.clock.monotonic() + ttl, tags)

    @rule(space=spaces, key=keys, value=values, ttl=ttls)
    def add(self, space, key, value, ttl):
        there = self.expected(space, key) != "absent"
        assert self.run(self.cache.add(key, value, ttl, space)) is not there
        if not there:
            self.model[space, key] = (value, self.clock.monotonic() + ttl, frozenset())

    @rule(space=spaces, key=keys, by=st.integers(-5, 5), ttl=ttls)
    def incr(self, space, key, by, ttl):
        before = self.expected(space, key)
        if before != "absent" and (type(before) is not int or abs(before + by) > 2**53 - 1):
            with pytest.raises((TypeError, ValueError)):
                self.run(self.cache.incr(key, by, space, ttl))
            return
        if before == "absent":
            before, expires_at, tags = 0, self.clock.monotonic() + ttl, frozenset()
        else:
            _, expires_at, tags = self.model[space, key]
        assert self.run(self.cache.incr(key, by, space, ttl)) == before + by
        self.model[space, key] = (before + by, expires_at, tags)

    @rule(space=spaces, key=keys)
    def time_left(self, space, key):
        expires_at = self.model.get((space, key), (0, 0.0, ()))[1]
        left = max(0.0, expires_at - self.clock.monotonic()) if self.expected(space, key) != "absent" else 0.0
        assert self.run(self.cache.ttl(key, space)) == pytest.approx(left)
        assert self.run(self.cache.exists(key, space)) is (left > 0)

    @rule(space=spaces, wanted=st.lists(keys), ttl=ttls)
    def load_many(self, space, wanted, ttl):
        asked = []

        async def loader(missing):
            asked.extend(missing)
            return {key: key for key in missing if not key.startswith("b")}

        found = self.run(self.cache.get_or_load_many(wanted, loader, ttl, space))
        missing = [key for key in dict.fromkeys(wanted) if self.expected(space, key) == "absent"]
        assert asked == missing
        for key in missing:
            if not key.startswith("b"):
                self.model[space, key] = (key, self.clock.monotonic() + ttl, frozenset())
        expected = {key: self.expected(space, key) for key in dict.fromkeys(wanted)}
        assert found == {key: value for key, value in expected.items() if value != "absent"}

    @rule(space=spaces, wanted=st.lists(keys))
    def get_many(self, space, wanted):
        found = self.run(self.cache.get_many(wanted, space))
        assert {key: found.get(key, "absent") for key in wanted} == {
            k: self.expected(space, k) for k in wanted
        }

    @rule(space=spaces, key=keys, value=values, ttl=ttls)
    def load(self, space, key, value, ttl):
        async def loader():
            return value

        before = self.expected(space, key)
        got = self.run(self.cache.get_or_load(key, loader, ttl, space))
        assert got == (value if before == "absent" else before)
        if before == "absent":
            self.model[space, key] = (value, self.clock.monotonic() + ttl, ())

    @rule(space=spaces, key=keys)
    def delete(self, space, key):
        had = self.expected(space, key) != "absent"
        assert self.run(self.cache.delete(key, space)) == had
        self.model.pop((space, key), None)

    @rule(tag=st.sampled_from("xyz"))
    def invalidate_tag(self, tag):
        self.run(self.cache.invalidate_tag(tag))
        self.model = {at: entry for at, entry in self.model.items() if tag not in entry[2]}

    @rule(space=spaces, pattern=st.sampled_from(["a:*", "*:1", "?", "[bc]*", "none"]))
    def invalidate_pattern(self, space, pattern):
        self.run(self.cache.invalidate_pattern(pattern, space))
        matches = compile_glob(pattern).fullmatch
        self.model = {at: e for at, e in self.model.items() if at[0] != space or not matches(at[1])}

    @rule(space=st.none() | spaces)
    def clear(self, space):
        self.run(self.cache.clear(space))
        self.model = {at: entry for at, entry in self.model.items() if space not in (None, at[0])}

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds):
        self.clock.jump(seconds)

    @invariant()
    def parts_agree(self):
        self.cache._tiers.local.l1.check_invariants()

    def teardown(self):
        while self.hooks or self.bypasses:
            self.listen_no_more()
            self.another_task_ends_its_bypass()
        assert (self.cache._watched, self.cache._observed, self.cache._bypasses) == (False, False, 0)
        assert self.eviction == "lru" or self.cache._spaces is self.cache._tiers.local.l1.store.spaces
        self.run(self.cache.disable())
        self.loop.close()


class LruCache(Cache):
    eviction = "lru"


TestCache = Cache.TestCase
TestCache.settings = searching(40, stateful_step_count=40)
TestLruCache = LruCache.TestCase
TestLruCache.settings = TestCache.settings
