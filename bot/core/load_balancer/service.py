"""The load balancer: requests spread over instances, and kept from those that fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, ClassVar, Protocol, TypeVar, Unpack, overload

from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.errors import invalid, shown
from bot.core._shared.futures import give_result_from_anywhere
from bot.core._shared.histogram import Histogram, HistogramSnapshot
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import run_on_loop
from bot.core._shared.validation import valid_seconds
from bot.core.load_balancer.cluster import Cluster
from bot.core.load_balancer.errors import BalancerOffError, UnknownInstanceError
from bot.core.load_balancer.health import HealthChecks, described
from bot.core.load_balancer.http_handler import HttpHandler
from bot.core.load_balancer.instances import (
    HealthCheck,
    Instance,
    RequestHandler,
    StrategyFunction,
    make_instance,
)
from bot.core.load_balancer.models import (
    EventCallback,
    Figures,
    InstanceEvent,
    InstanceState,
    LoadBalancingStrategy,
    RouteResult,
)
from bot.core.load_balancer.router import Counters, Router
from bot.core.load_balancer.stats import snapshot
from bot.core.load_balancer.strategies import strategy_of
from bot.core.phase4_config.load_balancer import InstanceSettings, LoadBalancerOptions
from bot.core.phase4_service import Phase4Service
from bot.core.phase4_statistics.load_balancer import LoadBalancerFigures

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 30.0
"""How long ``remove_instance`` waits for requests in progress when it is not told."""
DISABLE_DRAIN_SECONDS = 5.0

_GOOD_STATES = {"healthy", "slow_start", "half_open", "drained", "normal"}


B = TypeVar("B", bound="LoadBalancer")


class _SelectInstance(Protocol):
    def __call__(self, session_id: str | int | None = None) -> Coroutine[Any, Any, Instance | None]: ...


class _GetInstance:
    """``get_instance`` of the class and of a balancer, which are two functions of one name.

    ``LoadBalancer.get_instance()`` is the process's balancer, as of every service;
    ``await balancer.get_instance(session_id=...)`` is :meth:`LoadBalancer.select_instance`.
    """

    @overload
    def __get__(self, balancer: None, owner: type[B]) -> Callable[[], B]: ...

    @overload
    def __get__(self, balancer: LoadBalancer, owner: type[LoadBalancer]) -> _SelectInstance: ...

    def __get__(self, balancer: LoadBalancer | None, owner: type[LoadBalancer]) -> Any:
        if balancer is None:
            return Phase4Service.get_instance.__func__.__get__(owner)  # type: ignore[attr-defined]
        return balancer.select_instance


class LoadBalancer(Phase4Service):
    """Sends each request to one of several instances, and none to an instance that fails until it recovers.

    ================ ==================================== =============================================
    method           gives                                use it
    ================ ==================================== =============================================
    route_request    (success, result, instance_id)       for requests: limits, failover, statistics
    select_instance  an instance, or None                 to send by yourself; nothing is counted
    select_nowait    the same, synchronous                in hot code
    ================ ==================================== =============================================

    Instances, their states and the counters outlive ``disable``. Use each balancer from one thread.
    """

    service_name: ClassVar[str] = "load_balancer"
    flag: ClassVar[str] = "ENABLE_LOAD_BALANCER"
    while_off: ClassVar[str] = "requests are refused"

    get_instance = _GetInstance()  # type: ignore[assignment]

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._clock = clock
        self._now = clock.monotonic
        self._cluster = Cluster(
            LoadBalancingStrategy.ROUND_ROBIN, LoadBalancerOptions(), clock.monotonic, clock.time
        )
        self._router = self._new_router()
        self._handler: RequestHandler | None = None
        self._default_handler = HttpHandler()
        self._health_check: HealthCheck | None = None
        self._checks: HealthChecks | None = None  # None while off
        self._loop: asyncio.AbstractEventLoop | None = None  # where the checks run
        # Its is_running; asking which loop runs is a system call. Changed with _loop.
        self._loop_runs: Callable[[], bool] = bool
        self._from_settings: set[str] = set()  # ids that enable(instances=...) added
        self._callbacks: list[EventCallback] = []
        # Callers that wait until an instance is gone, or idle. Changed by _wait_gone and _deliver.
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def _new_router(self) -> Router:
        return Router(self._cluster, self._now, after=self._deliver, unreachable=self._unreachable)

    # On and off.

    async def enable(
        self,
        strategy: LoadBalancingStrategy | str | StrategyFunction | None = None,
        *,
        request_handler: RequestHandler | None = None,
        health_check: HealthCheck | None = None,
        instances: Iterable[InstanceSettings] | None = None,
        **figures: Unpack[Figures],
    ) -> bool:
        """Switch on, or reconfigure; what is not given stays as it was (at first: the defaults).

        ``strategy``: a member, its name, or a function from a sequence of instances to one of them.
        ``request_handler``: as the attribute. ``health_check``: ``async (instance) -> bool``, instead of
        a TCP connect or a GET of ``check_path``. ``instances``: the setting LOAD_BALANCER_INSTANCES; what
        an earlier enable added so and is gone from it is removed. ``figures``: the other settings
        ``LOAD_BALANCER_*`` in lower case, such as ``check_interval=5``; times are seconds.
        Raises InvalidArgumentError naming the argument; nothing has changed then.
        """
        cluster = self._cluster
        options = cluster.options.changed(**figures)
        chosen = cluster.strategy if strategy is None else strategy_of(strategy)
        if request_handler is not None:
            _callable("request_handler", request_handler)
        if health_check is not None:
            _callable("health_check", health_check)
        wanted = None
        if instances is not None:
            wanted = [make_instance(i.id, i.address, i.port, i.weight, i.scheme) for i in instances]
        async with self._transition:
            before = self._checks
            if request_handler is not None:
                self._handler = request_handler
            if health_check is not None:
                self._health_check = health_check
            if not self._enabled:
                cluster.restart()
            cluster.configure(chosen, options)
            self._router.closed = False
            self._router.budget.share = options.retry_budget_percent / 100.0
            self._router.budget.min_per_second = options.retry_budget_min_per_second
            if wanted is not None:
                self._replace_from_settings(wanted)
            self._switched_on()
            self._start_checks()
            self._deliver()
            if before is not None and not await run_on_loop(before.loop, before.stop):
                before.abandon()
        return True

    def _replace_from_settings(self, instances: list[Instance]) -> None:
        ids = {instance.id for instance in instances}
        for gone in self._from_settings - ids:
            self._cluster.remove(gone, drain=True)
        self._from_settings = ids
        for instance in instances:
            self._cluster.add(instance)

    async def disable(self, *, drain_timeout: float = DISABLE_DRAIN_SECONDS) -> bool:
        """Switch off; requests in progress get ``drain_timeout`` seconds. True if all had ended.

        What has not ended by then gets no further try.
        """
        async with self._transition:
            self._enabled = False
            checks, self._checks = self._checks, None
            self._loop, self._loop_runs = None, bool
            try:
                if checks is not None and not await run_on_loop(checks.loop, checks.stop):
                    checks.abandon()
                idle = await self._wait_until(self._is_idle, drain_timeout)
            finally:
                self._router.closed = True
                self._router.abandon_hedges()
                await self._default_handler.close()
        return idle

    def _is_idle(self) -> bool:
        return self._router.idle

    def _start_checks(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_runs = self._loop.is_running
        checks = self._checks = HealthChecks(self._cluster, self._clock, self._health_check, self._deliver)
        for instance in self._cluster.members.values():
            checks.watch(instance)
            if instance.state.value == "ejected":
                checks.ejected(instance)

    def _move_here(self) -> None:
        """Run the checks on this event loop if the one they ran on has ended, as between two asyncio.run."""
        if self._enabled and not self._loop_runs():
            if self._checks is not None:
                self._checks.abandon()
            self._start_checks()

    # Instances.

    @property
    def request_handler(self) -> RequestHandler | None:
        """``async (instance, request_data) -> result``; None: JSON to ``{url}/api/execute`` by aiohttp.

        A handler that raises has failed and the request goes to another instance, unless the exception
        is the request's own fault: see ``docs/load_balancer.md``.
        """
        return self._handler

    @request_handler.setter
    def request_handler(self, handler: RequestHandler | None) -> None:
        if handler is not None:
            _callable("request_handler", handler)
        self._handler = handler

    async def add_instance(
        self, id: str, host: str, port: int, weight: float = 1.0, *, scheme: str = "http"
    ) -> bool:
        """Add an instance; it gets requests at once. True when it is there.

        The same id again changes its weight, or, with another address, replaces it. ``weight`` counts for
        WEIGHTED, LEAST_CONNECTIONS, LEAST_LOADED and sticky sessions. Raises InvalidArgumentError.
        """
        instance = self._cluster.add(make_instance(id, host, port, weight, scheme))
        self._deliver()
        self._move_here()
        if self._checks is not None:
            self._checks.watch(instance)
        return True

    async def remove_instance(self, id: str, drain: bool = True, *, timeout: float = DRAIN_SECONDS) -> bool:
        """Remove an instance: no more requests are sent to it.

        With ``drain``, waits until its requests in progress have ended, ``timeout`` seconds at most; True
        if they have. Otherwise, or if the wait is cancelled, they still continue to their end. False also
        if there is no such instance, or if it is added again meanwhile; then it stays.
        """
        valid_seconds("timeout", timeout)
        instance = self._cluster.remove(id, drain=drain)
        self._from_settings.discard(id)
        self._deliver()
        if instance is None:
            return False

        def decided() -> bool:
            return not instance.present or instance.state is not InstanceState.DRAINING

        if not await self._wait_until(decided, timeout):
            self._cluster.remove(id, drain=False)
            self._deliver()
            return False
        return not instance.present

    async def drain_instance(self, id: str, *, timeout: float = 0.0) -> bool:
        """Send no more requests to an instance and let those in progress end; True if none is left.

        Waits for that ``timeout`` seconds at most. Its sessions go to others. It stays drained, whatever
        health checks say, while the balancer is off and when its address is added again, until
        :meth:`return_instance`. Raises UnknownInstanceError.
        """
        valid_seconds("timeout", timeout, zero=True)
        instance = self._known(id)
        self._cluster.drain(instance)
        self._deliver()

        def idle() -> bool:
            return not instance.in_flight or instance.state is not InstanceState.DRAINED

        await self._wait_until(idle, timeout)
        return not instance.in_flight

    async def return_instance(self, id: str) -> bool:
        """Send requests to a drained instance again; False if it was not drained.

        It begins with a slow start, or as unhealthy if its health checks fail. Raises UnknownInstanceError.
        """
        instance = self._known(id)
        returned = self._cluster.give_back(instance)
        self._deliver()
        self._move_here()
        return returned

    def _known(self, id: str) -> Instance:
        instance = self._cluster.members.get(id)
        if instance is None:
            there = ", ".join(list(self._cluster.members)[:20]) or "none"
            raise UnknownInstanceError(
                f"id = {shown(id)}: expected an instance (there: {one_line(there, 500)})"
            )
        return instance

    async def _wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        if condition():
            return True
        entry = (condition, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        self._router.tell_ends = True
        try:
            async with asyncio.timeout(timeout):
                await entry[1]
        except TimeoutError:
            return condition()
        finally:
            self._waiting.remove(entry)
            self._router.tell_ends = bool(self._waiting)
        return True

    def get_instance_by_id(self, id: str) -> Instance | None:
        """The instance of that id; None if there is none."""
        return self._cluster.members.get(id)

    @property
    def instances(self) -> list[Instance]:
        """Every instance, in the order in which they were added."""
        return list(self._cluster.members.values())

    # Requests.

    async def route_request(
        self,
        data: Any,
        session_id: str | int | None = None,
        max_retries: int = 3,
        *,
        timeout: float | None = None,
        idempotent: bool | None = None,
    ) -> RouteResult:
        """Send a request to an instance: ``(success, result, instance_id)``. Raises for misuse only.

        After a failure it goes to instances not yet tried, ``max_retries`` at most, within the retry
        budget, and ``timeout`` seconds in all (None: LOAD_BALANCER_TOTAL_TIMEOUT). ``session_id`` keeps
        requests of a session on one instance while that is available. ``idempotent`` True: it may be sent
        twice at once (hedging); None: may be repeated after a failure; False: only if it was never sent.
        Without success ``result`` is the exception: RequestRejected, RequestFailed, NoInstanceError,
        BalancerOffError, or what the handler raised if that is the request's own fault.
        """
        if not self._enabled:
            self._used_while_off()
            return RouteResult(False, BalancerOffError("the load balancer is not enabled"), None)
        if max_retries.__class__ is not int or max_retries < 0:
            raise invalid("max_retries", max_retries, "a whole number >= 0")
        if session_id is not None and not isinstance(session_id, str | int):
            raise invalid("session_id", session_id, "a str, an int or None")
        limit = self._cluster.options.total_timeout if timeout is None else valid_seconds("timeout", timeout)
        if not self._loop_runs():
            self._move_here()
        return await self._router.route(
            self._handler or self._default_handler, data, session_id, max_retries, limit, idempotent
        )

    async def select_instance(self, session_id: str | int | None = None) -> Instance | None:
        """The instance that the next request would go to; None if there is none."""
        return self.select_nowait(session_id)

    def select_nowait(self, session_id: str | int | None = None) -> Instance | None:
        """The same as :meth:`select_instance`, synchronous."""
        if session_id is None:
            return self._cluster.pick()
        return self._cluster.select(session_id)

    # Events.

    def on_event(self, callback: EventCallback) -> Callable[[], None]:
        """Call ``callback(event)`` at each change of state; returns a function that unsubscribes it.

        It is called synchronously, after the change; an error that it raises is logged.
        """
        _callable("callback", callback)
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    def _deliver(self) -> None:
        """Log, act on and pass on what the cluster has decided."""
        events, self._cluster.events = self._cluster.events, []
        for event in events:
            _log(event)
            if self._checks is not None and event.instance_id is not None:
                self._act_on(event, event.instance_id, self._checks)
            for callback in tuple(self._callbacks):
                try:
                    callback(event)
                except Exception as error:
                    logger.error("Load balancer: an event callback failed: %s", described(error))
        for condition, waiter in tuple(self._waiting):
            if not waiter.done() and condition():
                give_result_from_anywhere(waiter, None)

    def _act_on(self, event: InstanceEvent, instance_id: str, checks: HealthChecks) -> None:
        instance = self._cluster.members.get(instance_id)
        if instance is not None and not self._cluster.panic and _fell_silent(instance, event):
            self._router.give_up(instance)
        if event.new == "ejected" and instance is not None:
            checks.ejected(instance)
        elif not event.new:
            checks.forget(instance_id)
            if instance is not None:
                checks.watch(instance)  # replaced by one of the same id

    def _unreachable(self, instance: Instance) -> None:
        if self._checks is not None:
            self._checks.soon(instance)

    # Figures.

    def snapshot(self) -> LoadBalancerFigures:
        """Figures since the start or the last reset, and each instance's state; see the docs page."""
        self._cluster.settle(self._now())
        self._deliver()
        return snapshot(self._cluster, self._router, self._enabled)

    async def reset_statistics(self) -> None:
        """Counters and response times to zero; states, histories and loads stay."""
        self._router.counters = Counters()
        self._router.response_seconds = Histogram()
        self._router.budget.refused = 0
        for instance in self._cluster.members.values():
            instance.picked = instance.picked_before = instance.succeeded = instance.failed = 0
            instance.response_seconds = Histogram()

    def histograms(self) -> list[HistogramSnapshot]:
        """Seconds each instance took to answer or to fail."""
        return [
            instance.response_seconds.snapshot(
                "load_balancer_response_seconds",
                "Seconds an instance took to answer a request, or to fail",
                {"instance": instance.id},
            )
            for instance in self._cluster.members.values()
        ]

    def check_invariants(self) -> None:
        """Assert that states, counts and the set of instances that get requests agree."""
        self._cluster.check_invariants()


def _fell_silent(instance: Instance, event: InstanceEvent) -> bool:
    """Whether requests in progress at it had better go elsewhere: it is out for giving no answers."""
    return event.new == "unhealthy" or (event.new == "ejected" and instance.silent)


def _log(event: InstanceEvent) -> None:
    level = logging.INFO if not event.new or event.new in _GOOD_STATES else logging.WARNING
    if not logger.isEnabledFor(level):
        return  # the masking is half of what an instance costs to add
    if event.instance_id is None:
        logger.log(level, "Load balancer: %s -> %s: %s", event.old, event.new, one_line(event.reason))
    else:
        logger.log(
            level,
            "Load balancer: instance %s: %s -> %s: %s",
            one_line(event.instance_id),
            event.old or "new",
            event.new or "gone",
            one_line(event.reason),
        )


def _callable(name: str, value: object) -> None:
    if not callable(value):
        raise invalid(name, value, "a callable")
