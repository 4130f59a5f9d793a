"""One chat and its lanes."""

import math

import pytest

from bot.core.outbound.chat_limits import GroupLimit, PrivateLimit, TypingLimit
from bot.core.outbound.gates import Gate
from bot.core.outbound.lanes import ChatState, Claim, Entry
from bot.core.outbound.models import Kind, Limits, Priority
from bot.core.outbound.rates import Rates

SHARED, SEPARATE = Rates(Limits(group=(1, 60.0))), Rates(Limits(group=(1, 60.0), edits="separate"))


def waiting(lane, *priorities):
    entries = [Entry(lane.kind, lane.chat.id, priority=priority) for priority in priorities]
    for entry in entries:
        entry.claims.append(Claim(entry, 0.0, None))
        lane.add(entry)
    lane.check_invariants()
    return entries


def test_first_in_first_out_and_what_comes_back_goes_first():
    lane = ChatState(-1).lane(Kind.SEND, SHARED)
    assert lane.is_empty
    first, second = waiting(lane, Priority.NOTIFY, Priority.NOTIFY)
    assert lane.waiting == [first, second]
    assert lane.head is first
    lane.remove(first)
    assert first not in lane
    lane.add(first, first=True)
    assert lane.head is first
    lane.put_first(second)
    assert lane.waiting == [second, first]
    lane.check_invariants()


def test_the_best_that_waits_gives_the_lane_its_priority():
    lane = ChatState(-1).lane(Kind.SEND, SHARED)
    broadcast, answer = waiting(lane, Priority.BROADCAST, Priority.ANSWER)
    assert lane.priority == Priority.ANSWER
    lane.remove(answer)
    assert lane.priority == Priority.BROADCAST
    for priority in Priority:
        lane.set_priority(broadcast, priority)
        assert lane.priority == priority
    lane.check_invariants()


@pytest.mark.parametrize(
    ("chat", "kind", "limit"),
    [
        (5, Kind.SEND, PrivateLimit),
        (5, Kind.EDIT, PrivateLimit),
        (-5, Kind.SEND, GroupLimit),
        ("@name", Kind.SEND, GroupLimit),
        (5, Kind.TYPING, TypingLimit),
        (5, Kind.OTHER, type(None)),
        (None, Kind.SEND, type(None)),
    ],
)
def test_what_a_request_counts_in(chat, kind, limit):
    lane = ChatState(chat).lane(kind, SHARED)
    assert type(lane.limit) is limit
    lane.in_flight = 1
    assert lane.has_turn is (limit is type(None)), "what counts keeps its order"


def test_edits_count_with_messages_or_for_themselves_as_the_settings_say():
    chat = ChatState(-1)
    messages, edits = (chat.lane(kind, SHARED) for kind in (Kind.SEND, Kind.EDIT))
    assert messages.limit is edits.limit
    chat.adopt(SEPARATE)
    separate = edits.limit
    assert type(separate) is GroupLimit
    assert messages.limit is not separate
    chat.adopt(SHARED)
    assert messages.limit is edits.limit
    chat.adopt(SEPARATE)
    assert edits.limit is separate, "what counted there goes on counting"


def test_holds_and_other_instances_make_a_lane_wait_as_well():
    chat = ChatState(-1)
    lane, other = chat.lane(Kind.SEND, SHARED), chat.lane(Kind.OTHER, SHARED)
    assert lane.wait(1, SHARED, 10.0) == other.wait(1, SHARED, 10.0) == 0.0
    chat.held_until = 12.0
    assert lane.wait(1, SHARED, 10.0) == other.wait(1, SHARED, 10.0) == 2.0
    lane.not_before = 13.0
    assert lane.wait(1, SHARED, 10.0) == 3.0
    lane.limit.leave(1, SHARED, 10.0)
    assert lane.wait(1, SHARED, 10.0) == math.inf


def test_a_lane_is_dropped_when_nothing_waits_or_is_in_flight():
    chat = ChatState(-1)
    lane = chat.lane(Kind.SEND, SHARED)
    (entry,) = waiting(lane, Priority.NOTIFY)
    chat.drop_if_unused(lane)
    assert chat.lanes == {Kind.SEND: lane}
    assert chat.idle_at(SHARED) == math.inf
    lane.remove(entry)
    chat.drop_if_unused(lane)
    assert chat.lanes == {}
    assert chat.idle_at(SHARED) == -math.inf


def test_a_lane_that_was_abandoned_is_dropped_in_the_place_of_no_other():
    chat = ChatState(-1)
    old = chat.lane(Kind.SEND, SHARED)
    chat.abandon(10.0)
    chat.drop_if_unused(old)
    new = chat.lane(Kind.SEND, SHARED)
    chat.drop_if_unused(old)
    assert chat.lanes == {Kind.SEND: new}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("paid", [False, True])
def test_messages_and_edits_pass_a_window_of_all_chats(kind, paid):
    expected = Gate.NONE if kind not in (Kind.SEND, Kind.EDIT) else Gate.PAID if paid else Gate.BULK
    assert Entry(kind, -1, paid=paid).gate is expected


def test_a_chat_is_idle_when_its_windows_its_hold_and_its_slowdown_are_over():
    chat = ChatState(-1)
    limit = chat.lane(Kind.SEND, SHARED).limit
    limit.leave(1, SHARED, 10.0)
    chat.abandon(10.0)
    assert chat.idle_at(SHARED) == pytest.approx(70.0, abs=0.1), "what was in flight may have been sent"
    limit.leave(1, SHARED, 10.0)
    limit.answered(1, SHARED, 10.0, 11.0)
    assert chat.idle_at(SHARED) == 71.05
    chat.held_until = 100.0
    assert chat.idle_at(SHARED) == 100.0
    chat.slowdown.refused(10.0, 100.0)
    assert chat.idle_at(SHARED) == 400.0
    chat.check_invariants()
