"""What becomes of the calls of a batch that a server did not run."""

import asyncio
from types import SimpleNamespace

import pytest
from redis.exceptions import ReadOnlyError, ResponseError

from bot.core.redis_link import RedisRefusedError
from bot.core.redis_link.scripts import BatchedScript


@pytest.fixture
async def script():
    """One whose server was asked where the name leads a moment ago, so it looks no further."""
    made = BatchedScript.__new__(BatchedScript)
    made._primary = SimpleNamespace(read_only=False, may_look=False, found_read_only=lambda text: None)
    made._rights = SimpleNamespace(forbids_evalsha=lambda text: False)
    made._connections = SimpleNamespace(cluster=False)
    made._elsewhere_slot = None
    made._leaving = False
    made._decode = lambda answer, calls: [answer] * calls
    made.calls = 0
    return made


async def test_each_group_is_told_its_own_error(script):
    loop = asyncio.get_running_loop()
    good, refused, wrong = (loop.create_future() for _ in range(3))
    groups = [[(b"k", b"a", future, None)] for future in (good, refused, wrong)]
    read_only = ReadOnlyError("READONLY You can't write against a read only replica.")
    script._deliver((groups, True), [7, read_only, ResponseError("user_script:1: attempt to index nil")])
    assert await good == 7
    with pytest.raises(RedisRefusedError, match="read only replica"):
        await refused
    with pytest.raises(RedisRefusedError, match="attempt to index"):
        await wrong


async def test_what_was_under_way_to_a_server_that_was_left_is_run_where_all_go_now(script):
    read_only = ReadOnlyError("READONLY You can't write against a read only replica.")
    future = asyncio.get_running_loop().create_future()
    groups = [[(b"k", b"a", future, None)]]
    tasks, asked = [], []

    async def on_another_server(operation, *, was_left):
        asked.append(was_left)
        return [7]

    script._leaving = True  # the link has moved meanwhile, so it is not time to look again
    script._timeout = 1.0
    script._primary.on_another_server = on_another_server
    script._connections.spawn = lambda coro, name: tasks.append(asyncio.create_task(coro))
    script._deliver((groups, True), [read_only])
    assert await future == 7
    assert asked == [True]
    await asyncio.gather(*tasks)
