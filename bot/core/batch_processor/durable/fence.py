"""Ends the handling of items of lanes in time, when their leases cannot be renewed."""

from __future__ import annotations

import logging
from collections.abc import Collection

from bot.core._shared.clock import Clock
from bot.core.batch_processor.dispatcher import Dispatcher
from bot.core.batch_processor.durable.held import Held
from bot.core.batch_processor.durable.limits import Limits
from bot.core.batch_processor.durable.loops import Loops
from bot.core.batch_processor.lifecycle import State

logger = logging.getLogger(__name__)

SHARE = 0.8
"""Of a lease, after which it counts as over here: a handler needs time to end before another one begins."""


class Fence:
    """Cancels the handlers of items of lanes that another instance has taken over, or soon may.

    A task watches the leases while any item of a lane is held; without lanes there is none.
    """

    def __init__(
        self, dispatcher: Dispatcher, loops: Loops, limits: Limits, held: Held, clock: Clock
    ) -> None:
        self._d = dispatcher
        self._loops = loops
        self._limits = limits
        self._held = held
        self._clock = clock
        # Changed by watch and forget.
        self._watching = False

    def watch(self) -> None:
        """See to the leases of what is held now, and of what comes while that is."""
        if self._watching or not self._held.leased or self._loops.state not in (State.ON, State.DRAINING):
            return
        self._watching = True

        def again() -> None:
            self._watching = False
            self.watch()

        self._loops.spawn(self._watch(), "batch-fence", again)

    def forget(self) -> None:
        """The task has gone with its event loop, or is the parent's of this child."""
        self._watching = False

    async def _watch(self) -> None:
        leased = self._held.leased
        while leased and self._loops.state in (State.ON, State.DRAINING):
            time = self._limits.lease * SHARE
            left = min(leased.values()) + time - self._clock.monotonic()
            if left > 0.0:
                await self._clock.sleep(left)
                continue
            until = self._clock.monotonic() - time
            overdue = {entry for entry, since in leased.items() if since <= until}
            logger.warning(
                "The leases of %d item(s) of lanes could not be renewed for %.1f s: they are handled no more "
                "here, and another instance takes them over", len(overdue), time,
            )  # fmt: skip
            for entry in overdue:
                del leased[entry]
            self.lose(overdue)
        self._watching = False

    def lose(self, entries: Collection[bytes]) -> None:
        """Let go of the items of lanes that were read from these entries.

        A handler that has one is cancelled, and its batch is handled again without it.
        """
        backlog, held = self._d.backlog, self._held
        for item in [one for one in backlog.waiting if one.lane is not None and one.entry in entries]:
            backlog.waiting.remove(item)
            backlog.forget(1)
            held.drop(item.entry)
        for item in backlog.discard({entry for entry in entries if held.is_in_lane(entry)}):
            held.drop(item.entry)
        for batch in backlog.unended():
            lost = [item for item in batch.items if item.lane is not None and item.entry in entries]
            if not lost:
                continue
            if batch.state == "running":
                # If the handler is done, only the outcomes are being written, and Redis refuses these.
                if not batch.handled and batch.task is not None and not batch.lost.issuperset(lost):
                    batch.lost.update(lost)
                    batch.task.cancel()
                continue
            for item in lost:
                backlog.drop(batch, item)
                backlog.left -= 1
                held.drop(item.entry)
