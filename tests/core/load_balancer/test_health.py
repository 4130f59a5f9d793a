"""Probes against real sockets."""

import asyncio

import pytest
from aiohttp import web

from bot.core.load_balancer.health import HealthChecks
from bot.core.load_balancer.instances import Instance
from tests.support.balancing import cluster
from tests.support.clock import VirtualClock
from tests.support.servers import free_port


def checks(path="", check=None, timeout=0.5):
    clock = VirtualClock()
    return HealthChecks(cluster(0, check_path=path, check_timeout=timeout), clock, check, lambda: None)


@pytest.fixture
async def server():
    """Answers /health 200, /broken 503, /away a redirect."""
    app = web.Application()
    statuses = {"/health": 200, "/broken": 503, "/away": 302}

    async def answer(request):
        return web.Response(status=statuses[request.path])

    for path in statuses:
        app.router.add_get(path, answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield Instance("a", "127.0.0.1", runner.addresses[0][1])
    await runner.cleanup()


@pytest.mark.parametrize(
    ("path", "fault"),
    [("", ""), ("/health", ""), ("/broken", "HTTP 503"), ("/away", "HTTP 302"), ("/x", "HTTP 404")],
)
async def test_a_path_must_answer_2xx(server, path, fault):
    assert await checks(path).probe(server) == fault


@pytest.mark.parametrize("path", ["", "/health"])
async def test_nobody_listens(path):
    fault = await checks(path).probe(Instance("a", "127.0.0.1", free_port()))
    assert "ConnectionRefusedError" in fault


async def test_what_accepts_and_says_nothing_passes_a_tcp_check_only():
    writers = []  # kept: from Python 3.13 on, one that is dropped closes its connection

    def accept(reader, writer):
        writers.append(writer)

    silent = await asyncio.start_server(accept, "127.0.0.1", 0)
    instance = Instance("a", "127.0.0.1", silent.sockets[0].getsockname()[1])
    assert await checks().probe(instance) == ""
    assert await checks("/health", timeout=0.05).probe(instance) == "no answer within 0.05 s"
    silent.close()
    for writer in writers:
        writer.close()


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", b"\r\n", b"", b"\x00\xff" * 40_000])
async def test_what_speaks_no_http_is_a_fault(answer):
    async def talk(reader, writer):
        writer.write(answer)
        writer.close()

    odd = await asyncio.start_server(talk, "127.0.0.1", 0)
    instance = Instance("a", "127.0.0.1", odd.sockets[0].getsockname()[1])
    assert await checks("/health").probe(instance)
    odd.close()


class Unspeakable(Exception):
    """Its text cannot be had."""

    def __str__(self):
        return self.text_that_nobody_set


@pytest.mark.parametrize("error", [asyncio.CancelledError(), Unspeakable()])
async def test_whatever_a_check_raises_is_a_failed_check(error):
    async def broken(instance):
        raise error

    assert await checks(check=broken).probe(Instance("a", "127.0.0.1", 1)) == type(error).__name__


async def test_a_probe_that_is_cancelled_ends():
    begun = asyncio.Event()

    async def endless(instance):
        begun.set()
        await asyncio.Event().wait()

    probing = asyncio.ensure_future(checks(check=endless, timeout=60).probe(Instance("a", "127.0.0.1", 1)))
    await begun.wait()
    probing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probing


async def test_a_check_of_ones_own():
    async def fine(instance):
        return instance.id == "a"

    async def broken(instance):
        raise LookupError("no such\nthing, password=hunter2")

    instance = Instance("a", "127.0.0.1", 1)
    assert await checks(check=fine).probe(instance) == ""
    assert await checks(check=fine).probe(Instance("b", "h", 1)) == "the check returned a false value"
    assert await checks(check=broken).probe(instance) == "LookupError: no such thing, password=***"
