"""The network in memory does to connections what networks do."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.simulation.loop import VirtualLoop
from tests.simulation.network import Network, Route


class Echo:
    """A server that says what it is told."""

    def __init__(self):
        self.listens = True
        self.heard = b""
        self.lost_connections = 0

    def accept(self, transport):
        echo = self

        class Peer:
            def feed(self, data):
                echo.heard += data
                transport.answer(data)

            def lost(self):
                echo.lost_connections += 1

        return Peer()


def run(main, seed=1):
    loop = VirtualLoop(random.Random(seed))
    network = Network(loop, random.Random(seed))
    echo = Echo()
    route = network.routes["echo"] = Route(echo)
    try:
        return loop.run_until_complete(main(network, route, echo))
    finally:
        loop.close()


def test_bytes_come_back_in_order_and_in_pieces():
    async def main(network, route, echo):
        reader, writer = await asyncio.open_connection("echo", 1)
        said = [b"%d;" % number for number in range(500)]
        for word in said:
            writer.write(word)
            await asyncio.sleep(0.0001)
        assert await reader.readexactly(len(b"".join(said))) == b"".join(said)
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(1)
        assert echo.lost_connections == 1
        assert not network.transports

    run(main)


def test_names_that_are_not_there_and_servers_that_do_not_listen():
    async def main(network, route, echo):
        with pytest.raises(OSError, match="not known"):
            await asyncio.open_connection("elsewhere", 1)
        echo.listens = False
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("echo", 1)

    run(main)


def test_a_black_hole_holds_up_what_is_on_its_way():
    async def main(network, route, echo):
        reader, writer = await asyncio.open_connection("echo", 1)
        network.darken(route)
        writer.write(b"hello")
        for waits_in_vain in (reader.read(5), asyncio.open_connection("echo", 1)):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await waits_in_vain
        assert echo.heard == b""
        network.light(route)
        assert await reader.readexactly(5) == b"hello"
        network.darken(route)
        with pytest.raises(
            TimeoutError, match="timed out"
        ):  # as the operating system has it, after two minutes
            await asyncio.open_connection("echo", 1)

    run(main)


def test_a_cut_is_told_and_a_half_open_connection_is_not():
    async def main(network, route, echo):
        (reader, writer), (silent, mute) = [await asyncio.open_connection("echo", 1) for _ in range(2)]
        first, second = network.of(route)
        first.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read(5)
        second.cut(told=False)
        mute.write(b"hello")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(600):
                await silent.read(5)
        assert echo.heard == b""
        writer.close()
        mute.close()

    run(main)


def test_who_writes_more_than_gets_away_has_to_wait():
    async def main(network, route, echo):
        _, writer = await asyncio.open_connection("echo", 1)
        network.darken(route)
        writer.write(bytes(2_000_000))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await writer.drain()
        network.light(route)
        await writer.drain()
        writer.close()

    run(main)
