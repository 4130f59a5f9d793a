"""What is written down of a broadcast, and when a failure is known to be the recipient's."""

import asyncio
import contextlib

import pytest

from bot.core.outbound.broadcast.errors import BroadcastStoppedError, StoreAwayError
from bot.core.outbound.broadcast.outcomes import Outcome
from bot.core.outbound.broadcast.progress import SAID_EACH, Troubles
from bot.core.outbound.broadcast.recorder import Recorder
from bot.core.outbound.broadcast.store import Ended
from tests.support.clock import VirtualClock, until_idle


class Store:
    """Keeps what it is given; ``away`` calls fail first, and a shut ``gate`` holds a write up."""

    def __init__(self):
        self.kept: list[list[int]] = []
        self.away = 0
        self.data_was_lost = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def record(self, outcomes):
        if self.away:
            self.away -= 1
            raise StoreAwayError("no answer")
        await self.gate.wait()
        self.kept.append([ended.chat for ended in outcomes])


class Desk:
    def __init__(self, limit):
        self.clock = VirtualClock()
        self.store = Store()
        self.written: list[int] = []
        self.recorder = Recorder(
            "news", self.store, self.clock, Troubles("news", self.clock.monotonic), {},
            stop_after_failures=limit,
            written=lambda outcomes: self.written.extend(ended.chat for ended in outcomes),
        )  # fmt: skip

    def record(self, chat, outcome=Outcome.SENT):
        return asyncio.ensure_future(self.recorder.record(Ended(chat, outcome, "why")))


@pytest.fixture(params=[3])
async def desk(request):
    made = Desk(request.param)
    running = asyncio.ensure_future(made.recorder.run())
    yield made
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_worker_goes_on_when_it_is_written_down(desk):
    desk.store.gate.clear()
    recording = desk.record(1)
    await until_idle()
    assert not recording.done()
    desk.store.gate.set()
    await recording
    assert desk.store.kept == [[1]]
    assert desk.written == [1]
    assert desk.recorder.counts == {Outcome.SENT: 1}


async def test_what_comes_during_a_write_is_written_together(desk):
    desk.store.gate.clear()
    first = desk.record(1)
    await until_idle()
    others = [desk.record(chat) for chat in (2, 3, 4)]
    await until_idle()
    desk.store.gate.set()
    await asyncio.gather(first, *others)
    assert desk.store.kept == [[1], [2, 3, 4]]


async def test_nothing_is_lost_while_the_store_is_away(desk, caplog):
    desk.store.away = 3
    recordings = [desk.record(chat) for chat in (1, 2)]
    for _ in range(4):
        await until_idle()
        await desk.clock.advance(2.0)
    await asyncio.gather(*recordings)
    assert desk.store.kept == [[1, 2]]
    assert [record.getMessage() for record in caplog.records] == [
        "Broadcast news: the broadcast waits for its store (StoreAwayError: no answer)"
    ]


async def test_a_store_that_lost_its_data_is_told_of_once(desk, caplog):
    desk.store.data_was_lost = True
    await desk.record(1)
    await desk.record(2)
    [line] = caplog.messages
    assert line.startswith("Broadcast news: its store has lost what it kept; if the broadcast is interrupted")
    assert not desk.store.data_was_lost


async def test_a_write_that_was_cancelled_is_written_again(desk):
    recorder, store = desk.recorder, desk.store
    store.gate.clear()
    recording = desk.record(1)
    await until_idle()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await recorder.write()
    store.gate.set()
    await recording
    assert [1] in store.kept
    assert recorder.counts == {Outcome.SENT: 1}


class TestSuspects:
    async def test_a_success_shows_that_the_others_failed_by_themselves(self, desk):
        await desk.record(1, Outcome.FAILED)
        await desk.record(2, Outcome.FAILED)
        assert desk.store.kept == []
        await desk.record(3)
        assert sorted(chat for kept in desk.store.kept for chat in kept) == [1, 2, 3]
        assert desk.recorder.counts == {Outcome.FAILED: 2, Outcome.SENT: 1}

    async def test_one_who_blocked_the_bot_shows_nothing(self, desk):
        await desk.record(1, Outcome.FAILED)
        await desk.record(2, Outcome.BLOCKED)
        assert desk.store.kept == [[2]]

    async def test_too_many_in_a_row_stop_the_broadcast_and_are_not_recorded(self, desk):
        for chat in (1, 2):
            await desk.record(chat, Outcome.FAILED)
        with pytest.raises(BroadcastStoppedError, match="3 recipients in a row failed, the last with why"):
            await desk.record(3, Outcome.FAILED)
        assert desk.store.kept == []

    async def test_when_nobody_else_is_left_it_was_they(self, desk):
        await desk.record(1, Outcome.FAILED)
        await desk.record(2, Outcome.FAILED)
        desk.recorder.only_suspects_left(3)
        await until_idle()
        assert desk.store.kept == []
        desk.recorder.only_suspects_left(2)
        await until_idle()
        assert desk.store.kept == [[1, 2]]

    @pytest.mark.parametrize("desk", [None], indirect=True)
    async def test_without_a_limit_each_is_recorded_at_once(self, desk):
        for chat in (1, 2, 3, 4):
            await desk.record(chat, Outcome.FAILED)
        assert desk.store.kept == [[1], [2], [3], [4]]


def test_a_trouble_is_told_again_after_a_while_and_each_kind_by_itself(caplog):
    clock = VirtualClock()
    troubles = Troubles("news\nflash", clock.monotonic)
    for _ in range(3):
        troubles.say("store", "it waits (%s)", "down")
        troubles.say("network", "it tries again (%s)", "reset")
    assert caplog.messages == [
        "Broadcast news flash: it waits (down)",
        "Broadcast news flash: it tries again (reset)",
    ]
    clock.jump(SAID_EACH)
    troubles.say("store", "it waits (%s)", "still down")
    assert caplog.messages[2:] == ["Broadcast news flash: it waits (still down)"]
