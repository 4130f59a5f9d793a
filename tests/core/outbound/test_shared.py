"""A budget that instances share through a real Redis, and what happens when it fails."""

import asyncio
import os
import random

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.outbound import Limits, Outbound, OutboundClosedError, Priority, Request
from bot.core.outbound.reservations import decode, tag_of
from bot.core.redis_link import RedisLink
from tests.core.outbound.conftest import RetryAfter
from tests.support.fake_redis import FakeRedis
from tests.support.servers import RedisCluster

GROUP, USER = -100, 42
TOKEN = "123456:AAEhBOweik6ad9r_QXMENQjcrGbqCr4K-bc"
# So long that no place comes back while a test runs.
LIMITS = Limits(group=(4, 600.0), bulk=(1000, 1.0), typing=((3, 600.0),))


async def sent():
    return "sent"


async def until(condition, timeout=8.0):
    async with asyncio.timeout(timeout):
        while not (found := condition()):
            await asyncio.sleep(0.01)
    return found


def start(outbound, method="sendMessage", chat=GROUP, send=sent, **fields):
    return asyncio.ensure_future(outbound.call(send, Request(method, chat, **fields)))


async def figures(outbound):
    return await outbound.get_statistics()


async def give_up(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def settled(outbound):
    """Wait until Redis has heard all that it was told."""
    await outbound._dispatcher.shared._script.drain()


@pytest.fixture
async def pair(redis_server):
    made = [Outbound(random_source=random.Random(3)) for _ in range(2)]
    for outbound in made:
        await outbound.enable(LIMITS, redis_url=redis_server.url, bot_id=7, drain_timeout=0.0)
    yield made
    for outbound in made:
        outbound.check_invariants()
        await outbound.disable()
        outbound.check_invariants()
    assert not RedisLink._links


# What is shared.


@pytest.mark.parametrize(
    ("method", "chat", "fits"),
    [
        ("sendMessage", GROUP, 4), ("sendMessage", "@news", 4), ("editMessageText", GROUP, 4),
        ("sendChatAction", GROUP, 3), ("sendChatAction", USER, 3), ("getChat", GROUP, 10),
    ],
)  # fmt: skip
async def test_instances_have_one_budget(pair, method, chat, fits):
    tasks = [start(pair[n % 2], method, chat) for n in range(10)]
    done = await until(lambda: [task for task in tasks if task.done()][fits - 1 :] and tasks)
    await asyncio.sleep(0.1)
    assert sum(task.done() for task in done) == fits
    await give_up(*tasks)


async def test_private_chats_have_one_burst(pair):
    tasks = [start(pair[n % 2], chat=USER) for n in range(8)]
    await until(lambda: sum(task.done() for task in tasks) == 3)
    await until(lambda: sum(task.done() for task in tasks) == 4, 3.0)
    await give_up(*tasks)


async def test_edits_that_are_separate_have_windows_of_their_own(pair):
    for outbound in pair:
        await outbound.enable(
            Limits(group=(4, 600.0), edits="separate"),
            redis_url=outbound._dispatcher.shared.url, bot_id=7, drain_timeout=0.0,
        )  # fmt: skip
    tasks = [start(pair[n % 2], method) for n in range(6) for method in ("sendMessage", "editMessageText")]
    await until(lambda: sum(task.done() for task in tasks) == 8)
    await give_up(*tasks)


async def test_albums_cost_their_items_and_what_is_too_large_leaves_alone(pair):
    a, b = pair
    await a.call(sent, Request("sendMediaGroup", GROUP, cost=3))
    album = start(b, "sendMediaGroup", cost=2)
    assert await start(b, chat=-5) == "sent"
    assert not album.done()
    assert await a.call(sent, Request("forwardMessages", -6, cost=100)) == "sent"
    denied = b._dispatcher.shared.denials
    next_ = start(b, chat=-6)
    await until(lambda: b._dispatcher.shared.denials > denied)
    assert not next_.done()
    await give_up(album, next_)


async def test_answers_count_for_all_and_wait_for_nobody(redis_server):
    made = [Outbound(), Outbound()]
    limits = Limits(bulk=(5, 600.0))
    for outbound in made:
        await outbound.enable(limits, redis_url=redis_server.url, bot_id="bulk", drain_timeout=0.0)
    a, b = made
    answers = [start(a, chat=n, priority=Priority.ANSWER) for n in range(1, 8)]
    await asyncio.gather(*answers)
    notice = start(b, chat=99)
    assert await start(b, chat=98, priority=Priority.ANSWER) == "sent"
    await until(lambda: b._dispatcher.shared.denials)
    assert not notice.done()
    await give_up(notice)
    for outbound in made:
        await outbound.disable()


async def test_all_instances_keep_the_reserve_for_answers(redis_server):
    made = [Outbound(), Outbound()]
    for outbound in made:
        await outbound.enable(
            Limits(bulk=(20, 600.0), bulk_reserve=5), redis_url=redis_server.url, bot_id="reserve",
            drain_timeout=0.0,
        )  # fmt: skip
    a, b = made
    news = [start(made[n % 2], chat=n, priority=Priority.BROADCAST) for n in range(1, 40)]
    await until(
        lambda: (
            sum(task.done() for task in news) == 15
            and a._dispatcher.shared.denials + b._dispatcher.shared.denials
        )
    )
    await asyncio.gather(*[start(made[n % 2], chat=100 + n, priority=Priority.ANSWER) for n in range(5)])
    assert redis_server.execute("ZCARD", "{p4o:reserve}:bulk") == 20
    assert sum(task.done() for task in news) == 15
    await give_up(*news)
    for outbound in made:
        await outbound.disable()


async def test_other_bots_have_budgets_of_their_own(pair, redis_server):
    other = Outbound()
    await other.enable_as(pair[0], bot_id=TOKEN)
    await asyncio.gather(*[start(outbound) for outbound in (*pair, other) for _ in range(2)])
    assert redis_server.execute("EXISTS", "{p4o:7}:w:-100", "{p4o:123456}:w:-100") == 2
    secret = TOKEN.partition(":")[2].encode()
    assert not [key for key in redis_server.execute("KEYS", "*") if secret in key]
    await other.disable()


async def test_a_bot_that_is_named_later_changes_its_budget_once(redis_server):
    outbound = Outbound()
    await outbound.enable(LIMITS, redis_url=redis_server.url)
    assert outbound._dispatcher.shared.tag == b"{p4o:default}"
    await outbound.identify(99)
    await outbound.identify(100)
    assert outbound._dispatcher.shared.tag == b"{p4o:99}"
    assert await start(outbound) == "sent"
    await outbound.disable()


async def test_what_asks_together_travels_together(pair):
    a, _ = pair
    await start(a, chat=1)
    before = (await figures(a))["admission_batches"]
    await asyncio.gather(*[start(a, chat=n) for n in range(2, 42)])
    seen = await figures(a)
    assert seen["admissions"] == 41
    assert seen["admission_batches"] - before <= 6, "asked, left and answered, with what each batch adds"


# Refusals.


async def test_a_refusal_holds_the_chat_in_every_instance(pair):
    a, b = pair
    errors = [RetryAfter(300)]

    async def refused():
        if errors:
            raise errors.pop()
        return "late"

    held = start(a, send=refused)
    await until(lambda: not errors)
    await settled(a)
    others = [start(b, "sendChatAction"), start(b, "getChat"), start(b)]
    assert await start(b, chat=-5) == "sent", "no other chat waits"
    await until(lambda: b._dispatcher.scheduler.chats.held(b._now()) == 1)
    assert not any(task.done() for task in others)
    await give_up(held, *others)


async def test_a_hold_by_hand_and_one_of_all_chats_are_told_to_all(pair):
    a, b = pair
    await start(a, chat=-9)
    a.hold(None, 300)
    await settled(a)
    waiting = start(b, chat=-5, priority=Priority.ANSWER)
    await until(lambda: b._dispatcher.scheduler.penalty.until > b._now() + 200)
    assert not waiting.done()
    await give_up(waiting)


async def test_three_chats_refused_in_different_instances_hold_all(pair):
    a, b = pair

    async def refused():
        raise RetryAfter(700)  # longer than is waited for

    for outbound, chat in ((a, -1), (b, -2), (a, -3)):
        with pytest.raises(RetryAfter):
            await outbound.call(refused, Request("sendMessage", chat))
        await settled(outbound)
    waiting = start(b, chat=-4)
    await until(lambda: b._dispatcher.scheduler.penalty.until > b._now() + 600 or waiting.done())
    with pytest.raises(Exception, match="all chats held"):
        await waiting


async def test_after_a_refusal_the_rate_falls_in_every_instance(pair):
    a, b = pair
    errors = [RetryAfter(0.0)]

    async def once_refused():
        if errors:
            raise errors.pop()
        return "sent"

    assert await start(a, send=once_refused) == "sent"
    rest = [start(b) for _ in range(4)]
    await until(lambda: b._dispatcher.shared.denials)
    assert sum(task.done() for task in rest) == 1, "half of 4, one of which is taken"
    await give_up(*rest)


# Redis away, and back.


async def test_redis_away_each_keeps_its_own_windows_and_tells_what_it_sent_when_it_is_back(
    pair, redis_server, caplog
):
    a = pair[0]
    await start(a)
    redis_server.kill()
    tasks = [start(outbound) for outbound in pair for _ in range(6)]
    await until(lambda: sum(task.done() for task in tasks) == 3 + 4)
    for outbound in pair:
        seen = await figures(outbound)
        assert seen["degraded"]
        assert seen["queued"] == 6 - (3 if outbound is a else 4)
    assert len([record for record in caplog.records if "is away" in record.getMessage()]) == 1
    redis_server.start()

    async def healed():
        await asyncio.gather(*[outbound.call(sent, Request("getChat", 1)) for outbound in pair])
        return not any([(await figures(outbound))["degraded"] for outbound in pair])

    async with asyncio.timeout(15):
        while not await healed():
            await asyncio.sleep(0.02)
    await until(lambda: redis_server.execute("ZCARD", "{p4o:7}:w:-100") == 8)
    third = Outbound()
    await third.enable_as(a)
    late = start(third)
    await until(lambda: third._dispatcher.scheduler.pending == 1 and third._dispatcher.shared.denials)
    assert not late.done()
    await give_up(late, *tasks)
    await third.disable()


async def test_a_redis_that_lost_its_memory_is_told_anew_before_anything_is_asked(pair, redis_server):
    a = pair[0]
    await asyncio.gather(*[start(a) for _ in range(3)])
    a.hold(-8, 300)
    flying = asyncio.Event()
    slow = start(a, chat=-9, send=flying.wait)
    await until(lambda: a._dispatcher.scheduler.slots.taken == 1 and not a._dispatcher.shared.asked())
    await settled(a)
    redis_server.execute("FLUSHALL")
    assert await start(a, chat=-5) == "sent"
    await settled(a)
    assert redis_server.execute("ZCARD", "{p4o:7}:w:-100") == 3
    assert redis_server.execute("ZCARD", "{p4o:7}:w:-9") == 1
    assert redis_server.execute("EXISTS", "{p4o:7}:h:-8") == 1
    assert redis_server.execute("ZCARD", "{p4o:7}:w:-5") == 1, "what was denied for it is not told"
    flying.set()
    await slow


async def test_a_redis_that_does_not_answer_costs_one_timeout_and_then_none(pair, redis_server):
    a, _ = pair
    await start(a)
    redis_server.freeze()
    try:
        assert await start(a) == "sent"
        assert (await figures(a))["degraded"]
        assert await asyncio.gather(*[start(a, chat=n) for n in range(1, 50)]) == ["sent"] * 49
    finally:
        redis_server.thaw()


async def test_a_redis_that_refuses_is_said_once(redis_server, caplog):
    redis_server.execute("CONFIG", "SET", "maxmemory", "1")
    outbound = Outbound()
    await outbound.enable(LIMITS, redis_url=redis_server.url)
    for _ in range(3):
        assert await start(outbound) == "sent"
    seen = await figures(outbound)
    assert seen["degraded"]
    assert seen["sent_unshared"] == 3
    assert len([record for record in caplog.records if "refused a command" in record.getMessage()]) == 1
    redis_server.execute("CONFIG", "SET", "maxmemory", "0")
    assert await start(outbound) == "sent"
    assert not (await figures(outbound))["degraded"]
    await outbound.disable()


@pytest.mark.parametrize("garbage", ["SET", "ZADD", "HSET", "LPUSH"])
async def test_what_is_not_ours_is_removed(redis_server, garbage):
    values = {"SET": ("x" * 24,), "ZADD": ("1e300", "x"), "HSET": ("a", "b"), "LPUSH": ("x",)}[garbage]
    for key in ("epoch", "all", "bulk", "paid", "others", "refused", "w:-100", "b:42", "t:-100",
                "h:-100", "h:42"):  # fmt: skip
        redis_server.execute(garbage, "{p4o:7}:" + key, *values)
    outbound = Outbound()
    await outbound.enable(LIMITS, redis_url=redis_server.url, bot_id=7, drain_timeout=0.0)
    for _ in range(2):
        assert await start(outbound) == "sent"
        assert await start(outbound, chat=USER) == "sent"
        assert await start(outbound, "sendChatAction") == "sent"
        assert await start(outbound, paid=True, chat=43) == "sent"
    errors = [RetryAfter(0)]

    async def refused():
        if errors:
            raise errors.pop()

    await start(outbound, chat=44, send=refused)
    seen = await figures(outbound)
    assert not seen["degraded"]
    assert seen["sent_unshared"] == 0
    await outbound.disable()


@pytest.mark.parametrize(
    "answer",
    [b"$3\r\nabc\r\n", b":1\r\n", b"*0\r\n", b"$32\r\n" + b"\xff" * 32 + b"\r\n", b"$-1\r\n",
     b"$32\r\n" + bytes(16) + b"\0\0\0\0\0\0\x22\x40" + bytes(8) + b"\r\n"],
)  # fmt: skip
async def test_an_answer_that_makes_no_sense_is_as_if_redis_had_refused(answer):
    async with FakeRedis(lambda command: answer) as server:
        outbound = Outbound()
        await outbound.enable(LIMITS, redis_url=server.url, drain_timeout=0.0)
        assert await start(outbound) == "sent"
        assert (await figures(outbound))["degraded"]
        await outbound.disable()


async def test_every_key_has_an_end(pair, redis_server):
    errors = [RetryAfter(1), RetryAfter(1)]

    async def refused():
        if errors:
            raise errors.pop()

    tasks = [start(pair[0], chat=chat, send=refused) for chat in (-1, USER)]
    tasks += [start(pair[1], "sendChatAction"), start(pair[1], paid=True, chat=9)]
    tasks += [start(pair[1], chat="@" + "x" * 250)]
    pair[0].hold(None, 0.5)
    await asyncio.gather(*tasks)
    for outbound in pair:
        await settled(outbound)
    keys = redis_server.execute("KEYS", "*")
    assert len(keys) >= 8
    assert all(0 < redis_server.execute("PTTL", key) <= 86_400_000 for key in keys)
    assert all(key.startswith(b"{p4o:7}:") and len(key) < 100 for key in keys)


# Callers that give up, loops that end.


async def test_a_caller_that_gives_up_while_redis_is_asked_takes_no_place(pair, redis_server):
    a, b = pair
    await start(a, chat=-1)
    for _ in range(20):
        task = start(a)
        await asyncio.sleep(0)
        assert a._dispatcher.shared.asked()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: not a._dispatcher.shared.asked())
    await settled(a)
    assert redis_server.execute("ZCARD", "{p4o:7}:w:-100") == 0
    assert await asyncio.gather(*[start(b) for _ in range(4)]) == ["sent"] * 4
    a.check_invariants()
    assert (await figures(a))["in_flight"] == 0


async def test_a_stop_while_redis_is_asked_leaves_no_place_taken(redis_server):
    outbound = Outbound()
    await outbound.enable(LIMITS, redis_url=redis_server.url, bot_id=7, drain_timeout=0.0)
    await start(outbound, chat=-1)
    tasks = [start(outbound) for _ in range(3)]
    await asyncio.sleep(0)
    await outbound.disable()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    gone = [result for result in results if result == "sent"]
    assert len(gone) <= 1, "one may have been answered in time"
    assert {type(result) for result in results if result not in gone} == {OutboundClosedError}
    assert redis_server.execute("ZCARD", "{p4o:7}:w:-100") == len(gone)
    assert not RedisLink._links


async def test_random_cancellations_and_refusals_lose_no_slot_and_no_place(pair, redis_server):
    chance = random.Random(4)
    limits = Limits(group=(50, 0.2), bulk=(10_000, 0.1), chat=(1000, 1.0), chat_burst=100)
    for outbound in pair:
        await outbound.enable(
            limits, redis_url=redis_server.url, bot_id=7, max_in_flight=10, drain_timeout=0.0
        )

    async def send():
        await asyncio.sleep(chance.uniform(0.0, 0.01))
        if chance.random() < 0.02:
            raise RetryAfter(0)

    tasks = [start(chance.choice(pair), chat=chance.choice([-1, -2, -3, 5]), send=send) for _ in range(400)]
    for _ in range(150):
        chance.choice(tasks).cancel()
        await asyncio.sleep(chance.uniform(0.0, 0.005))
        for outbound in pair:
            outbound.check_invariants()
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks, return_exceptions=True)
    for outbound in pair:
        seen = await figures(outbound)
        assert (seen["in_flight"], seen["queued"]) == (0, 0)
        assert not outbound._dispatcher.shared._own.in_flight


def test_a_second_event_loop_goes_on_with_the_same_budget(redis_server):
    outbound = Outbound()

    async def first():
        await outbound.enable(LIMITS, redis_url=redis_server.url, bot_id=7, drain_timeout=0.0)
        await asyncio.gather(*[start(outbound) for _ in range(2)])
        start(outbound, send=asyncio.Event().wait)
        await asyncio.sleep(0.05)

    async def second():
        tasks = [start(outbound) for _ in range(3)]
        # One of 4 was in flight when its loop ended.
        asked = outbound._dispatcher.shared.asked
        await until(lambda: sum(task.done() for task in tasks) == 1 and not asked())
        assert outbound._dispatcher.scheduler.pending == 2
        assert not (await figures(outbound))["degraded"]
        await give_up(*tasks)
        await outbound.disable()

    asyncio.run(first())
    asyncio.run(second())
    assert not RedisLink._links


def test_a_child_process_uses_no_number_of_its_parent(redis_server):
    outbound = Outbound()

    async def admitted():
        """Send until Redis has answered in time, which it may not on a busy machine."""
        shared = outbound._dispatcher.shared
        before = shared.admissions
        while shared.admissions == before:
            await start(outbound)

    async def parent():
        wide = Limits(group=(100, 600.0))
        await outbound.enable(wide, redis_url=redis_server.url, bot_id=7, drain_timeout=0.0)
        await admitted()
        return os.fork()

    async def child():
        await admitted()
        await outbound.disable()

    pid = asyncio.run(parent())
    if pid == 0:
        code = 1
        try:
            asyncio.run(child())
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert redis_server.execute("ZCARD", "{p4o:7}:w:-100") >= 2
    asyncio.run(outbound.disable())


def test_it_works_under_uvloop(redis_server):
    uvloop = pytest.importorskip("uvloop")

    async def run():
        outbound = Outbound()
        await outbound.enable(LIMITS, redis_url=redis_server.url, drain_timeout=0.0)
        tasks = [start(outbound) for _ in range(6)]
        await until(lambda: sum(task.done() for task in tasks) == 4)
        await give_up(*tasks)
        await outbound.disable()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@pytest.mark.server
def test_a_cluster_keeps_a_bots_budget_on_one_node():
    servers = RedisCluster()
    try:
        servers.start()

        async def run():
            made = [Outbound(), Outbound()]
            for outbound in made:
                await outbound.enable(LIMITS, redis_url=servers.url, bot_id=7, drain_timeout=0.0)
            tasks = [start(made[n % 2], chat=chat) for n in range(3) for chat in (-1, -2, -3, 4, "@five")]
            assert await asyncio.gather(*tasks) == ["sent"] * 15
            late = [start(outbound, chat=-1) for outbound in made for _ in range(2)]
            await until(lambda: sum(task.done() for task in late) == 1)
            for outbound in made:
                assert (await figures(outbound))["sent_unshared"] == 0
            await give_up(*late)
            for outbound in made:
                await outbound.disable()

        asyncio.run(run())
    finally:
        servers.close()


def test_names_of_bots():
    assert tag_of(7) == tag_of("7") == tag_of(" 7 ") == b"{p4o:7}"
    assert tag_of(TOKEN) == b"{p4o:123456}"
    assert tag_of("my bot}: ä\n") != tag_of("my bot}: o\n")
    assert tag_of("my bot}: ä").count(b"}") == 1
    for bad in ("", None, True, 1.5):
        with pytest.raises(InvalidArgumentError, match="bot_id"):
            tag_of(bad)


def test_an_answer_is_bounded():
    with pytest.raises(ValueError, match="bytes"):
        decode("x", 1)
