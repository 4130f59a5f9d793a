"""The bounded store against a plain dict: it may forget, and it never lies."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bot.core._shared.bounded_store import BoundedStore
from tests.support.searching import searching

keys = st.integers(0, 30)
spaces = st.sampled_from(["a", "b"])


class Store(RuleBasedStateMachine):
    lru = False

    def __init__(self):
        super().__init__()
        self.store = BoundedStore(max_bytes=200, max_entries=15, lru=self.lru)
        self.model = {}
        self.now = 0.0
        self.serial = 0

    @rule(
        space=spaces,
        key=keys,
        size=st.integers(1, 60),
        ttl=st.none() | st.floats(0.1, 20),
        keep=st.floats(0, 5),
    )
    def put(self, space, key, size, ttl, keep):
        self.serial += 1
        self.store.put(space, key, self.serial, size=size, now=self.now, ttl=ttl, keep=keep)
        self.model[space, key] = (self.serial, float("inf") if ttl is None else self.now + ttl)

    @rule(space=spaces, key=keys)
    def get(self, space, key):
        entry = self.store.get(space, key, self.now)
        if entry is not None:
            value, expires_at = self.model[space, key]
            assert entry.value == value
            assert self.now < expires_at

    @rule(space=spaces, key=keys)
    def remove(self, space, key):
        self.store.remove(space, key)
        self.model.pop((space, key), None)
        assert self.store.peek(space, key, self.now) is None

    @rule(space=st.none() | spaces)
    def clear(self, space):
        self.store.clear(space)
        for name, key in list(self.model):
            if space in (None, name):
                del self.model[name, key]

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def expire(self):
        self.store.expire(self.now)

    @rule(max_bytes=st.integers(60, 300), max_entries=st.integers(1, 20))
    def resize(self, max_bytes, max_entries):
        self.store.resize(max_bytes=max_bytes, max_entries=max_entries)

    @invariant()
    def holds_together(self):
        self.store.check_invariants()
        for entry in self.store.entries():
            assert self.model[entry.space, entry.key][0] == entry.value


TestStore = Store.TestCase
TestStore.settings = searching(80, stateful_step_count=60)


class LruStore(Store):
    lru = True


TestLruStore = LruStore.TestCase
TestLruStore.settings = TestStore.settings
