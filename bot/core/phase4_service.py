"""What the services have in common: one instance for the process, on and off, statistics."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from bot.core._shared.tasks import LoopLocalLock

if TYPE_CHECKING:
    from bot.core._shared.histogram import HistogramSnapshot
    from bot.core.phase4_statistics.fields import Figures

logger = logging.getLogger(__name__)


class Phase4Service(ABC):
    """A service that is off until it is enabled, and passes through while off.

    ``get_instance()`` gives the process's one instance; the class can also be constructed for a
    second, separate one. Use each instance from one thread at a time. ``enable`` and ``disable``
    exclude each other and may run under different event loops.
    """

    service_name: ClassVar[str]
    """The key of this service in ``get_phase4_status()``."""

    flag: ClassVar[str] = ""
    """The setting that switches it on."""

    while_off: ClassVar[str] = "calls pass through"
    """What becomes of calls while it is off."""

    # Besides the registered types the only module-level state of the library. Changed by get_instance and
    # forget_instances.
    _instances: ClassVar[dict[type[Phase4Service], Phase4Service]] = {}

    def __init__(self) -> None:
        self._enabled = False
        # Whether nothing more is to be said of calls while off. True from the first such call, or enable, on.
        self._off_is_known = False
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

    def _switched_on(self) -> None:
        """It is on from now; who has switched it on knows of it when it is off again."""
        self._enabled = self._off_is_known = True

    def _used_while_off(self) -> None:
        """A call passes through: the first time it is said, unless the service was on before."""
        if not self._off_is_known:
            self._off_is_known = True
            logger.warning(
                "%s is used while it is off: %s. Set %s = True before initialize_phase4_services, or call "
                "its enable()", type(self).__name__, self.while_off, self.flag,
            )  # fmt: skip

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, unless it is a misspelt one, which would do nothing.

        Raises AttributeError, which names the one that was meant. A subclass of the user's own may have any.
        """
        # What hot paths count and set is in objects of their own: nothing of theirs comes through here.
        if not name.startswith("_") and not hasattr(type(self), name) and _is_ours(type(self)):
            raise AttributeError(_no_attribute(type(self), name))
        object.__setattr__(self, name, value)

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


def _is_ours(kind: type) -> bool:
    # A bot that this is embedded in has modules of its own in bot.core; a subclass there is in no package of
    # ours, which is where a service has its name from.
    named = next((base for base in kind.__mro__ if "service_name" in vars(base)), None)
    return named is not None and _package(named) == _package(kind)


def _package(kind: type) -> str:
    return kind.__module__.rpartition(".")[0]


def _no_attribute(kind: type, name: str) -> str:
    import difflib  # here, not above: only a wrong name needs it

    there = [each for each in dir(kind) if not each.startswith("_")]
    settable = [each for each in there if getattr(getattr(kind, each), "fset", None) is not None]
    near = difflib.get_close_matches(name, there, n=1)
    said = f"{kind.__name__} has no attribute {name!r}"
    if near:
        return f"{said}; did you mean {near[0]!r}?"
    return (
        f"{said}; what can be set is: {', '.join(settable)}" if settable else f"{said}, and none can be set"
    )
