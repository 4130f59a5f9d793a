"""Buckets that all instances share, in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import struct
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any

from bot.core._shared.clock import Clock
from bot.core._shared.errors import BackendError
from bot.core._shared.histogram import Histogram
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import BackgroundTasks
from bot.core.rate_limiter.errors import RateLimitExceeded
from bot.core.rate_limiter.messages import CHANNEL, MOVED, place_of, reset_of
from bot.core.rate_limiter.mirror import PEEK, REFUND, RESERVE, Mirror, client_key, client_of_key
from bot.core.rate_limiter.models import ClientId, RateLimitStatus
from bot.core.rate_limiter.reports import Reports
from bot.core.rate_limiter.resets import OwedResets
from bot.core.rate_limiter.shared_joint import SharedJoint, with_details
from bot.core.rate_limiter.waiting import Lines
from bot.core.rate_limiter.window_mirror import WindowMirror
from bot.core.redis_link import RedisLink, RedisUnavailableError, Subscription

logger = logging.getLogger(__name__)

_NUMBERS = [struct.Struct(f"<{1 + 4 * calls}d") for calls in range(257)]

_Result = tuple[float, float, float, float]
"""Slack and three numbers, as bucket.lua has them."""


def script_source() -> str:
    """bucket.lua."""
    return (files(__package__) / "bucket.lua").read_text(encoding="ascii")


class SharedBuckets:
    """Takes tokens in Redis: checks that are made together travel in one call of a script.

    **Redis away.** A check is then decided by the mirror, so each instance limits on its own, at the
    full limit; its status is ``degraded``. No check waits for Redis to come back: a task of this
    object sees to that.

    **Cancellation.** A check or wait that is cancelled takes nothing, or gives back what it took; only
    if Redis cannot be reached at that moment do the tokens stay taken. Nothing is ever taken twice:
    what may have been run is not sent again. When a connection breaks under a check, Redis may have
    taken its tokens, and the mirror takes them too.
    """

    def __init__(
        self, link: RedisLink, clock: Clock, mirrors: Callable[[], Iterable[Mirror | WindowMirror]]
    ) -> None:
        self.link = link
        self._root = link.root_bytes
        self._clock = clock
        self._now = clock.monotonic
        self.script = link.batched_script(script_source(), self._decode)
        # They live on the link's event loop.
        self._tasks = BackgroundTasks()
        self._subscription: Subscription | None = None
        # Every limit in use; the service owns them.
        self._mirrors = mirrors
        self._stopped = False
        self.reports = Reports(link, self.script.send, self._now, self._is_open)
        # Of the reports, at hand for every check.
        self._unreported, self.remember = self.reports.pending, self.reports.add
        self._owed = OwedResets(link, self.script.call)
        self.joint = SharedJoint(self, clock)
        """Checks of several limits, and of windows."""
        # Callers that wait for what Redis has reserved, and for what was reserved while it was away.
        self._lines = Lines(clock)
        self._lines_alone = Lines(clock)
        self.id = float(random.getrandbits(52))
        # Heard of. What was asked before the last one says nothing about a client that it forgave.
        self.resets = 0
        self._probing: asyncio.Task[Any] | None = None
        self._unregister = link.on_recovery(self._back)
        self._forget_moves = link.on_move(self._moved)
        self.refusing = False
        """Whether Redis answered the last check with an error."""
        self.checks = 0
        self.degraded_checks = 0
        self._batches_before = 0
        self.seconds = Histogram()

    @property
    def degraded(self) -> bool:
        """Whether checks are decided by this instance alone, for now."""
        return self.refusing or not self.link.complete

    @property
    def remembered(self) -> int:
        """Checks refused by what is remembered, without asking Redis."""
        return self.reports.refused

    @property
    def batches(self) -> int:
        """Calls of the script."""
        return self.script.batches - self._batches_before

    # Checks.

    async def take(self, mirror: Mirror, client: ClientId, tokens: int) -> tuple[bool, RateLimitStatus]:
        """Buckets.take, for all instances."""
        if client in mirror.records:
            now = self._now()
            slack = mirror.refused(client, now, tokens)
            if slack < 0.0:
                self.remember(mirror, client)
                alone = (True,) if self.degraded else ()
                return False, RateLimitStatus((mirror, slack, tokens, now, *alone))
        key = client_key(client, self._root)
        if self.reachable():
            resets = self.resets
            sent = self._now()
            if (mirror, client) in self._unreported:
                # Redis is to know that it came too early before it decides.
                self.reports.send(mirror, client)
            try:
                answer = self.script.call(
                    key, mirror.take_argument(tokens, client), (self._take_back, mirror, client, tokens)
                )
                slack, count, early, step = await answer
            except BackendError as error:
                self.failed(error)
            except asyncio.CancelledError:
                if _answered(answer):
                    self._take_back(answer.result(), mirror, client, tokens)
                raise
            else:
                now = self._now()
                self.served(now - sent)
                slack = mirror.heard_of_take(client, now, tokens, slack, count, early, step)
                if slack < 0.0 and resets != self.resets:
                    # It may have been forgiven since: what was refused before that is not remembered.
                    mirror.penalties.forget(client)
                return slack >= 0.0, RateLimitStatus((mirror, slack, tokens, now))
        return self._take_alone(mirror, client, tokens)

    def report(self, mirror: Mirror | WindowMirror, client: ClientId) -> None:
        """Let Redis know that a client came too early, before it decides about it."""
        if (mirror, client) in self._unreported:
            self.reports.send(mirror, client)

    def take_nowait(self, mirror: Mirror, client: ClientId) -> float:
        """Take one token by what is known here, and let Redis know: 0.0, or the seconds to wait."""
        key = client_key(client, self._root)
        now = self._now()
        known = client in mirror.records
        slack = mirror.take(client, now)
        if slack < 0.0:
            if known:
                self.remember(mirror, client)
            return -slack
        if self.reachable():
            # It has passed, so it is taken even if there is none left; then the client owes it.
            self.script.send(
                key, mirror.argument(RESERVE, 1, math.inf), (self._charged, mirror, client, self.resets)
            )
        else:
            self.degraded_checks += 1
        return 0.0

    async def acquire(
        self, mirror: Mirror, client: ClientId, tokens: int, max_wait: float, label: str
    ) -> RateLimitStatus:
        """Wait for the tokens; raises RateLimitExceeded if that takes longer than ``max_wait``."""
        key = client_key(client, self._root)
        degraded = True
        wait = number = epoch = math.nan
        if self.reachable():
            sent = self._now()
            try:
                answer = self.script.call(
                    key,
                    mirror.argument(RESERVE, tokens, max_wait),
                    (self._give_back_if, mirror, client, tokens),
                )
                slack, number, epoch, _ = await answer
            except BackendError as error:
                self.failed(error)
            except asyncio.CancelledError:
                if _answered(answer):
                    self._give_back_if(answer.result(), mirror, client, tokens)
                raise
            else:
                now = self._now()
                self.served(now - sent)
                degraded = False
                wait = -slack if slack < -mirror.margin else 0.0
                if not number:
                    mirror.blocked += 1
                    raise RateLimitExceeded(wait, limit=label)
                mirror.heard_of_bucket(client, now, min(slack, mirror.tolerance))
        if degraded:
            self.degraded_checks += 1
            wait, taken = mirror.reserve(client, self._now(), tokens, max_wait)
            if not taken:
                raise RateLimitExceeded(wait, limit=label)
        if wait > 0.0:
            cost = tokens * mirror.interval
            ready = self._now() + wait
            if degraded:
                mirror.reserved_alone += 1
                await self._lines_alone.wait(
                    (mirror, client), ready, cost, (0.0, mirror.reserved_alone),
                    lambda: mirror.refund(client, self._now(), tokens),
                )  # fmt: skip
            else:
                await self._lines.wait(
                    (mirror.limit_id, key), ready, cost, (epoch, number),
                    lambda: self._give_back_place(mirror, client, tokens, number, epoch),
                )  # fmt: skip
        mirror.allowed += 1
        now = self._now()
        left = max(0.0, mirror.peek(client, now))
        return RateLimitStatus((mirror, left, 0, now, True) if degraded else (mirror, left, 0, now))

    def move_up(self, mirror: Mirror, client: ClientId, tokens: int) -> None:
        """Tokens were given back: who waits in line for the client's moves up."""
        cost = tokens * mirror.interval
        self._lines.move_up((mirror.limit_id, client_key(client, self._root)), (-math.inf, 0.0), cost)
        self._lines_alone.move_up((mirror, client), (-math.inf, 0.0), cost)

    async def peek(self, mirror: Mirror, client: ClientId) -> tuple[float, bool]:
        """The slack of a check for no tokens, and whether only this instance says so."""
        key = client_key(client, self._root)
        if self.reachable():
            try:
                slack, _, _, _ = await self.script.call(key, mirror.argument(PEEK, 0))
            except BackendError as error:
                self.failed(error)
            else:
                self.refusing = False
                return min(slack, mirror.tolerance), False
        return mirror.peek(client, self._now()), True

    async def reset_client(self, client: ClientId, limits: Sequence[Any] | None) -> bool:
        """Reset a client, here and in every instance; False if none had any state of it.

        Under ``limits``, or under every one. If Redis is away, it is forgiven there when it is back.
        """
        resets = [(client, limit) for limit in (limits if limits is not None else (None,))]
        self.resets += 1
        found = self._forget(client, limits)
        self._owed.add(resets)
        try:
            for reset in resets:
                found = await self._owed.settle(reset) or found
        except BackendError as error:
            self.failed(error)
        return found

    def _take_alone(self, mirror: Mirror, client: ClientId, tokens: int) -> tuple[bool, RateLimitStatus]:
        self.degraded_checks += 1
        now = self._now()
        slack = mirror.take(client, now, tokens)
        return slack >= 0.0, RateLimitStatus((mirror, slack, tokens, now, True))

    def _decode(self, answer: Any, calls: int) -> list[_Result]:
        """A result for each call; ValueError for anything else."""
        numbers = _NUMBERS[calls]
        details = b""
        if answer.__class__ is bytes and len(answer) > numbers.size:
            answer, details = answer[: numbers.size], answer[numbers.size :]
        if answer.__class__ is not bytes or len(answer) != numbers.size:
            raise ValueError(f"expected {numbers.size} bytes")
        server_now, *found = numbers.unpack(answer)
        if not all(map(math.isfinite, (server_now, *found))):
            raise ValueError("not all numbers are finite")
        self.reports.offset = server_now - self._now()
        results = [(found[i], found[i + 1], found[i + 2], found[i + 3]) for i in range(0, len(found), 4)]
        return with_details(results, details) if details else results

    # Results that arrive when no caller waits for them any more.

    def _take_back(self, result: _Result, mirror: Mirror, client: ClientId, tokens: int) -> None:
        slack, _, epoch, number = result
        if slack >= 0.0:
            self.give_back(mirror, client_key(client, self._root), tokens, number, epoch)

    def _give_back_if(self, result: _Result, mirror: Mirror, client: ClientId, tokens: int) -> None:
        _, number, epoch, _ = result
        if number:
            self.give_back(mirror, client_key(client, self._root), tokens, number, epoch)

    def _give_back_place(
        self, mirror: Mirror, client: ClientId, tokens: int, number: float, epoch: float
    ) -> bool:
        """Give back what a wait had reserved; whether those behind move up."""
        given_back = mirror.refund(client, self._now(), tokens)
        self._send_back(mirror, client_key(client, self._root), tokens, number, epoch)
        return given_back

    def give_back(self, mirror: Mirror, key: bytes, tokens: int, number: float, epoch: float) -> None:
        """Give back tokens for which no caller had begun to wait."""
        self._lines.move_up((mirror.limit_id, key), (epoch, number), tokens * mirror.interval)
        self._send_back(mirror, key, tokens, number, epoch)

    def _send_back(self, mirror: Mirror, key: bytes, tokens: int, number: float, epoch: float) -> None:
        with contextlib.suppress(RuntimeError):  # no event loop runs any more, as at exit
            self.script.send(key, mirror.argument(REFUND, tokens, number, epoch, self.id))

    def _charged(self, result: _Result, mirror: Mirror, client: ClientId, resets: int) -> None:
        self.served(None)
        if resets == self.resets:
            mirror.heard_of_bucket(client, self._now(), min(result[0], mirror.tolerance))

    # Resets.

    def _forget(self, client: ClientId, limits: Iterable[Mirror | WindowMirror] | None = None) -> bool:
        found = False
        now = self._now()
        for mirror in self._mirrors() if limits is None else limits:
            found = mirror.forget(client, now) or found
            self.reports.forget(mirror, client)
            self._lines_alone.forget((mirror, client))
            self._lines.forget((mirror.limit_id, client_key(client, self._root)))
        self.joint.wake(client, None)
        return found

    def _received(self, message: bytes) -> None:
        if message.startswith(MOVED):
            self._heard_of_place(message)
            return
        self.resets += 1
        try:
            client, limit_id = reset_of(message)
        except ValueError:
            # Whom it meant is unknown, so everybody may have been forgiven.
            self._forget_refusals()
            return
        limits = [mirror for mirror in self._mirrors() if mirror.limit_id == limit_id] if limit_id else None
        self._forget(client, limits)

    def _heard_of_place(self, message: bytes) -> None:
        """Another instance gave back a place that waits of this one may stand behind."""
        place = place_of(message)
        if place is None or place.instance == self.id:
            return
        self._lines.move_up((place.limit_id, place.key), (place.epoch, place.number), place.cost)
        if place.number == 0.0:
            self._heard_of_refund(place.limit_id, place.key)

    def _heard_of_refund(self, limit_id: bytes, key: bytes) -> None:
        """A client has more than it had: what it was refused before is not remembered."""
        for mirror in self._mirrors():
            if mirror.limit_id == limit_id:
                for client in client_of_key(key, self._root, mirror.records):
                    mirror.forget_refusal(client)
                self.joint.wake_key(mirror, key)

    def _forget_refusals(self) -> None:
        self.reports.send_all()
        for mirror in self._mirrors():
            mirror.forget_refusals()

    # Redis going and coming back.

    def start(self) -> None:
        """Listen for resets."""
        if self._subscription is None and not self._stopped:
            self._subscription = self.link.listen(self.link.root + CHANNEL, self._received, self._listening)

    def _moved(self) -> None:
        # The event loop before has ended, and its tasks and timers with it.
        self._tasks.abandon()
        self._tasks, self._probing = BackgroundTasks(), None
        self.reports.abandon_timer()

    def _listening(self, stands: bool) -> None:
        if stands:
            # Resets may have been missed without a subscription.
            self.resets += 1
            self._forget_refusals()

    def _is_open(self) -> bool:
        """Whether Redis is there, and this was not stopped."""
        return self.link.available and not self._stopped

    def reachable(self) -> bool:
        try:
            self.link.here()
        except RuntimeError:
            return False  # called by code that runs in no event loop
        if self._stopped:
            return False
        if self.link.available:
            return True
        if self.link.probe_due and (self._probing is None or self._probing.done()):
            self._probing = self._tasks.spawn(self.link.probe(), name="rate-limiter-probe")
        return False

    def _back(self) -> None:
        if self._owed and not self._stopped:
            with contextlib.suppress(RuntimeError):
                self.link.here()
                self._tasks.spawn(self._owed.settle_all(), name="rate-limiter-owed-resets")

    def served(self, seconds: float | None) -> None:
        self.checks += 1
        self.refusing = False
        if seconds is not None:
            self.seconds.record(seconds)

    def failed(self, error: BackendError) -> None:
        if isinstance(error, RedisUnavailableError):
            return  # said by the link, once
        if not self.refusing:
            logger.warning(
                "Redis refused a rate limit check; this process limits on its own: %s", one_line(error)
            )
        self.refusing = True

    async def stop(self) -> None:
        """Tell Redis what it has not heard, end every task and close the connection; the link stays."""
        self._unregister()
        self._forget_moves()
        try:
            if self.link.owner.loop is asyncio.get_running_loop():
                self.reports.send_all()
                await self.script.drain()
        finally:
            self._stopped = True
            if self._subscription is not None:
                await self._subscription.stop()
            self.reports.cancel_timer()
            await self._tasks.stop()
            await self.script.stop()

    def reset_statistics(self) -> None:
        """Counters to zero."""
        self.checks = self.reports.refused = self.degraded_checks = 0
        self._batches_before = self.script.batches
        self.seconds = Histogram()


def _answered(answer: asyncio.Future[Any]) -> bool:
    """Whether Redis answered in the tick in which the caller was cancelled: then no one else undoes it."""
    return answer.done() and not answer.cancelled() and answer.exception() is None
