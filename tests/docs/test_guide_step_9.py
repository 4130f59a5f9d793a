"""The guide's Step 9, load balancing, as written; only the addresses are three local instances."""

import logging
from collections import Counter

import aiohttp
import pytest

from bot.core.load_balancer import LoadBalancer
from tests.docs.guide import blocks, run


@pytest.fixture
async def guide(start_instances):
    instances = start_instances("", "", "")
    [block] = blocks("Step 9")
    for number, instance in enumerate(instances, 1):
        assert f'"10.0.0.{number}", 8001' in block
        block = block.replace(f'"10.0.0.{number}", 8001', f'"127.0.0.1", {instance.port}')
    namespace = {"aiohttp": aiohttp, "logger": logging.getLogger("guide")}
    yield await run(block, namespace), instances
    await LoadBalancer.get_instance().disable()


async def test_requests_are_spread_and_fail_over(guide, caplog):
    namespace, instances = guide
    assert namespace["lb"] is LoadBalancer.get_instance()
    with caplog.at_level(logging.INFO):
        answers = [
            await namespace["execute_distributed"]({"command": "data", "user_id": 7}) for _ in range(9)
        ]
    assert {answer["result"]["user"]["id"] for answer in answers} == {7}
    used = Counter(record.getMessage() for record in caplog.records if record.name == "guide")
    assert used == {f"Executed on bot-{number}": 3 for number in (1, 2, 3)}
    instances[1].kill()
    for _ in range(9):
        assert await namespace["execute_distributed"]({"command": "ping"})
    for instance in instances:
        instance.kill()
    with pytest.raises(Exception, match="Distributed execution failed"):
        await namespace["execute_distributed"]({"command": "ping"})
    assert "Request failed on all instances" in caplog.text
