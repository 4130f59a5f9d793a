"""The messages of a channel, until they are no longer needed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from enum import Enum
from typing import Any

from bot.core._shared.backoff import exponential
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import BackgroundTasks
from bot.core.redis_link.failures import Failure, judge, text_of, told
from bot.core.redis_link.listening import end_if_cancelled, listen
from bot.core.redis_link.parts import Parts

logger = logging.getLogger("bot.core.redis_link")

REFUSED_PAUSE = 30.0
"""Seconds until a subscription that was refused is asked for again."""

REVIVAL = 0.5
"""Seconds after which a subscription starts again if its task was cancelled from outside."""


class State(Enum):
    """How far a subscription is."""

    PAUSED = "paused"
    """It has not been started, or has ended until the link starts it again."""
    BEGINNING = "beginning"
    """It is not known yet whether it will stand."""
    STANDING = "standing"
    """Messages arrive."""
    LOST = "lost"
    """They do not; it is tried again."""
    STOPPED = "stopped"
    """It has ended for good."""


class Subscription:
    """Messages of one channel, for as long as the link lives or :meth:`stop` is called.

    It goes with its link: to another event loop, to another server, into a child after a fork. Each
    time ``on_state(False)`` says that messages may have been missed, before ``on_state(True)``.
    """

    def __init__(
        self,
        parts: Parts,
        channel: str,
        on_message: Callable[[bytes], None],
        on_state: Callable[[bool], None],
        on_stop: Callable[[Subscription], None],
    ) -> None:
        self._parts = parts
        self._on_stop = on_stop
        self.channel = channel
        self._on_message = on_message
        self._on_state = on_state
        self._state = State.PAUSED
        self.refused = ""
        """Why Redis does not let this user subscribe, if so."""
        # Set once the run stands or is known not to.
        self._settled: asyncio.Event | None = None
        self._tasks = BackgroundTasks()
        # The run whose word counts: one that is on its way out has nothing to say any more.
        self._run: object | None = None

    @property
    def standing(self) -> bool:
        """Whether messages arrive."""
        return self._state is State.STANDING

    @property
    def beginning(self) -> bool:
        """Whether it is not known yet if it will stand."""
        return self._state is State.BEGINNING

    def start(self) -> None:
        """Subscribe on a new connection, on the running event loop."""
        self._end_run()
        if self._state is State.STOPPED:
            return
        self._state = State.BEGINNING
        self._tasks = BackgroundTasks()
        run = self._run = object()
        settled = self._settled = asyncio.Event()

        def on_message(message: bytes) -> None:
            if self._run is run:
                self._on_message(message)

        def on_state(stands: bool) -> None:
            settled.set()
            if self._run is run:
                self._state = State.STANDING if stands else State.LOST
                if stands:
                    self.refused = ""
                    self._parts.rights.refused.pop(f"SUBSCRIBE {self.channel}", None)
                self._on_state(stands)

        def on_failure(text: str, refused: bool) -> None:
            settled.set()
            if self._run is not run:
                return
            self._state = State.LOST
            if refused:
                self.refused = text
                self._parts.rights.found_refused(
                    f"SUBSCRIBE {self.channel}",
                    text,
                    "this instance does not receive the change messages of others",
                )

        loop = asyncio.get_running_loop()

        def ended(task: asyncio.Task[Any]) -> None:
            settled.set()
            if self._run is run:
                self._state = State.LOST
                # Cancelled from outside: go on. Soon, not at once: this may be an event loop on its way
                # out, that cancels all it has.
                if not loop.is_closed():
                    loop.call_later(REVIVAL, revive)

        def revive() -> None:
            if self._run is run:
                self.start()

        task = self._tasks.spawn(
            subscribe(self._parts, self.channel, on_message, on_state, on_failure),
            name=f"redis-subscription {self.channel}",
        )
        task.add_done_callback(ended)

    def _end_run(self) -> None:
        self._run = None
        for task in self._tasks:
            if task.get_loop() is _running_loop():
                task.cancel()
        self._no_more()

    def _no_more(self) -> None:
        """Nothing of the run counts any more."""
        stood = self.standing
        if self._state is not State.STOPPED:
            self._state = State.PAUSED
        if stood:
            self._on_state(False)

    def abandon(self) -> None:
        """Forget everything of an event loop that runs no more."""
        self._end_run()
        self._tasks.abandon()

    async def settled(self) -> None:
        """Wait until it stands, or is known not to; for the link's timeout at most."""
        event = self._settled
        if event is not None and not event.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._parts.connections.timeout):
                    await event.wait()

    async def pause(self) -> None:
        """End until the link starts again."""
        self._run = None
        await self._tasks.stop()
        self._no_more()

    async def stop(self) -> None:
        """End for good, on whichever event loop it lives; ``on_state`` is not called any more."""
        self._state = State.STOPPED
        self._on_stop(self)
        self._run = None
        await self._tasks.stop()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def subscribe(
    parts: Parts,
    channel: str,
    on_message: Callable[[bytes], None],
    on_state: Callable[[bool], None],
    on_failure: Callable[[str, bool], None] | None = None,
) -> None:
    """Hand every message of ``channel`` to ``on_message``, for ever; cancel to stop.

    ``on_state(True)`` is called each time the subscription stands, before any message of it, and
    ``on_state(False)`` when it is lost: messages sent in between were missed. A silent server is
    asked every ``SILENCE`` seconds whether it is there. ``on_failure(text, refused)`` is called when it
    does not come about; ``refused``: this user may not, and is back every ``REFUSED_PAUSE`` seconds.
    """
    from redis.exceptions import ResponseError

    connections, breaker = parts.connections, parts.health.breaker
    failures = 0
    while True:
        stood = refused = False
        connection: Any = None
        try:
            async with asyncio.timeout(connections.timeout):
                connection = await connections.open_connection()
                await connection.send_command("SUBSCRIBE", channel)
                await connection.read_response(push_request=True)
            end_if_cancelled()
            stood = True
            failures = 0
            on_state(True)
            await listen(connection, connections.timeout, on_message)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # Whatever it was, the subscription is gone.
            logger.debug("subscription to %s lost: %s", one_line(channel), one_line(error))
            refused = isinstance(error, ResponseError) and judge(error) is Failure.REFUSED
            if on_failure is not None and not stood:
                on_failure(told(text_of(error)), refused)
            if not refused and failures == 2 and breaker.available:
                # What the link itself says is of its other calls, which work.
                logger.warning(
                    "Redis at %s: no subscription to %s yet, still trying: %s",
                    breaker.name, one_line(channel), told(text_of(error)) or type(error).__name__,
                )  # fmt: skip
        finally:
            if connection is not None:
                await connections.close_connection(connection)
            if stood:
                on_state(False)
        end_if_cancelled()
        failures += 1
        longest = REFUSED_PAUSE if refused else exponential(failures, 0.05, 2.0)
        await asyncio.sleep(longest * random.uniform(0.5, 1.0))
