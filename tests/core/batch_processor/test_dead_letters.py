"""Dead letters as an operator handles them: listed by pages, shown, replayed, dropped (in memory)."""

import asyncio

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.batch_processor import BatchClosedError, ReplayReport

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture
async def poisoned(processor, handler, clock):
    """A processor with the dead letters "a" to "e", of priorities 5 to 1, and a handler that is well."""
    await processor.enable(max_batch_size=1, max_retries=0, result_ttl=1)
    for data, priority in zip("abcde", range(5, 0, -1), strict=True):
        handler.failures.append(ValueError(f"no {data}"))
        await processor.submit_item(data, priority, key=f"item-{data}")
        await clock.advance(1)
    return processor


async def listed(processor, *args, **options):
    return [letter.data async for letter in processor.iter_dead_letters(*args, **options)]


async def test_they_are_listed_by_pages_from_either_end(poisoned):
    assert await poisoned.count_dead_letters() == 5
    assert await listed(poisoned) == list("abcde")
    assert await listed(poisoned, 1, 2) == ["b", "c"]
    assert await listed(poisoned, 1, 2, newest_first=True) == ["d", "c"]
    assert await listed(poisoned, 4, 10) == ["e"]
    assert await listed(poisoned, 5) == []
    assert await listed(poisoned, limit=0) == []


@pytest.mark.parametrize("offset", [-1, 1.5, "1", True])
async def test_an_offset_that_is_no_count_is_an_error(poisoned, offset):
    with pytest.raises(InvalidArgumentError, match="offset"):
        await listed(poisoned, offset)


async def test_one_is_shown(poisoned):
    letter = await poisoned.get_dead_letter("item-c")
    assert (letter.data, letter.priority, letter.attempts) == ("c", 3, 1)
    assert letter.error == "ValueError: no c"
    assert await poisoned.get_dead_letter("item-z") is None


async def test_a_replay_keeps_ids_and_priorities_and_tells_what_became_of_each(poisoned, handler, clock):
    await poisoned.enable(result_ttl=60)
    handler.hold()
    assert await poisoned.replay_dead_letters(["item-b", "item-c", "item-z"]) == ReplayReport(2, missing=1)
    assert await poisoned.replay_dead_letters(["item-b"]) == ReplayReport(0, missing=1), "it is pending again"
    handler.let_go()
    await clock.advance(1)
    assert await poisoned.get_result("item-b") == "done b"
    assert await listed(poisoned) == ["a", "d", "e"]
    assert handler.batches[-2:] == [["b"], ["c"]], "the higher priority first"


async def test_one_whose_key_is_pending_again_stays(poisoned, handler, clock):
    await clock.advance(5)
    handler.hold()
    await poisoned.submit_item("a again", key="item-a")
    assert await poisoned.replay_dead_letters(["item-a", "item-d"]) == ReplayReport(1, pending=1)
    assert await listed(poisoned) == ["a", "b", "c", "e"]


async def test_those_without_room_stay(poisoned, handler):
    handler.hold()
    await poisoned.enable(max_pending=2)
    assert await poisoned.replay_dead_letters() == ReplayReport(2, no_room=3)
    assert await listed(poisoned) == ["c", "d", "e"]


async def test_some_are_dropped(poisoned):
    assert await poisoned.discard_dead_letters(["item-a", "item-z"]) == 1
    assert await listed(poisoned) == list("bcde")


async def test_a_single_id_is_not_taken_for_many_of_one_letter(poisoned):
    for call in (poisoned.replay_dead_letters, poisoned.replay, poisoned.discard_dead_letters):
        with pytest.raises(InvalidArgumentError, match="item_ids"):
            await call("item-a")
    assert await poisoned.count_dead_letters() == 5


async def test_off_nothing_is_replayed_and_nothing_is_lost(poisoned, clock):
    ending = asyncio.ensure_future(poisoned.disable())
    await clock.advance(20)
    assert await ending
    with pytest.raises(BatchClosedError):
        await poisoned.replay_dead_letters()
    assert await poisoned.replay() == 0
    assert await listed(poisoned) == list("abcde")
    await poisoned.enable()
    assert await poisoned.replay() == 5
