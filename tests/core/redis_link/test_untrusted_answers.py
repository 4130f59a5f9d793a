"""Answers are untrusted: callers get an error of the library at worst, and never another's answer."""

import asyncio
import random

import pytest

from bot.core._shared.errors import BackendError
from bot.core.redis_link import RedisLink, RedisRefusedError, RedisUnavailableError, told
from tests.support.fake_redis import FakeRedis
from tests.support.searching import cases

ODD = {
    "null": b"_\r\n",
    "null bulk": b"$-1\r\n",
    "number": b":7\r\n",
    "text": b"+what\r\n",
    "bytes": b"$3\r\n\xff\x00\xfe\r\n",
    "empty list": b"*0\r\n",
    "list of numbers": b"*2\r\n:1\r\n:2\r\n",
    "map": b"%1\r\n+a\r\n:1\r\n",
    "nested": b"*1\r\n*1\r\n*1\r\n_\r\n",
    "true": b"#t\r\n",
    "double": b",nan\r\n",
    "big number": b"(3492890328409238509324850943850943825024385\r\n",
    "error": b"-ERR no\r\n",
    "binary error": b"-\xff\xfe\x00\r\n",
    "error in a list": b"*2\r\n-ERR no\r\n+x\r\n",
    "no protocol": b"what is this\r\n",
    "a negative length": b"*-7\r\n",
}


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD.keys())
async def test_no_answer_makes_a_call_raise_anything_else(answer):
    async with FakeRedis(lambda command: answer) as server:
        link = RedisLink(server.url, timeout=0.5)
        script = link.batched_script("return 1", lambda found, calls: [found[0] + found[1]] * calls)
        single = link.script("return 1")

        async def scanned():
            return [page async for page in link.scan(b"*")][:1]

        calls = [
            lambda: link.reader.get(b"k"),
            lambda: asyncio.gather(link.reader.get(b"k"), link.reader.get(b"l")),
            lambda: script.call(b"k", b"v"),
            lambda: single(["k"], ["v"]),
            lambda: link.execute("GET", "k"),
            lambda: link.execute("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"),
            lambda: link.execute("XRANGE", "s", "-", "+"),
            lambda: link.pipeline([("SET", "a", 1), ("PUBLISH", "c", "m"), ("UNLINK", "a")]),
            lambda: link.unlink([b"a", b"b"]),
            scanned,
            link.probe,
        ]
        for call in calls:
            try:
                async with asyncio.timeout(5):
                    await call()
            except BackendError:
                pass
            link.breaker.succeeded()  # each call meets the server, not the breaker
        await script.stop()
        await link.close()


async def test_an_answer_that_nobody_asked_for_is_given_to_nobody():
    def answer(command):
        if command[0] == b"MGET":
            # One answer too many: the next read's would be the one before it.
            value = b"".join(b"$%d\r\n%s\r\n" % (len(key), key) for key in command[1:])
            return b"*%d\r\n%s" % (len(command) - 1, value) * 2
        return b"+OK\r\n"

    async with FakeRedis(answer) as server:
        link = RedisLink(server.url)
        for n in range(20):
            key = b"k%d" % n
            try:
                assert await link.reader.get(key) == key
            except RedisUnavailableError:
                link.breaker.succeeded()
        await link.close()


async def test_what_the_server_pushes_is_no_answer():
    push = b">4\r\n$6\r\nMOVING\r\n:1\r\n:2\r\n$9\r\n127.0.0.1\r\n"

    def answer(command):
        if command[0] == b"MGET":
            value = b"".join(b"$%d\r\n%s\r\n" % (len(key), key) for key in command[1:])
            return push + b"*%d\r\n%s" % (len(command) - 1, value) + push
        return push + b"*1\r\n$1\r\nv\r\n"

    async with FakeRedis(answer) as server:
        link = RedisLink(server.url)
        script = link.batched_script("return 1", lambda found, calls: found)
        for n in range(10):
            key = b"k%d" % n
            assert await link.reader.get(key) == key
            assert await script.call(b"k", b"") == b"v"
        assert server.connections == 2
        await script.stop()
        await link.close()


async def test_random_answers_reach_nobody_wrongly():
    chance = random.Random(7)
    pieces = [*ODD.values(), b"*1\r\n$1\r\nv\r\n", b"*1\r\n$1\r\nv\r\n"]

    def answer(command):
        if chance.random() < 0.05:
            return ConnectionError
        return chance.choice(pieces)

    async with FakeRedis(answer) as server:
        link = RedisLink(server.url, timeout=0.5)
        script = link.batched_script("return 1", lambda found, calls: [found[n] + b"" for n in range(calls)])
        for _ in range(cases(1000)):
            link.breaker.succeeded()
            made = [link.reader.get(b"k"), script.call(b"k", b"v"), link.unlink([b"k"])]
            for found in await asyncio.gather(*made, return_exceptions=True):
                assert not isinstance(found, Exception) or isinstance(found, BackendError), repr(found)
        await script.stop()
        await link.close()


async def test_a_refused_command_is_told_without_its_values():
    secret = "what the user wrote"

    def answer(command):
        quoted = b" ".join(b"'%s'" % part for part in command[1:])
        return b"-ERR unknown command '%s', with args beginning with: %s\r\n" % (command[0], quoted)

    async with FakeRedis(answer) as server:
        link = RedisLink(server.url)
        script = link.batched_script("return 1", lambda found, calls: found)
        calls = [
            link.execute("SET", "k", secret),
            link.pipeline([("SET", "k", secret), ("PUBLISH", "c", secret)]),
            link.script("return 1")([secret], [secret]),
            script.call(secret.encode(), secret.encode()),
        ]
        for call in calls:
            with pytest.raises(RedisRefusedError, match="unknown command") as raised:
                await call
            assert secret not in str(raised.value)
        await script.stop()
        await link.close()


def test_what_is_told_is_one_short_line():
    assert told("ERR a\r\nFORGED line") == "ERR a"
    assert told("ERR \x1b[31mred") == "ERR \N{REPLACEMENT CHARACTER}[31mred"
    assert len(told("x" * 10_000_000)) == 300
    assert "hunter2" not in told("ERR redis://user:hunter2@host:6379/0")
