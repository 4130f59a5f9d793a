"""Durable items whose error asks to wait."""

import time

import pytest

from tests.core.batch_processor.durable.helpers import length, until

pytestmark = pytest.mark.server


class Told(Exception):
    def __init__(self, retry_after):
        super().__init__("slow down")
        self.retry_after = retry_after


async def test_an_item_is_tried_again_after_the_time_that_its_error_tells(instances):
    tries = []

    async def send(items):
        tries.extend((item.data, item.waits, time.monotonic()) for item in items)
        return [Told(0.5) if item.data == "slow" and not item.waits else item.data for item in items]

    here = await instances(send)
    slow = await here.submit_item("slow")
    quick = await here.submit_item("quick")
    assert await here.get_result(quick.item_id, timeout=10) == "quick"
    assert await here.get_result(slow.item_id, timeout=10) == "slow"
    first, second = (at for data, _, at in tries if data == "slow")
    assert second - first >= 0.5  # longer than its lease, which was renewed meanwhile
    assert here.statistics()["redelivered_items"] == 0
    assert await length(here) == 0


async def test_what_waits_here_when_the_instance_stops_is_tried_by_another(instances):
    async def refuse(items):
        return [Told(3_000) for _ in items]

    async def send(items):
        return [[item.data, item.deliveries] for item in items]

    first = await instances(refuse)
    answer = await first.submit_item("x")
    await until(lambda: first.statistics()["waiting_items"] == 1)
    await first.disable()
    second = await instances(send)
    # The handler had begun it, and the next one is told so.
    assert await second.get_result(answer.item_id, timeout=10) == ["x", 2]
