"""What a handler may answer, and what is said of it."""

import asyncio

import pytest

from bot.core.batch_processor import (
    BatchProcessor,
    DeadLetteredError,
    ItemFailedError,
    MissingResultError,
)
from tests.support.clock import until_idle


async def figures(processor, *names):
    found = await processor.get_statistics()
    return tuple(found[name] for name in names)


async def test_a_list_in_order_serves_as_well_as_a_dict(processor):
    async def handler(items):
        items.reverse()  # a list of its own, so this changes only what it sees
        return [item.data for item in reversed(items)]

    await processor.enable(handler)
    assert await asyncio.gather(*[processor.submit_and_wait(n) for n in range(3)]) == [0, 1, 2]


async def test_a_function_that_is_not_async_serves_too(processor):
    await processor.enable(lambda items: [item.data + 1 for item in items])
    assert await asyncio.gather(*[processor.submit(n) for n in range(3)]) == [1, 2, 3]


async def test_none_is_a_result(processor):
    await processor.enable(lambda items: dict.fromkeys([item.item_id for item in items]))
    assert await asyncio.gather(*[processor.submit(n) for n in range(3)]) == [None] * 3


async def test_an_item_missing_from_the_answer_failed_and_says_so(processor):
    async def handler(items):
        return {item.item_id: 1 for item in items if item.data != "bad"}

    await processor.enable(handler)
    good, bad, also = (processor.submit(data) for data in ("good", "bad", "also"))
    with pytest.raises(MissingResultError, match="holds nothing for item "):
        await bad
    assert (await good, await also) == (1, 1)
    assert await figures(processor, "total_items_processed", "failed_items") == (2, 1)


async def test_an_exception_as_a_value_fails_that_item_alone(processor):
    refused = ValueError("no such file")
    await processor.enable(lambda items: [refused if item.data == 1 else item.data for item in items])
    futures = [processor.submit(n) for n in range(3)]
    await until_idle()
    assert (await futures[0], await futures[2]) == (0, 2)
    with pytest.raises(ValueError, match="no such file"):
        await futures[1]
    assert await figures(processor, "retries", "failed_batches", "completed_batches") == (0, 0, 1)


@pytest.mark.parametrize("value", [StopIteration("end"), asyncio.CancelledError("c"), KeyboardInterrupt()])
async def test_an_exception_that_a_future_cannot_hold_still_fails_the_item(processor, value):
    await processor.enable(lambda items: [value] * len(items))
    futures = [processor.submit(n) for n in range(3)]
    for future in futures:
        with pytest.raises(ItemFailedError, match=type(value).__name__) as caught:
            await future
        assert caught.value.__cause__ is value


@pytest.mark.parametrize("answer", [None, "abc", 3, [1], [1, 2, 3, 4], {1, 2, 3}])
async def test_nonsense_is_not_tried_again_and_lies_among_the_dead_letters(processor, answer):
    calls = []

    async def handler(items):
        calls.append(len(items))
        return answer

    await processor.enable(handler)
    futures = [processor.submit(n) for n in range(3)]
    for future in futures:
        with pytest.raises(
            DeadLetteredError, match=r"given up after 1 attempt\(s\): HandlerAnswerError: the"
        ):
            await future
    assert calls == [3]
    assert [letter.data for letter in await processor.dead_letters()] == [0, 1, 2]


async def test_answers_for_unknown_ids_are_said_once(processor, caplog):
    await processor.enable(lambda items: {**{item.item_id: 1 for item in items}, "other": 2})
    await asyncio.gather(*[processor.submit(n) for n in range(6)])
    assert [record.message for record in caplog.records] == [
        "The batch handler returned results for ids that are not in its batch"
    ]


async def test_results_that_compare_oddly_are_only_handed_on(processor):
    class Odd:
        def __eq__(self, other):
            raise RuntimeError("ambiguous")

        __hash__ = None

    odd = Odd()
    await processor.enable(lambda items: {item.item_id: odd for item in items})
    assert [value is odd for value in await asyncio.gather(*[processor.submit(n) for n in range(3)])] == [
        True
    ] * 3


async def test_items_without_a_handler_are_told_of_once_and_again_when_they_are_given_up(clock, caplog):
    p = BatchProcessor(clock=clock)
    await p.enable(batch_timeout=0.5)
    assert not caplog.records, "there is nothing to handle yet"
    for n in range(3):
        assert (await p.submit_item(n)).success
    (told,) = caplog.records
    assert told.getMessage().endswith("items wait, but there is no handler: set process_handler")
    await p.disable()
    assert caplog.records[-1].getMessage().endswith("3 item(s) unhandled; dead_letters() has them")
    assert len(await p.dead_letters()) == 3


@pytest.mark.parametrize("answers", ["dict", "list", "all"])
async def test_a_handler_that_forgets_an_await_has_its_items_given_up_and_none_counted_done(clock, answers):
    async def work(data):
        return data

    async def forgetful(items):
        if answers == "dict":
            return {item.item_id: work(item.data) for item in items}
        if answers == "list":
            return [items[0].data, *[work(item.data) for item in items[1:]]]
        return work(items)

    processor = BatchProcessor(clock=clock)
    await processor.enable(forgetful, max_batch_size=2)
    waiting = [asyncio.ensure_future(processor.submit_and_wait(number)) for number in range(2)]
    for done in asyncio.as_completed(waiting):
        with pytest.raises(DeadLetteredError, match="an await is missing"):
            await done
    assert [letter.data for letter in await processor.dead_letters()] == [0, 1]
    figures = await processor.get_statistics()
    assert (figures["total_items_processed"], figures["dead_lettered_items"]) == (0, 2)
    assert await processor.disable()
