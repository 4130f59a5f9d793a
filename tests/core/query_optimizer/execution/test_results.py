"""The result cache: what it remembers of writes."""

from bot.core.query_optimizer.execution import results
from bot.core.query_optimizer.execution.results import ResultCache


def test_tables_that_were_written_long_ago_count_as_all(monkeypatch):
    monkeypatch.setattr(results, "MAX_TABLES", 20)
    cache = ResultCache(max_bytes=10_000, max_entries=10)
    before = cache.begin()
    for number in range(100):
        cache.write({f"t{number}"})
        cache.write({"often"})
        assert len(cache._last_write) <= 20
    assert "often" in cache._last_write, "what was written last stays"
    assert all(cache.written_since(before, [f"t{number}"]) for number in range(100))
    assert cache.written_since(before, ["never"]), "one that was forgotten, for all that is known"
    now = cache.begin()
    assert cache.version(["often"]) == now
    assert not cache.written_since(now, ["t0", "often", "never"])
