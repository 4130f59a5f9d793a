"""Results are kept for a bounded time and in bounded number."""

from bot.core.batch_processor.results import Kept


def test_the_oldest_goes_when_there_are_too_many():
    kept = Kept(limit=3, ttl=100.0)
    for number in range(5):
        kept.put(f"i{number}", number, now=0.0)
    assert [kept.get(f"i{number}", 1.0) for number in range(5)] == [None, None, 2, 3, 4]
    assert len(kept) == 3


def test_what_is_too_old_goes_without_being_asked_for():
    kept = Kept(limit=100, ttl=10.0)
    for number in range(50):
        kept.put(f"old{number}", number, now=0.0)
    assert kept.get("old1", 10.0) is None
    for number in range(25):
        kept.put(f"new{number}", number, now=20.0)
    assert len(kept) == 25
    assert kept.get("new3", 29.9) == 3


def test_a_value_put_again_replaces_the_one_before():
    kept = Kept(limit=2, ttl=10.0)
    kept.put("a", 1, now=0.0)
    kept.put("b", 2, now=1.0)
    kept.put("a", 3, now=2.0)
    kept.put("c", 4, now=3.0)
    assert [kept.get(key, 4.0) for key in "abc"] == [3, None, 4]
    kept.drop("a")
    kept.clear()
    assert len(kept) == 0
