"""In one word and a sentence how each service does, and since when."""

import pytest

from bot.core.phase4_statistics.states import SERVICES, State, States, state_of

POOL = {"max_size": 5, "healthy": True, "degraded": False}


@pytest.mark.parametrize(
    ("service", "figures", "failure", "state"),
    [
        ("rate_limiter", None, "", State("off")),
        ("rate_limiter", None, "no driver", State("failed", "no driver")),
        ("rate_limiter", {"degraded": False}, "", State("ok")),
        (
            "rate_limiter", {"degraded": True}, "",
            State("degraded", "Redis does not answer: limits are per process"),
        ),
        (
            "rate_limiter", {"error": "boom"}, "",
            State("failed", "its statistics cannot be read; see the log"),
        ),
        ("connection_pool_manager", {"a": POOL}, "", State("ok")),
        ("connection_pool_manager", {"a": POOL}, "pool b: no driver", State("degraded", "pool b: no driver")),
        (
            "connection_pool_manager", {name: {**POOL, "healthy": False} for name in "abcde"}, "",
            State("degraded", "cannot connect: a, b, c and 2 more"),
        ),
        ("load_balancer", {"instances": {}}, "", State("ok")),
        (
            "load_balancer",
            {
                "instances": {
                    "a": {"healthy": True},
                    "b": {"healthy": False, "state": "drained", "drained": True},
                }
            },
            "",
            State("ok"),
        ),
        (
            "load_balancer",
            {"instances": {"a": {"healthy": True}, "b": {"healthy": False, "state": "ejected"}}}, "",
            State("degraded", "1 of 2 instances out: b (ejected)"),
        ),
        (
            "load_balancer", {"instances": {"b": {"healthy": False, "state": "unhealthy"}}}, "",
            State("failed", "1 of 1 instances out: b (unhealthy)"),
        ),
        (
            "outbound", {"held_globally_seconds": 12.4, "degraded": True}, "",
            State("degraded", "Telegram refuses all chats for another 12 s"),
        ),
    ],
)  # fmt: skip
def test_states(service, figures, failure, state):
    assert state_of(service, figures, failure) == state


def test_since_is_when_it_was_first_seen_so():
    states = States()
    away = {"rate_limiter": {"degraded": True}}
    assert set(states.read("1", {}, {})) == set(SERVICES)
    assert states.read("2", away, {})["rate_limiter"]["since"] == "2"
    assert states.read("3", away, {})["rate_limiter"]["since"] == "2"
    well = states.read("4", {"rate_limiter": {}}, {})["rate_limiter"]
    assert well == {"state": "ok", "reason": "", "since": "4"}
    assert states.read("5", {}, {})["outbound"]["since"] == "1"
