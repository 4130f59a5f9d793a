"""What waits: places, the claims that share them, deadlines."""

import math

import pytest

from bot.core.outbound.backlog import Backlog, Reason
from bot.core.outbound.keys import message_of, replaces
from bot.core.outbound.lanes import ChatState, Claim, Entry
from bot.core.outbound.models import Kind, Limits, Priority
from bot.core.outbound.rates import Rates


@pytest.fixture
def lane():
    return ChatState(-1).lane(Kind.EDIT, Rates(Limits()))


@pytest.fixture
def backlog(lane):
    backlog = Backlog(10)
    yield backlog
    backlog.check_invariants(lane.waiting)


def edit(method="editMessageText", message=1, priority=Priority.NOTIFY):
    key = None if method is None else replaces(method, -1, message)
    return Entry(Kind.EDIT, -1, priority=priority, key=key, message=message_of(-1, message))


def claimed(entry, deadline=None):
    claim = Claim(entry, 0.0, deadline)
    entry.claims.append(claim)
    return claim


def test_a_later_request_shares_the_place_of_the_one_it_makes_needless(backlog, lane):
    first, later = edit(priority=Priority.BROADCAST), edit(priority=Priority.ANSWER)
    claimed(first)
    backlog.add(first, lane)
    claim = Claim(later, 0.0, 5.0)
    assert backlog.join(claim, later) is first
    assert first.claims[-1] is claim
    assert (backlog.claims, lane.priority, backlog.next_deadline) == (2, Priority.ANSWER, 5.0)
    assert backlog.join(Claim(edit(message=2), 0.0, None), edit(message=2)) is None


def test_what_leaves_has_no_deadline_any_more(backlog, lane):
    entry = edit()
    claimed(entry, 5.0)
    backlog.add(entry, lane)
    backlog.remove(entry)
    assert (backlog.claims, backlog.next_deadline) == (0, math.inf)
    backlog.put_back(entry, lane)
    assert (backlog.claims, backlog.next_deadline) == (1, 5.0)
    assert lane.head is entry


def test_one_that_was_superseded_in_flight_shares_the_later_ones_place(backlog, lane):
    first, between, later = edit(), edit(message=2), edit()
    early = claimed(first, 5.0)
    first.attempts = 3
    backlog.add(first, lane)
    backlog.remove(first)  # it is in flight now
    for entry in (between, later):
        claimed(entry)
        backlog.add(entry, lane)
    backlog.put_back(first, lane)
    assert early.entry is later
    assert lane.waiting == [later, between]
    assert later.claims[0] is early
    assert (later.attempts, backlog.claims, backlog.next_deadline) == (3, 3, 5.0)


def test_the_last_caller_that_gives_up_takes_the_place_with_it(backlog, lane):
    entry = edit()
    one, two = claimed(entry), claimed(entry, 5.0)
    backlog.add(entry, lane)
    backlog.withdraw(two)
    assert (lane.waiting, backlog.next_deadline) == ([entry], math.inf)
    backlog.withdraw(one)
    assert lane.is_empty
    assert backlog.take_failed() == []


def test_failures_are_told_once(backlog, lane):
    entry, refused = edit(), Claim(edit(), 0.0, None)
    late, later, never = claimed(entry, 1.0), claimed(entry, 2.0), claimed(entry)
    backlog.add(entry, lane)
    backlog.refuse(refused, Reason.FULL)
    assert backlog.pop_expired(0.5) is None
    assert backlog.pop_expired(1.0) is late
    backlog.fail(late, Reason.DEADLINE)
    backlog.fail_unreachable(lane, 2.5)
    backlog.fail_all(entry, Reason.DELETED)
    assert backlog.take_failed() == [
        (refused, Reason.FULL),
        (late, Reason.DEADLINE),
        (later, Reason.DEADLINE),
        (never, Reason.DELETED),
    ]
    assert backlog.take_failed() == []
    assert lane.is_empty


@pytest.mark.parametrize(("most", "of_answers"), [(10, 11), (100, 110), (1, 2)])
def test_answers_have_a_tenth_more_places(most, of_answers, lane):
    backlog = Backlog(most)
    while not backlog.is_full(Priority.NOTIFY):
        entry = edit(None)
        claimed(entry)
        backlog.add(entry, lane)
    assert backlog.claims == most
    while not backlog.is_full(Priority.ANSWER):
        entry = edit(None)
        claimed(entry)
        backlog.add(entry, lane)
    assert backlog.claims == of_answers


def test_edits_are_found_by_their_message(backlog, lane):
    entries = [edit(message=message) for message in (1, "2", 3)]
    for entry in entries:
        claimed(entry)
        backlog.add(entry, lane)
    assert backlog.edits_of(message_of(-1, 1)) == entries[:1]
    assert backlog.edits_of_all(-1, (2, 3)) == entries[1:]
    for entry in entries:
        backlog.fail_all(entry, Reason.DELETED)
    assert backlog.edits_of_all(-1, (1, 2, 3)) == []
