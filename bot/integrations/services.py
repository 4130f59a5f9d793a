"""What adapters of bot frameworks share: which services run, their start and stop, and a budget for each bot.

For the adapters of this package, which may be used side by side in one process.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from bot.core._shared.tasks import LoopLocalLock
from bot.core.phase4_service import Phase4Service

if TYPE_CHECKING:
    from bot.core.outbound import Outbound
    from bot.core.phase4_config import Phase4Config
    from bot.core.query_optimizer import QueryOptimizer
    from bot.core.rate_limiter import RateLimiter


def running(package: str, class_name: str) -> Any:
    """The process's instance of a service if it is on, else None; imports nothing and makes none."""
    found = getattr(sys.modules.get(f"bot.core.{package}"), class_name, None)
    instance = None if found is None else Phase4Service._instances.get(found)
    return instance if instance is not None and instance.enabled else None


def running_limiter() -> RateLimiter | None:
    """The rate limiter if it is on."""
    limiter: RateLimiter | None = running("rate_limiter", "RateLimiter")
    return limiter


def running_optimizer() -> QueryOptimizer | None:
    """The query optimizer if it is on."""
    optimizer: QueryOptimizer | None = running("query_optimizer", "QueryOptimizer")
    return optimizer


def running_outbound() -> Outbound | None:
    """The process's outbound if it is on."""
    outbound: Outbound | None = running("outbound", "Outbound")
    return outbound


class Budgets:
    """Which bot has which Outbound: Telegram limits each token by itself.

    The first bot that sends (with ``OUTBOUND_BOT_ID``: that bot) uses the process's Outbound; every other bot
    has a sibling of it with the same settings. Bots are told apart by their user id, so two clients of one
    bot share its budget, also if they use different frameworks.
    """

    # Kept for each of the process's Outbounds; None stands for that one itself. Siblings go with it.
    _of: ClassVar[weakref.WeakKeyDictionary[Outbound, dict[int, Outbound | None]]] = (
        weakref.WeakKeyDictionary()
    )

    @classmethod
    async def of(cls, bot: int, main: Outbound | None = None) -> Outbound | None:
        """The bot's Outbound, switched on; None while the service is off.

        ``main``: the first bot's; None: the process's one.
        """
        main = main or running_outbound()
        if main is None or not main.enabled:
            return None
        budgets = cls._of.setdefault(main, {})
        if bot not in budgets:
            budgets[bot] = None if None not in budgets.values() and main.may_serve(bot) else main.sibling()
        own = budgets[bot]
        if own is None:
            if not main.is_identified:
                await main.identify(bot)
            return main
        if not own.enabled:
            await own.enable_as(main, bot_id=bot)
        return own

    @classmethod
    async def follow(cls) -> None:
        """Give the siblings that are on the settings of the process's one, which have changed."""
        main = running_outbound()
        if main is not None:
            for bot, own in list(cls._of.get(main, {}).items()):
                if own is not None and own.enabled:
                    await own.enable_as(main, bot_id=bot)

    @classmethod
    async def disable(cls, main: Outbound | None = None) -> None:
        """Switch off the siblings of ``main``, or all: what waits is sent for ``drain_timeout`` first."""
        for first, budgets in list(cls._of.items()):
            for own in list(budgets.values()):
                if own is not None and own.enabled and main in (None, first):
                    await own.disable()


class ServiceUser:
    """One bot's or application's use of the services. The first user starts them, the last one stops them.

    Services that ran before belong to other code, and are left running. ``config``: settings for
    ``initialize_phase4_services``, which change services that run already; None: the bot's own config module
    and the environment.
    """

    # Changed by start and stop only, under the lock. Weak: an application that failed to start may never
    # be stopped.
    _users: ClassVar[weakref.WeakSet[ServiceUser]] = weakref.WeakSet()
    _lock: ClassVar[LoopLocalLock] = LoopLocalLock()
    _ours: ClassVar[bool] = False

    def __init__(self, config: Mapping[str, Any] | Phase4Config | None = None) -> None:
        self.config = config

    async def start(self) -> dict[str, Any] | None:
        """Start the services unless they run as wanted: ``initialize_phase4_services``'s report, or None."""
        from bot.core.enhanced_startup_phase4 import initialize_phase4_services, phase4_loop

        async with ServiceUser._lock:
            report = None
            runs = phase4_loop() is not None
            if not runs or self.config is not None:
                ServiceUser._ours = ServiceUser._ours or not runs
                report = await initialize_phase4_services(self.config)
                await Budgets.follow()
            ServiceUser._users.add(self)
            return report

    @property
    def is_last(self) -> bool:
        """Whether :meth:`stop` would stop the services."""
        return ServiceUser._ours and set(ServiceUser._users) == {self}

    async def drain(self) -> None:
        """Send what waits, while the bot still can, if this is the last user."""
        if self.is_last:
            await Budgets.disable()
            outbound = running_outbound()
            if outbound is not None:
                await outbound.disable()

    async def stop(self) -> None:
        """Stop the services if this is the last user of those that ``start`` started."""
        from bot.core.enhanced_startup_phase4 import shutdown_phase4_services

        async with ServiceUser._lock:
            if self.is_last:
                # If this is cancelled, another stop goes on with it.
                await Budgets.disable()
                await shutdown_phase4_services()
                ServiceUser._ours = False
            ServiceUser._users.discard(self)
