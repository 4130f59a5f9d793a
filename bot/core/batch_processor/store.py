"""What the processor asks of the place where items and their results are kept: memory, or Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

from bot.core.batch_processor.models import (
    DeadLetter,
    ItemStatus,
    Lane,
    PeriodicItem,
    Plan,
    ReplayReport,
    Submission,
)
from bot.core.batch_processor.results import Outcome
from bot.core.batch_processor.terms import Terms

OFF = "the batch processor is off"


class Store(Protocol):
    """Takes items in and hands them to the dispatcher, and knows how each ended.

    Every method may be called while the processor is off, and under another event loop than before if
    that one runs no more; MisuseError while it runs, in another thread.
    """

    def submit(self, data: Any, priority: int, lane: Lane | None = None) -> asyncio.Future[Any]:
        """As ``BatchProcessor.submit``."""

    def may_wait_for_room(self) -> bool:
        """Whether a submission may have to wait; raises BatchClosedError while the processor is off."""

    async def submit_when_room(self, data: Any, priority: int, lane: Lane | None = None) -> Any:
        """Take an item in as soon as there is room, and return its result."""

    def submit_item(
        self, data: Any, priority: int, key: str | None, lane: Lane | None = None
    ) -> Submission | asyncio.Future[Submission]:
        """As ``BatchProcessor.submit_item``, or a future of that; ``priority`` and ``key`` are unchecked."""

    async def submit_many(
        self,
        wanted: Sequence[Any],
        priority: int,
        keys: Sequence[str | None],
        lanes: Sequence[Lane | None],
        all_or_none: bool,
    ) -> list[Submission]:
        """As ``BatchProcessor.submit_many``, with a key and a lane or None for each."""

    async def submit_timed(
        self,
        wanted: Sequence[Any],
        keys: Sequence[str | None],
        lanes: Sequence[Lane | None],
        terms: Terms,
        all_or_none: bool,
    ) -> list[Submission]:
        """As ``submit_many``, for items that wait for a time, or take the place of others."""

    async def result_of_timed(self, data: Any, lane: Lane | None, terms: Terms) -> Any:
        """Take an item in as soon as there is room, and return its result."""

    async def cancel(self, item_id: str) -> bool:
        """Take back a pending item; False if there is none of this id, or a handler has it."""

    async def put_plan(self, plan: Plan) -> PeriodicItem:
        """Submit an item each period from now on."""

    async def remove_plan(self, name: str) -> bool:
        """Submit no more of this name; False if there was none."""

    async def list_plans(self) -> list[PeriodicItem]:
        """What is submitted each period, by name."""

    def known_outcome(self, item_id: str) -> Outcome | None:
        """How an item ended, if that is at hand; None: ask :meth:`result`. May raise UnknownItemError."""

    async def result(self, item_id: str) -> Any:
        """Wait for an item's end; its result, or raises its error or UnknownItemError."""

    async def status(self, item_id: str) -> ItemStatus | None:
        """How far an item is; None if it is not known (any more)."""

    async def flush(self) -> bool:
        """Start what is pending, and wait until it has ended; False if nothing can handle it."""

    async def count_letters(self) -> int:
        """How many dead letters there are."""

    def each_letter(self, offset: int, *, newest_first: bool) -> AsyncGenerator[DeadLetter, None]:
        """The dead letters after the first ``offset``."""

    async def find_letter(self, item_id: str) -> DeadLetter | None:
        """The dead letter of an item."""

    async def replay(self, item_ids: Sequence[str] | None) -> ReplayReport:
        """Submit dead letters again."""

    async def discard(self, item_ids: Sequence[str] | None) -> int:
        """Forget dead letters; how many there were."""

    def wake(self) -> None:
        """There may be room, or a handler, that was not there before."""

    async def drain(self, timeout: float) -> bool:
        """Handle what is pending, for ``timeout`` seconds at most, then stop the dispatcher.

        Nothing more is taken in already. False if a handler went on after it was cancelled.
        """

    async def close(self) -> None:
        """End what is left, or leave it to other instances. Cancelled, it can be called again."""

    async def find_warnings(self) -> list[str]:
        """What is amiss, a sentence each."""

    def figures(self) -> dict[str, Any]:
        """What only this store counts, by the names of the statistics."""

    def reset_counters(self) -> None:
        """Count from now on."""
