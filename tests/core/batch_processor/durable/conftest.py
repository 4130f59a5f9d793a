"""Instances of one queue on a real Redis."""

import contextlib
import itertools
import subprocess
import sys
import uuid

import pytest

from bot.core.batch_processor import (
    BatchProcessor,
)
from bot.core.redis_link import RedisLink
from tests.core.batch_processor.durable.helpers import SAFE
from tests.support.servers import RedisServer, running

names = (f"queue-{number}" for number in itertools.count())


@pytest.fixture
def queue():
    """A queue of the test's own."""
    return f"{next(names)}-{uuid.uuid4().hex[:6]}"


@pytest.fixture(scope="package")
def safe_server():
    """A Redis that writes each change to disk before it answers; for tests that do not stop it."""
    with running(RedisServer(extra=SAFE)) as server:
        yield server


@pytest.fixture
async def instances(safe_server, queue):
    """``await instances(handler, ...)``: one more instance of the same queue; all balance at the end."""
    made = []

    async def make(handler=None, *, url=None, **options):
        processor = BatchProcessor()
        made.append(processor)
        settings = {"max_batch_size": 10, "batch_timeout": 0.02, "lease": 0.4, "retry_base": 0.01} | options
        await processor.enable(handler, redis_url=url or safe_server.url, queue_name=queue, **settings)
        return processor

    yield make
    for processor in made:
        processor.check_invariants()
        assert await processor.disable()
        processor.check_invariants()
        figures = await processor.get_statistics()
        assert figures["pending_items"] == 0
        assert figures["submitted_items"] == (
            figures["total_items_processed"]
            + figures["failed_items"]
            + figures["dead_lettered_items"]
            + figures["replaced_items"]
        )
    assert not RedisLink._links, "every link was given back"


@pytest.fixture
def start_worker(queue):
    """``start_worker(url)``: a process that handles the queue, to be killed."""
    workers = []

    def start(url, *, lease=0.5, size=10, seconds=0.0):
        worker = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.batch_worker",
                url,
                queue,
                str(lease),
                str(size),
                str(seconds),
            ],
            stdout=subprocess.PIPE,
        )
        workers.append(worker)
        assert worker.stdout.readline() == b"ready\n"
        return worker

    yield start
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
        worker.wait()
        worker.stdout.close()
