"""The default handler over real HTTP."""

import asyncio
import sys

import pytest
from aiohttp import web

from bot.core.load_balancer import InstanceFailure, LoadBalancer, RequestFailed, RequestRejected
from bot.core.load_balancer.http_handler import HttpHandler, MissingClientError
from bot.core.load_balancer.instances import Instance


class Server:
    """One ``/api/execute`` that answers as its ``answer`` says."""

    def __init__(self):
        self.requests = []
        self.connections = set()
        self.answer = lambda: web.json_response({"ok": True})

    async def start(self):
        app = web.Application()

        async def execute(request):
            self.connections.add(request.transport)
            self.requests.append(await request.json())
            return self.answer()

        app.router.add_post("/api/execute", execute)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.port = self.runner.addresses[0][1]


@pytest.fixture
async def servers():
    made = [Server(), Server()]
    for server in made:
        await server.start()
    yield made
    for server in made:
        await server.runner.cleanup()


@pytest.fixture
async def balancer(servers):
    lb = LoadBalancer()
    await lb.enable(check_interval=0)
    for name, server in zip("ab", servers, strict=True):
        await lb.add_instance(name, "127.0.0.1", server.port)
    yield lb
    assert await lb.disable()


async def test_json_goes_out_and_comes_back_over_one_connection_each(balancer, servers):
    for number in range(10):
        success, result, _ = await balancer.route_request({"n": number})
        assert (success, result) == (True, {"ok": True})
    assert sorted(r["n"] for server in servers for r in server.requests) == list(range(10))
    assert [len(server.connections) for server in servers] == [1, 1]


async def test_5xx_fails_over_and_counts_against_the_instance(balancer, servers):
    servers[0].answer = lambda: web.json_response({"error": "x"}, status=500)
    assert [(await balancer.route_request(1)).instance_id for _ in range(4)] == ["b"] * 4
    figures = (await balancer.get_statistics())["instances"]["a"]
    assert figures["failed_requests"] == 2
    assert figures["last_error"] == "InstanceFailure: HTTP 500"


async def test_4xx_is_the_requests_own_fault(balancer, servers):
    for server in servers:
        server.answer = lambda: web.json_response({"error": "no such user"}, status=404)
    success, error, _ = await balancer.route_request(1)
    assert not success
    assert isinstance(error, RequestRejected)
    assert (error.status, error.body) == (404, {"error": "no such user"})
    assert len(servers[0].requests) + len(servers[1].requests) == 1
    assert (await balancer.get_statistics())["instances"]["a"]["failed_requests"] == 0


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(text="<html>"),
        lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
        lambda: web.Response(status=204),
    ],
)
async def test_what_is_no_json_answer_has_failed(balancer, servers, answer):
    for server in servers:
        server.answer = answer
    success, error, _ = await balancer.route_request(1)
    assert not success
    assert isinstance(error, RequestFailed)
    assert isinstance(error.__cause__, InstanceFailure)
    assert len(error.attempts) == 2


async def test_a_request_that_is_no_json_is_refused_before_it_is_sent(balancer, servers):
    success, error, _ = await balancer.route_request({"when": object()})
    assert not success
    assert "the request is no JSON: Object of type object" in str(error)
    assert servers[0].requests == servers[1].requests == []


async def test_a_server_that_went_away_is_failed_over(balancer, servers):
    await servers[0].runner.cleanup()
    for _ in range(6):
        assert (await balancer.route_request(1)).instance_id == "b"


async def test_without_aiohttp_the_error_says_what_to_install(balancer, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    success, error, _ = await balancer.route_request(1)
    assert not success
    assert isinstance(error, MissingClientError)
    assert "pip install aiohttp" in str(error)
    assert (await balancer.get_statistics())["instances"]["a"]["failed_requests"] == 0


def test_a_session_for_each_event_loop_and_none_left(recwarn):
    handler = HttpHandler()

    async def call():
        server = Server()
        await server.start()
        try:
            return await handler(Instance("a", "127.0.0.1", server.port), 1)
        finally:
            await server.runner.cleanup()

    assert asyncio.run(call()) == {"ok": True}
    assert asyncio.run(call()) == {"ok": True}
    asyncio.run(handler.close())
    assert handler._sessions == {}
    assert not [w for w in recwarn if "Unclosed" in str(w.message)]


async def test_a_request_nested_too_deeply_is_held_against_nobody(balancer, servers):
    nested = []
    for _ in range(100_000):  # more than the C code of any Python allows
        nested = [nested]
    for _ in range(12):
        success, error, _ = await balancer.route_request(nested)
        assert not success
        assert isinstance(error, RequestRejected)
        assert "the request is no JSON: maximum recursion depth" in str(error)
    figures = await balancer.get_statistics()
    assert (figures["healthy_instances"], figures["rejected_requests"]) == (2, 12)
