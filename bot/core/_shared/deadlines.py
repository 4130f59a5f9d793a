"""One timer of the event loop for many deadlines that are hardly ever reached."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from bot.core._shared.upcoming import Upcoming

T = TypeVar("T", bound=Hashable)


class Deadlines(Generic[T]):
    """Calls ``due(item)`` for each item whose time has come, unless it was discarded before.

    A timer for each would be set and cancelled for nothing, which costs as much as a small query. Here
    one timer waits for the earliest; what it finds discarded costs nothing more. It stays for at most one
    timeout after the last item. Use it from one thread.
    """

    __slots__ = ("_at", "_due", "_loop", "_rests", "_rings_at", "_timer", "_upcoming")

    def __init__(self, due: Callable[[T], object]) -> None:
        self._due = due
        # Item -> its deadline by the clock of the loop; the loop and its timer. Changed by add and _fire.
        self._at: dict[T, float] = {}
        self._upcoming = Upcoming(self._waiting, self._waits)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        # Whether the timer is given back once it waits for nothing. Changed by rest and _give_back.
        self._rests = False

    def add(self, item: T, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Have ``due(item)`` called on ``loop`` in so many seconds."""
        at = loop.time() + seconds
        if self._loop is not loop:
            # What is left of an earlier loop has nobody who waits for it any more.
            self._at.clear()
            self._loop, self._timer, self._rings_at = loop, None, math.inf
        self._at[item] = at
        if at <= self._upcoming.horizon:
            self._upcoming.add(at, item, len(self._at))
        if at < self._rings_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._rings_at = loop.call_at(at, self._fire, loop), at

    def discard(self, item: T) -> None:
        """Forget an item, if it is there."""
        self._at.pop(item, None)
        if self._rests and not self._at:
            self._give_back()

    def rest(self) -> None:
        """Give the timer back as soon as it waits for nothing: the owner is switched off."""
        self._rests = True
        if not self._at:
            self._give_back()

    def _give_back(self) -> None:
        self._rests = False
        # Without a running loop: a coroutine that is closed after its loop.
        if self._timer is not None and self._loop is asyncio._get_running_loop():
            self._timer.cancel()
            self._timer, self._rings_at = None, math.inf

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        # The loop may wake a little early; what is due within a millisecond is due.
        now = loop.time() + 0.001
        due = self._upcoming.take_due(now)
        for item in due:
            del self._at[item]
        self._timer, self._rings_at = None, math.inf
        if self._at:
            self._rings_at = self._upcoming.next_at()
            self._timer = loop.call_at(self._rings_at, self._fire, loop)
        for item in due:
            self._due(item)

    def _waiting(self) -> Iterator[tuple[float, T]]:
        return zip(self._at.values(), self._at, strict=True)

    def _waits(self, item: T, at: float) -> bool:
        return self._at.get(item) == at
