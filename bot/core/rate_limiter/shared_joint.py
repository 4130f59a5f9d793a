"""Checks of several limits, and of windows, that all instances share: one round trip for all."""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from bot.core._shared.clock import Clock
from bot.core._shared.errors import BackendError, invalid
from bot.core.rate_limiter.joint import LocalJoint
from bot.core.rate_limiter.mirror import (
    CHARGE,
    CHECK,
    CREDIT,
    JOINT,
    LOOK,
    MARK,
    QUIET,
    REFUND,
    Mirror,
    client_key,
    client_of_key,
)
from bot.core.rate_limiter.models import ClientId, RateLimitStatus, WindowStatus
from bot.core.rate_limiter.parts import Meter, Part, tightest
from bot.core.rate_limiter.turns import Turns
from bot.core.rate_limiter.window_mirror import WindowMirror
from bot.core.redis_link import RedisLink

MAX_PARTS = 64
"""Limits in one check: more would keep other clients of Redis waiting."""

_LENGTH = struct.Struct("<H")
_FOUND = struct.Struct("<6d")


class Found(NamedTuple):
    """What bucket.lua answers for one of several checks."""

    slack: float
    steps: float
    early: float
    """After a take that was granted: the epoch."""
    step: float
    """After a take that was granted: the last reservation's number; of a window the time it counts for."""
    used: float
    empty_in: float


class Calls(Protocol):
    """Calls of a script that are made together travel together."""

    def call(
        self, key: bytes, argument: bytes, unclaimed: tuple[Any, ...] | None = None
    ) -> asyncio.Future[Any]:
        """A future of the result."""

    def send(self, key: bytes, argument: bytes, unclaimed: tuple[Any, ...] | None = None) -> None:
        """The same without waiting for the result."""


class Asking(Protocol):
    """What asks Redis: SharedBuckets."""

    link: RedisLink
    id: float
    resets: int
    degraded_checks: int

    @property
    def script(self) -> Calls:
        """bucket.lua."""

    @property
    def remember(self) -> Callable[[Mirror | WindowMirror, ClientId], None]:
        """Note a refusal that Redis was not asked about."""

    @property
    def degraded(self) -> bool:
        """Whether checks are decided by this instance alone, for now."""

    def reachable(self) -> bool:
        """Whether Redis can be asked now."""

    def served(self, seconds: float | None) -> None:
        """Redis answered."""

    def failed(self, error: BackendError) -> None:
        """Redis did not answer, or with an error."""

    def report(self, mirror: Mirror | WindowMirror, client: ClientId) -> None:
        """Let Redis know that a client came too early, before it decides about it."""

    def give_back(self, mirror: Mirror, key: bytes, tokens: int, number: float, epoch: float) -> None:
        """Give back tokens for which no caller had begun to wait."""


def joint_argument(parts: Sequence[Part], how: float, root: bytes) -> bytes:
    """The argument of bucket.lua for checks of which all are granted or none."""
    pieces = [CHECK.pack(b"p4joint!", JOINT, 0.0, 0.0, 0.0, float(len(parts)), how, 0.0, 0.0)]
    for meter, client, tokens in parts:
        key = client_key(client, root)
        pieces += (_mirror(meter).take_argument(tokens, client), _LENGTH.pack(len(key)), key)
    return b"".join(pieces)


def with_details(results: Sequence[Any], details: bytes) -> list[Any]:
    """The results of bucket.lua, where those of joint checks are a list of Found. ValueError for nonsense."""
    if len(details) % _FOUND.size:
        raise ValueError(f"expected a multiple of {_FOUND.size} bytes")
    found = [Found(*numbers) for numbers in _FOUND.iter_unpack(details)]
    if not all(math.isfinite(number) for each in found for number in each):
        raise ValueError("not all numbers are finite")
    position = 0
    complete: list[Any] = []
    for result in results:
        number, _, _, mark = result
        if mark == MARK:
            result = found[position : position + int(number)]
            position += int(number)
        complete.append(result)
    if position != len(found):
        raise ValueError("not all details are of a check")
    return complete


class SharedJoint:
    """The :class:`LocalJoint` of limits in Redis; while Redis is away, that of the mirrors.

    **Cancellation.** A check that is cancelled takes nothing, or gives back all that it took. A caller that
    waits in ``acquire`` has taken nothing; its place is before later callers of this instance, and whoever
    asks first is served first among instances.
    """

    def __init__(self, shared: Asking, clock: Clock) -> None:
        self._shared = shared
        self._root = shared.link.root_bytes
        self._now = clock.monotonic
        self._alone = LocalJoint(clock)
        self.turns = Turns(clock)
        """Callers that wait in acquire."""

    async def take(self, parts: Sequence[Part]) -> tuple[bool, RateLimitStatus]:
        """Take all or nothing: (allowed, status of the tightest part)."""
        refused = self._refused(parts)
        if refused:
            return False, tightest(refused)
        resets = self._shared.resets
        found = await self._ask(parts, 0.0)
        if found is None:
            self._shared.degraded_checks += 1
            return self._alone.take_here(parts, alone=True)
        granted = min(each.slack for each in found) >= 0.0
        now = self._now()
        statuses = [
            self._heard(part, each, now)
            for part, each in zip(parts, found, strict=True)
            if granted or each.slack < 0.0
        ]
        if not granted and resets != self._shared.resets:
            # They may have been forgiven since: what was refused before that is not remembered.
            for meter, client, _ in parts:
                _mirror(meter).forget_refusal(client)
        return granted, tightest(statuses)

    def take_nowait(self, parts: Sequence[Part]) -> float:
        """Take all or nothing by what is known here, and let Redis know: 0.0, or the seconds to wait.

        What has passed is charged, even if other instances took it meanwhile.
        """
        refused = self._refused(parts)
        if refused:
            return tightest(refused).retry_after
        allowed, status = self._alone.take_here(parts)
        if allowed:
            if self._shared.reachable():
                for meter, client, tokens in parts:
                    self._shared.script.send(
                        client_key(client, self._root), _mirror(meter).argument(CHARGE, tokens)
                    )
            else:
                self._shared.degraded_checks += 1
        return status.retry_after

    async def acquire(self, parts: Sequence[Part], max_wait: float, label: str) -> RateLimitStatus:
        """Wait for all; raises RateLimitExceeded if that takes longer than ``max_wait`` seconds."""

        async def attempt() -> tuple[float, RateLimitStatus | None]:
            found = await self._ask(parts, QUIET)
            if found is None:
                self._shared.degraded_checks += 1
                return self._alone.attempt(parts, alone=True)
            slack = min(each.slack for each in found)
            if slack < 0.0:
                return -slack, None
            now = self._now()
            return 0.0, tightest([self._heard(*pair, now) for pair in zip(parts, found, strict=True)])

        return await self.turns.acquire(parts, max_wait, label, attempt)

    async def peek(self, parts: Sequence[Part]) -> RateLimitStatus:
        """What the clients have left: whether all of it could be taken, and nothing is."""
        found = await self._ask(parts, LOOK)
        now = self._now()
        if found is None:
            return tightest([meter.look(client, now, tokens, alone=True) for meter, client, tokens in parts])
        return tightest([_left(part, each, now) for part, each in zip(parts, found, strict=True)])

    async def refund(self, part: Part) -> bool:
        """Give back tokens of requests that did not happen; whether any was given back."""
        meter, client, tokens = part
        found = meter.credit(client, self._now(), tokens)
        answer = await self._tell(part, CREDIT)
        return found if answer is None else bool(answer[1])

    async def charge(self, part: Part) -> RateLimitStatus:
        """Take tokens that were used, whether they are there or not."""
        meter, client, tokens = part
        meter.charge(client, self._now(), tokens)
        await self._tell(part, CHARGE)
        return await self.peek([Part(meter, client, 1)])

    def wake(self, client: ClientId, meters: Sequence[Meter] | None) -> None:
        """The client has more than it had under these limits (None: every one): who waits asks again."""
        for meter in self.turns.limits_of(client) if meters is None else meters:
            self.turns.wake(meter, client)

    def wake_key(self, meter: Meter, key: bytes) -> None:
        """The same for the client of a key."""
        for client in client_of_key(key, self._root, self.turns.clients_of(meter)):
            self.turns.wake(meter, client)

    async def _tell(self, part: Part, mode: int) -> Any:
        """Redis's answer to a change that is made in any case; None if Redis is away."""
        meter, client, tokens = part
        shared = self._shared
        if not shared.reachable():
            return None
        sent = self._now()
        argument = _mirror(meter).argument(mode, tokens, 0.0, 0.0, shared.id)
        try:
            # It is made even if the caller is cancelled once it was sent.
            answer = await shared.script.call(client_key(client, self._root), argument)
        except BackendError as error:
            shared.failed(error)
            return None
        shared.served(self._now() - sent)
        return answer

    async def _ask(self, parts: Sequence[Part], how: float) -> list[Found] | None:
        """Redis's answers; None if it is away."""
        shared = self._shared
        key = self._key_of(parts)
        if not shared.reachable():
            return None
        for meter, client, _ in parts:
            shared.report(_mirror(meter), client)
        sent = self._now()
        unclaimed = None if how == LOOK else (self._take_back, parts)
        answer = None
        try:
            answer = shared.script.call(key, joint_argument(parts, how, self._root), unclaimed)
            found: list[Found] = await answer
            if len(found) != len(parts):
                return None  # not the word of our script
        except BackendError as error:
            shared.failed(error)
            return None
        except asyncio.CancelledError:
            if answer is not None and answer.done() and not answer.cancelled() and not answer.exception():
                self._take_back(answer.result(), parts)
            raise
        shared.served(self._now() - sent)
        return found

    def _key_of(self, parts: Sequence[Part]) -> bytes:
        """The key by which the call goes to a node."""
        if len(parts) > MAX_PARTS:
            raise invalid("checks", len(parts), f"at most {MAX_PARTS} shared limits in one check")
        keys = {client_key(client, self._root) for _, client, _ in parts}
        if len(keys) > 1 and self._shared.link.cluster:
            clients = [client for _, client, _ in parts]
            raise invalid(
                "checks", clients, "one client: a Redis Cluster cannot take from several of its nodes at once"
            )
        return client_key(parts[0].client, self._root)

    def _refused(self, parts: Sequence[Part]) -> list[RateLimitStatus]:
        """The statuses of the limits whose refusals are remembered, and still in force."""
        now = self._now()
        found: list[RateLimitStatus] = []
        for meter, client, tokens in parts:
            if client in meter.records:
                slack = _mirror(meter).refused(client, now, tokens)
                if slack < 0.0:
                    self._shared.remember(_mirror(meter), client)
                    found.append(meter.status(client, slack, tokens, now, alone=self._shared.degraded))
        return found

    def _heard(self, part: Part, found: Found, now: float) -> RateLimitStatus:
        meter, client, tokens = part
        slack, steps, early, step, used, _ = found
        if isinstance(meter, WindowMirror):
            meter.heard_of_take(client, now, tokens, slack, steps, early, step, used)
        elif isinstance(meter, Mirror):
            slack = meter.heard_of_take(client, now, tokens, slack, steps, early, step)
        return _status(part, found._replace(slack=slack), now)

    def _take_back(self, found: Sequence[Found], parts: Sequence[Part]) -> None:
        """Give back what was taken for a caller that waits no more."""
        if min(each.slack for each in found) < 0.0:
            return
        for (meter, client, tokens), each in zip(parts, found, strict=True):
            if isinstance(meter, Mirror):
                self._shared.give_back(meter, client_key(client, self._root), tokens, each.step, each.early)
            elif isinstance(meter, WindowMirror):
                argument = meter.argument(REFUND, tokens, each.step, each.early)
                with contextlib.suppress(RuntimeError):  # no event loop runs any more, as at exit
                    self._shared.script.send(client_key(client, self._root), argument)
            self.wake(client, [meter])


def _mirror(meter: Meter) -> Mirror | WindowMirror:
    assert isinstance(meter, Mirror | WindowMirror), "limits are shared"
    return meter


def _status(part: Part, found: Found, now: float) -> RateLimitStatus:
    meter, client, tokens = part
    if isinstance(meter, WindowMirror):
        left = max(0, meter.most - int(min(found.used, meter.most)))
        return WindowStatus((meter, found.slack, tokens, now, left, now + max(0.0, found.empty_in)))
    return meter.status(client, found.slack, tokens, now)


def _left(part: Part, found: Found, now: float) -> RateLimitStatus:
    """What is left before a check that was not made."""
    meter, client, tokens = part
    if isinstance(meter, Mirror) and found.slack >= 0.0:
        slack = min(found.slack + tokens * meter.interval, meter.tolerance)
        return meter.status(client, slack, 0, now)
    return _status(part, found, now)
