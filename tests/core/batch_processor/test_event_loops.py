"""Batches under a second event loop, in another thread's, and in a child after a fork."""

import asyncio
import os
import subprocess
import sys
import textwrap

import pytest

from bot.core._shared.errors import MisuseError
from bot.core.batch_processor import BatchProcessor
from bot.core.redis_link import RedisLink


async def doubled(items):
    return {item.item_id: item.data * 2 for item in items}


def test_durable_batches_go_on_under_the_second_loop(redis_server):
    batches = BatchProcessor()

    async def setup():
        await batches.enable(doubled, batch_timeout=0.01, redis_url=redis_server.url)
        assert await batches.submit_and_wait(1) == 2

    async def main():
        assert await batches.submit_and_wait(2) == 4
        _, item, _ = await batches.submit_item(3)
        assert await batches.get_result(item, timeout=10) == 6
        return await batches.get_statistics()

    asyncio.run(setup())
    for _ in range(2):
        assert not asyncio.run(main())["degraded"]
    asyncio.run(batches.disable())
    assert not RedisLink._links


async def test_durable_batches_say_that_they_live_elsewhere(redis_server):
    batches = BatchProcessor()
    await batches.enable(doubled, batch_timeout=0.01, redis_url=redis_server.url)
    _, item, _ = await batches.submit_item(1)
    for call in (
        lambda: batches.submit_item(1),
        lambda: batches.submit_and_wait(1),
        lambda: batches.get_result(item),
        lambda: batches.flush(),
    ):
        with pytest.raises(MisuseError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, call())
    assert await batches.submit_and_wait(2) == 4
    # Switched off from there it is all the same.
    assert await asyncio.to_thread(asyncio.run, batches.disable())
    assert not RedisLink._links


FORK = """
    import asyncio, os, sys
    from bot.core.batch_processor import BatchProcessor

    url = sys.argv[1]
    batches = BatchProcessor()
    handled = []

    async def handler(items):
        handled.extend((os.getpid(), item.data) for item in items)
        await asyncio.sleep(0.05)
        return {item.item_id: item.data for item in items}

    async def child():
        await asyncio.gather(*[batches.submit_and_wait(("child", n)) for n in range(20)])
        assert await batches.disable()

    async def main():
        await batches.enable(handler, batch_timeout=0.01, redis_url=url)
        await batches.submit_and_wait(("parent", "first"))
        waiting = [asyncio.ensure_future(batches.submit_and_wait(("parent", n))) for n in range(20)]
        await asyncio.sleep(0.03)
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(asyncio.wait_for(child(), 30))
                own = [data for who, data in handled if who == os.getpid()]
                if not url:
                    assert sorted(own) == [("child", n) for n in range(20)], own
                os._exit(0)
            except BaseException as error:
                print("child:", repr(error), flush=True)
                os._exit(1)
        assert await asyncio.gather(*waiting) == [("parent", n) for n in range(20)]
        status = (await asyncio.to_thread(os.waitpid, pid, 0))[1]
        assert os.waitstatus_to_exitcode(status) == 0
        assert await batches.submit_and_wait(("parent", "last")) == ("parent", "last")
        figures = await batches.get_statistics()
        assert figures["pending_items"] == 0 and figures["failed_items"] == 0, figures
        await batches.disable()

    asyncio.run(asyncio.wait_for(main(), 60))
    print("all handled")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("durable", [False, True])
def test_a_child_after_a_fork_has_items_of_its_own(redis_server, durable):
    script = textwrap.dedent(FORK)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, redis_server.url if durable else ""],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.stdout == "all handled\n", ran.stdout + ran.stderr
