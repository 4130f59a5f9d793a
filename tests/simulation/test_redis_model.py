"""The model of Redis answers what a real server answers, and fails as one fails."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from urllib.parse import urlsplit

import hiredis
import pytest
import redis

from tests.simulation.determined import HostClock, determined
from tests.simulation.loop import VirtualLoop
from tests.simulation.network import Network, Route
from tests.simulation.redis_model import RedisModel
from tests.support.searching import cases
from tests.support.whole_bot import WholeBot

KEYS = [b"k1", b"k2", b"k3"]
STREAM, GROUP = b"s1", b"g"
VALUES = [b"", b"a", b"7", b"-3", b"1.5", b"\x00\xff\r\n", b"x" * 200]
SCRIPTS = [
    # What scripts of the library do with answers and errors.
    b"local n = redis.pcall('INCR', KEYS[1]) if type(n) == 'table' then return n.err end return {n, '' .. n}",
    b"return {redis.call('GET', KEYS[1]) or 'none', #ARGV, tonumber(ARGV[1]) or 'nan'}",
    b"return struct.pack('>dBh', 1.25, 7, 300) .. struct.pack('<d', -0.1)",
    b"return {struct.unpack('>dd', struct.pack('>dd', 3, 4.5))}",
    b"redis.call('HSET', KEYS[1], ARGV[1], 'v') return redis.call('HGET', KEYS[1], ARGV[1])",
    b"return {redis.call('ZADD', KEYS[1], 1.5, ARGV[1]), redis.call('ZSCORE', KEYS[1], ARGV[1])}",
    b"return redis.error_reply('MINE what')",
    b"local t = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 2) return t",
    b"return {1, 2.9, false, 'x', {ok = 'fine'}}",
    b"return string.format('%.17g %d', 0.1, 5)",
]


class DirectTransport:
    """Takes the answers of a connection of the model."""

    def __init__(self):
        self.reader = hiredis.Reader()

    def answer(self, data):
        self.reader.feed(data)


class DirectClient:
    """The model without a network."""

    def __init__(self, protocol):
        self.transport = DirectTransport()
        loop = VirtualLoop(random.Random(0))
        self.connection = RedisModel(loop, random.Random(0)).accept(self.transport)
        self.ask(b"HELLO", b"%d" % protocol)

    def ask(self, *command):
        self.connection.feed(hiredis.pack_command(command))
        return self.transport.reader.gets()


class RealClient:
    """A real server, without a client's ideas of answers."""

    def __init__(self, url, protocol):
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname, address.port))
        self.reader = hiredis.Reader()
        self.ask(b"HELLO", b"%d" % protocol)
        self.ask(b"SELECT", address.path[1:] or b"0")

    def ask(self, *command):
        self.socket.sendall(hiredis.pack_command(command))
        while (answer := self.reader.gets()) is False:
            self.reader.feed(self.socket.recv(65_536))
        return answer


def command(chance):
    key, other, value = chance.choice(KEYS), chance.choice(KEYS), chance.choice(VALUES)
    entry = b"%d-%d" % (chance.randrange(1, 30), chance.randrange(3))
    consumer = chance.choice([b"c1", b"c2"])
    return chance.choice(
        [
            (b"GET", key), (b"SET", key, value), (b"SET", key, value, b"PX", b"100000"),
            (b"SET", key, value, b"NX", b"PX", b"5000"), (b"SET", key, value, b"KEEPTTL"),
            (b"MGET", key, other), (b"DEL", key), (b"UNLINK", key, other), (b"EXISTS", key), (b"PTTL", key),
            (b"PEXPIRE", key, b"90000"), (b"TYPE", key), (b"INCRBY", key, value),
            (b"HSET", key, b"f", value, b"g", b"2"), (b"HGET", key, b"f"), (b"HGETALL", key), (b"HLEN", key),
            (b"HDEL", key, b"f", b"x"), (b"HINCRBY", key, b"g", b"3"), (b"HEXISTS", key, b"g"),
            (b"HMGET", key, b"f", b"x"),
            (b"ZADD", key, b"%d.5" % chance.randrange(5), value), (b"ZADD", key, b"NX", b"3", value),
            (b"ZSCORE", key, value), (b"ZREM", key, value), (b"ZCARD", key),
            (b"ZRANGEBYSCORE", key, b"-inf", b"3", b"LIMIT", b"0", b"2"),
            (b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"),
            (b"SADD", key, value), (b"SREM", key, value), (b"SCARD", key), (b"SISMEMBER", key, value),
            (b"LPUSH", key, value), (b"RPUSH", key, value), (b"LINDEX", key, b"0"),
            (b"LREM", key, b"0", value),
            (b"LPOP", key), (b"LLEN", key), (b"LRANGE", key, b"0", b"-1"),
            (b"XADD", STREAM, entry, b"d", value), (b"XADD", STREAM, b"MAXLEN", b"5", entry, b"d", value),
            (b"XLEN", STREAM), (b"XRANGE", STREAM, b"-", b"+", b"COUNT", b"3"), (b"XDEL", STREAM, entry),
            (b"XREVRANGE", STREAM, b"+", b"-", b"COUNT", b"1"), (b"XRANGE", STREAM, b"(" + entry, b"+"),
            (b"XGROUP", b"CREATE", STREAM, GROUP, b"0", b"MKSTREAM"),
            (b"XREADGROUP", b"GROUP", GROUP, consumer, b"COUNT", b"2", b"STREAMS", STREAM, b">"),
            (b"XREADGROUP", b"GROUP", GROUP, consumer, b"COUNT", b"5", b"STREAMS", STREAM, b"0"),
            (b"XACK", STREAM, GROUP, entry), (b"XPENDING", STREAM, GROUP),
            (b"XPENDING", STREAM, GROUP, b"-", b"+", b"10"),
            (b"XPENDING", STREAM, GROUP, b"IDLE", b"0", b"-", b"+", b"10", consumer),
            (b"XCLAIM", STREAM, GROUP, consumer, b"0", entry),
            (b"XCLAIM", STREAM, GROUP, consumer, b"0", entry, b"JUSTID"),
            (b"XREAD", b"COUNT", b"2", b"STREAMS", STREAM, b"0"),
            (b"PUBLISH", b"nobody", value), (b"EVAL", chance.choice(SCRIPTS), b"1", key, value),
            (b"EVAL", SCRIPTS[7], b"1", STREAM, value), (b"EVALSHA", b"0" * 40, b"0"), (b"PING",),
            (b"NONE", b"x"),
        ]
    )  # fmt: skip


def plain(name, answer):
    """An answer without what time and version make of it; of an error, its kind."""
    if isinstance(answer, Exception):
        return str(answer).split()[0]
    if name == b"PTTL" and isinstance(answer, int) and answer > 0:
        return "some time"
    if name == b"XPENDING" and isinstance(answer, list) and answer and isinstance(answer[0], list):
        return [[entry, consumer, count] for entry, consumer, _, count in answer]
    if isinstance(answer, list):
        return [plain(b"", part) for part in answer]
    if isinstance(answer, dict):
        return {key: plain(b"", part) for key, part in answer.items()}
    return answer


@pytest.mark.parametrize("protocol", [2, 3])
def test_it_answers_as_a_real_server(redis_url, protocol):
    real = RealClient(redis_url, protocol)
    for seed in range(cases(40)):
        chance = random.Random(seed)
        model = DirectClient(protocol)
        real.ask(b"DEL", *KEYS, STREAM)
        said = []
        for _ in range(60):
            asked = command(chance)
            said.append(asked)
            expected, answer = plain(asked[0], real.ask(*asked)), plain(asked[0], model.ask(*asked))
            assert answer == expected, (seed, said)
    real.ask(b"DEL", *KEYS, STREAM)
    real.socket.close()


def simulated(main, seed=1):
    loop = VirtualLoop(random.Random(seed))
    network = Network(loop, random.Random(seed))
    clock = HostClock(loop)
    try:
        with determined(seed, loop, clock):
            model = RedisModel(loop, random.Random(seed))
            network.routes["a.redis"] = Route(model)
            return loop.run_until_complete(main(model, network))
    finally:
        loop.close()


def test_all_that_the_services_do_with_redis_works():
    async def main(model, network):
        bot = WholeBot("redis://a.redis:6379/0")
        await bot.start()
        await bot.use("w")
        await bot.use_again("w")
        await bot.stop()
        assert not network.transports
        return model.commands

    began = time.monotonic()
    assert simulated(main) > 100
    assert time.monotonic() >= began  # the clocks are the machine's again


def test_keys_expire_and_blocked_readers_wake_in_virtual_time():
    async def main(model, network):
        client = redis.asyncio.Redis(host="a.redis", protocol=3, socket_timeout=None)
        other = redis.asyncio.Redis(host="a.redis", protocol=2, socket_timeout=None)
        await client.set("k", "v", px=60_000)
        await asyncio.sleep(59)
        assert await client.get("k") == b"v"
        await asyncio.sleep(2)
        assert await client.get("k") is None
        waits = asyncio.ensure_future(client.xread({"s": "$"}, block=3_600_000))
        await asyncio.sleep(1800)
        await other.xadd("s", {"a": "b"})
        assert len(await waits) == 1
        assert not await other.xread({"s": "$"}, block=1000)
        for one in (client, other):
            await one.aclose()

    simulated(main)


def test_it_fails_as_servers_fail():
    async def main(model, network):
        client = redis.asyncio.Redis(host="a.redis", retry=None, socket_timeout=1, socket_connect_timeout=1)
        await client.set("k", "v")
        write = client.register_script("return redis.call('SET', KEYS[1], 'w')")
        model.read_only = True
        with pytest.raises(redis.ReadOnlyError):
            await client.set("k", "w")
        with pytest.raises(redis.ReadOnlyError):
            await write(keys=["k"])
        assert await client.get("k") == b"v"
        model.read_only, model.full = False, True
        with pytest.raises(redis.ResponseError, match=r"OOM|memory"):
            await client.set("k", "w")
        assert await client.delete("k") == 1
        model.full, model.loading = False, True
        with pytest.raises(redis.BusyLoadingError):
            await client.get("k")
        model.loading = False
        await client.set("k", "v")
        model.freeze()
        with pytest.raises(redis.TimeoutError):
            await client.get("k")
        model.thaw()
        assert await client.get("k") == b"v"
        model.mangle()
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            await client.get("k")
        await client.set("k", "v")
        model.kill(keeps=True)
        with pytest.raises(redis.ConnectionError):
            await client.get("k")
        model.restart()
        assert await client.get("k") == b"v"
        model.kill(keeps=False)
        model.restart()
        with pytest.raises(redis.ConnectionError):
            await client.get("k")
        assert await client.get("k") is None
        await client.set("k", "v")
        await client.hset("h", "field", "v")
        replica = model.copied()
        await client.set("k", "lost")
        await client.hset("h", "field", "lost")
        model.kill(keeps=False)
        model.load(replica)
        model.restart()
        with pytest.raises(redis.ConnectionError):
            await client.get("k")
        assert await client.get("k") == b"v"
        assert await client.hget("h", "field") == b"v"
        await client.delete("h")
        model.evictions.policy = "allkeys-lru"
        model.evict(1)
        assert await client.get("k") is None
        await client.aclose()

    simulated(main)
