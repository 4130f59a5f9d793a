"""Lets requests leave when the scheduler and the budget that instances share say so."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

from bot.core._shared.clock import Clock, TimerHandle
from bot.core._shared.errors import MisuseError
from bot.core._shared.loop_owner import LoopOwner, still_runs
from bot.core._shared.tasks import run_on_loop
from bot.core.outbound.backlog import Reason
from bot.core.outbound.errors import (
    MessageDeletedError,
    OutboundClosedError,
    OutboundDeadlineError,
    OutboundFullError,
    OutboundHeldError,
)
from bot.core.outbound.lanes import Claim, Entry
from bot.core.outbound.models import Chat, Limits
from bot.core.outbound.reservations import Scope, Verdict
from bot.core.outbound.scheduler import Scheduler
from bot.core.outbound.stats import Counters

if TYPE_CHECKING:
    from bot.core.outbound.shared import SharedBudget

logger = logging.getLogger(__name__)

SHORTEST_TIMER = 0.0005
SHORTEST_DEFERRAL = 0.02
"""Seconds after which Redis is asked again at the earliest for what it had no room for."""

GRANTED = object()
"""What a claim's future gives when its caller is to send."""


class State(Enum):
    """How far outbound is between on and off."""

    OFF = "off"
    ON = "on"
    DRAINING = "draining"
    """What waits is sent; a request that would have to wait is turned away."""


class Outcome:
    """How a request ended that several callers shared."""

    __slots__ = ("_error", "_result")

    def __init__(self, result: Any, error: Exception | None = None) -> None:
        self._result = result
        self._error = error

    def result(self) -> Any:
        """The result, or raise the error."""
        if self._error is not None:
            raise self._error
        return self._result


class Dispatcher:
    """The callers that wait, the timer, and the event loop that both belong to.

    A caller that is cancelled while it waits gives its place back, and its slot if it had just got one.
    Whatever changes what the scheduler knows is followed by :meth:`poll`, which wakes the callers whose turn
    it is.
    """

    def __init__(
        self, limits: Limits, clock: Clock, counters: Counters, *, abandoned: Callable[[], object]
    ) -> None:
        """``abandoned()`` is called when callers and requests in flight are forgotten with their loop."""
        self.scheduler = Scheduler(limits)
        self.shared: SharedBudget | None = None
        """The budget that all instances of the bot share, if so. Changed by the service."""
        self.state = State.OFF
        """Changed by the service, and while :meth:`drain` runs."""
        self._clock = clock
        self._now = clock.monotonic
        self._counters = counters
        self._abandoned = abandoned
        self.owner = LoopOwner(self._forked)
        self.generation = 0
        """Grows when what is in flight is forgotten with its loop, so that its end is not counted later."""
        self._timer: TimerHandle | None = None
        self._timer_at = float("inf")
        self._idle: asyncio.Event | None = None
        """Set once nothing waits and nothing is in flight; while a drain waits for it."""

    # Requests.

    def submit(self, entry: Entry, deadline: float | None, now: float) -> tuple[Claim, bool]:
        """A caller wants to send: (its claim, whether it may at once, without :meth:`wait`)."""
        claim, granted = self.scheduler.submit(entry, now, deadline)
        if granted and self.shared is not None:
            granted = self._may_leave(entry, now)
        if granted or self.state is State.ON:
            return claim, granted
        if claim.entry is not None and (entry.reservation is None or self.state is State.OFF):
            self.scheduler.withdraw(claim, now)
            raise OutboundClosedError("outbound is being switched off; the request was not sent")
        return claim, False

    async def wait(self, claim: Claim, cause: Exception | None = None) -> Any:
        """Wait until the claim is granted (GRANTED), or another of its entry was sent (its Outcome).

        Raises why it is not sent, from ``cause``.
        """
        future = claim.future = asyncio.get_running_loop().create_future()
        began = self._now()
        generation = self.generation
        self.poll()
        try:
            outcome = await future
        except asyncio.CancelledError:
            if generation == self.generation:
                self._give_up(claim, future)
            raise
        except Exception as error:
            if cause is not None:
                raise error from cause
            raise
        finally:
            claim.future = None
            waited = self._now() - began
            if waited > 0.0:
                self._counters.waited += 1
                self._counters.waits.record(waited)
        return outcome

    def _give_up(self, claim: Claim, future: asyncio.Future[Any]) -> None:
        """Its caller was cancelled while it waited, perhaps after it had been woken."""
        self._counters.cancelled += 1
        if future.done() and not future.cancelled() and future.exception() is None:
            if future.result() is GRANTED and claim.entry is not None:
                self._pass_on(claim.entry, claim)
        else:
            self.scheduler.withdraw(claim, self._now())
        self.poll()

    def _pass_on(self, entry: Entry, claim: Claim) -> None:
        """A claim that was granted is not wanted any more."""
        if self.shared is not None:
            self.shared.given_back(entry)
        self.scheduler.withdraw(claim, self._now())
        self.scheduler.given_back(entry, self._now())

    # What the scheduler decides.

    def poll(self) -> None:
        """Let leave what may, and see to it that the next is not late."""
        scheduler = self.scheduler
        if scheduler.is_quiet:
            if self._idle is not None and not scheduler.slots.taken:
                self._idle.set()
            if self._timer is None and scheduler.chats:
                self._arm()
            return
        while True:
            now = self._now()
            granted, failed = scheduler.poll(now)
            lost = False
            for entry in granted:
                if self.shared is None or self._may_leave(entry, now):
                    lost = not self._grant(entry) or lost
            for claim, reason in failed:
                self._counters.ended(reason)
                _raise(claim, self._error_of(claim, reason, now))
            if not lost:
                break
        if self._idle is not None and not scheduler.pending and not scheduler.slots.taken:
            self._idle.set()
        self._arm()

    def _grant(self, entry: Entry) -> bool:
        """Wake the last caller that shares it; False if that one was cancelled and has not run since."""
        claim = entry.claims[-1]
        if claim.future is None or claim.future.done():
            self._pass_on(entry, claim)
            return False
        claim.future.set_result(GRANTED)
        return True

    def _error_of(self, claim: Claim, reason: Reason, now: float) -> Exception:
        scheduler = self.scheduler
        chat = claim.chat
        if reason is Reason.DEADLINE:
            return OutboundDeadlineError(claim.deadline or 0.0)
        if reason is Reason.FULL:
            return OutboundFullError(scheduler.backlog.most)
        if reason is Reason.DELETED:
            return MessageDeletedError(chat, claim.message[1] if claim.message else None)
        state = scheduler.chats.get(chat)
        until = scheduler.penalty.until
        if state is not None and state.held_until > until:
            return OutboundHeldError(chat, state.held_until - now, scheduler.max_wait)
        return OutboundHeldError(None, until - now, scheduler.max_wait)

    def _arm(self) -> None:
        if self.state is State.OFF:
            return
        now = self._now()
        at = self.scheduler.wake_at(now)
        if self._timer is not None:
            if self._timer_at <= at:
                return  # it wakes in time, and looks again then
            self.cancel_timer()
        loop = self.owner.loop
        if at == float("inf") or loop is None or loop.is_closed():
            return
        self._timer_at = at
        self._timer = self._clock.call_later(max(SHORTEST_TIMER, at - now), self._wake, loop)

    def _wake(self) -> None:
        self._timer = None
        if not self.scheduler.pending:
            self.scheduler.chats.forget_idle(self.scheduler.rates, self._now())
        self.poll()

    def cancel_timer(self) -> None:
        """Nothing wakes by itself."""
        timer, self._timer = self._timer, None
        if timer is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                timer.cancel()

    @property
    def has_timer(self) -> bool:
        """Whether it wakes by itself some time."""
        return self._timer is not None

    # The budget that instances share.

    def _may_leave(self, entry: Entry, now: float) -> bool:
        """Whether it may leave without asking; else :meth:`told` will hear whether it may."""
        shared, scheduler = self.shared, self.scheduler
        return shared is None or shared.ask(entry, scheduler.rates, scheduler.debt_before(entry, now))

    def told(self, entry: Entry, verdict: Verdict) -> None:
        """All instances together have room for what the scheduler let go, or not."""
        scheduler, now = self.scheduler, self._now()
        scope, wait = verdict
        if scope is Scope.CLEAR:
            if entry.claims:
                self._grant(entry)
            else:  # all of its callers gave up meanwhile
                if self.shared is not None:
                    self.shared.given_back(entry)
                scheduler.given_back(entry, now)
        elif scope is Scope.CHAT_FULL:
            scheduler.deferred(entry, now, chat=max(wait, SHORTEST_DEFERRAL))
        elif scope is Scope.GATE_FULL:
            scheduler.deferred(entry, now, gate=max(wait, SHORTEST_DEFERRAL))
        else:
            scheduler.deferred(entry, now)
            if scope is not Scope.FORGOTTEN:
                # After it waits again, so that it fails if that is longer than anybody waits.
                scheduler.hold(None if scope is Scope.ALL_HELD else entry.chat, wait, now)
        self.poll()

    # Holds.

    def hold(self, chat: Chat, seconds: float) -> None:
        """Send nothing to this chat, or to anybody if it is None, for so long; in all instances."""
        self.scheduler.hold(chat, seconds, self._now())
        if self.shared is not None:
            self.shared.hold(chat, seconds)
        if self.owner.loop is not None and not self.owner.elsewhere:
            self.poll()

    async def release(self, chat: Chat) -> bool:
        """End a hold, in all instances; False if there was none."""
        known = self.shared is not None and await self.shared.release(chat)
        found = False

        async def end() -> None:
            nonlocal found
            found = self._end_hold(chat)

        loop = self.owner.loop
        if loop is None or not await run_on_loop(loop, end):
            await end()
        return found or known

    def heard_of_release(self, chat: Chat) -> None:
        """Another instance has ended a hold."""
        if self.owner.elsewhere and self.owner.loop is not None:
            with contextlib.suppress(RuntimeError):  # closed this moment
                self.owner.loop.call_soon_threadsafe(self._end_hold, chat)
        else:
            self._end_hold(chat)

    def _end_hold(self, chat: Chat) -> bool:
        found = self.scheduler.release(chat, self._now())
        if self.owner.loop is not None:
            self.poll()
        return found

    # The end.

    async def drain(self, timeout: float) -> None:
        """Let what waits leave within ``timeout`` seconds, turn away what then still waits, and be off.

        Meanwhile a request that would have to wait is turned away, too.
        """
        self.state = State.DRAINING
        try:
            await self._until_idle(timeout)
        finally:
            # In this step: what is refused from now on would wait for a timer that nobody sets.
            self.stop()
            waiting = self.scheduler.waiting()
            if self.shared is not None:
                waiting += [claim for entry in self.shared.asked() for claim in entry.claims]
            for claim in waiting:
                self.scheduler.withdraw(claim, self._now())
                _raise(claim, OutboundClosedError("outbound was switched off: not sent"))
            if waiting:
                logger.warning("Outbound: %d requests were not sent before the stop", len(waiting))

    async def _until_idle(self, timeout: float) -> None:
        if not self.scheduler.pending and not self.scheduler.slots.taken:
            return
        self._idle = asyncio.Event()
        deadline = asyncio.ensure_future(self._clock.sleep(timeout))
        idle = asyncio.ensure_future(self._idle.wait())
        try:
            await asyncio.wait((deadline, idle), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._idle = None
            deadline.cancel()
            idle.cancel()

    def stop(self) -> None:
        """It is off from now on."""
        self.state = State.OFF
        self.cancel_timer()

    # Event loops.

    def move(self) -> None:
        """Another event loop than before sends from now on."""
        if self.owner.elsewhere:
            raise MisuseError(
                "this Outbound is used by an event loop in another thread; create one Outbound for each loop"
            )
        if self.owner.loop is not None:
            self._abandon()
        self.owner.claim()

    def _forked(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._abandon()

    def abandon_ended_loop(self) -> None:
        """Forget callers of an event loop that runs no more."""
        if self.owner.loop is not None and not still_runs(self.owner.loop):
            self._abandon()

    def _abandon(self) -> None:
        self.generation += 1
        self.cancel_timer()
        self.scheduler.abandon(self._now())
        if self.shared is not None:
            self.shared.abandon()
        self._abandoned()
        self.owner.release()

    def check_invariants(self) -> None:
        self.scheduler.check_invariants()
        if self.shared is not None:
            self.shared.check_invariants()


def give(claims: list[Claim], outcome: Outcome) -> None:
    """Give the callers of claims that are over how it ended, if they wait for it."""
    for claim in claims:
        if claim.future is not None and not claim.future.done():
            claim.future.set_result(outcome)


def _raise(claim: Claim, error: Exception) -> None:
    if claim.future is not None and not claim.future.done():
        claim.future.set_exception(error)
