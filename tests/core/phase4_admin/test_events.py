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


def test_numbers_in_names_tell_events_apart(events):
    logger = logging.getLogger("bot.core.load_balancer.service")
    for name in ("bot-1", "bot-2", "127.0.0.1:8001", "127.0.0.1:8002", "bot-1"):
        logger.warning("Load balancer: instance %s: %s -> %s: %s", name, "new", "healthy", "added again")
    assert [event.count for event in events.latest()] == [2, 1, 1, 1]


def test_what_may_hold_keys_or_values_is_left_out(events):
    logger = logging.getLogger("bot.core.cache_manager.service")
    logger.warning("Loader of %.100r failed %d times: %r", "user:hunter2", 3, ValueError("hunter2"))
    [event] = events.latest()
    assert event.text == "Loader of … failed 3 times: ValueError", "the reason, and not what it says"
    assert event.source == "cache_manager"


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("ValueError: hunter2 said no", "ValueError: …"),
        ("5 failures in a row, the last: ValueError: hunter2; out for 30 s",
         "5 failures in a row, the last: ValueError: …; out for 30 s"),
        ("3 failed health check(s) in a row, the last: ConnectionRefusedError: [Errno 111] hunter2",
         "3 failed health check(s) in a row, the last: ConnectionRefusedError: …"),
        ("3 failed health check(s) in a row, the last: HTTP 503",
         "3 failed health check(s) in a row, the last: HTTP 503"),
        ("2 good health check(s) in a row", "2 good health check(s) in a row"),
        ("still failing: no answer within 2 s; out for 60 s",
         "still failing: no answer within 2 s; out for 60 s"),
        ("87 % of 40 requests failed, the last: hunter2 is hunter3",
         "87 % of 40 requests failed, the last: … is …"),
    ],
)  # fmt: skip
def test_of_the_load_balancer_reasons_are_shown_but_nothing_that_a_handler_said(events, reason, shown):
    logging.getLogger("bot.core.load_balancer.service").warning(
        "Load balancer: instance %s: %s -> %s: %s", "bot-3", "healthy", "ejected", reason
    )
    assert events.latest()[0].text == f"Load balancer: instance bot-3: healthy -> ejected: {shown}"


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("ValueError: hunter2", "ValueError: …"),
        ("HandlerTimeout", "HandlerTimeout"),
        ("hunter2 ValueError", "…"),
        (TimeoutError("hunter2"), "TimeoutError"),
    ],
)
def test_a_batch_given_up_says_by_what_kind_of_error(events, error, shown):
    logging.getLogger("bot.core.batch_processor.dispatcher").error(
        "Batch of %d item(s) given up: %s\n%s", 4, error, "  | Traceback\n  | hunter2"
    )
    assert events.latest()[0].text == f"Batch of 4 item(s) given up: {shown}"


def test_passwords_are_masked(events):
    logging.getLogger("bot.core.redis_link").warning("Redis at %s is away", "redis://:hunter2@host:6379/0")
    assert "hunter2" not in events.latest()[0].text


def test_the_ring_is_bounded(events):
    for number in range(MAX_EVENTS + 50):
        logging.getLogger("bot.core.redis_link").warning("line %s", "x" * number)
    assert len(events.latest()) == MAX_EVENTS
