"""What the services have in common: one instance for the process, on and off, statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from bot.core._shared.histogram import HistogramSnapshot
from bot.core._shared.tasks import LoopLocalLock

if TYPE_CHECKING:
    from bot.core.phase4_statistics.fields import Figures


class Phase4Service(ABC):
    """A service that is off until it is enabled, and passes through while off.

    ``get_instance()`` gives the process's one instance; the class can also be constructed for a
    second, separate one. Use each instance from one thread at a time. ``enable`` and ``disable``
    exclude each other and may run under different event loops.
    """

    service_name: ClassVar[str]
    """The key of this service in ``get_phase4_status()``."""

    # The only module-level state of the library. Changed by get_instance and forget_instances.
    _instances: ClassVar[dict[type[Phase4Service], Phase4Service]] = {}

    def __init__(self) -> None:
        self._enabled = False
        # Held through every enable and disable.
        self._transition = LoopLocalLock()

    @classmethod
    def get_instance(cls) -> Self:
        """The process's one instance of this service, created on first use."""
        instance = Phase4Service._instances.get(cls)
        if instance is None:
            # setdefault: of two threads that come here at once, both get the same one.
            instance = Phase4Service._instances.setdefault(cls, cls())
        return cast(Self, instance)

    @staticmethod
    def forget_instances() -> None:
        """Drop every process-wide instance, so that the next ``get_instance`` makes a new one.

        For tests. It does not disable what it drops: disable first.
        """
        Phase4Service._instances.clear()

    @property
    def enabled(self) -> bool:
        """Whether the service does its work; False means that every call passes through."""
        return self._enabled

    @abstractmethod
    async def enable(self) -> bool:
        """Switch on; again with other arguments reconfigures. True once the service is on."""

    @abstractmethod
    async def disable(self) -> bool:
        """Switch off and give back every task, socket and thread. True once the service is off."""

    @abstractmethod
    def snapshot(self) -> Figures:
        """Figures measured since the start or the last reset.

        For the thread that uses the service. Reads what is at hand and waits for nothing.
        """

    def statistics(self) -> dict[str, Any]:
        """:meth:`get_statistics` for code that cannot await, on the thread that uses the service."""
        return self.snapshot().as_dict()

    async def get_statistics(self) -> dict[str, Any]:
        """Figures measured since the start or the last reset, ready for JSON.

        The service's class of figures in ``bot/core/phase4_statistics`` has the keys and their meanings.
        """
        return self.snapshot().as_dict()

    @abstractmethod
    async def reset_statistics(self) -> None:
        """Set every counter to zero. Nothing else changes."""

    def histograms(self) -> list[HistogramSnapshot]:
        """Waits and durations measured since the start, for a metrics reader; none by default."""
        return []

    def warnings(self) -> list[str]:
        """What runs, but not as it was set, for the report of the start; none by default."""
        return []

    async def find_warnings(self) -> list[str]:
        """:meth:`warnings`, after asking what the service leans on whether it is there."""
        return self.warnings()

    async def reset(self) -> None:
        """Set counters to zero and drop what is cached; the service stays on."""
        await self.reset_statistics()
