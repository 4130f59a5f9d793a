"""What a proxy's faults do to a connection, and that each of them ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from tests.chaos.proxies import FaultyProxy


@pytest.fixture
async def proxy() -> AsyncIterator[FaultyProxy]:
    """Before a server that answers each line with the same line."""
    serving: set[asyncio.Task[None]] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                received.append(line)
                writer.write(line)
        writer.close()

    received: list[bytes] = []
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with FaultyProxy(server.sockets[0].getsockname()[1]) as made:
        made.received = received  # type: ignore[attr-defined]
        yield made
    server.close()
    if serving:
        await asyncio.wait(serving)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def of(cls, proxy: FaultyProxy) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def ask(self, line: bytes = b"hello\n") -> bytes:
        self.writer.write(line)
        return await self.reader.readline()


async def is_silent(asking: asyncio.Task[bytes]) -> bool:
    done, _ = await asyncio.wait([asking], timeout=0.1)
    return not done


@pytest.mark.parametrize(("kind", "arrives"), [("hole to", False), ("hole from", True), ("half open", False)])
async def test_a_hole_keeps_back_and_then_lets_go_on(proxy: FaultyProxy, kind: str, arrives: bool) -> None:
    client = await Client.of(proxy)
    assert await client.ask(b"first\n") == b"first\n"
    await proxy.set_fault(kind)
    asking = asyncio.create_task(client.ask())
    assert await is_silent(asking)
    assert (b"hello\n" in proxy.received) is arrives  # type: ignore[attr-defined]
    await proxy.stop_faults()
    with contextlib.suppress(OSError):  # half open: what never reached the server is reset
        assert await asking == (b"" if kind == "half open" else b"hello\n")
    assert await (await Client.of(proxy)).ask() == b"hello\n"


async def test_half_open_accepts_and_leads_nowhere(proxy: FaultyProxy) -> None:
    await proxy.set_fault("half open")
    asking = asyncio.create_task((await Client.of(proxy)).ask())
    assert await is_silent(asking)
    await proxy.stop_faults()
    with contextlib.suppress(OSError):
        assert await asking == b""


@pytest.mark.parametrize("kind", ["cut", "refuse"])
async def test_a_cut_resets(proxy: FaultyProxy, kind: str) -> None:
    client = await Client.of(proxy)
    await client.ask()
    await proxy.set_fault(kind)
    with contextlib.suppress(OSError):
        assert await client.ask() == b""
    if kind == "refuse":
        with pytest.raises(OSError):
            await Client.of(proxy)
    await proxy.stop_faults()
    assert await (await Client.of(proxy)).ask() == b"hello\n"


@pytest.mark.parametrize(
    ("kind", "line", "least"), [("delay", b"x\n", 0.5), ("drip", b"x" * 640 + b"\n", 0.3)]
)
async def test_late_and_in_drops_all_the_same(
    proxy: FaultyProxy, kind: str, line: bytes, least: float
) -> None:
    await proxy.set_fault(kind)
    begin = time.monotonic()
    assert await (await Client.of(proxy)).ask(line) == line
    assert time.monotonic() - begin >= least
