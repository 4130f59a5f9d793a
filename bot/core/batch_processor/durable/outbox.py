"""Items on their way to Redis: what is submitted in one turn of the event loop travels in one call."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from bot.core._shared.errors import BackendError, UnsupportedValueError, invalid
from bot.core._shared.futures import give_error, give_result
from bot.core.batch_processor.dispatcher import Dispatcher
from bot.core.batch_processor.durable.limits import Limits
from bot.core.batch_processor.durable.loops import PAUSE_LONGEST, Loops
from bot.core.batch_processor.durable.streams import ADDED, FULL, KNOWN, Added, Streams
from bot.core.batch_processor.durable.values import AT_ONCE, BYTES_AT_ONCE, lane_name, value_of
from bot.core.batch_processor.errors import BatchClosedError, BatchQueueFullError
from bot.core.batch_processor.lifecycle import State
from bot.core.batch_processor.models import Lane, Submission
from bot.core.redis_link import RedisRefusedError


class _Offer:
    """An item on its way; ``future`` is of its result, or of the answer to its submission."""

    __slots__ = ("added", "future", "of_result")

    def __init__(self, added: Added, future: asyncio.Future[Any], of_result: bool) -> None:
        self.added = added
        self.future = future
        self.of_result = of_result


class Outbox:
    """Sends items, and answers their submitters once Redis has, or has refused, each."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        streams: Streams,
        loops: Loops,
        limits: Limits,
        on_added: Callable[[], None],
    ) -> None:
        """``on_added()``: Redis has answered, and results of items may come."""
        self._d = dispatcher
        self._streams = streams
        self._loops = loops
        self._limits = limits
        self._on_added = on_added
        # Changed by put, _send, clear and close.
        self._offers: deque[_Offer] = deque()
        self._unconfirmed: set[str] = set()
        self.sending: asyncio.Task[None] | None = None
        self.reset_counters()

    def reset_counters(self) -> None:
        """Count from now on."""
        self.enqueued = self.known = 0

    def begin(self) -> None:
        """The event loop is another one, or this is a child after a fork.

        Nobody waits for what was on its way, and nothing sends it.
        """
        self._offers.clear()
        self._unconfirmed.clear()
        self.sending = None

    def close(self) -> None:
        """What was not sent is refused."""
        for offer in self._offers:
            give_error(offer.future, BatchClosedError("the batch processor was switched off"))
        self._offers.clear()
        self._unconfirmed.clear()

    def is_sending(self, item_id: str) -> bool:
        """Whether Redis has not yet answered for an item."""
        return item_id in self._unconfirmed

    def encode(
        self, item_id: str, priority: int, data: Any, lane: Lane | None, *, replaceable: bool = False
    ) -> Added:
        """What is added to the stream. Raises InvalidArgumentError for what cannot travel."""
        try:
            name = lane_name(lane)
        except UnicodeEncodeError:
            raise invalid(
                "lane", lane, "text without lone surrogates in durable mode, which UTF-8 cannot hold"
            ) from None
        try:
            value = value_of(item_id, priority, data, replaceable=replaceable)
        except UnsupportedValueError as error:
            raise invalid(
                "data",
                type(data).__qualname__,
                "plain data in durable mode (str, bytes, numbers, None, lists, dicts, tuples, sets, dates, "
                f"Decimal, UUID); this cannot travel to Redis: {error}",
            ) from error
        if len(value) > self._limits.max_item_bytes:
            raise invalid(
                "data",
                f"{len(value):,} bytes as MessagePack",
                f"at most max_item_bytes = {self._limits.max_item_bytes:,}",
            )
        return Added(item_id, value, name)

    def put(self, added: Added, result: asyncio.Future[Any]) -> None:
        """Send an item; ``result``, of its result, is given the error if it is not taken."""
        self._put(_Offer(added, result, True))

    def offer(self, added: Added) -> asyncio.Future[Submission]:
        """Send an item; a future of the answer."""
        future: asyncio.Future[Submission] = asyncio.get_running_loop().create_future()
        self._put(_Offer(added, future, False))
        return future

    async def offer_all(self, wanted: Sequence[Added]) -> list[Submission]:
        """Send all of them, or none if not all have room."""
        try:
            codes, _ = await self._streams.add(wanted, self._d.capacity.max_pending, all_or_none=True)
        except BackendError as error:
            return [self.unavailable(error)] * len(wanted)
        return [self.answer(one.item_id, code) for one, code in zip(wanted, codes, strict=True)]

    def _put(self, offer: _Offer) -> None:
        self._offers.append(offer)
        self._unconfirmed.add(offer.added.item_id)
        self._start_sender()

    def _start_sender(self) -> None:
        if (
            self._offers
            and self._loops.state in (State.ON, State.DRAINING)
            and (self.sending is None or self.sending.done())
        ):
            # It begins on the next turn of the loop: what is submitted in this one travels with it.
            self.sending = self._loops.spawn(self._send(), "batch-sender", self._start_sender)

    async def _send(self) -> None:
        while self._offers:
            offers: list[_Offer] = []
            size = 0
            while self._offers and len(offers) < AT_ONCE and size < BYTES_AT_ONCE:
                offers.append(self._offers.popleft())
                size += len(offers[-1].added.value)
            try:
                codes, _ = await self._streams.add(
                    [offer.added for offer in offers], self._d.capacity.max_pending
                )
            except BackendError as error:
                for offer in offers:
                    self._unconfirmed.discard(offer.added.item_id)
                    if offer.of_result:
                        give_error(offer.future, type(error)(self.unavailable(error).reason))
                    else:
                        give_result(offer.future, self.unavailable(error))
            except asyncio.CancelledError:
                for offer in offers:
                    self._unconfirmed.discard(offer.added.item_id)
                    give_error(
                        offer.future, BatchClosedError("the batch processor was switched off meanwhile")
                    )
                raise
            else:
                for offer, code in zip(offers, codes, strict=True):
                    self._unconfirmed.discard(offer.added.item_id)
                    answer = self.answer(offer.added.item_id, code)
                    if not offer.of_result:
                        give_result(offer.future, answer)
                    elif not answer.success:
                        give_error(offer.future, BatchQueueFullError(answer.reason))
                self._on_added()

    def answer(self, item_id: str, code: int) -> Submission:
        """What the submitter of an item is told, by Redis's code."""
        d = self._d
        if code == FULL:
            d.outcomes.counters.refused += 1
            return Submission.refused(
                f"the batch processor is full: {self._streams.length} items pending in Redis, "
                f"max_pending = {d.capacity.max_pending}",
                "full",
                d.outcomes.counters.handling.mean() or d.due.batch_timeout,
            )
        if code == ADDED:
            self.enqueued += 1
        elif code == KNOWN:
            self.known += 1
        return Submission((True, item_id, ""))

    def unavailable(self, error: BackendError) -> Submission:
        """What the submitter of an item is told if Redis did not answer."""
        self._d.outcomes.counters.refused += 1
        doubt = "; whether the item was added is not known" if _may_have_arrived(error) else ""
        return Submission.refused(f"{error}{doubt}", "unknown" if doubt else "unavailable", PAUSE_LONGEST)


def _may_have_arrived(error: BackendError) -> bool:
    """Whether a script whose call failed so may have run all the same."""
    # A refused script has done nothing; and without a cause no call was made, for the breaker knew better.
    if isinstance(error, RedisRefusedError) or error.__cause__ is None:
        return False
    cause: BaseException | None = error.__cause__
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError | socket.gaierror) or "connecting to" in str(cause):
            return False  # there was no connection to send it over
        cause = cause.__cause__  # not its context: that may be how an earlier try ended
    return True
