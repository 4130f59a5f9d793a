"""Active health checks: probes that find out whether an instance can be reached."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from bot.core._shared.clock import Clock
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import BackgroundTasks
from bot.core.load_balancer.cluster import Cluster
from bot.core.load_balancer.instances import HealthCheck, Instance
from bot.core.load_balancer.models import InstanceState


class HealthChecks:
    """Probes every instance at intervals, an ejected one when its time is over, one at fault at once.

    Without an interval nothing is probed, and what an ejection ends with is a trial request. Runs on
    the event loop under which it was started; the owner starts it again under another. What to probe may
    be said from any thread.
    """

    def __init__(
        self, cluster: Cluster, clock: Clock, check: HealthCheck | None, deliver: Callable[[], None]
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._check = check
        self._deliver = deliver
        self.loop = asyncio.get_running_loop()
        self._tasks = BackgroundTasks()
        # By instance, so that one which leaves takes its tasks along. Changed by watch, ejected, forget.
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._reopening: dict[str, asyncio.Task[None]] = {}
        self._probing: set[Instance] = set()
        # For a task that cannot be cancelled: stop is called from its check. Changed by stop, abandon.
        self._stopped = False

    def _here(self, action: Callable[..., None], *arguments: object) -> None:
        """Do it on the event loop of the probes, whichever thread asks."""
        if asyncio._get_running_loop() is self.loop:
            action(*arguments)
            return
        with contextlib.suppress(RuntimeError):  # closed
            self.loop.call_soon_threadsafe(action, *arguments)

    def watch(self, instance: Instance) -> None:
        """Begin to probe an instance at intervals."""
        self._here(self._begin, instance)

    def _begin(self, instance: Instance) -> None:
        if self._cluster.options.check_interval and instance.id not in self._watching:
            self._watching[instance.id] = self._tasks.spawn(
                self._watch(instance), name=f"load balancer: checks of {instance.id}"
            )

    def soon(self, instance: Instance) -> None:
        """Probe an instance now: a request did not reach it."""
        self._here(self._probe_soon, instance)

    def _probe_soon(self, instance: Instance) -> None:
        if self._cluster.options.check_interval and instance not in self._probing:
            self._probing.add(instance)
            self._tasks.spawn(self._probe_once(instance), name=f"load balancer: check of {instance.id}")

    def ejected(self, instance: Instance) -> None:
        """Have an ejected instance back when its time is over."""
        self._here(self._await_end_of_ejection, instance)

    def _await_end_of_ejection(self, instance: Instance) -> None:
        running = self._reopening.get(instance.id)
        if running is asyncio.current_task():
            return  # it goes on waiting by itself
        if running is not None:
            running.cancel()
        self._reopening[instance.id] = self._tasks.spawn(
            self._reopen(instance), name=f"load balancer: ejection of {instance.id}"
        )

    def forget(self, instance_id: str) -> None:
        """Stop probing an instance that left."""
        self._here(self._cancel, instance_id)

    def _cancel(self, instance_id: str) -> None:
        for tasks in (self._watching, self._reopening):
            if (task := tasks.pop(instance_id, None)) is not None:
                task.cancel()

    async def stop(self) -> None:
        """End every probe."""
        self._stopped = True
        self._watching.clear()
        self._reopening.clear()
        await self._tasks.stop()

    def abandon(self) -> None:
        """End every probe of an event loop that does not run: when it runs again, if ever."""
        self._stopped = True
        self._tasks.abandon()

    async def _watch(self, instance: Instance) -> None:
        interval = self._cluster.options.check_interval
        # The first one early, and not all at the same moment.
        await self._clock.sleep(random.uniform(0.0, min(interval, 1.0)))
        while instance.present:
            if instance not in self._probing:
                self._probing.add(instance)
                await self._probe_once(instance)
                if self._stopped:
                    return
            await self._clock.sleep(interval * random.uniform(0.9, 1.1))

    async def _probe_once(self, instance: Instance) -> None:
        try:
            fault = await self.probe(instance)
        finally:
            self._probing.discard(instance)
        if self._stopped:
            return
        self._cluster.checked(instance, fault, self._clock.monotonic())
        self._deliver()

    async def _reopen(self, instance: Instance) -> None:
        while instance.present and instance.state is InstanceState.EJECTED:
            await self._clock.sleep(max(0.0, instance.ejected_until - self._clock.monotonic()))
            fault = await self.probe(instance) if self._cluster.options.check_interval else ""
            if self._stopped:
                return
            now = self._clock.monotonic()
            if self._cluster.options.check_interval:
                self._cluster.checked(instance, fault, now)
            self._cluster.reopen(instance, fault, now)
            self._deliver()

    async def probe(self, instance: Instance) -> str:
        """What is wrong with the instance, or ``""``."""
        options = self._cluster.options
        try:
            async with asyncio.timeout(options.check_timeout):
                if self._check is not None:
                    return "" if await self._check(instance) else "the check returned a false value"
                if options.check_path:
                    return await _get(instance, options.check_path)
                _, writer = await asyncio.open_connection(instance.host, instance.port)
                writer.close()
                return ""
        except TimeoutError:
            return f"no answer within {options.check_timeout:g} s"
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return described(error)  # something within the check was cancelled, not this task
        except Exception as error:
            return described(error)


async def _get(instance: Instance, path: str) -> str:
    """GET a path; anything but a status of 2xx is a fault.

    By hand, for the status line is all that is wanted: checks need no HTTP client installed then.
    """
    secure = instance.get_url().startswith("https:")
    reader, writer = await asyncio.open_connection(instance.host, instance.port, ssl=secure or None)
    try:
        host = instance.get_url().split("://", 1)[1]
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bot-phase4\r\n"
            f"Accept: */*\r\nConnection: close\r\n\r\n".encode("ascii")
        )
        words = (await reader.readline()).split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/"):
            return "no HTTP answer"
        return "" if words[1].startswith(b"2") else f"HTTP {words[1][:3].decode('ascii', 'replace')}"
    finally:
        writer.transport.abort()


def described(error: BaseException) -> str:
    """An error in one line, fit for logs and status."""
    return one_line(error, 200)
