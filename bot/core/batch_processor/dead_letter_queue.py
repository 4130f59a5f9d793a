"""The dead letters of a durable queue, for tools beside the bot: no batch processor takes part."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from bot.core._shared.errors import invalid
from bot.core._shared.validation import valid_plain_name

if TYPE_CHECKING:
    from bot.core.batch_processor.durable.letters import Letters


@contextlib.asynccontextmanager
async def durable_dead_letters(redis_url: str, queue_name: str = "default") -> AsyncIterator[Letters]:
    """The dead letters of the queue ``queue_name`` in the Redis at ``redis_url``.

    Its methods are those of :class:`Letters`: ``count``, ``each``, ``find``, ``replay``, ``discard``. They
    raise RedisUnavailableError while Redis is unreachable. Raises ValueError for an invalid URL or name.
    """
    from bot.core.batch_processor.durable.letters import Letters
    from bot.core.batch_processor.durable.streams import Streams
    from bot.core.redis_link import RedisLink

    if not redis_url:
        raise invalid("redis_url", redis_url, "the address of a Redis, such as redis://127.0.0.1:6379/0")
    link = RedisLink.shared(redis_url)
    try:
        link.client()
        yield Letters(Streams(link, valid_plain_name("queue_name", queue_name)))
    finally:
        await link.release()
