"""The result cache against a database that is a dict: no read is ever older than the last write."""

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from bot.core._shared.isolation import freeze
from bot.core.query_optimizer.execution.results import ResultCache
from tests.support.searching import searching

tables = st.sampled_from("abcd")
queries = st.frozensets(tables, min_size=1, max_size=3)


class Cache(RuleBasedStateMachine):
    under_way = Bundle("under_way")

    def __init__(self):
        super().__init__()
        self.cache = ResultCache(max_bytes=20_000, max_entries=12)
        self.database = dict.fromkeys("abcd", 0)
        self.now = 0.0

    def answer(self, query):
        return [self.database[table] for table in sorted(query)]

    @rule(query=queries, target=under_way)
    def start_reading(self, query):
        return query, self.cache.begin(), self.answer(query)

    @rule(read=consumes(under_way), ttl=st.floats(0.1, 10))
    def finish_reading(self, read, ttl):
        query, begun, rows = read
        self.cache.put(query, freeze(rows), query, begun=begun, now=self.now, ttl=ttl)

    @rule(written=st.frozensets(tables, min_size=1))
    def write(self, written):
        for table in written:
            self.database[table] += 1
        self.cache.write(written)

    @rule()
    def write_anything(self):
        for table in self.database:
            self.database[table] += 1
        self.cache.write_anything()

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds):
        self.now += seconds

    @invariant()
    def nothing_is_stale(self):
        self.cache.check_invariants()
        for query, entry in list(self.cache.live.items()):
            assert entry.value == self.answer(query)


TestResultCache = Cache.TestCase
TestResultCache.settings = searching(60, stateful_step_count=40)
