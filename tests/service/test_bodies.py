"""Bodies of requests: time limits, and a bound for what is held."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from bot.service import bodies as module
from bot.service.bodies import CHUNK, Bodies, read_json
from bot.service.middleware import around_request


@pytest.fixture
async def taken():
    """A client of a server that takes bodies in, twice read; and the bodies."""
    held = Bodies(largest=1_000_000, in_flight=1_500_000)
    go_on = asyncio.Event()
    go_on.set()

    async def take(request):
        async with held.received(request) as body:
            await go_on.wait()
            twice = [b"".join([chunk async for chunk in body.chunks()]) for _ in range(2)]
            assert twice[0] == twice[1]
            return web.json_response(
                {"size": body.size, "in_memory": body.data is not None, "sum": sum(twice[0])}
            )

    async def json(request):
        return web.Response(body=await read_json(request))

    app = web.Application(middlewares=[around_request])
    app.router.add_route("*", "/take", take)
    app.router.add_post("/json", json)
    async with TestClient(TestServer(app)) as client:
        client.held, client.go_on = held, go_on
        yield client
    assert held.held == 0


@pytest.mark.parametrize(
    ("size", "in_memory"), [(0, True), (1, True), (CHUNK, True), (CHUNK + 1, False), (1_000_000, False)]
)
async def test_small_ones_are_in_memory_and_large_ones_on_disk(taken, size, in_memory):
    body = bytes(range(256)) * (size // 256) + b"a" * (size % 256)
    async with taken.post("/take", data=body) as answer:
        assert await answer.json() == {"size": size, "in_memory": in_memory, "sum": sum(body)}


async def test_a_body_without_a_length_is_counted_as_it_comes(taken):
    async def chunks(count):
        for _ in range(count):
            yield b"x" * 100_000

    async with taken.post("/take", data=chunks(10)) as answer:
        assert (await answer.json())["size"] == 1_000_000
    async with taken.post("/take", data=chunks(11)) as answer:
        assert answer.status == 413


async def test_one_that_is_too_large_is_refused_before_it_is_sent(taken):
    async with taken.post("/take", data=b"x" * 1_000_001, expect100=False) as answer:
        assert answer.status == 413


async def test_all_together_are_bounded(taken):
    taken.go_on.clear()
    first = asyncio.create_task(taken.post("/take", data=b"x" * 1_000_000))
    while taken.held.held < 1_000_000:
        await asyncio.sleep(0.01)
    async with taken.post("/take", data=b"x" * 900_000) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    taken.go_on.set()
    assert (await first).status == 200


@pytest.mark.parametrize("path", ["/take", "/json"])
async def test_a_client_that_stops_sending_is_told_so(taken, path, monkeypatch):
    monkeypatch.setattr(module, "READ_SECONDS", 0.2)
    monkeypatch.setattr(module, "JSON_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", taken.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()
