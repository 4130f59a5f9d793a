"""How items end in Redis: outcomes, and dead letters."""

import asyncio
import itertools

import pytest
import redis

from bot.core.batch_processor import (
    DeadLetteredError,
    ItemFailedError,
    MissingResultError,
)
from tests.core.batch_processor.durable.helpers import echo, length, until

pytestmark = pytest.mark.server

names = (f"queue-{number}" for number in itertools.count())


async def test_each_way_to_fail_ends_an_item_once_and_elsewhere_tells_the_same(instances):
    async def handle(items):
        data = [item.data for item in items]
        if "raise" in data:
            raise OSError("the database is away")
        if "nonsense" in data:
            return "nonsense"
        if "hang" in data:
            await asyncio.Event().wait()
        values = {"fine": 1, "this one": ValueError("this one")}
        return {item.item_id: values[item.data] for item in items if item.data in values}

    here = await instances(handle, max_batch_size=1, max_retries=1, handler_timeout=0.1)
    there = await instances()
    ways = ["fine", "this one", "missing", "raise", "nonsense", "hang"]
    answers = dict(zip(ways, await there.submit_many(ways), strict=True))
    expected = {
        "fine": (None, ""),
        "this one": (ItemFailedError, "ValueError: this one"),
        "missing": (ItemFailedError, "holds nothing for item"),
        "raise": (DeadLetteredError, "2 attempt.*the database is away"),
        "nonsense": (DeadLetteredError, "1 attempt.*returned a str"),
        "hang": (DeadLetteredError, "2 attempt.*longer than 0.1 s"),
    }
    for way, (error, message) in expected.items():
        for p in (there, here):
            if error is None:
                assert await p.get_result(answers[way].item_id, timeout=10) == 1
                continue
            with pytest.raises(error, match=message):
                await p.get_result(answers[way].item_id, timeout=10)
    letters = await there.dead_letters()
    assert sorted(letter.data for letter in letters) == ["hang", "nonsense", "raise"]
    assert await length(here) == 0
    with pytest.raises(MissingResultError):  # here the error is the very one
        await here.submit_and_wait("missing")


async def test_a_dead_letter_holds_what_was_submitted_whatever_the_handler_made_of_it(instances):
    tries = []

    async def handle(items):
        tries.append(len(items))
        for item in items:
            item.data["connection"] = object()
        raise OSError("the database is away")

    p = await instances(handle, max_retries=1)
    with pytest.raises(DeadLetteredError, match="the database is away"):
        await p.submit_and_wait({"file": 1}, timeout=10)
    assert tries == [1, 1]
    assert [letter.data for letter in await p.dead_letters()] == [{"file": 1}]
    assert await length(p) == 0


async def test_dead_letters_are_replayed_discarded_and_bounded(instances):
    broken = True

    async def handle(items):
        if broken:
            raise OSError("not now")
        return {item.item_id: item.data for item in items}

    p = await instances(handle, max_batch_size=1, max_retries=0, max_dead_letters=3)
    answers = await p.submit_many([1, 2, 3, 4])
    await p.flush()
    assert len(await p.dead_letters()) == 3, "the oldest went for the newest"
    kept = [letter.item_id for letter in await p.dead_letters()]
    assert await p.discard_dead_letters([kept[0]]) == 1
    broken = False
    assert await p.replay([kept[1], "unknown"]) == 1
    assert await p.get_result(kept[1], timeout=10) in (1, 2, 3, 4)
    assert [letter.item_id for letter in await p.dead_letters()] == [kept[2]]
    assert len(answers) == 4


async def test_an_entry_that_nobody_can_read_goes_to_the_dead_letters(instances):
    p = await instances(echo)
    streams = p._store.streams
    await streams.link.execute("XADD", streams.items, "*", "v", b"\xc1 not a value")
    await streams.link.execute("XADD", streams.items, "*", "other", b"field")
    assert await p.submit_and_wait("after them") == "after them"
    await p.flush()
    assert [letter.error[:25] for letter in await p.dead_letters()] == ["the entry cannot be read:"] * 2


async def test_an_item_finished_twice_has_one_result_and_is_counted(instances):
    async def handle(items):
        # Its lease is over, as if the process had stood still, and another instance ends it.
        streams = other._store.streams
        await streams.link.execute("XGROUP", "CREATECONSUMER", streams.items, "workers", "thief")
        for item in items:
            settlement = other._store.settling.settlement(item, "theirs", dead=False)
            assert await streams.settle("thief", [settlement], 60_000, 10) == ([True], [])
        return {item.item_id: "ours" for item in items}

    p, other = await instances(handle), await instances()
    answer = await other.submit_item(1)
    waits_here = asyncio.create_task(p.get_result(answer.item_id, timeout=10))
    await p.flush()
    await until(lambda: p._dispatcher.outcomes.counters.done == 1)
    assert await other.get_result(answer.item_id) == "theirs"
    assert await waits_here == "theirs", "the outcome that counts, and not that of this handler"
    assert not p._dispatcher.outcomes.superseded
    assert (await p.get_statistics())["settled_elsewhere_items"] == 1


async def test_an_entry_trimmed_while_it_is_handled_is_done_all_the_same(instances, safe_server, queue):
    trimmed = asyncio.Event()

    async def handle(items):
        await trimmed.wait()
        return [item.data for item in items]

    first = await instances(handle)
    item_id = (await first.submit_item("x")).item_id
    with redis.Redis(port=safe_server.port) as plain:
        while not (await first.get_statistics())["running_batches"]:
            await asyncio.sleep(0.01)
        plain.xtrim(f"phase4:{{batch:{queue}}}:items", maxlen=0)
    trimmed.set()
    assert await first.get_result(item_id, timeout=20) == "x"
