"""The messages on one connection that has subscribed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bot.core.redis_link.failures import Failure, judge

SILENCE = 3.0
"""Seconds without a message after which a subscription asks whether the server is still there."""


def end_if_cancelled() -> None:
    """Raise CancelledError if this task is to end."""
    # redis-py turns a cancellation that comes with a timeout or an answer into these; a subscription
    # that went on then would never end, and a caller that waits for its end would wait for ever.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def listen(connection: Any, timeout: float, on_message: Callable[[bytes], None]) -> None:
    """Hand every message that comes to ``on_message``; ends only by raising, as without an answer to PING."""
    from redis.exceptions import ResponseError

    asked = False
    while True:
        end_if_cancelled()
        try:
            answer = await connection.read_response(
                timeout=timeout if asked else SILENCE, disconnect_on_error=False, push_request=True
            )
        except TimeoutError:
            answer = None
        except Exception as error:
            # Anything but an error that Redis sent, such as bytes that are none, would come again at once.
            if isinstance(error, ResponseError) and judge(error) is Failure.REFUSED:
                answer = error  # PING is forbidden, and yet this was an answer
            elif "imeout" not in type(error).__name__:
                raise
            else:
                answer = None
        if answer is None:
            if asked:
                raise TimeoutError("no answer to PING")
            await connection.send_command("PING")
            asked = True
            continue
        asked = False
        if isinstance(answer, list) and len(answer) == 3 and answer[0] == b"message":
            on_message(answer[2])
