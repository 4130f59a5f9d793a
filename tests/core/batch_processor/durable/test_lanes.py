"""Lanes on Redis: in order and one at a time, whichever instance handles an item, and whatever dies."""

import asyncio
import signal
import uuid

import pytest
import redis

from bot.core._shared.errors import InvalidArgumentError
from bot.core.batch_processor import DeadLetteredError
from bot.core.batch_processor.durable.streams import GROUP, Added, Settlement, Streams
from bot.core.batch_processor.durable.values import value_of
from bot.core.redis_link import RedisLink
from tests.core.batch_processor.durable.helpers import length, until
from tests.support.servers import RedisServer, running

pytestmark = pytest.mark.server

LEASE, ROOM = 60_000, 100


class Log:
    """Handlers that note what they handle, and fail if two items of a lane are handled at the same time."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.lanes = {}
        self.by = {}
        self.running = set()
        self.gate = asyncio.Event()
        self.gate.set()

    def handler(self, name=""):
        async def handle(items):
            lanes = [item.lane for item in items if item.lane is not None]
            assert len(lanes) == len(set(lanes)), "two of a lane in one batch"
            assert not self.running.intersection(lanes), "two of a lane at the same time"
            self.running.update(lanes)
            try:
                await self.gate.wait()
                await asyncio.sleep(self.seconds)
            finally:
                self.running.difference_update(lanes)
            for item in items:
                self.lanes.setdefault(item.lane, []).append(item.data)
                self.by.setdefault(name, []).append(item.data)
            return [item.data for item in items]

        return handle


async def test_two_instances_keep_the_order_of_every_lane(instances):
    log = Log()
    first, second = await instances(log.handler("first")), await instances(log.handler("second"))
    lanes = [[None, 0, "0", -(2**63) + 1, "ö", "ö:{x}"][n % 6] for n in range(300)]
    answers = await first.submit_many(range(150), lanes=lanes[:150])
    answers += await second.submit_many(range(150, 300), lanes=lanes[150:])
    assert all(answer.success for answer in answers)
    assert await first.flush(20)
    assert await second.flush(20)
    expected = {lane: [n for n in range(300) if lanes[n] == lane] for lane in set(lanes)}
    assert sorted(log.lanes.pop(None)) == expected.pop(None)
    assert log.lanes == expected
    assert await length(first) == 0
    link = first._store.streams.link
    assert await link.execute("KEYS", "*:lane:*") == [], "a lane is there while it has items"
    assert await second.get_result(answers[5].item_id) == 5


async def test_an_item_of_a_lane_waits_for_the_retries_of_the_one_before(instances):
    tries = []

    async def handle(items):
        tries.extend(item.data for item in items)
        if "bad" in tries[-len(items) :]:
            raise OSError("away")
        return [item.data for item in items]

    p = await instances(handle, max_retries=2, max_batch_size=1)
    answers = await p.submit_many(["bad", "good", "better"], lane="a")
    with pytest.raises(DeadLetteredError):
        await p.get_result(answers[0].item_id, timeout=20)
    assert await p.get_result(answers[2].item_id, timeout=20) == "better"
    assert tries == ["bad", "bad", "bad", "good", "better"]
    (letter,) = await p.dead_letters()
    assert (letter.data, letter.lane) == ("bad", "a")
    gate = asyncio.Event()

    async def hold(items):
        tries.extend(item.data for item in items)
        await gate.wait()
        return [item.data for item in items]

    p.process_handler = hold
    first = await p.submit_item("first", lane="a")
    await until(lambda: tries[-1] == "first")
    assert await p.replay() == 1
    last = await p.submit_item("last", lane="a")
    gate.set()
    assert await p.get_result(last.item_id, timeout=20) == "last"
    assert tries[-3:] == ["first", "bad", "last"], "a replayed item is the last of its lane"
    assert await p.get_result(first.item_id) == "first"


async def test_a_lane_goes_on_elsewhere_when_its_instance_stops(instances):
    log = Log()
    first = await instances(log.handler("first"))
    log.gate.clear()
    answers = await first.submit_many(range(6), lane=7)
    await until(lambda: log.running)
    second = await instances(log.handler("second"))
    ending = asyncio.ensure_future(first.disable())
    await asyncio.sleep(0.05)
    log.gate.set()
    assert await ending
    assert await second.get_result(answers[-1].item_id, timeout=20) == 5
    assert log.lanes == {7: [0, 1, 2, 3, 4, 5]}
    assert log.by["second"][-1] == 5


async def test_kill_9_in_the_middle_of_lanes_keeps_their_order(safe_server, queue, instances, start_worker):
    asker = await instances(max_pending=1_000)
    database = redis.Redis(port=safe_server.port, decode_responses=True)
    workers = [start_worker(safe_server.url, seconds=0.02, lease=0.6) for _ in range(2)]
    answers = await asker.submit_many(range(120), lanes=[n % 6 for n in range(120)])
    handled = f"order:{queue}"
    for kill in range(4):
        await until(lambda kill=kill: database.llen(handled) >= 15 * (kill + 1))
        doomed = workers.pop(0)
        doomed.send_signal(signal.SIGKILL)
        doomed.wait()
        workers.append(start_worker(safe_server.url, seconds=0.02, lease=0.6))
    for number, answer in enumerate(answers):
        assert (await asker.get_result(answer.item_id, timeout=30))[2] == number, "none is lost"
    # Begun and ended, as the handlers told it; what was killed began and did not end.
    told = [line.split() for line in database.lrange(handled, 0, -1)]
    for lane in range(6):
        open_item, ended = None, []
        for what, of_lane, number, deliveries in told:
            if of_lane != str(lane):
                continue
            if what == "begin":
                assert open_item in (None, number), "one at a time: the next begins when the one before ended"
                assert (open_item is None) or int(deliveries) > 1
                open_item = number
            else:
                assert open_item == number
                open_item = None
                ended.append(int(number))
        assert list(dict.fromkeys(ended)) == [n for n in range(120) if n % 6 == lane], "in their order"
    assert await length(asker) == 0
    assert database.keys(f"*{queue}*:lane:*") == []
    database.close()


async def test_redis_started_again_goes_on_with_the_lanes(queue, instances):
    server = RedisServer(extra=("--appendonly", "yes", "--appendfsync", "always"))
    server.start()
    try:
        log = Log(seconds=0.01)
        p = await instances(log.handler(), url=server.url, lease=2.0)
        answers = await p.submit_many(range(60), lanes=[n % 3 for n in range(60)])
        await until(lambda: sum(map(len, log.lanes.values())) > 10)
        server.kill()
        await asyncio.sleep(0.1)
        server.start()
        await asyncio.gather(*[p.get_result(answer.item_id, timeout=30) for answer in answers])
        for lane, data in log.lanes.items():
            assert list(dict.fromkeys(data)) == [n for n in range(60) if n % 3 == lane]
        await p.disable()
    finally:
        server.close()


async def test_a_handler_is_cancelled_before_another_instance_may_begin(queue, instances):
    """Redis stands still for longer than the lease: the handler of a lane must not run on beside the next."""
    ends = []

    def handler(name):
        async def handle(items):
            try:
                ends.append((name, "begins", [item.data for item in items]))
                await gates[name].wait()
            except asyncio.CancelledError:
                ends.append((name, "is cancelled", [item.data for item in items]))
                raise
            ends.append((name, "ends", [item.data for item in items]))
            return [item.data for item in items]

        return handle

    gates = {name: asyncio.Event() for name in ("first", "second")}
    with running(RedisServer()) as server:
        first = await instances(handler("first"), url=server.url, lease=1.0)
        answers = [await first.submit_item(1, lane="a"), await first.submit_item("free")]
        answers.append(await first.submit_item(2, lane="a"))
        await until(lambda: len(ends) == 1)
        server.freeze()
        await until(lambda: len(ends) == 3)
        assert ends[:3] == [
            ("first", "begins", [1, "free"]),
            ("first", "is cancelled", [1, "free"]),
            ("first", "begins", ["free"]),
        ], "what has no lane goes on here"
        first.check_invariants()
        server.thaw()
        gates["second"].set()
        gates["first"].set()
        assert [await first.get_result(one.item_id, timeout=20) for one in answers] == [1, "free", 2]
        begun = [data for _, what, data in ends if what == "begins"]
        assert begun.index([1], 1) < begun.index([2])
        await first.disable()


async def test_a_lease_that_another_instance_has_is_let_go_of(safe_server, instances):
    """As if the process had stood still: the entry is another consumer's, and the handler runs on."""
    cancelled = asyncio.Event()
    begun = []

    async def handle(items):
        begun.append([item.data for item in items])
        if len(begun) == 1:
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                cancelled.set()
                raise OSError("an error of its own") from None
        return [item.data for item in items]

    p = await instances(handle, lease=5.0)
    answers = await p.submit_many([1, 2], lane="a")
    free = await p.submit_item("free")
    await until(lambda: begun)
    streams = p._store.streams
    entry = p._store._held.entries[0]
    await streams.link.execute("XCLAIM", streams.items, GROUP, "thief", 0, entry)
    await asyncio.wait_for(cancelled.wait(), 20)
    assert await p.get_result(free.item_id, timeout=20) == "free"
    assert entry not in p._store._held
    assert begun[1:] == [["free"]], "not what is the thief's, and not what is behind it"
    p.check_invariants()
    await streams.give_back("thief", [(entry, 1)], begun=True)
    assert [await p.get_result(answer.item_id, timeout=20) for answer in answers] == [1, 2]
    assert begun[1:] == [["free"], [1], [2]]


async def test_text_that_utf_8_cannot_hold_is_no_lane(instances):
    p = await instances()
    with pytest.raises(InvalidArgumentError, match=r"lane = .*lone surrogates"):
        await p.submit_item(1, lane="\ud800")
    assert await length(p) == 0


# The scripts: every step between two instances.


@pytest.fixture
async def streams(safe_server):
    link = RedisLink.shared(safe_server.url)
    streams = Streams(link, f"scripts-{uuid.uuid4().hex[:6]}")
    await streams.make_group()
    yield streams
    await link.release()


async def added(streams, *names, lane=b"sa"):
    answers, _ = await streams.add([Added(name, value_of(name, 0, name), lane) for name in names], 100)
    assert answers == [1] * len(names)
    return [fields for _, fields in await streams.link.execute("XRANGE", streams.items, "-", "+")]


async def read(streams, consumer, count=100):
    return await streams.read(consumer, count, 1)


async def settle(streams, consumer, delivery, *, take=False):
    one = Settlement(delivery.entry, "x" + delivery.entry.decode(), b"outcome", lane=delivery.lane)
    return await streams.settle(consumer, [one], 60_000, 10, take_next=take)


async def claim(streams, consumer, lease=LEASE):
    claimed = await streams.claim(consumer, lease, ROOM, 3, 5, alone=True)
    return await streams.gate(consumer, claimed)


async def held_by(streams):
    found = await streams.link.execute("XPENDING", streams.items, GROUP)
    return {one["name"].decode(): one["pending"] for one in found["consumers"]}


async def test_only_the_first_of_a_lane_passes_and_the_others_are_let_go_of(streams):
    await added(streams, "1", "2", "3")
    deliveries = await read(streams, "a")
    assert [one.entry for one in await streams.gate("a", deliveries)] == [deliveries[0].entry]
    assert await held_by(streams) == {"a": 1}
    assert await claim(streams, "b") == [], "the others are nobody's"
    flags, following = await settle(streams, "a", deliveries[0], take=True)
    assert (flags, [one.entry for one in following]) == ([True], [deliveries[1].entry])
    assert following[0] == deliveries[1]
    flags, following = await settle(streams, "a", deliveries[1])
    assert (flags, following) == ([True], [])
    (third,) = await claim(streams, "b")
    assert (third.entry, third.deliveries) == (deliveries[2].entry, 1), "left to others, it comes at once"


async def test_what_nobody_has_read_yet_comes_as_everything_new(streams):
    await added(streams, "1", "2")
    (first,) = await streams.gate("a", await read(streams, "a", 1))
    assert await settle(streams, "a", first, take=True) == ([True], [])
    (second,) = await streams.gate("b", await read(streams, "b"))
    assert await settle(streams, "b", second) == ([True], [])
    assert await streams.link.execute("EXISTS", streams.key_of_lane(b"sa")) == 0


async def test_what_ended_between_a_read_and_its_gate_lets_the_reader_go_on(streams):
    await added(streams, "1", "2")
    (first,) = await streams.gate("a", await read(streams, "a", 1))
    read_by_b = await read(streams, "b")
    assert await settle(streams, "a", first, take=True) == ([True], []), "it is in b's hands already"
    assert await streams.gate("b", read_by_b) == read_by_b


async def test_a_reader_that_dies_before_the_gate_keeps_no_lane_waiting(streams):
    await added(streams, "1", "2", "3")
    deliveries = await read(streams, "dead")
    (first,) = await claim(streams, "b", lease=0)
    assert (first.entry, first.deliveries) == (deliveries[0].entry, 2)
    assert await held_by(streams) == {"b": 1}, "what it had read of the rest is let go of"
    _, (second,) = await settle(streams, "b", first, take=True)
    assert (second.entry, second.deliveries) == (deliveries[1].entry, 1)


async def test_who_lost_the_lease_can_neither_end_the_item_nor_let_the_lane_go_on(streams):
    await added(streams, "1", "2")
    (first, _) = await read(streams, "frozen")
    assert await streams.gate("frozen", [first]) == [first]
    (again,) = [one for one in await claim(streams, "b", lease=0) if one.entry == first.entry]
    assert await settle(streams, "frozen", first, take=True) == ([False], [])
    assert await streams.refresh("frozen", [first.entry]) == ([first.entry], [])
    assert await streams.link.execute("XLEN", streams.items) == 2
    flags, (second,) = await settle(streams, "b", again, take=True)
    assert flags == [True]
    assert second.lane == b"sa"


async def test_an_end_told_twice_gives_what_comes_next_twice(streams):
    """The answer to the first was lost: Redis has done it, and the caller does not know."""
    await added(streams, "1", "2", "3")
    (first,) = await streams.gate("a", await read(streams, "a"))
    answer = await settle(streams, "a", first, take=True)
    assert answer[0] == [True]
    assert len(answer[1]) == 1
    assert await settle(streams, "a", first, take=True) == answer
    assert await settle(streams, "b", first, take=True) == ([True], []), "but not to others"


@pytest.mark.parametrize("lost", ["the first", "all but the last", "the first and its consumer"])
async def test_entries_that_are_gone_hold_no_lane_up(streams, lost):
    await added(streams, "1", "2", "3")
    deliveries = await read(streams, "a")
    assert len(await streams.gate("a", deliveries)) == 1
    gone = deliveries[:2] if lost == "all but the last" else deliveries[:1]
    await streams.link.execute("XDEL", streams.items, *[one.entry for one in gone])
    if "consumer" in lost:
        await streams.link.execute("XGROUP", "DELCONSUMER", streams.items, GROUP, "a")
    else:
        assert (await settle(streams, "a", deliveries[0]))[0] == [False]
    await added(streams, "4")
    (following,) = await claim(streams, "b")
    assert following.entry == deliveries[len(gone)].entry


async def test_a_lane_whose_list_is_lost_goes_on_in_order(streams):
    await added(streams, "1", "2", "3")
    await streams.link.execute("DEL", streams.key_of_lane(b"sa"))
    deliveries = await read(streams, "a")
    (first,) = await streams.gate("a", deliveries)
    assert first == deliveries[0]
    _, (second,) = await settle(streams, "a", first, take=True)
    assert second.entry == deliveries[1].entry


async def test_a_group_that_is_made_anew_begins_each_lane_at_its_first(streams):
    await added(streams, "1", "2", "3")
    deliveries = await read(streams, "a")
    await streams.gate("a", deliveries)
    await streams.link.execute("XGROUP", "DESTROY", streams.items, GROUP)
    assert (await settle(streams, "a", deliveries[0], take=True)) == ([False], [])
    assert (await streams.add([Added("4", value_of("4", 0, 4), b"sa")], 100))[0] == [1]
    await streams.make_group()
    again = await read(streams, "b")
    assert [one.entry for one in await streams.gate("b", again)] == [deliveries[0].entry]


async def test_a_key_of_another_type_in_a_lanes_place_holds_nothing_up(streams):
    await streams.link.execute("SET", streams.key_of_lane(b"sa"), "not a list")
    await added(streams, "1")
    (one,) = await streams.gate("a", await read(streams, "a"))
    assert (await settle(streams, "a", one, take=True))[0] == [True]
