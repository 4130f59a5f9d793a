"""Outbound on a virtual clock; the tests are named after what other libraries get wrong."""

import asyncio
import datetime
import random
from collections import Counter

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.outbound import (
    Limits,
    MessageDeletedError,
    Outbound,
    OutboundClosedError,
    OutboundDeadlineError,
    OutboundFullError,
    OutboundHeldError,
    Priority,
    Request,
    sending,
)
from tests.core.outbound.conftest import RetryAfter
from tests.support.clock import VirtualClock, until_idle

GROUP, OTHER_GROUP, USER = -100, -200, 42


class Sends:
    """Records what left and when; each takes ``latency`` seconds, and refuses what it is told to."""

    def __init__(self, clock, latency=0.0):
        self.clock = clock
        self.latency = latency
        self.left = []
        self.received = []
        self.refuse = {}

    def __call__(self, name):
        async def send():
            self.left.append((self.clock.monotonic(), name))
            errors = self.refuse.get(name)
            if self.latency:
                await self.clock.sleep(self.latency() if callable(self.latency) else self.latency)
            if errors:
                raise errors.pop(0)
            self.received.append((self.clock.monotonic(), name))
            return name

        return send

    @property
    def names(self):
        return [name for _, name in self.received]


@pytest.fixture
def sends(clock):
    return Sends(clock)


def start(outbound, send, method="sendMessage", chat=USER, **fields):
    return asyncio.ensure_future(outbound.call(send, Request(method, chat, **fields)))


def most_within(times, window):
    times = sorted(times)
    counts = (sum(1 for other in times[i:] if other - at < window) for i, at in enumerate(times))
    return max(counts, default=0)


async def ended(tasks):
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_group_gets_never_more_than_20_in_any_60_seconds(outbound, clock):
    shuffled = random.Random(3)
    sends = Sends(clock, latency=lambda: shuffled.uniform(0.01, 3.0))
    tasks = [start(outbound, sends(n), chat=GROUP) for n in range(120)]
    await clock.advance(600)
    assert sends.names == list(range(120)), "in order"
    left, received = [at for at, _ in sends.left], [at for at, _ in sends.received]
    assert most_within(left, 60.0) == most_within(received, 60.0) == 20
    # A request arrives somewhere between: even the latest of the first and the earliest of the 21st.
    assert all(later - earlier >= 60.0 for earlier, later in zip(received, left[20:], strict=False))
    await ended(tasks)


async def test_a_private_chat_has_a_short_burst_and_then_one_a_second(outbound, clock, sends):
    tasks = [start(outbound, sends(n)) for n in range(6)]
    await clock.advance(10)
    assert [round(at - 1000.0, 6) for at, _ in sends.left] == [0, 0, 0, 1, 2, 3]
    await ended(tasks)


async def test_the_bulk_limit_holds_back_all_but_answers(outbound, clock, sends):
    tasks = [start(outbound, sends(n), chat=n, priority=Priority.BROADCAST) for n in range(1, 1001)]
    await clock.advance(2.5)
    before = len(sends.left)
    answer = start(outbound, sends("answer"), chat=5_000, priority=Priority.ANSWER)
    await until_idle()
    assert answer.result() == "answer"
    assert len(sends.left) == before + 1
    await clock.advance(60)
    assert len(sends.received) == 1001
    assert most_within([at for at, name in sends.left if name != "answer"], 1.0) == 27
    assert most_within([at for at, _ in sends.left], 1.0) == 28
    await ended(tasks)


@pytest.mark.parametrize(
    ("limits", "others"),
    [
        ({}, 27), ({"bulk_reserve": 0}, 30), ({"bulk_reserve": 10}, 20), ({"bulk_reserve": 1_000}, 1),
        ({"bulk": (5, 1.0)}, 4), ({"bulk": (1, 1.0)}, 1), ({"bulk": (300, 1.0)}, 270),
    ],
)  # fmt: skip
async def test_a_part_of_bulk_is_kept_for_answers(outbound, clock, sends, limits, others):
    await outbound.enable(Limits(**limits), drain_timeout=0.0, max_in_flight=1_000)
    tasks = [start(outbound, sends(n), chat=n, priority=Priority.STATUS) for n in range(1, 401)]
    await clock.advance(0.5)
    assert len(sends.left) == others
    answers = [start(outbound, sends(n), chat=1_000 + n, priority=Priority.ANSWER) for n in range(5)]
    await until_idle()
    assert all(answer.done() for answer in answers), "they never wait"
    await clock.advance(1.0)
    # The answers left half a second later than the first others, so they still count.
    assert len(sends.left) == 5 + min(400, others + max(0, others - 5))
    for task in tasks:
        task.cancel()
    await ended([*tasks, *answers])


async def test_an_album_larger_than_what_is_left_to_it_leaves_alone(outbound, clock, sends):
    await outbound.call(sends("first"), Request("sendMessage", 1))
    album = start(outbound, sends("album"), "forwardMessages", chat=2, cost=29)
    await clock.advance(0.5)
    assert not album.done()
    await clock.advance(1.0)
    assert await album == "album"


async def test_answers_count_in_the_bulk_window(outbound, clock, sends):
    answers = [start(outbound, sends(n), chat=n, priority=Priority.ANSWER) for n in range(1, 41)]
    notice = start(outbound, sends("notice"), chat=99)
    await until_idle()
    assert len(sends.left) == 40
    await clock.advance(2)
    await notice
    assert sends.left[-1][0] >= 1001.0
    await ended(answers)


async def test_broadcasts_are_not_starved_by_answers_without_end(outbound, clock, sends):
    broadcast = None
    for second in range(120):
        answers = [
            start(outbound, sends((second, n)), chat=1000 * (second + 1) + n, priority=Priority.ANSWER)
            for n in range(32)
        ]
        broadcast = broadcast or start(outbound, sends("broadcast"), chat=7, priority=Priority.BROADCAST)
        await clock.advance(0.9)
        if broadcast.done():
            break
        for answer in answers:
            answer.cancel()
    assert broadcast.done()


async def test_one_chats_wait_stops_no_other_chat(outbound, clock, sends):
    sends.refuse["held"] = [RetryAfter(41)]
    held = start(outbound, sends("held"), chat=GROUP)
    behind = start(outbound, sends("behind"), chat=GROUP)
    await until_idle()
    others = [start(outbound, sends(n), chat=n) for n in range(1, 21)]
    await until_idle()
    assert all(other.done() for other in others)
    await clock.advance(40.9)
    assert not held.done()
    await clock.advance(5)
    assert sends.names[-2:] == ["held", "behind"], "the retry keeps the head"
    assert await held == "held"
    await behind


@pytest.mark.parametrize("wait", [5, 5.0, datetime.timedelta(seconds=5)])
async def test_nothing_leaves_inside_a_penalty_also_what_is_in_flight_or_queued(outbound, clock, wait):
    sends = Sends(clock, latency=0.2)
    sends.refuse[0] = [RetryAfter(wait)]
    tasks = [start(outbound, sends(n), chat=GROUP) for n in range(5)]
    tasks += [start(outbound, sends(n), "sendChatAction", chat=GROUP) for n in range(5, 8)]
    tasks += [start(outbound, sends(n), "getChat", chat=GROUP) for n in range(8, 11)]
    await clock.advance(0.2)
    tasks += [start(outbound, sends(n), "sendChatAction", chat=GROUP) for n in range(11, 14)]
    await clock.advance(30)
    assert not [name for at, name in sends.left if 1000.2 < at < 1005.2]
    assert [name for name in sends.names if name < 5] == [0, 1, 2, 3, 4]
    assert (await outbound.get_statistics())["refusals_chat"] == 1
    await ended(tasks)


async def test_three_chats_refused_within_two_seconds_hold_all(outbound, clock, sends):
    for chat in (-1, -2, -3):
        sends.refuse[chat] = [RetryAfter(10)]
    tasks = [start(outbound, sends(chat), chat=chat) for chat in (-1, -2)]
    await until_idle()
    free = start(outbound, sends("free"), chat=-9)
    await until_idle()
    assert free.done()
    tasks.append(start(outbound, sends(-3), chat=-3))
    await until_idle()
    tasks.append(start(outbound, sends("held"), chat=-10, priority=Priority.ANSWER))
    await clock.advance(9.9)
    assert "held" not in sends.names
    await clock.advance(3)
    assert "held" in sends.names
    statistics = await outbound.get_statistics()
    assert (statistics["refusals_chat"], statistics["refusals_global"]) == (2, 1)
    await ended(tasks)


async def test_a_wait_that_names_no_chat_holds_all(outbound, clock, sends):
    sends.refuse["commands"] = [RetryAfter(3)]
    commands = start(outbound, sends("commands"), "setMyCommands", chat=None)
    await until_idle()
    other = start(outbound, sends("other"))
    await clock.advance(2.9)
    assert not other.done()
    await clock.advance(1)
    assert await other == "other"
    assert await commands == "commands"


async def test_answers_to_queries_and_file_parts_are_never_queued(outbound, sends):
    outbound.hold(None, 100)
    for method in ("answerCallbackQuery", "AnswerInlineQuery", "getUpdates", "upload.SaveFilePart",
                   "upload.SaveBigFilePart", "messages.SetBotCallbackAnswer"):  # fmt: skip
        assert await outbound.call(sends(method), Request(method)) == method
    sends.refuse["part"] = [RetryAfter(5)]
    with pytest.raises(RetryAfter):
        await outbound.call(sends("part"), Request("upload.SaveBigFilePart"))


async def test_a_wait_over_max_wait_raises_at_once_for_all_of_the_chat(outbound, clock, sends):
    sends.refuse[0] = [RetryAfter(601)]
    tasks = [start(outbound, sends(n), chat=GROUP) for n in range(3)]
    await until_idle()
    errors = await ended(tasks)
    assert isinstance(errors[0], RetryAfter)
    assert [type(error) for error in errors[1:]] == [OutboundHeldError] * 2
    with pytest.raises(OutboundHeldError, match="chat -100 held for another 60"):
        await outbound.call(sends("late"), Request("sendMessage", GROUP))
    assert await outbound.call(sends("other"), Request("sendMessage", OTHER_GROUP)) == "other"


async def test_after_a_refusal_the_chats_rate_falls_and_recovers(outbound, clock, sends):
    sends.refuse[0] = [RetryAfter(1)]
    tasks = [start(outbound, sends(n), chat=GROUP) for n in range(40)]
    await clock.advance(59)
    assert len(sends.received) == 10, "half of 20"
    await clock.advance(600)
    await ended(tasks)
    again = [start(outbound, sends(n), chat=GROUP) for n in range(20)]
    await until_idle()
    assert all(task.done() for task in again)


async def test_figures_tell_who_waits_and_what_became_of_each_priority(outbound, clock, sends):
    sends.refuse["told"] = [RetryAfter(10)]
    told = start(outbound, sends("told"), chat=GROUP, priority=Priority.STATUS)
    await until_idle()
    waiting = [start(outbound, sends(n), chat=GROUP, priority=Priority.BROADCAST) for n in range(3)]
    answered = start(outbound, sends("answer"), priority=Priority.ANSWER)
    await until_idle()
    figures = await outbound.get_statistics()
    assert figures["chats_waiting"] == 1
    assert figures["chats_held"] == 1
    assert figures["by_priority"] == {
        "answer": {"queued": 0, "sent": 1, "refused": 0},
        "notify": {"queued": 0, "sent": 0, "refused": 0},
        "status": {"queued": 1, "sent": 0, "refused": 1},
        "broadcast": {"queued": 3, "sent": 0, "refused": 0},
    }
    await clock.advance(20)
    await ended([told, *waiting, answered])
    figures = await outbound.get_statistics()
    assert figures["chats_waiting"] == 0
    assert figures["sent"] == sum(each["sent"] for each in figures["by_priority"].values()) == 5
    assert not any(each["queued"] for each in figures["by_priority"].values())


async def test_a_request_that_cannot_leave_by_its_deadline_raises(outbound, clock, sends):
    outbound.hold(GROUP, 10)
    with pytest.raises(OutboundDeadlineError, match="deadline of 5 s"):
        await outbound.call(sends("no"), Request("sendMessage", GROUP, deadline=5))
    in_time = start(outbound, sends("yes"), chat=GROUP, deadline=11)
    await clock.advance(10)
    assert await in_time == "yes"
    burst = [start(outbound, sends(n), deadline=1.5) for n in range(6)]
    await clock.advance(1.6)
    results = await ended(burst)
    assert results[:4] == [0, 1, 2, 3]
    assert [type(result) for result in results[4:]] == [OutboundDeadlineError] * 2


async def test_superseded_edits_never_leave_and_get_the_last_ones_result(outbound, clock, sends):
    outbound.hold(GROUP, 5)
    edits = [
        start(outbound, sends(n), "editMessageText", GROUP, message_id=1, replaceable=True) for n in range(50)
    ]
    other = start(outbound, sends("other"), "editMessageText", GROUP, message_id=2, replaceable=True)
    await clock.advance(6)
    assert sends.names == [49, "other"]
    assert await ended(edits) == [49] * 50
    assert (await outbound.get_statistics())["superseded"] == 49
    await other


async def test_if_the_last_edit_is_given_up_the_one_before_is_sent(outbound, clock, sends):
    outbound.hold(GROUP, 5)
    edits = [
        start(outbound, sends(n), "editMessageText", GROUP, message_id=1, replaceable=True) for n in range(3)
    ]
    await until_idle()
    edits[2].cancel()
    await clock.advance(6)
    assert (await ended(edits))[:2] == [1, 1]
    assert sends.names == [1]


async def test_an_edit_that_fails_fails_for_all_who_share_it(outbound, clock, sends):
    outbound.hold(GROUP, 5)
    sends.refuse[1] = [ValueError("message is not modified")]
    edits = [
        start(outbound, sends(n), "editMessageText", GROUP, message_id=1, replaceable=True) for n in range(2)
    ]
    await clock.advance(6)
    assert [str(error) for error in await ended(edits)] == ["message is not modified"] * 2


async def test_a_delete_drops_the_edits_that_wait(outbound, clock, sends):
    outbound.hold(GROUP, 5)
    edit = start(outbound, sends("edit"), "editMessageText", GROUP, message_id=1)
    kept = start(outbound, sends("kept"), "editMessageText", GROUP, message_id=2)
    await until_idle()
    delete = start(outbound, sends("delete"), "deleteMessages", GROUP, message_id=(1, 3))
    await clock.advance(6)
    with pytest.raises(MessageDeletedError):
        await edit
    assert await delete == "delete"
    assert await kept == "kept"
    assert "edit" not in sends.names


async def test_a_partly_sent_album_is_never_repeated(outbound, clock, sends):
    sends.refuse["album"] = [RuntimeError("Bad Request: group send failed, retry after 7")]
    with pytest.raises(RuntimeError):
        await outbound.call(sends("album"), Request("sendMediaGroup", GROUP, cost=10))
    assert len(sends.left) == 1
    after = start(outbound, sends("after"), chat=GROUP)
    await clock.advance(6.9)
    assert not after.done(), "what it says is obeyed all the same"
    await clock.advance(2)
    assert await after == "after"


async def test_albums_cost_their_items_and_what_is_too_large_leaves_alone(outbound, clock, sends):
    tasks = [start(outbound, sends(n), "sendMediaGroup", GROUP, cost=10) for n in range(3)]
    tasks.append(start(outbound, sends("many"), "forwardMessages", OTHER_GROUP, cost=100))
    await clock.advance(10)
    assert sends.names[:3] == [0, "many", 1] or len(sends.names) == 3
    await clock.advance(60)
    assert len(sends.names) == 4
    await ended(tasks)


async def test_order_per_chat_holds_through_retries_and_cancellations_and_no_slot_is_lost(clock):
    chance = random.Random(11)
    outbound = Outbound(clock=clock, random_source=chance)
    await outbound.enable(Limits(group=(1000, 1.0), bulk=(1000, 0.5)), max_in_flight=10, drain_timeout=0.0)
    sends = Sends(clock, latency=lambda: chance.uniform(0.0, 0.3))
    tasks, cancelled = [], set()
    for n in range(3000):
        if chance.random() < 0.02:
            sends.refuse[(n % 7, n)] = [RetryAfter(chance.choice([0, 0.5, 2]))]
        tasks.append(start(outbound, sends((n % 7, n)), chat=-1 - n % 7))
    for _ in range(1000):
        victim = chance.randrange(3000)
        tasks[victim].cancel()
        cancelled.add(victim)
        if chance.random() < 0.2:
            await clock.advance(chance.uniform(0.0, 0.4))
            outbound.check_invariants()
    await clock.advance(2000)
    outbound.check_invariants()
    assert all(task.done() for task in tasks)
    received = [name for name in sends.names if name[1] not in cancelled]
    for chat in range(7):
        numbers = [n for c, n in received if c == chat]
        assert numbers == sorted(numbers)
    assert Counter(n for _, n in received).most_common(1)[0][1] == 1
    statistics = await outbound.get_statistics()
    assert (statistics["in_flight"], statistics["queued"]) == (0, 0)
    await outbound.disable()


async def test_max_pending_bounds_what_waits_and_keeps_room_for_answers(outbound, clock, sends):
    await outbound.enable(max_pending=10, drain_timeout=0.0)
    outbound.hold(None, 5)
    waiting = [start(outbound, sends(n), chat=n) for n in range(1, 11)]
    await until_idle()
    with pytest.raises(OutboundFullError, match="10 requests wait"):
        await outbound.call(sends("no"), Request("sendMessage", 99))
    answer = start(outbound, sends("answer"), chat=98, priority=Priority.ANSWER)
    await clock.advance(10)
    assert await answer == "answer"
    await ended(waiting)


async def test_slots_are_kept_for_answers(clock):
    outbound = Outbound(clock=clock)
    await outbound.enable(Limits(bulk=(1000, 1.0)), max_in_flight=10, drain_timeout=0.0)
    sends = Sends(clock, latency=1.0)
    slow = [start(outbound, sends(n), chat=n) for n in range(1, 30)]
    await until_idle()
    assert len(sends.left) == 9
    answer = start(outbound, sends("answer"), chat=99, priority=Priority.ANSWER)
    await until_idle()
    assert sends.left[-1][1] == "answer"
    await clock.advance(10)
    await ended([*slow, answer])
    await outbound.disable()


async def test_sending_gives_a_priority_and_a_deadline_to_what_is_sent_within(outbound, clock, sends):
    bulk = [start(outbound, sends(n), chat=n) for n in range(1, 100)]
    await until_idle()
    with sending(Priority.ANSWER, deadline=0.5):
        answer = start(outbound, sends("answer"), chat=500)
        await until_idle()
        assert answer.done()
        outbound.hold(500, 3)
        with pytest.raises(OutboundDeadlineError):
            await outbound.call(sends("late"), Request("sendMessage", 500))
    await clock.advance(10)
    await ended(bulk)


async def test_idle_chats_are_forgotten(outbound, clock, sends):
    for chat in range(1, 500):
        await outbound.call(sends(chat), Request("sendChatAction", chat))
        await outbound.call(sends(chat), Request("sendMessage", -chat, priority=Priority.ANSWER))
    await clock.advance(200)
    statistics = await outbound.get_statistics()
    assert statistics["chats_known"] == 0


async def test_a_stop_sends_what_it_can_and_fails_the_rest(clock, sends):
    outbound = Outbound(clock=clock)
    await outbound.enable(drain_timeout=5.5)
    tasks = [start(outbound, sends(n)) for n in range(12)]
    await until_idle()
    stop = asyncio.ensure_future(outbound.disable())
    await until_idle()
    with pytest.raises(OutboundClosedError):
        await outbound.call(sends("late"), Request("sendMessage", USER))
    await clock.advance(5.5)
    assert await stop
    results = await ended(tasks)
    assert results[:8] == list(range(8))
    assert {type(result) for result in results[8:]} == {OutboundClosedError}
    assert await outbound.call(sends("off"), Request("sendMessage", USER)) == "off", "off: passed through"


async def test_a_request_that_is_refused_after_the_drain_is_not_tried_again(clock, sends):
    outbound = Outbound(clock=clock)
    await outbound.enable(drain_timeout=1.0)
    sends.latency = 2.0
    sends.refuse["slow"] = [RetryAfter(3)]
    task = start(outbound, sends("slow"))
    await until_idle()
    draining = asyncio.ensure_future(outbound._dispatcher.drain(1.0))  # as disable does, on this loop
    await clock.advance(1.0)
    assert draining.done()
    with pytest.raises(OutboundClosedError):
        await outbound.call(sends("late"), Request("sendMessage", USER))
    await clock.advance(60.0)
    assert [type(result) for result in await ended([task])] == [RetryAfter]
    assert len(sends.left) == 1
    await outbound.disable()


async def test_a_stop_that_is_cancelled_while_it_waits_for_broadcasts_turns_away_what_waits(clock, sends):
    outbound = Outbound(clock=clock)
    await outbound.enable(broadcast_store="")
    begun, release = asyncio.Event(), asyncio.Event()

    async def slow(chat):
        begun.set()
        await release.wait()

    broadcast = asyncio.ensure_future(outbound.broadcast("news", [7], slow))
    await begun.wait()
    waiting = [start(outbound, sends(n), chat=GROUP) for n in range(30)]
    await until_idle()
    stop = asyncio.ensure_future(outbound.disable())
    await until_idle()
    assert not stop.done()
    stop.cancel()
    await asyncio.wait([stop, *waiting])
    assert {type(result) for result in (await ended(waiting))[20:]} == {OutboundClosedError}
    release.set()
    await asyncio.wait([broadcast])
    await outbound.disable()


def test_a_second_event_loop_is_served_and_nothing_of_the_first_stays():
    clock = VirtualClock()
    outbound = Outbound(clock=clock)
    sends = Sends(clock)

    async def first():
        await outbound.enable()
        for n in range(30):
            start(outbound, sends(n), chat=GROUP)
        await until_idle()

    async def second():
        assert await outbound.call(sends("second"), Request("sendMessage", USER)) == "second"
        late = start(outbound, sends("group"), chat=GROUP)
        await until_idle()
        assert not late.done(), "the window is remembered"
        await clock.advance(61)
        await late
        await outbound.disable()
        outbound.check_invariants()

    asyncio.run(first())
    asyncio.run(second())


async def test_a_cancelled_call_between_its_turn_and_its_send_gives_the_slot_back(outbound, clock, sends):
    outbound.hold(USER, 1)
    first, second = start(outbound, sends("first")), start(outbound, sends("second"))
    await until_idle()
    clock.jump(1)
    outbound._dispatcher._wake()
    first.cancel()
    await until_idle()
    assert sends.names == ["second"]
    outbound.check_invariants()
    await second


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request("sendMessage", True), "chat = True"),
        (Request("sendMessage", 1.5), "chat = 1.5"),
        (Request("", 1), "method = ''"),
        (Request("sendMessage", 1, cost=0), "cost = 0"),
        (Request("sendMessage", 1, deadline=float("nan")), "deadline = nan"),
        (Request("sendMessage", 1, priority=7), "priority = 7"),
    ],
)
async def test_a_bad_request_is_an_error_that_names_it(outbound, sends, request_, said):
    with pytest.raises(InvalidArgumentError, match=said):
        await outbound.call(sends("no"), request_)


async def test_bad_arguments_are_errors(outbound):
    for given in ({"max_pending": 0}, {"max_in_flight": True}, {"max_wait": -1}, {"limits": 3}):
        with pytest.raises(InvalidArgumentError):
            await outbound.enable(**given)
    with pytest.raises(InvalidArgumentError):
        outbound.hold(1, float("inf"))
    for limits in ({"group": (0, 60.0)}, {"chat_burst": 0}, {"typing": ((1, 0),)}, {"edits": "both"},
                   {"bulk_reserve": -1}, {"bulk_reserve": True}):  # fmt: skip
        with pytest.raises(InvalidArgumentError):
            Limits(**limits)


async def test_it_is_wired_by_its_flag_and_shown_in_the_status():
    from bot.core.enhanced_startup_phase4 import (
        get_phase4_status,
        initialize_phase4_services,
        shutdown_phase4_services,
    )

    report = await initialize_phase4_services(
        {"ENABLE_OUTBOUND": True, "OUTBOUND_GROUP_LIMIT": 1, "OUTBOUND_BULK_RESERVE": 7}
    )
    try:
        assert "Outbound" in report["services_initialized"]
        outbound = Outbound.get_instance()
        assert outbound._limits.bulk_reserve == 7

        async def send():
            return "sent"

        assert await outbound.call(send, Request("sendMessage", GROUP)) == "sent"
        second = start(outbound, send, chat=GROUP)
        await until_idle()
        status = (await get_phase4_status())["outbound"]
        assert (status["sent"], status["queued"], status["in_flight"]) == (1, 1, 0)
        second.cancel()
    finally:
        assert await shutdown_phase4_services()


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_it_keeps_its_word_on_the_machines_clock_and_any_event_loop(kind):
    import time

    uvloop = pytest.importorskip("uvloop")
    received, left = [], []

    async def send():
        left.append(time.monotonic())
        await asyncio.sleep(0.01)
        received.append(time.monotonic())

    async def run():
        outbound = Outbound()
        await outbound.enable(Limits(group=(5, 0.5), bulk=(1000, 1.0)))
        await asyncio.gather(*(outbound.call(send, Request("sendMessage", GROUP)) for _ in range(16)))
        outbound.check_invariants()
        assert await outbound.disable()

    factory = uvloop.new_event_loop if kind == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())
    assert len(received) == 16
    assert all(later - earlier >= 0.5 for earlier, later in zip(received, left[5:], strict=False))


async def test_spellings_of_a_chat_are_one_chat(outbound, clock, sends):
    outbound.hold("-100", 5)
    held = start(outbound, sends("held"), chat=-100)
    outbound.hold("@News", 5)
    named = start(outbound, sends("named"), chat="@news")
    await clock.advance(4)
    assert not held.done()
    assert not named.done()
    await clock.advance(2)
    await ended([held, named])


async def test_a_second_bot_has_a_budget_of_its_own_with_the_same_limits_and_settings(clock, sends):
    first = Outbound(clock=clock)
    await first.enable(Limits(group=(1, 60.0)), max_pending=1, max_in_flight=3, drain_timeout=0.0)
    second = first.sibling()
    assert not second.enabled
    await second.enable_as(first)
    for outbound, name in ((first, "first"), (second, "second")):
        assert await outbound.call(sends(name), Request("sendMessage", GROUP)) == name
    waits = asyncio.ensure_future(second.call(sends("waits"), Request("sendMessage", GROUP)))
    await until_idle()
    with pytest.raises(OutboundFullError):
        await second.call(sends("one too many"), Request("sendMessage", GROUP))
    assert (await second.get_statistics())["max_in_flight"] == 3
    await second.disable()
    with pytest.raises(OutboundClosedError):
        await waits
    assert first.enabled
    await first.disable()
