"""Limits that instances share through a real Redis cluster, and what a lost node does to them."""

import asyncio
import time

import pytest
import redis

from bot.core.rate_limiter import (
    ConcurrencyLimit,
    ConcurrencyLimitExceeded,
    RateLimitConfig,
    RateLimiter,
    WindowLimit,
)
from bot.core.rate_limiter.mirror import client_key, slot_key
from bot.core.redis_link import RedisLink, RedisRefusedError
from tests.core.rate_limiter.test_shared import listening, until
from tests.support.servers import RedisCluster

pytestmark = pytest.mark.server

# So slow that no token comes back while a test runs.
SLOW = RateLimitConfig(0.0001, 5)


@pytest.fixture(scope="module")
def three_nodes():
    servers = RedisCluster()
    try:
        servers.start()
        yield servers
    finally:
        servers.close()


@pytest.fixture
def cluster(three_nodes):
    """The same cluster for every test, whole and empty."""
    deadline = time.monotonic() + 20
    for node in three_nodes.nodes:
        with redis.Redis(port=node.port) as client:
            while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                assert time.monotonic() < deadline, "the cluster is whole again"
                time.sleep(0.02)
            client.flushall()
    return three_nodes


@pytest.fixture
async def pair(cluster):
    limiters = [RateLimiter(), RateLimiter()]
    for limiter in limiters:
        await limiter.enable(redis_url=cluster.url)
        await limiter.is_allowed("first contact")
    for limiter in limiters:
        await listening(limiter, cluster)
    yield limiters
    for limiter in limiters:
        for mirror in limiter._table.mirrors():
            mirror.check_invariants(limiter._now())
        await limiter.disable()
    assert not RedisLink._links


async def clients_by_node(limiter, count=120):
    """Names of clients, by the number of the port of the node that holds their key."""
    client = limiter._shared.link.client()
    await client.initialize()
    found = {}
    for n in range(count):
        found.setdefault(client.get_node_from_key(client_key(n)).port, []).append(n)
    return found


async def test_clients_of_all_slots_share_their_buckets(pair):
    a, b = pair
    clients = range(300)
    first = await asyncio.gather(*[a.allow_batch(n, 3, SLOW) for n in clients])
    assert all(allowed and not status.degraded for allowed, status in first)
    second = await asyncio.gather(*[b.allow_batch(n, 3, SLOW) for n in clients])
    assert not any(allowed or status.degraded for allowed, status in second)
    assert {status.remaining for _, status in second} == {2}


@pytest.mark.parametrize("client", [7, "u", "a}b", "{a}", "имя" * 40, None])
async def test_windows_and_several_limits_of_one_client_are_on_one_node(pair, client):
    a, b = pair
    window = WindowLimit(3, 3600.0)
    outcomes = [await limiter.is_allowed_all([(client, window), (client, SLOW)]) for limiter in (a, b, a, b)]
    assert [allowed for allowed, _ in outcomes] == [True, True, True, False]
    assert not any(status.degraded for _, status in outcomes)
    assert outcomes[-1][1].limited_by is window
    assert (await a.get_client_status(client, SLOW)).remaining == 2
    assert await b.refund(client, window)
    assert (await a.is_allowed(client, window))[0]
    assert await a.reset_client(client)
    assert (await b.get_client_status(client, window)).remaining == 3


async def test_several_clients_in_one_check_are_refused_before_anything_is_taken(pair):
    a, b = pair
    with pytest.raises(ValueError, match=r"checks = \[1, 2\]: expected one client: a Redis Cluster"):
        await a.is_allowed_all([(1, SLOW), (2, SLOW)])
    assert (await b.get_client_status(1, SLOW)).remaining == 5


async def test_checks_of_one_tick_are_one_round_trip_to_each_node(pair):
    a, _ = pair
    await asyncio.gather(*[a.is_allowed(n, SLOW) for n in range(100)])
    before = (await a.get_statistics())["shared_batches"]
    results = await asyncio.gather(*[a.is_allowed(n, SLOW) for n in range(100)])
    assert all(allowed for allowed, _ in results)
    assert (await a.get_statistics())["shared_batches"] - before == 3


async def test_the_last_token_of_a_client_is_given_once(pair):
    outcomes = await asyncio.gather(
        *[limiter.is_allowed(n, SLOW) for n in range(40) for _ in range(4) for limiter in pair]
    )
    assert sum(allowed for allowed, _ in outcomes) == 40 * 5
    assert not any(status.degraded for _, status in outcomes)


async def test_a_reset_reaches_every_instance(pair):
    a, b = pair
    for n in range(12):
        for _ in range(7):
            await a.is_allowed(n, SLOW)
    for n in range(12):
        assert await b.reset_client(n) is True

    left = set(range(12))

    async def all_passed():
        left.difference_update([n for n in left if (await a.is_allowed(n, SLOW))[0]])
        return not left

    await until(all_passed)


async def test_a_slot_that_moved_is_followed(pair, cluster):
    a, b = pair
    by_node = await clients_by_node(a)
    ports = [node.port for node in cluster.nodes]
    moved = by_node[ports[0]][0]
    assert (await a.allow_batch(moved, 3, SLOW))[0]
    # The key is handed over with its slot, as a resharding does.
    nodes = [redis.Redis(port=port) for port in ports]
    key = client_key(moved)
    slot = nodes[0].execute_command("CLUSTER", "KEYSLOT", key)
    ids = [node.execute_command("CLUSTER", "MYID").decode() for node in nodes]
    nodes[1].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
    nodes[0].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
    nodes[0].execute_command("MIGRATE", "127.0.0.1", ports[1], key, 0, 5000)
    migrating = [await limiter.is_allowed(moved, SLOW) for limiter in (a, b)]
    for node in (nodes[1], nodes[0], nodes[2]):
        node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
    after = [await limiter.is_allowed(moved, SLOW) for limiter in (a, b)]
    outcomes = [allowed for allowed, _ in (*migrating, *after)]
    assert outcomes == [True, True, False, False]
    assert not any(status.degraded for _, status in (*migrating, *after))
    for node in nodes:
        node.close()

    async def mapped_anew():
        before = a._shared.script.batches
        await a.is_allowed(moved, RateLimitConfig(1000.0, 1000))
        return a._shared.script.batches > before

    await until(mapped_anew)
    await a.is_allowed("u")


async def test_a_node_that_is_killed_takes_only_its_own_clients_with_it_and_heals(pair, cluster, caplog):
    a, b = pair
    by_node = await clients_by_node(a)
    victim = cluster.nodes[2]
    lost = by_node[victim.port][:5]
    others = by_node[cluster.nodes[0].port] + by_node[cluster.nodes[1].port]
    for n in lost:
        assert (await a.allow_batch(n, 3, SLOW))[0]
    victim.kill()
    outcomes = [(await a.is_allowed(n, SLOW)) for n in lost for _ in range(3)]
    assert [allowed for allowed, _ in outcomes] == [True, True, False] * 5, "it goes on from what it knew"
    assert all(status.degraded for _, status in outcomes[::3])
    results = await asyncio.gather(*[b.is_allowed(n, SLOW) for n in lost for _ in range(6)])
    assert sum(allowed for allowed, _ in results) == 25, "the full limit"
    for _ in range(3):  # in spite of what happens at the lost node
        await a.is_allowed(lost[0])
        healthy = await asyncio.gather(*[a.is_allowed(n, SLOW) for n in others])
        assert not any(status.degraded for _, status in healthy if status.allowed)
        assert (await a.get_statistics())["degraded"] is True
        await asyncio.sleep(0.2)
    assert await a.reset_client(others[0])
    victim.start()
    turns = iter(range(10_000))

    async def healed():
        turn = next(turns)
        results = [await a.is_allowed(f"a{turn}.{n}") for n in range(20)]
        results += [await b.is_allowed(f"b{turn}.{n}") for n in range(20)]
        return not any(status.degraded for _, status in results)

    async def complete():
        return not any([(await limiter.get_statistics())["degraded"] for limiter in pair])

    await until(healed, timeout=20)
    await until(complete)
    assert caplog.text.count("going on without it") == 1
    assert caplog.text.count(" is back") == 1
    assert "Redis refused" not in caplog.text


async def test_a_cluster_that_lost_too_many_of_its_nodes_makes_nobody_wait(pair, cluster, caplog):
    a, _ = pair
    with redis.Redis(port=cluster.nodes[0].port) as client:
        client.execute_command("CLUSTER", "DELSLOTSRANGE", 0, 10)  # it no longer covers all slots
        loop = asyncio.get_running_loop()
        for _ in range(3):
            start = loop.time()
            results = await asyncio.gather(*[a.is_allowed(n) for n in range(100)])
            assert all(allowed for allowed, _ in results)
            assert loop.time() - start < a._shared.link.timeout
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 10)

    async def healed():
        results = await asyncio.gather(*[a.is_allowed(f"{loop.time()}.{n}") for n in range(50)])
        return not any(status.degraded for _, status in results)

    await until(healed, timeout=20)
    assert caplog.text.count("going on without it") <= 3, "at most once for each node"


async def test_a_map_is_read_anew_while_a_node_is_away(pair, cluster):
    a, _ = pair
    link = a._shared.link
    by_node = await clients_by_node(a)
    ports = [node.port for node in cluster.nodes]
    victim = next(node for node in cluster.nodes if node.port == ports[2])
    lost, moved = by_node[ports[2]][1], by_node[ports[0]][1]
    victim.kill()
    try:

        async def is_known():
            # The first one may find only its connection lost.
            return (await a.is_allowed(lost))[1].degraded and not link.complete

        await until(is_known)
        with redis.Redis(port=ports[0]) as source, redis.Redis(port=ports[1]) as target:
            slot = source.execute_command("CLUSTER", "KEYSLOT", client_key(moved))
            target_id = target.execute_command("CLUSTER", "MYID").decode()
            for node in (target, source):
                node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        with pytest.raises(RedisRefusedError, match="MOVED"):
            await link.reader.get(client_key(moved))

        await link.reader._mapping
        assert await link.reader.get(client_key(moved)) is None
        assert not (await a.is_allowed(moved, SLOW))[1].degraded
    finally:
        victim.start()


async def test_a_node_that_freezes_holds_up_the_checks_under_way_alone(pair, cluster):
    a, _ = pair
    by_node = await clients_by_node(a)
    victim = cluster.nodes[1]
    loop = asyncio.get_running_loop()
    victim.freeze()
    try:
        first = await asyncio.gather(*[a.is_allowed(n, SLOW) for n in by_node[victim.port][:10]])
        assert all(allowed and status.degraded for allowed, status in first)
        waits = []
        for turn in range(60):
            start = loop.time()
            await a.is_allowed(by_node[victim.port][turn % 10], SLOW)
            waits.append(loop.time() - start)
            await asyncio.sleep(0.005)
        assert sum(wait > a._shared.link.timeout / 2 for wait in waits) == 0
    finally:
        victim.thaw()


async def test_a_cluster_that_is_not_there_yet():
    servers = RedisCluster()
    limiter = RateLimiter()
    try:
        servers.start()
        for node in servers.nodes:
            node.kill()
        assert await limiter.enable(redis_url=servers.url)
        assert (await limiter.is_allowed("u", SLOW))[1].degraded
        for node in servers.nodes:
            node.start()

        async def healthy():
            return not (await limiter.is_allowed("probe"))[1].degraded

        await until(healthy, timeout=20)
    finally:
        await limiter.disable()
        servers.close()


async def test_off_under_load_leaves_no_task_and_no_connection(cluster):
    limiter = RateLimiter()
    await limiter.enable(redis_url=cluster.url)
    await limiter.is_allowed("warm", SLOW)
    tasks = [asyncio.ensure_future(limiter.is_allowed(n, SLOW)) for n in range(100)]
    await asyncio.sleep(0)
    assert await limiter.disable()
    assert all(allowed for allowed, _ in await asyncio.gather(*tasks))
    assert asyncio.all_tasks() == {asyncio.current_task()}

    async def alone():
        for node in cluster.nodes:
            with redis.Redis(port=node.port) as client:
                if len(client.client_list(_type="normal")) + len(client.client_list(_type="pubsub")) > 1:
                    return False
        return True

    await until(alone)


def test_used_under_a_second_loop_and_off_under_a_third(cluster):
    limiter = RateLimiter()

    async def use():
        await limiter.enable(redis_url=cluster.url)
        return [(await limiter.is_allowed(n, SLOW))[1] for n in range(10)]

    first, second = asyncio.run(use()), asyncio.run(use())
    assert {status.remaining for status in first} == {4}
    assert {status.remaining for status in second} == {3}
    assert not any(status.degraded for status in (*first, *second))
    assert asyncio.run(limiter.disable())
    assert not RedisLink._links


async def test_slots_of_clients_on_all_nodes_are_shared_and_handed_over(pair):
    a, b = pair
    one = ConcurrencyLimit(1, "downloads")
    held = await asyncio.gather(*[a.acquire_slot(n, one) for n in range(30)])
    refused = await asyncio.gather(*[b.acquire_slot(n, one) for n in range(30)], return_exceptions=True)
    assert {type(each) for each in refused} == {ConcurrencyLimitExceeded}
    assert not any(each.status.degraded for each in refused)
    waiting = [asyncio.create_task(b.acquire_slot(n, one, timeout=None)) for n in range(30)]

    async def all_in_line():
        statuses = await asyncio.gather(*[a.slot_status(n, one) for n in range(30)])
        return all(status.waiting for status in statuses)

    await until(all_in_line)
    for slot in held:
        slot.release()
    async with asyncio.timeout(8):
        for slot in await asyncio.gather(*waiting):
            slot.release()


async def test_a_node_that_is_away_leaves_the_slots_of_the_others_shared(pair, cluster):
    a, b = pair
    one = ConcurrencyLimit(1, "downloads")
    client = a._shared.link.client()
    by_node = {}
    for n in range(60):
        port = client.get_node_from_key(slot_key(one.limit_id, n)).port
        by_node.setdefault(port, []).append(n)
    victim = cluster.nodes[2]
    lost, others = by_node[victim.port][:3], by_node[cluster.nodes[0].port][:3]
    held = [await a.acquire_slot(n, one) for n in others]
    victim.kill()
    alone = [await a.acquire_slot(n, one) for n in lost]
    for n in lost:
        with pytest.raises(ConcurrencyLimitExceeded) as refusal:
            await a.acquire_slot(n, one)
        assert refusal.value.status.degraded
    waiting = [asyncio.create_task(b.acquire_slot(n, one, timeout=None)) for n in others]
    await asyncio.sleep(0.5)
    assert not any(task.done() for task in waiting), "what is shared stays shared"
    victim.start()

    async def registered():
        statuses = await asyncio.gather(*[b.slot_status(n, one) for n in lost])
        return all(status == (1, 1, 0, False) for status in statuses)

    await until(registered, timeout=30)
    for slot in (*held, *alone):
        slot.release()
    async with asyncio.timeout(30):
        for task in waiting:
            (await task).release()
