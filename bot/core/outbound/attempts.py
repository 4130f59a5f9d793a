"""Sending one request until it is done: attempts, refusals, and all the callers that share it."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bot.core._shared.clock import Clock
from bot.core._shared.masking import one_line
from bot.core.outbound.dispatcher import GRANTED, Dispatcher, Outcome, State, give
from bot.core.outbound.edits import Edits
from bot.core.outbound.lanes import Claim, Entry
from bot.core.outbound.models import Chat
from bot.core.outbound.refusals import Refusal, refusal_of
from bot.core.outbound.shown import Message
from bot.core.outbound.stats import Counters

logger = logging.getLogger(__name__)

T = TypeVar("T")

JITTER_LEAST, JITTER_SHARE, JITTER_MOST = 0.1, 0.05, 2.0
"""A refused chat is held for the whole wait and at least 0.1 s more, at random up to a twentieth of it."""

LOGGED_EACH = 60.0
"""Seconds in which at most one refusal is logged as a warning; the others as debug."""


class Attempts:
    """Sends what has been granted, and tells everybody concerned how it ended."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        edits: Edits,
        counters: Counters,
        clock: Clock,
        random_source: random.Random,
    ) -> None:
        self._dispatcher = dispatcher
        self._scheduler = dispatcher.scheduler
        self._edits = edits
        self._counters = counters
        self._now = clock.monotonic
        self._random = random_source
        self._warned_at = float("-inf")

    async def send(self, send: Callable[[], Awaitable[T]], claim: Claim) -> T:
        """Send for all callers that share the claim's entry, again after each refusal: the result."""
        dispatcher = self._dispatcher
        while True:
            entry = claim.entry
            assert entry is not None
            generation = dispatcher.generation
            if dispatcher.shared is not None:
                dispatcher.shared.left(entry)
            edited = None if entry.message is None else self._edits.left(entry)
            error: Exception
            try:
                result = await send()
            except Exception as raised:
                error = raised
            except BaseException:
                if edited is not None:
                    self._edits.failed(edited, self._now())
                if generation == dispatcher.generation:
                    self._cancelled(entry, claim)
                raise
            else:
                if generation == dispatcher.generation:
                    self._sent(entry, claim, edited, result)
                return result
            refusal = refusal_of(error, entry.cost)
            if edited is not None:
                if refusal is not None and refusal.repeatable:
                    self._edits.refused(edited)
                else:
                    self._edits.failed(edited, self._now())
            if generation != dispatcher.generation:
                raise error
            if refusal is None:
                self._failed(entry, claim, error)
                raise error
            if not self._refused(entry, claim, refusal, error):
                raise error
            outcome = await dispatcher.wait(claim, error)
            if outcome is not GRANTED:
                return outcome.result()  # type: ignore[no-any-return]

    def _sent(self, entry: Entry, claim: Claim, edited: Message | None, result: object) -> None:
        dispatcher = self._dispatcher
        self._counters.sent_by[entry.priority] += 1
        if dispatcher.shared is not None:
            dispatcher.shared.ended(entry)
        content = claim.content
        over = self._scheduler.finished(entry, self._now())
        if len(over) > 1:
            self._counters.superseded += len(over) - 1
            give(_others(over, claim), Outcome(result))
        if edited is not None and entry.message is not None:
            now = self._now()
            needless = self._edits.succeeded(entry.message, edited, content, result, now)
            if needless:
                self.leave_out(needless, result, now)
        dispatcher.poll()

    def _cancelled(self, entry: Entry, claim: Claim) -> None:
        """Nobody knows whether it was sent. Callers that share it send for themselves."""
        dispatcher, scheduler = self._dispatcher, self._scheduler
        self._counters.cancelled += 1
        scheduler.withdraw(claim, self._now())
        if dispatcher.shared is not None:
            dispatcher.shared.ended(entry)
        scheduler.finished(entry, self._now(), again=True)
        dispatcher.poll()

    def _failed(self, entry: Entry, claim: Claim, error: Exception) -> None:
        dispatcher = self._dispatcher
        self._counters.failed += 1
        if dispatcher.shared is not None:
            dispatcher.shared.ended(entry)
        over = self._scheduler.finished(entry, self._now())
        give(_others(over, claim), Outcome(None, error))
        dispatcher.poll()

    def _refused(self, entry: Entry, claim: Claim, refusal: Refusal, error: Exception) -> bool:
        """Telegram did not do it; whether it waits for another try."""
        dispatcher, counters, now = self._dispatcher, self._counters, self._now()
        seconds = refusal.seconds
        jitter = self._random.uniform(
            JITTER_LEAST, max(JITTER_LEAST, min(JITTER_MOST, JITTER_SHARE * seconds))
        )
        if dispatcher.shared is not None:
            dispatcher.shared.refused(entry, seconds + jitter)
        repeat = refusal.repeatable and dispatcher.state is not State.OFF
        for_all, again, over = self._scheduler.refused(entry, seconds, jitter, now, repeat=repeat)
        counters.refused_by[entry.priority] += 1
        if for_all:
            counters.refusals_global += 1
        else:
            counters.refusals_chat += 1
        self._log(claim.chat, seconds, for_all, error, now)
        if again:
            counters.retries += 1
            return True
        counters.failed += 1
        give(_others(over, claim), Outcome(None, error))
        dispatcher.poll()
        return False

    def leave_out(self, needless: list[Entry], result: object, now: float) -> None:
        """End edits that wait with the result of the one that made the message what they would."""
        over = self._edits.end(needless, now)
        self._counters.unchanged += len(over)
        give(over, Outcome(result))

    def _log(self, chat: Chat, seconds: float, for_all: bool, error: Exception, now: float) -> None:
        level = logging.DEBUG
        if now - self._warned_at >= LOGGED_EACH:
            self._warned_at = now
            level = logging.WARNING
        whom = "all chats are" if for_all else f"chat {chat} is"
        logger.log(
            level,
            "Telegram refused a request for %.1f s: %s held (%s)",
            seconds,
            one_line(whom),
            one_line(error),
        )


def _others(over: list[Claim], claim: Claim) -> list[Claim]:
    """All but the one that was sent, whose caller knows."""
    return [other for other in over if other is not claim]
