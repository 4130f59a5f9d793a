"""The link to Redis where a test of a service would not see it."""

import asyncio

import pytest

from bot.core.redis_link import RedisLink, subscribe


@pytest.mark.parametrize("becomes", [None, TimeoutError()])
async def test_a_subscription_ends_though_its_driver_swallowed_the_cancellation(redis_url, becomes):
    link = RedisLink(redis_url)
    standing = asyncio.Event()
    connection = await link.open_connection()
    read = connection.read_response

    async def swallowing(**options):
        try:
            return await read(**options)
        except asyncio.CancelledError:
            if becomes is not None:
                raise becomes from None
            return None

    connection.read_response = swallowing

    async def opened():
        return connection

    link.open_connection = opened
    task = asyncio.ensure_future(
        subscribe(link, "p4-test", lambda _: None, lambda stands: stands and standing.set())
    )
    await standing.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=2.0)
    assert done
    assert task.cancelled()
    await link.close()
