"""The result cache's bound: texts and parameters count, a text that many results have counts once."""

import pytest

from bot.core._shared.isolation import freeze
from bot.core.query_optimizer.execution.results import ResultCache, key_of
from tests.support.memory import check_reported_bytes

SHORT = "SELECT a FROM t WHERE x = $1"
LONG = f"{SHORT} AND b IN ({', '.join(map(str, range(500)))})"
T = frozenset({"t"})

# What each number is stored as: key, rows, tables.
RESULTS = {
    "a short text": lambda n: (key_of(SHORT, (n + 1000,)), [{"a": n + 1000}], T),
    "one long text": lambda n: (key_of(LONG, (n + 1000,)), [(n + 1000,)], T),
    "equal long texts": lambda n: (key_of(f"{LONG} -- {n % 5}", (n + 1000,)), [(n + 1000,)], T),
    "long texts": lambda n: (key_of(f"{LONG} -- {n}", None), [(n + 1000,)], T),
    "of tenants": lambda n: ((f"tenant {n % 5}", key_of(LONG, (n + 1000,))), [(n + 1000,)], T),
    "of tenants, no parameters": lambda n: ((f"tenant {n}", key_of(LONG, None)), [(n + 1000,)], T),
    "long parameters": lambda n: (key_of(SHORT, (f"{n}" + "x" * 5000,)), [], T),
    "many parameters": lambda n: (key_of(SHORT, (list(range(n, n + 300)),)), [], T),
    "several parameters": lambda n: (key_of(SHORT, (n + 1000, f"{n}", None, b"x" * n)), [], T),
    "a list of parameters": lambda n: (key_of(LONG, [n + 1000, f"{n}" + "y" * 300]), [], T),
    "named parameters": lambda n: (key_of(SHORT, {"a": n + 1000, "b": f"{n}"}), [], T),
    "tables of their own": lambda n: (key_of(SHORT, (n,)), [], frozenset({f"table{n}", "t"})),
}


@pytest.mark.parametrize("kind", RESULTS)
@pytest.mark.parametrize("max_mb", [1, 100])
def test_reported_and_taken_agree(kind, max_mb):
    result = RESULTS[kind]
    cache = ResultCache(max_bytes=max_mb << 20, max_entries=100_000)

    def put(n):
        key, rows, tables = result(n)
        cache.put(key, freeze(rows), tables, begun=cache.begin(), now=n / 100, ttl=300)

    check_reported_bytes(cache.store, put, 700, max_mb << 20)
    cache.check_invariants()
    cache.write(["t"])
    assert cache.store.bytes_used == 0
    assert not cache._texts
