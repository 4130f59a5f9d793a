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


def connections_of(node):
    """The ids of the connections of all clients but this one, by the server."""
    with redis.Redis(port=node.port) as client:
        return {one["id"] for one in client.client_list(_type="normal")} - {str(client.client_id())}


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
    assert script.batches <= 7, "one for each node and turn, and one more where the script was not known"
    assert script.calls == len(KEYS) + 1
    await script.stop()


async def test_a_burst_at_first_contact_travels_by_node(cluster, link):
    script = echo(link)
    keys = [b"rl:%d" % number for number in range(600)]
    calls, reads = [script.call(key, key) for key in keys], [link.reader.get(key) for key in keys]
    assert await asyncio.gather(*calls) == keys
    assert await asyncio.gather(*reads) == [None] * len(keys)
    assert script.calls == len(keys)
    assert link.complete
    for node in cluster.nodes:
        assert len(connections_of(node)) < 8, "not a connection for each call"
    await script.stop()


async def test_single_calls_at_first_contact_go_to_the_node_that_has_their_key(cluster, link):
    script = link.script("return ARGV[1]")
    answers = await asyncio.gather(*[script([key], [key]) for key in KEYS])
    assert answers == KEYS
    assert link.complete
    for node in cluster.nodes:
        with redis.Redis(port=node.port) as client:
            assert "errorstat_MOVED" not in client.info("errorstats")


async def test_slots_that_move_close_no_connection_under_other_calls(cluster, link):
    script = link.script("return ARGV[1]")
    assert await asyncio.gather(*[script([key], [key]) for key in KEYS]) == KEYS
    moved = [key for key in KEYS if node_of(cluster, key) is cluster.nodes[0]][:12]
    clients = [redis.Redis(port=node.port) for node in cluster.nodes]
    new = clients[1].execute_command("CLUSTER", "MYID")
    open_before = connections_of(cluster.nodes[2])
    for key in moved:
        for client in (clients[1], clients[0], clients[2]):
            client.execute_command("CLUSTER", "SETSLOT", key_slot(key), "NODE", new)
    assert await asyncio.gather(*[script([key], [key]) for key in KEYS]) == KEYS
    assert open_before <= connections_of(cluster.nodes[2])
    assert link.complete
    for client in clients:
        client.close()


@pytest.mark.skipif(
    int(redis.__version__.split(".")[0]) < 8, reason="it connects again and again until the time is up"
)
async def test_a_connection_that_is_lost_does_not_make_its_node_count_as_away(cluster, link):
    waiting = asyncio.ensure_future(outcome(link.execute("BLPOP", KEYS[0], 0)))
    name = f"127.0.0.1:{node_of(cluster, KEYS[0]).port}"

    async def lost():
        node = link.client().get_node(node_name=name)
        for connection in [] if node is None else node._connections:
            if connection.is_connected:
                connection._writer.transport.abort()
        return waiting.done()

    await until(lost)  # redis-py connects once more before it gives up
    assert await waiting == "unavailable"
    assert link.complete


async def test_calls_at_first_contact_are_all_refused_where_no_node_is_there(cluster):
    for node in cluster.nodes:
        node.kill()
    link = RedisLink(cluster.url)
    script = echo(link)
    calls = [outcome(script.call(key, key)) for key in KEYS]
    reads = [outcome(link.reader.get(key)) for key in KEYS]
    assert await asyncio.gather(*calls, *reads) == ["unavailable"] * 2 * len(KEYS)
    await script.stop()
    await link.close()


async def test_a_call_that_is_given_up_at_first_contact_is_not_made(link):
    script = link.batched_script(
        "for i, key in ipairs(KEYS) do redis.call('SET', key, 1) end return ARGV", lambda a, n: a
    )
    given_up, kept = script.call(b"a", b"1"), script.call(b"b", b"2")
    given_up.cancel()
    assert await kept == b"2"
    await script.drain()
    assert await link.execute("GET", b"a") is None
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


@pytest.mark.parametrize("turns", range(4))
async def test_a_script_that_is_stopped_under_way_fails_the_calls_that_wait(link, turns):
    script = echo(link)
    waiting = script.call(b"first", b"1")  # looks for the nodes
    for _ in range(turns):
        await asyncio.sleep(0)
    await script.stop()
    with pytest.raises(RedisUnavailableError, match="stopped"):
        await waiting
