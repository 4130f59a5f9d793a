"""Waits of one method: the full wait, one request first, nobody sent into it."""

import asyncio
import random

import pytest
from pyrogram.errors import FloodWait

from bot.core.outbound import Outbound, OutboundHeldError
from bot.integrations.method_waits import MOST_REFUSALS, MethodWaits
from bot.testing import fast_loop

now = asyncio.get_running_loop
USERS = "users.GetUsers", "users.GetUsers"
PARTS = "upload.SaveFilePart", "parts sent"


def on_fast_loop(main):
    """Run ``main`` with an Outbound on an event loop whose time jumps: its result."""

    async def run():
        outbound = Outbound(clock=now().clock)
        await outbound.enable(max_wait=600.0)
        try:
            return await main(outbound)
        finally:
            await outbound.disable()
            outbound.check_invariants()

    return lambda: fast_loop.run(run())


class Telegram:
    """Refuses one method until a moment; more requests at once than ``at_once`` start a new wait."""

    def __init__(self, until=0.0, at_once=1_000):
        self.until = until
        self.at_once = at_once
        self.in_flight = 0
        self.times = []
        self.early = 0

    async def send(self):
        at = now().time()
        self.times.append(at)
        if at < self.until:
            self.early += 1
            raise FloodWait(int(self.until - at) + 1)
        self.in_flight += 1
        try:
            await asyncio.sleep(0.1)
            return "done"
        finally:
            self.in_flight -= 1


def test_after_the_wait_one_goes_first_and_the_others_follow():
    @on_fast_loop
    async def main(outbound):
        waits = MethodWaits(random.Random(1))
        telegram = Telegram(until=now().time() + 50)
        first = asyncio.create_task(waits.call(outbound, telegram.send, *USERS))
        await asyncio.sleep(1)
        others = [asyncio.create_task(waits.call(outbound, telegram.send, *USERS)) for _ in range(50)]
        assert await asyncio.gather(first, *others) == ["done"] * 51
        assert telegram.early == 1
        probe, *rest = telegram.times[1:]
        assert len(rest) == 50
        assert min(rest) >= probe + 0.1, "the others waited for the first one's answer"

    main()


def test_other_methods_do_not_wait():
    @on_fast_loop
    async def main(outbound):
        waits = MethodWaits()
        refused = asyncio.create_task(waits.call(outbound, Telegram(until=now().time() + 50).send, *USERS))
        await asyncio.sleep(1)
        began = now().time()
        await waits.call(outbound, Telegram().send, *PARTS)
        assert now().time() - began < 1
        await refused

    main()


def test_one_that_is_cancelled_while_it_goes_first_lets_the_next():
    @on_fast_loop
    async def main(outbound):
        waits = MethodWaits()
        telegram = Telegram(until=now().time() + 10)
        tasks = [asyncio.create_task(waits.call(outbound, telegram.send, *USERS)) for _ in range(5)]
        await asyncio.sleep(5)
        tasks[0].cancel()  # while it waits
        while not telegram.in_flight:
            await asyncio.sleep(0.01)
        tasks[1].cancel()  # while it is sent
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[2:] == ["done"] * 3
        assert all(isinstance(one, asyncio.CancelledError) for one in results[:2])

    main()


def test_another_error_ends_the_wait():
    @on_fast_loop
    async def main(outbound):
        waits = MethodWaits()
        errors = [FloodWait(5), ValueError("no such user")]

        async def send():
            if errors:
                raise errors.pop(0)
            return "done"

        tasks = [asyncio.create_task(waits.call(outbound, send, *USERS)) for _ in range(3)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(map(str, results)) == ["done", "done", "no such user"]

    main()


def test_endless_refusals_end():
    @on_fast_loop
    async def main(outbound):
        waits = MethodWaits()
        count = 0

        async def send():
            nonlocal count
            count += 1
            raise FloodWait(1)

        with pytest.raises(FloodWait):
            await waits.call(outbound, send, *USERS)
        assert count == MOST_REFUSALS

    main()


def test_a_wait_of_another_loop_is_kept():
    waits = MethodWaits()

    @on_fast_loop
    async def refused(outbound):
        with pytest.raises(FloodWait):
            await waits.call(outbound, Telegram(until=now().time() + 1000).send, *USERS)
        with pytest.raises(OutboundHeldError) as held:
            await waits.call(outbound, Telegram().send, *USERS)
        return held.value.retry_after

    @on_fast_loop
    async def later(outbound):
        await outbound.enable(max_wait=2_000.0)
        return await waits.call(outbound, Telegram().send, *USERS)

    assert refused() > 990
    assert later() == "done"


def test_while_all_chats_are_held_no_method_is_sent_but_parts_of_files_are():
    @on_fast_loop
    async def main(outbound):
        waits = MethodWaits()
        outbound.hold(None, 50)
        began = now().time()
        assert await waits.call(outbound, Telegram().send, *PARTS) == "done"
        assert now().time() - began < 1
        assert await waits.call(outbound, Telegram().send, *USERS) == "done"
        assert now().time() - began >= 50

    main()
