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
    assert caplog.text.count("pass fresh=True") == 1
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


async def test_the_time_from_the_miss_to_the_result_counts_as_an_execution(optimizer, clock):
    assert await optimizer.get_cached_result(USERS, (1,)) is None
    clock.jump(0.25)  # the caller's read
    await optimizer.cache_query_result(USERS, [{"id": 1}], params=(1,))
    figures = await optimizer.get_statistics()
    assert (figures["total_executions"], figures["cache_misses"]) == (1, 1)
    assert figures["avg_execution_time_ms"] == pytest.approx(250)


async def test_what_was_read_one_by_one_is_an_n_plus_one_pattern_here_too(optimizer):
    for user_id in range(12):
        assert await optimizer.get_cached_result(USERS, (user_id,)) is None
        await optimizer.cache_query_result(USERS, [{"id": user_id}], params=(user_id,))
    [pattern] = await optimizer.get_n_plus_one_patterns()
    assert pattern.count >= 10
    assert pattern.suggestion == "SELECT * FROM users WHERE id IN (?, ?, ...)"


@pytest.mark.parametrize(
    ("query", "result"),
    [
        ("SELECT now()", ["each time another"]),
        ("SELECT * FROM users FOR UPDATE", ["locked"]),
        ("DELETE FROM users", []),
        (USERS, (row for row in ())),
    ],
    ids=["volatile", "locking", "a write", "not to be copied"],
)
async def test_what_must_not_be_cached_is_not_kept_whatever_its_caller_says(optimizer, query, result):
    await optimizer.get_cached_result(query)
    assert await optimizer.cache_query_result(query, result) is False
    assert await optimizer.cache_query_result(query, result, fresh=True) is False
    assert await optimizer.get_cached_result(query) is None


async def test_a_result_offered_within_a_transaction_is_not_kept(optimizer):
    async with optimizer.transaction():
        await optimizer.get_cached_result(READ)
        assert await optimizer.cache_query_result(READ, ["uncommitted"]) is False
        assert await optimizer.cache_query_result(READ, ["uncommitted"], fresh=True) is False


async def test_a_look_up_in_one_scope_is_none_in_another(optimizer):
    assert await optimizer.get_cached_result(READ, scope="shop") is None
    assert await optimizer.cache_query_result(READ, ["of the crm"], scope="crm") is False
    assert await optimizer.cache_query_result(READ, ["of the shop"], scope="shop") is True
    assert await optimizer.get_cached_result(READ, scope="shop") == ["of the shop"]
    assert await optimizer.get_cached_result(READ) is None


async def test_parameters_that_cannot_be_told_apart_are_not_kept(optimizer):
    assert await optimizer.get_cached_result(USERS, (object(),)) is None
    assert await optimizer.cache_query_result(USERS, ["row"], params=(object(),), fresh=True) is False
