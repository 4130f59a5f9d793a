"""Whose turn it is among the lanes that wait."""

import math

import pytest

from bot.core.outbound.gates import Gate, Gates
from bot.core.outbound.lanes import ChatState, Claim, Entry
from bot.core.outbound.models import Kind, Limits, Priority
from bot.core.outbound.rates import Rates
from bot.core.outbound.ready import AGING, ReadyLanes
from bot.core.outbound.slots import Slots
from bot.core.outbound.turns import Turns

RATES = Rates(Limits(bulk=(4, 1.0), bulk_reserve=2))


def waiting(chat, priority=Priority.NOTIFY, kind=Kind.SEND, state=None):
    """A lane of a chat in which a request waits."""
    lane = (state or ChatState(chat)).lane(kind, RATES)
    entry = Entry(kind, chat, priority=priority)
    entry.claims.append(Claim(entry, 0.0, None))
    lane.add(entry)
    return lane


class Scene:
    def __init__(self, slots=10):
        self.slots, self.gates = Slots(slots), Gates()
        self.turns = Turns(self.slots, self.gates)
        self.lanes = []

    def place(self, lane, now=10.0):
        self.turns.place(lane, RATES, now)
        self.lanes = [lane, *(known for known in self.lanes if known is not lane)]
        self.turns.check_invariants(self.lanes)
        return lane

    def next(self, now=10.0):
        return self.turns.next(RATES, now)


@pytest.fixture
def scene():
    return Scene()


def test_in_turn_within_a_priority_and_the_better_priority_first(scene):
    first, second, broadcast = (
        scene.place(waiting(chat, priority))
        for chat, priority in [(-1, Priority.NOTIFY), (-2, Priority.NOTIFY), (-3, Priority.BROADCAST)]
    )
    for lane in (first, second, broadcast):
        assert scene.next() is lane
        assert scene.turns.take(lane) == 10.0, "since when it was ready"
    assert scene.next() is None
    assert not scene.turns.any_ready


def test_each_ten_seconds_of_waiting_count_as_much_as_a_priority(scene):
    old = scene.place(waiting(-1, Priority.BROADCAST), now=10.0)
    steps = Priority.BROADCAST - Priority.NOTIFY
    young = scene.place(waiting(-2), now=10.0 + steps * AGING - 0.1)
    assert scene.next(40.0) is young
    young.remove(young.head)
    scene.place(young)
    scene.place(waiting(-3), now=10.1 + steps * AGING)
    assert scene.next(40.0) is old


def test_a_lane_keeps_its_turn_when_its_priority_changes(scene):
    lane = scene.place(waiting(-1, Priority.BROADCAST), now=10.0)
    lane.set_priority(lane.head, Priority.ANSWER)
    scene.place(lane, now=20.0)
    assert scene.next(20.0) is lane
    assert scene.turns.take(lane) == 10.0


def test_a_full_window_of_all_chats_does_not_hold_up_what_does_not_pass_it(scene):
    for _ in range(4):
        scene.gates.leave(Gate.BULK, 1, RATES, 10.0, answers=True)
    message, action = scene.place(waiting(-1)), scene.place(waiting(-2, kind=Kind.TYPING))
    assert scene.next() is action
    scene.turns.take(action)
    assert scene.next() is None
    assert scene.turns.leave_at(RATES, 10.0) == pytest.approx(11.05)
    assert scene.next(11.06) is message


def test_without_a_free_slot_nothing_leaves_at_any_time():
    scene = Scene(slots=1)
    lane = scene.place(waiting(-1))
    scene.slots.take()
    assert scene.next() is None
    assert scene.turns.leave_at(RATES, 10.0) == math.inf
    scene.slots.give_back()
    assert scene.next() is lane


def test_a_blocked_lane_is_ready_when_its_chat_takes_something_again(scene):
    lane = waiting(-1)
    lane.chat.held_until = 15.0
    scene.place(lane)
    assert (scene.next(), scene.turns.unblock_at) == (None, 15.0)
    scene.turns.unblock(RATES, 14.9)
    assert scene.next(14.9) is None
    scene.turns.unblock(RATES, 15.0)
    assert scene.next(15.0) is lane
    assert scene.turns.unblock_at == math.inf


def test_a_ready_lane_whose_chat_has_become_full_is_blocked(scene):
    chat = ChatState(5)
    messages, edits = scene.place(waiting(5, state=chat)), scene.place(waiting(5, kind=Kind.EDIT, state=chat))
    for _ in range(3):
        messages.limit.leave(1, RATES, 10.0)
    assert scene.next() is None
    assert scene.turns.unblock_at == 11.0
    scene.turns.check_invariants([messages, edits])


def test_an_empty_lane_is_forgotten_and_one_in_flight_is_not(scene):
    lane = scene.place(waiting(-1))
    entry = lane.head
    lane.in_flight = 1
    lane.remove(entry)
    scene.place(lane)
    assert not scene.turns.any_ready
    assert lane.chat.lanes
    lane.in_flight = 0
    scene.turns.place(lane, RATES, 10.0)
    assert not lane.chat.lanes


def test_one_that_comes_back_goes_first_with_the_time_that_it_has_waited(scene):
    scene.place(waiting(-1))
    back = scene.place(waiting(-2))
    scene.turns.put_first(back, 3.0)
    assert scene.next() is back
    assert scene.turns.take(back) == 3.0
    scene.turns.put_first(back, 3.0)
    assert scene.next() is not back, "it is not ready"


def test_the_queues_agree_with_what_waits():
    ready = ReadyLanes()
    lanes = [waiting(-1), waiting(-2, Priority.ANSWER), waiting(None, kind=Kind.OTHER)]
    for lane in lanes:
        ready.put(lane, 10.0)
        ready.put(lane, 11.0)
        ready.check_invariants()
    assert [ready.since(lane) for lane in lanes] == [10.0] * 3
    ready.remove(lanes[0])
    ready.remove(lanes[0])
    ready.check_invariants()
    ready.clear()
    assert not ready.places
