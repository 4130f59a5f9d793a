"""What a submitter is told if Redis did not answer: whether the item may be there all the same."""

import socket

import pytest

from bot.core.batch_processor.durable.outbox import _may_have_arrived
from bot.core.redis_link import RedisRefusedError, RedisUnavailableError

NOT_THERE = ConnectionError("Error 111 connecting to 127.0.0.1:6379. Connection refused.")


def raised(error, *, context=None):
    """``error`` as it is raised, while another one is handled if one is given."""
    try:
        if context is None:
            raise error
        try:
            raise context
        except type(context):
            raise error  # noqa: B904  # its context is what matters here
    except type(error) as found:
        return found


@pytest.mark.parametrize(
    "cause", [ConnectionRefusedError(), socket.gaierror("no such host"), NOT_THERE], ids=repr
)
def test_what_could_not_be_sent_has_not_arrived(cause):
    error = RedisUnavailableError("Redis is away")
    error.__cause__ = raised(cause)
    assert not _may_have_arrived(error)


def test_what_was_not_tried_or_was_refused_has_not_arrived():
    assert not _may_have_arrived(RedisUnavailableError("Redis is away"))
    refused = RedisRefusedError("READONLY")
    refused.__cause__ = TimeoutError()
    assert not _may_have_arrived(refused)


@pytest.mark.parametrize("cause", [TimeoutError(), ConnectionResetError(), OSError("broken pipe")], ids=repr)
@pytest.mark.parametrize("before", [None, NOT_THERE], ids=["at once", "after a try that found nobody"])
def test_what_was_sent_and_not_answered_may_have_arrived(cause, before):
    error = RedisUnavailableError("Redis is away")
    error.__cause__ = raised(cause, context=before)
    assert _may_have_arrived(error)
