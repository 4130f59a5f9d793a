"""Holds that an operator ends: in one process, and in every instance that shares the budget."""

import asyncio
import threading

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.outbound import Outbound
from bot.core.redis_link import RedisUnavailableError
from tests.core.outbound.conftest import RetryAfter
from tests.core.outbound.test_shared import GROUP, LIMITS, give_up, pair, settled, start, until
from tests.support.clock import until_idle
from tests.support.servers import RedisCluster

__all__ = ["pair"]


async def listening(*outbounds):
    """Wait until each hears of what others release."""
    await until(lambda: all(outbound._dispatcher.shared._subscription.standing for outbound in outbounds))


@pytest.mark.parametrize(
    ("held", "released"), [(GROUP, "-100"), ("@News", "@news"), (42, 42), (None, None)], ids=str
)
async def test_what_waited_for_a_hold_leaves_when_it_is_released(outbound, clock, held, released):
    outbound.hold(held, 300)
    chats = [GROUP, "@news", 42] if held is None else [held]
    waiting = [start(outbound, chat=chat) for chat in chats]
    await until_idle()
    assert not any(task.done() for task in waiting)
    assert await outbound.release(released)
    await until_idle()
    assert [task.done() for task in waiting] == [True] * len(waiting)
    assert not await outbound.release(released), "there is none any more"


async def test_other_holds_windows_and_the_lower_rate_stay(outbound, clock):
    refusals = [RetryAfter(100)]

    async def send():
        if refusals:
            raise refusals.pop()

    first = start(outbound, chat=GROUP, send=send)
    await until_idle()
    outbound.hold(-5, 300)
    other = start(outbound, chat=-5)
    assert await outbound.release(GROUP)
    assert not await outbound.release(-77), "was never held"
    assert not await outbound.release(None), "not all are held"
    await first
    more = [start(outbound, chat=GROUP) for _ in range(20)]
    await until_idle()
    assert sum(task.done() for task in more) == 9, "half of 20, with the first one"
    assert not other.done()
    await give_up(other, *more)


async def test_a_chat_stays_silent_while_all_are_held(outbound, clock):
    outbound.hold(None, 100)
    outbound.hold(GROUP, 300)
    waiting = start(outbound)
    assert await outbound.release(GROUP)
    await until_idle()
    assert not waiting.done()
    assert await outbound.release(None)
    await waiting


@pytest.mark.parametrize("chat", [True, 1.5, "", b"@news", [5]])
async def test_what_is_no_chat_is_an_error(outbound, chat):
    with pytest.raises(InvalidArgumentError, match="chat"):
        await outbound.release(chat)


async def test_another_thread_may_release(clock):
    service = Outbound()
    await service.enable(drain_timeout=0.0)
    service.hold(GROUP, 300)
    waiting = start(service)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(asyncio.run(service.release(GROUP))))
    thread.start()
    await waiting
    await asyncio.to_thread(thread.join)
    assert answers == [True]
    await service.disable()


# With other instances.


@pytest.mark.parametrize("chat", [GROUP, None, "@" + "n" * 200, 42], ids=str)
async def test_a_release_ends_the_hold_in_every_instance(pair, chat):
    a, b = pair
    await listening(b)
    a.hold(chat, 300)
    await settled(a)
    waiting = [start(b, chat=GROUP if chat is None else chat) for _ in range(2)]
    await until(
        lambda: (
            b._dispatcher.scheduler.penalty.until > b._now() or b._dispatcher.scheduler.chats.held(b._now())
        )
    )
    assert not any(task.done() for task in waiting)
    assert await a.release(chat), "a chat that another instance waits for"
    await asyncio.wait_for(asyncio.gather(*waiting), 8)
    assert not await b.release(chat)


async def test_an_instance_that_had_nothing_to_do_with_it_may_release(pair):
    a, b = pair
    await listening(a)
    a.hold(GROUP, 300)
    await settled(a)
    waiting = start(a)
    assert await b.release(GROUP), "only Redis and the other one know of it"
    assert await asyncio.wait_for(waiting, 8) == "sent"


async def test_a_release_between_a_question_and_its_answer_is_not_undone_by_the_answer(pair):
    a, b = pair
    await listening(b)
    for _ in range(20):
        a.hold(GROUP, 300)
        await settled(a)
        waiting = start(b, "getChat")
        await asyncio.sleep(0)
        assert await a.release(GROUP)
        assert await asyncio.wait_for(waiting, 8) == "sent"
        assert not b._dispatcher.scheduler.chats.held(b._now())


async def test_the_lower_rate_after_a_refusal_stays_in_every_instance(pair):
    a, b = pair
    await listening(a)
    refusals = [RetryAfter(300)]

    async def send():
        if refusals:
            raise refusals.pop()
        return "late"

    refused = start(a, send=send)
    await until(lambda: not refusals)
    await settled(a)
    assert await b.release(GROUP)
    assert await asyncio.wait_for(refused, 8) == "late"
    others = [start(b) for _ in range(3)]
    await until(lambda: any(task.done() for task in others))
    await asyncio.sleep(0.1)
    assert sum(task.done() for task in others) == 1, "two of the four places, and one was taken"
    await give_up(*others)


async def test_while_redis_is_away_the_hold_stays_and_the_caller_is_told(pair, redis_server):
    a, _ = pair
    a.hold(GROUP, 300)
    await settled(a)
    redis_server.kill()
    with pytest.raises(RedisUnavailableError):
        await a.release(GROUP)
    assert a._dispatcher.scheduler.chats.held(a._now()) == 1


async def test_a_message_that_no_instance_sent_releases_nothing(pair, redis_server):
    a, _ = pair
    await listening(a)
    a.hold(GROUP, 300)
    await settled(a)
    messages = (b"", b"\xff\x00", b"{p4o:8}:n:-100", b"{p4o:7}:n:", b"{p4o:7}:h:-100", b"x" * 10_000)
    for message in messages:
        redis_server.execute("PUBLISH", "p4o:release", message)
    await until(lambda: a._dispatcher.shared._releases == len(messages))
    assert a._dispatcher.scheduler.chats.held(a._now()) == 1


async def test_two_bots_on_one_redis_do_not_hear_each_other(redis_server):
    mine, other = Outbound(), Outbound()
    await mine.enable(LIMITS, redis_url=redis_server.url, bot_id=1, drain_timeout=0.0)
    await other.enable(LIMITS, redis_url=redis_server.url, bot_id=2, drain_timeout=0.0)
    await listening(other)
    mine.hold(GROUP, 300)
    other.hold(GROUP, 300)
    await settled(other)
    assert await mine.release(GROUP)
    await until(lambda: other._dispatcher.shared._releases)
    assert other._dispatcher.scheduler.chats.held(other._now()) == 1
    await mine.disable()
    await other.disable()


async def test_a_cancelled_release_leaves_the_other_instances_right(pair):
    a, b = pair
    a.hold(GROUP, 300)
    await settled(a)
    task = asyncio.ensure_future(a.release(GROUP))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await settled(a)
    # Redis has done it or not; a second release makes sure.
    await a.release(GROUP)
    assert await asyncio.wait_for(start(b), 8) == "sent"


@pytest.mark.server
def test_a_release_is_heard_through_a_cluster():
    servers = RedisCluster()
    try:
        servers.start()

        async def run():
            made = [Outbound(), Outbound()]
            for outbound in made:
                await outbound.enable(LIMITS, redis_url=servers.url, bot_id=7, drain_timeout=0.0)
            await listening(*made)
            made[0].hold(GROUP, 300)
            await settled(made[0])
            waiting = start(made[1])
            await until(lambda: made[1].statistics()["chats_held"])
            assert await made[0].release(GROUP)
            assert await asyncio.wait_for(waiting, 8) == "sent"
            for outbound in made:
                await outbound.disable()

        asyncio.run(run())
    finally:
        servers.close()
