"""Minutes of sending, in virtual time, against a model of Telegram's limits written apart from ours."""

import asyncio
import random

import pytest

from bot.core.outbound import Limits, Outbound, Priority, Request
from bot.testing.fast_loop import FastLoop
from bot.testing.telegram_limits import ServerLimits, TelegramLimits
from tests.core.outbound.conftest import RetryAfter

KINDS = {"sendMessage": "message", "editMessageText": "edit", "sendChatAction": "action"}


class Telegram:
    """A server some way off: a request is judged when it arrives, and its answer takes as long again."""

    def __init__(self, loop, limits=None, latency=(0.02, 0.15)):
        self.clock = loop.clock
        self.limits = TelegramLimits(limits or ServerLimits(chat_burst=3))
        self.latency = latency
        self.chance = random.Random(2)
        self.arrived = []
        self.refused = self.in_penalty = 0
        self.shows = {}

    async def request(self, method, chat, text=None, message=None):
        await asyncio.sleep(self.chance.uniform(*self.latency))
        now = self.clock.monotonic()
        verdict = self.limits.admit(chat, KINDS[method], now)
        self.in_penalty += verdict.in_penalty
        if verdict.admitted:
            self.arrived.append((now, chat, method))
            if message is not None:
                self.shows[chat, message] = text
        await asyncio.sleep(self.chance.uniform(*self.latency))
        if not verdict.admitted:
            self.refused += 1
            raise RetryAfter(verdict.retry_after)
        return text

    def times(self, chat):
        return [at for at, whose, _ in self.arrived if whose == chat]


def run(main):
    """Run ``main(loop)`` in an event loop whose time jumps."""
    with asyncio.Runner(loop_factory=lambda: FastLoop(0.0)) as runner:
        return runner.run(main(runner.get_loop()))


async def enabled(loop, limits=None, **settings):
    outbound = Outbound(clock=loop.clock, random_source=random.Random(1))
    await outbound.enable(limits, drain_timeout=0.0, **settings)
    return outbound


def start(outbound, telegram, method="sendMessage", chat=1, text=None, message=None, **fields):
    request = Request(method, chat, message_id=message, **fields)
    return asyncio.ensure_future(
        outbound.call(lambda: telegram.request(method, chat, text, message), request)
    )


def most_within(times, window):
    """The most that came within any window of so many seconds."""
    times, first, most = sorted(times), 0, 0
    for last, at in enumerate(times):
        while times[first] <= at - window:
            first += 1
        most = max(most, last - first + 1)
    return most


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def timed(loop, task):
    begun = loop.time()
    await task
    return loop.time() - begun


@pytest.mark.parametrize("edits", ["shared", "separate"])
def test_a_group_never_gets_more_than_20_in_any_60_s_over_10_minutes(edits):
    async def main(loop):
        telegram = Telegram(loop, ServerLimits(edits=edits), latency=(0.01, 2.0))
        outbound = await enabled(loop, Limits(edits=edits))
        tasks = []
        for second in range(600):
            # Bursts, pauses, and edits between them: three times what the window takes.
            if second % 60 < 20:
                tasks += [start(outbound, telegram, chat=-1) for _ in range(3)]
                tasks.append(start(outbound, telegram, "editMessageText", -1, "x", second))
            await asyncio.sleep(1.0)
        await asyncio.sleep(1_800)
        messages = [at for at, _, method in telegram.arrived if method == "sendMessage"]
        edited = [at for at, _, method in telegram.arrived if method == "editMessageText"]
        assert len(messages) > 200
        if edits == "shared":
            assert most_within(messages + edited, 60.0) == 20
        else:
            assert most_within(messages, 60.0) == most_within(edited, 60.0) == 20
        assert telegram.refused == 0
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await outbound.disable()

    run(main)


def test_one_group_held_for_41_s_makes_the_others_p99_rise_by_less_than_50_ms():
    async def p99(held):
        loop = asyncio.get_running_loop()
        telegram = Telegram(loop)
        outbound = await enabled(loop)
        waits = []
        if held:
            telegram.limits.penalize(-1, 41.0, loop.time())
        blocked = [start(outbound, telegram, chat=-1) for _ in range(50)]
        others = random.Random(8)
        for _ in range(400):
            chat = others.choice([-2, -3, -4, *range(10, 40)])
            waits.append(asyncio.ensure_future(timed(loop, start(outbound, telegram, chat=chat))))
            await asyncio.sleep(0.1)
        seen = await asyncio.gather(*waits)
        for task in blocked:
            task.cancel()
        await asyncio.gather(*blocked, return_exceptions=True)
        assert telegram.in_penalty == held, "the one that learns of it"
        await outbound.disable()
        return percentile(seen, 0.99)

    async def main(loop):
        free, held = await p99(False), await p99(True)
        assert held - free < 0.05

    run(main)


def test_behind_10_000_broadcasts_an_answers_p99_is_under_100_ms():
    async def main(loop):
        # Refuses the 31st message of any second, whoever it is for.
        telegram = Telegram(loop, latency=(0.01, 0.03))
        outbound = await enabled(loop, max_pending=20_000)
        broadcasts = [
            start(outbound, telegram, chat=1_000 + n, priority=Priority.BROADCAST) for n in range(10_000)
        ]
        waits = []
        for n in range(100):  # as many a second as are kept for answers
            await asyncio.sleep(0.35)
            waits.append(await timed(loop, start(outbound, telegram, chat=1 + n, priority=Priority.ANSWER)))
        assert percentile(waits, 0.99) < 0.1
        assert telegram.refused == 0
        assert most_within([at for at, _, _ in telegram.arrived], 1.0) > 27, "answers took from what is kept"
        assert (await outbound.get_statistics())["queued"] > 9_000, "they were queued all the time"
        for task in broadcasts:
            task.cancel()
        await asyncio.gather(*broadcasts, return_exceptions=True)
        await outbound.disable()

    run(main)


def test_200_chats_with_an_edit_a_second_each_show_their_last_text():
    async def main(loop):
        telegram = Telegram(loop)
        outbound = await enabled(loop)
        chats = [*range(1, 101), *range(-100, 0)]
        tasks = []
        for second in range(60):
            request = {"priority": Priority.STATUS, "replaceable": True, "content": f"{second} s"}
            tasks += [
                start(outbound, telegram, "editMessageText", chat, f"{second} s", 1, **request)
                for chat in chats
            ]
            await asyncio.sleep(1.0)
        results = await asyncio.gather(*tasks)
        assert len(results) == 12_000
        assert telegram.shows == {(chat, 1): "59 s" for chat in chats}
        assert telegram.refused == 0
        assert most_within([at for at, _, _ in telegram.arrived], 1.0) <= 30
        for chat in chats[100:]:
            assert most_within(telegram.times(chat), 60.0) <= 20
        seen = await outbound.get_statistics()
        share = seen["superseded"] / seen["total_requests"]
        print(f"\n{share:.1%} of 12,000 edits were superseded before they left")
        assert seen["superseded"] + seen["sent"] == 12_000
        await outbound.disable()

    run(main)


def test_nothing_is_sent_into_a_penalty_with_50_in_flight_when_it_begins():
    async def main(loop):
        telegram = Telegram(loop, ServerLimits(group=(1_000, 1.0), bulk=(1_000, 1.0), penalty_grace=0.0))
        # Requests to nobody's window, so that many of one chat are in flight together.
        outbound = await enabled(loop, Limits(group=(1_000, 1.0), bulk=(1_000, 1.0)))
        told, left = [], []

        async def get(n):
            left.append(loop.time())
            await asyncio.sleep(0.2 if n else 0.1)
            if n == 0 and not told:
                told.append(loop.time())
                raise RetryAfter(30)

        requests = [
            asyncio.ensure_future(outbound.call(lambda n=n: get(n), Request("getChatMember", -1)))
            for n in range(50)
        ]
        await asyncio.sleep(0.05)
        assert (await outbound.get_statistics())["in_flight"] == 50
        queued = [start(outbound, telegram, chat=-1) for _ in range(20)]
        await asyncio.sleep(0.1)
        new = [start(outbound, telegram, method, -1) for method in ("sendMessage", "sendChatAction")]
        await asyncio.gather(*requests, *queued, *new)
        assert not [at for at in left if told[0] < at < told[0] + 30.0]
        inside = [at for at in telegram.times(-1) if told[0] + 0.15 < at < told[0] + 30.0]
        assert inside == [], "but for what had left when the refusal came"
        await outbound.disable()

    run(main)


def test_a_bot_of_all_kinds_over_10_minutes_sends_nothing_into_a_penalty():
    async def main(loop):
        telegram = Telegram(loop)
        outbound = await enabled(loop)
        chance = random.Random(9)
        tasks = []
        for _ in range(3_000):
            chat = chance.choice([-1, -2, -3, *range(1, 30)])
            method = chance.choice(["sendMessage", "sendMessage", "editMessageText", "sendChatAction"])
            edit = method == "editMessageText"
            tasks.append(
                start(
                    outbound, telegram, method, chat, message=1 if edit else None,
                    priority=chance.choice(list(Priority)), replaceable=edit or method == "sendChatAction",
                )
            )  # fmt: skip
            await asyncio.sleep(chance.choice([0.0, 0.0, 0.4]))
        await asyncio.wait_for(asyncio.gather(*tasks), 36_000)
        # Answers do not wait for the window of all chats, so that alone may refuse.
        assert telegram.in_penalty == 0
        messages = [at for at, chat, method in telegram.arrived if chat == -1 and method != "sendChatAction"]
        assert most_within(messages, 60.0) <= 20
        await outbound.disable()

    run(main)


# What others get wrong, each test named after it.


def leaky_bucket(rate, seconds, requests):
    """When each of the requests that all come at 0 passes a bucket of ``rate`` that leaks in ``seconds``."""
    level, at, passed = 0.0, 0.0, []
    for _ in range(requests):
        if level + 1 > rate:
            wait = (level + 1 - rate) * seconds / rate
            at, level = at + wait, level - wait * rate / seconds
        level += 1
        passed.append(at)
    return passed


def fixed_window(limit, seconds, times):
    return [at for number, at in enumerate(times) if number < limit or at >= seconds * (number // limit)]


async def all_at_once(loop, chat, number, **settings):
    telegram = Telegram(loop, latency=(0.001, 0.002))
    outbound = await enabled(loop, **settings)
    tasks = [start(outbound, telegram, chat=chat) for _ in range(number)]
    await asyncio.sleep(59.9)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await outbound.disable()
    return telegram


def test_ptb_bucket_lets_39_through():
    assert sum(at < 60.0 for at in leaky_bucket(20, 60.0, 60)) == 39

    async def main(loop):
        telegram = await all_at_once(loop, -1, 60)
        assert len(telegram.times(-1)) == 20
        assert telegram.refused == 0

    run(main)


def test_ptb_has_no_limit_of_a_private_chat():
    async def main(loop):
        telegram = await all_at_once(loop, 1, 30)
        assert telegram.refused == 0
        assert most_within(telegram.times(1)[3:], 0.99) == 1

    run(main)


def test_ptb_lifts_its_halt_early_if_a_request_was_in_flight():
    async def main(loop):
        outbound = await enabled(loop, Limits(bulk=(1_000, 1.0)))
        left = []

        async def send(seconds, error=None):
            left.append(loop.time())
            await asyncio.sleep(seconds)
            if error and len(left) <= 30:
                raise error

        first = asyncio.ensure_future(
            outbound.call(lambda: send(0.1, RetryAfter(60)), Request("getChat", None))
        )
        slow = [
            asyncio.ensure_future(outbound.call(lambda: send(5.0), Request("getChat", n)))
            for n in range(1, 20)
        ]
        await asyncio.sleep(1.0)
        halted = loop.time()
        later = [
            asyncio.ensure_future(outbound.call(lambda: send(0.1), Request("getChat", n)))
            for n in range(1, 20)
        ]
        await asyncio.gather(first, *slow, *later)
        assert not [at for at in left if halted <= at < halted + 59.0], "their ends lift nothing"
        await outbound.disable()

    run(main)


def test_telethon_stops_all_chats_for_one_chats_wait():
    async def main(loop):
        telegram = Telegram(loop)
        outbound = await enabled(loop)
        telegram.limits.penalize(-1, 41.0, loop.time())
        held = start(outbound, telegram, chat=-1)
        await asyncio.sleep(1.0)
        assert await timed(loop, start(outbound, telegram, chat=-2)) < 1.0, "the same method, another chat"
        assert await timed(loop, held) > 39.0
        await outbound.disable()

    run(main)


def test_telegraf_throttlers_fixed_window_lets_40_through():
    times = [59.0] * 20 + [60.0] * 20
    assert most_within(fixed_window(20, 60.0, times), 60.0) == 40

    async def main(loop):
        telegram = Telegram(loop, latency=(0.001, 0.002))
        outbound = await enabled(loop)
        await asyncio.sleep(59.0)
        tasks = [start(outbound, telegram, chat=-1) for _ in range(20)]
        await asyncio.sleep(1.0)
        tasks += [start(outbound, telegram, chat=-1) for _ in range(20)]
        await asyncio.gather(*tasks)
        assert most_within(telegram.times(-1), 60.0) == 20
        await outbound.disable()

    run(main)


def test_takopis_gap_slows_every_chat():
    async def main(loop):
        telegram = Telegram(loop, latency=(0.001, 0.002))
        outbound = await enabled(loop)
        begun = loop.time()
        await asyncio.gather(*[start(outbound, telegram, chat=n) for n in range(1, 28)])
        assert loop.time() - begun < 0.05, "what bulk leaves beside answers need not wait"
        await outbound.disable()

    run(main)


def test_waiters_by_hand_wake_together_and_make_the_penalty_grow():
    async def main(loop):
        telegram = Telegram(loop, ServerLimits(group=(5, 60.0)))
        # A limit that we know wrong: what Telegram says is obeyed all the same.
        outbound = await enabled(loop)
        tasks = [start(outbound, telegram, chat=-1) for _ in range(30)]
        await asyncio.gather(*tasks)
        assert telegram.in_penalty == 0
        assert telegram.refused <= 10, "one for each time that the rate was found too high, not one a waiter"
        await outbound.disable()

    run(main)


def test_mirror_bots_hold_a_lock_over_the_network_edit():
    async def main(loop):
        outbound = await enabled(loop)

        async def edit(seconds):
            await asyncio.sleep(seconds)

        slow = asyncio.ensure_future(
            outbound.call(lambda: edit(30.0), Request("editMessageText", -1, message_id=1))
        )
        await asyncio.sleep(0.1)
        other = asyncio.ensure_future(
            outbound.call(lambda: edit(0.1), Request("editMessageText", -2, message_id=1))
        )
        assert await timed(loop, other) < 0.2
        await slow
        await outbound.disable()

    run(main)


def test_mirror_bots_send_edits_that_are_superseded_before_they_leave():
    async def main(loop):
        telegram = Telegram(loop)
        outbound = await enabled(loop)
        outbound.hold(-1, 5.0)
        edits = [
            start(outbound, telegram, "editMessageText", -1, str(n), 1, replaceable=True) for n in range(100)
        ]
        assert await asyncio.gather(*edits) == ["99"] * 100
        assert len(telegram.arrived) == 1
        await outbound.disable()

    run(main)
