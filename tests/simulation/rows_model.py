"""A model of a database: versions of rows, transactions, and statements that fail or hang."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.simulation.world import Instance, World

Row = tuple[str, int]
"""A table, and the number of a row in it."""


class DatabaseError(Exception):
    """What the driver raises."""


@dataclass(eq=False)
class Writing:
    """A statement or a transaction that writes, from its call to its end."""

    instance: Instance
    begun: float
    ended: float | None = None
    """None: its process died, or it goes on."""
    tables: set[str] = field(default_factory=set)


class Committed(NamedTuple):
    """A version of a row."""

    at: float
    version: int
    by: Writing | None


class Rows:
    """Rows whose versions count up, whoever writes them. A row that is being written is locked."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.history: dict[Row, list[Committed]] = {}
        self.writings: list[Writing] = []
        self.failing = self.slowness = 0.0
        """The share of statements that fail; seconds that one takes at most, besides."""
        self.hangs: asyncio.Event | None = None
        self._locks: dict[Row, Writing] = {}
        self._versions = 0

    def of(self, row: Row) -> list[Committed]:
        """Its versions, in their order; the first has been there since ever."""
        return self.history.setdefault(row, [Committed(0.0, 0, None)])

    def new_version(self) -> int:
        self._versions += 1
        return self._versions

    async def trip(self) -> None:
        """Half of a round trip; raises DatabaseError."""
        if self.hangs is not None:
            await self.hangs.wait()
        chance = self.world.chance
        await asyncio.sleep(chance.uniform(0.0, 0.01) + chance.uniform(0.0, self.slowness))
        if chance.random() < self.failing:
            raise DatabaseError("the connection is gone")

    def lock(self, row: Row, writing: Writing) -> bool:
        """Whether the row is now this one's to write."""
        holder = self._locks.get(row)
        if holder is not None and holder is not writing and not holder.instance.process.dead:
            return False
        self._locks[row] = writing
        return True

    def commit(self, pending: dict[Row, int], writing: Writing) -> None:
        for row, version in pending.items():
            self.of(row).append(Committed(self.world.now, version, writing))
        pending.clear()

    def unlock(self, writing: Writing) -> None:
        for row, holder in list(self._locks.items()):
            if holder is writing:
                del self._locks[row]
