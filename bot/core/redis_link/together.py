"""Short commands of many callers on one connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from bot.core._shared.demotion import redis_needs_another_server
from bot.core._shared.errors import BackendError
from bot.core.redis_link.batches import Batches
from bot.core.redis_link.breaker import Breaker
from bot.core.redis_link.calls import LONGEST_WAIT
from bot.core.redis_link.commands import UNANSWERED
from bot.core.redis_link.errors import RedisUnavailableError
from bot.core.redis_link.failures import Failure, judge, out_of_service
from bot.core.redis_link.parts import Parts
from bot.core.redis_link.wire import Wire

MAX_COMMANDS = 64
"""Commands of one batch. Redis answers when all of them have run, which must be within the time limit."""

MAX_BYTES = 262_144
"""Bytes of one batch."""

MAX_CALL = 65_536
"""Bytes of the largest call that travels with others: they wait while it is on its way."""

MAX_WHOLE = 1 << 30
"""Bytes of a call that has no other way."""


class _Call:
    """Some commands of one caller, which stay together."""

    __slots__ = ("count", "data", "found", "lost", "repeatable", "until")

    def __init__(
        self, data: bytes, count: int, found: asyncio.Future[list[Any]], until: float, *, repeatable: bool
    ) -> None:
        self.data = data
        self.count = count
        self.found = found
        self.until = until
        self.repeatable = repeatable
        self.lost = False
        """Whether its connection was lost before it was answered."""


class Together(Batches):
    """Short commands of many callers: those that come together are one pipeline on one connection.

    So ten thousand calls at once need one connection. Each call gets its own answers or errors. They
    are sent in the order in which they were asked for.

    **Cancellation.** A call that is cancelled before it was sent is not sent. What was sent may be run.
    """

    def __init__(
        self, parts: Parts, new_connection: Callable[[], Any], breaker: Breaker | None = None
    ) -> None:
        super().__init__(parts, new_connection, breaker)
        self._primary = parts.primary

    async def run(
        self,
        commands: Sequence[tuple[Any, ...]],
        *,
        repeatable: bool,
        writes: bool,
        most: int = MAX_CALL,
    ) -> list[Any]:
        """The answers to commands of one caller, refusals among them as redis-py's ResponseError.

        UNANSWERED stands for what was not run and has to go another way: the server is no primary, takes
        no more connections, or the commands have more than ``most`` bytes. Raises as ``RedisLink.run``.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop and self._connections.owner.elsewhere:
            return [UNANSWERED] * len(commands)
        data = _packed(commands)
        if data is None or len(data) > most:
            return [UNANSWERED] * len(commands)
        found: asyncio.Future[list[Any]] = loop.create_future()
        until = loop.time() + LONGEST_WAIT * self._timeout
        call = _Call(data, len(commands), found, until, repeatable=repeatable)
        self._add(call, loop)
        try:
            answers = await found
        except RedisUnavailableError:
            if call.lost:
                # Raises, and says so, if the server is away and not only the connection.
                await self.run((("PING",),), repeatable=True, writes=False)
            raise
        for index, answer in enumerate(answers):
            if isinstance(answer, Exception):
                answers[index] = self._refusal(answer)
        if writes and self._primary.read_only and not any(answer is UNANSWERED for answer in answers):
            self._primary.found_writable()
        return answers

    def stands(self) -> bool:
        """Whether its connection is open."""
        return self._wire is not None and not self._wire.lost

    def _refusal(self, answer: Exception) -> Any:
        from redis.exceptions import ResponseError

        error = ResponseError(str(answer))
        return error if judge(error) is Failure.REFUSED else UNANSWERED

    def _none_waiting(self) -> deque[_Call]:
        return deque()

    def _next_batch(self, wire: Wire) -> tuple[list[_Call], int, bytes]:
        waiting: deque[_Call] = self._waiting
        batch: list[_Call] = []
        now = asyncio.get_running_loop().time()
        count = size = 0
        while waiting and count < MAX_COMMANDS and size < MAX_BYTES:
            call = waiting.popleft()
            if call.found.done():  # cancelled
                continue
            if call.until < now:
                late = f"too many calls wait for Redis at {self._breaker.name}"
                call.found.set_exception(RedisUnavailableError(late))
                continue
            batch.append(call)
            count += call.count
            size += len(call.data)
        return batch, count, b"".join([call.data for call in batch])

    def _deliver(self, batch: list[_Call], answers: list[Any]) -> Exception | None:
        self._deliver_part(batch, answers)
        if self._under_way:
            # The server begins with the next batch now.
            following = self._under_way[0]
            following.timer.cancel()
            timer = asyncio.get_running_loop().call_later(self._timeout, self._too_late)
            self._under_way[0] = following._replace(timer=timer)
        trouble: Exception | None = None
        for answer in answers:
            if isinstance(answer, Exception) and not redis_needs_another_server(str(answer)):
                trouble = trouble or out_of_service(str(answer))
        return trouble

    def _deliver_part(self, batch: list[_Call], answers: list[Any]) -> None:
        start = 0
        for call in batch:
            end = start + call.count
            if end > len(answers):
                return
            if not call.found.done():
                call.found.set_result(answers[start:end])
            start = end

    def _requeue(self, batch: list[_Call]) -> list[_Call]:
        again = [call for call in batch if call.repeatable]
        unknown = [call for call in batch if not call.repeatable]
        for call in unknown:
            call.lost = True
        for call in reversed(again):
            call.repeatable = False  # once: it may be what the server hangs up on
            self._waiting.appendleft(call)
        return unknown

    def _is_closed(self, wire: Wire) -> bool:
        return wire.closed_by_server()  # what is sent to it could not be sent again

    def _not_opened(self, error: Exception) -> bool:
        if judge(error) is not Failure.CROWDED:
            return False
        waiting, self._waiting = self._waiting, self._none_waiting()
        for call in waiting:
            if not call.found.done():
                call.found.set_result([UNANSWERED] * call.count)
        return True

    def _fail(self, batch: Sequence[_Call], error: BackendError) -> None:
        for call in batch:
            if not call.found.done():
                # One error each: a traceback grows with every task that raises the same one.
                call.found.set_exception(type(error)(*error.args))


def _packed(commands: Sequence[tuple[Any, ...]]) -> bytes | None:
    """The bytes of a call; None if it holds what cannot be sent."""
    import hiredis

    try:
        return b"".join(map(hiredis.pack_command, commands))
    except TypeError:
        return None
