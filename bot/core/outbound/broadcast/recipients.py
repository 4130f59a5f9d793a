"""Reading recipients: any iterable, a few at a time, as chats that a store can hold."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    MappingView,
    Set,
    Sized,
)
from typing import Any

from bot.core._shared.errors import InvalidArgumentError, invalid
from bot.core.outbound.broadcast.store import ChatId
from bot.core.outbound.models import plain_chat

Recipients = (
    Iterable[Any]
    | AsyncIterable[Any]
    | Callable[[], "Iterable[Any] | AsyncIterable[Any] | Awaitable[Iterable[Any] | AsyncIterable[Any]]"]
)

BATCH = 200
"""Recipients that are read, and claimed in the store, together."""

_LIVING = (list, Set, Mapping, MappingView, deque)
"""Of these a copy is read, of references alone."""

ALLOWED = "an iterable or async iterable of chats (ids or @names), or a function that gives one"


def chat_of(recipient: object) -> ChatId | None:
    """The recipient as a chat, each in one spelling; None if it is no chat or no store can hold it."""
    try:
        chat = plain_chat(recipient)
    except InvalidArgumentError:
        return None
    if isinstance(chat, int):
        return chat if -(2**63) <= chat < 2**63 else None
    if chat is not None:
        try:
            chat.encode()
        except UnicodeEncodeError:
            return None
    return chat


def check(recipients: object) -> None:
    """Raise ValueError for what cannot be recipients, nor give them when it is called."""
    if callable(recipients) and not isinstance(recipients, type):
        return
    if isinstance(recipients, str | bytes | bytearray) or not isinstance(
        recipients, Iterable | AsyncIterable
    ):
        raise invalid("recipients", recipients, ALLOWED)


async def opened(recipients: Recipients) -> Any:
    """The recipients, of a function what it gives. Raises ValueError for what cannot be read."""
    given: Any = recipients
    if callable(given) and not isinstance(given, Iterable | AsyncIterable):
        given = given()
        if inspect.isawaitable(given):
            given = await given
    if callable(given) and not isinstance(given, Iterable | AsyncIterable):
        raise invalid("recipients", given, ALLOWED)
    check(given)
    # A bot adds and removes users meanwhile: a set would refuse to be read on, and a list leave somebody out.
    living = isinstance(given, _LIVING)
    return tuple(given) if living else given


def number_of(recipients: Iterable[Any] | AsyncIterable[Any]) -> int | None:
    """How many there are, if they tell."""
    return len(recipients) if isinstance(recipients, Sized) else None


async def batches(recipients: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[list[Any]]:
    """Up to BATCH recipients at a time; of an async iterable what is there, without waiting for more.

    An async iterable is read at most one batch ahead, by a task that is over when this is closed.
    """
    if not isinstance(recipients, AsyncIterable):
        batch: list[Any] = []
        for recipient in recipients:
            batch.append(recipient)
            if len(batch) >= BATCH:
                yield batch
                batch = []
        if batch:
            yield batch
        return
    read: asyncio.Queue[Any] = asyncio.Queue(BATCH)

    async def read_on() -> None:
        reading = aiter(recipients)
        try:
            async for recipient in reading:
                await read.put((recipient,))
        finally:
            close = getattr(reading, "aclose", None)
            if close is not None:
                await close()

    reader = asyncio.get_running_loop().create_task(read_on(), name="outbound-broadcast-recipients")
    reader.add_done_callback(lambda _: read.put_nowait(None) if not read.full() else None)
    try:
        while True:
            if reader.done() and read.empty():
                break
            first = await read.get()
            if first is None:
                continue
            batch = [first[0]]
            while len(batch) < BATCH and not read.empty():
                item = read.get_nowait()
                if item is not None:
                    batch.append(item[0])
            yield batch
        reader.result()  # what the recipients raised
    finally:
        reader.cancel()
        await asyncio.wait([reader])
        if not reader.cancelled():
            reader.exception()  # seen, or told above
