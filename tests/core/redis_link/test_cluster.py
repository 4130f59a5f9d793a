"""A link to a real Redis cluster of three nodes: reads and scripts by node, nodes away, slots that move."""

import asyncio
import contextlib

import pytest
import redis
from redis.crc import key_slot

from bot.core.redis_link import RedisLink, RedisUnavailableError
from tests.support.servers import RedisCluster

pytestmark = pytest.mark.server

ECHO = """
local answers = {}
for i, key in ipairs(KEYS) do answers[i] = ARGV[i] end
return answers
"""
KEYS = [b"rl:%d" % number for number in range(60)]


@pytest.fixture
def cluster():
    servers = RedisCluster()
    try:
        servers.start()
        yield servers
    finally:
        servers.close()


@pytest.fixture
async def link(cluster):
    link = RedisLink(cluster.url)
    yield link
    await link.close()


def echo(link):
    return link.batched_script(ECHO, lambda answers, number: answers)


async def until(condition):
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.02)


def node_of(cluster, key):
    """The server that has the key's slot, which each has a third of."""
    return cluster.nodes[
        [5461, 10923, 16384].index(next(b for b in (5461, 10923, 16384) if key_slot(key) < b))
    ]


async def outcome(call):
    try:
        return await call
    except RedisUnavailableError:
        return "unavailable"


async def test_the_first_call_finds_the_nodes_and_those_after_it_travel_by_node(link):
    script = echo(link)
    assert await script.call(b"first", b"1") == b"1"
    assert await link.reader.get(b"first") is None
    assert await asyncio.gather(*[script.call(key, key) for key in KEYS]) == KEYS
    assert await asyncio.gather(*[link.reader.get(key) for key in KEYS]) == [None] * len(KEYS)
    assert script.batches <= 6, "one for each node, and one more where the script was not known"
    assert script.calls == len(KEYS)
    await script.stop()


async def test_a_node_that_is_away_takes_only_its_own_keys_with_it_and_comes_back(cluster, link):
    script = echo(link)
    await script.call(b"first", b"1")
    await link.pipeline([("SET", key, b"v") for key in KEYS])
    await asyncio.gather(*[script.call(key, key) for key in KEYS])
    lost = cluster.nodes[2]
    lost.kill()
    theirs = [key for key in KEYS if node_of(cluster, key) is lost]
    others = [key for key in KEYS if node_of(cluster, key) is not lost]
    assert theirs
    assert others

    async def is_known():
        return await outcome(link.reader.get(theirs[0])) == "unavailable" and not link.complete

    await until(is_known)
    assert link.available
    found = await asyncio.gather(*[outcome(link.reader.get(key)) for key in theirs])
    assert found == ["unavailable"] * len(theirs), "refused at once"
    found = await asyncio.gather(*[outcome(script.call(key, key)) for key in theirs])
    assert found == ["unavailable"] * len(theirs)
    script.send(theirs[0], b"1")  # nobody waits: nobody is told
    assert await asyncio.gather(*[link.reader.get(key) for key in others]) == [b"v"] * len(others)
    assert await asyncio.gather(*[script.call(key, key) for key in others]) == others

    lost.start()

    async def answers():
        return await outcome(script.call(theirs[0], b"back")) == b"back"

    await until(answers)
    assert link.complete
    await script.stop()


async def test_a_slot_that_has_moved_is_followed(cluster, link):
    script = echo(link)
    await script.call(b"first", b"1")
    await asyncio.gather(*[script.call(key, key) for key in KEYS])
    moved = next(key for key in KEYS if node_of(cluster, key) is cluster.nodes[0])
    clients = [redis.Redis(port=node.port) for node in cluster.nodes]
    new = clients[1].execute_command("CLUSTER", "MYID")
    for client in (clients[1], clients[0], clients[2]):
        client.execute_command("CLUSTER", "SETSLOT", key_slot(moved), "NODE", new)
        client.close()
    assert await script.call(moved, b"1") == b"1", "run where the slot is now"

    async def is_read():
        with contextlib.suppress(Exception):
            return await link.reader.get(moved) is None
        return False

    await until(is_read)  # refused once at most, then the map was read anew
    await script.stop()


async def test_another_threads_event_loop_hands_its_calls_over(link):
    script = echo(link)
    await script.call(b"a", b"1")

    async def elsewhere():
        return await script.call(b"a", b"2"), await link.reader.get(b"rl:none")

    assert await asyncio.to_thread(asyncio.run, elsewhere()) == (b"2", None)
    await script.stop()


async def test_a_script_that_is_stopped_under_way_fails_the_calls_that_wait(link):
    script = echo(link)
    waiting = script.call(b"first", b"1")  # looks for the nodes
    await asyncio.sleep(0)
    await script.stop()
    with pytest.raises(RedisUnavailableError, match="stopped"):
        await waiting
