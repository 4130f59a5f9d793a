"""The ring of events: bounded, merged, without user content."""

import logging

import pytest

from bot.core.phase4_admin.events import MAX_EVENTS, EventLog


@pytest.fixture
def events():
    log = EventLog()
    logging.getLogger("bot.core").addHandler(log)
    yield log
    logging.getLogger("bot.core").removeHandler(log)


def test_the_same_line_with_other_figures_is_one_event(events):
    for pool in ("db", "db", "redis"):
        logging.getLogger("bot.core.connection_pool_manager.runner").warning("Pool %r: %d leaked", pool, 3)
    logging.getLogger("bot.core.connection_pool_manager.runner").warning("Pool %r: %d leaked", "db", 9)
    assert [(event.text, event.count) for event in events.latest()] == [
        ("Pool 'db': 9 leaked", 3),
        ("Pool 'redis': 3 leaked", 1),
    ]


def test_what_may_hold_keys_or_values_is_left_out(events):
    logger = logging.getLogger("bot.core.cache_manager.service")
    logger.warning("Loader of %.100r failed %d times: %r", "user:hunter2", 3, ValueError("hunter2"))
    [event] = events.latest()
    assert event.text == "Loader of … failed 3 times: …"
    assert event.source == "cache_manager"


def test_of_the_load_balancer_names_and_states_are_shown_but_no_errors(events):
    logging.getLogger("bot.core.load_balancer.service").warning(
        "Load balancer: instance %s: %s -> %s: %s",
        "bot-3",
        "healthy",
        "ejected",
        "ValueError: hunter2 said no",
    )
    assert events.latest()[0].text == "Load balancer: instance bot-3: healthy -> ejected: …"


def test_passwords_are_masked(events):
    logging.getLogger("bot.core.redis_link").warning("Redis at %s is away", "redis://:hunter2@host:6379/0")
    assert "hunter2" not in events.latest()[0].text


def test_the_ring_is_bounded(events):
    for number in range(MAX_EVENTS + 50):
        logging.getLogger("bot.core.redis_link").warning("line %s", "x" * number)
    assert len(events.latest()) == MAX_EVENTS
