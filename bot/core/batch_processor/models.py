"""What goes into the batch processor and what comes out of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from msgspec import Struct

MAX_PRIORITY = 1_000
MAX_KEY_LENGTH = 200

BatchState = Literal["pending", "running", "retrying", "completed", "failed"]
ItemState = Literal["pending", "done", "failed", "dead_lettered", "cancelled"]
Lane = int | str
"""A user or a chat: its items are handled one at a time, in the order of their submission."""
Refusal = Literal["", "off", "full", "unavailable", "unknown"]
"""Why an item was not taken: the processor is off or full; Redis is away (unavailable), or went away in the
middle, so that the item may have been taken all the same (unknown)."""


class BatchItem(Struct, eq=False):
    """One item as the handler sees it. Compared by identity."""

    data: Any
    """What was submitted, the very object (in durable mode: an equal one)."""
    future: asyncio.Future[Any] | None = None
    """Its submitter's; the processor's own business."""
    submitted_at: float = 0.0
    """On the processor's monotonic clock, in seconds; in durable mode, when this process read it."""
    item_id: str = ""
    """Also its idempotency key: the submitter's own, or one that no other item has."""
    priority: int = 0
    attempts: int = 0
    """Times that this process gave it to the handler before."""
    deliveries: int = 1
    """Durable mode: times that it was given to an instance; above 1 its effects may exist already."""
    tracked: bool = False
    """Whether its result is kept for ``get_result``."""
    entry: bytes = b""
    """Durable mode: its id in the stream."""
    waits: int = 0
    """Times that its error asked to wait (``retry_after``), which is no failed attempt."""
    counted: int = 1
    """Durable mode: deliveries that count towards ``max_deliveries``; an orderly stop is none."""
    lane: Lane | None = None
    """What it was submitted with; at most one item of a lane is in a batch."""
    size: int = 0
    """Bytes that count for ``max_batch_bytes``; 0 until it is measured."""

    def __repr__(self) -> str:
        return f"BatchItem(item_id={self.item_id!r}, data={self.data!r}, priority={self.priority})"


Answer = Mapping[str, Any] | Sequence[Any]
Handler = Callable[[list[BatchItem]], Awaitable[Answer]]


class Batch:
    """Items that go to the handler together, from being formed to the last one's end."""

    __slots__ = (
        "attempts", "error", "formed_at", "handled", "hopeless", "items", "lost", "number", "oldest", "state",
        "task", "waits",
    )  # fmt: skip

    def __init__(self, number: int, items: list[BatchItem], formed_at: float) -> None:
        self.number = number
        self.items = items
        self.formed_at = formed_at
        self.oldest = items[0].submitted_at
        if items[0].priority != items[-1].priority:
            self.oldest = min([item.submitted_at for item in items])
        self.attempts = 0
        self.waits = 0
        """Attempts whose error asked to wait (``retry_after``): they use up no retry."""
        self.state: BatchState = "pending"
        self.error = ""
        self.hopeless: BaseException | None = None
        """Why the handler is not given it any more: it is to be given up."""
        self.task: asyncio.Task[None] | None = None
        self.handled = False
        """Whether the handler is done with it, and its end is being written."""
        self.lost: set[BatchItem] = set()
        """Items whose leases are over, which the cancelled handler still has."""

    @property
    def tries(self) -> int:
        """Failed attempts that use up the retries."""
        return self.attempts - self.waits

    def count_attempt(self) -> None:
        """The handler has failed once more with it."""
        self.attempts += 1
        for item in self.items:
            item.attempts += 1


Commit = Callable[[Batch, Sequence[Any], bool], Awaitable[None]]
"""Makes the outcomes of a batch durable: (batch, a value or exception per item, whether it is given up)."""


Begin = Callable[[Batch], Awaitable[None] | None]
"""Makes the items of a batch the newest of their keys, before the handler gets it; None: they are."""


class Submission(tuple[bool, str, str]):
    """The answer to ``submit_item``: ``(success, item_id, batch_id)``, and why not.

    ``batch_id`` names the batch that the item is planned for; a later item of higher priority may take its
    place. Both ids are empty if the item was not accepted, and ``reason`` then says why.
    """

    reason: str = ""
    refusal: Refusal = ""
    """The reason's kind; empty if the item was taken."""
    retry_after: float = 0.0
    """Seconds after which trying again makes sense; 0.0 when it was taken, or never will be."""

    @property
    def success(self) -> bool:
        """Whether the item was accepted."""
        return self[0]

    @property
    def item_id(self) -> str:
        """The item's id, for ``get_result``."""
        return self[1]

    @property
    def batch_id(self) -> str:
        """The batch it is due in, for ``get_batch_status``; empty in durable mode."""
        return self[2]

    @classmethod
    def refused(cls, reason: str, refusal: Refusal, retry_after: float = 0.0) -> Submission:
        made = cls((False, "", ""))
        made.reason = reason
        made.refusal = refusal
        made.retry_after = retry_after
        return made


class BatchStatus(Struct, frozen=True):
    """One batch: its state, and how its items ended."""

    batch_id: str
    state: BatchState
    """pending: not formed yet, ``items`` is what it would hold now; failed: given up, items dead-lettered."""
    items: int
    done: int = 0
    failed: int = 0
    """Items that the handler failed one by one; all of them if the batch was given up."""
    attempts: int = 0
    error: str = ""
    """The last error of the whole batch."""


class ItemStatus(Struct, frozen=True):
    """One item: its state, and its result or error."""

    item_id: str
    state: ItemState
    result: Any = None
    error: str = ""


PERIODIC_PREFIX = "periodic:"
"""An item of a name has this and the name as its id."""


class Plan(NamedTuple):
    """What is submitted each period."""

    name: str
    data: Any
    every: float
    """Seconds from one to the next."""
    priority: int = 0
    lane: Lane | None = None
    jitter: float = 0.0
    """Seconds, at most, by which a single one is late; the following ones are not later for it."""

    @property
    def item_id(self) -> str:
        """The id of its items."""
        return PERIODIC_PREFIX + self.name


class PeriodicItem(Struct, frozen=True):
    """What ``submit_periodic`` submits each period, and when it does so next."""

    name: str
    """The id of its items is ``periodic:`` and this."""
    data: Any
    every: float
    """Seconds."""
    priority: int
    lane: Lane | None
    jitter: float
    """Seconds."""
    next_at: float
    """Unix time in seconds."""


class ReplayReport(Struct):
    """How many dead letters were replayed, and how many were not."""

    replayed: int = 0
    missing: int = 0
    """There are none of these items, any more or at all."""
    pending: int = 0
    """They stay: an item of the same key is pending."""
    no_room: int = 0
    """They stay: as many items are pending as are allowed."""


class DeadLetter(Struct, frozen=True):
    """An item that was given up, with its data, its error and its attempts."""

    item_id: str
    data: Any
    priority: int
    attempts: int
    error: str
    """Type and message of the last error."""
    died_at: float
    """Unix time in seconds."""
    entry: str = ""
    """Durable mode: its id in the stream of dead letters."""
    lane: Lane | None = None
