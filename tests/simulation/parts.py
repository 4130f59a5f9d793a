"""Several scenarios in one run, on the same instances: each has its own users, calls and promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from tests.simulation.loop import PROCESS, Process
from tests.simulation.world import Instance, Scenario, World


class PartInstance(Instance):
    """An instance as one of the scenarios has it: the same process, with ``it`` as that scenario knows it."""

    def __init__(self, whole: Instance) -> None:  # the rest is that of the whole
        self.whole = whole
        self.it: Any = None
        # What never changes is held here, too: a look at the whole takes five times as long.
        self.name, self.process, self.clock = whole.name, whole.process, whole.clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


class Part(World):
    """A world as one of its scenarios has it: its own calls, and excuses of its own besides those of all."""

    def __init__(self, whole: World, kind: type[Scenario], number: int) -> None:  # the rest is the whole's
        self.whole, self.kind = whole, kind
        self.loop, self.chance, self.network, self.redis = (
            whole.loop,
            whole.chance,
            whole.network,
            whole.redis,
        )
        self.seed = 100 * whole.seed + number
        self.calls = []
        self.own: list[list[float]] = []
        """When something began and ended that is an excuse for this part only."""
        self._views: dict[Instance, PartInstance] = {}
        self.scenario = kind(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    @property
    def instances(self) -> list[Instance]:
        return [self.of(instance) for instance in self.whole.instances]

    @property
    def dead(self) -> list[Instance]:
        return [self.of(instance) for instance in self.whole.dead]

    @property
    def troubled(self) -> list[list[float]]:
        return [*self.whole.troubled, *self.own]

    def of(self, instance: Instance) -> PartInstance:
        """This part's view of an instance."""
        if instance not in self._views:
            self._views[instance] = PartInstance(instance)
        return self._views[instance]


class Registry(MutableMapping[Any, Any]):
    """What each process has one of, for several simulated processes in one: a dict of the running one's."""

    def __init__(self) -> None:
        self._of: dict[Process | None, dict[Any, Any]] = {}

    def _here(self) -> dict[Any, Any]:
        return self._of.setdefault(PROCESS.get(), {})

    def __getitem__(self, key: Any) -> Any:
        return self._here()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._here()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._here()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._here())

    def __len__(self) -> int:
        return len(self._here())


class OneOfEach:
    """Something of which a process has one: reads and changes that of the simulated process that runs."""

    def __init__(self, make: Callable[[], object]) -> None:
        object.__setattr__(self, "_make", make)
        object.__setattr__(self, "_of", {})

    def _here(self) -> object:
        process = PROCESS.get()
        if process not in self._of:
            self._of[process] = self._make()
        return self._of[process]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._here(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._here(), name, value)
