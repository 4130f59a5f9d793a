"""Whoever cancels a call to Redis has it cancelled, whatever the client library does with it."""

import asyncio

import pytest

from bot.core.redis_link import RedisLink, RedisRefusedError


@pytest.mark.parametrize("ending", ["an answer", "an error"])
async def test_a_cancellation_that_the_client_swallows_is_not_lost(redis_url, ending):
    link = RedisLink(redis_url)
    begun = asyncio.Event()

    async def swallow(client):
        try:
            begun.set()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            # As asyncio.wait_for did before Python 3.12, when both come in one turn of the loop.
            if ending == "an error":
                return await client.execute_command("NONSENSE")
            return await client.ping()

    calling = asyncio.ensure_future(link.run(swallow))
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert calling.cancelled()
    with pytest.raises(RedisRefusedError):
        await link.execute("NONSENSE")
    await link.close()
