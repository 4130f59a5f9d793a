"""The plan of faults: from its seed alone, complete, and never two faults of one server at a time."""

from __future__ import annotations

import itertools

from tests.chaos.plan import MOMENTARY, NEVER_KILLED, draw, kinds

SERVERS = ("cache", "queue", "postgresql", "mysql")


def test_a_seed_gives_its_plan() -> None:
    assert draw(7, SERVERS, 30, 500) == draw(7, SERVERS, 30, 500) != draw(8, SERVERS, 30, 500)


def test_every_kind_comes_and_ends_in_time() -> None:
    for seed in range(20):
        plan = draw(seed, SERVERS, 30.0, 1_000.0)
        assert {(one.target, one.kind) for one in plan} == set(kinds(SERVERS))
        assert all(one.at >= 30.0 and one.at + one.seconds <= 1_000.0 for one in plan)
        assert all((one.seconds == 0) is (one.kind in MOMENTARY) for one in plan)


def test_a_server_has_one_fault_at_a_time_and_two_servers_may_have_theirs_together() -> None:
    together = 0
    for seed in range(20):
        for one, two in itertools.combinations(draw(seed, SERVERS, 30.0, 500.0), 2):
            overlap = one.at <= two.at + two.seconds and two.at <= one.at + one.seconds
            assert not (overlap and one.target == two.target)
            together += overlap
    assert together > 20


def test_one_instance_lives_throughout() -> None:
    for seed in range(20):
        ended = [one for one in draw(seed, SERVERS, 30, 900) if one.target == "instance"]
        assert all(one.kind == "freeze" or one.instance != NEVER_KILLED for one in ended)
        assert {one.instance for one in ended if one.kind != "freeze"}
