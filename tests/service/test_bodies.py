"""Bodies of requests: time limits, and a bound for what is held."""

import asyncio
import contextlib
import gzip
import random
import zlib

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from bot.service import bodies as module
from bot.service.bodies import CHUNK, Bodies, chunks_of, read_json
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


@pytest.fixture
async def decoding():
    """A client of a server that decodes bodies, as the service does; and what its last request held."""
    seen = []

    async def stream(request):
        seen.clear()
        seen.extend([chunk async for chunk in chunks_of(request)])
        return web.json_response({"size": sum(map(len, seen))})

    async def json(request):
        seen[:] = [await read_json(request)]
        return web.json_response({"size": len(seen[0])})

    async def ignore(request):
        return web.json_response({})

    app = web.Application(
        middlewares=[around_request], client_max_size=1_000_000, handler_args={"auto_decompress": False}
    )
    app.router.add_post("/stream", stream)
    app.router.add_post("/json", json)
    app.router.add_post("/ignore", ignore)
    async with TestClient(TestServer(app), auto_decompress=False) as client:
        client.seen = seen
        yield client


async def send(client, path, data, coding):
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    async with client.post(path, data=data, headers=headers, compress=None) as answer:
        return answer.status, await answer.json()


def bare_deflate(data):
    made = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return made.compress(data) + made.flush()


ENCODERS = {
    "gzip": gzip.compress, "x-gzip": gzip.compress, "GZIP": gzip.compress, "deflate": zlib.compress,
    " deflate ": bare_deflate, "identity": bytes,
}  # fmt: skip


@pytest.mark.parametrize("coding", ENCODERS)
@pytest.mark.parametrize("path", ["/stream", "/json"])
async def test_what_is_encoded_is_decoded(decoding, path, coding):
    chance = random.Random(1)
    for body in (b"x", b"words " * 50_000, chance.randbytes(300_000), b"a" * (4 * CHUNK), b"a" * 999_999):
        status, _ = await send(decoding, path, ENCODERS[coding](body), coding)
        assert (status, b"".join(decoding.seen)) == (200, body)
        assert all(len(chunk) <= 4 * CHUNK for chunk in decoding.seen) or path == "/json"


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "gzip,deflate", "\xff", "x" * 3_000])
@pytest.mark.parametrize("path", ["/stream", "/json"])
async def test_a_coding_that_is_not_known_is_named(decoding, path, coding):
    status, body = await send(decoding, path, b"x", coding)
    assert status == 415
    assert "expected gzip, deflate or identity" in body["error"]["message"]
    assert len(body["error"]["message"]) < 200


@pytest.mark.parametrize(
    "data",
    [
        b"no gzip", gzip.compress(b"cut")[:-3], gzip.compress(b"more") + b"x",
        gzip.compress(b"one") + gzip.compress(b"two"), gzip.compress(b"") * 5_000,
        gzip.compress(b"false sum")[:-8] + b"\0" * 8,
    ],
    ids=["no gzip", "cut", "more behind it", "two", "thousands", "a false sum"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/stream", "/json"])
async def test_what_is_not_encoded_as_it_says_is_the_clients_fault(decoding, path, data):
    status, body = await send(decoding, path, data, "gzip")
    assert (status, body["error"]["code"]) == (400, "bad_request")


async def test_a_bomb_is_decoded_up_to_the_bound_and_no_further(decoding, monkeypatch):
    decoded = []
    whole = module._Decoder.decode

    def counting(self, data):
        for piece in whole(self, data):
            decoded.append(len(piece))
            yield piece

    monkeypatch.setattr(module._Decoder, "decode", counting)
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 100_000
    status, _ = await send(decoding, "/json", bomb, "gzip")
    assert status == 413
    assert sum(decoded) <= 1_000_000 + 4 * CHUNK
    decoded.clear()
    assert (await send(decoding, "/ignore", bomb, "gzip"))[0] == 200
    assert not decoded, "what nobody reads is discarded as it came"


@pytest.mark.parametrize("read", [read_json, module.next_chunk])
async def test_a_client_that_is_gone_before_its_body_is_read_is_no_fault(read, caplog):
    """As one is that was put out for others in the turn in which its request was taken."""
    outcomes = []

    @web.middleware
    async def lose(request, handler):
        request.transport.abort()
        while request.transport is not None:
            await asyncio.sleep(0)
        return await handler(request)

    async def answer(request):
        try:
            return web.Response(body=await read(request))
        except BaseException as error:
            outcomes.append(type(error))
            raise

    app = web.Application(middlewares=[around_request, lose], handler_args={"auto_decompress": False})
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)  # a test server would cancel the handler
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        while not outcomes:
            await asyncio.sleep(0)
        writer.close()
    finally:
        await runner.cleanup()
    assert outcomes == [ConnectionResetError]
    assert "Traceback" not in caplog.text
