"""One run of a broadcast: recipients are claimed, written to, and what became of them is recorded.

What keeps it exact: a recipient is claimed in the store before it is written to, and a worker takes no other
recipient before the outcome is recorded. So after a kill -9 the store has all that are done but those that
were being written to, and those are written to again.

    feeder --claimed--> todo --> workers --Outbound.call--> Telegram
                          ^         |
                          +-later---+--outcomes--> recorder --> store
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from bot.core._shared.backoff import exponential, full_jitter
from bot.core._shared.clock import Clock
from bot.core._shared.errors import invalid
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import to_the_end
from bot.core.outbound.broadcast.errors import (
    BroadcastLostError,
    BroadcastStoppedError,
    BroadcastStoreError,
)
from bot.core.outbound.broadcast.models import BroadcastProgress
from bot.core.outbound.broadcast.options import BroadcastOptions
from bot.core.outbound.broadcast.outcomes import Advice, Outcome, verdict_of
from bot.core.outbound.broadcast.progress import INTERVAL, OnProgress, Rate, Troubles, tell
from bot.core.outbound.broadcast.recipients import BATCH, batches, chat_of, number_of
from bot.core.outbound.broadcast.recorder import Recorder
from bot.core.outbound.broadcast.store import REASON_LENGTH, ChatId, Ended, Store
from bot.core.outbound.context import current
from bot.core.outbound.errors import OutboundClosedError, OutboundFullError, OutboundHeldError
from bot.core.outbound.models import Priority
from bot.core.outbound.refusals import refusal_of

GRACE = 3.0
"""Seconds that a stop gives what is being sent at that moment."""

STORE_GRACE = 5.0
"""Seconds that a stop gives the store, which may be away."""

ATTEMPTS = 3
"""Tries of one recipient after errors that are its own."""

RETRY_FIRST, RETRY_LONGEST = 1.0, 60.0
MAX_WAITING = 2_000
"""Recipients that are claimed and not done, at most a batch more: memory is bounded, however many wait."""

BEATS = 5
"""Signs of life in the time of a lease."""


class Plan(NamedTuple):
    """What a broadcast was asked to do."""

    name: str
    recipients: Iterable[Any] | AsyncIterable[Any]
    send: Callable[[ChatId], Awaitable[object]]
    options: BroadcastOptions


class Tried:
    """A recipient and what was tried."""

    __slots__ = ("answers", "attempts", "chat", "delays", "fresh")

    def __init__(self, chat: ChatId, *, fresh: bool) -> None:
        self.chat = chat
        self.fresh = fresh
        """Claimed by this run, and nothing begun: a stop can forget it."""
        self.attempts = 0
        self.delays = 0
        self.answers = -1


class Run:
    """A broadcast that runs, on one event loop. ``call(chat, send)`` sends in its turn."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        call: Callable[[ChatId, Callable[[], Awaitable[object]]], Awaitable[object]],
        clock: Clock,
        counted: Callable[[Outcome], None],
        counts: dict[Outcome, int],
    ) -> None:
        self._plan = plan
        self._options = plan.options
        self._store = store
        self._call = call
        self._clock = clock
        self._counted = counted
        self._troubles = Troubles(plan.name, clock.monotonic)
        self.recorder = Recorder(
            plan.name, store, clock, self._troubles, counts,
            stop_after_failures=plan.options.stop_after_failures, written=self._written,
        )  # fmt: skip
        self.invalid = 0
        self._duplicates = 0
        self._loop = asyncio.get_running_loop()
        # Claimed and not done. Changed by the feeder (adds) and _written (removes).
        self._active: set[ChatId] = set()
        self._todo: asyncio.Queue[Tried] = asyncio.Queue()
        self._later: dict[Tried, Any] = {}
        self._sending: set[asyncio.Task[Any]] = set()
        self._workers: list[asyncio.Task[Any]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._room = asyncio.Event()
        self._fed = False
        self._stopping = False
        self._finished = self._loop.create_future()
        self._answers = 0
        self._rate = Rate()

    # From outside.

    async def run(self) -> None:
        """Until every recipient is done; whatever ends it before, what is done is recorded."""
        helpers = [
            self._start(self._feed(), "feeder"),
            self._start(self.recorder.run(), "recorder"),
            self._start(self._beat(), "lease"),
        ]
        if self._options.on_progress is not None:
            helpers.append(self._start(self._tell(self._options.on_progress), "progress"))
        self._workers = [self._start(self._work(), "worker") for _ in range(self._options.at_a_time)]
        try:
            await self._finished
        except GeneratorExit:
            raise  # the event loop was closed under it: nothing can be awaited any more
        except BaseException:
            await to_the_end(self._wind_down(helpers))
            raise
        await to_the_end(self._wind_down(helpers))

    def stop(self, error: BaseException) -> None:
        """End the run with this error; on its own event loop."""
        if not self._finished.done():
            self._finished.set_exception(error)

    def owns(self, task: asyncio.Task[Any]) -> bool:
        """Whether the task is one of the run's own, which must not wait for its end."""
        return task in self._tasks

    def _start(self, work: Any, name: str) -> asyncio.Task[Any]:
        task = self._loop.create_task(work, name=f"outbound-broadcast-{name}")
        task.add_done_callback(self._ended)
        self._tasks.add(task)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.stop(error)

    # Recipients in.

    async def _feed(self) -> None:
        for chat in await self.recorder.stored(self._store.unfinished):
            self._active.add(chat)
            self._todo.put_nowait(Tried(chat, fresh=False))
        async with contextlib.aclosing(batches(self._plan.recipients)) as reading:  # type: ignore[type-var]
            async for batch in reading:
                while len(self._active) >= MAX_WAITING or self._todo.qsize() >= max(
                    BATCH, self._options.at_a_time
                ):
                    self._room.clear()
                    await self._room.wait()
                await self._claim(batch)
        self._fed = True
        self._look_for_the_end()

    async def _claim(self, batch: list[Any]) -> None:
        chats: dict[ChatId, None] = {}
        for recipient in batch:
            chat = chat_of(recipient)
            if chat is None:
                self._leave_out(recipient)
            elif chat in chats or chat in self._active:
                self._duplicates += 1
            else:
                chats[chat] = None
        if not chats:
            if self.invalid and not self._active and not sum(self.recorder.counts.values()):
                raise invalid("recipients", batch[0], "chats: ids (int) and @names (str)")
            return
        claimed = await self.recorder.stored(lambda: self._store.claim(list(chats)))
        for chat in claimed:
            if chat not in self._active:
                self._active.add(chat)
                self._todo.put_nowait(Tried(chat, fresh=True))

    def _leave_out(self, recipient: object) -> None:
        self.invalid += 1
        self._troubles.say(
            "invalid", "recipients that are no chats are left out, such as %s", one_line(repr(recipient))
        )

    # Out to Telegram.

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        # For the life of this task. The caller's own deadline is that of one answer, not of each recipient.
        current.set((Priority.BROADCAST, None))
        while not self._stopping and not self._finished.done():
            tried = await self._todo.get()
            self._room.set()
            try:
                ended = await self._try(tried, task)
            except asyncio.CancelledError:
                self._todo.put_nowait(tried)  # for the stop, which forgets it if nothing was begun
                raise
            if ended is not None:
                await self.recorder.record(ended)
                self._look_for_the_end()

    async def _try(self, tried: Tried, task: asyncio.Task[Any]) -> Ended | None:
        """Write to one recipient: how it ended, or None if it is to be tried again later."""
        chat = tried.chat

        async def send() -> None:
            tried.fresh = False
            self._sending.add(task)
            try:
                sent: object = self._plan.send(chat)
                if not inspect.isawaitable(sent):
                    error = invalid(
                        "send", self._plan.send, "a coroutine function: what it gave is no awaitable"
                    )
                    self.stop(error)
                    raise error
                await sent
            finally:
                if not self._stopping:
                    self._sending.discard(task)

        try:
            await self._call(chat, send)
        except asyncio.CancelledError as error:
            if task.cancelling():
                raise
            return self._judge(tried, error)  # something that the send waited for was cancelled, not this
        except Exception as error:
            return self._judge(tried, error)
        self._answers += 1
        return Ended(chat, Outcome.SENT)

    def _judge(self, tried: Tried, error: BaseException) -> Ended | None:
        if self._is_no_attempt(tried, error):
            return None
        refusal = refusal_of(error)
        if refusal is not None:
            return self._refused(tried, error, refusal.seconds, repeatable=refusal.repeatable)
        if isinstance(error, OutboundHeldError):
            return self._refused(tried, error, error.retry_after, repeatable=True)
        advice, outcome = verdict_of(error)
        if advice is Advice.STOP:
            stopped = BroadcastStoppedError(self._plan.name, f"nobody can be written to ({one_line(error)})")
            stopped.__cause__ = error
            self.stop(stopped)
            self._again(tried, RETRY_FIRST)
            return None
        if advice is Advice.OVER:
            self._answers += 1
            return self._ended_by(tried, outcome, error)
        if advice is Advice.NETWORK:
            self._troubles.say(
                "network", "Telegram cannot be reached; the broadcast tries again (%s)", one_line(error)
            )
            # While nobody gets an answer it is not this recipient's fault, however often.
            if tried.answers != self._answers:
                tried.attempts += 1
            tried.answers = self._answers
        else:
            tried.attempts += 1
        if tried.attempts < ATTEMPTS:
            tried.delays += 1
            longest = exponential(tried.delays, RETRY_FIRST, RETRY_LONGEST)
            self._again(tried, longest / 2 + full_jitter(tried.delays, RETRY_FIRST, RETRY_LONGEST) / 2)
            return None
        return self._ended_by(tried, Outcome.FAILED, error)

    def _is_no_attempt(self, tried: Tried, error: BaseException) -> bool:
        """Whether nobody could have been written to at that moment; it is tried again then."""
        seconds = RETRY_FIRST
        if isinstance(error, OutboundClosedError):
            if not self._stopping:
                self.stop(error)
        elif isinstance(error, OutboundHeldError) and error.chat is None:
            self._troubles.say("held", "Telegram holds all chats; the broadcast waits (%s)", one_line(error))
            seconds = error.retry_after
        elif not isinstance(error, OutboundFullError):
            return False
        self._again(tried, seconds)
        return True

    def _refused(
        self, tried: Tried, error: BaseException, seconds: float, *, repeatable: bool
    ) -> Ended | None:
        """Telegram, or the hold that it imposed before, wants this recipient's message later."""
        tried.attempts += 1
        if repeatable and tried.attempts < ATTEMPTS:
            self._again(tried, seconds)
            return None
        return self._ended_by(tried, Outcome.FAILED, error)

    def _ended_by(self, tried: Tried, outcome: Outcome, error: BaseException) -> Ended:
        reason = one_line(error, REASON_LENGTH) if outcome is Outcome.FAILED else ""
        return Ended(tried.chat, outcome, reason)

    def _again(self, tried: Tried, seconds: float) -> None:
        def due() -> None:
            self._later.pop(tried, None)
            self._todo.put_nowait(tried)

        if not self._stopping:
            self._later[tried] = self._clock.call_later(seconds, due, self._loop)

    # What became of them.

    def _written(self, outcomes: list[Ended]) -> None:
        for ended in outcomes:
            self._counted(ended.outcome)
            self._active.discard(ended.chat)
        self._room.set()
        self._look_for_the_end()

    def _look_for_the_end(self) -> None:
        if not self._fed or self._finished.done():
            return
        if not self._active:
            self._finished.set_result(None)
        else:
            self.recorder.only_suspects_left(len(self._active))

    async def _beat(self) -> None:
        while True:
            await self._clock.sleep(self._options.lease / BEATS)
            await self.recorder.stored(self._store.beat)

    # What it says.

    def progress(self, *, running: bool = True) -> BroadcastProgress:
        """Where it stands."""
        counts = self.recorder.counts
        done = sum(counts.values())
        total = self._options.total
        if total is None:
            total = number_of(self._plan.recipients)
            if total is not None:
                total = max(total - self._duplicates - self.invalid, done + len(self._active))
        if not running and not self._active and self._fed:
            total = done
        rate = self._rate.now(self._clock.monotonic(), done)
        return BroadcastProgress(
            name=self._plan.name,
            done=done,
            total=total,
            sent=counts.get(Outcome.SENT, 0),
            blocked=counts.get(Outcome.BLOCKED, 0),
            deactivated=counts.get(Outcome.DEACTIVATED, 0),
            not_found=counts.get(Outcome.NOT_FOUND, 0),
            failed=counts.get(Outcome.FAILED, 0),
            rate=rate,
            eta=(total - done) / rate if total is not None and rate > 0 and total >= done else None,
            running=running,
        )

    async def _tell(self, on_progress: OnProgress) -> None:
        while True:
            await tell(on_progress, self.progress())
            await self._clock.sleep(INTERVAL)

    # The end.

    async def _wind_down(self, helpers: list[asyncio.Task[Any]]) -> None:
        """Let end what is being sent, record it, give back what was not begun."""
        self._stopping = True
        feeder, recorder, *others = helpers
        for handle in self._later.values():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                handle.cancel()
        sending = {task for task in self._sending if not task.done()}
        for task in (feeder, *others, *(worker for worker in self._workers if worker not in sending)):
            task.cancel()
        try:
            if sending:
                await asyncio.wait(sending, timeout=GRACE)
        finally:
            for task in (*self._workers, recorder):
                task.cancel()
        await asyncio.wait([*helpers, *self._workers])
        # A recorder that was cancelled within a write has left it, to be written again.
        with contextlib.suppress(BroadcastStoreError, BroadcastLostError, TimeoutError):
            async with asyncio.timeout(STORE_GRACE):
                await self.recorder.write()
                unbegun = [tried.chat for tried in self._unbegun() if tried.fresh]
                if unbegun:
                    await self._store.release(unbegun)
        if self._options.on_progress is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE):
                    await tell(self._options.on_progress, self.progress(running=False))

    def _unbegun(self) -> list[Tried]:
        left = list(self._later)
        while not self._todo.empty():
            left.append(self._todo.get_nowait())
        return left
