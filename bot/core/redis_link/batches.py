"""Calls that are made together travel together, on one connection."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from bot.core._shared.errors import BackendError
from bot.core.redis_link.breaker import Breaker
from bot.core.redis_link.calls import LATE
from bot.core.redis_link.driver import abandon_transport
from bot.core.redis_link.errors import RedisUnavailableError
from bot.core.redis_link.failures import OutOfStep, told
from bot.core.redis_link.parts import Parts
from bot.core.redis_link.wire import Wire

T = TypeVar("T")


LARGE_BATCH = 48
"""Keys or calls from which a batch is sent at once, even while another one is under way."""


class Sent(NamedTuple):
    """A batch that was sent and is not yet answered."""

    batch: Any
    answers: int
    """How many it gets."""
    timer: asyncio.TimerHandle
    probe: bool
    """Whether it is the breaker's probe."""


class Batches(ABC):
    """Calls that are made together travel together, on one connection.

    Calls of one tick of the event loop, and those that come while a batch is under way, make the next
    batch: load makes batches larger, not more numerous. A second one is sent before the first is
    answered only when it is large, so that the server works while this process does. A caller that
    is cancelled leaves its batch as it is; an error reaches each of its callers.

    redis-py makes the connection (address, TLS, login); the bytes then go through a protocol of our
    own and hiredis, without a task, a lock and a timeout for each call.
    """

    def __init__(
        self, parts: Parts, new_connection: Callable[[], Any], breaker: Breaker | None = None
    ) -> None:
        self._parts = parts
        self._connections = parts.connections
        self._health = parts.health
        self._timeout = parts.connections.timeout
        self._breaker = breaker or parts.health.breaker
        self._new_connection = new_connection
        self._answers: list[Any] = []
        # All of this belongs to one event loop. Changed only by the methods below, none of which
        # awaits between reading and writing it.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: Any = self._none_waiting()
        self._scheduled = False
        # In the order of sending, which is that of the answers.
        self._under_way: deque[Sent] = deque()
        self._opening: asyncio.Task[None] | None = None
        self._wire: Wire | None = None
        # Whether the connection is given up as soon as what is under way is answered.
        self._leaving = False
        self.batches = 0

    @abstractmethod
    def _none_waiting(self) -> Any:
        """An empty collection of waiting calls."""

    @abstractmethod
    def _next_batch(self, wire: Wire) -> tuple[Any, int, bytes]:
        """Take a batch from the waiting calls: it, how many answers it gets, and its bytes."""

    @abstractmethod
    def _deliver(self, batch: Any, answers: list[Any]) -> Exception | None:
        """Hand the calls of a batch their answers; what is wrong with server or connection, if anything."""

    def _deliver_part(self, batch: Any, answers: list[Any]) -> None:  # noqa: B027 - most need all answers
        """The rest of the answers to a batch was lost: hand over what has come, if that is of use."""

    def _requeue(self, batch: Any) -> Any:
        """Let a batch wait again that a lost connection left unanswered; what of it may have been run."""
        return batch

    def _is_closed(self, wire: Wire) -> bool:
        """Whether the idle connection is not to be used any more."""
        return False

    def _not_opened(self, error: Exception) -> bool:
        """Whether the waiting calls were told that no connection came about, which is then no outage."""
        return False

    @abstractmethod
    def _fail(self, batch: Any, error: BackendError) -> None:
        """Tell everybody in a batch, or in what ``_none_waiting`` made."""

    def _add(self, call: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Let a call wait for the next batch, in what has ``append``; ``loop`` is the running one."""
        if loop is not self._loop:
            self._move_to(loop)
        waiting = self._waiting
        waiting.append(call)
        if len(waiting) == LARGE_BATCH:
            # Enough for the server to begin with, while this process gathers the others.
            self._send()
        elif not self._scheduled and not self._under_way and self._opening is None:
            self._scheduled = True
            loop.call_soon(self._send)

    def _send(self) -> None:
        """Start the next batch, if there is one to start."""
        self._scheduled = False
        loop = self._loop
        if loop is None or not self._waiting or self._opening is not None:
            return
        if self._under_way and (
            len(self._under_way) > 1 or len(self._waiting) < LARGE_BATCH or self._leaving
        ):
            return
        wire = self._wire
        # A new one is used in any case: were each closed at once, no answer would ever end the trying.
        if wire is not None and wire.proven and not self._under_way and self._is_closed(wire):
            self._drop_wire()
            wire = None
        try:
            probe = self._breaker.admit()
        except RedisUnavailableError as error:
            self._fail_waiting(error)
            return
        if wire is None or wire.lost:
            self._opening = loop.create_task(self._open(probe), name="redis-batches-connect")
            return
        batch, answers, data = self._next_batch(wire)
        if not answers:  # all of them were cancelled meanwhile
            if probe:
                self._breaker.probe_ended()
            self._send()
            return
        timer = loop.call_later(self._timeout, self._too_late)
        self._under_way.append(Sent(batch, answers, timer, probe))
        wire.transport.write(data)

    async def _open(self, probe: bool) -> None:
        connection: Any = None
        try:
            async with asyncio.timeout(self._timeout):
                while connection is None:
                    generation = self._connections.generation
                    connection = self._new_connection()
                    try:
                        await connection.connect()
                    except Exception as error:
                        await connection.disconnect(nowait=True)
                        if not self._connections.speaks_older(error, connection):
                            raise
                        connection = None
                    else:
                        if generation != self._connections.generation:  # it leads to a server that was left
                            await connection.disconnect(nowait=True)
                            connection = None
            self._wire = Wire(connection, self._answered, self._lost)
            self._leaving = False
            connection = None  # the wire's now
        except asyncio.CancelledError:
            self._fail_waiting(RedisUnavailableError("the connection was closed"))
            raise
        except Exception as error:
            # Every way in which a connection can fail to come about means the same to those that wait.
            if not self._not_opened(error):
                self._breaker.failed(error)
                self._fail_waiting(RedisUnavailableError(self._breaker.reason(error)))
        finally:
            # That it connects is not yet the breaker's success: that is an answer.
            if probe:
                self._breaker.probe_ended()
            self._opening = None
            if connection is not None:
                # Half open: redis-py leaves it so when it is cancelled during the handshake.
                await connection.disconnect(nowait=True)
        self._send()

    def _answered(self, answer: Any) -> None:
        if not self._under_way:
            self._out_of_step()
            return
        expected = self._under_way[0].answers
        if expected > 1:
            self._answers.append(answer)
            if len(self._answers) < expected:
                return
            answers, self._answers = self._answers, []
        else:
            answers = [answer]
        batch = self._finish()
        self.batches += 1
        trouble = self._deliver(batch, answers)
        if trouble is None:
            self._health.succeeded(self._breaker)
            if self._leaving and not self._under_way:
                self._drop_wire()
        elif isinstance(trouble, OutOfStep):
            self._out_of_step()
        else:
            self._drop_wire()  # the next one resolves the name and logs in again
            self._broken(trouble)
        self._send()

    def _out_of_step(self) -> None:
        # Unexpected answers: the ones after them would be matched to the wrong calls.
        self._drop_wire()
        self._answers = []
        error = RedisUnavailableError(f"unexpected answers of Redis at {self._breaker.name}")
        while self._under_way:
            self._fail(self._finish(), error)

    def _drop_wire(self) -> None:
        wire, self._wire = self._wire, None
        self._leaving = False
        if wire is not None:
            wire.drop()

    def renew(self) -> None:
        """Use a new connection, to wherever the name leads now, as soon as no call waits on this one."""
        if self._under_way:
            self._leaving = True
        else:
            self._drop_wire()

    def _finish(self) -> Any:
        """The oldest batch under way is answered, or given up."""
        sent = self._under_way.popleft()
        sent.timer.cancel()
        if sent.probe:
            self._breaker.probe_ended()
        return sent.batch

    def _too_late(self) -> None:
        loop = self._loop
        for index, sent in enumerate(self._under_way):
            late = loop.time() - sent.timer.when() if loop is not None else 0.0
            if loop is not None and late > LATE:
                # This event loop did not run meanwhile: it gets a moment to read what has come.
                again = loop.call_later(LATE, self._too_late)
                self._under_way[index] = sent._replace(timer=again)
                return
            if late >= 0.0:
                break
        # The answer may still come: the connection is given up, or it would answer the next batch.
        self._drop_wire()
        self._broken(TimeoutError())

    def _lost(self, wire: Wire, error: BaseException | None) -> None:
        if wire is not self._wire:
            return
        self._wire = None
        self._leaving = False
        if not self._under_way:
            return  # it was idle; the next call finds out whether the server is there
        reason = error or ConnectionResetError("connection closed by the server")
        if not wire.proven or not self._breaker.available:
            self._broken(reason)
            return
        # Only this connection is known to be gone: a new one tells whether the server is.
        self._drop_answers()
        failure = RedisUnavailableError(
            f"the connection to Redis at {self._breaker.name} was lost: {told(str(reason))}"
        )
        unknown: list[Any] = []
        while self._under_way:
            unknown.append(self._finish())
        # The last first: what waits again comes before what came later.
        for batch in reversed(unknown):
            self._fail(self._requeue(batch), failure)
        self._send()

    def _drop_answers(self) -> None:
        answers, self._answers = self._answers, []
        if answers and self._under_way:
            self._deliver_part(self._under_way[0].batch, answers)

    def _broken(self, error: BaseException) -> None:
        self._breaker.failed(error)
        self._fail_all(RedisUnavailableError(self._breaker.reason(error)))

    def _fail_all(self, error: BackendError) -> None:
        self._drop_answers()
        while self._under_way:
            self._fail(self._finish(), error)
        self._fail_waiting(error)

    def _fail_waiting(self, error: BackendError) -> None:
        waiting, self._waiting = self._waiting, self._none_waiting()
        self._fail(waiting, error)

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        # The link first: on a new loop it abandons everything, and what waits must come after that.
        self._connections.here()
        self.abandon()
        self._loop = loop

    def _elsewhere(self, call: Callable[[], asyncio.Future[T]]) -> asyncio.Future[T]:
        """``call()`` on the event loop that the link lives on, which runs in another thread."""

        async def there() -> T:
            return await call()

        return asyncio.get_running_loop().create_task(
            self._connections.hand_over(there), name="redis-hand-over"
        )

    async def drain(self) -> None:
        """Wait until all that was asked is answered, for the link's timeout at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                # Polled: this is for shutdown, and the paths of every call shall not pay for it.
                while self._waiting or self._under_way or self._opening is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)

    async def close(self) -> None:
        """Stop; a call that still waits gets RedisUnavailableError."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        self._fail_all(RedisUnavailableError("the connection was closed"))
        if self._wire is not None:
            self._drop_wire()
            await asyncio.sleep(0)  # the transport closes its socket on the next turn of the loop

    def abandon(self) -> None:
        """Forget everything of an event loop that runs no more."""
        wire, self._wire, loop = self._wire, None, self._loop
        self._leaving = False
        if wire is not None and loop is not None:
            wire.lost = True
            abandon_transport(wire.transport, loop)
        if any(sent.probe for sent in self._under_way):
            self._breaker.probe_ended()
        self._loop = self._opening = None
        self._under_way = deque()
        self._answers = []
        self._waiting = self._none_waiting()
        self._scheduled = False
