"""What follows from more than one part of the scheduler. Random histories: tests/properties."""

import pytest

from bot.core.outbound.backlog import Reason
from bot.core.outbound.gates import STARVED
from bot.core.outbound.lanes import Entry
from bot.core.outbound.models import Kind, Limits, Priority, method_alone
from bot.core.outbound.scheduler import Scheduler

SHARED, SEPARATE = Limits(group=(1, 60.0)), Limits(group=(1, 60.0), edits="separate")


def configure(scheduler, limits, now):
    scheduler.configure(limits, now, max_pending=100, max_in_flight=10, max_wait=600.0)


@pytest.mark.parametrize(("before", "after"), [(SHARED, SEPARATE), (SEPARATE, SHARED)])
def test_an_edit_in_flight_ends_in_the_window_that_it_left_by(before, after):
    scheduler = Scheduler(before)
    edit = Entry(Kind.EDIT, -1)
    assert scheduler.submit(edit, 10.0)[1]
    configure(scheduler, after, 10.5)
    scheduler.finished(edit, 11.0)
    scheduler.check_invariants()
    scheduler.chats.forget_idle(scheduler.rates, 100.0)
    assert len(scheduler.chats) == 0


@pytest.mark.parametrize(
    ("kind", "after"), [(Kind.EDIT, SEPARATE), (Kind.SEND, Limits(group=(2, 60.0))), (Kind.SEND, Limits())]
)
def test_what_waits_leaves_as_soon_as_other_limits_let_it(kind, after):
    scheduler = Scheduler(SHARED)
    sent, waits = Entry(Kind.SEND, -1), Entry(kind, -1)
    assert scheduler.submit(sent, 10.0)[1]
    scheduler.finished(sent, 10.0)
    assert not scheduler.submit(waits, 11.0)[1]
    configure(scheduler, after, 12.0)
    scheduler.check_invariants()
    assert scheduler.poll(12.0)[0] == [waits]


def test_what_is_deferred_without_having_waited_has_not_starved():
    scheduler = Scheduler(Limits())
    first = Entry(Kind.SEND, -1)
    assert scheduler.submit(first, 1_000.0)[1]
    scheduler.deferred(first, 1_000.0, gate=0.5)
    answer = Entry(Kind.OTHER, None, priority=Priority.ANSWER)
    scheduler.submit(answer, 1_000.1)
    granted, _ = scheduler.poll(1_000.1)
    assert granted == [answer], "it has a better priority"
    granted, _ = scheduler.poll(1_000.6)
    assert granted == [first]
    assert not first.starved
    scheduler.deferred(first, 1_000.6, gate=0.1)
    granted, _ = scheduler.poll(1_000.0 + STARVED)
    assert granted == [first]
    assert first.starved, "since it came first"


def test_a_deadline_holds_for_another_try_as_well():
    scheduler = Scheduler(Limits(), max_in_flight=2)
    entry = Entry(Kind.TYPING, -1)
    claim, granted = scheduler.submit(entry, 10.0, 5.0)
    assert granted
    assert scheduler.submit(Entry(Kind.OTHER, None), 10.0)[1] is False, "a slot is kept for answers"
    assert scheduler.poll(20.0) == ([], []), "it has left in time"
    scheduler.finished(entry, 21.0, again=True)
    assert scheduler.poll(21.0)[1] == [(claim, Reason.DEADLINE)]
    scheduler.check_invariants()


def test_methods_that_are_held_by_themselves_do_not_add_up_to_a_hold_of_all_chats():
    scheduler = Scheduler(Limits())
    for name in ("setMyName", "setMyDescription", "setMyCommands", "setMyShortDescription"):
        entry = Entry(Kind.OTHER, method_alone(name))
        assert scheduler.submit(entry, 10.0)[1]
        for_all, _, _ = scheduler.refused(entry, 86_400.0, 0.1, 10.0, repeat=True)
        assert not for_all
    message = Entry(Kind.SEND, 5)
    assert scheduler.submit(message, 10.0)[1]
    claim, granted = scheduler.submit(Entry(Kind.OTHER, method_alone("setMyName")), 11.0)
    assert not granted
    assert scheduler.poll(11.0)[1] == [(claim, Reason.HELD)]
