"""What the scheduler decides, one decision at a time; a group may have one message in a minute."""

import pytest

from bot.core.outbound.backlog import Reason
from bot.core.outbound.keys import message_of, replaces
from bot.core.outbound.lanes import Entry
from bot.core.outbound.models import Kind, Limits, Priority
from bot.core.outbound.scheduler import MAX_ATTEMPTS, Scheduler
from bot.core.phase4_config.outbound import OutboundSettings

GROUP, OTHER_GROUP, USER = -1, -2, 5
LONG, SHORT = 700.0, 5.0
"""Seconds of a hold: longer than anybody waits, and not."""


@pytest.fixture
def scheduler():
    made = Scheduler(Limits(group=(1, 60.0)))
    yield made
    made.check_invariants()


def send(chat=GROUP, **more):
    return Entry(Kind.SEND, chat, **more)


def in_flight(scheduler, chat=GROUP, now=10.0, deadline=None, **more):
    entry = send(chat, **more)
    _, granted = scheduler.submit(entry, now, deadline)
    assert granted
    return entry


def waiting(scheduler, chat=GROUP, now=10.0, deadline=None, entry=None):
    claim, granted = scheduler.submit(entry or send(chat), now, deadline)
    assert not granted
    return claim


# Leaving.


def test_what_leaves_knows_when_and_how_and_for_which_time(scheduler):
    answer = in_flight(scheduler, priority=Priority.ANSWER)
    assert (answer.departed, answer.answers, answer.attempts) == (10.0, True, 1)
    assert not answer.starved
    other = in_flight(scheduler, OTHER_GROUP, now=11.0)
    assert (other.departed, other.answers, other.attempts) == (11.0, False, 1)
    scheduler.given_back(other, 12.0)
    assert other.attempts == 0, "it has not left after all"
    assert scheduler.poll(12.0)[0] == [other]
    assert (other.departed, other.ready_since, other.attempts) == (12.0, 12.0, 1)


def test_what_waited_until_its_time_leaves_before_what_comes_then(scheduler):
    scheduler.finished(in_flight(scheduler), 10.0)
    claim = waiting(scheduler)
    due = scheduler.wake_at(10.0)
    assert due == pytest.approx(70.0, abs=1.0)
    newcomer = waiting(scheduler, OTHER_GROUP, now=due)
    assert scheduler.poll(due)[0] == [claim.entry, newcomer.entry]


def test_a_chat_sends_one_after_the_other_as_each_is_answered(scheduler):
    scheduler.hold(None, SHORT, 10.0)
    first, second = (waiting(scheduler, USER).entry for _ in range(2))
    assert scheduler.poll(14.9) == ([], [])
    assert scheduler.poll(15.0)[0] == [first], "as the hold ends"
    scheduler.finished(first, 15.1)
    assert scheduler.poll(15.1)[0] == [second]


def test_requests_that_count_in_no_window_need_not_wait_for_each_others_answers(scheduler):
    scheduler.hold(None, SHORT, 10.0)
    entries = [waiting(scheduler, entry=Entry(Kind.OTHER, USER)).entry for _ in range(2)]
    assert scheduler.poll(15.0)[0] == entries


def test_a_message_does_not_overtake_an_album(scheduler):
    scheduler.configure(Limits(group=(10, 60.0)), 10.0, max_pending=9, max_in_flight=9, max_wait=600.0)
    scheduler.finished(in_flight(scheduler, cost=9), 10.0)
    album = waiting(scheduler, entry=send(cost=5), now=20.0)
    message = waiting(scheduler, now=20.0)
    assert scheduler.poll(20.0)[0] == [], "though there is room for the message"
    assert scheduler.poll(71.0)[0] == [album.entry]
    scheduler.finished(album.entry, 71.0)
    assert scheduler.poll(71.0)[0] == [message.entry]


def test_who_finds_the_window_of_all_chats_full_waits_for_it():
    scheduler = Scheduler(Limits(bulk=(2, 1.0)))  # one of the two is kept for answers
    in_flight(scheduler)
    other = waiting(scheduler, OTHER_GROUP, now=10.5)
    due = scheduler.wake_at(10.5)
    assert due == pytest.approx(11.0, abs=0.1)
    assert scheduler.poll(due)[0] == [other.entry]


def test_a_paid_message_waits_for_a_window_of_its_own():
    scheduler = Scheduler(Limits(paid=(1, 1.0)))
    in_flight(scheduler, paid=True)
    second = waiting(scheduler, entry=send(OTHER_GROUP, paid=True))
    other = waiting(scheduler, USER)
    assert scheduler.poll(10.0)[0] == [other.entry]
    due = scheduler.wake_at(10.0)
    assert due == pytest.approx(11.0, abs=0.1)
    assert scheduler.poll(due)[0] == [second.entry]


def test_as_a_hold_ends_the_window_of_all_chats_is_waited_for():
    scheduler = Scheduler(Limits(bulk=(2, 10.0)))
    in_flight(scheduler)
    scheduler.hold(None, SHORT, 10.0)
    waiting(scheduler, OTHER_GROUP)
    assert scheduler.wake_at(10.0) == 15.0
    assert scheduler.poll(15.0) == ([], [])
    assert scheduler.wake_at(15.0) == pytest.approx(20.0, abs=0.1)


def test_a_hold_that_ends_now_holds_nothing(scheduler):
    scheduler.hold(None, SHORT, 10.0)
    in_flight(scheduler, now=15.0)


def test_what_is_given_back_does_not_count():
    scheduler = Scheduler(Limits(bulk=(2, 1.0)))  # one of the two is kept for answers
    entry = in_flight(scheduler)
    other = waiting(scheduler, OTHER_GROUP)
    scheduler.given_back(entry, 10.1)
    assert scheduler.poll(10.1)[0] == [other.entry], "as one may leave"


@pytest.mark.parametrize("seconds", [0.5, 5.0])
def test_what_other_instances_hold_up_waits_for_its_chat(scheduler, seconds):
    entry = in_flight(scheduler)
    scheduler.deferred(entry, 10.0, chat=seconds)
    assert scheduler.poll(10.0 + seconds - 0.1)[0] == []
    assert scheduler.poll(10.0 + seconds)[0] == [entry]


def test_quiet_is_when_nobody_waits_and_everybody_was_told(scheduler):
    assert scheduler.is_quiet
    scheduler.hold(GROUP, SHORT, 10.0)
    claim = waiting(scheduler)
    assert not scheduler.is_quiet
    scheduler.hold(GROUP, LONG, 10.0)
    assert not scheduler.is_quiet, "it is still to be told"
    assert scheduler.wake_at(10.0) == 10.0
    assert scheduler.poll(10.0) == ([], [(claim, Reason.HELD)])
    assert scheduler.is_quiet


def test_limits_that_change_count_for_the_next():
    scheduler = Scheduler(Limits(), max_pending=1, max_in_flight=1, max_wait=600.0)
    scheduler.configure(Limits(), 10.0, max_pending=10, max_in_flight=10, max_wait=4.0)
    scheduler.hold(USER, SHORT, 10.0)
    claim = waiting(scheduler, USER)
    assert scheduler.poll(10.0)[1] == [(claim, Reason.HELD)], "five seconds are longer than four"


def test_it_begins_with_the_bounds_of_the_settings():
    settings, scheduler = OutboundSettings(), Scheduler(Limits())
    assert (scheduler.backlog.most, scheduler.slots.most) == (settings.max_pending, settings.max_in_flight)
    assert scheduler.max_wait == settings.max_wait


# Refusals.


def test_a_refusal_for_no_chat_holds_all(scheduler):
    entry = Entry(Kind.OTHER, None)
    assert scheduler.submit(entry, 10.0)[1]
    other = in_flight(scheduler)
    assert scheduler.refused(entry, SHORT, 0.0, 10.0, repeat=True) == (True, True, [])
    waiting(scheduler, USER, now=14.9)
    assert list(scheduler.holds(10.0)) == [(None, SHORT, 1.0)]
    assert list(scheduler.holds(15.0)) == []
    scheduler.finished(other, 12.0)


def test_a_refusal_for_longer_than_anybody_waits_ends_those_who_wait_in_the_chat(scheduler):
    entry = in_flight(scheduler)
    [own] = entry.claims
    claim = waiting(scheduler)
    assert scheduler.refused(entry, LONG, 0.0, 10.0, repeat=True) == (False, False, [own])
    assert scheduler.poll(10.0)[1] == [(claim, Reason.HELD)]


def test_three_chats_refused_at_once_mean_that_all_are_held(scheduler):
    refused = [in_flight(scheduler, chat) for chat in (-11, -12, -13)]
    in_flight(scheduler)
    claim = waiting(scheduler)
    answers = [scheduler.refused(entry, LONG, 0.0, 10.0, repeat=False)[0] for entry in refused]
    assert answers == [False, False, True]
    assert scheduler.poll(10.0)[1] == [(claim, Reason.HELD)]


def test_a_request_is_tried_again_so_many_times(scheduler):
    entry, now, tries = in_flight(scheduler, USER), 10.0, 1
    while scheduler.refused(entry, 1.0, 0.0, now, repeat=True)[1]:
        now += 100.0
        assert scheduler.poll(now)[0] == [entry]
        tries += 1
    assert tries == MAX_ATTEMPTS


def test_who_cannot_wait_for_another_try_is_told_at_once(scheduler):
    entry = in_flight(scheduler, USER, deadline=20.0)
    [claim] = entry.claims
    assert scheduler.refused(entry, 30.0, 0.0, 10.0, repeat=True)[1]
    assert scheduler.poll(10.0)[1] == [(claim, Reason.DEADLINE)]


def test_a_private_chats_bucket_has_its_debt_and_a_groups_window_none(scheduler):
    scheduler.finished(in_flight(scheduler, USER), 10.0)
    second = in_flight(scheduler, USER)
    assert scheduler.debt_before(second, 10.0) == pytest.approx(1.0, abs=0.1), "of the message before it"
    assert scheduler.debt_before(in_flight(scheduler), 10.0) == 0.0


def test_a_refusal_as_long_as_one_waits_at_most_is_waited_for(scheduler):
    entry = in_flight(scheduler)
    assert scheduler.refused(entry, 600.0, 0.0, 10.0, repeat=True)[1]


def test_what_other_instances_hold_up_in_one_chat_does_not_open_the_window_of_all(scheduler):
    first, second = in_flight(scheduler), in_flight(scheduler, OTHER_GROUP)
    scheduler.deferred(first, 10.0, gate=5.0)
    scheduler.deferred(second, 10.0, chat=0.5)
    assert scheduler.poll(14.9)[0] == []
    assert set(scheduler.poll(15.0)[0]) == {first, second}


# Holds.


@pytest.mark.parametrize("chat", [GROUP, None])
@pytest.mark.parametrize(
    ("seconds", "deadline", "reason"),
    [
        (LONG, None, Reason.HELD),
        (600.0, None, None),  # as long as one waits at most
        (SHORT, None, None),
        (200.0, 100.0, Reason.DEADLINE),
        (100.0, 100.0, None),  # to the end of the hold
    ],
)
def test_a_hold_ends_those_who_cannot_wait_for_its_end(scheduler, chat, seconds, deadline, reason):
    in_flight(scheduler)
    earlier = waiting(scheduler, deadline=deadline)
    scheduler.hold(chat, seconds, 10.0)
    later = waiting(scheduler, deadline=deadline)
    told = scheduler.poll(10.0)[1]
    assert told == ([] if reason is None else [(earlier, reason), (later, reason)])


def test_holds_are_told_with_their_seconds_and_shares(scheduler):
    scheduler.hold(None, SHORT, 10.0)
    scheduler.hold(GROUP, 7.0, 10.0)
    assert list(scheduler.holds(11.0)) == [(None, 4.0, 1.0), (GROUP, 6.0, 1.0)]
    assert list(scheduler.holds(20.0)) == []


# Giving up.


def test_who_gives_up_while_it_waits_is_not_sent(scheduler):
    in_flight(scheduler)
    alone, *shared = [waiting(scheduler), *(waiting(scheduler, entry=edit(1)) for _ in range(2))]
    place = shared[0].entry
    scheduler.withdraw(alone, 11.0)
    scheduler.withdraw(shared[1], 11.0)
    assert scheduler.waiting() == shared[:1]
    assert scheduler.pending == 1
    assert place.claims == shared[:1]


def test_what_is_over_is_in_no_lane(scheduler):
    entry = in_flight(scheduler)
    [claim] = entry.claims
    lane = entry.lane
    assert lane.in_flight
    assert scheduler.finished(entry, 11.0) == [claim]
    assert (entry.lane, entry.claims, claim.entry, lane.in_flight) == (None, [], None, 0)


def test_who_gives_up_in_flight_does_not_wait_for_another_try(scheduler):
    entry = in_flight(scheduler)
    [claim] = entry.claims
    scheduler.withdraw(claim, 10.5)
    scheduler.withdraw(claim, 10.6)
    assert scheduler.finished(entry, 11.0, again=True) == []
    assert scheduler.pending == 0


def edit(message):
    return Entry(
        Kind.EDIT, GROUP, key=replaces("editMessageText", GROUP, message), message=message_of(GROUP, message)
    )


def test_edits_of_a_message_that_is_deleted_are_over(scheduler):
    in_flight(scheduler)
    claims = [waiting(scheduler, entry=edit(message)) for message in (1, 1, 2)]
    [entry] = scheduler.edits_waiting(message_of(GROUP, 1))
    assert entry.claims == claims[:2], "they share one place"
    assert scheduler.drop_edits(GROUP, 1, 10.0) == 2
    assert scheduler.edits_waiting(message_of(GROUP, 1)) == []
    assert scheduler.poll(10.0)[1] == [(claim, Reason.DELETED) for claim in claims[:2]]
    assert scheduler.drop_edits(GROUP, 1, 10.0) == 0
    assert scheduler.pending == 1


def test_the_last_edit_that_waits_can_be_of_a_message_that_is_deleted(scheduler):
    scheduler.hold(None, SHORT, 10.0)
    claim = waiting(scheduler, entry=edit(1))
    assert scheduler.drop_edits(GROUP, 1, 10.0) == 1
    assert scheduler.poll(15.0) == ([], [(claim, Reason.DELETED)])


def test_what_need_not_be_sent_any_more_is_over_for_all_who_wanted_it(scheduler):
    in_flight(scheduler)
    claims = [waiting(scheduler, entry=edit(1)) for _ in range(2)]
    [entry] = scheduler.edits_waiting(message_of(GROUP, 1))
    assert scheduler.end_waiting(entry, 10.0) == claims
    assert (scheduler.pending, scheduler.poll(100.0)) == (0, ([], []))
    for claim in claims:
        scheduler.withdraw(claim, 11.0)  # too late, and no harm


def test_after_the_callers_event_loop_ended_nothing_leaves_at_the_end_of_a_hold(scheduler):
    scheduler.hold(None, SHORT, 10.0)
    claims = [waiting(scheduler), waiting(scheduler, USER)]
    assert scheduler.abandon(11.0) == claims
    assert scheduler.poll(15.0) == ([], [])
    in_flight(scheduler, now=15.0)


def test_after_the_callers_event_loop_ended_nobody_waits_and_windows_stay(scheduler):
    scheduler.finished(in_flight(scheduler), 10.0)
    in_flight(scheduler, OTHER_GROUP)
    scheduler.hold(USER, SHORT, 10.0)
    claims = [waiting(scheduler), waiting(scheduler, USER)]
    assert scheduler.abandon(10.0) == claims
    assert (scheduler.pending, scheduler.slots.taken, scheduler.waiting()) == (0, 0, [])
    for claim in claims:
        scheduler.withdraw(claim, 11.0)
    scheduler.check_invariants()
    assert scheduler.poll(11.0) == ([], [])
    waiting(scheduler, OTHER_GROUP, now=12.0)  # what was in flight may have been sent
    waiting(scheduler, now=13.0)
    waiting(scheduler, USER, now=14.0)
