"""Connections of clients: how many, how long they may wait, which goes when there are too many."""

import asyncio
import contextlib
import logging

import pytest
from aiohttp import web
from aiohttp.http_exceptions import BadStatusLine
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bot.core.phase4_admin import connections as module
from bot.core.phase4_admin.connections import (
    BriefHttpLog,
    Connection,
    Connections,
    allow_open_files,
    most_connections,
)


class Transport(asyncio.Transport):
    """A connection's other side, as far as it is asked for."""

    def __init__(self, address):
        super().__init__({"peername": (address, 1)})
        self.aborted = False

    def abort(self):
        self.aborted = True


class Silent(asyncio.Protocol):
    pass


@pytest.fixture
def limits(monkeypatch):
    """The process's limits of open files, (soft, hard), as a list to be set and looked at."""
    import resource

    now = [1_024, 1_024]

    def set_limits(_, pair):
        assert pair[0] <= pair[1], "the system would refuse"
        now[:] = pair

    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    return now


def test_as_many_as_the_open_files_allow(limits):
    import resource

    for soft, each, most in (
        (1_024, 1, 896), (1_024, 2, 448), (1_024, 3, 298), (256, 2, 64), (100, 2, 16), (10**6, 3, 2_048),
        (resource.RLIM_INFINITY, 2, 2_048),
    ):  # fmt: skip
        limits[0] = soft
        assert most_connections(each) == most


def test_the_process_raises_its_own_limit_as_far_as_it_may(limits, caplog):
    limits[:] = 1_024, 1_000_000
    allow_open_files(2)
    assert limits == [128 + 2_048 * 2, 1_000_000], "no more than it can use"
    limits[:] = 100_000, 1_000_000
    allow_open_files(2)
    assert limits == [100_000, 1_000_000], "nor less than it has"
    limits[:] = 1_024, 2_000
    allow_open_files(2)
    assert limits == [2_000, 2_000]
    assert not caplog.records


def test_a_low_limit_is_told_with_what_it_leaves(limits, caplog, monkeypatch):
    import resource

    limits[:] = 256, 256
    allow_open_files(2)
    assert "256 open files allows 64 client connections" in caplog.text

    def forbidden(_, pair):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", forbidden)
    limits[:] = 200, 4_096
    allow_open_files(2)
    assert "200 open files allows 36 client connections" in caplog.text


class Clients(RuleBasedStateMachine):
    """Whatever clients do, each connection is counted once, and no address has more than half."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.time = 0.0
        self.connections = Connections(6, frozenset({"proxy"}), now=lambda: self.time)
        self.open = []

    def teardown(self):
        self.connections.close()
        self.loop.close()

    @rule(address=st.sampled_from(["a", "b", "c", "proxy"]))
    def connect(self, address):
        async def made():
            connection = Connection(Silent(), self.connections)
            connection.connection_made(Transport(address))
            self.connections.close()  # no timer outlives this loop
            return connection

        connection = self.loop.run_until_complete(made())
        self.open = [one for one in self.open if not one.transport.aborted]
        if not connection.transport.aborted:
            self.open.append(connection)
        else:
            busy = len(self.connections._busy)
            assert busy >= 3, "it is refused only when all are busy, or all of its address"

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def begin(self, data):
        self.connections.begun(data.draw(st.sampled_from(self.open)).transport)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def end(self, data):
        self.connections.ended(data.draw(st.sampled_from(self.open)).transport)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def leave(self, data):
        connection = data.draw(st.sampled_from(self.open))
        self.open.remove(connection)
        connection.connection_lost(None)
        connection.connection_lost(None)

    @rule(seconds=st.sampled_from([1.0, 20.0, 100.0]))
    def wait(self, seconds):
        self.time += seconds

        async def swept():
            self.connections._sweep()
            self.connections.close()

        self.loop.run_until_complete(swept())
        self.open = [one for one in self.open if not one.transport.aborted]
        waiting = [*self.connections._fresh.values(), *self.connections._idle.values()]
        assert all(self.time - since < module.IDLE_SECONDS for since in waiting)

    @invariant()
    def counted(self):
        self.connections.check_invariants()
        assert len(self.connections) == len(self.open)
        assert all(self.connections._by_client[address] <= 3 for address in "abc")


TestClients = Clients.TestCase


async def test_addresses_of_one_ipv6_network_are_one_client():
    limits = Connections(6, frozenset({"2001:db8:9::1"}))

    def connect(address):
        made = Connection(Silent(), limits)
        made.connection_made(Transport(address))
        limits.begun(made.transport)
        return made.transport.aborted

    assert [connect(f"2001:db8::{n:x}") for n in range(1, 6)] == [False] * 3 + [True] * 2
    assert not connect("2001:db8:0:1::1")
    assert not connect("2001:db8:9::1"), "a trusted proxy is known by its address"
    limits.check_invariants()
    limits.close()


@pytest.fixture
async def served():
    """A web server behind limits; gives a function that starts it."""
    started = []

    async def start(limit, log=None):
        limits = Connections(limit)

        async def answer(request):
            await request.read()
            return web.Response(text="well")

        app = web.Application(middlewares=[limits.middleware()])
        app.router.add_route("*", "/", answer)
        runner = web.AppRunner(app, access_log=None, **({"logger": log} if log else {}))
        await runner.setup()
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(runner.server(), limits), "127.0.0.1", 0
        )
        started.append((server, runner, limits))
        return server.sockets[0].getsockname()[1], limits

    yield start
    for server, runner, limits in started:
        server.close()
        limits.close()
        await runner.cleanup()


async def ask(port, text=b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    answer = await reader.read()
    writer.close()
    return answer


async def test_half_sent_requests_keep_nobody_out(served):
    port, limits = await served(10)
    held = []
    for _ in range(50):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: local")
        held.append(writer)
    for _ in range(20):
        assert (await ask(port)).startswith(b"HTTP/1.1 200")
    assert len(limits) <= 10
    for writer in held:
        writer.transport.abort()


async def test_a_connection_with_a_request_in_progress_is_not_taken_for_another(served):
    port, _ = await served(8)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nConnection: close\r\n\r\nha")
    await asyncio.sleep(0.05)
    for _ in range(20):
        assert (await ask(port)).startswith(b"HTTP/1.1 200")
    writer.write(b"lf")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_head_that_does_not_come_is_not_waited_for(served, monkeypatch):
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(module, "_SWEEP_SECONDS", 0.05)
    port, limits = await served(8)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\n")
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    assert len(limits) == 0
    writer.close()


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_what_is_one_too_many_or_waits_too_long_is_closed_on_each_loop(kind, monkeypatch):
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(module, "_SWEEP_SECONDS", 0.05)
    run = asyncio.run if kind == "asyncio" else pytest.importorskip("uvloop").run

    async def is_closed(reader):
        with contextlib.suppress(ConnectionError):
            return await reader.read() == b""
        return True

    async def work():
        limits = Connections(2)  # one for each client
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(Silent(), limits), "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(30):
            one, writer = await asyncio.open_connection("127.0.0.1", port)
            other, other_writer = await asyncio.open_connection("127.0.0.1", port)
            closed = [await is_closed(one), await is_closed(other)]
        writer.close()
        other_writer.close()
        server.close()
        limits.close()
        return closed, len(limits)

    assert run(work()) == ([True, True], 0)


async def test_a_connection_that_waits_for_its_next_request_is_closed_in_time(served, monkeypatch):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(module, "_SWEEP_SECONDS", 0.05)
    port, limits = await served(8)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    while len(limits):
        await asyncio.sleep(0.02)
    writer.close()


async def test_many_malformed_requests_are_few_lines_without_tracebacks(served, caplog):
    log = logging.getLogger("bot.http.test")
    log.addFilter(BriefHttpLog())
    port, _ = await served(8, log)
    with caplog.at_level(logging.DEBUG):
        for _ in range(100):
            assert b" 400 " in await ask(port, b"GET / HTTP/9.x\r\n\r\n")
    lines = [record for record in caplog.records if record.name == log.name]
    assert 0 < len(lines) <= 20
    assert all(record.exc_info is None for record in lines)
    assert "Malformed request" in caplog.text
    assert "Traceback" not in caplog.text


def test_what_is_left_out_is_told_with_the_next_line():
    time = [0.0]
    brief = BriefHttpLog(lambda: time[0])

    def record(error):
        return logging.LogRecord("x", logging.ERROR, "f", 1, "Error", (), (type(error), error, None))

    told = [brief.filter(record(BadStatusLine("x"))) for _ in range(30)]
    assert told == [True] * 20 + [False] * 10
    time[0] = 60.0
    later = record(BadStatusLine("x"))
    assert brief.filter(later)
    assert "(10 more were not logged)" in later.getMessage()
    fault = record(KeyError("x"))
    assert brief.filter(fault)
    assert "KeyError" in fault.getMessage(), "a fault of ours keeps its traceback, in the line itself"
