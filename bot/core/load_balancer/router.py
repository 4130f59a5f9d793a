"""One request: choose, try, fail over, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import CoroutineType
from typing import Any, Literal, NamedTuple

from bot.core._shared.histogram import Histogram
from bot.core.load_balancer.budget import RetryBudget
from bot.core.load_balancer.cluster import Cluster
from bot.core.load_balancer.errors import NoInstanceError, RequestFailed, RequestRejected
from bot.core.load_balancer.faults import Blame, FaultLog, blame, never_sent
from bot.core.load_balancer.health import described
from bot.core.load_balancer.instances import Instance, RequestHandler
from bot.core.load_balancer.models import Attempt, InstanceState, RouteResult

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
    free: bool = False
    """Trying another adds no load to the one that failed, and the retry budget is not for it."""
    suspect: bool = False
    """It was reached and failed: its fault if another instance does better, the request's if none does."""


class _Failures:
    """The tries of one request that failed."""

    __slots__ = ("attempts", "free", "last", "suspects", "tried")

    def __init__(self) -> None:
        self.tried: list[Instance] = []
        self.attempts: list[Attempt] = []
        self.suspects: list[tuple[Instance, str]] = []
        self.last: BaseException | None = None
        # Whether the last tries never reached an instance: trying another adds no load, and repeats nothing.
        self.free = True

    def add(self, outcomes: list[_Outcome]) -> None:
        """Those among the tries, made together, that failed."""
        for outcome in outcomes:
            if outcome.attempt is not None:
                self.tried.append(outcome.instance)
                self.attempts.append(outcome.attempt)
                if outcome.suspect:
                    self.suspects.append((outcome.instance, outcome.attempt.error))
        self.last = outcomes[-1].value
        self.free = all(outcome.free for outcome in outcomes)

    def why_not_again(self, max_retries: int, idempotent: bool | None) -> str:
        """Why it is not to be tried at another instance; empty if it may be."""
        if len(self.tried) > max_retries:
            return f"failed after {len(self.tried)} tries"
        if not self.free and idempotent is False:
            return "failed, and is not to be repeated"
        return ""


_NONE: tuple[Instance, ...] = ()


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
        # Requests whose callers wait, those between two tries among them. Changed by route.
        self._in_progress = 0
        # Off, and the time for requests to end is over: no further try begins. Changed by the balancer.
        self.closed = False
        self.tell_ends = False  # disable or remove_instance waits for requests to end
        # Tries in progress that may go elsewhere, by their time limits. Changed by _attempt.
        self._movable: dict[asyncio.Timeout, Instance] = {}
        # Of these, the ones that were told to. Changed by give_up and _attempt.
        self._given_up: set[asyncio.Timeout] = set()
        self._faults = FaultLog()
        # Tries that lost, from when they are cancelled until they end. Changed by _hedged.
        self._losers: set[asyncio.Task[_Outcome]] = set()
        self._hedge_delay = 0.0
        self._hedge_delay_until = -1.0

    @property
    def idle(self) -> bool:
        """Whether no try is in progress, and none can begin."""
        return self._in_progress == 0 and not self._losers

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
        failures: _Failures | None = None
        self._in_progress += 1
        try:
            while True:
                tried = _NONE if failures is None else failures.tried
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
                if failures is not None:
                    if self.closed:
                        reason = "failed, and the load balancer was switched off"
                        break
                    if not failures.free and not self.budget.take(self._now()):
                        reason = "failed, and the retry budget is used up"
                        break
                    counters.retries += 1
                if idempotent and cluster.options.hedging and trial is None:
                    outcomes = await self._hedged(handler, instance, data, limit, tried)
                else:
                    movable = idempotent is not False
                    self._begin(instance)
                    outcomes = [
                        await self._attempt(handler, instance, data, limit, trial is not None, movable)
                    ]
                outcome = outcomes[-1]
                if outcome.kind == "answered" and len(outcomes) == 1 and failures is None:
                    counters.succeeded += 1  # at once, as nearly always
                    return RouteResult(True, outcome.value, outcome.instance.id)
                if outcome.attempt is not None or len(outcomes) > 1:
                    failures = failures or _Failures()
                    failures.add(outcomes)
                if outcome.kind != "failed" or failures is None:
                    return self._done(outcome, failures)
                reason = failures.why_not_again(max_retries, idempotent)
                if reason:
                    break
        finally:
            self._in_progress -= 1
            if self.tell_ends:
                self._after()
        return self._failed(reason, failures)

    def _done(self, outcome: _Outcome, failures: _Failures | None) -> RouteResult:
        """It was answered, or refused by an instance or by the handler's own code."""
        if outcome.kind == "answered":
            self.counters.succeeded += 1
            if failures is not None and failures.suspects:
                self._blame(failures.suspects)
            return RouteResult(True, outcome.value, outcome.instance.id)
        self.counters.refused += 1
        error = outcome.value
        if failures is not None and isinstance(error, RequestRejected) and error.status is not None:
            self._blame(failures.suspects)  # the instance that refused did better: it answered
        return RouteResult(False, error, outcome.instance.id)

    def _failed(self, reason: str, failures: _Failures | None) -> RouteResult:
        """No instance answered, or none was there."""
        self.counters.failed += 1
        if failures is None:
            return RouteResult(False, NoInstanceError(reason), None)
        if len({instance for instance, _ in failures.suspects}) == 1:
            # Of two that fail alike neither is to blame, the request may well be.
            self._blame(failures.suspects)
        error = RequestFailed(reason, failures.attempts)
        error.__cause__ = failures.last
        return RouteResult(False, error, failures.tried[-1].id)

    def _nobody(self, tried: Sequence[Instance]) -> str:
        members = self.cluster.members
        if tried:
            return f"failed on {len(tried)} of {len(members)} instance(s), and no other is available"
        if not members:
            return "there are no instances; add_instance adds one"
        drained = sum(instance.state is InstanceState.DRAINED for instance in members.values())
        if drained == len(members):
            return f"{drained} of {drained} instance(s) are drained; return_instance brings one back"
        limit = self.cluster.options.max_concurrent
        if limit and any(instance.in_flight >= limit for instance in members.values()):
            return (
                f"each available instance is at its limit of {limit} requests (LOAD_BALANCER_MAX_CONCURRENT)"
            )
        return f"none of {len(members)} instance(s) takes requests"

    def _blame(self, suspects: list[tuple[Instance, str]]) -> None:
        now = self._now()
        for instance, error in suspects:
            self.cluster.blame(instance, error, now)
        if self.cluster.events:
            self._after()

    def give_up(self, instance: Instance) -> None:
        """Have the requests in progress at an instance tried elsewhere, if they may be repeated."""
        for scope, at in self._movable.items():
            if at is instance and not scope.expired():
                self._given_up.add(scope)
                scope.reschedule(0.0)

    def _begin(self, instance: Instance) -> None:
        """Count a try as in progress in the same step that chose the instance, or others choose it too."""
        self.cluster.acquire(instance)

    def _end(self, instance: Instance) -> None:
        self.cluster.release(instance)
        if self.cluster.events or self.tell_ends:
            self._after()

    async def _attempt(
        self, handler: RequestHandler, instance: Instance, data: Any, limit: float, trial: bool, movable: bool
    ) -> _Outcome:
        """One try at one instance, for which :meth:`_begin` was called; it gives the instance back.

        Raises nothing but what cancels or ends the caller.
        """
        cluster = self.cluster
        start = self._now()
        error: BaseException
        expired = False
        try:
            scope = asyncio.timeout(limit)
            try:
                async with scope:
                    if movable:
                        self._movable[scope] = instance
                    answer = handler(instance, data)
                    if answer.__class__ is not CoroutineType and not hasattr(answer, "__await__"):
                        raise TypeError(
                            f"the request handler returned {type(answer).__name__}, nothing to await: "
                            f"it has to be an async function"
                        )
                    value = await answer
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
            return self._judged(
                error,
                handler,
                instance,
                limit,
                start,
                trial=trial,
                expired=expired,
                given_up=scope in self._given_up,
            )
        finally:
            if movable:
                self._movable.pop(scope, None)
                if self._given_up:
                    self._given_up.discard(scope)
            self._end(instance)

    def _judged(
        self,
        error: BaseException,
        handler: RequestHandler,
        instance: Instance,
        limit: float,
        start: float,
        *,
        trial: bool,
        expired: bool,
        given_up: bool,
    ) -> _Outcome:
        """What a try that ended with an error means, and for which instance."""
        cluster, now = self.cluster, self._now()
        fault: Blame = "transport" if expired else blame(error)
        if fault == "request":
            if isinstance(error, RequestRejected) and error.status is not None:
                cluster.succeeded(instance, now - start, now, trial=trial)  # it did answer
            return _Outcome("refused", instance, error)
        if fault == "code":
            self._faults.tell(error, handler, instance.id, now)
            return _Outcome("refused", instance, error)
        if given_up:
            text = f"given up after {now - start:.3g} s: the instance is {instance.state.value}"
        else:
            text = f"no answer within {limit:g} s" if expired else described(error)
        # The outcome of a trial request counts, even if other instances fail too.
        suspect = fault == "answer" and not trial
        # A try that was given up is no new evidence about the instance.
        told = instance.last_error if given_up else text
        cluster.failed(instance, told, now - start, now, trial=trial, blame=not suspect, silent=expired)
        unsent = not expired and never_sent(error)
        if unsent:
            self._unreachable(instance)
        attempt = Attempt(instance.id, text, now - start)
        return _Outcome("failed", instance, error, attempt, free=given_up or unsent, suspect=suspect)

    # Hedging. Source: J. Dean and L. Barroso, "The Tail at Scale", 2013.

    async def _hedged(
        self, handler: RequestHandler, instance: Instance, data: Any, limit: float, tried: Sequence[Instance]
    ) -> list[_Outcome]:
        """A try, and a second one elsewhere if the first takes longer than most do; the first answer wins."""
        delay = self._delay()
        if delay is None or delay >= limit:
            self._begin(instance)
            return [await self._attempt(handler, instance, data, limit, False, True)]
        first = self._started(handler, instance, data, limit)
        running = {first}
        failed: list[_Outcome] = []
        try:
            done, _ = await asyncio.wait(running, timeout=delay)
            if not done:
                other = self.cluster.select(None, [*tried, instance])
                if other is not None and not self.closed and self.budget.take(self._now()):
                    self.counters.hedged += 1
                    running.add(self._started(handler, other, data, limit - delay))
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    outcome = task.result()
                    if outcome.kind != "failed":
                        self.counters.hedge_wins += task is not first and outcome.kind == "answered"
                        return [*failed, outcome]
                    failed.append(outcome)
            return failed
        finally:
            for task in running:
                if task.cancel():
                    self._losers.add(task)
                    task.add_done_callback(self._lost)

    def _started(
        self, handler: RequestHandler, instance: Instance, data: Any, limit: float
    ) -> asyncio.Task[_Outcome]:
        """A try in a task of its own, counted from now on."""
        runs = False

        async def attempt() -> _Outcome:
            nonlocal runs
            runs = True
            return await self._attempt(handler, instance, data, limit, False, True)

        def ended(task: asyncio.Task[_Outcome]) -> None:
            if not runs:
                self._end(instance)  # it was cancelled before its first step

        self._begin(instance)
        task = asyncio.get_running_loop().create_task(attempt())
        task.add_done_callback(ended)
        return task

    def _lost(self, task: asyncio.Task[_Outcome]) -> None:
        self._losers.discard(task)
        if self.tell_ends:
            self._after()

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
