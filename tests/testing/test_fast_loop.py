"""Time jumps ahead only when nothing is left to do."""

import asyncio
import threading
import time

import pytest

from bot.testing import fast_loop
from bot.testing.fast_loop import FastLoop


def test_ten_minutes_pass_in_the_order_of_their_timers():
    async def main():
        loop, woken = asyncio.get_running_loop(), []

        async def sleeper(seconds):
            began = loop.time()
            await asyncio.sleep(seconds)
            woken.append(seconds)
            assert loop.time() - began == pytest.approx(seconds)

        await asyncio.gather(*(sleeper(seconds) for seconds in (600, 1, 60.5, 60)))
        return woken

    assert fast_loop.run(main()) == [1, 60, 60.5, 600]


def test_without_a_socket_or_a_thread_it_does_not_wait_to_see_whether_something_comes():
    assert fast_loop.run(asyncio.sleep(600, "slept"), grace=3_600.0) == "slept"


def test_a_thread_that_was_started_is_given_time():
    async def main():
        answered = asyncio.get_running_loop().create_future()
        give = asyncio.get_running_loop().call_soon_threadsafe
        threading.Thread(target=lambda: give(answered.set_result, "answer")).start()
        async with asyncio.timeout(600):
            return await answered

    assert fast_loop.run(main(), grace=3_600.0) == "answer"


def test_a_time_limit_does_not_fire_while_a_connection_has_data():
    """Megabytes over loopback, under a limit of a second that real time would never reach here."""
    sent = b"x" * 8_000_000

    async def main():
        async def echo(reader, writer):
            while chunk := await reader.read(65_536):
                writer.write(chunk)
                await writer.drain()
            writer.close()

        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            async with asyncio.timeout(1.0):
                _, received = await asyncio.gather(_write(writer, sent), reader.readexactly(len(sent)))
            writer.close()
            await writer.wait_closed()
        return received

    async def _write(writer, data):
        writer.write(data)
        await writer.drain()

    assert fast_loop.run(main()) == sent


def test_a_time_limit_fires_when_nobody_answers():
    async def main():
        silent = []  # writers are kept: from Python 3.13 on, one that is dropped closes its connection

        def accept(reader, writer):
            silent.append(writer)

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(300.0):
                    await reader.read(1)
            for each in (writer, *silent):
                each.close()
            return loop.time() - began

    assert fast_loop.run(main()) == pytest.approx(300.0)


def test_time_stands_still_while_a_thread_works():
    async def main():
        loop, go = asyncio.get_running_loop(), threading.Event()
        ticked = asyncio.ensure_future(asyncio.sleep(60))
        work = loop.run_in_executor(None, go.wait, 10)
        began = loop.time()
        threading.Timer(0.05, go.set).start()
        assert await work
        assert loop.time() == began
        assert not ticked.done()
        await ticked

    fast_loop.run(main())


def test_the_clock_of_the_loop_serves_services():
    async def main():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, FastLoop)
        monotonic, wall = loop.clock.monotonic(), loop.clock.time()
        assert abs(wall - time.time()) < 3600
        await loop.clock.sleep(90)
        fired = asyncio.Event()
        loop.clock.call_later(10, fired.set, loop)
        await fired.wait()
        assert loop.clock.monotonic() - monotonic == pytest.approx(100)
        assert loop.clock.time() - wall == pytest.approx(100)
        assert loop.jumps >= 2

    fast_loop.run(main())
