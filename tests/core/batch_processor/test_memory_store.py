"""Items submitted by id, their results, status and dead letters, in memory."""

import asyncio

import pytest

from bot.core.batch_processor import (
    ResultTimeoutError,
    UnknownItemError,
)
from tests.support.clock import until_idle


async def figures(processor, *names):
    found = await processor.get_statistics()
    return tuple(found[name] for name in names)


async def test_dead_letters_are_replayed_under_their_ids(processor, handler, clock):
    handler.failures = [OSError("down")] * 4
    _, item_id, _ = await processor.submit_item("a")
    await clock.advance(30)
    assert await figures(processor, "dead_lettered_items", "pending_items") == (1, 0)
    assert await processor.replay(["no such id"]) == 0
    assert await processor.replay([item_id]) == 1
    assert await processor.dead_letters() == []
    assert await figures(processor, "dead_lettered_items", "pending_items", "submitted_items") == (0, 1, 1)
    result = asyncio.ensure_future(processor.get_result(item_id))
    await clock.advance(5)
    assert await result == "done a"
    assert await figures(processor, "total_items_processed", "submitted_items") == (1, 1)


async def test_a_replay_takes_no_more_than_there_is_room_for(processor, handler, clock):
    await processor.enable(max_retries=0)
    handler.failures = [OSError("down")]
    for n in range(3):
        await processor.submit_item(n)
    await clock.advance(1)
    await processor.enable(max_pending=2)
    assert await processor.replay() == 2
    assert len(await processor.dead_letters()) == 1
    assert await processor.discard_dead_letters() == 1


async def test_the_oldest_dead_letters_are_dropped_when_there_are_too_many(processor, handler, clock, caplog):
    await processor.enable(max_retries=0, max_dead_letters=2)
    handler.failures = [OSError("down")] * 2
    for n in range(6):
        await processor.submit_item(n)
    await clock.advance(1)
    assert [letter.data for letter in await processor.dead_letters()] == [4, 5]
    assert await figures(processor, "dead_lettered_items", "dead_letters") == (6, 2)
    assert caplog.text.count("the oldest are dropped") == 1


async def test_ids_and_the_status_of_batches(processor, handler):
    handler.hold()
    first = await processor.submit_item("a")
    second = await processor.submit_item("b", 1)
    assert first.success
    assert (first.batch_id, first.reason) == (second.batch_id, "")
    assert first.item_id != second.item_id
    status = await processor.get_batch_status(first.batch_id)
    assert (status.state, status.items) == ("pending", 2)
    await processor.submit_item("c")
    later = await processor.submit_item("d")
    assert later.batch_id != first.batch_id
    await until_idle()
    assert (await processor.get_batch_status(first.batch_id)).state == "running"
    assert (await processor.get_batch_status(later.batch_id)).state == "pending"
    handler.let_go()
    await until_idle()
    status = await processor.get_batch_status(first.batch_id)
    assert (status.state, status.items, status.done, status.attempts) == ("completed", 3, 3, 1)
    assert handler.batches == [["b", "a", "c"]]
    for unknown in ("", "nothing", "x-b1", later.batch_id + "0", "-b", f"{first.batch_id[:-1]}²"):
        assert await processor.get_batch_status(unknown) is None


async def test_the_batch_id_told_is_the_batch_it_goes_in_whatever_the_queue(processor, handler):
    handler.hold()
    told = [(await processor.submit_item(n)).batch_id for n in range(14)]
    await until_idle()
    handler.let_go()
    await processor.flush()
    for number, batch in enumerate(handler.batches):
        assert {told[n] for n in batch} == {told[number * 3]}
        assert (await processor.get_batch_status(told[number * 3])).items == len(batch)


async def test_results_are_kept_for_who_asks(processor, clock):
    await processor.enable(result_ttl=60.0)
    ids = [(await processor.submit_item(n)).item_id for n in range(3)]
    assert (await processor.get_item_status(ids[0])).state == "pending"
    results = await asyncio.gather(*[processor.get_result(item_id) for item_id in ids])
    assert results == ["done 0", "done 1", "done 2"]
    assert await processor.get_result(ids[0]) == "done 0", "asked again"
    assert (await processor.get_item_status(ids[0])).result == "done 0"
    clock.jump(61)
    with pytest.raises(UnknownItemError, match=f"item_id = '{ids[0]}'"):
        await processor.get_result(ids[0])
    assert await processor.get_item_status(ids[0]) is None


async def test_a_wait_for_a_result_ends_at_its_timeout_and_the_item_goes_on(processor, clock):
    _, item_id, _ = await processor.submit_item("a")
    with pytest.raises(ResultTimeoutError, match=f"item {item_id} has no result within 0.01 s"):
        await processor.get_result(item_id, timeout=0.01)
    await clock.advance(5)
    assert await processor.get_result(item_id) == "done a"


async def test_a_key_makes_a_second_submission_add_nothing(processor, handler, clock):
    first = await processor.submit_item("a", key="order 1")
    again = await processor.submit_item("other", key="order 1")
    assert first[:2] == again[:2] == (True, "order 1")
    await clock.advance(5)
    assert await processor.get_result("order 1") == "done a"
    assert (await processor.submit_item("late", key="order 1"))[:2] == (True, "order 1")
    assert handler.batches == [["a"]]
    assert await figures(processor, "submitted_items", "duplicate_items") == (1, 2)


async def test_the_key_of_a_dead_letter_is_free_when_its_outcome_is_kept_no_more(processor, handler, clock):
    await processor.enable(max_retries=0, result_ttl=60.0)
    handler.failures = [OSError("down")]
    await processor.submit_item("a", key="order 1")
    await clock.advance(5)
    assert (await processor.submit_item("a", key="order 1")).success
    assert await figures(processor, "duplicate_items", "submitted_items") == (1, 1), "its outcome is kept"
    clock.jump(61)
    again = await processor.submit_item("a", key="order 1")
    assert again.item_id == "order 1"
    assert await processor.replay() == await processor.replay(["order 1"]) == 0, "it is pending already"
    await clock.advance(5)
    assert await processor.get_result("order 1") == "done a"
    assert handler.batches == [["a"], ["a"]]
    assert [letter.item_id for letter in await processor.dead_letters()] == ["order 1"]
    assert await figures(processor, "total_items_processed", "dead_lettered_items") == (1, 1)


async def test_keys_of_many_and_the_kind_of_a_refusal(processor, handler):
    handler.hold()
    taken = await processor.submit_many("ab", keys=["k1", "k2"])
    assert [one.item_id for one in taken] == ["k1", "k2"]
    assert [one.refusal for one in taken] == ["", ""]
    with pytest.raises(ValueError, match="keys = "):
        await processor.submit_many("ab", keys=["k1"])
    await processor.enable(max_pending=1)
    assert (await processor.submit_item("c")).refusal == "full"
    handler.let_go()
