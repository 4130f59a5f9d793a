"""Sessions stay where they are, and only those of what left move."""

from collections import Counter

import pytest

from bot.core.load_balancer.sticky import SLOTS, slot_of
from tests.support.balancing import bring_up, cluster, take_down

SESSIONS = [f"user:{number}" for number in range(3_000)]


def homes(of):
    return {session: of.select(session).id for session in SESSIONS}


def test_a_session_stays_and_the_load_is_even():
    spread = cluster(3)
    before = homes(spread)
    assert homes(spread) == before
    assert all(850 < count < 1150 for count in Counter(before.values()).values())


def test_two_balancers_agree():
    assert homes(cluster(3, seed=1)) == homes(cluster(3, "random", seed=2))


@pytest.mark.parametrize("leave", [lambda c: c.remove("b", drain=False), lambda c: take_down(c, "b")])
def test_only_sessions_of_what_left_move(leave):
    spread = cluster(4)
    before = homes(spread)
    leave(spread)
    after = homes(spread)
    moved = {session for session in SESSIONS if before[session] != after[session]}
    assert moved == {session for session in SESSIONS if before[session] == "b"}
    assert len({after[session] for session in moved}) == 3, "they spread over all that are left"


def test_they_come_back_with_it():
    spread = cluster(3)
    before = homes(spread)
    take_down(spread, "b")
    homes(spread)
    bring_up(spread, "b")
    assert homes(spread) == before


def test_a_session_whose_instance_was_tried_goes_where_it_would_go_without():
    spread = cluster(3)
    elsewhere = {s: spread.select(s, [spread.members["b"]]).id for s in SESSIONS}
    take_down(spread, "b")
    assert homes(spread) == elsewhere


def test_weights_count():
    heavy = cluster(2, weights={"a": 3.0})
    assert 2_150 < Counter(homes(heavy).values())["a"] < 2_350


@pytest.mark.parametrize("session", ["", "x" * 10_000, 7, -1, 2**80, "\ud800", "ä"])
def test_any_text_or_number_is_a_session(session):
    assert 0 <= slot_of(session) < SLOTS
    assert slot_of(str(session)) == slot_of(session)
