"""Dead letters in Redis: what one operator sees and does, several at once, and one that is killed."""

import asyncio
import contextlib
import random
import subprocess
import sys

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.batch_processor import DeadLetter, ReplayReport, durable_dead_letters
from bot.core.batch_processor.durable.values import letter_value, wanted_of
from bot.core.redis_link import RedisUnavailableError
from tests.core.batch_processor.durable.helpers import echo, length
from tests.support.servers import RedisServer, running

pytestmark = pytest.mark.server


async def put(letters, *made):
    """Write dead letters as an instance does."""
    for item_id, data, priority in made:
        letter = DeadLetter(item_id, data, priority, 3, "ValueError: no", 1_700_000_000.5)
        await letters._link.execute("XADD", letters._key, "*", "v", letter_value(letter))


@pytest.fixture
async def letters(instances, safe_server, queue):
    """The dead letters of the test's queue, without a processor."""
    async with durable_dead_letters(safe_server.url, queue) as found:
        yield found


async def ids(letters, *args, **options):
    return [letter.item_id async for letter in letters.each(*args, **options)]


@pytest.mark.parametrize("offset", [0, 1, 19, 20, 21, 40, 244, 245, 10**9])
@pytest.mark.parametrize("newest_first", [False, True])
async def test_they_are_listed_from_any_place_and_either_end(letters, offset, newest_first):
    await put(letters, *[(f"i{n}", n, 0) for n in range(245)])
    expected = [f"i{n}" for n in (reversed(range(245)) if newest_first else range(245))]
    assert await ids(letters, offset, newest_first=newest_first) == expected[offset:]
    assert await letters.count() == 245


async def test_an_empty_queue_has_none(letters):
    assert await letters.count() == 0
    assert await ids(letters) == await ids(letters, 5) == []
    assert await letters.find("i") is None
    assert await letters.replay(None, 10) == ReplayReport()
    assert await letters.replay(["i"], 10) == ReplayReport(missing=1)
    assert await letters.discard(None) == await letters.discard(["i"]) == 0


async def test_large_letters_are_read_a_few_at_a_time(letters, monkeypatch):
    await put(letters, *[(f"i{n}", b"x" * 500_000, 0) for n in range(12)])
    asked = []
    execute = type(letters._link).execute

    async def counting(link, *command, **options):
        if command[0] == "XRANGE":
            asked.append(command[-1])
        return await execute(link, *command, **options)

    monkeypatch.setattr(type(letters._link), "execute", counting)
    assert len(await ids(letters)) == 12
    assert max(asked) <= 8


async def test_what_nobody_here_wrote_is_left_out_and_can_be_dropped(letters):
    await put(letters, ("i1", 1, 0))
    for value in (b"", b"\xc1", b"\x93\x01\x02\x03"):
        await letters._link.execute("XADD", letters._key, "*", "v", value)
    await letters._link.execute("XADD", letters._key, "*", "other", "field")
    await put(letters, ("i2", 2, 0))
    assert await ids(letters) == ["i1", "i2"]
    assert await letters.find("i2")
    assert await letters.replay(None, 10) == ReplayReport(2)
    assert await letters.count() == 4
    assert await letters.discard(None) == 4


@pytest.mark.parametrize("item_id", ["plain", "grüße \U0001f600", "a b\nc", "x" * 200])
async def test_a_replay_keeps_id_priority_and_data(letters, instances, item_id):
    data = {"file": item_id, 5: (1, 2.5, None)}
    await put(letters, ("other", 1, 0), (item_id, data, -7))
    assert await letters.replay([item_id], 10) == ReplayReport(1)
    [(_, fields)] = await letters._link.execute("XRANGE", letters._streams.items, "-", "+")
    assert wanted_of(fields[b"v"]) == (item_id, -7, data, False)
    assert await ids(letters) == ["other"]
    p = await instances(echo)
    assert await p.get_result(item_id, timeout=10) == data


async def test_of_an_item_that_died_twice_the_newest_is_shown_and_replayed(letters):
    await put(letters, ("i", "older", 0), ("i", "newer", 0), ("j", "other", 0))
    assert (await letters.find("i")).data == "newer"
    assert await letters.replay(["i"], 10) == ReplayReport(1)
    assert (await letters.find("i")).data == "older"
    assert await letters.replay(["i"], 10) == ReplayReport(pending=1)
    assert await letters.discard(["i"]) == 1


async def test_one_for_which_there_is_no_room_stays(letters):
    await put(letters, *[(f"i{n}", n, 0) for n in range(6)])
    assert await letters.replay(["i4", "i1", "i2"], 2) == ReplayReport(2, no_room=1)
    assert await ids(letters) == ["i0", "i3", "i4", "i5"], "the oldest went first"
    assert await letters.replay(None, 3) == ReplayReport(1, no_room=3)


async def test_many_operators_at_once_replay_each_letter_once(safe_server, queue, letters):
    await put(letters, *[(f"i{n}", n, 0) for n in range(40)])
    async with contextlib.AsyncExitStack() as stack:
        operators = [
            await stack.enter_async_context(durable_dead_letters(safe_server.url, queue)) for _ in range(4)
        ]
        wanted = [f"i{n}" for n in range(40)]
        reports = await asyncio.gather(
            *[
                operator.replay(random.Random(n).sample(wanted, 40) if n % 2 else None, 1000)
                for n, operator in enumerate(operators)
            ]
        )
    assert sum(report.replayed for report in reports) == 40
    assert await letters.count() == 0
    entries = await letters._link.execute("XRANGE", letters._streams.items, "-", "+")
    assert sorted(wanted_of(fields[b"v"]).item_id for _, fields in entries) == sorted(wanted)


async def test_a_handler_that_is_still_broken_does_not_make_a_replay_endless(letters, instances):
    async def broken(items):
        raise OSError("still away")

    await put(letters, *[(f"i{n}", n, 0) for n in range(30)])
    p = await instances(broken, max_retries=0, max_batch_size=1)
    assert (await p.replay_dead_letters()).replayed == 30
    await p.flush()
    assert await p.count_dead_letters() == 30


async def test_a_processor_and_a_tool_beside_it_see_and_do_the_same(letters, instances):
    p = await instances()
    await put(letters, *[(f"i{n}", n, 0) for n in range(5)])
    assert await p.count_dead_letters() == 5
    assert [letter.item_id async for letter in p.iter_dead_letters(1, 2, newest_first=True)] == ["i3", "i2"]
    assert (await p.get_dead_letter("i4")).data == 4
    assert await p.replay_dead_letters(["i4", "gone"]) == ReplayReport(1, missing=1)
    assert await p.discard_dead_letters(["i0"]) == 1
    assert (await p.get_statistics())["dead_letters"] == 3
    assert await letters.count() == 3
    assert await length(p) == 1
    assert await p.get_dead_letter("i4") is None
    assert (await p.get_item_status("i4")).state == "pending"
    await letters._link.execute("DEL", letters._streams.items)  # nobody is to handle it


REPLAYER = """
import asyncio, sys
from bot.core.batch_processor import durable_dead_letters

async def main(url, queue):
    async with durable_dead_letters(url, queue) as letters:
        print("ready", flush=True)
        print(await letters.replay(None, 100_000))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_an_operator_killed_in_the_middle_loses_and_doubles_nothing(safe_server, queue, letters):
    wanted = [f"i{n}" for n in range(400)]
    await put(letters, *[(item_id, "data", 0) for item_id in wanted])
    killed_in_the_middle = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", REPLAYER, safe_server.url, queue], stdout=subprocess.PIPE
        )
        with process:
            assert process.stdout.readline() == b"ready\n"
            before = await letters.count()
            left = before
            while left == before and process.poll() is None:
                left = await letters.count()
            process.kill()
        left = await letters.count()
        killed_in_the_middle += 0 < left < before
        entries = await letters._link.execute("XRANGE", letters._streams.items, "-", "+")
        replayed = [wanted_of(fields[b"v"]).item_id for _, fields in entries]
        assert sorted([*replayed, *await ids(letters)]) == sorted(wanted)
    assert killed_in_the_middle, "or this test has shown nothing"
    report = await letters.replay(None, 100_000)
    assert report.replayed == left
    assert await letters.count() == 0


async def test_a_full_redis_replays_all_the_same(queue):
    with running(RedisServer()) as server:
        async with durable_dead_letters(server.url, queue) as letters:
            await put(letters, ("i", b"x" * 50_000, 0))
            server.execute("CONFIG", "SET", "maxmemory", "1")
            assert await letters.replay(["i"], 10) == ReplayReport(1)
            assert await letters.count() == 0


async def test_without_redis_every_call_says_so(queue):
    server = RedisServer()
    async with durable_dead_letters(server.url, queue) as letters:
        for call in (letters.count(), letters.find("i"), letters.replay(None, 5), letters.discard(["i"])):
            with pytest.raises(RedisUnavailableError):
                await call
        with pytest.raises(RedisUnavailableError):
            await ids(letters)


@pytest.mark.parametrize(
    ("url", "name"), [("", "default"), ("redis://127.0.0.1:1", "no such name"), ("http://x", "q")]
)
async def test_what_names_no_queue_is_an_error(url, name):
    with pytest.raises(InvalidArgumentError):
        async with durable_dead_letters(url, name):
            pass


async def test_a_reader_that_stops_early_leaves_nothing_behind(letters, instances):
    await put(letters, *[(f"i{n}", n, 0) for n in range(50)])
    p = await instances()
    seen = []
    async for letter in p.iter_dead_letters():
        seen.append(letter.item_id)
        if len(seen) == 3:
            break
    assert seen == ["i0", "i1", "i2"]
