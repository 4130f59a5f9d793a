"""The server's flood limits, told the time."""

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.testing.telegram_limits import ServerLimits, TelegramLimits, Verdict

GROUP, USER = -100, 42


def test_the_21st_message_to_a_group_gets_the_rest_of_the_window_counting_down():
    limits = TelegramLimits()
    for second in range(20):
        assert limits.admit(GROUP, "message", 100.0 + second) == Verdict(1)
    assert limits.admit(GROUP, "message", 119.5) == Verdict(0, 41)
    assert limits.admit(GROUP, "message", 130.2) == Verdict(0, 30, in_penalty=True)
    assert limits.admit(GROUP, "message", 160.0) == Verdict(1)
    assert limits.admit(GROUP, "message", 160.5) == Verdict(0, 1)
    limits.check_invariants()


def test_no_window_of_a_group_holds_more_than_twenty():
    """A bucket of 20 that refills would let 39 through."""
    limits = TelegramLimits(ServerLimits(penalty_free=1_000))
    admitted = [at / 4 for at in range(4 * 600) if limits.admit(GROUP, "message", at / 4).admitted]
    assert len(admitted) == 200
    assert all(admitted[index + 20] - admitted[index] >= 60.0 for index in range(len(admitted) - 20))


def test_requests_into_a_penalty_make_it_grow_to_a_bound():
    limits = TelegramLimits(ServerLimits(penalty_free=3, penalty_most=3_600.0))
    limits.penalize(GROUP, 50.0, 0.0)
    told = [limits.admit(GROUP, "message", 10.0 + second).retry_after for second in range(12)]
    assert told == [40, 39, 38, 100, 200, 400, 800, 1600, 3200, 3600, 3600, 3600]
    assert limits.admit(GROUP, "message", 21.0 + 3600.0) == Verdict(1)


def test_what_was_on_its_way_when_the_refusal_came_makes_no_penalty_grow():
    limits = TelegramLimits()
    verdicts = [limits.admit(GROUP, "message", 0.01 * request) for request in range(70)]
    assert [verdict.admitted for verdict in verdicts] == [1] * 20 + [0] * 50
    assert {verdict.retry_after for verdict in verdicts[20:]} == {60}


def test_a_penalty_of_a_chat_holds_its_chat_actions_and_no_other_chat():
    limits = TelegramLimits()
    limits.penalize(GROUP, 50.0, 0.0)
    assert limits.admit(GROUP, "action", 1.0) == Verdict(0, 49, in_penalty=True)
    assert limits.admit(-200, "message", 1.0) == Verdict(1)
    assert limits.admit(GROUP, "other", 1.0) == Verdict(1)


def test_a_private_chat_has_a_short_burst_and_then_one_a_second():
    limits = TelegramLimits(ServerLimits(chat_burst=3))
    assert [limits.admit(USER, "message", 0.0).admitted for _ in range(4)] == [1, 1, 1, 0]
    assert [limits.admit(USER, "message", 1.0 + second).admitted for second in range(5)] == [1] * 5


def test_all_chats_together_have_thirty_a_second_and_paid_ones_a_thousand():
    limits = TelegramLimits()
    assert sum(limits.admit(user, "message", 0.0).admitted for user in range(1, 41)) == 30
    assert limits.admit(99, "message", 0.5) == Verdict(0, 1, in_penalty=True)
    assert all(limits.admit(user, "message", 0.5, paid=True).admitted for user in range(100, 200))
    assert limits.admit(99, "message", 1.0) == Verdict(1)


@pytest.mark.parametrize(("edits", "admitted"), [("shared", 0), ("separate", 1)])
def test_edits_count_with_messages_or_for_themselves(edits, admitted):
    limits = TelegramLimits(ServerLimits(edits=edits))
    for _ in range(20):
        limits.admit(GROUP, "message", 0.0)
    assert limits.admit(GROUP, "edit", 1.0).admitted == admitted


def test_chat_actions_have_both_windows():
    limits = TelegramLimits(ServerLimits(penalty_free=1_000))
    admitted = [at / 4 for at in range(4 * 29) if limits.admit(GROUP, "action", at / 4).admitted]
    assert len([at for at in admitted if at < 5.0]) == 20
    assert len(admitted) == 40


def test_an_album_that_does_not_fit_is_sent_in_part_or_refused():
    for partial, expected in ((True, 2), (False, 0)):
        limits = TelegramLimits(ServerLimits(partial_albums=partial))
        for _ in range(18):
            limits.admit(GROUP, "message", 0.0)
        assert limits.admit(GROUP, "message", 10.0, cost=5, album=True) == Verdict(expected, 50)


def test_what_costs_more_than_a_limit_is_admitted_alone():
    limits = TelegramLimits()
    assert limits.admit(GROUP, "message", 0.0, cost=25).admitted == 25
    assert limits.admit(GROUP, "message", 1.0).admitted == 0
    assert limits.admit(GROUP, "message", 60.0).admitted == 1


def test_more_active_requests_than_allowed_are_refused_for_a_minute():
    limits = TelegramLimits(ServerLimits(active=2))
    assert [limits.begin() for _ in range(3)] == [0, 0, 60]
    limits.end()
    limits.end()
    assert limits.begin() == 0


def test_idle_chats_are_forgotten():
    limits = TelegramLimits(ServerLimits(bulk=(1_000_000, 1.0)))
    for chat in range(1, 100_000):
        limits.admit(chat, "message", chat / 100)
    assert len(limits._scopes) < 3_000
    limits.check_invariants()


@pytest.mark.parametrize(
    ("name", "value"),
    [("group", (0, 60.0)), ("bulk", 30), ("edits", "none"), ("chat_burst", 0), ("penalty_growth", 0.5),
     ("actions", [(1, 1.0)]), ("active", True), ("penalty_most", float("nan")), ("penalty_grace", -1)],
)  # fmt: skip
def test_bad_limits_are_named(name, value):
    with pytest.raises(InvalidArgumentError, match=name):
        ServerLimits(**{name: value})
