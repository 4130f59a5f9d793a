"""The connection on which one pool listens for notifications."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from bot.core._shared.backoff import full_jitter
from bot.core._shared.errors import Phase4Error
from bot.core._shared.loop_owner import seen, still_runs
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import BackgroundTasks
from bot.core.connection_pool_manager.connection_tasks import CLOSE_TIMEOUT
from bot.core.connection_pool_manager.errors import ListenError, PoolClosedError, PoolConnectError
from bot.core.connection_pool_manager.notifications import Inbox
from bot.core.connection_pool_manager.pool import LOGIN_RETRY_BASE, RETRY_BASE, RETRY_CAP
from bot.core.connection_pool_manager.runner import PoolRunner

logger = logging.getLogger(__name__)

PING_INTERVAL = 15.0
"""Seconds between pings, or the pool's ``keepalive_interval`` if that is less: they find silent losses."""
SHORT_LIFE = 1.0
"""A connection that was lost sooner is opened again after a short while, and not at once."""

_inherited: list[PoolListener] = []
"""Listeners of the parent process of a fork. They are kept: to collect them would close shared sockets."""


class PoolListener:
    """One connection for all listeners of a pool, which it opens again whenever it is lost.

    One task talks to the server; joining and leaving only tell it what is wanted. A caller that is
    cancelled while it joins has left. When the last has left, the connection is closed and the task ends.
    """

    def __init__(
        self,
        name: str,
        runner_here: Callable[[str], Awaitable[PoolRunner]],
        ended: Callable[[PoolListener], None],
    ) -> None:
        self.name = name
        self.loop = asyncio.get_running_loop()
        seen(self.loop)
        self._process = os.getpid()
        self._runner_here = runner_here
        self._ended = ended
        # Changed only by join and leave.
        self._inboxes: set[Inbox] = set()
        self._wanted: defaultdict[str, set[Inbox]] = defaultdict(set)
        # A caller waits for each; changed by join, leave and _subscribe.
        self._joining: dict[Inbox, asyncio.Future[None]] = {}
        # Changed only by the task.
        self._runner: PoolRunner | None = None
        self._raw: Any = None
        self._subscribed: set[str] = set()
        self._failures = 0
        self._pause = 0.0
        self._is_lost = False  # an established connection was, and that is told in the log
        self._must_move = False  # set by move
        self._wake = asyncio.Event()
        self._tasks = BackgroundTasks()
        self._task: asyncio.Task[None] | None = None

    # For callers.

    async def join(self, inbox: Inbox) -> None:
        """Returns once the server listens on the inbox's channels. Raises PoolConnectError, ListenError."""
        future = self._joining[inbox] = self.loop.create_future()
        self._inboxes.add(inbox)
        for channel in inbox.channels:
            self._wanted[channel].add(inbox)
        self._wake.set()
        if self._task is None:
            self._task = self._tasks.spawn(self._run(), name=f"pool-{self.name}-listen")
        try:
            await future
        except BaseException:
            self.leave(inbox)
            raise

    def leave(self, inbox: Inbox) -> None:
        """Nothing more comes into the inbox; the task tells the server."""
        self._inboxes.discard(inbox)
        self._joining.pop(inbox, None)
        for channel in inbox.channels:
            readers = self._wanted.get(channel)
            if readers is not None:
                readers.discard(inbox)
                if not readers:
                    del self._wanted[channel]
        self._wake.set()

    async def left(self) -> None:
        """Wait for the connection's end if nobody listens any more."""
        if not self._inboxes and self._task is not None:
            await asyncio.wait([self._task])

    def move(self) -> None:
        """The pool has another server from now on."""
        self._must_move = True
        self._wake.set()

    async def stop(self) -> None:
        """Close the connection; every reader gets PoolClosedError after what it has yet to read."""
        self._close_inboxes(PoolClosedError(f"pool {self.name!r} is closed"))
        await self._tasks.stop()

    def abandon(self) -> None:
        """Close the socket without the event loop, which is gone; after a fork leave it to the parent."""
        if self._process != os.getpid():
            _inherited.append(self)
            return
        self._close_inboxes(PoolClosedError(f"the event loop of pool {self.name!r} has ended"))
        if self._raw is not None and self._runner is not None:
            self._runner.driver.terminate(self._raw)
        self._tasks.abandon()

    @property
    def is_orphan(self) -> bool:
        """Whether its event loop has ended, or it belongs to the parent of a fork."""
        return self._process != os.getpid() or not still_runs(self.loop)

    def _close_inboxes(self, error: Exception) -> None:
        for inbox in self._inboxes:
            if inbox.closed is None:
                inbox.close(error)
        for future in self._joining.values():
            if not future.done() and not self.loop.is_closed():
                future.set_exception(error)
                future.exception()

    # The task.

    async def _run(self) -> None:
        try:
            while self._inboxes:
                await self._wait_before_opening()
                if self._inboxes:
                    await self._serve()
        finally:
            self._ended(self)
            # Unless all have left, or got their error from stop: the event loop ends, or this is a fault.
            self._close_inboxes(PoolClosedError(f"pool {self.name!r}: its listening was ended"))

    async def _wait_before_opening(self) -> None:
        """Pause after a failure; a caller that joins is not kept waiting."""
        until = self.loop.time() + self._pause
        while self._inboxes and not self._joining and (left := until - self.loop.time()) > 0:
            await self._woken(left)

    async def _woken(self, seconds: float) -> bool:
        """Wait until something has changed; False if nothing has for that time."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    async def _serve(self) -> None:
        """Open the connection, and listen on it until it is lost or nobody listens any more."""
        opened_at: float | None = None
        # Who has listened before has been without a connection since.
        cut_off = [inbox for inbox in self._inboxes if inbox.is_joined]
        try:
            self._must_move = False
            runner = self._runner = await self._runner_here(self.name)
            raw = self._raw = await runner.open_apart()
            raw.add_termination_listener(self._terminated)
            self._subscribed = set()
            await self._subscribe(raw)
            opened_at = self.loop.time()
            self._opened(cut_off)
            options = runner.spec.options
            while self._inboxes and not self._must_move:
                if not await self._woken(min(PING_INTERVAL, options.keepalive_interval)):
                    async with asyncio.timeout(options.validation_timeout):
                        await runner.driver.ping(raw)
                if raw.is_closed():
                    raise ConnectionResetError("the server or the network has closed it")
                await self._subscribe(raw)
        except Exception as error:
            self._failed(error, opened_at)
        finally:
            await self._close()

    def _terminated(self, connection: object) -> None:
        self._wake.set()

    async def _subscribe(self, raw: Any) -> None:
        """Have the server listen on what is wanted, and on nothing else."""
        assert self._runner is not None
        seconds = self._runner.spec.options.validation_timeout
        while missing := [channel for channel in self._wanted if channel not in self._subscribed]:
            for channel in missing:
                try:
                    async with asyncio.timeout(seconds):
                        await raw.add_listener(channel, self._deliver)
                except Exception as error:
                    self._refused(channel, error, is_open=not raw.is_closed())
                else:
                    self._subscribed.add(channel)
        for channel in [channel for channel in self._subscribed if channel not in self._wanted]:
            self._subscribed.discard(channel)
            async with asyncio.timeout(seconds):
                await raw.remove_listener(channel, self._deliver)
        if self._wanted.keys() - self._subscribed:  # meanwhile
            self._wake.set()
        for inbox, future in list(self._joining.items()):
            if inbox.channels <= self._subscribed and not future.done():
                del self._joining[inbox]
                inbox.is_joined = True
                future.set_result(None)

    def _refused(self, channel: str, error: Exception, *, is_open: bool) -> None:
        """LISTEN failed: by the server's word only those fail who are about to join."""
        said = f"pool {self.name!r}: LISTEN on channel {channel!r} failed: {self._said(error)}"
        failure = ListenError(said)
        failure.__cause__ = error
        code = getattr(error, "sqlstate", None)
        if not is_open or code is None or any(inbox.is_joined for inbox in self._wanted.get(channel, ())):
            raise failure
        for inbox in list(self._wanted.get(channel, ())):
            self._turn_away(inbox, failure)

    def _deliver(self, connection: object, sender: int, channel: str, payload: str) -> None:
        assert self._runner is not None
        counters = self._runner.pool.counters
        for inbox in self._wanted.get(channel, ()):
            counters.notifications += 1
            if not inbox.put(channel, payload, sender):
                counters.notifications_dropped += 1

    def _opened(self, cut_off: list[Inbox]) -> None:
        self._failures, self._pause = 0, 0.0
        for inbox in cut_off:
            if inbox in self._inboxes:
                inbox.mark_reconnected()
        if self._is_lost:
            self._is_lost = False
            logger.info("Pool %r: listens for notifications again", self.name)

    def _failed(self, error: Exception, opened_at: float | None) -> None:
        """Tell those who wait to join, and decide when to try again."""
        said = self._said(error)
        for inbox in list(self._joining):
            failure = error
            if not isinstance(error, Phase4Error):
                failure = ListenError(f"pool {self.name!r}: the connection for LISTEN was lost: {said}")
                failure.__cause__ = error
            self._turn_away(inbox, failure)
        if opened_at is not None:
            if self._runner is not None:
                self._runner.pool.counters.listen_losses += 1
            lived = self.loop.time() - opened_at
            self._pause = 0.0 if lived >= SHORT_LIFE else random.uniform(RETRY_BASE, 2 * RETRY_BASE)
        elif isinstance(error, PoolConnectError) and error.login_refused:
            self._pause = random.uniform(LOGIN_RETRY_BASE, 2 * LOGIN_RETRY_BASE)
        else:
            self._failures += 1
            self._pause = full_jitter(self._failures, RETRY_BASE, RETRY_CAP)
        if self._inboxes and not self._is_lost:
            self._is_lost = True
            logger.warning(
                "Pool %r: the connection for LISTEN was lost: %s; it is opened again, and listeners are told "
                "that messages may be missing", self.name, one_line(said),
            )  # fmt: skip

    def _turn_away(self, inbox: Inbox, error: Exception) -> None:
        future = self._joining.get(inbox)
        self.leave(inbox)
        if future is not None and not future.done():
            future.set_exception(error)
            future.exception()  # its caller may have been cancelled just now

    def _said(self, error: Exception) -> str:
        if isinstance(error, Phase4Error) or self._runner is None:
            return one_line(str(error))
        if isinstance(error, TimeoutError):
            return f"no answer within {self._runner.spec.options.validation_timeout:g} s"
        return self._runner.masked(error)

    async def _close(self) -> None:
        raw, self._raw = self._raw, None
        if raw is None or self._runner is None:
            return
        driver = self._runner.driver
        try:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await driver.close(raw)
        finally:
            driver.terminate(raw)
