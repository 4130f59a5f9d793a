"""What travels to Redis together, who gets which answer, and what becomes of who is cancelled."""

import asyncio
import struct
import time

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.redis_link import (
    LARGE_BATCH,
    MAX_CALLS,
    MAX_KEYS,
    RedisLink,
    RedisRefusedError,
    RedisUnavailableError,
)

ECHO = "local found = {} for i = 1, #KEYS do found[i] = KEYS[i] .. ':' .. ARGV[i] end return found"


def each(answer, calls):
    if not isinstance(answer, list) or len(answer) != calls:
        raise ValueError(f"expected {calls} values")
    return answer


@pytest.fixture
async def link(redis_server):
    link = RedisLink(redis_server.url, timeout=1.0)
    yield link
    await link.close()


# Reads.


async def test_reads_of_one_tick_travel_as_one(link):
    await link.execute("MSET", "a", "1", "b", "2")
    assert await asyncio.gather(*[link.reader.get(key) for key in (b"a", b"b", b"c", b"a")]) == [
        b"1",
        b"2",
        None,
        b"1",
    ]
    assert link.reader.batches == 1
    assert link.reader.keys_read == 3


@pytest.mark.parametrize(
    "count", [1, LARGE_BATCH - 1, LARGE_BATCH, LARGE_BATCH + 1, MAX_KEYS, 2 * MAX_KEYS + 1]
)
async def test_everybody_gets_the_value_of_his_key(link, count):
    await link.execute("MSET", *[part for n in range(0, count, 2) for part in (f"k{n}", f"v{n}")])
    found = await asyncio.gather(*[link.reader.get(b"k%d" % n) for n in range(count)])
    assert found == [None if n % 2 else b"v%d" % n for n in range(count)]


async def test_one_who_gives_up_leaves_the_others_their_answers(link):
    await link.execute("MSET", "a", "1", "b", "2")
    first, second, same = link.reader.get(b"a"), link.reader.get(b"b"), link.reader.get(b"a")
    first.cancel()
    assert await second == b"2"
    assert await same == b"1"


async def test_an_error_reaches_each_caller_as_an_error_of_his_own(link, redis_server):
    await link.reader.get(b"a")
    redis_server.kill()
    answers = await asyncio.gather(*[link.reader.get(b"a") for _ in range(3)], return_exceptions=True)
    assert [type(answer) for answer in answers] == [RedisUnavailableError] * 3
    assert len(set(map(id, answers))) == 3
    with pytest.raises(RedisUnavailableError, match="is away"):
        await link.reader.get(b"a")


# Scripts.


async def test_calls_of_one_tick_are_one_call_of_the_script(link):
    script = link.batched_script(ECHO, each)
    await script.call(b"first", b"")  # which the server does not know yet
    before = script.batches, script.calls
    found = await asyncio.gather(*[script.call(b"k%d" % n, b"v%d" % n) for n in range(5)])
    assert found == [b"k%d:v%d" % (n, n) for n in range(5)]
    assert (script.batches, script.calls) == (before[0] + 1, before[1] + 5)
    await script.stop()


async def test_more_calls_than_one_run_takes_are_several(link):
    script = link.batched_script(ECHO, each)
    count = 2 * MAX_CALLS + 3
    found = await asyncio.gather(*[script.call(b"k%d" % n, b"v") for n in range(count)])
    assert found == [b"k%d:v" % n for n in range(count)]
    assert script.batches > 2
    await script.stop()


async def test_a_server_that_forgot_the_script_is_sent_it_again(link):
    script, single = link.batched_script(ECHO, each), link.script("return ARGV[1]")
    assert await script.call(b"k", b"1") == b"k:1"
    assert await single(["k"], ["1"]) == b"1"
    await link.execute("SCRIPT", "FLUSH")
    assert await asyncio.gather(script.call(b"k", b"2"), script.call(b"l", b"3")) == [b"k:2", b"l:3"]
    assert await single(["k"], ["2"]) == b"2"
    await script.stop()


async def test_a_call_cancelled_before_it_is_sent_is_not_made(link):
    script = link.batched_script("redis.call('INCR', KEYS[1]) return {1}", each)
    script.call(b"n", b"").cancel()
    await script.drain()
    assert await link.execute("GET", "n") is None
    await script.stop()


async def test_a_call_cancelled_after_it_was_sent_hands_its_result_on(link):
    script = link.batched_script(ECHO, each)
    await script.call(b"warm", b"")
    unclaimed = []
    call = script.call(b"k", b"v", (lambda result, *more: unclaimed.append((result, *more)), "who"))
    while not script._under_way:
        await asyncio.sleep(0)
    call.cancel()
    await script.drain()
    assert unclaimed == [(b"k:v", "who")]
    await script.stop()


async def test_a_script_that_raises_is_a_refusal(link):
    script = link.batched_script("return redis.error_reply('ERR no')", each)
    with pytest.raises(RedisRefusedError, match="no"):
        await script.call(b"k", b"v")
    assert link.available
    await script.stop()


@pytest.mark.parametrize(
    "body", ["return {1}", "return 7", "return 'text'", "return false", "return {ok='OK'}", "return {}"]
)
async def test_an_answer_of_the_wrong_shape_is_a_refusal(link, body):
    script = link.batched_script(body, each)
    calls = [script.call(b"k%d" % n, b"v") for n in range(3)]
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        assert type(answer) is RedisRefusedError
        assert "unexpected answer" in str(answer)
    assert link.available
    await script.stop()


# One command, several, and the rest.


async def test_a_refused_command_is_no_outage(link):
    with pytest.raises(RedisRefusedError):
        await link.execute("NONSENSE")
    assert link.available
    assert await link.execute("PING") in (b"PONG", True)


async def test_a_pipeline_runs_what_comes_after_a_refused_command(link):
    await link.execute("SET", "text", "x")
    with pytest.raises(RedisRefusedError, match="WRONGTYPE"):
        await link.pipeline([("SET", "a", 1), ("SADD", "text", 1), ("SET", "b", 2)])
    assert await link.execute("MGET", "a", "b") == [b"1", b"2"]


async def test_scan_finds_every_key_that_matches(link):
    await link.execute("MSET", *[part for n in range(2500) for part in (f"s:{n}", "x")], "other", "x")
    found = {key async for page in link.scan(b"s:*", 100) for key in page}
    assert found == {b"s:%d" % n for n in range(2500)}
    assert await link.unlink(sorted(found)[:10]) == 10
    assert await link.unlink([]) == 0


@pytest.mark.parametrize("url", ["http://x", "", "localhost:6379", "redis://h:99999", "redis://:a#b@h"])
async def test_what_is_no_address_is_refused_by_name(url):
    with pytest.raises(InvalidArgumentError, match="redis url"):
        RedisLink(url)


async def test_a_link_is_shared_until_its_last_holder_gives_it_back(redis_server):
    first, second = RedisLink.shared(redis_server.url), RedisLink.shared(redis_server.url)
    assert first is second
    await first.execute("PING")
    await first.release()
    assert await second.execute("SET", "a", "1")
    await second.release()
    assert not RedisLink._links


# Outages.


async def test_while_redis_is_away_calls_fail_at_once_and_its_return_is_told_once(redis_server, caplog):
    link = RedisLink(redis_server.url, timeout=1.0)
    told = []
    undo = link.on_recovery(lambda: told.append(1))
    await link.execute("SET", "a", "1")
    redis_server.kill()
    with pytest.raises(RedisUnavailableError):
        await link.execute("GET", "a")
    assert not link.available
    redis_server.start()

    async def back():
        async with asyncio.timeout(10):
            while not await link.probe():
                await asyncio.sleep(0.02)

    await back()
    assert link.available
    assert told == [1]
    assert caplog.text.count("going on without it") == 1
    assert caplog.text.count("is back") == 1
    undo()
    await link.close()


async def test_a_server_that_does_not_answer_costs_the_timeout_once(redis_server):
    link = RedisLink(redis_server.url, timeout=0.3)
    await link.reader.get(b"a")
    redis_server.freeze()
    with pytest.raises(RedisUnavailableError, match="no answer within"):
        await link.reader.get(b"a")
    with pytest.raises(RedisUnavailableError, match="is away"):
        await link.execute("PING")
    redis_server.thaw()
    await link.close()


async def test_numbers_pass_as_they_are(link):
    script = link.batched_script(
        "return struct.pack('<d', 0.1)", lambda answer, calls: list(struct.unpack("<d", answer))
    )
    assert await script.call(b"k", b"") == 0.1
    await script.stop()


# An event loop that is held up.


@pytest.mark.parametrize("blocked", [1.6, 3.0])
async def test_a_loop_that_is_held_up_is_no_outage(link, blocked):
    """A handler that computes for seconds makes every time limit pass; the answers lay there all along."""
    script = link.batched_script(ECHO, each)
    await link.execute("SET", "a", "1")
    await link.reader.get(b"a")
    await script.call(b"a", "x")
    calls = [
        asyncio.ensure_future(call)
        for call in (
            link.reader.get(b"a"),
            script.call(b"a", "y"),
            link.execute("GET", "a"),
            link.pipeline([("SET", "b", "2"), ("PUBLISH", "c", "m")]),
        )
    ]
    for _ in range(3):
        await asyncio.sleep(0)  # they are under way
    time.sleep(blocked)
    answers = await asyncio.gather(*calls)
    assert answers[0] == answers[2] == b"1"
    assert link.available


async def test_a_server_that_does_not_answer_is_away_all_the_same(link, redis_server):
    await link.reader.get(b"a")
    redis_server.freeze()
    with pytest.raises(RedisUnavailableError):
        await link.reader.get(b"a")
    assert not link.available
    redis_server.thaw()
