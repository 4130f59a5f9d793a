"""One budget for all instances of a bot, in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any

from bot.core._shared.clock import Clock, TimerHandle
from bot.core._shared.errors import BackendError
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import BackgroundTasks
from bot.core.outbound.lanes import Entry
from bot.core.outbound.models import Chat, is_method
from bot.core.outbound.rates import Rates
from bot.core.outbound.reservations import (
    LEASE,
    RELEASED,
    Answers,
    Own,
    Reservation,
    Scope,
    Verdict,
    decode,
    greeting,
    hold,
    release,
    tag_of,
)
from bot.core.redis_link import RedisLink, RedisUnavailableError, Subscription

logger = logging.getLogger(__name__)

RENEWED_EACH = LEASE / 3.0
"""Seconds after which Redis is told again of what is still in flight."""


def script_source() -> str:
    """admission.lua."""
    return (files(__package__) / "admission.lua").read_text(encoding="ascii")


class SharedBudget:
    """Asks Redis for a place for each request that the scheduler lets go.

    What is asked in one tick travels in one call of a script, and so does what is told.

    **Redis away.** :meth:`ask` then says at once that the request may leave, so that each instance keeps its
    own windows; the status is ``degraded``. What left meanwhile, what is in flight and what is held is told
    to Redis when it is back, and when it has lost its memory.

    **Killed.** What an instance had reserved counts for LEASE seconds and a window more at most.
    """

    def __init__(
        self,
        url: str,
        bot_id: int | str,
        clock: Clock,
        *,
        answered: Callable[[Entry, Verdict], None],
        holds: Callable[[], Iterable[tuple[Chat, float, float]]],
        released: Callable[[Chat], None],
    ) -> None:
        """``answered(entry, verdict)`` is called for each request that :meth:`ask` did not let go itself.

        ``holds()`` gives chats (None: all), for how many seconds they are held, and their share of rate;
        ``released(chat)`` is called when another instance has ended a hold.
        """
        self.url = url
        self._bot = tag_of(bot_id)
        self._link = RedisLink.shared(url)
        self.tag = self._link.root_bytes + tag_of(bot_id)
        """What every key of the budget begins with."""
        self._script = self._link.batched_script(script_source(), self._decode)
        self._clock = clock
        self._now = clock.monotonic
        self._answered = answered
        self._holds = holds
        self._released = released
        self._releases = 0
        """Heard of. What Redis refused that was asked before the last one may be held no more."""
        self._subscription: Subscription | None = None
        self._own = Own()
        # Requests whose answer is awaited. Changed by ask, _ended and abandon.
        self._asked: dict[Entry, asyncio.Future[Verdict]] = {}
        self._prefix, self._number = os.urandom(8), 0
        self._epoch = 0.0
        """Of Redis's memory, as last heard; 0.0: never."""
        self._timer: TimerHandle | None = None
        self._tasks = BackgroundTasks()
        self._probing: asyncio.Task[Any] | None = None
        self._stopped = False
        self._undo = (self._link.on_recovery(self._tell_all), self._link.on_move(self._moved))
        self.refusing = False
        """Whether Redis answered the last call with an error."""
        self.admissions = self.denials = self.alone = 0
        self._batches_before = 0

    def serves(self, url: str, bot_id: int | str) -> bool:
        """Whether this is the budget of that bot in that Redis."""
        return (self.url, self._bot) == (url, tag_of(bot_id))

    @property
    def degraded(self) -> bool:
        """Whether this instance keeps its own windows alone, for now."""
        return self.refusing or not self._link.complete

    @property
    def batches(self) -> int:
        """Calls of the script."""
        return self._script.batches - self._batches_before

    def warnings(self, without: str) -> list[str]:
        """What is amiss with Redis; ``without``: what is done while it is away."""
        return self._link.warnings(without)

    def listen(self) -> None:
        """Hear from now on of holds that other instances end."""
        self._subscription = self._link.listen(
            self._link.root + RELEASED, self._heard_of_release, lambda stands: None
        )

    async def connect(self) -> None:
        """Get to know Redis before the first request is in a hurry; without it this begins ``degraded``."""
        if self._reachable():
            try:
                await self._script.call(*greeting(self.tag))
            except BackendError as error:
                self._failed(error)

    # Requests.

    def ask(self, entry: Entry, rates: Rates, debt: float) -> bool:
        """Whether the request may leave now, unasked; else ``answered`` will be called, once."""
        now = self._now()
        self._number += 1
        number = self._prefix + self._number.to_bytes(8, "little")
        reservation = entry.reservation = Reservation(self.tag, number, entry, rates, now)
        if not self._reachable():
            self.alone += 1
            self._own.left(reservation)
            return True
        future = self._script.call(reservation.key, reservation.admit(rates, debt, self._epoch))
        self._asked[entry] = future
        self._own.left(reservation)
        self._arm()
        releases = self._releases
        future.add_done_callback(lambda answer: self._ended(entry, reservation, answer, releases))
        return False

    def _ended(
        self, entry: Entry, reservation: Reservation, answer: asyncio.Future[Verdict], releases: int
    ) -> None:
        if self._asked.get(entry) is not answer:
            return  # its event loop has ended
        del self._asked[entry]
        if answer.cancelled():
            verdict = None
        elif isinstance(error := answer.exception(), BackendError):
            self._failed(error)
            verdict = None
        else:
            verdict = answer.result()
            self.refusing = False
            if verdict.scope in (Scope.CHAT_HELD, Scope.ALL_HELD) and releases != self._releases:
                verdict = Verdict(Scope.FORGOTTEN, 0.0)  # the hold may be over: ask once more
        if verdict is None:
            # Redis may have reserved it all the same: the number is told again when it is back.
            self.alone += 1
            verdict = Verdict(Scope.CLEAR, 0.0)
        elif verdict.scope is Scope.CLEAR:
            self.admissions += 1
        else:
            self.denials += 1
            self._own.given_back(reservation)
            entry.reservation = None
        self._answered(entry, verdict)

    def left(self, entry: Entry) -> None:
        """It leaves this moment."""
        reservation = entry.reservation
        if reservation is not None and reservation.counts_in_gate:
            self._send(reservation.key, reservation.left())

    def ended(self, entry: Entry) -> None:
        """Its answer came, or nobody waits for it any more: it counts."""
        reservation = entry.reservation
        entry.reservation = None
        if reservation is None:
            return
        if self._own.answered(reservation, self._now()) or reservation.counts_in_bucket:
            self._send(reservation.key, reservation.stamp(0.0))

    def given_back(self, entry: Entry) -> None:
        """It has not left after all, or was refused: it does not count."""
        reservation = entry.reservation
        entry.reservation = None
        if reservation is not None:
            self._own.given_back(reservation)
            self._send(reservation.key, reservation.refund())

    def refused(self, entry: Entry, seconds: float) -> None:
        """Telegram refused it: its chat is held in all instances, or all chats are."""
        self.given_back(entry)
        one_of_many = entry.chat is not None and not is_method(entry.chat)
        key, call = hold(self.tag, entry.chat, seconds, refused=one_of_many)
        self._send(key, call)

    def hold(self, chat: Chat, seconds: float) -> None:
        """A hold that was learnt of elsewhere."""
        self._send(*hold(self.tag, chat, seconds, refused=False))

    async def release(self, chat: Chat) -> bool:
        """End a hold in Redis, and have the other instances told; False if Redis knew of none.

        Raises as ``RedisLink.run`` if that cannot be said to have happened.
        """
        verdict: Verdict = await self._script.call(*release(self.tag, chat))
        self._releases += 1
        return verdict.scope is not Scope.CLEAR

    def _heard_of_release(self, message: bytes) -> None:
        self._releases += 1
        for chat in [None, *[chat for chat, _, _ in self._holds() if chat is not None]]:
            if release(self.tag, chat)[0] == message:
                self._released(chat)
                return

    # Redis.

    def _decode(self, answer: Any, calls: int) -> list[Verdict]:
        answers: Answers = decode(answer, calls)
        known, self._epoch = self._epoch, answers.epoch
        if known not in (0.0, answers.epoch):
            # Before the callbacks of these answers, so before anything is asked anew.
            asyncio.get_running_loop().call_soon(self._tell_all)
        return answers.verdicts

    def _send(self, key: bytes, call: bytes) -> None:
        if self._reachable():
            self._script.send(key, call)

    def _tell_all(self) -> None:
        """Tell Redis what it may not know: own reservations, and holds."""
        if self._stopped or not self._link.available:
            return
        with contextlib.suppress(RuntimeError):  # called by code that runs in no event loop
            self._link.here()
            undecided = {entry.reservation for entry in self._asked}
            for reservation, age in self._own.all(self._now()):
                if reservation not in undecided:
                    self._script.send(reservation.key, reservation.stamp(age))
            for chat, seconds, share in self._holds():
                self._script.send(*hold(self.tag, chat, seconds, refused=False, share=share))
            self._arm()

    def _reachable(self) -> bool:
        if self._stopped:
            return False
        try:
            self._link.here()
        except RuntimeError:
            return False  # called by code that runs in no event loop
        if self._link.available:
            return True
        if self._link.probe_due and (self._probing is None or self._probing.done()):
            self._probing = self._tasks.spawn(self._link.probe(), name="outbound-probe")
        return False

    def _failed(self, error: BackendError) -> None:
        if isinstance(error, RedisUnavailableError):
            return  # said by the link, once
        if not self.refusing:
            logger.warning(
                "Redis refused a command for outbound's shared budget; this process uses its own budget: %s",
                one_line(error),
            )
        self.refusing = True

    def _arm(self) -> None:
        if self._timer is None and self._own.in_flight:
            loop = asyncio.get_running_loop()
            self._timer = self._clock.call_later(RENEWED_EACH, self._renew, loop)

    def _renew(self) -> None:
        self._timer = None
        if self._stopped:
            return
        until = self._now() - RENEWED_EACH / 2.0
        for reservation in self._own.in_flight.values():
            if reservation.reserved_at < until:
                self._send(reservation.key, reservation.stamp(-1.0))
        self._arm()

    # Event loops.

    def _moved(self) -> None:
        self._tasks.abandon()
        self._tasks, self._probing = BackgroundTasks(), None

    def abandon(self) -> None:
        """The event loop of all callers has ended, or this is a child process: nothing is in flight."""
        self._asked.clear()
        self._cancel_timer()
        # A child must not use its parent's numbers.
        self._prefix, self._number = os.urandom(8), 0
        now = self._now()
        for reservation in list(self._own.in_flight.values()):
            self._own.answered(reservation, now)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                timer.cancel()

    async def stop(self) -> None:
        """Tell Redis the rest, end every task and give the connection back."""
        for undo in self._undo:
            undo()
        try:
            if self._link.owner.loop is asyncio.get_running_loop():
                await self._script.drain()
                await asyncio.sleep(0)  # answers are heard of a turn of the loop later
        finally:
            self._stopped = True
            self._cancel_timer()
            if self._subscription is not None:
                await self._subscription.stop()
            await self._tasks.stop()
            await self._script.stop()
            await self._link.release()

    def asked(self) -> list[Entry]:
        """Requests whose answer is awaited."""
        return list(self._asked)

    def reset_statistics(self) -> None:
        """Counters to zero."""
        self.admissions = self.denials = self.alone = 0
        self._batches_before = self._script.batches

    def check_invariants(self) -> None:
        """For tests."""
        assert len(self._own.in_flight) <= 1_000_000
        assert all(entry.reservation is not None for entry in self._asked)
