"""The link to Redis where a test of a service would not see it."""

import asyncio

import pytest

from bot.core.redis_link import CALM, Breaker, RedisLink, RedisUnavailableError, subscribe
from bot.core.redis_link.breaker import State


@pytest.mark.parametrize("becomes", [None, TimeoutError()])
async def test_a_subscription_ends_though_its_driver_swallowed_the_cancellation(redis_url, becomes):
    link = RedisLink(redis_url)
    standing = asyncio.Event()
    connection = await link.open_connection()
    read = connection.read_response

    async def swallowing(**options):
        try:
            return await read(**options)
        except asyncio.CancelledError:
            if becomes is not None:
                raise becomes from None
            return None

    connection.read_response = swallowing

    async def opened():
        return connection

    link.parts.connections.open_connection = opened
    task = asyncio.ensure_future(
        subscribe(link.parts, "p4-test", lambda _: None, lambda stands: stands and standing.set())
    )
    await standing.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=2.0)
    assert done
    assert task.cancelled()
    await link.close()


@pytest.mark.parametrize("ends", ["cancelled", "timeout"])
async def test_a_connection_given_up_while_it_opens_is_closed(redis_server, monkeypatch, ends):
    link = RedisLink(redis_server.url, timeout=0.2)
    script = link.batched_script("return ARGV[1]", lambda answer, calls: [answer])
    made = []
    new_connection = script._new_connection

    def remembered():
        made.append(new_connection())
        return made[-1]

    monkeypatch.setattr(script, "_new_connection", remembered)
    redis_server.freeze()  # the kernel accepts the connection, and nobody answers its greeting
    call = script.call(b"k", b"v")
    while not (made and made[0]._writer is not None):
        await asyncio.sleep(0.001)
    transport = made[0]._writer.transport
    if ends == "cancelled":
        await script.close()
    with pytest.raises(RedisUnavailableError):
        await call
    await asyncio.sleep(0)
    assert transport.is_closing()
    assert script._opening is None
    assert link.breaker.state is not State.PROBED
    redis_server.thaw()
    await script.stop()
    await link.close()


def test_a_server_that_flaps_is_told_of_once_and_asked_ever_more_seldom(clock, caplog):
    breaker = Breaker("r", 1.0, clock.monotonic)
    pauses = []
    for _ in range(8):
        breaker.failed(ConnectionError("no"))
        with pytest.raises(RedisUnavailableError, match="Redis at r is away"):
            breaker.admit()
        pauses.append(breaker.probe_in)
        clock.jump(breaker.probe_in)
        assert breaker.admit()
        breaker.probe_ended()
        breaker.succeeded()
    assert caplog.text.count("going on without it") == 1
    assert caplog.text.count(" is back") == 1
    assert pauses[-1] > 10 * pauses[0]
    # One that then stays away is told of.
    breaker.failed(ConnectionError("no"))
    clock.jump(CALM + 0.001)
    breaker.failed(ConnectionError("no"))
    assert caplog.text.count("going on without it") == 2
    breaker.succeeded()
    assert caplog.text.count(" is back") == 2
    # And so is one that had been well for a while; its probes start anew.
    clock.jump(CALM + 0.001)
    breaker.failed(ConnectionError("no"))
    assert caplog.text.count("going on without it") == 3
    assert breaker.probe_in <= 0.2


def test_calls_that_fail_together_are_one_outage(clock):
    breaker = Breaker("r", 1.0, clock.monotonic)
    for _ in range(50):  # which were under way when it began
        breaker.failed(ConnectionError("no"))
        assert breaker.probe_in <= 0.2
    pauses = []
    for _ in range(6):
        clock.jump(breaker.probe_in)
        assert breaker.admit()
        for _ in range(50):
            breaker.failed(ConnectionError("no"))
        breaker.probe_ended()
        pauses.append(breaker.probe_in)
    assert 0.3 <= pauses[0] <= 0.4, "the second of the series"
    assert pauses[-1] > 3.7, "each probe is one"


async def test_only_one_call_sees_whether_the_server_is_back():
    now = 100.0
    breaker = Breaker("redis", 1.0, lambda: now)
    assert (breaker.available, breaker.admit()) == (True, False)
    breaker.failed(OSError("refused"))
    with pytest.raises(RedisUnavailableError):
        breaker.admit()
    now += 1.0
    assert breaker.probe_due
    assert breaker.admit() is True
    assert not breaker.probe_due
    with pytest.raises(RedisUnavailableError):
        breaker.admit()
    breaker.failed(OSError("refused"))
    assert breaker.state is State.PROBED, "until the call is over"
    breaker.probe_ended()
    assert breaker.state is State.AWAY
    now += 1.0
    assert breaker.admit() is True
    assert breaker.succeeded() is True
    breaker.probe_ended()
    assert (breaker.state, breaker.succeeded()) == (State.UP, False)
