"""Short commands of many callers: one pipeline on one connection, and each gets his own answer."""

import asyncio
import contextlib
import random

import hiredis
import pytest
import redis
from redis.asyncio.client import Redis

from bot.core.cache_manager import CacheManager
from bot.core.redis_link import RedisLink, RedisRefusedError, RedisUnavailableError, batches, together
from bot.core.redis_link.calls import AT_ONCE
from bot.core.redis_link.wire import Wire
from tests.support.fake_redis import FakeRedis
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, running
from tests.support.waiting import equals, until

LARGE = random.Random(1).randbytes(70_000)
COUNT = "return redis.call('INCRBY', KEYS[1], ARGV[1])"


@pytest.fixture
async def link(redis_server):
    link = RedisLink(redis_server.url)
    yield link
    await link.close()


def control(server):
    return redis.Redis(port=server.port)


async def connections(server):
    """How many clients the server has, apart from who asks."""
    return await asyncio.to_thread(lambda: len(control(server).client_list()) - 1)


async def accepted(server):
    """How many connections the server ever accepted."""
    return await asyncio.to_thread(lambda: control(server).info("stats")["total_connections_received"])


class HangsUp(FakeRedis):
    """Closes each connection as soon as it has greeted, as a proxy does whose server is gone."""

    async def _serve(self, reader, writer):
        self.connections += 1
        parser = hiredis.Reader()
        greeted = False
        while not greeted and (data := await reader.read(65_536)):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                writer.write(self._greeting(command))
                greeted = greeted or b"LIB-VER" in command
        writer.close()


async def test_a_server_that_hangs_up_after_its_greeting_is_away(monkeypatch):
    # As if what it does were noticed at once, however busy this machine is.
    monkeypatch.setattr(Wire, "closed_by_server", lambda self: True)
    async with HangsUp(lambda command: None) as server, asyncio.timeout(10):
        link = RedisLink(server.url)
        with pytest.raises(RedisUnavailableError):
            await link.execute("SET", "k", 1)
        assert not link.available
        assert server.connections == 1
        await link.close()


async def test_thousands_of_calls_at_once_need_one_connection(link, redis_server):
    script = link.script(COUNT)
    before = await accepted(redis_server)
    calls = []
    for number in range(1000):
        calls += [
            link.execute("SET", f"k{number}", number),
            script([f"n{number}"], [number]),
            link.pipeline([("HSET", "h", number, b"v"), ("PUBLISH", "c", "m")]),
            link.execute("PTTL", f"other{number}"),
        ]
    answers = await asyncio.gather(*calls)
    for number in range(1000):
        assert answers[4 * number : 4 * number + 4] == [True, number, [1, 0], -2]
    # One of the link; and one of each look.
    assert await accepted(redis_server) - before == 2


async def test_they_are_run_in_the_order_in_which_they_were_asked_for(link):
    script = link.script("return redis.call('APPEND', KEYS[1], ARGV[1])")
    await asyncio.gather(*[script(["k"], [f"{number},"]) for number in range(500)])
    assert await link.execute("GET", "k") == b"".join(b"%d," % number for number in range(500))


async def test_each_gets_the_error_of_his_own_command(link):
    await link.execute("SET", "text", "t")
    script = link.script(COUNT)
    calls = [script(["text"], [1]) if number % 3 == 0 else script(["n"], [1]) for number in range(300)]
    calls.append(link.execute("HSET", "text", "a", "b"))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    wrong = [answer for answer in answers if isinstance(answer, Exception)]
    assert len(wrong) == 101
    assert all(type(error) is RedisRefusedError for error in wrong)
    assert "WRONGTYPE" in str(wrong[-1])
    assert [answer for answer in answers if not isinstance(answer, Exception)] == list(range(1, 201))
    assert link.available


async def test_a_refused_command_of_a_pipeline_leaves_the_others_run(link):
    await link.execute("SET", "text", "t")
    with pytest.raises(RedisRefusedError, match="WRONGTYPE"):
        await link.pipeline([("SET", "a", "1"), ("HSET", "text", "a", "b"), ("SET", "c", "3")])
    assert await link.execute("MGET", "a", "c") == [b"1", b"3"]


async def test_answers_are_those_of_the_driver(redis_server, link):
    commands = [
        ("SET", "k", "v"), ("SET", "k", "v", "NX"), ("EXPIRE", "k", 100), ("EXISTS", "k"), ("DEL", "none"),
        ("HSET", "h", "f", "v"), ("HEXISTS", "h", "f"), ("HDEL", "h", "f"), ("ZSCORE", "z", "m"),
        ("EVAL", "return redis.call('ZADD', 'z', 1.5, 'm')", 0), ("ZSCORE", "z", "m"), ("ZREM", "z", "m"),
        ("XLEN", "s"), ("TTL", "k"), ("UNLINK", "k"), ("PUBLISH", "c", "m"),
    ]  # fmt: skip
    ours = [await link.execute(*command) for command in commands]
    await link.execute("FLUSHDB")
    async with Redis.from_url(redis_server.url, protocol=3) as client:
        assert ours == [await client.execute_command(*command) for command in commands]


@pytest.mark.parametrize("protocol", [2, 3])
async def test_either_protocol_will_do(redis_server, protocol):
    link = RedisLink(f"{redis_server.url}?protocol={protocol}")
    script = link.script(COUNT)
    assert await asyncio.gather(*[script(["n"], [1]) for _ in range(200)]) == list(range(1, 201))
    await link.close()


# Cancellation.


async def test_one_who_is_cancelled_before_his_turn_is_not_sent_and_others_are(link):
    script = link.script(COUNT)
    await script(["n"], [0])
    calls = [asyncio.create_task(script(["n"], [1])) for _ in range(300)]
    await asyncio.sleep(0)  # each has asked
    for call in calls[::2]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers[::2]] == [asyncio.CancelledError] * 150
    found = [answer for answer in answers[1::2] if isinstance(answer, int)]
    assert len(found) == 150
    # What had been sent when it was cancelled is run: those of the first batch, and no more.
    assert 150 <= int(await link.execute("GET", "n")) <= 150 + batches.LARGE_BATCH
    assert found == sorted(found)


async def test_one_who_is_cancelled_while_his_answer_is_under_way_takes_nobody_with_him(redis_server):
    link = RedisLink(redis_server.url, timeout=5.0)
    script = link.script(COUNT)
    await script(["n"], [0])
    redis_server.freeze()
    try:
        first = asyncio.create_task(script(["n"], [1]))
        second = asyncio.create_task(script(["n"], [1]))
        third = asyncio.create_task(script(["n"], [1]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
    finally:
        redis_server.thaw()
    assert (await first, await third) in ((1, 2), (1, 3))
    await link.close()


# Sizes, and commands that go alone.


async def test_large_commands_wait_for_few_connections_and_small_ones_do_not_wait_for_them(
    link, redis_server
):
    large = b"x" * (together.MAX_CALL + 1)
    before = await accepted(redis_server)
    answers = await asyncio.gather(
        *[link.execute("SET", f"large{number}", large) for number in range(50)],
        *[link.pipeline([("SET", f"small{number}", b"1")]) for number in range(50)],
    )
    assert answers == [True] * 50 + [[b"OK"]] * 50
    assert await accepted(redis_server) - before <= AT_ONCE + 2
    assert await link.execute("EXISTS", *[f"large{number}" for number in range(50)]) == 50


async def test_a_command_that_waits_takes_no_place(link):
    await link.execute("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
    waiting = [
        asyncio.create_task(
            link.execute("XREADGROUP", "GROUP", "g", f"c{n}", "COUNT", 1, "BLOCK", 700, "STREAMS", "s", ">")
        )
        for n in range(2 * AT_ONCE)
    ]
    await until(lambda: blocked(link, 2 * AT_ONCE))
    assert await asyncio.gather(*[link.execute("GET", "k") for _ in range(50)]) == [None] * 50
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def blocked(link, count):
    return (await link.execute("INFO", "clients"))["blocked_clients"] == count


async def test_other_operations_share_few_connections(link, redis_server):
    before = await accepted(redis_server)
    answers = await asyncio.gather(*[link.execute("GET", "k") for _ in range(500)])
    assert answers == [None] * 500
    assert await accepted(redis_server) - before <= AT_ONCE + 1


# Connections that break.


async def test_a_connection_that_the_server_closed_is_noticed_before_it_is_used(link, redis_server):
    script = link.script(COUNT)
    for number in range(1, 20):
        assert await script(["n"], [1]) == number
        control(redis_server).execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def test_when_the_connection_breaks_what_may_be_repeated_is_and_nothing_else(redis_server, caplog):
    async with Proxy(port=redis_server.port) as proxy:
        link = RedisLink(f"redis://127.0.0.1:{proxy.port}/0", timeout=5.0)
        script = link.script(COUNT)
        await script(["n"], [0])
        redis_server.freeze()
        sets = [asyncio.create_task(link.execute("SET", f"k{n}", n)) for n in range(100)]
        counts = [asyncio.create_task(script(["n"], [1])) for _ in range(100)]
        await asyncio.sleep(0)
        await asyncio.sleep(0.02)  # some of them were sent, and none can be answered
        proxy.cut()
        await asyncio.sleep(0.02)
        redis_server.thaw()
        assert await asyncio.gather(*sets) == [True] * 100
        answers = await asyncio.gather(*counts, return_exceptions=True)
        lost = [answer for answer in answers if not isinstance(answer, int)]
        assert all(type(error) is RedisUnavailableError and "lost" in str(error) for error in lost)
        assert link.available
        assert "away" not in caplog.text
        await link.close()


async def test_a_server_that_dies_fails_every_call_once_and_counts_as_one_failure(redis_server, caplog):
    link = RedisLink(redis_server.url)
    script = link.script(COUNT)
    await script(["n"], [1])
    redis_server.kill()
    answers = await asyncio.gather(*[script(["n"], [1]) for _ in range(1000)], return_exceptions=True)
    assert {type(answer) for answer in answers} == {RedisUnavailableError}
    assert len(set(map(id, answers))) == 1000
    assert not link.available
    assert caplog.text.count("going on without it") == 1
    redis_server.start()
    await until(lambda: answers_again(script), timeout=20)
    await link.close()


async def answers_again(script):
    with contextlib.suppress(RedisUnavailableError):
        return await script(["n"], [1])


async def test_calls_that_have_waited_too_long_for_their_turn_are_refused(redis_server, monkeypatch):
    link = RedisLink(redis_server.url, timeout=0.5)
    monkeypatch.setattr(together, "LONGEST_WAIT", -1)
    with pytest.raises(RedisUnavailableError, match="too many calls wait"):
        await link.execute("SET", "k", "v")
    assert link.available
    monkeypatch.undo()
    assert await link.execute("SET", "k", "v")
    await link.close()


# A server with few connections.


@pytest.mark.server
async def test_a_server_of_twenty_connections_is_enough_for_hundreds_of_calls():
    with running(RedisServer(extra=("--maxclients", "20"))) as server:
        cache = CacheManager()
        await cache.enable(redis_url=server.url, l1_max_entries=1)
        calls = []
        for number in range(200):
            calls += [
                cache.set(f"k{number}", {"id": number}),
                cache.incr(f"n{number % 10}"),
                cache.delete(f"none{number}"),
                cache.set(f"large{number % 20}", LARGE if number < 40 else number),
            ]
        answers = await asyncio.gather(*calls)
        assert answers[::4] == [True] * 200
        assert sorted(answers[1::4]) == sorted(list(range(1, 21)) * 10)
        assert cache._l2.link.available
        assert cache._l2.in_step
        for number in range(0, 200, 20):
            assert await cache.get(f"k{number}") == {"id": number}
        assert (await cache.get_statistics())["degraded"] is False
        await cache.disable()


async def test_without_room_for_another_connection_all_commands_use_the_one_that_stands(
    link, redis_server, caplog
):
    script = link.script(COUNT)
    await script(["n"], [0])
    here = control(redis_server)
    here.config_set("maxclients", len(here.client_list()))
    answers = await asyncio.gather(
        *[link.execute("GET", "n") for _ in range(20)],
        *[link.execute("SET", f"k{number}", b"x" * 100_000) for number in range(20)],
        link.pipeline([("GET", "n"), ("PUBLISH", "c", "m")]),
        *[script(["n"], [1]) for _ in range(20)],
    )
    assert all(answer in (b"%d" % number for number in range(21)) for answer in answers[:20])
    assert answers[20:40] == [True] * 20
    assert answers[41:] == list(range(1, 21))
    assert link.available
    assert caplog.text.count("takes no more connections") == 1
    here.config_set("maxclients", 1000)


async def test_closing_the_link_closes_its_connection(link, redis_server):
    await link.execute("SET", "k", "v")
    await until(lambda: equals(lambda: connections(redis_server), 1))
    await link.close()
    await until(lambda: equals(lambda: connections(redis_server), 0))
    assert await link.execute("SET", "k", "v")
