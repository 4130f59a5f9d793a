"""The batch processor as a bot uses it: bad input and figures."""

import pytest

from bot.core.batch_processor import (
    BatchItem,
    BatchProcessor,
)


async def figures(processor, *names):
    found = await processor.get_statistics()
    return tuple(found[name] for name in names)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"max_batch_size": 0}, "max_batch_size = 0: expected a whole number >= 1 and <= 1_000_000"),
        ({"max_batch_size": 2.5}, "max_batch_size = 2.5"),
        ({"batch_timeout": 0}, "batch_timeout = 0: expected a number > 0"),
        ({"batch_timeout": float("nan")}, "batch_timeout = nan"),
        ({"batch_timeout": 10**400}, "batch_timeout = 1000"),
        ({"max_concurrent": True}, "max_concurrent = True"),
        ({"max_pending": -1}, "max_pending = -1"),
        ({"handler_timeout": -1}, "handler_timeout = -1: expected a number >= 0"),
        ({"max_retries": 1001}, "max_retries = 1001: expected a whole number >= 0 and <= 1_000"),
        ({"process_handler": 5}, "process_handler = 5: expected an async function of a list of items"),
        ({"process_handler": lambda: None}, "expected a function of one list of items"),
    ],
)
async def test_what_cannot_be_is_refused_with_its_name_and_changes_nothing(arguments, said):
    processor = BatchProcessor()
    with pytest.raises(ValueError) as caught:
        await processor.enable(**arguments)
    assert said in str(caught.value)
    assert not processor.enabled
    await processor.enable()
    assert (await processor.get_statistics())["batch_size"] == 100
    await processor.disable()


@pytest.mark.parametrize("priority", [1.5, "1", None, True, 1001, -1001])
async def test_a_bad_priority_is_refused(processor, priority):
    for submit in (processor.submit_item, processor.submit_and_wait):
        with pytest.raises(ValueError, match=r"priority = .*: expected a whole number from -1000 to 1000"):
            await submit("a", priority)
    for _ in range(2):  # the second time another item waits already
        with pytest.raises(ValueError, match="priority ="):
            processor.submit("a", priority)
        processor.submit("b")


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), -1, 10**400, "1", True])
async def test_a_bad_timeout_is_refused(processor, timeout):
    _, item_id, _ = await processor.submit_item("a")
    for call in (processor.get_result(item_id, timeout), processor.flush(timeout)):
        with pytest.raises(ValueError, match=r"timeout = .*: expected a number of seconds >= 0 and <= "):
            await call
    with pytest.raises(ValueError, match="timeout = "):
        await processor.submit_and_wait("b", timeout=timeout)


@pytest.mark.parametrize("key", ["", "k" * 201, 5])
async def test_a_bad_key_is_refused(processor, key):
    with pytest.raises(ValueError, match=r"key = .*: expected a string of 1 to 200 characters"):
        await processor.submit_item("a", key=key)


async def test_the_figures_that_users_read(processor, handler, clock):
    for n in range(3):
        processor.submit(n)
    processor.submit("late")
    await clock.advance(2.0)
    shown = await processor.get_statistics()
    assert shown["enabled"] is shown["handler"] is True
    assert (shown["submitted_items"], shown["total_items_processed"], shown["pending_items"]) == (4, 3, 1)
    assert (shown["pending_batches"], shown["completed_batches"], shown["failed_batches"]) == (1, 1, 0)
    assert (shown["avg_batch_size"], shown["oldest_pending_seconds"]) == (3.0, 2.0)
    assert shown["throughput_items_per_sec"] == 1.5
    await clock.advance(4.0)
    shown = processor.statistics()
    assert shown["wait_ms_p50"] < 1
    assert shown["wait_ms_p99"] == pytest.approx(5000, rel=0.1)
    waits, handling = processor.histograms()
    assert (waits.name, waits.count) == ("batch_wait_seconds", 4)
    assert (handling.name, handling.count) == ("batch_handler_seconds", 2)
    processor.submit("pending")
    await processor.reset_statistics()
    assert await figures(processor, "submitted_items", "pending_items", "total_items_processed") == (1, 1, 0)


def test_an_item_is_shown_without_what_is_the_processors_own():
    assert repr(BatchItem({"a": 1}, item_id="7")) == "BatchItem(item_id='7', data={'a': 1}, priority=0)"
