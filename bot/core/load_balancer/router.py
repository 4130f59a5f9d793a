"""One request: choose, try, fail over, within limits."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from bot.core._shared.errors import MisuseError
from bot.core._shared.histogram import Histogram
from bot.core.load_balancer.budget import RetryBudget
from bot.core.load_balancer.cluster import Cluster
from bot.core.load_balancer.errors import NoInstanceError, NotSentError, RequestFailed, RequestRejected
from bot.core.load_balancer.health import described
from bot.core.load_balancer.http_handler import MissingClientError
from bot.core.load_balancer.instances import Instance
from bot.core.load_balancer.models import Attempt, RequestHandler, RouteResult

REQUEST_FAULTS: tuple[type[Exception], ...] = (
    RequestRejected, MisuseError, MissingClientError,
    TypeError, AttributeError, NameError, NotImplementedError, AssertionError,
)  # fmt: skip
"""Raised by a handler, these are the request's or the handler's own fault: every instance would do alike."""

HEDGE_QUANTILE = 0.95
HEDGE_MIN_SAMPLES = 20
HEDGE_REFRESH = 1.0
"""Seconds for which the quantile once computed serves."""


class _Outcome(NamedTuple):
    kind: Literal["answered", "failed", "refused"]
    instance: Instance
    value: Any
    """What the handler returned, or the exception."""
    attempt: Attempt | None = None


class Counters:
    """What became of the requests. Changed by Router only, but for a reset."""

    __slots__ = ("failed", "hedge_wins", "hedged", "refused", "requests", "retries", "succeeded")

    def __init__(self) -> None:
        self.requests = self.succeeded = self.failed = self.refused = 0
        self.retries = self.hedged = self.hedge_wins = 0


class Router:
    """Routes requests over a cluster. A route that is cancelled has given back what it held."""

    def __init__(
        self,
        cluster: Cluster,
        now: Callable[[], float],
        *,
        after: Callable[[], None],
        unreachable: Callable[[Instance], None],
    ) -> None:
        self.cluster = cluster
        self._now = now
        self._after = after  # called when states may have changed
        self._unreachable = unreachable  # told of an instance that a request did not reach
        self.counters = Counters()
        self.response_seconds = Histogram()
        options = cluster.options
        self.budget = RetryBudget(options.retry_budget_percent, options.retry_budget_min_per_second)
        self.in_progress = 0
        self.tell_ends = False  # somebody waits for requests to end
        # Tries that lost, from when they are cancelled until they end. Changed by _hedged.
        self._losers: set[asyncio.Task[_Outcome]] = set()
        self._hedge_delay = 0.0
        self._hedge_delay_until = -1.0

    async def route(
        self,
        handler: RequestHandler,
        data: Any,
        session_id: str | int | None,
        max_retries: int,
        timeout: float,
        idempotent: bool | None,
    ) -> RouteResult:
        """As ``LoadBalancer.route_request``, whose arguments these are, checked."""
        cluster = self.cluster
        counters = self.counters
        now = self._now()
        deadline = now + timeout
        counters.requests += 1
        self.budget.request(now)
        tried: list[Instance] = []
        attempts: list[Attempt] = []
        last: BaseException | None = None
        free = True
        while True:
            trial = None
            if cluster.trials and not tried and session_id is None and idempotent is not False:
                trial = cluster.select_trial()
            instance = trial or cluster.select(session_id, tried)
            if instance is None:
                reason = self._nobody(tried)
                break
            limit = min(cluster.options.request_timeout, deadline - self._now())
            if limit <= 0:
                reason = f"no answer within {timeout:g} s"
                break
            if tried:
                if not free and not self.budget.take(self._now()):
                    reason = "failed, and the retry budget is used up"
                    break
                counters.retries += 1
            if idempotent and cluster.options.hedging and trial is None:
                outcomes = await self._hedged(handler, instance, data, limit, tried)
            else:
                outcomes = [await self._attempt(handler, instance, data, limit, trial is not None)]
            outcome = outcomes[-1]
            if outcome.kind == "answered":
                counters.succeeded += 1
                return RouteResult(True, outcome.value, outcome.instance.id)
            if outcome.kind == "refused":
                counters.refused += 1
                return RouteResult(False, outcome.value, outcome.instance.id)
            for failed in outcomes:
                tried.append(failed.instance)
                assert failed.attempt is not None
                attempts.append(failed.attempt)
            last = outcome.value
            if len(tried) > max_retries:
                reason = f"failed after {len(tried)} tries"
                break
            # Who was never reached had no work of it: trying another adds no load, and repeats nothing.
            free = all(never_sent(failed.value) for failed in outcomes)
            if not free and idempotent is False:
                reason = "failed, and is not to be repeated"
                break
        counters.failed += 1
        error: Exception
        if attempts:
            error = RequestFailed(reason, attempts)
            error.__cause__ = last
        else:
            error = NoInstanceError(reason)
        return RouteResult(False, error, tried[-1].id if tried else None)

    def _nobody(self, tried: list[Instance]) -> str:
        members = self.cluster.members
        if tried:
            return f"failed on {len(tried)} of {len(members)} instance(s), and no other is available"
        if not members:
            return "there are no instances; add_instance adds one"
        limit = self.cluster.options.max_concurrent
        if limit and any(instance.in_flight >= limit for instance in members.values()):
            return (
                f"each available instance is at its limit of {limit} requests (LOAD_BALANCER_MAX_CONCURRENT)"
            )
        return f"none of {len(members)} instance(s) takes requests"

    async def _attempt(
        self, handler: RequestHandler, instance: Instance, data: Any, limit: float, trial: bool
    ) -> _Outcome:
        """One try at one instance; raises nothing but what cancels or ends the caller."""
        cluster = self.cluster
        start = self._now()
        cluster.acquire(instance)
        self.in_progress += 1
        error: BaseException
        expired = False
        try:
            scope = asyncio.timeout(limit)
            try:
                async with scope:
                    value = await handler(instance, data)
            except asyncio.CancelledError as cancelled:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    now = self._now()
                    cluster.abandoned(instance, now - start, now)
                    raise
                error = cancelled  # something within the handler was cancelled, not this request
            except Exception as raised:
                error = raised
                expired = scope.expired()
            else:
                now = self._now()
                self.response_seconds.record(now - start)
                cluster.succeeded(instance, now - start, now, trial=trial)
                return _Outcome("answered", instance, value)
            now = self._now()
            if is_request_fault(error):
                if isinstance(error, RequestRejected) and error.status is not None:
                    cluster.succeeded(instance, now - start, now, trial=trial)  # it did answer
                return _Outcome("refused", instance, error)
            text = f"no answer within {limit:g} s" if expired else described(error)
            cluster.failed(instance, text, now - start, now, trial=trial)
            if never_sent(error):
                self._unreachable(instance)
            return _Outcome("failed", instance, error, Attempt(instance.id, text, now - start))
        finally:
            cluster.release(instance)
            self.in_progress -= 1
            if cluster.events or self.tell_ends:
                self._after()

    # Hedging. Source: J. Dean and L. Barroso, "The Tail at Scale", 2013.

    async def _hedged(
        self, handler: RequestHandler, instance: Instance, data: Any, limit: float, tried: list[Instance]
    ) -> list[_Outcome]:
        """A try, and a second one elsewhere if the first takes longer than most do; who answers wins."""
        delay = self._delay()
        if delay is None or delay >= limit:
            return [await self._attempt(handler, instance, data, limit, False)]
        loop = asyncio.get_running_loop()
        first = loop.create_task(self._attempt(handler, instance, data, limit, False))
        running = {first}
        failed: list[_Outcome] = []
        try:
            done, _ = await asyncio.wait(running, timeout=delay)
            if not done:
                other = self.cluster.select(None, [*tried, instance])
                if other is not None and self.budget.take(self._now()):
                    self.counters.hedged += 1
                    running.add(loop.create_task(self._attempt(handler, other, data, limit - delay, False)))
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    outcome = task.result()
                    if outcome.kind != "failed":
                        self.counters.hedge_wins += task is not first and outcome.kind == "answered"
                        return [outcome]
                    failed.append(outcome)
            return failed
        finally:
            for task in running:
                if task.cancel():
                    self._losers.add(task)
                    task.add_done_callback(self._losers.discard)

    def abandon_hedges(self) -> None:
        """Cancel once more the tries that lost and go on; never one that a caller still waits for."""
        for task in list(self._losers):
            task.cancel()

    def _delay(self) -> float | None:
        """Seconds that most answers stay within; None while too few are known."""
        if self.response_seconds.recorded < HEDGE_MIN_SAMPLES:
            return None
        now = self._now()
        if now >= self._hedge_delay_until:
            self._hedge_delay = self.response_seconds.quantile(HEDGE_QUANTILE)
            self._hedge_delay_until = now + HEDGE_REFRESH
        return self._hedge_delay


def is_request_fault(error: BaseException) -> bool:
    """Whether an exception says that the request, or the handler's code, is wrong wherever it is sent."""
    if isinstance(error, REQUEST_FAULTS):
        return True
    status = _status_of(error)
    return status is not None and 400 <= status < 500


def _status_of(error: BaseException) -> int | None:
    """The HTTP status that a client's ``raise_for_status`` put into its exception."""
    # aiohttp has it on the exception, httpx and requests on its response.
    status = getattr(error, "status", None)
    if status is None:
        status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) and not isinstance(status, bool) else None


_CONNECT_ERRORS = (
    ("aiohttp", "ClientConnectorError"),
    ("httpx", "ConnectError"),
    ("httpx", "ConnectTimeout"),
)


def never_sent(error: BaseException) -> bool:
    """Whether an exception proves that nothing of the request reached the instance."""
    if isinstance(error, NotSentError | ConnectionRefusedError | socket.gaierror):
        return True
    for module, name in _CONNECT_ERRORS:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return True
    return False
