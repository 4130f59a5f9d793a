"""Items that wait for a time, or take the place of others, on their way to Redis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bot.core._shared.clock import Clock
from bot.core._shared.errors import BackendError
from bot.core.batch_processor.dispatcher import Dispatcher
from bot.core.batch_processor.durable.loops import Loops
from bot.core.batch_processor.durable.outbox import Outbox
from bot.core.batch_processor.durable.streams import REPLACED, Added
from bot.core.batch_processor.durable.timed_streams import TimedStreams
from bot.core.batch_processor.durable.values import AT_ONCE
from bot.core.batch_processor.errors import BatchClosedError
from bot.core.batch_processor.lifecycle import State
from bot.core.batch_processor.models import Submission
from bot.core.batch_processor.store import OFF
from bot.core.batch_processor.terms import Terms
from bot.core.redis_link import RedisUnavailableError

ROOM_POLL = 0.05
"""Seconds between tries of a submission that waits for room."""


class TimedOutbox:
    """Sends them at once, and answers as the outbox does."""

    def __init__(
        self, dispatcher: Dispatcher, outbox: Outbox, streams: TimedStreams, loops: Loops, clock: Clock
    ) -> None:
        self._d = dispatcher
        self._outbox = outbox
        self._streams = streams
        self._loops = loops
        self._clock = clock
        self.reset_counters()

    def reset_counters(self) -> None:
        """Count from now on."""
        self.replaced = 0

    async def submit(self, wanted: Sequence[Added], terms: Terms, all_or_none: bool) -> list[Submission]:
        """An answer for each; none is taken if not all have room, if ``all_or_none``."""
        absolute = terms.not_before is not None
        ms = math.ceil(1000 * (terms.delay if terms.not_before is None else terms.not_before))
        answers: list[Submission] = []
        size = max(1, len(wanted)) if all_or_none else AT_ONCE
        for start in range(0, len(wanted), size):
            some = wanted[start : start + size]
            try:
                codes = await self._streams.submit(
                    some, self._d.capacity.max_pending,
                    all_or_none=all_or_none, replace=terms.replace, absolute=absolute, ms=ms,
                )  # fmt: skip
            except BackendError as error:
                answers += [self._outbox.unavailable(error) for _ in some]
                continue
            self.replaced += codes.count(REPLACED)
            answers += [self._outbox.answer(one.item_id, code) for one, code in zip(some, codes, strict=True)]
        self._loops.wake_keeper()  # it may have to wake sooner than it would
        return answers

    async def submit_when_room(self, added: Added, terms: Terms) -> None:
        """Send one as soon as there is room. Raises RedisUnavailableError or BatchClosedError."""
        begun = self._clock.monotonic()
        while True:
            left = terms._replace(delay=max(0.0, terms.delay - (self._clock.monotonic() - begun)))
            [answer] = await self.submit([added], left, False)
            if answer.success:
                return
            if answer.refusal != "full":
                raise RedisUnavailableError(answer.reason)
            await self._clock.sleep(ROOM_POLL)
            if self._d.state is not State.ON:
                raise BatchClosedError(OFF)
