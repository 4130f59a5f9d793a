"""Results that callers read themselves, and then offer to the cache."""

import pytest

USERS = "SELECT * FROM users WHERE id = ?"
READ = "SELECT v FROM t"


async def test_the_manual_flow_is_as_safe_around_a_write(optimizer):
    assert await optimizer.get_cached_result(USERS) is None
    stale = ["read before the write"]
    await optimizer.invalidate_tables("public.Users")
    assert await optimizer.cache_query_result(USERS, stale) is False
    assert await optimizer.get_cached_result(USERS) is None
    assert await optimizer.cache_query_result(USERS, ["fresh"]) is True
    assert await optimizer.get_cached_result(USERS) == ["fresh"]


async def test_a_miss_never_answered_does_not_keep_a_query_out_of_the_cache(optimizer):
    await optimizer.get_cached_result(USERS)  # and the query failed
    await optimizer.invalidate_tables("users")
    await optimizer.get_cached_result(USERS)
    await optimizer.cache_query_result(USERS, ["maybe old"])
    await optimizer.get_cached_result(USERS)
    assert await optimizer.cache_query_result(USERS, ["fresh"]) is True


async def test_without_a_look_up_nothing_is_kept_but_by_the_callers_own_word(optimizer, caplog):
    for _ in range(2):
        assert await optimizer.cache_query_result(READ, ["row"]) is False
    assert caplog.text.count("say fresh=True") == 1
    assert await optimizer.cache_query_result(READ, ["row"], fresh=True) is True
    await optimizer.invalidate_tables("t")
    # The word of one caller is no look-up of another, nor one for later.
    assert await optimizer.cache_query_result(READ, ["old"]) is False
    with pytest.raises(ValueError, match="fresh = 'yes'"):
        await optimizer.cache_query_result(READ, ["row"], fresh="yes")


async def test_a_look_up_is_good_for_one_result(optimizer):
    assert await optimizer.get_cached_result(READ) is None
    assert await optimizer.cache_query_result(READ, ["row"]) is True
    assert await optimizer.cache_query_result(READ, ["of a refresher"]) is False
    assert await optimizer.get_cached_result(READ) == ["row"]
