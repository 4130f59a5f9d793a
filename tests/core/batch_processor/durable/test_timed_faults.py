"""Durable items that wait, while processes and Redis are killed."""

import signal
import subprocess
import sys
import textwrap

import pytest
import redis

from tests.core.batch_processor.durable.helpers import SAFE, echo, length, until
from tests.support.servers import RedisServer, running

pytestmark = pytest.mark.server

SUBMITTER = textwrap.dedent(
    """
    import asyncio, sys
    from bot.core.batch_processor import BatchProcessor

    async def main(url, queue):
        batches = BatchProcessor()
        await batches.enable(redis_url=url, queue_name=queue)
        await batches.submit_many(range(20), keys=[f"item-{n}" for n in range(20)], delay=1.5)
        for n in range(3):
            await batches.submit_item(["draft", n], key="draft", replace=True, delay=1.5)
        await batches.submit_periodic("report", "tick", 1)
        print("submitted", flush=True)
        await asyncio.Event().wait()

    asyncio.run(main(*sys.argv[1:]))
    """
)


async def test_kill_9_of_the_submitter_and_of_a_worker_loses_nothing_that_waits(
    safe_server, queue, instances, start_worker
):
    submitter = subprocess.Popen(
        [sys.executable, "-c", SUBMITTER, safe_server.url, queue], stdout=subprocess.PIPE
    )
    assert submitter.stdout.readline() == b"submitted\n"
    submitter.kill()
    submitter.wait()
    submitter.stdout.close()
    database = redis.Redis(port=safe_server.port)
    doomed = start_worker(safe_server.url, seconds=3_600.0)
    await until(lambda: database.hlen(f"handled:{queue}") >= 11)  # some of them, in the middle of it
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    survivor = start_worker(safe_server.url)
    asker = await instances()
    for n in range(20):
        assert await asker.get_result(f"item-{n}", timeout=20) == ["by", survivor.pid, n]
    assert await asker.get_result("draft", timeout=20) == ["by", survivor.pid, ["draft", 2]]
    before = int(database.hget(f"handled:{queue}", "periodic:report"))
    await until(lambda: int(database.hget(f"handled:{queue}", "periodic:report")) >= before + 2)
    assert await asker.remove_periodic("report")
    await asker.enable(echo)
    assert await asker.flush(timeout=20)
    assert await length(asker) == 0
    database.close()


async def test_what_replaced_an_item_survives_the_kill_of_whoever_handles_it(
    safe_server, queue, instances, start_worker
):
    asker = await instances()
    database = redis.Redis(port=safe_server.port)
    doomed = start_worker(safe_server.url, seconds=3_600.0)
    await asker.submit_item("old", key="draft", replace=True)
    await until(lambda: database.hlen(f"handled:{queue}") == 1)
    await asker.submit_item("newer", key="draft", replace=True)
    await asker.submit_item("newest", key="draft", replace=True)
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    # The next one picks the newest up, and is killed too.
    second = start_worker(safe_server.url, seconds=3_600.0)
    await until(lambda: int(database.hget(f"handled:{queue}", "draft")) == 2)
    second.send_signal(signal.SIGKILL)
    second.wait()
    survivor = start_worker(safe_server.url)
    assert await asker.get_result("draft", timeout=20) == ["by", survivor.pid, "newest"]
    assert await length(asker) == 0
    database.close()


async def test_redis_killed_and_started_again_keeps_what_waits(instances):
    with running(RedisServer(extra=SAFE)) as server:
        here = await instances(echo, url=server.url)
        answer = await here.submit_item("x", delay=1.0)
        await here.submit_item("old", key="k", replace=True, delay=1.0)
        plan = await here.submit_periodic("report", 1, 100)
        server.kill()
        refused = await here.submit_item("y", delay=1)
        assert refused.refusal in ("unavailable", "unknown")
        server.start()
        assert await here.get_result(answer.item_id, timeout=20) == "x"
        assert await here.get_result("k", timeout=20) == "old"
        assert [one.next_at for one in await here.list_periodic()] == [plan.next_at]
        await here.disable()
