"""What the event loop reports by itself: few lines, masked."""

import asyncio
import errno
import logging

import pytest

from bot.service.loop_errors import LINES_PER_MINUTE, LoopErrors


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.DEBUG)
    return lambda: [record.getMessage() for record in caplog.records if record.name == "bot.loop"]


def test_a_full_table_of_files_is_a_line_a_minute(told):
    time = [0.0]
    handler = LoopErrors(lambda: time[0])
    context = {
        "message": "socket.accept() out of system resource", "socket": object(),
        "exception": OSError(errno.EMFILE, "Too many open files"),
    }  # fmt: skip
    for _ in range(1_000):
        handler(None, context)
    time[0] = 60.0
    handler(None, context)
    first, second = told()
    assert "Too many open files), 1 time(s)" in first
    assert "1000 time(s)" in second
    assert "ulimit -n" in first


def test_other_errors_are_masked_and_bounded(told):
    time = [0.0]
    handler = LoopErrors(lambda: time[0])
    error = ValueError("postgresql://u:hidden@host/db\nERROR forged line")
    for _ in range(100):
        handler(None, {"message": "Task exception was never retrieved", "exception": error})
    assert len(told()) == LINES_PER_MINUTE
    time[0] = 60.0
    handler(None, {"message": "a handle token=hidden", "handle": "<Handle password=hidden>"})
    assert "(80 more were not logged)" in told()[-1]
    assert "hidden" not in "".join(told())
    assert not any(line.startswith("ERROR") for text in told() for line in text.splitlines())


async def test_an_exception_that_nobody_fetched_comes_here(told):
    async def fail():
        raise KeyError("token=hidden")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(LoopErrors())
    task = loop.create_task(fail())
    while not task.done():
        await asyncio.sleep(0)
    del task
    while not told():
        await asyncio.sleep(0)
    assert "KeyError" in told()[0]
    assert "hidden" not in told()[0]
